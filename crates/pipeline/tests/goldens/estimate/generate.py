"""FLOPs and parameters of diffusers' and transformers' modules as torch counts them, on the meta device: no weights, no time.

    python generate.py

Writes flops.json: per case and part the sizes, the parameters and torch's FLOPs. Of the UNet four numbers: `all` of one
forward; `once`, what i2vgen does once per run instead of once per step; `context`, the projections of the context, which
diffusers repeats for every frame; `cached`, what is left when the deep features of an earlier step are used again. Needs torch==2.15.0, diffusers==0.33.1, transformers==4.51.3.
"""

import json
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, I2VGenXLUNet
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

assert torch.__version__.startswith("2.15.0"), torch.__version__
assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert transformers.__version__ == "4.51.3", transformers.__version__
torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[3] / "demo-model/model"
# The published configs, each with what differs from its class's defaults.
PUBLISHED = {
    "unet": {},
    "vae": dict(
        block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2,
    ),
    "text_encoder": dict(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, hidden_act="gelu",
        projection_dim=1024,
    ),
    "image_encoder": dict(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, hidden_act="gelu",
        projection_dim=1024, patch_size=14, image_size=224,
    ),
}
# A width that is no multiple of the head's, odd sizes, blocks without attention.
ODD = dict(
    PUBLISHED,
    unet=dict(
        block_out_channels=[32, 48, 80], down_block_types=["CrossAttnDownBlock3D", "DownBlock3D", "CrossAttnDownBlock3D"],
        up_block_types=["CrossAttnUpBlock3D", "UpBlock3D", "CrossAttnUpBlock3D"], layers_per_block=3, norm_num_groups=16,
        attention_head_dim=24, cross_attention_dim=72,
    ),
    vae=dict(
        block_out_channels=[32, 64, 96], down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3, layers_per_block=1, norm_num_groups=16, mid_block_add_attention=False,
    ),
)
# name, configs, pixels high and wide, frames, rows (twice the videos with guidance), frames per decoder call
CASES = [
    ("demo", None, 64, 64, 8, 2, 1),
    ("small", PUBLISHED, 256, 256, 4, 2, 1),
    ("published", PUBLISHED, 704, 1280, 16, 2, 1),
    ("square", PUBLISHED, 256, 256, 16, 2, 1),
    ("odd", ODD, 44, 76, 3, 3, 2),
]


def counted(module, *inputs, **named):
    counter = FlopCounterMode(depth=99, display=False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        module(*inputs, **named)
    by_module = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return counter.get_total_flops(), by_module


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def config(part, configs):
    if configs is None:
        return {k: v for k, v in json.loads((DEMO / part / "config.json").read_text()).items() if k[0] != "_"}
    return configs[part]


def main():
    cases = []
    for name, configs, height, width, frames, rows, chunk in CASES:
        with torch.device("meta"):
            unet = I2VGenXLUNet(**config("unet", configs)).eval()
            vae = AutoencoderKL(**config("vae", configs)).eval()
            text = CLIPTextModel(CLIPTextConfig(**config("text_encoder", configs))).eval()
            vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**config("image_encoder", configs))).eval()
            factor = 2 ** (len(vae.config.block_out_channels) - 1)
            h, w, context = height // factor, width // factor, unet.config.cross_attention_dim
            total, by_module = counted(
                unet, torch.empty(rows, 4, frames, h, w), torch.empty((), dtype=torch.long), fps=torch.empty(rows),
                image_latents=torch.empty(rows, 4, frames, h, w), image_embeddings=torch.empty(rows, context),
                encoder_hidden_states=torch.empty(rows, 77, context),
            )
            once = sum(by_module.get(f"I2VGenXLUNet.{part}", 0) for part in (
                "image_latents_proj_in", "image_latents_temporal_encoder", "image_latents_context_embedding",
                "context_embedding", "fps_embedding"))
            projections = sum(
                flops for path, flops in by_module.items()
                if ".attentions." in path and path.endswith((".attn2.to_k", ".attn2.to_v")))
            shallow = ["conv_in", "transformer_in", "time_embedding", "conv_out"] + [
                f"up_blocks.{len(unet.up_blocks) - 1}.{part}.{unet.config.layers_per_block}"
                for part in ("resnets", "temp_convs", "attentions", "temp_attentions")]
            cached = sum(by_module.get(f"I2VGenXLUNet.{part}", 0) for part in shallow) - sum(
                flops for path, flops in by_module.items()
                if path.startswith(f"I2VGenXLUNet.{shallow[-2]}.") and path.endswith((".attn2.to_k", ".attn2.to_v")))
            encode, _ = counted(vae.encoder, torch.empty(1, 3, height, width))
            quant, _ = counted(vae.quant_conv, torch.empty(1, 2 * 4, h, w))
            decode, _ = counted(vae.decoder, torch.empty(chunk, 4, h, w))
            post, _ = counted(vae.post_quant_conv, torch.empty(chunk, 4, h, w))
            words, _ = counted(text, torch.zeros(1, 77, dtype=torch.long))
            side = vision.config.image_size
            look, _ = counted(vision, torch.empty(1, 3, side, side))
        cases.append({
            "name": name, "height": height, "width": width, "frames": frames, "rows": rows, "chunk": chunk,
            "configs": {part: config(part, configs) for part in PUBLISHED} if configs else None,
            "parameters": {"unet": parameters(unet), "vae": parameters(vae), "text_encoder": parameters(text),
                           "image_encoder": parameters(vision)},
            "unet": {"all": total, "once": once, "context": projections, "cached": cached},
            "vae": {"encode": encode + quant, "decode": decode + post},
            "text_encoder": words, "image_encoder": look,
        })
        print(name, cases[-1]["unet"], cases[-1]["vae"], words, look)
    (HERE / "flops.json").write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()
