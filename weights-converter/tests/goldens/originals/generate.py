"""Small random models of the authors' own classes, in the authors' own files, with what those classes compute.

    python generate.py --vgen DIR --modelscope DIR --open-clip DIR

    --vgen        a checkout of https://github.com/ali-vilab/VGen (tools/modules/unet/{unet_i2vgen,util}.py are read)
    --modelscope  the unzipped wheel of modelscope 1.40.2 (`pip download modelscope==1.40.2 --no-deps`)
    --open-clip   the unzipped wheel of open_clip_torch 3.3.0, or its site-packages

None of that code is in this repository. It is run unchanged but for three edits (see EDITS): two places that fix the context's
width at 1024 take it from the constructor, and one `.cuda()` goes. What it imports is stubbed: xformers' attention is torch's,
checkpointing wrappers are nothing.

Writes beside this script:
    unet.pth           VGen's UNetSD_I2VGen, as {"state_dict", "step"}
    vae.ckpt           CompVis' AutoencoderKL (ModelScope's copy) inside what Lightning leaves in a Stable Diffusion checkpoint
    clip.bin           open_clip's CLIP, a flat state dict
    unet3d.pth         ModelScope's Vid2VidSDUNet, a bare state dict
                       (in these two the weights are overlapping views of one storage, which keeps the files small)
    configs/           a diffusers folder without weights, for `--configs`; the first three files fit it together
    configs_refine/    the same for unet3d.pth
    goldens.safetensors   inputs and outputs
    unet3d.json        the converted refinement UNet: name -> [shape, start of the sha256 of its f16 values]

Every output is checked here against diffusers' and transformers' modules. Their weights are copied from module to module, not by
name, so that this check shares nothing with the converter's tables. The differences are printed.

Needs: torch==2.15.0 diffusers==0.33.1 transformers==4.51.3 safetensors==0.8.0 einops==0.8.2 "numpy<3"
"""

import argparse
import hashlib
import json
import logging
import re
import sys
import types
from pathlib import Path

import numpy
import torch
from diffusers import AutoencoderKL, DDIMScheduler, I2VGenXLUNet, UNet3DConditionModel
from diffusers.models.upsampling import Upsample2D
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.tokenization_clip import bytes_to_unicode

HERE = Path(__file__).resolve().parent
GROUPS, WIDTH, HEAD, CONTEXT, LATENT = 32, 32, 4, 32, 4
EDITS = [
    (r"(depth=1,\s+)context_dim=1024", r"\1context_dim=context_dim"),
    (r"(concat_dim \* 16, )1024", r"\1context_dim"),
    (r"\.cuda\(\)", ""),
]


# ---- the originals ----

def stub(name, **members):
    """A module that holds these members; its parents come into being too."""
    parent, _, child = name.rpartition(".")
    if parent and parent not in sys.modules:
        stub(parent)
    module = sys.modules.setdefault(name, types.ModuleType(name))
    module.__path__ = getattr(module, "__path__", [])
    module.__dict__.update(members)
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def stub_imports():
    def attention(q, k, v, attn_bias=None, op=None):
        return F.scaled_dot_product_attention(q, k, v)

    class Registry:
        def register_class(self):
            return lambda cls: cls

    stub("xformers.ops", memory_efficient_attention=attention)
    stub("rotary_embedding_torch", RotaryEmbedding=None)
    stub("fairscale.nn.checkpoint", checkpoint_wrapper=lambda module: module)
    stub("utils.registry_class", MODEL=Registry())
    stub("originals.mha_flash", FlashAttentionBlock=None)
    stub("modelscope.utils.logger", get_logger=logging.getLogger)
    stub("torchvision.ops.misc", FrozenBatchNorm2d=nn.BatchNorm2d)


def source(path, name):
    text = path.read_text()
    for pattern, with_ in EDITS:
        text = re.sub(pattern, with_, text)
    module = stub(f"originals.{name}")
    module.__package__ = "originals"
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


