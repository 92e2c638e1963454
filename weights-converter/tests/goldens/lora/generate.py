"""LoRA files in every layout, and what PEFT itself makes of them.

    cargo xtask convert trio --unet O/unet.pth --vae O/vae.ckpt --clip O/clip.bin --configs O/configs --dtype f32 --output BASE
    python generate.py BASE          (O: ../originals)

Needs: torch==2.15.0 diffusers==0.33.1 transformers==4.51.3 peft==0.17.1
"""

import re
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import I2VGenXLUNet
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

HERE = Path(__file__).parent
BASE = Path(sys.argv[1])
UNET = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.0.temp_attentions.0.proj_in",
    "down_blocks.0.resnets.1.conv1",
    "mid_block.temp_convs.0.conv2.3",
    "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.1.resnets.0.time_emb_proj",
    "image_latents_temporal_encoder.attn1.to_q",
    "image_latents_temporal_encoder.attn1.to_k",
    "image_latents_temporal_encoder.attn1.to_v",
]
# The same modules as the authors call them (reference: checkpoints.md, section 2).
ORIGINAL = {
    UNET[0]: "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    UNET[1]: "input_blocks.2.1.transformer_blocks.0.attn2.to_out.0",
    UNET[2]: "input_blocks.1.2.proj_in",
    UNET[3]: "input_blocks.2.0.in_layers.2",
    UNET[4]: "middle_block.0.temopral_conv.conv2.3",
    UNET[5]: "output_blocks.5.1.transformer_blocks.0.ff.net.0.proj",
    UNET[6]: "output_blocks.3.0.emb_layers.1",
}
TEXT = [f"text_model.encoder.layers.{i}.{m}" for i in (0, 1) for m in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")]


def adapt(model, modules, name, **options):
    """PEFT's own files of random LoRA layers, and the weights after its own merge."""
    torch.manual_seed(3)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=modules, **options))
    for key, value in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(value, std=0.2)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        state = load_file(Path(folder) / "adapter_model.safetensors")
        config = (Path(folder) / "adapter_config.json").read_text()
    (HERE / name).mkdir(exist_ok=True)
    save_file(state, HERE / name / "adapter_model.safetensors")
    (HERE / name / "adapter_config.json").write_text(config)
    merged = model.merge_and_unload().state_dict()
    state = {k.removeprefix("base_model.model."): v for k, v in state.items()}
    return state, {f"{name}.{m}.weight": merged[m + ".weight"].contiguous() for m in modules}


unet = lambda: I2VGenXLUNet.from_pretrained(BASE / "unet")
text = lambda: CLIPTextModel.from_pretrained(BASE / "text_encoder")
expected = {}
state_unet, merged = adapt(unet(), UNET, "peft_unet")
expected |= merged
state_text, merged = adapt(text(), TEXT, "peft_text")
expected |= merged
expected |= adapt(text(), TEXT, "peft_rslora", use_rslora=True, alpha_pattern={"mlp.fc1": 3})[1]
save_file(expected, HERE / "expected.safetensors")

SCALE = 6 / 4


def halves(state, module):
    return state[module + ".lora_A.weight"], state[module + ".lora_B.weight"]


diffusers, old, kohya, authors = {}, {}, {}, {}
for module in UNET:
    down, up = halves(state_unet, module)
    # These two layouts have no alpha, so that it must be part of a matrix.
    diffusers[f"unet.{module}.lora.down.weight"], diffusers[f"unet.{module}.lora.up.weight"] = down, up * SCALE
    if m := re.match(r"(.*)\.to_(q|k|v|out)(\.0)?$", module):
        old[f"{m[1]}.processor.to_{m[2]}_lora.down.weight"] = down
        old[f"{m[1]}.processor.to_{m[2]}_lora.up.weight"] = up * SCALE
    for names, name in ((kohya, module), (authors, ORIGINAL.get(module))):
        if name:
            flat = "lora_unet_" + name.replace(".", "_")
            names[flat + ".lora_down.weight"], names[flat + ".lora_up.weight"] = down, up
            names[flat + ".alpha"] = torch.tensor(6.0)
for module in TEXT:
    down, up = halves(state_text, module)
    name = f"text_encoder.{module}.lora_linear_layer"
    diffusers[name + ".down.weight"], diffusers[name + ".up.weight"] = down, up * SCALE
    flat = "lora_te_" + module.replace(".", "_")
    kohya[flat + ".lora_down.weight"], kohya[flat + ".lora_up.weight"] = down, up
    kohya[flat + ".alpha"] = torch.tensor(6.0)
# The authors' fused projection: one down matrix for all three, the up matrices one below the other.
flat = "lora_unet_local_temporal_encoder_layers_0_0_fn_to_qkv"
downs, ups = zip(*(halves(state_unet, f"image_latents_temporal_encoder.attn1.to_{p}") for p in "qkv"))
authors[flat + ".lora_down.weight"] = torch.cat(downs)
authors[flat + ".lora_up.weight"] = torch.block_diag(*ups)
authors[flat + ".alpha"] = torch.tensor(18.0)
for name, tensors in (("diffusers", diffusers), ("diffusers_old", old), ("kohya", kohya), ("kohya_original", authors)):
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, HERE / f"{name}.safetensors")
    torch.save({k: v.contiguous().clone() for k, v in tensors.items()}, HERE / f"{name}.pt") if name == "kohya" else None
