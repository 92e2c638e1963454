"""Peak memory of real runs, for the memory estimate to be compared with.

    python measure.py I2VGEN SCRATCH [CASE..]

I2VGEN is the program (any profile: the memory is the same); SCRATCH takes the random models, about 5 GB, and keeps them.
Writes memory.json, or replaces the named cases in it. A case is model:height:width:frames:guidance:chunk, and after one
more colon other options of the program, without `--` and with commas between them; `prompts=N` is that many prompts. The
model was fitted on the cases in `runs`; those in `held_out` only check it. Times are not measured, so other work may share
the machine. Needs torch==2.15.0, diffusers==0.33.1, transformers==4.51.3.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[4]
DEMO = REPOSITORY / "crates/demo-model/model"
# Half as wide as the published model.
MIDDLE = {
    "unet": dict(block_out_channels=[160, 320, 640, 640], cross_attention_dim=512),
    "vae": dict(
        block_out_channels=[64, 128, 256, 256], down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2,
    ),
    "text_encoder": dict(
        vocab_size=1200, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
        hidden_act="gelu", projection_dim=512,
    ),
    "image_encoder": dict(
        hidden_size=640, intermediate_size=2560, num_hidden_layers=12, num_attention_heads=8, hidden_act="gelu",
        projection_dim=512, patch_size=14, image_size=224,
    ),
}
# The second step has the same tensors.
ONE = "num-inference-steps=1"
WIDE_VAE = MIDDLE["vae"] | {"block_out_channels": [128, 256, 512, 512]}
CASES = [
    "demo:64:64:8:9:1", "demo:128:128:16:9:4", "middle:128:128:4:9:1", "middle:256:256:4:9:1",
    "middle:512:512:2:1:1", f"middle:512:512:6:1:6:{ONE}", "full:64:64:1:1:1", "full:256:256:4:9:1",
]
HELD_OUT = [
    # Longer videos, and pictures that are no squares.
    f"middle:256:256:16:9:1:{ONE}", f"middle:192:448:24:9:1:{ONE}",
    f"middle:256:256:16:9:1:split-guidance,{ONE}",
    f"middle:256:256:8:9:1:prompts=2,{ONE}", f"middle:256:256:8:9:1:keep-resident,{ONE}",
    # The decoder is the peak.
    f"wide-vae:384:384:2:1:1:{ONE}", f"wide-vae:384:384:2:1:2:{ONE}",
    f"wide-vae:256:512:4:1:4:{ONE}", f"wide-vae:384:384:2:1:2:vae-slicing,{ONE}",
    f"wide-vae:384:384:2:1:1:vae-tiling,vae-tile-size=192,{ONE}",
    f"wide-vae:384:640:2:1:2:vae-tiling,vae-tile-size=256,vae-tile-overlap=0.125,{ONE}",
    f"full:64:64:2:9:1:keep-resident,{ONE}",
    # Measured after the last change of the model.
    f"wide-vae:448:320:3:1:3:{ONE}", "demo:192:160:12:9:2",
]


def middle(target):
    shutil.copytree(DEMO, target, ignore=shutil.ignore_patterns("*.safetensors"))
    side = {"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 224}}
    processor = json.loads((target / "feature_extractor/preprocessor_config.json").read_text())
    (target / "feature_extractor/preprocessor_config.json").write_text(json.dumps(processor | side))
    torch.manual_seed(0)
    I2VGenXLUNet(**MIDDLE["unet"]).half().save_pretrained(target / "unet")
    AutoencoderKL(**MIDDLE["vae"]).half().save_pretrained(target / "vae")
    CLIPTextModel(CLIPTextConfig(**MIDDLE["text_encoder"])).half().save_pretrained(target / "text_encoder")
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**MIDDLE["image_encoder"]))
    vision.half().save_pretrained(target / "image_encoder")


def wide_vae(target):
    """The toy model with the published VAE."""
    shutil.copytree(DEMO, target, ignore=shutil.ignore_patterns("vae"))
    torch.manual_seed(0)
    AutoencoderKL(**WIDE_VAE).half().save_pretrained(target / "vae")


def folder(model, scratch):
    if model == "demo":
        return DEMO
    target = scratch / model
    if not target.exists() and model == "full":
        script = REPOSITORY / "tests/peers/make_random_model.py"
        subprocess.run([sys.executable, str(script), str(target)], check=True)
    elif not target.exists():
        {"middle": middle, "wide-vae": wide_vae}[model](target)
    return target


def measure(program, case, scratch):
    model, height, width, frames, guidance, chunk, *options = case.split(":")
    output = scratch / "output.safetensors"
    image = REPOSITORY / "crates/demo-model/examples/red_circle_256.png"
    arguments = {
        "model": folder(model, scratch), "image": image, "prompt": "a red circle", "height": height, "width": width,
        "num-frames": frames, "guidance-scale": guidance, "decode-chunk-size": chunk, "num-inference-steps": 2,
        "seed": 1, "output": output,
    }
    command = [program, "generate", "--quiet"]
    for option in ",".join(options).split(",") if options else []:
        name, _, value = option.partition("=")
        if name == "prompts":
            command += ["--prompt", arguments["prompt"]] * (int(value) - 1)
        elif value:
            arguments[name] = value
        else:
            command.append(f"--{name}")
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True)
    # As the program itself saw it before it hashed the model's files, whose mapped pages would count as its memory.
    peak = json.loads(output.with_name(output.name + ".json").read_text())["peak_memory_bytes"]
    return peak


def main():
    program, scratch, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    scratch.mkdir(parents=True, exist_ok=True)
    target = HERE / "memory.json"
    data = json.loads(target.read_text()) if names else {}
    data = {"middle": MIDDLE, "wide_vae": WIDE_VAE, "runs": {}, "held_out": {}} | data
    for case in names or CASES + HELD_OUT:
        peak = measure(program, case, scratch)
        data["held_out" if case in HELD_OUT else "runs"][case] = peak
        print(case, peak / 1e9, flush=True)
        target.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main()