def randomise(model, seed):
    """Every parameter, zero-initialised ones too, to values that f16 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.dim() >= 2 and "embedding" not in name:
            value = noise / p[0].numel() ** 0.5
        elif name.endswith("weight") and p.dim() == 1:
            value = 1 + 0.2 * noise
        else:
            value = 0.2 * noise
        p.data = value.half().float()
    return model.eval()


def share(model, seed):
    """Every weight becomes a view of one small storage, each from another offset: a small file of overlapping tensors."""
    pool = (0.08 * torch.randn(40_000, generator=torch.Generator().manual_seed(seed))).half()
    state = halves(model)
    for i, (name, p) in enumerate(p for p in model.named_parameters() if p[1].dim() >= 2):
        start = 37 * i % (pool.numel() - p.numel())
        state[name] = pool[start:start + p.numel()].view(p.shape)
        p.data = state[name].float()
    return state


# ---- module to module ----

def copy(to, from_):
    """1-tap convolutions and linear layers hold the same numbers."""
    theirs = from_.state_dict()
    state = {k: theirs.pop(k).reshape(v.shape) for k, v in to.state_dict().items()}
    assert not theirs, theirs.keys()
    to.load_state_dict(state)
    for p in to.parameters():
        p.copied = True


def copied(model):
    left = [name for name, p in model.named_parameters() if not hasattr(p, "copied")]
    assert not left, left
    return model.eval()


def copy_layer(block, j, original):
    residual, resnet = original[0], block.resnets[j]
    copy(resnet.norm1, residual.in_layers[0])
    copy(resnet.conv1, residual.in_layers[2])
    copy(resnet.time_emb_proj, residual.emb_layers[1])
    copy(resnet.norm2, residual.out_layers[0])
    copy(resnet.conv2, residual.out_layers[3])
    if resnet.conv_shortcut is not None:
        copy(resnet.conv_shortcut, residual.skip_connection)
    copy(block.temp_convs[j], residual.temopral_conv)
    if j < len(getattr(block, "attentions", [])):
        copy(block.attentions[j], original[1])
        copy(block.temp_attentions[j], original[2])


def copy_unet(unet, original):
    copy(unet.time_embedding.linear_1, original.time_embed[0])
    copy(unet.time_embedding.linear_2, original.time_embed[2])
    encoder, decoder = iter(original.input_blocks), iter(original.output_blocks)
    first = next(encoder)
    copy(unet.conv_in, first[0])
    copy(unet.transformer_in, first[1])
    for block in unet.down_blocks:
        for j in range(len(block.resnets)):
            copy_layer(block, j, next(encoder))
        if block.downsamplers is not None:
            copy(block.downsamplers[0].conv, next(encoder).op)
    middle = list(original.middle_block)
    copy_layer(unet.mid_block, 0, middle[:3])
    copy_layer(unet.mid_block, 1, middle[3:])
    for block in unet.up_blocks:
        for j in range(len(block.resnets)):
            layer = next(decoder)
            copy_layer(block, j, layer)
        if block.upsamplers is not None:
            copy(block.upsamplers[0].conv, layer[-1].conv)
    copy(unet.conv_norm_out, original.out[0])
    copy(unet.conv_out, original.out[2])


def copy_image_parts(unet, original):
    copy(unet.fps_embedding, original.fps_embedding)
    copy(unet.context_embedding, original.context_embedding)
    copy(unet.image_latents_proj_in, original.local_image_concat)
    copy(unet.image_latents_context_embedding, original.local_image_embedding)
    attention, feed_forward = original.local_temporal_encoder.layers[0]
    encoder = unet.image_latents_temporal_encoder
    copy(encoder.norm1, attention.norm)
    for part, rows in zip(("to_q", "to_k", "to_v"), attention.fn.to_qkv.weight.chunk(3)):
        layer = getattr(encoder.attn1, part)
        layer.weight.data, layer.weight.copied = rows.clone(), True
    copy(encoder.attn1.to_out[0], attention.fn.to_out[0])
    copy(encoder.ff.net[0].proj, feed_forward.net[0][0])
    copy(encoder.ff.net[2], feed_forward.net[2])


def copy_vae(vae, original):
    for side in ("encoder", "decoder"):
        to, from_ = getattr(vae, side), getattr(original, side)
        resnets = [(to.mid_block.resnets[0], from_.mid.block_1), (to.mid_block.resnets[1], from_.mid.block_2)]
        levels = zip(to.down_blocks, from_.down) if side == "encoder" else zip(to.up_blocks, reversed(from_.up))
        for block, level in levels:
            resnets += zip(block.resnets, level.block, strict=True)
            for sampler in getattr(block, "downsamplers", None) or []:
                copy(sampler.conv, level.downsample.conv)
            for sampler in getattr(block, "upsamplers", None) or []:
                copy(sampler.conv, level.upsample.conv)
        for resnet, residual in resnets:
            for name in ("norm1", "conv1", "norm2", "conv2"):
                copy(getattr(resnet, name), getattr(residual, name))
            if resnet.conv_shortcut is not None:
                copy(resnet.conv_shortcut, residual.nin_shortcut)
        attention, theirs = to.mid_block.attentions[0], from_.mid.attn_1
        copy(attention.group_norm, theirs.norm)
        for name, theirs in (("to_q", theirs.q), ("to_k", theirs.k), ("to_v", theirs.v)):
            copy(getattr(attention, name), theirs)
        copy(attention.to_out[0], from_.mid.attn_1.proj_out)
        copy(to.conv_in, from_.conv_in)
        copy(to.conv_norm_out, from_.norm_out)
        copy(to.conv_out, from_.conv_out)
    copy(vae.quant_conv, original.quant_conv)
    copy(vae.post_quant_conv, original.post_quant_conv)


def set_(parameter, value):
    assert parameter.shape == value.shape
    parameter.data, parameter.copied = value.detach().clone(), True


def copy_clip_layers(encoder, transformer):
    for layer, block in zip(encoder.layers, transformer.resblocks, strict=True):
        copy(layer.layer_norm1, block.ln_1)
        copy(layer.layer_norm2, block.ln_2)
        copy(layer.self_attn.out_proj, block.attn.out_proj)
        copy(layer.mlp.fc1, block.mlp.c_fc)
        copy(layer.mlp.fc2, block.mlp.c_proj)
        rows = zip(("q_proj", "k_proj", "v_proj"), block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3))
        for name, weight, bias in rows:
            set_(getattr(layer.self_attn, name).weight, weight)
            set_(getattr(layer.self_attn, name).bias, bias)


def copy_clip(text, vision, original):
    copy(text.text_model.embeddings.token_embedding, original.token_embedding)
    set_(text.text_model.embeddings.position_embedding.weight, original.positional_embedding)
    copy(text.text_model.final_layer_norm, original.ln_final)
    copy_clip_layers(text.text_model.encoder, original.transformer)
    model, theirs = vision.vision_model, original.visual
    set_(model.embeddings.class_embedding, theirs.class_embedding)
    copy(model.embeddings.patch_embedding, theirs.conv1)
    set_(model.embeddings.position_embedding.weight, theirs.positional_embedding)
    copy(model.pre_layrnorm, theirs.ln_pre)
    copy(model.post_layernorm, theirs.ln_post)
    copy_clip_layers(model.encoder, theirs.transformer)
    set_(vision.visual_projection.weight, theirs.proj.T)


# ---- files ----

def halves(model):
    return {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}


def lightning(vae, clip, generator):
    """A Stable Diffusion checkpoint: the VAE among much that is not wanted, objects of absent classes included."""
    class ModelCheckpoint:
        def __init__(self, **members):
            self.__dict__.update(members)

    class DictConfig(dict):
        pass

    for cls, module in ((ModelCheckpoint, "pytorch_lightning.callbacks.model_checkpoint"), (DictConfig, "omegaconf.dictconfig")):
        cls.__module__, cls.__qualname__ = module, cls.__name__
        stub(module, **{cls.__name__: cls})

    def noise(*shape):
        return torch.randn(shape, generator=generator).half()

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    weight = noise(8, 4, 3, 3)
    state = {
        "betas": betas.float(),
        "alphas_cumprod": torch.cumprod(1 - betas, 0).float(),
        "model.diffusion_model.time_embed.0.weight": noise(16, 8),
        "model.diffusion_model.input_blocks.0.0.weight": weight,
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": noise(8, 8),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470_000, dtype=torch.int32),
        # The same storage twice, as an EMA copy that was swapped in.
        "model_ema.diffusion_modelinput_blocks00weight": weight,
        **{f"first_stage_model.{k}": v for k, v in vae.items()},
        "first_stage_model.loss.logvar": torch.zeros(()),
        "first_stage_model.loss.discriminator.main.0.weight": noise(4, 3, 4, 4),
        "first_stage_model.loss.discriminator.main.3.num_batches_tracked": torch.tensor(12),
        **{f"cond_stage_model.model.{k}": v for k, v in halves(clip).items() if not k.startswith("visual.")},
        "cond_stage_model.model.attn_mask": clip.attn_mask,
    }
    return {
        "epoch": 3,
        "global_step": 875_000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state,
        # Old versions key by the class itself.
        "callbacks": {
            ModelCheckpoint: {"best_model_score": torch.tensor(0.25), "dirpath": "/logs/checkpoints", "current_score": None},
            "others": [ModelCheckpoint(monitor="val/loss", every=numpy.float64(0.5), seen={1, 2}, shape=(1, 2))],
        },
        "optimizer_states": [{"state": {0: {"step": 875_000, "exp_avg": noise(8, 8), "exp_avg_sq": noise(8, 8)}},
                              "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": DictConfig(ddconfig=DictConfig(ch=WIDTH, ch_mult=[1, 2]), ckpt_path=None),
    }


def write_tokenizer(folder):
    """CLIP's byte-level vocabulary with eight merges."""
    merges = ["r e", "re d</w>", "c i", "ci r", "b l", "bl u", "blu e</w>", "l e</w>"]
    symbols = list(bytes_to_unicode().values())
    words = symbols + [s + "</w>" for s in symbols] + [m.replace(" ", "") for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    tokenizer = CLIPTokenizer(folder / "vocab.json", folder / "merges.txt", model_max_length=77)
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_model_index(folder):
    library = {"feature_extractor": ("transformers", "CLIPImageProcessor"),
               "image_encoder": ("transformers", "CLIPVisionModelWithProjection"), "scheduler": ("diffusers", "DDIMScheduler"),
               "text_encoder": ("transformers", "CLIPTextModel"), "tokenizer": ("transformers", "CLIPTokenizer"),
               "unet": ("diffusers", "I2VGenXLUNet"), "vae": ("diffusers", "AutoencoderKL")}
    index = {"_class_name": "I2VGenXLPipeline", "_diffusers_version": "0.33.1", **library}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


# ---- the four ----

GOLDENS = {}


def record(**tensors):
    GOLDENS.update({k.replace("__", "."): v.detach().contiguous() for k, v in tensors.items()})


def compare(what, found, expected, limit=2e-5):
    off = (found - expected).abs().max().item() / expected.abs().max().item()
    print(f"{what}: {off:.2e} of the largest value ({expected.abs().max():.3f})")
    assert off <= limit, what


def draw(generator):
    return lambda *shape: torch.randn(shape, generator=generator)


def unet(vgen, configs):
    source(vgen / "tools/modules/unet/util.py", "util")
    original = source(vgen / "tools/modules/unet/unet_i2vgen.py", "unet_i2vgen").UNetSD_I2VGen(
        in_dim=LATENT, concat_dim=LATENT, dim=WIDTH, y_dim=CONTEXT, context_dim=CONTEXT, out_dim=LATENT, dim_mult=[1, 1],
        num_heads=8, head_dim=HEAD, num_res_blocks=2, attn_scales=[1.0], num_tokens=4, dropout=0.1)
    randomise(original, 1)
    ours = I2VGenXLUNet(
        sample_size=16, in_channels=LATENT, out_channels=LATENT, block_out_channels=(WIDTH, WIDTH), layers_per_block=2,
        norm_num_groups=GROUPS, cross_attention_dim=CONTEXT, attention_head_dim=HEAD,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"))
    copy_unet(ours, original)
    copy_image_parts(ours, original)
    copied(ours).save_config(configs / "unet")

    noise = draw(torch.Generator().manual_seed(11))
    latents, text = noise(2, LATENT, 3, 6, 10), noise(2, 7, CONTEXT)
    embedding, image = noise(2, 1, CONTEXT), noise(2, LATENT, 6, 10)
    timestep, fps = torch.tensor([571, 571]), torch.tensor([8, 8])
    output = original(latents, timestep, y=text, image=embedding, local_image=image, fps=fps)
    # What diffusers' pipeline builds: the image, then how far each further frame is.
    mask = [torch.full_like(image, (k + 1) / 2) for k in range(2)]
    image_latents = torch.stack([image, *mask], dim=2)

    def run():
        return ours(latents, timestep, fps, image_latents, embedding, text).sample

    off = (run() - output).abs().max() / output.abs().max()
    print(f"UNet without the doubled features: {off:.2e} off, as it must be")
    assert off > 1e-2
    ours.conv_in.weight.data[:, LATENT:] *= 2
    compare("UNet, VGen and diffusers", run(), output)
    record(unet__latents=latents, unet__text=text, unet__image_embeddings=embedding, unet__image_latents=image_latents,
           unet__timestep=timestep[:1].float(), unet__fps=fps[:1].float(), unet__output=output)
    torch.save({"state_dict": halves(original), "step": 0}, HERE / "unet.pth")


class CroppedUpsample(Upsample2D):
    """Vid2Vid's: without the first and the last row."""

    def forward(self, x, output_size=None):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest")[..., 1:-1, :])


def unet3d(modelscope, configs):
    # One layer per block, and attention at both levels: the upsampler is then a fourth sub-module, as mostly in the real one.
    original = source(modelscope / "modelscope/models/multi_modal/video_to_video/modules/unet_v2v.py", "unet_v2v").Vid2VidSDUNet(
        in_dim=LATENT, dim=WIDTH, y_dim=CONTEXT, context_dim=CONTEXT, out_dim=LATENT, dim_mult=[1, 1], num_heads=8, head_dim=HEAD,
        num_res_blocks=1, attn_scales=[1.0, 0.5], use_checkpoint=False)
    state = share(randomise(original, 2), 2)
    ours = UNet3DConditionModel(
        sample_size=16, in_channels=LATENT, out_channels=LATENT, block_out_channels=(WIDTH, WIDTH), layers_per_block=1,
        norm_num_groups=GROUPS, cross_attention_dim=CONTEXT, attention_head_dim=HEAD,
        down_block_types=("CrossAttnDownBlock3D",) * 2, up_block_types=("CrossAttnUpBlock3D",) * 2)
    copy_unet(ours, original)
    copied(ours).save_config(configs / "unet")

    noise = draw(torch.Generator().manual_seed(12))
    latents, text, timestep = noise(1, LATENT, 3, 6, 8), noise(1, 7, CONTEXT), torch.tensor([599])
    output = original(latents, timestep, text)
    ours.down_blocks[0].downsamplers[0].conv.padding = (2, 1)
    ours.up_blocks[0].upsamplers[0].__class__ = CroppedUpsample
    compare("refinement UNet, ModelScope and diffusers", ours(latents, timestep, text).sample, output)
    record(unet3d__latents=latents, unet3d__text=text, unet3d__timestep=timestep.float(), unet3d__output=output)
    torch.save(state, HERE / "unet3d.pth")
    digest = {k: [list(v.shape), hashlib.sha256(v.half().contiguous().numpy().tobytes()).hexdigest()[:16]]
              for k, v in ours.state_dict().items()}
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(digest.items())]
    (HERE / "unet3d.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def clip(open_clip, configs):
    stub("open_clip").__path__ = [str(open_clip / "open_clip")]
    from open_clip.model import CLIP

    tokenizer = write_tokenizer(configs / "tokenizer")
    vision_cfg = dict(layers=2, width=WIDTH, head_width=16, patch_size=14, image_size=28)
    text_cfg = dict(context_length=77, vocab_size=len(tokenizer), width=WIDTH, heads=2, layers=2)
    original = randomise(CLIP(CONTEXT, vision_cfg, text_cfg), 3)
    shared = dict(hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=2, hidden_act="gelu",
                  projection_dim=CONTEXT)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
                                        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **shared))
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=28, patch_size=14, **shared))
    copy_clip(text, vision, original)
    copied(text).config.save_pretrained(configs / "text_encoder")
    copied(vision).config.save_pretrained(configs / "image_encoder")
    CLIPImageProcessor(crop_size=28, size=28).save_pretrained(configs / "feature_extractor")

    ids = tokenizer(["a red circle", "blue, moving left"], padding="max_length", return_tensors="pt").input_ids
    layers, x = [], original.token_embedding(ids) + original.positional_embedding
    for block in original.transformer.resblocks:
        x = block(x, attn_mask=original.attn_mask)
        layers.append(original.ln_final(x))
    states = text(ids, output_hidden_states=True).hidden_states
    for layer, state, name in zip(layers, states[1:], ("penultimate", "last"), strict=True):
        compare(f"text, {name} layer", text.text_model.final_layer_norm(state), layer)
    pixels = draw(torch.Generator().manual_seed(13))(2, 3, 28, 28)
    embedding = original.encode_image(pixels)
    compare("image embedding", vision(pixels).image_embeds, embedding)
    record(text__ids=ids, text__penultimate=layers[0], text__last=layers[1], image__pixels=pixels, image__embedding=embedding)
    torch.save(halves(original), HERE / "clip.bin")
    return original


