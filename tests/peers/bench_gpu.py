"""The rows of `bench_gpu` (cargo xtask bench gpu) for diffusers on the same GPU: UNet step and VAE decode, f16, SDPA, random weights.

    python bench_gpu.py [--compile] [--blocks] [--dtype float16]

Prints milliseconds (the fewest of some runs, after some that warm up) and the most memory that torch has allocated.
`--blocks` times the parts of a step one by one, too, waiting behind each.
Needs torch with CUDA and diffusers; weights are made on the GPU, nothing is downloaded.
"""

import argparse
import time

import diffusers
import torch
from diffusers import AutoencoderKL, I2VGenXLUNet

parser = argparse.ArgumentParser()
parser.add_argument("--compile", action="store_true")
parser.add_argument("--blocks", action="store_true")
parser.add_argument("--dtype", default="float16")
arguments = parser.parse_args()
dtype = getattr(torch, arguments.dtype)
device = "cuda"
print(torch.cuda.get_device_name(), "torch", torch.__version__, "diffusers", diffusers.__version__, arguments)


def fewest(f, seconds=3.0):
    for _ in range(2):
        f()
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        torch.cuda.synchronize()
        start = time.perf_counter()
        f()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def print_blocks(unet, step):
    """Milliseconds of the parts of a step, the fewest of three times, and their share of all."""
    parts = {name: unet.get_submodule(name) for name in ("conv_in", "transformer_in")}
    parts |= {f"down_blocks.{i}": block for i, block in enumerate(unet.down_blocks)} | {"mid_block": unet.mid_block}
    parts |= {f"up_blocks.{i}": block for i, block in enumerate(unet.up_blocks)} | {"conv_out": unet.conv_out}
    best, start = {}, 0.0

    def after(name):
        def hook(*_):
            nonlocal start
            torch.cuda.synchronize()
            now = time.perf_counter()
            best[name], start = min(best.get(name, float("inf")), now - start), now

        return hook

    hooks = [part.register_forward_hook(after(name)) for name, part in parts.items()]
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
    for hook in hooks:
        hook.remove()
    for name, seconds in best.items():
        print(f"  {name:42}{seconds * 1e3:10.3f}{100 * seconds / sum(best.values()):9.1f} %")


@torch.no_grad()
def main():
    with torch.device(device):
        unet = I2VGenXLUNet(cross_attention_dim=1024).to(dtype).eval()
    step = torch.compile(unet) if arguments.compile else unet
    for height, width in ((256, 256), (512, 512), (704, 1280)):
        h, w, frames = height // 8, width // 8, 16
        torch.cuda.reset_peak_memory_stats()
        options = dict(device=device, dtype=dtype)
        inputs = dict(
            sample=torch.randn(2, 4, frames, h, w, **options),
            timestep=torch.tensor(500, device=device),
            fps=torch.tensor([16, 16], device=device),
            image_latents=torch.randn(2, 4, frames, h, w, **options),
            image_embeddings=torch.randn(2, 1, 1024, **options),
            encoder_hidden_states=torch.randn(2, 77, 1024, **options),
        )
        try:
            milliseconds = fewest(lambda: step(**inputs, return_dict=False))
            if arguments.blocks:
                print_blocks(unet, lambda: unet(**inputs, return_dict=False))
        except torch.cuda.OutOfMemoryError:
            print(f"UNet step {width}x{height}: out of memory")
            continue
        peak = torch.cuda.max_memory_allocated() / 1e9
        print(f"UNet step, guidance, {width}x{height}, {frames} frames: {milliseconds:.2f} ms, {peak:.2f} GB")
    del unet, step
    with torch.device(device):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, sample_size=768,
        ).to(dtype).eval()
    z = torch.randn(1, 4, 88, 160, device=device, dtype=dtype)
    print(f"VAE decode, one frame of 1280x704: {fewest(lambda: vae.decode(z, return_dict=False)):.2f} ms")


main()
