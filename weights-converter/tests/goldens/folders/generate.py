"""A diffusers folder as older versions wrote it: pickles, shards, a variant, old names.

    cargo xtask convert trio --unet O/unet.pth --vae O/vae.ckpt --clip O/clip.bin --configs O/configs --output BASE
    python generate.py BASE          (O: ../originals)

The UNet is left to the test, for its size. Needs: torch==2.15.0 safetensors
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent / "old"
BASE = Path(sys.argv[1])
shutil.rmtree(HERE, ignore_errors=True)
for part in ("vae", "text_encoder", "image_encoder", "scheduler", "feature_extractor", "tokenizer"):
    (HERE / part).mkdir(parents=True)
    for file in (BASE / part).iterdir():
        if file.suffix in (".json", ".txt"):
            shutil.copy(file, HERE / part)
shutil.copy(BASE / "model_index.json", HERE)

# The VAE of diffusers before 0.15: query, key, value, proj_attn, here as 1x1 convolutions.
old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
vae = {}
for key, value in load_file(BASE / "vae/diffusion_pytorch_model.safetensors").items():
    if "attentions.0." in key:
        for new, name in old.items():
            if f".{new}." in key:
                key = key.replace(new, name)
                value = value[:, :, None, None] if key.endswith("weight") else value
    vae[key] = value.contiguous()
torch.save(vae, HERE / "vae/diffusion_pytorch_model.bin")

# The text encoder in two shards, without prefix, with position ids.
text = {k.removeprefix("text_model."): v for k, v in load_file(BASE / "text_encoder/model.safetensors").items()}
text["embeddings.position_ids"] = torch.arange(77)[None]
keys = sorted(text)
shards = {"pytorch_model-00001-of-00002.bin": keys[::2], "pytorch_model-00002-of-00002.bin": keys[1::2]}
for name, part in shards.items():
    torch.save({k: text[k] for k in part}, HERE / "text_encoder" / name)
index = {"metadata": {"total_size": 0}, "weight_map": {k: n for n, part in shards.items() for k in part}}
(HERE / "text_encoder/pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1))

# The image encoder as nothing but an fp16 variant, in a pickle that is not a zip archive.
vision = load_file(BASE / "image_encoder/model.safetensors")
vision["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
torch.save(vision, HERE / "image_encoder/pytorch_model.fp16.bin", _use_new_zipfile_serialization=False)
