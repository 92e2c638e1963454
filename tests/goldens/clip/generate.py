"""Both CLIP towers: transformers on the demo model, and on small random models with the other activations.

    python generate.py

Writes text.safetensors, vision.safetensors (inputs and outputs, names start with the model's) and a folder with weights for
each random model. Needs torch==2.15.0, transformers==4.51.3.
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

assert transformers.__version__ == "4.51.3", transformers.__version__
HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[2] / "crates/demo-model/model"
TEXT = dict(vocab_size=60, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3,
            max_position_embeddings=12, projection_dim=20, bos_token_id=58, eos_token_id=59, pad_token_id=1)
VISION = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=30, patch_size=8,
              projection_dim=20)
# The demo model has gelu.
ACTIVATIONS = {"text": ("quick_gelu", "gelu_new"), "vision": ("quick_gelu",)}
torch.set_num_threads(2)
torch.manual_seed(51)


def random(model):
    """Weights large enough that norms, biases and activations matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if parameter.ndim == 1 else 0.25))
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def models(kind, config_class, model_class, options):
    folder = {"text": "text_encoder", "vision": "image_encoder"}[kind]
    yield "demo", model_class.from_pretrained(DEMO / folder, torch_dtype=torch.float32).eval()
    for activation in ACTIVATIONS[kind]:
        model = random(model_class(config_class(hidden_act=activation, **options)))
        model.save_pretrained(HERE / f"{kind}_{activation}")
        yield activation, model


@torch.no_grad()
def main():
    tensors = {}
    for name, model in models("text", CLIPTextConfig, CLIPTextModel, TEXT):
        config = model.config
        ids = torch.randint(config.vocab_size, (2, config.max_position_embeddings // (3 if name == "demo" else 1)))
        tensors[f"{name}.ids"] = ids
        hidden = model(ids, output_hidden_states=True).hidden_states
        final = model.text_model.final_layer_norm
        tensors[f"{name}.none"] = model(ids).last_hidden_state
        for skip in range(config.num_hidden_layers + 1):
            # As the pipeline does it.
            tensors[f"{name}.{skip}"] = final(hidden[-(skip + 1)])
    save_file({name: t.contiguous() for name, t in tensors.items()}, HERE / "text.safetensors")

    tensors = {}
    for name, model in models("vision", CLIPVisionConfig, CLIPVisionModelWithProjection, VISION):
        side = model.config.image_size
        pixels = torch.randn(2, 3, side, side)
        tensors[f"{name}.pixels"] = pixels
        tensors[f"{name}.embeds"] = model(pixels).image_embeds
    save_file(tensors, HERE / "vision.safetensors")


main()
