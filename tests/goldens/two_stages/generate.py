"""Both stages: the demo model's video, refined by the demo model itself and by a second-stage model.

    python generate.py

diffusers has no such pipeline. The first stage and `self` are its I2VGenXLPipeline, the latter from latents that the scheduler has
noised, with the rest of the timesteps; the second stage is its VideoToVideoSDPipeline with ../video_to_video/model.

Writes latents.safetensors, all (1, 4, 8, 16, 16), f32: `first`; `self.STEPS.PERCENT` for steps and strengths; `second`. Posterior means
are taken; noise is drawn from a CPU generator each: seed 7 for `first`, 8 for `self` and `second`.
Needs: torch==2.15.0 diffusers==0.33.1 transformers==4.51.3 "pillow<13" "numpy<3" "huggingface_hub<1"
"""

from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, I2VGenXLPipeline, UNet3DConditionModel, VideoToVideoSDPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert torch.__version__.startswith("2.15.0"), torch.__version__
torch.set_num_threads(1)
HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[2] / "crates/demo-model/model"
SECOND = HERE.parent / "video_to_video/model"
SHAPE = (1, 4, 8, 16, 16)
PROMPT = "a red circle moves left"
DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()


def noise(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def frame_major(x):
    return x.permute(0, 2, 1, 3, 4).reshape(-1, *SHAPE[1:2], *SHAPE[3:])


def main():
    image = Image.open(HERE.parent / "demo/input_64.png").convert("RGB")
    pipe = I2VGenXLPipeline.from_pretrained(DEMO, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def run(steps, latents):
        return pipe(
            PROMPT, image, height=64, width=64, target_fps=8, num_frames=8, num_inference_steps=steps, guidance_scale=2.5,
            latents=latents, output_type="latent",
        ).frames

    tensors = {"first": run(4, noise(7))}
    stock = pipe.scheduler.set_timesteps
    for steps, percent in ((5, 40), (4, 75), (10, 30)):
        kept = steps * percent // 100

        def sliced(*args, **kwargs):
            stock(*args, **kwargs)
            pipe.scheduler.timesteps = pipe.scheduler.timesteps[steps - kept :]

        pipe.scheduler.set_timesteps = stock
        pipe.scheduler.set_timesteps(steps)
        begin = pipe.scheduler.timesteps[steps - kept]
        noisy = pipe.scheduler.add_noise(tensors["first"], noise(8), begin[None])
        pipe.scheduler.set_timesteps = sliced
        tensors[f"self.{steps}.{percent}"] = run(steps, noisy)
        pipe.scheduler.set_timesteps = stock

    second = VideoToVideoSDPipeline(
        vae=AutoencoderKL.from_pretrained(DEMO / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(DEMO / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(DEMO / "tokenizer"),
        unet=UNet3DConditionModel.from_pretrained(SECOND / "unet", torch_dtype=torch.float32),
        scheduler=DDIMScheduler.from_pretrained(SECOND / "scheduler"),
    )
    second.set_progress_bar_config(disable=True)
    # It takes frames before channels.
    video = tensors["first"].permute(0, 2, 1, 3, 4)
    tensors["second"] = second(
        PROMPT, video=video, strength=0.6, num_inference_steps=5, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(8), output_type="latent",
    ).frames
    for name, value in tensors.items():
        assert value.shape == SHAPE, (name, value.shape)
        print(name, f"std {value.std():.3f}")
    save_file({k: v.float().contiguous() for k, v in tensors.items()}, HERE / "latents.safetensors")


main()
