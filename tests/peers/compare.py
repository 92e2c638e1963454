"""diffusers and i2vgen on the same folder and arguments, in turns: times, peak memory and the difference.

    python compare.py --model DIR --image FILE [--i2vgen target/release/i2vgen] [--height 256] [--width 256]
                      [--num-frames 4] [--num-inference-steps 2] [--repeat 1] [--keep-resident]

Both sides compute in f32 on as many threads as the machine has cores, take the posterior's mean and the same seed. With --repeat the
sides take turns in going first; columns are medians, and the ratio is the median of the pairs' ratios. --keep-resident makes ours load
everything before the first stage, as diffusers does. Losing rows are printed too.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
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
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--keep-resident", action="store_true")
    args = vars(parser.parse_args())
    program, repeat, resident = args.pop("i2vgen"), args.pop("repeat"), args.pop("keep_resident")

    def timed(command):
        start = time.perf_counter()
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return out, time.perf_counter() - start

    def run_ours(folder):
        command = [program, "generate", "--compat", "diffusers", "--image-latents", "mode", "--quiet"]
        for name, value in args.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        if resident:
            command.append("--keep-resident")
        _, wall = timed(command + ["--output", str(folder / "ours.safetensors")])
        return json.loads((folder / "ours.safetensors.json").read_text()) | {"wall": wall}

    def run_theirs(folder):
        (folder / "arguments.json").write_text(json.dumps(args))
        out, wall = timed([sys.executable, str(HERE / "run_diffusers.py"), str(folder / "arguments.json"),
                           str(folder / "theirs.safetensors")])
        return json.loads(out.splitlines()[-1]) | {"wall": wall}

    pairs = []
    for i in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            if i % 2 == 0:
                ours, theirs = run_ours(folder), run_theirs(folder)
            else:
                theirs, ours = run_theirs(folder), run_ours(folder)
            a = load_file(folder / "ours.safetensors")["frames"]
            b = load_file(folder / "theirs.safetensors")["frames"]
        mse = ((a - b) ** 2).mean().item()
        psnr = math.inf if mse == 0 else -10 * math.log10(mse)
        pairs.append((rows(ours, theirs, args["num_inference_steps"], resident), psnr))

    print(f"{'':44}{'i2vgen':>10}{'diffusers':>12}{'ratio':>8}")
    for same in zip(*(rows for rows, _ in pairs)):
        mine, other = (statistics.median(row[side] for row in same) for side in (1, 2))
        ratios = [row[1] / row[2] for row in same]
        spread = f"{min(ratios):8.2f} to {max(ratios):.2f}" if repeat > 1 else ""
        print(f"{same[0][0]:44}{mine:10.2f}{other:12.2f}{statistics.median(ratios):8.2f}{spread}")
    print(f"frames: {min(psnr for _, psnr in pairs):.1f} dB PSNR between the two")


def rows(ours, theirs, steps, resident):
    s, t = ours["seconds"], theirs["seconds"]
    # diffusers loads everything before the run; here each stage loads its own part, unless all is kept resident.
    loading = "" if resident else " (ours with loading)"
    return [
        ("peak memory, GB", ours["peak_memory_bytes"] / 1e9, theirs["peak_memory_bytes"] / 1e9),
        ("UNet step, s", s["denoise"] / steps, sum(t["unet_step"]) / steps),
        ("VAE decode, s", s["vae_decode"], sum(t["vae_decode"])),
        (f"text encoder, s{loading}", s["text_encoder"], sum(t["text_encoder"])),
        (f"image encoder, s{loading}", s["image_encoder"], sum(t["image_encoder"])),
        (f"VAE encode, s{loading}", s["vae_encode"], sum(t["vae_encode"])),
        ("load and run, s", sum(s.values()), t["load"] + t["run"]),
        ("whole process, s (theirs with imports)", ours["wall"], theirs["wall"]),
    ]


if __name__ == "__main__":
    main()
