"""Whole-pipeline goldens: diffusers' I2VGenXLPipeline on the demo model, 3 DDIM steps, one case per feature.

    python generate.py

Writes cases.json (arguments), cases.safetensors (final latents and frames) and input.png beside this script.
Needs: torch==2.15.0 diffusers==0.33.1 transformers==4.51.3 "pillow<13" "numpy<3" "huggingface_hub<1"
"""

import json
from pathlib import Path

import diffusers.pipelines.i2vgen_xl.pipeline_i2vgen_xl as reference
import torch
from diffusers import I2VGenXLPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[2] / "crates/demo-model/model"
STOCK_SAMPLE = DiagonalGaussianDistribution.sample
STOCK_CROP = reference._center_crop_wide

BASE = dict(
    prompt="a red circle moves left", negative_prompt="", height=32, width=40, target_fps=8, num_frames=3,
    num_inference_steps=3, guidance_scale=2.5, eta=0.0, num_videos_per_prompt=1, clip_skip=1, seed=7,
    image_latents="mode", compat="diffusers",
)
CASES = {
    "base": {},
    "odd_size": dict(height=40, width=56),
    "one_frame": dict(num_frames=1),
    "no_guidance": dict(guidance_scale=1.0),
    "negative_prompt": dict(negative_prompt="a blue square"),
    "sampled_posterior": dict(image_latents="sample"),
    "eta": dict(eta=0.7),
    "clip_skip_none": dict(clip_skip=None),
    "clip_skip_2": dict(clip_skip=2),
    "two_videos": dict(num_videos_per_prompt=2, eta=0.3),
    "fractional_fps": dict(target_fps=12.5),
    "long_prompt": dict(prompt="a red circle moves left and then right " * 20),
    # At this size the stock crop leaves a black line.
    "border_diffusers": dict(height=48, width=48),
    "border_corrected": dict(height=48, width=48, compat="corrected"),
    "vgen": dict(compat="vgen"),
}


def input_image():
    """Smooth, coloured and not square, so that cropping and both filters matter."""
    image = Image.new("RGB", (SIZE[0], SIZE[1]))
    for y in range(SIZE[1]):
        for x in range(SIZE[0]):
            inside = (x - 30) ** 2 + (y - 33) ** 2 < 200
            image.putpixel((x, y), (220, 40, 30) if inside else (60 + 2 * x % 190, 90 + y, 200 - 2 * y))
    return image


def border(size, target):
    scale = min(size[0] / target[0], size[1] / target[1])
    return size[0] // scale < target[0] or size[1] // scale < target[1]


# The first size for which the stock crop leaves a border at 48x48.
SIZE = next((w, h) for h in range(57, 120) for w in range(h, h + 20) if border((w, h), (48, 48)))


def corrected_crop(images, size):
    """What the reference means: never smaller than the target."""
    one = not isinstance(images, list)
    image = images if one else images[0]
    scale = min(image.size[0] / size[0], image.size[1] / size[1])
    resized = [max(int(n // scale), t) for n, t in zip(image.size, size)]
    image = image.resize(resized, resample=Image.BOX)
    left, top = (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2
    image = image.crop((left, top, left + size[0], top + size[1]))
    return image if one else [image]


def run(image, case):
    pipeline = I2VGenXLPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    call = dict(case)
    compat, seed = call.pop("compat"), call.pop("seed")
    sample = call.pop("image_latents") == "sample"
    DiagonalGaussianDistribution.sample = STOCK_SAMPLE if sample else lambda self, generator=None: self.mode()
    reference._center_crop_wide = corrected_crop if compat == "corrected" else STOCK_CROP
    if compat == "vgen":
        # Equal to concatenating doubled features.
        with torch.no_grad():
            pipeline.unet.conv_in.weight[:, 4:8] *= 2
        pipeline.tokenizer.pad_token = pipeline.tokenizer.convert_ids_to_tokens(0)
        assert pipeline.tokenizer.pad_token_id == 0
        pipeline.scheduler = pipeline.scheduler.from_config(pipeline.scheduler.config, set_alpha_to_one=False)
    with torch.no_grad():
        # The global generator, so that a sampled posterior and the latents come from one stream.
        latents = pipeline(image=image, generator=torch.manual_seed(seed), output_type="latent", **call).frames
        frames = pipeline.decode_latents(latents, decode_chunk_size=1)
    frames = (frames * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)
    return latents.contiguous(), frames.contiguous().float()


def main():
    torch.set_num_threads(1)
    image = input_image()
    image.save(HERE / "input.png")
    tensors, cases = {}, {}
    for name, change in CASES.items():
        cases[name] = BASE | change
        tensors[f"{name}.latents"], tensors[f"{name}.frames"] = run(image, cases[name])
    (HERE / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file(tensors, HERE / "cases.safetensors")


if __name__ == "__main__":
    main()
