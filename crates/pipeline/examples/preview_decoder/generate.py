"""Trains a tiny latent decoder for the demo model's VAE, exports it to ONNX, and records what the PyTorch module gives.

    python generate.py          (a minute on two cores)
    python generate.py --record (only what the PyTorch module gives with the exported weights)
    cargo xtask import-onnx crates/pipeline/examples/preview_decoder/preview.onnx --output crates/pipeline/examples/preview_decoder/imported

Needs: torch==2.15.0 diffusers==0.33.1 onnx
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[2] / "demo-model/train"))
import train_demo  # noqa: E402

VAE = HERE.parents[2] / "demo-model/model/vae"
random.seed(0)
torch.manual_seed(0)
torch.set_num_threads(2)


class Preview(nn.Module):
    """Latents as the scheduler has them, [n, 4, h, w], to pixels, 0..1 but not clamped, [n, 3, 4h, 4w]."""

    def __init__(self, width=24):
        super().__init__()
        conv = lambda i, o: nn.Conv2d(i, o, 3, padding=1)
        self.layers = nn.Sequential(
            conv(4, width), nn.ReLU(), conv(width, width), nn.ReLU(), nn.Upsample(scale_factor=2.0),
            conv(width, width), nn.ReLU(), nn.Upsample(scale_factor=2.0), conv(width, 3),
        )

    def forward(self, latents):
        return self.layers(latents)


def record(model, latents):
    """What the PyTorch module gives is the golden of the imported one."""
    with torch.no_grad():
        save_file({"latents": latents.contiguous(), "image": model.eval()(latents).contiguous()}, HERE / "golden.safetensors")


if "--record" in sys.argv:
    import onnx
    from safetensors.torch import load_file

    exported = onnx.load(HERE / "preview.onnx").graph.initializer
    weights = {w.name: torch.from_numpy(onnx.numpy_helper.to_array(w).copy()) for w in exported}
    model = Preview()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    record(model, load_file(HERE / "golden.safetensors")["latents"])
    sys.exit()


def pictures_of(count):
    """Frames of the demo model's own world."""
    clips = [train_demo.render(train_demo.make_scene(random))[::3] for _ in range(count // 3)]
    return torch.from_numpy(np.concatenate(clips)).permute(0, 3, 1, 2).float() / 255


vae = AutoencoderKL.from_pretrained(VAE).float().eval()
pictures = pictures_of(768)
with torch.no_grad():
    parts = [vae.encode(part * 2 - 1).latent_dist.mode() * vae.config.scaling_factor for part in pictures.split(64)]
latents = torch.cat(parts)
with torch.no_grad():
    # What the VAE itself makes of them is what a preview should look like.
    decoded = [vae.decode(part / vae.config.scaling_factor).sample for part in latents.split(64)]
pictures = (torch.cat(decoded) / 2 + 0.5).clamp(0, 1)
model = Preview()
optimiser = torch.optim.Adam(model.parameters(), 2e-3)
for step in range(900):
    pick = torch.randint(len(pictures), (16,))
    loss = (model(latents[pick]) - pictures[pick]).abs().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    if step == 700:
        optimiser.param_groups[0]["lr"] = 5e-4
print(f"mean absolute error {loss.item():.4f}, of a grey picture {(pictures - pictures.mean((2, 3), keepdim=True)).abs().mean():.4f}")
model.eval()
sample = latents[:2]
record(model, sample)
axes = {0: "n", 2: "h", 3: "w"}
torch.onnx.export(
    model, (sample,), HERE / "preview.onnx", dynamo=False, opset_version=17,
    input_names=["latents"], output_names=["image"], dynamic_axes={"latents": axes, "image": axes},
)
