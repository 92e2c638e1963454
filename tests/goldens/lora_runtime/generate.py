"""Two LoRA files at once, run by PEFT as side branches: UNet and text encoder with several strengths.

The UNet runs in f64, so that what is measured is the rounding of the tested program alone.

    O=weights-converter/tests/goldens/originals
    cargo xtask convert trio --unet $O/unet.pth --vae $O/vae.ckpt --clip $O/clip.bin --configs $O/configs --dtype f32 --output BASE
    python generate.py BASE

Needs: torch==2.15.0 diffusers==0.33.1 transformers==4.51.3 peft==0.15.2
"""

import json
import sys
from pathlib import Path

import diffusers
import peft
import torch
import transformers
from diffusers import I2VGenXLUNet
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

assert torch.__version__.startswith("2.15.0") and diffusers.__version__ == "0.33.1"
assert transformers.__version__ == "4.51.3" and peft.__version__ == "0.15.2"
torch.set_num_threads(1)
torch.manual_seed(11)
HERE = Path(__file__).resolve().parent
BASE = Path(sys.argv[1])
INPUTS = load_file(HERE.parents[2] / "weights-converter/tests/goldens/originals/goldens.safetensors")
INPUTS = {k: v.double() if v.is_floating_point() else v for k, v in INPUTS.items()}

# Linear layers, 2-D convolutions (3×3, strided, 1×1) and frame convolutions.
UNET = {
    "ink": [
        "conv_in",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v",
        "down_blocks.0.downsamplers.0.conv",
        "mid_block.temp_convs.1.conv3.3",
        "up_blocks.1.resnets.0.conv_shortcut",
        "image_latents_temporal_encoder.attn1.to_k",
    ],
    "pan": [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "down_blocks.0.temp_attentions.0.transformer_blocks.0.attn1.to_out.0",
        "mid_block.temp_convs.1.conv3.3",
        "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj",
        "time_embedding.linear_1",
        "conv_out",
    ],
}
LAYER = "text_model.encoder.layers."
TEXT = {
    "ink": [f"{LAYER}{i}.{m}" for i in (0, 1) for m in ("self_attn.q_proj", "mlp.fc2")],
    "pan": [f"{LAYER}{i}.{m}" for i in (0, 1) for m in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")],
}
OPTIONS = {
    "ink": dict(r=4, lora_alpha=3, use_rslora=True),
    "pan": dict(r=2, lora_alpha=5),
}
CASES = {"base": (0, 0), "ink": (1, 0), "both": (0.75, -0.5), "halved": (0.375, -0.25)}


def adapt(model, modules):
    """Random LoRA layers whose values halves can hold."""
    for name, options in OPTIONS.items():
        inject_adapter_in_model(LoraConfig(target_modules=modules[name], **options), model, adapter_name=name)
    for key, value in model.named_parameters():
        if "lora_" in key:
            # As wide as a weight of its own would be, so that wrong strengths are seen.
            value.data = (torch.randn_like(value) * 0.3).half().float()
    return model.eval()


def run(model, strengths, forward):
    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    trained = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.set_adapter(list(OPTIONS))
        for name, strength in zip(OPTIONS, strengths):
            if name in layer.scaling:
                layer.scaling[name] *= strength
    with torch.no_grad():
        result = forward(model)
    for layer, scaling in zip(layers, trained):
        layer.scaling.update(scaling)
    return result


def unet_output(model):
    i = {k.removeprefix("unet."): v for k, v in INPUTS.items()}
    fps = i["fps"].repeat(len(i["latents"]))
    return model(i["latents"], i["timestep"], fps, i["image_latents"], i["image_embeddings"], i["text"]).sample


def text_output(model):
    out = model(INPUTS["text.ids"], output_hidden_states=True)
    return out.last_hidden_state, model.text_model.final_layer_norm(out.hidden_states[-2])


unet = adapt(I2VGenXLUNet.from_pretrained(BASE / "unet", torch_dtype=torch.float32), UNET).double()
text = adapt(CLIPTextModel.from_pretrained(BASE / "text_encoder", torch_dtype=torch.float32), TEXT)
outputs = {}
for case, strengths in CASES.items():
    outputs[f"unet.{case}"] = run(unet, strengths, unet_output).float().contiguous()
    last, penultimate = run(text, strengths, text_output)
    outputs[f"text.{case}.last"], outputs[f"text.{case}.penultimate"] = last.float().contiguous(), penultimate.float().contiguous()
save_file(outputs, HERE / "outputs.safetensors")

for name, options in OPTIONS.items():
    peft_file, kohya_file = {}, {}
    for model, dotted, flat in ((unet, "unet.", "lora_unet_"), (text, "text_encoder.", "lora_te_")):
        for key, value in model.state_dict().items():
            for half, down in (("lora_A", "down"), ("lora_B", "up")):
                end = f".{half}.{name}.weight"
                if key.endswith(end):
                    module = key.removesuffix(end)
                    peft_file[f"{dotted}{module}.{half}.weight"] = value.half().contiguous()
                    module = flat + module.replace(".", "_")
                    kohya_file[f"{module}.lora_{down}.weight"] = value.half().contiguous()
                    kohya_file[f"{module}.alpha"] = torch.tensor(float(options["lora_alpha"]))
    if name == "ink":
        # As diffusers' pipelines save it: both modules in one file, PEFT's settings in its header.
        settings = {f"{scope}.{key}": value for scope in ("unet", "text_encoder") for key, value in options.items()}
        save_file(peft_file, HERE / "ink_peft.safetensors", metadata={"lora_adapter_metadata": json.dumps(settings)})
    else:
        save_file(kohya_file, HERE / "pan_kohya.safetensors")
base = {k: v for k, v in outputs.items() if ".base" in k}
for key, value in outputs.items():
    case = key.split(".")[1]
    print(key, tuple(value.shape), value.abs().max().item(), (value - base[key.replace(case, "base")]).abs().max().item())
