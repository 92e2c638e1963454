"""Makes the seed corpora beside this script from the converter's goldens.

    python make.py          (any Python 3; no packages)
"""

import json
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONVERTER = HERE.parents[2] / "weights-converter"
FILES = CONVERTER / "tests/goldens/files"
LEGACY_HEADERS = 3


def put(target, name, content):
    folder = HERE / target
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


def after_headers(stream):
    """What follows the first three pickles of a legacy stream; each ends where the next begins."""
    at = 0
    for _ in range(LEGACY_HEADERS):
        at = stream.index(b".\x80\x02", at) + 1
    return stream[at:]


for path in sorted(FILES.glob("*.pth")) + sorted(FILES.glob("*.ckpt")):
    content = path.read_bytes()
    if "legacy" in path.name:
        put("pickle", f"{path.stem}_file", b"\0" + content)
        put("pickle", f"{path.stem}_tail", b"\2" + after_headers(content))
        continue
    if path.name in ("no_crc.pth", "wrapped.pth"):
        put("pickle", f"{path.stem}_file", b"\0" + content)
    if "no_crc" in path.name:
        continue
    with zipfile.ZipFile(path) as archive:
        pickle = archive.read(f"{path.stem}/data.pkl")
    put("pickle", path.stem, b"\1" + pickle)
    if path.name == "wrapped.pth":
        pieces = (pickle, b"little", b"x/data/0")
        put("pickle", f"{path.stem}_pieces", b"\3" + b"".join(len(p).to_bytes(2, "little") + p for p in pieces))

plain = (FILES / "plain.safetensors").read_bytes()
length = int.from_bytes(plain[:8], "little")
put("safetensors", "plain_file", b"\0" + plain)
put("safetensors", "plain_header", b"\1" + plain[8 : 8 + length])
header = {"a": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}, "b": {"dtype": "F16", "shape": [16], "data_offsets": [32, 64]}}
put("safetensors", "small_header", b"\1" + json.dumps(header | {"__metadata__": {"format": "pt"}}).encode())

for path in sorted((CONVERTER / "src/configs").glob("*.json")):
    config = json.loads(path.read_text())
    if "block_out_channels" in config or "hidden_size" in config:
        put("config_layout", path.stem, json.dumps(config).encode())

shard = "diffusion_pytorch_model-00001-of-00002.safetensors"
put("shard_index", "one", json.dumps({"metadata": {"total_size": 4}, "weight_map": {"conv_in.bias": shard}}).encode())
put("shard_index", "outside", json.dumps({"weight_map": {"conv_in.bias": "../" + shard}}).encode())
put("shard_index", "itself", json.dumps({"weight_map": {"a": "config.json", "b": shard}}).encode())

for name in ("one", "outside"):
    put("checkpoint_weights", f"index_{name}", b"\1" + (HERE / "shard_index" / name).read_bytes())
put("checkpoint_weights", "plain_file", b"\0" + plain)

put("plan", "complete", bytes(range(1, 200)))
put("plan", "mixed", bytes((7 * n) % 256 for n in range(400)))

lora = {}
at = 0
for module in ("q_proj", "fc1"):
    kind = "self_attn" if module == "q_proj" else "mlp"
    for half, shape in (("lora_A", [2, 4]), ("lora_B", [4, 2])):
        key = f"text_model.encoder.layers.0.{kind}.{module}.{half}.weight"
        lora[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 32]}
        at += 32
rest = {"dtype": "U8", "shape": [512 - at], "data_offsets": [at, 512]}
scale = {"lora_adapter_metadata": json.dumps({"text_encoder.r": 2, "text_encoder.lora_alpha": 4, "use_rslora": True})}
put("lora", "peft", b"\x80\1" + json.dumps(lora | {"rest": rest}).encode())
put("lora", "scaled", b"\x60\1" + json.dumps({f"text_encoder.{k}": v for k, v in lora.items()} | {"rest": rest, "__metadata__": scale}).encode())
kohya = {}
at = 0
for half, shape in (("lora_down.weight", [2, 4]), ("lora_up.weight", [4, 2]), ("alpha", [])):
    size = 32 if shape else 4
    kohya[f"lora_te_text_model_encoder_layers_0_self_attn_q_proj.{half}"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
    at += size
put("lora", "kohya", b"\x80\1" + json.dumps(kohya | {"rest": {"dtype": "U8", "shape": [512 - at], "data_offsets": [at, 512]}}).encode())
