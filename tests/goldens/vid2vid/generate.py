"""The UNet of MS-Vid2Vid-XL: UNet3DConditionModel with two spatial changes, which diffusers does not have.

    python generate.py

Each downsampling convolution is padded by 2 rows and 1 column; each upsampling drops the first and the last row after the
nearest resize, before its convolution. Sizes agree only for heights of 2 modulo 8 (4 levels): 10, 6, 4, 3 and back.
The UNet is written here as functions of a state dict; without the two changes it must equal diffusers' class within 1e-5.
Both are computed in f64 (sinusoids in f32) from the f16 weights.

Writes beside this script:
- model/: config.json with the extension keys `downsample_padding: [2, 1]` and `upsample_crop_rows: 1`, and f16 weights
  (4 levels of 1 layer). Every parameter is random, also those that diffusers initialises with zeros.
- cases.json: per case `timestep`.
- cases.safetensors, f32: per case `<name>.sample` (rows, 4, frames, h, w), `<name>.encoder_hidden_states` (rows, tokens, width),
  `<name>.output` (with the changes) and `<name>.plain` (diffusers' class: padding 1 and no crop), both shaped as the sample.

Needs: torch==2.15.0 diffusers==0.33.1
"""

import json
from pathlib import Path

import diffusers
import torch
import torch.nn.functional as F
from diffusers import UNet3DConditionModel
from safetensors.torch import save_file

assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert torch.__version__.startswith("2.15.0"), torch.__version__
HERE = Path(__file__).resolve().parent
LEVELS = 4
CONFIG = dict(
    block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=2, cross_attention_dim=16, attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",),
    up_block_types=("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3,
)
EXTENSION = dict(downsample_padding=[2, 1], upsample_crop_rows=1)
# Name: (rows, frames, h, w), tokens, timestep.
CASES = {
    "small": ((2, 3, 10, 8), 5, 599),
    "wide": ((1, 2, 10, 24), 77, 38),
    "high": ((1, 2, 18, 16), 5, 311),
    "one_frame": ((2, 1, 18, 8), 5, 0),
}


class Weights:
    """The state dict seen from one module: `w / "resnets" / 0`."""

    def __init__(self, state, prefix=""):
        self.state, self.prefix = state, prefix

    def __truediv__(self, name):
        return Weights(self.state, f"{self.prefix}{name}.")

    def __contains__(self, name):
        return any(key.startswith(f"{self.prefix}{name}.") for key in self.state)

    @property
    def weight(self):
        return self.state[f"{self.prefix}weight"]

    @property
    def bias(self):
        return self.state.get(f"{self.prefix}bias")


def linear(w, x):
    return F.linear(x, w.weight, w.bias)


def layer_norm(w, x):
    return F.layer_norm(x, x.shape[-1:], w.weight, w.bias, 1e-5)


def group_norm(w, x, eps=1e-5):
    return F.group_norm(x, CONFIG["norm_num_groups"], w.weight, w.bias, eps)


def conv(w, x, stride=1, padding=1):
    return F.conv2d(x, w.weight, w.bias, stride, padding)


def to_video(x, frames):
    """(rows·frames, c, h, w) to (rows, c, frames, h, w)."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def to_images(v):
    return v.transpose(1, 2).flatten(0, 1)


def resnet(w, x, emb):
    h = conv(w / "conv1", F.silu(group_norm(w / "norm1", x)))
    h = h + linear(w / "time_emb_proj", F.silu(emb))[:, :, None, None]
    h = conv(w / "conv2", F.silu(group_norm(w / "norm2", h)))
    return h + (conv(w / "conv_shortcut", x, padding=0) if "conv_shortcut" in w else x)


def temporal_conv(w, x, frames):
    v = h = to_video(x, frames)
    for stage, index in ((1, 2), (2, 3), (3, 3), (4, 3)):
        part = w / f"conv{stage}"
        kernel = part / index
        h = F.conv3d(F.silu(group_norm(part / 0, h)), kernel.weight, kernel.bias, padding=(1, 0, 0))
    return to_images(v + h)


def attention(w, x, context, heads):
    q, k, v = (linear(w / name, y).unflatten(-1, (heads, -1)).transpose(1, 2)
               for name, y in (("to_q", x), ("to_k", context), ("to_v", context)))
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return linear(w / "to_out" / 0, (weights @ v).transpose(1, 2).flatten(2))


def block(w, x, context, heads):
    """Without a context, the second attention is a second self-attention."""
    y = layer_norm(w / "norm1", x)
    x = x + attention(w / "attn1", y, y, heads)
    y = layer_norm(w / "norm2", x)
    x = x + attention(w / "attn2", y, y if context is None else context, heads)
    value, gate = linear(w / "ff" / "net" / 0 / "proj", layer_norm(w / "norm3", x)).chunk(2, -1)
    return x + linear(w / "ff" / "net" / 2, value * F.gelu(gate))


def spatial(w, x, context):
    heads = x.shape[1] // CONFIG["attention_head_dim"]
    tokens = group_norm(w / "norm", x, 1e-6).flatten(2).transpose(1, 2)
    tokens = block(w / "transformer_blocks" / 0, linear(w / "proj_in", tokens), context, heads)
    return x + linear(w / "proj_out", tokens).transpose(1, 2).unflatten(2, x.shape[2:])


def temporal(w, x, frames, heads=None):
    heads = heads or x.shape[1] // CONFIG["attention_head_dim"]
    v = group_norm(w / "norm", to_video(x, frames), 1e-6)
    rows, _, _, height, width = v.shape
    tokens = v.permute(0, 3, 4, 2, 1).flatten(0, 2)
    tokens = linear(w / "proj_out", block(w / "transformer_blocks" / 0, linear(w / "proj_in", tokens), None, heads))
    return x + to_images(tokens.unflatten(0, (rows, height, width)).permute(0, 4, 3, 1, 2))


def layer(w, index, x, emb, context, frames):
    x = temporal_conv(w / "temp_convs" / index, resnet(w / "resnets" / index, x, emb), frames)
    if "attentions" in w:
        x = spatial(w / "attentions" / index, x, context)
        x = temporal(w / "temp_attentions" / index, x, frames)
    return x


def sinusoid(timestep, width):
    frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(width // 2) / (width // 2))
    return torch.cat([torch.cos(timestep * frequencies), torch.sin(timestep * frequencies)])  # f32, as in diffusers


def forward(w, sample, timestep, context, changed):
    """`changed`: with the padding and the crop of MS-Vid2Vid-XL."""
    rows, _, frames = sample.shape[:3]
    time = w / "time_embedding"
    emb = sinusoid(timestep, CONFIG["block_out_channels"][0])[None].to(sample.dtype)
    emb = linear(time / "linear_2", F.silu(linear(time / "linear_1", emb))).expand(rows * frames, -1)
    context = context.repeat_interleave(frames, 0)
    x = temporal(w / "transformer_in", conv(w / "conv_in", to_images(sample)), frames, heads=8)
    skips = [x]
    for level in range(LEVELS):
        down = w / "down_blocks" / level
        for index in range(CONFIG["layers_per_block"]):
            x = layer(down, index, x, emb, context, frames)
            skips.append(x)
        if level < LEVELS - 1:
            x = conv(down / "downsamplers" / 0 / "conv", x, stride=2, padding=(2, 1) if changed else 1)
            skips.append(x)
    mid = w / "mid_block"
    x = temporal_conv(mid / "temp_convs" / 0, resnet(mid / "resnets" / 0, x, emb), frames)
    x = temporal(mid / "temp_attentions" / 0, spatial(mid / "attentions" / 0, x, context), frames)
    x = temporal_conv(mid / "temp_convs" / 1, resnet(mid / "resnets" / 1, x, emb), frames)
    for level in range(LEVELS):
        up = w / "up_blocks" / level
        for index in range(CONFIG["layers_per_block"] + 1):
            x = layer(up, index, torch.cat([x, skips.pop()], 1), emb, context, frames)
        if level < LEVELS - 1:
            if changed:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, 1:-1]
            else:
                x = F.interpolate(x, size=skips[-1].shape[2:], mode="nearest")
            x = conv(up / "upsamplers" / 0 / "conv", x)
    assert not skips
    x = conv(w / "conv_out", F.silu(group_norm(w / "conv_norm_out", x)))
    return to_video(x, frames)


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
    model = random_weights(UNet3DConditionModel(**CONFIG), 599)
    model.half().save_pretrained(HERE / "model")
    model.double()
    path = HERE / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | EXTENSION, indent=2) + "\n")
    weights = Weights(model.state_dict())
    generator = torch.Generator().manual_seed(8888)
    tensors, cases = {}, {}
    for name, ((rows, frames, h, w), tokens, timestep) in CASES.items():
        sample = torch.randn(rows, 4, frames, h, w, generator=generator)
        text = torch.randn(rows, tokens, CONFIG["cross_attention_dim"], generator=generator)
        wide = sample.double(), timestep, text.double()
        plain = model(*wide).sample
        error = (forward(weights, *wide, changed=False) - plain).abs().max()
        assert error < 1e-5, error
        output = forward(weights, *wide, changed=True)
        assert output.shape == plain.shape and (output - plain).abs().max() > 0.1
        cases[name] = dict(timestep=timestep)
        for key, value in dict(sample=sample, encoder_hidden_states=text, output=output, plain=plain).items():
            tensors[f"{name}.{key}"] = value.float().contiguous()
        print(name, f"error {error:.1e}, std {output.std():.3f}, max {output.abs().max():.3f}")
    (HERE / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    save_file(tensors, HERE / "cases.safetensors")


main()
