"""Batches, embeddings, seed lists, guidance variants, FreeU and schedulers: diffusers' I2VGenXLPipeline on the demo model, 3 DDIM steps.

    python generate.py

Writes cases.json (arguments) and cases.safetensors (final latents, given embeddings) beside this script; pictures are
../pipeline/input.png and its mirror image. Guidance intervals and rescale are not in the reference's pipeline: there the
reference's own loop runs with a UNet wrapper that combines both halves itself.
Needs: torch==2.15.0 diffusers==0.33.1 transformers==4.51.3 "pillow<13" "numpy<3" "huggingface_hub<1"
"""

import json
from pathlib import Path

import diffusers
import torch
from diffusers import I2VGenXLPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image, ImageOps
from safetensors.torch import save_file

assert diffusers.__version__ == "0.33.1", diffusers.__version__
HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[2] / "crates/demo-model/model"
STOCK_SAMPLE = DiagonalGaussianDistribution.sample

CIRCLE, SQUARE = "a red circle moves left", "a blue square grows"
BASE = dict(
    prompt=[CIRCLE, SQUARE], negative_prompt=["", ""], images=2, num_videos_per_prompt=1, seeds=[7], image_latents="mode",
    guidance_scale=2.5, eta=0.0, embeds=0, guidance_start=0.0, guidance_end=1.0, guidance_rescale=0.0, num_inference_steps=3,
    scheduler="ddim", karras_sigmas=None, solver_order=None, freeu=None,
)
CASES = {
    "two_prompts": {},
    "negative_prompts": dict(negative_prompt=["a star", "moves up"]),
    "sampled_posteriors": dict(image_latents="sample"),
    # The reference pairs texts and pictures wrongly here; Compat::Diffusers must too.
    "two_by_two": dict(num_videos_per_prompt=2),
    "two_by_two_unguided": dict(num_videos_per_prompt=2, guidance_scale=1.0),
    "seed_list": dict(seeds=[3, 4]),
    "seed_list_of_four": dict(num_videos_per_prompt=2, seeds=[3, 4, 5, 3]),
    "eta": dict(eta=0.6),
    "embeds": dict(embeds=1),
    "both_embeds": dict(embeds=2),
    "interval": dict(prompt=[CIRCLE], negative_prompt=[""], images=1, guidance_start=0.3, guidance_end=0.6),
    "late": dict(prompt=[CIRCLE], negative_prompt=[""], images=1, guidance_start=0.5),
    "rescale": dict(guidance_rescale=0.7),
    "freeu": dict(freeu=[0.9, 0.2, 1.4, 1.6]),
    "ddpm": dict(scheduler="ddpm"),
    "pndm": dict(scheduler="pndm", num_inference_steps=5),
    "euler_karras": dict(scheduler="euler", karras_sigmas=True),
    "euler_ancestral": dict(scheduler="euler-ancestral"),
    "heun": dict(scheduler="heun"),
    "dpm_third_order": dict(scheduler="dpmsolver++", solver_order=3),
    "sde_dpm": dict(scheduler="sde-dpmsolver++"),
    "unipc": dict(scheduler="unipc"),
}
CLASSES = {
    "ddpm": diffusers.DDPMScheduler, "pndm": diffusers.PNDMScheduler, "euler": diffusers.EulerDiscreteScheduler,
    "euler-ancestral": diffusers.EulerAncestralDiscreteScheduler, "heun": diffusers.HeunDiscreteScheduler,
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler, "sde-dpmsolver++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}


class Guided(torch.nn.Module):
    """Returns the combined prediction in both halves, so that the pipeline's own combination leaves it as it is."""

    def __init__(self, unet, case, steps):
        super().__init__()
        self.unet, self.case, self.steps, self.index = unet, case, steps, 0
        self.config, self.dtype = unet.config, unet.dtype

    def forward(self, *args, **kwargs):
        output = self.unet(*args, **kwargs)[0]
        without, with_ = output.chunk(2)
        case, position = self.case, self.index / self.steps
        self.index += 1
        result = with_
        if case["guidance_start"] <= position < case["guidance_end"]:
            result = without + case["guidance_scale"] * (with_ - without)
            if case["guidance_rescale"] > 0:
                axes = tuple(range(1, result.ndim))
                scaled = result * (with_.std(axes, keepdim=True) / result.std(axes, keepdim=True))
                result = case["guidance_rescale"] * scaled + (1 - case["guidance_rescale"]) * result
        return (torch.cat([result, result]),)


def run(name, case, images, tensors):
    pipeline = I2VGenXLPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    sample = case["image_latents"] == "sample"
    DiagonalGaussianDistribution.sample = STOCK_SAMPLE if sample else lambda self, generator=None: self.mode()
    call = dict(prompt=case["prompt"], negative_prompt=case["negative_prompt"])
    if case["embeds"]:
        width = pipeline.text_encoder.config.hidden_size
        generator = torch.Generator().manual_seed(11)
        for key in ("prompt_embeds", "negative_prompt_embeds")[: case["embeds"]]:
            call.pop(key.removesuffix("_embeds"))
            call[key] = tensors[f"{name}.{key}"] = torch.randn(2, 40, width, generator=generator)
        if case["embeds"] == 1:
            # With embeddings the reference wants no list here, and encodes "" for every row.
            call.pop("negative_prompt")
    if case["scheduler"] != "ddim":
        options = {"use_karras_sigmas": case["karras_sigmas"], "solver_order": case["solver_order"]}
        options = {key: value for key, value in options.items() if value is not None}
        if case["scheduler"].endswith("dpmsolver++"):
            options["algorithm_type"] = case["scheduler"]
        pipeline.scheduler = CLASSES[case["scheduler"]].from_config(pipeline.scheduler.config, **options)
    if case["freeu"]:
        pipeline.enable_freeu(*case["freeu"])
    if case["guidance_end"] - case["guidance_start"] < 1 or case["guidance_rescale"] > 0:
        pipeline.unet = Guided(pipeline.unet, case, 3)
    seeds = case["seeds"]
    generator = torch.manual_seed(seeds[0]) if len(seeds) == 1 else [torch.Generator().manual_seed(s) for s in seeds]
    with torch.no_grad():
        return pipeline(
            image=images[: case["images"]], generator=generator, output_type="latent", height=32, width=40, num_frames=3,
            num_inference_steps=case["num_inference_steps"], target_fps=8, guidance_scale=case["guidance_scale"], eta=case["eta"],
            num_videos_per_prompt=case["num_videos_per_prompt"], **call,
        ).frames.contiguous()


def main():
    torch.set_num_threads(1)
    image = Image.open(HERE.parent / "pipeline/input.png").convert("RGB")
    images = [image, ImageOps.mirror(image)]
    tensors, cases = {}, {}
    for name, change in CASES.items():
        cases[name] = BASE | change
        tensors[f"{name}.latents"] = run(name, cases[name], images, tensors)
    (HERE / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file(tensors, HERE / "cases.safetensors")


if __name__ == "__main__":
    main()
