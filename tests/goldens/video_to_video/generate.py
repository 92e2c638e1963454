"""Second stage end to end: diffusers' VideoToVideoSDPipeline, one case per feature.

    python generate.py

The text encoder, the tokenizer and the VAE are the demo model's (crates/demo-model/model); the rest of the model is model/.

Writes beside this script:
- model/: model_index.json, unet/ (UNet3DConditionModel, random, 2 levels, f16) and scheduler/ (the DDIM config inferred for ModelScope's
  text-to-video weights). Other schedulers are made from this config as diffusers' from_config does.
- cases.json: `components` (where the other folders of the model are) and `cases`: per case `video`, `prompt`, `negative_prompt`,
  `strength`, `num_inference_steps`, `guidance_scale`, `eta`, `clip_skip`, `seed`, `scheduler`, `timesteps` (of the model calls) and
  `first_index` (of the first of them in the scheduler's whole list). `video` names a tensor of cases.safetensors.
- cases.safetensors:
  - `video.wide` (2, 40, 56, 3) and `video.square` (3, 64, 64, 3): u8 frames; `video.latents` (1, frames, 4, h, w): f32, as the
    pipeline takes latents (frames first), already scaled.
  - `<case>.latents` (1, 4, frames, h, w), f32: after the loop, before the division by the scaling factor.
  - For the cases in START also `<case>.start`, shaped likewise: the latents with noise that the loop starts from, and
    `<case>.encoded` (frames, 4, h, w): the scaled posterior sample.
  - For the cases in DECODED also `<case>.frames` (1, frames, height, width, 3), f32 in 0..1.

One CPU generator gives, in this order: the posterior's noise (frames, 4, h, w; none for latents), the start's noise (the same shape) and
what the scheduler draws in its steps.

Needs: torch==2.15.0 diffusers==0.33.1 transformers==4.51.3 "pillow<13" "numpy<3" "huggingface_hub<1"
"""

import json
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet3DConditionModel, VideoToVideoSDPipeline
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert torch.__version__.startswith("2.15.0"), torch.__version__
assert transformers.__version__ == "4.51.3", transformers.__version__
HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[2] / "crates/demo-model/model"
CONFIG = dict(
    block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=64, attention_head_dim=4,
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
)
SCHEDULER = dict(
    _class_name="DDIMScheduler", num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon", timestep_spacing="leading",
)
CLASSES = {
    "ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler, "euler": diffusers.EulerDiscreteScheduler,
    "euler-ancestral": diffusers.EulerAncestralDiscreteScheduler, "heun": diffusers.HeunDiscreteScheduler,
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler, "unipc": diffusers.UniPCMultistepScheduler,
}
BASE = dict(
    video="wide", prompt="a red circle moves left", negative_prompt="", strength=0.6, num_inference_steps=5, guidance_scale=3.0,
    eta=0.0, clip_skip=None, seed=7, scheduler="ddim",
)
CASES = {
    "base": {},
    "square": dict(video="square"),
    "latents": dict(video="latents"),
    "low_strength": dict(strength=0.3, num_inference_steps=10),
    "full_strength": dict(strength=1.0),
    # The product is 28.999999999999996.
    "rounded_strength": dict(strength=0.58, num_inference_steps=50, guidance_scale=1.0),
    "seed": dict(seed=2**40 + 5),
    "no_guidance": dict(guidance_scale=1.0),
    "high_guidance": dict(guidance_scale=15.0),
    "negative_prompt": dict(negative_prompt="a blue square"),
    "clip_skip": dict(clip_skip=1),
    # The negative prompt is encoded without clip_skip.
    "clip_skip_negative": dict(clip_skip=2, negative_prompt="a blue square"),
    "eta": dict(eta=0.5),
    "dpm": dict(scheduler="dpmsolver++", num_inference_steps=10),
    "dpm_low_strength": dict(scheduler="dpmsolver++", strength=0.3, num_inference_steps=10),
    "euler": dict(scheduler="euler"),
    "euler_full_strength": dict(scheduler="euler", strength=1.0),
    "euler_ancestral": dict(scheduler="euler-ancestral"),
    # Two calls of the model a step: the first step's index is counted in calls.
    "heun": dict(scheduler="heun"),
    "heun_full_strength": dict(scheduler="heun", strength=1.0),
    "heun_low_strength": dict(scheduler="heun", strength=0.3, num_inference_steps=10),
    "unipc": dict(scheduler="unipc", num_inference_steps=8),
    "ddpm": dict(scheduler="ddpm"),
}
START = ("base", "heun")
DECODED = ("base", "latents")


