"""Writes a diffusers folder's weights as the authors distribute them: three PyTorch files in the original names.

    python make_trio.py DIFFUSERS_DIR OUT_DIR [--f32]

The names are built here from the reference's tables, in the direction opposite to the converter's, so that each checks the
other. Around the VAE lies what Lightning leaves in a Stable Diffusion checkpoint, objects of foreign classes included.
Needs: torch==2.15.0 safetensors
"""

import json
import re
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import load_file


def load(folder: Path, f32: bool):
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return {k: v.float() if f32 else v for k, v in tensors.items()}


def unet(tensors, config):
    layers = config.get("layers_per_block", 2)
    down = len(config["block_out_channels"])
    crossed_up = ["CrossAttn" in name for name in config["up_block_types"]]
    parts = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "image_latents_proj_in": "local_image_concat",
        "image_latents_context_embedding": "local_image_embedding",
        "image_latents_temporal_encoder.norm1": "local_temporal_encoder.layers.0.0.norm",
        "image_latents_temporal_encoder.attn1.to_out.0": "local_temporal_encoder.layers.0.0.fn.to_out.0",
        "image_latents_temporal_encoder.ff.net.0.proj": "local_temporal_encoder.layers.0.1.net.0.0",
        "image_latents_temporal_encoder.ff.net.2": "local_temporal_encoder.layers.0.1.net.2",
        "conv_in": "input_blocks.0.0", "transformer_in": "input_blocks.0.1",
        "conv_norm_out": "out.0", "conv_out": "out.2",
    }
    residual = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }

    def layer(kind, rest):
        if kind == "resnets":
            name, tail = rest.split(".", 1)
            return f"0.{residual[name]}.{tail}"
        return {"temp_convs": "0.temopral_conv.", "attentions": "1.", "temp_attentions": "2."}[kind] + rest

    out = {}
    for key, value in tensors.items():
        conv1d = (key.startswith("transformer_in") or "temp_attentions" in key) and re.search(r"proj_(in|out)\.weight$", key)
        if conv1d:
            value = value[:, :, None].contiguous()
        if key.startswith("image_latents_temporal_encoder.attn1.to_") and "to_out" not in key:
            continue
        prefix = next((p for p in parts if key.startswith(p + ".")), None)
        if prefix:
            out[parts[prefix] + key[len(prefix):]] = value
        elif m := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", key):
            out[f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.op.{m[2]}"] = value
        elif m := re.match(r"down_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key):
            out[f"input_blocks.{1 + int(m[1]) * (layers + 1) + int(m[3])}.{layer(m[2], m[4])}"] = value
        elif m := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.(.*)", key):
            out[f"output_blocks.{int(m[1]) * (layers + 1) + layers}.{3 if crossed_up[int(m[1])] else 1}.{m[2]}"] = value
        elif m := re.match(r"up_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key):
            out[f"output_blocks.{int(m[1]) * (layers + 1) + int(m[3])}.{layer(m[2], m[4])}"] = value
        elif m := re.match(r"mid_block\.(\w+)\.(\d+)\.(.*)", key):
            s, rest = layer(m[1], m[3]).split(".", 1)
            out[f"middle_block.{3 if s == '0' and m[2] == '1' else s}.{rest}"] = value
        else:
            out[key] = value  # fps_embedding, context_embedding
    name = "image_latents_temporal_encoder.attn1.to_{}.weight"
    if name.format("q") in tensors:
        fused = torch.cat([tensors[name.format(p)] for p in "qkv"])
        out["local_temporal_encoder.layers.0.0.fn.to_qkv.weight"] = fused
    assert down > 0
    return out


def vae(tensors, config):
    blocks = len(config["block_out_channels"])
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    out = {}
    for key, value in tensors.items():
        key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if m := re.match(r"(\w+)\.mid_block\.attentions\.0\.(.*)\.(weight|bias)", key):
            if m[3] == "weight" and m[2] != "group_norm":
                value = value[:, :, None, None].contiguous()
            key = f"{m[1]}.mid.attn_1.{attention[m[2]]}.{m[3]}"
        elif m := re.match(r"(\w+)\.mid_block\.resnets\.(\d)\.(.*)", key):
            key = f"{m[1]}.mid.block_{int(m[2]) + 1}.{m[3]}"
        elif m := re.match(r"encoder\.down_blocks\.(\d+)\.(resnets\.(\d+)|downsamplers\.0)\.(.*)", key):
            key = f"encoder.down.{m[1]}." + (f"block.{m[3]}.{m[4]}" if m[3] else f"downsample.{m[4]}")
        elif m := re.match(r"decoder\.up_blocks\.(\d+)\.(resnets\.(\d+)|upsamplers\.0)\.(.*)", key):
            key = f"decoder.up.{blocks - 1 - int(m[1])}." + (f"block.{m[3]}.{m[4]}" if m[3] else f"upsample.{m[4]}")
        out["first_stage_model." + key] = value
    return out


def clip(text, vision):
    out = {}
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}

    def tower(tensors, model, prefix, parts):
        fused = {}
        for key, value in tensors.items():
            key = key.removeprefix(model + ".")
            if m := re.match(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)$", key):
                base = f"{prefix}transformer.resblocks.{m[1]}."
                if q := re.match(r"self_attn\.([qkv])_proj", m[2]):
                    fused.setdefault(base + "attn.in_proj_" + m[3], {})[q[1]] = value
                else:
                    out[base + inner[m[2]] + "." + m[3]] = value
            elif key == "visual_projection.weight":
                out["visual.proj"] = value.T.contiguous()
            elif not key.endswith("position_ids"):
                old = next(p for p in parts if key.startswith(p))
                out[prefix + parts[old] + key[len(old):]] = value
        for name, split in fused.items():
            out[name] = torch.cat([split[p] for p in "qkv"])

    tower(text, "text_model", "", {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.": "ln_final.",
    })
    tower(vision, "vision_model", "visual.", {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "pre_layrnorm.": "ln_pre.", "post_layernorm.": "ln_post.",
    })
    width = out["ln_final.weight"].shape[0]
    out["text_projection"] = torch.zeros(width, width)
    out["logit_scale"] = torch.tensor(4.6)
    return out


def main(source: Path, target: Path, f32: bool):
    target.mkdir(parents=True, exist_ok=True)
    config = lambda name: json.loads((source / name / "config.json").read_text())
    torch.save({"state_dict": unet(load(source / "unet", f32), config("unet")), "step": 0}, target / "unet.pth")

    # A class that the reading side does not have, as in checkpoints that a trainer wrote.
    module = types.ModuleType("pytorch_lightning.callbacks")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    sys.modules["pytorch_lightning"] = types.ModuleType("pytorch_lightning")
    sys.modules[module.__name__] = module
    callback = module.ModelCheckpoint()
    callback.best = "epoch=000012.ckpt"
    state = {
        "betas": torch.zeros(1000),
        "model.diffusion_model.time_embed.0.weight": torch.zeros(8, 8),
        "cond_stage_model.model.ln_final.weight": torch.zeros(8),
        "model_ema.decay": torch.tensor(0.5),
    }
    state |= vae(load(source / "vae", f32), config("vae"))
    checkpoint = {
        "epoch": 0, "global_step": 875000, "pytorch-lightning_version": "1.4.2", "state_dict": state,
        "callbacks": {module.ModelCheckpoint: {"monitor": "val/loss", "best_model_score": torch.tensor(0.1), "saver": callback}}, "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(5)}}}],
    }
    torch.save(checkpoint, target / "vae.ckpt")
    torch.save(clip(load(source / "text_encoder", f32), load(source / "image_encoder", f32)), target / "clip.bin")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "--f32" in sys.argv)
