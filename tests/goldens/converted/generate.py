"""diffusers' latents from a folder that `cargo xtask convert trio` made of the original files.

    O=weights-converter/tests/goldens/originals
    cargo xtask convert trio --unet $O/unet.pth --vae $O/vae.ckpt --clip $O/clip.bin --configs $O/configs --output KEEP
    cargo xtask convert trio … --concat-gain fold --output FOLD
    python generate.py KEEP FOLD

Needs: torch==2.15.0 diffusers==0.33.1 transformers==4.51.3 "pillow<13"
"""

import sys
from pathlib import Path

import torch
from diffusers import I2VGenXLPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
torch.set_num_threads(1)
DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()
image = Image.open(HERE.parent / "pipeline/input.png").convert("RGB")
tensors = {}
for name, folder in zip(("keep", "fold"), sys.argv[1:]):
    pipeline = I2VGenXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    with torch.no_grad():
        tensors[name] = pipeline(
            prompt="a cat", image=image, height=32, width=40, target_fps=8, num_frames=3, num_inference_steps=4,
            guidance_scale=2.5, generator=torch.manual_seed(7), output_type="latent",
        ).frames.contiguous()
save_file(tensors, HERE / "latents.safetensors")
print({k: (tuple(v.shape), v.abs().max().item()) for k, v in tensors.items()}, (tensors["keep"] - tensors["fold"]).abs().max().item())
