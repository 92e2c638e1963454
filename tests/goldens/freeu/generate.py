"""FreeU: diffusers' I2VGenXLUNet on the demo model and on a small random one, odd sizes included.

    python generate.py

Writes random/ (the random model) and cases.safetensors: per case the inputs and `.output`. A name is `<model> <h>x<w>`; the
factors are in `<name>.factors` (s1, s2, b1, b2). Needs torch==2.15.0, diffusers==0.33.1.
"""

from pathlib import Path

import diffusers
import torch
from diffusers import I2VGenXLUNet
from safetensors.torch import save_file

assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert torch.__version__.startswith("2.15.0"), torch.__version__
HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[2] / "crates/demo-model/model/unet"
RANDOM = dict(
    block_out_channels=(8, 8, 8), norm_num_groups=2, cross_attention_dim=8, layers_per_block=1, attention_head_dim=4,
    down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
)
COMMON = (0.9, 0.2, 1.4, 1.6)
# The filtered skips are a half and a quarter of these.
CASES = [
    ("random", (5, 7), COMMON),
    ("random", (1, 9), COMMON),
    ("random", (8, 16), (0.3, 1.7, 1.0, 0.6)),
    ("random", (2, 11), COMMON),
    ("random", (13, 22), (-0.5, 0.4, 1.2, -1.1)),
    ("demo", (10, 12), COMMON),
]
ROWS, FRAMES, TOKENS, TIMESTEP, FPS = 2, 2, 5, 321, 8


def random(model):
    """Norms and biases that matter. Everything is a half precision number, so that it is stored in two bytes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.half().float().eval()


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    torch.manual_seed(405)
    models = {"random": random(I2VGenXLUNet(**RANDOM)), "demo": I2VGenXLUNet.from_pretrained(DEMO).eval()}
    models["random"].half().save_pretrained(HERE / "random")
    models["random"].float()
    tensors = {}
    for model, (h, w), factors in CASES:
        unet = models[model]
        width = unet.config.cross_attention_dim
        name = f"{model} {h}x{w}"
        inputs = dict(
            latents=torch.randn(ROWS, 4, FRAMES, h, w), image_latents=torch.randn(ROWS, 4, FRAMES, h, w),
            text=torch.randn(ROWS, TOKENS, width), image_embeddings=torch.randn(ROWS, 1, width),
        )

        def forward():
            return unet(
                inputs["latents"].clone(), TIMESTEP, torch.tensor([FPS] * ROWS), inputs["image_latents"],
                image_embeddings=inputs["image_embeddings"].squeeze(1), encoder_hidden_states=inputs["text"],
            ).sample

        unet.disable_freeu()
        plain = forward()
        unet.enable_freeu(*factors)
        output = forward()
        for key, value in (inputs | dict(plain=plain, output=output, factors=torch.tensor(factors))).items():
            tensors[f"{name}.{key}"] = value.contiguous()
        print(name, f"{output.abs().max():.3f}", f"moved by {(output - plain).abs().max():.3f}")
    save_file(tensors, HERE / "cases.safetensors")


main()