def vae(modelscope, configs, clip):
    ddconfig = dict(double_z=True, z_channels=LATENT, resolution=64, in_channels=3, out_ch=3, ch=WIDTH, ch_mult=[1, 2],
                    num_res_blocks=1, attn_resolutions=[], dropout=0.0)
    path = modelscope / "modelscope/models/multi_modal/image_to_video/modules/autoencoder.py"
    original = randomise(source(path, "autoencoder").AutoencoderKL(ddconfig, LATENT), 4)
    state = share(original, 4)
    ours = AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(WIDTH, 2 * WIDTH), layers_per_block=1, latent_channels=LATENT,
        norm_num_groups=GROUPS, sample_size=64, scaling_factor=0.18215, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2)
    copy_vae(ours, original)
    copied(ours).save_config(configs / "vae")

    noise = draw(torch.Generator().manual_seed(14))
    image, latents = noise(1, 3, 12, 16), noise(1, LATENT, 6, 8)
    moments, decoded = original.encode(image).parameters, original.decode(latents)
    compare("VAE, encoded", ours.encode(image).latent_dist.parameters, moments)
    compare("VAE, decoded", ours.decode(latents).sample, decoded)
    record(vae__image=image, vae__moments=moments, vae__latents=latents, vae__decoded=decoded)
    torch.save(lightning(state, clip, torch.Generator().manual_seed(15)), HERE / "vae.ckpt")


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description="See the head of this file.")
    for name in ("--vgen", "--modelscope", "--open-clip"):
        parser.add_argument(name, type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(2)
    stub_imports()
    configs = HERE / "configs"
    unet(args.vgen, configs)
    unet3d(args.modelscope, HERE / "configs_refine")
    vae(args.modelscope, configs, clip(args.open_clip, configs))
    DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False, prediction_type="v_prediction", set_alpha_to_one=True,
                  rescale_betas_zero_snr=True, steps_offset=1, timestep_spacing="leading").save_pretrained(configs / "scheduler")
    write_model_index(configs)
    save_file(GOLDENS, HERE / "goldens.safetensors")


main()
