"""The text-to-video UNet: diffusers' UNet3DConditionModel on two small random models.

    python generate.py

Writes beside this script:
- two/, three/: config.json and f16 weights, 2 levels of 1 layer and 3 levels of 2 layers. Every parameter is random, also
  those that diffusers initialises with zeros (the last temporal convolutions), so that nothing is an identity.
- cases.json: per case `model` (the folder), `timestep` (some are fractional) and `freeu` ([s1, s2, b1, b2] or null).
- cases.safetensors, f32: per case `<name>.sample` (rows, 4, frames, h, w), `<name>.encoder_hidden_states` (rows, tokens, width)
  and `<name>.output` (as the sample), computed in f64 from the f16 weights and stored in
  f32.

Needs: torch==2.15.0 diffusers==0.33.1
"""

import json
from pathlib import Path

import diffusers
import torch
from diffusers import UNet3DConditionModel
from safetensors.torch import save_file

assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert torch.__version__.startswith("2.15.0"), torch.__version__
HERE = Path(__file__).resolve().parent
CONFIGS = {
    "two": dict(
        block_out_channels=(8, 12), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    ),
    "three": dict(
        block_out_channels=(8, 12, 12), layers_per_block=2, norm_num_groups=2, cross_attention_dim=12, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
    ),
}
FREEU = [0.9, 0.2, 1.4, 1.6]
# Name: model, (rows, frames, h, w), tokens, timestep, FreeU.
CASES = {
    "two_even": ("two", (2, 3, 8, 6), 5, 500.0, None),
    "two_odd": ("two", (2, 3, 5, 7), 5, 999.0, None),
    "two_one_frame": ("two", (2, 1, 6, 8), 77, 0.0, None),
    "two_fractional": ("two", (1, 3, 4, 10), 5, 37.25, None),
    "three_even": ("three", (2, 3, 8, 4), 5, 721.53125, None),
    "three_odd": ("three", (2, 3, 7, 9), 5, 1.0, None),
    # Each size is odd at another level.
    "three_mixed": ("three", (1, 4, 5, 10), 5, 251.0, None),
    "three_one_frame": ("three", (2, 1, 4, 8), 5, 980.0, None),
    "three_freeu": ("three", (2, 3, 8, 4), 5, 721.53125, FREEU),
    "three_freeu_odd": ("three", (2, 3, 7, 10), 5, 333.0, FREEU),
}


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


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    models = {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        models[name] = random_weights(UNet3DConditionModel(**config), seed)
        models[name].half().save_pretrained(HERE / name)
        models[name].double()
    generator = torch.Generator().manual_seed(720)
    tensors, cases = {}, {}
    for name, (model, (rows, frames, h, w), tokens, timestep, freeu) in CASES.items():
        unet = models[model]
        sample = torch.randn(rows, 4, frames, h, w, generator=generator).double()
        text = torch.randn(rows, tokens, unet.config.cross_attention_dim, generator=generator).double()
        plain = output = unet(sample, torch.tensor(timestep), text).sample
        if freeu:
            unet.enable_freeu(*freeu)
            output = unet(sample, torch.tensor(timestep), text).sample
            unet.disable_freeu()
            assert (output - plain).abs().max() > 0.05
        # Nothing may be without effect.
        assert (unet(sample, torch.tensor(timestep + 60), text).sample - plain).abs().max() > 0.05
        assert (unet(sample, torch.tensor(timestep), text + 0.3).sample - plain).abs().max() > 0.01
        cases[name] = dict(model=model, timestep=timestep, freeu=freeu)
        for key, value in dict(sample=sample, encoder_hidden_states=text, output=output).items():
            tensors[f"{name}.{key}"] = value.float().contiguous()
        print(name, f"std {output.std():.3f}, max {output.abs().max():.3f}")
    (HERE / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file(tensors, HERE / "cases.safetensors")


main()
