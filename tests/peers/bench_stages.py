"""The rows of `cargo xtask bench stages` for diffusers and transformers on the CPU: f32, random weights of the published sizes.

    python bench_stages.py [--only clip|unet|vae]

Prints seconds, the fewest of some runs.
"""

import argparse
import os
import time

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

parser = argparse.ArgumentParser()
parser.add_argument("--only", choices=["clip", "unet", "vae"])
only = parser.parse_args().only
torch.set_num_threads(os.cpu_count())


def report(name, f, seconds=3.0):
    times, begin = [], time.perf_counter()
    while len(times) < 2 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    print(f"{name:44}{min(times):10.3f} s", flush=True)


@torch.no_grad()
def main():
    n = 2048
    a = torch.randn(n, n)
    report(f"matrix product {n}", lambda: a @ a)

    if only in (None, "clip"):
        text = CLIPTextModel(CLIPTextConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, hidden_act="gelu",
        )).eval()
        ids = torch.ones(1, 77, dtype=torch.long)
        # As in the pipeline: one after the other, the last layer included.
        report("text encoder, two prompts", lambda: [text(ids, output_hidden_states=True) for _ in range(2)])
        del text
        vision = CLIPVisionModelWithProjection(CLIPVisionConfig(
            hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14,
            projection_dim=1024, hidden_act="gelu",
        )).eval()
        pixels = torch.randn(1, 3, 224, 224)
        report("image encoder", lambda: vision(pixels))
        del vision

    if only in (None, "unet"):
        unet = I2VGenXLUNet(cross_attention_dim=1024).eval()
        inputs = dict(
            sample=torch.randn(2, 4, 8, 32, 32), timestep=torch.tensor(500), fps=torch.tensor([16, 16]),
            image_latents=torch.randn(2, 4, 8, 32, 32), image_embeddings=torch.randn(2, 1, 1024),
            encoder_hidden_states=torch.randn(2, 77, 1024),
        )
        report("UNet step, guidance, 256x256, 8 frames", lambda: unet(**inputs, return_dict=False))
        del unet

    if only in (None, "vae"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, sample_size=768,
        ).eval()
        picture = torch.randn(1, 3, 512, 512)
        report("VAE encode, one picture of 512x512", lambda: vae.encode(picture).latent_dist.mode())
        z = torch.randn(1, 4, 64, 64)
        report("VAE decode, one frame of 512x512", lambda: vae.decode(z, return_dict=False))
        # A video's frames one after the other, as is the pipeline's default, and all at once.
        z = torch.randn(4, 4, 64, 64)
        for chunk, way in [(1, "one by one"), (4, "at once")]:
            report(f"VAE decode, 4 frames {way}",
                   lambda: torch.cat([vae.decode(z, return_dict=False)[0] for z in z.split(chunk)]))


main()
