"""Deep features used again: diffusers' I2VGenXLUNet at one timestep, and in full at another, but with what entered the last
layer of the last up block at the first one put in the place of what enters it.

    python generate.py

Writes cases.safetensors for the random model of ../freeu and for the demo model: per case `<name>.<input>` and
`<name>.{first,full,cached}`, where `first` is the output that fills the cache. The rows of `guided` share latents and picture, which are
stored once. Needs torch==2.15.0, diffusers==0.33.1.
"""

from pathlib import Path

import diffusers
import torch
from diffusers import I2VGenXLUNet
from safetensors.torch import save_file

assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert torch.__version__.startswith("2.15.0"), torch.__version__
HERE = Path(__file__).resolve().parent
MODELS = dict(random=HERE.parent / "freeu/random", demo=HERE.parents[2] / "crates/demo-model/model/unet")
FREEU = (0.9, 0.2, 1.4, 1.6)
# Name: model, rows, of which so many are stored, height, width, FreeU.
CASES = {
    "plain": ("random", 1, 1, 5, 7, False),
    "batch": ("random", 2, 2, 4, 6, False),
    "guided": ("random", 2, 1, 7, 10, False),
    "freeu": ("random", 2, 1, 8, 6, True),
    "demo": ("demo", 2, 1, 8, 8, False),
}
FRAMES, TOKENS, TIMESTEPS, FPS = 3, 5, (700, 421), 8


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    torch.manual_seed(406)
    tensors = {}
    for name, (model, rows, stored, h, w, freeu) in CASES.items():
        unet = I2VGenXLUNet.from_pretrained(MODELS[model]).float().eval()
        if freeu:
            unet.enable_freeu(*FREEU)
        width = unet.config.cross_attention_dim
        inputs = dict(
            latents=torch.randn(stored, 4, FRAMES, h, w), next_latents=torch.randn(stored, 4, FRAMES, h, w),
            image_latents=torch.randn(stored, 4, FRAMES, h, w),
            text=torch.randn(rows, TOKENS, width), image_embeddings=torch.randn(rows, 1, width),
        )

        def forward(latents, timestep):
            all_rows = (rows // stored, 1, 1, 1, 1)
            return unet(
                latents.repeat(all_rows), timestep, torch.tensor([FPS] * rows), inputs["image_latents"].repeat(all_rows),
                image_embeddings=inputs["image_embeddings"].squeeze(1), encoder_hidden_states=inputs["text"],
            ).sample

        last, deep = unet.up_blocks[-1].resnets[-1], unet.config.block_out_channels[0]
        kept = []
        keep = last.register_forward_pre_hook(lambda _, args: kept.append(args[0][:, :deep].clone()))
        first = forward(inputs["latents"], TIMESTEPS[0])
        keep.remove()
        full = forward(inputs["next_latents"], TIMESTEPS[1])

        def inject(_, args):
            return torch.cat([kept[0], args[0][:, deep:]], 1), *args[1:]

        last.register_forward_pre_hook(inject)
        cached = forward(inputs["next_latents"], TIMESTEPS[1])
        assert len(kept) == 1
        for key, value in (inputs | dict(first=first, full=full, cached=cached)).items():
            tensors[f"{name}.{key}"] = value.contiguous()
        print(name, f"{full.abs().max():.3f}, cached is off by {(full - cached).abs().max():.3f}")
    save_file(tensors, HERE / "cases.safetensors")


main()
