"""Runs diffusers' I2VGenXLPipeline as `i2vgen generate --image-latents mode --compat diffusers` would, and reports times and memory.

    python run_diffusers.py ARGUMENTS.json OUTPUT.safetensors

ARGUMENTS.json: model, image, prompt, and the call's own arguments; written by compare.py. Prints one line of JSON.
"""

import json
import resource
import sys
import time

import torch
from diffusers import I2VGenXLPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import save_file

torch.set_num_threads(2)
# The stock pipeline samples the posterior from the global generator; the mean is what both sides can share.
DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()


def main(arguments, output):
    call = dict(arguments)
    model = call.pop("model")
    image = Image.open(call.pop("image")).convert("RGB")
    seed = call.pop("seed")
    seconds = {}

    start = time.perf_counter()
    pipeline = I2VGenXLPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    seconds["load"] = time.perf_counter() - start

    def timed(owner, name, label):
        inner = getattr(owner, name)

        def outer(*args, **kwargs):
            begin = time.perf_counter()
            result = inner(*args, **kwargs)
            seconds.setdefault(label, []).append(time.perf_counter() - begin)
            return result

        setattr(owner, name, outer)

    timed(pipeline.unet, "forward", "unet_step")
    timed(pipeline.vae, "decode", "vae_decode")
    timed(pipeline.vae, "encode", "vae_encode")
    timed(pipeline.text_encoder, "forward", "text_encoder")
    timed(pipeline.image_encoder, "forward", "image_encoder")

    start = time.perf_counter()
    with torch.no_grad():
        latents = pipeline(
            image=image, generator=torch.manual_seed(seed), output_type="latent", **call
        ).frames
        video = pipeline.decode_latents(latents, decode_chunk_size=call.get("decode_chunk_size", 1))
    seconds["run"] = time.perf_counter() - start
    video = (video * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).contiguous().float()
    save_file({"latents": latents.contiguous().float(), "frames": video}, output)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_memory_bytes": peak}))


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        main(json.load(file), sys.argv[2])