@torch.no_grad()
def random_weights(model, seed):
    """Matrices and kernels keep the scale of their input; norms and biases matter. All are half precision numbers."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            value /= parameter[0].numel() ** 0.5
        else:
            value = value * 0.2 + name.endswith("weight")
        parameter.copy_(value.half())
    return model.eval()


def pattern(frames, height, width):
    """A disc that moves over a gradient."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    result = []
    for frame in range(frames):
        inside = (x - width // 2 + 9 * frame) ** 2 + (y - height // 2 - 3 * frame) ** 2 < 150
        back = torch.stack([40 + 3 * x % 190, 90 + 2 * y, 220 - 2 * x], -1)
        result.append(torch.where(inside[..., None], torch.tensor([225, 35, 30]), back))
    return torch.stack(result).to(torch.uint8)


def write_model():
    model = HERE / "model"
    unet = random_weights(UNet3DConditionModel(**CONFIG), 3)
    unet.half().save_pretrained(model / "unet")
    (model / "scheduler").mkdir(exist_ok=True)
    (model / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2) + "\n")
    index = dict(
        _class_name="VideoToVideoSDPipeline", _diffusers_version="0.33.1", scheduler=["diffusers", "DDIMScheduler"],
        text_encoder=["transformers", "CLIPTextModel"], tokenizer=["transformers", "CLIPTokenizer"],
        unet=["diffusers", "UNet3DConditionModel"], vae=["diffusers", "AutoencoderKL"],
    )
    (model / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def build(scheduler):
    pipeline = VideoToVideoSDPipeline(
        vae=AutoencoderKL.from_pretrained(DEMO / "vae", torch_dtype=torch.float32),
        text_encoder=CLIPTextModel.from_pretrained(DEMO / "text_encoder", torch_dtype=torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(DEMO / "tokenizer"),
        unet=UNet3DConditionModel.from_pretrained(HERE / "model/unet", torch_dtype=torch.float32),
        scheduler=diffusers.DDIMScheduler.from_pretrained(HERE / "model/scheduler"),
    )
    pipeline.scheduler = CLASSES[scheduler].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Watched(torch.nn.Module):
    """Remembers the timesteps and the first input."""

    def __init__(self, unet):
        super().__init__()
        self.unet, self.config, self.dtype, self.timesteps = unet, unet.config, unet.dtype, []

    def forward(self, sample, timestep, **kwargs):
        self.timesteps.append(float(timestep))
        return self.unet(sample, timestep, **kwargs)


@torch.no_grad()
def run(case, videos):
    pipeline = build(case["scheduler"])
    pipeline.unet = watched = Watched(pipeline.unet)
    scheduler, added = pipeline.scheduler, {}
    stock = scheduler.add_noise

    def add_noise(latents, noise, timestep):
        noisy = stock(latents, noise, timestep)
        added.update(encoded=latents, start=noisy[None].transpose(1, 2))
        return noisy

    scheduler.add_noise = add_noise
    call = {key: value for key, value in case.items() if key not in ("video", "seed", "scheduler")}
    video = videos[case["video"]]
    if video.dtype == torch.uint8:
        video = [Image.fromarray(frame.numpy()) for frame in video]
    generator = torch.Generator().manual_seed(case["seed"])
    latents = pipeline(video=video, generator=generator, output_type="latent", **call).frames
    assert latents.isfinite().all()
    frames = (pipeline.decode_latents(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)
    # What the pipeline itself returns.
    del watched.timesteps[:]
    generator.manual_seed(case["seed"])
    returned = torch.from_numpy(pipeline(video=video, generator=generator, output_type="np", **call).frames)
    assert torch.equal(returned, frames)
    calls, listed = watched.timesteps, scheduler.timesteps.tolist()
    assert listed[len(listed) - len(calls) :] == calls
    details = dict(timesteps=calls, first_index=len(listed) - len(calls))
    return details, dict(latents=latents, frames=frames, **added)


def main():
    torch.set_num_threads(1)
    write_model()
    latents = torch.randn(1, 2, 4, 10, 14, generator=torch.Generator().manual_seed(5)) * 0.8
    videos = dict(wide=pattern(2, 40, 56), square=pattern(3, 64, 64), latents=latents)
    tensors = {f"video.{name}": video for name, video in videos.items()}
    cases, results = {}, {}
    for name, change in CASES.items():
        case = BASE | change
        details, outputs = run(case, videos)
        cases[name], results[name] = case | dict(details), outputs["latents"]
        kept = ["latents"] + ["start", "encoded"] * (name in START) + ["frames"] * (name in DECODED)
        for key in kept:
            tensors[f"{name}.{key}"] = outputs[key].float().contiguous()
        frames = outputs["frames"]
        inside = ((frames > 0) & (frames < 1)).float().mean()
        print(name, f"latents std {outputs['latents'].std():.3f}, {inside:.0%} of the frames unclipped,", details)
    # Nothing may be without effect.
    for name, value in results.items():
        if name not in ("base", "square"):
            assert (value - results["base"]).abs().max() > 1e-2, name
    components = {key: "crates/demo-model/model" for key in ("text_encoder", "tokenizer", "vae")}
    components |= {key: "tests/goldens/video_to_video/model" for key in ("unet", "scheduler")}
    (HERE / "cases.json").write_text(json.dumps(dict(components=components, cases=cases), indent=1) + "\n")
    save_file(tensors, HERE / "cases.safetensors")


main()
