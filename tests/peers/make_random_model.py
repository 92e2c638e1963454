"""Writes a full-size I2VGen-XL diffusers folder with random f16 weights (about 5 GB).

    python make_random_model.py DIR

The configs are the published ones; only speed and memory can be compared with it, not pictures.
Needs: torch==2.15.0 diffusers==0.33.1 transformers==4.51.3
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, I2VGenXLUNet
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

REPOSITORY = Path(__file__).resolve().parents[2]


def random_half(build):
    """Weights as PyTorch initialises them, in f16, one component at a time in memory."""
    torch.manual_seed(0)
    return build().half().eval()


def main(target: Path):
    target.mkdir(parents=True, exist_ok=True)
    # The tokenizer and the processor of the demo model: ids below 1200 are valid for any CLIP text tower.
    demo = REPOSITORY / "crates/demo-model/model"
    (target / "tokenizer").mkdir(exist_ok=True)
    for file in (demo / "tokenizer").iterdir():
        (target / "tokenizer" / file.name).write_bytes(file.read_bytes())
    (target / "feature_extractor").mkdir(exist_ok=True)
    processor = json.loads((demo / "feature_extractor/preprocessor_config.json").read_text())
    processor["crop_size"] = {"height": 224, "width": 224}
    processor["size"] = {"shortest_edge": 224}
    (target / "feature_extractor/preprocessor_config.json").write_text(json.dumps(processor, indent=2))

    random_half(lambda: I2VGenXLUNet(sample_size=32)).save_pretrained(target / "unet")
    vae = dict(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=768,
    )
    random_half(lambda: AutoencoderKL(**vae)).save_pretrained(target / "vae")
    text = CLIPTextConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        hidden_act="gelu", projection_dim=1024,
    )
    # 24 layers, as published: the pipeline's clip_skip leaves the last one out.
    random_half(lambda: CLIPTextModel(text)).save_pretrained(target / "text_encoder")
    vision = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16,
        hidden_act="gelu", projection_dim=1024, patch_size=14, image_size=224,
    )
    random_half(lambda: CLIPVisionModelWithProjection(vision)).save_pretrained(target / "image_encoder")
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True,
        set_alpha_to_one=True, clip_sample=False, timestep_spacing="leading", steps_offset=1,
    )
    scheduler.save_pretrained(target / "scheduler")
    index = json.loads((demo / "model_index.json").read_text())
    (target / "model_index.json").write_text(json.dumps(index, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
