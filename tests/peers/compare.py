"""diffusers and i2vgen on the same folder and arguments, one after the other: times, peak memory and the difference.

    python compare.py --model DIR --image FILE [--i2vgen target/release/i2vgen] [--height 256] [--width 256]
                      [--num-frames 4] [--num-inference-steps 2]

Both sides compute in f32 on 2 threads, take the posterior's mean and the same seed. Losing rows are printed too.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--i2vgen", default=str(HERE.parents[1] / "target/release/i2vgen"))
    parser.add_argument("--prompt", default="a red circle moves left")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--num-frames", type=int, default=4)
    parser.add_argument("--num-inference-steps", type=int, default=2)
    parser.add_argument("--guidance-scale", type=float, default=9.0)
    parser.add_argument("--seed", type=int, default=8888)
    args = vars(parser.parse_args())
    program = args.pop("i2vgen")

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "arguments.json").write_text(json.dumps(args))
        command = [program, "generate", "--compat", "diffusers", "--image-latents", "mode", "--quiet"]
        for name, value in args.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        subprocess.run(command + ["--output", str(folder / "ours.safetensors")], check=True)
        ours = json.loads((folder / "ours.safetensors.json").read_text())
        theirs = subprocess.run(
            [sys.executable, str(HERE / "run_diffusers.py"), str(folder / "arguments.json"),
             str(folder / "theirs.safetensors")],
            check=True, capture_output=True, text=True,
        ).stdout.splitlines()[-1]
        theirs = json.loads(theirs)
        a = load_file(folder / "ours.safetensors")["frames"]
        b = load_file(folder / "theirs.safetensors")["frames"]
    mse = ((a - b) ** 2).mean().item()
    psnr = float("inf") if mse == 0 else -10 * __import__("math").log10(mse)

    s, t = ours["seconds"], theirs["seconds"]
    steps = args["num_inference_steps"]
    # diffusers loads everything before the run; here each stage loads its own part, so the stages include it.
    rows = [
        ("peak memory, GB", ours["peak_memory_bytes"] / 1e9, theirs["peak_memory_bytes"] / 1e9),
        ("UNet step, s", s["denoise"] / steps, sum(t["unet_step"]) / steps),
        ("VAE decode, s", s["vae_decode"], sum(t["vae_decode"])),
        ("text encoder, s (ours with loading)", s["text_encoder"], sum(t["text_encoder"])),
        ("image encoder, s (ours with loading)", s["image_encoder"], sum(t["image_encoder"])),
        ("VAE encode, s (ours with loading)", s["vae_encode"], sum(t["vae_encode"])),
        ("UNet load, s (theirs: load of everything)", s["unet_load"], t["load"]),
        ("load and run, s", sum(s.values()), t["load"] + t["run"]),
    ]
    print(f"{'':44}{'i2vgen':>10}{'diffusers':>12}{'ratio':>8}")
    for name, mine, other in rows:
        print(f"{name:44}{mine:10.2f}{other:12.2f}{mine / other:8.2f}")
    print(f"frames: {psnr:.1f} dB PSNR between the two")


if __name__ == "__main__":
    main()
