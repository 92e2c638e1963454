"""Tiled AutoencoderKL: diffusers on the demo model and on a small random one, with several tile sizes and overlaps.

    python generate.py

Writes random/ (the random model) and cases.safetensors: per case `<name>.image`, `.mean`, `.logvar` (encode) or `.latents`,
`.decoded` (decode). A name is `<model> <tile> <overlap> …`. Needs torch==2.15.0, diffusers==0.33.1.
"""

from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert torch.__version__.startswith("2.15.0"), torch.__version__
HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[2] / "crates/demo-model/model/vae"
# Four pixels per latent, as in the demo model.
RANDOM = dict(
    block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    norm_num_groups=4, sample_size=32,
)
# Model, tile side in pixels, overlap, size in latents, images. One is smaller than a tile in one direction, but wider than
# the distance of two tiles; one is narrower than that.
CASES = [
    ("random", 32, 0.25, (9, 11), 2),
    ("random", 32, 0.5, (9, 13), 1),
    ("random", 16, 0.25, (10, 8), 1),
    ("random", 16, 0.0, (5, 6), 1),
    ("random", 32, 0.25, (7, 13), 1),
    ("random", 32, 0.25, (13, 5), 1),
    ("random", 32, 0.75, (9, 7), 1),
    ("demo", 64, 0.25, (17, 13), 1),
]
# Pixels that do not fill a latent. (diffusers fails where they are all that an edge tile has.)
REST = (1, 3)


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
    torch.manual_seed(404)
    models = {"random": random(AutoencoderKL(**RANDOM)), "demo": AutoencoderKL.from_pretrained(DEMO).eval()}
    models["random"].half().save_pretrained(HERE / "random")
    models["random"].float()
    tensors = {}
    for model, tile, overlap, (h, w), images in CASES:
        vae = models[model]
        vae.enable_tiling()
        vae.tile_sample_min_size, vae.tile_latent_min_size, vae.tile_overlap_factor = tile, tile // 4, overlap
        name = f"{model} {tile} {overlap} {h}x{w}"
        image = torch.rand(images, 3, 4 * h + REST[0], 4 * w + REST[1]).mul(2).sub(1).half()
        posterior = vae.encode(image.float()).latent_dist
        latents = torch.randn(images, 4, h, w).half()
        decoded = vae.decode(latents.float()).sample
        assert posterior.mean.shape == latents.shape, posterior.mean.shape
        assert decoded.shape == (images, 3, 4 * h, 4 * w), decoded.shape
        tensors[f"{name}.image"], tensors[f"{name}.latents"] = image, latents
        tensors[f"{name}.mean"], tensors[f"{name}.logvar"] = posterior.mean, posterior.logvar
        tensors[f"{name}.decoded"] = decoded
        print(name, *(f"{t.abs().max():.3f}" for t in (posterior.mean, posterior.logvar, decoded)))
    save_file({name: t.contiguous() for name, t in tensors.items()}, HERE / "cases.safetensors")


main()
