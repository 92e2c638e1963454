"""What is lost by what is faster, on the demo model: runs of the i2vgen binary against its own full run, as a Markdown table.

    cargo build --release && python tests/peers/fidelity.py [--seeds 0 1] [--pictures 3] [--only cache]

For every picture and seed all rows are run one after the other, so that whatever else the machine does hits all of them; a row's
seconds are the median of its runs, its ratio the median of the ratios to the first row's run of the same picture and seed, and so of
the whole run's processor time, which says more on a busy machine. PSNRs are means of decibels; peak is the range of the
reference's latents, or 1 for frames. Work is that of the UNet of the published model at 256x256, 16 frames (torch's FLOPs in
crates/pipeline/tests/goldens/estimate/flops.json; an evaluation without guidance is half of one with it), which the toy's seconds do
not show. Needs numpy and safetensors.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "crates/demo-model/examples"
RUNS = [
    ("red_circle_64.png", "a red circle moves left"),
    ("yellow_star_64.png", "a yellow star moves up"),
    ("blue_square_64.png", "a blue square grows"),
]
SIZE = dict(height=64, width=64, num_frames=8, target_fps=8, guidance_scale=2.5, decode_chunk_size=8)
# The first row is what the others are compared with.
FULL = dict(num_inference_steps=50)
ROWS = [
    ("DDIM 50", FULL),
    ("DDIM 50, another seed", FULL | dict(other_seed=1000)),
    ("cache interval 2", FULL | dict(cache_interval=2)),
    ("cache interval 3", FULL | dict(cache_interval=3)),
    ("cache interval 5", FULL | dict(cache_interval=5)),
    ("guidance 0 to 0.5", FULL | dict(guidance_end=0.5)),
    ("guidance 0.1 to 0.8", FULL | dict(guidance_start=0.1, guidance_end=0.8)),
    ("no guidance", FULL | dict(guidance_scale=1.0)),
    ("DDIM 25", dict(num_inference_steps=25)),
    *((f"DPM++ 2M {n}", dict(num_inference_steps=n, scheduler="dpmsolver++")) for n in (15, 20, 25)),
    *((f"UniPC {n}", dict(num_inference_steps=n, scheduler="unipc")) for n in (15, 20, 25)),
    ("DPM++ 2M 20, cache interval 2", dict(num_inference_steps=20, scheduler="dpmsolver++", cache_interval=2)),
    ("UniPC 20, cache interval 2", dict(num_inference_steps=20, scheduler="unipc", cache_interval=2)),
    ("cache interval 3, guidance 0.1 to 0.8", FULL | dict(cache_interval=3, guidance_start=0.1, guidance_end=0.8)),
]


def work(options):
    """UNet operations of a run of the published model in units of an evaluation with guidance."""
    cases = json.loads((ROOT / "crates/pipeline/tests/goldens/estimate/flops.json").read_text())
    flops = next(case for case in cases if case["name"] == "square")["unet"]
    cached = flops["cached"] / (flops["all"] - flops["once"] - flops["context"])
    steps, interval = options["num_inference_steps"], options.get("cache_interval", 1)
    total, age, before = 0.0, 0, None
    for step in range(steps):
        inside = options.get("guidance_start", 0) <= step / steps < options.get("guidance_end", 1)
        guided = inside and options.get("guidance_scale", SIZE["guidance_scale"]) > 1
        age += 1
        if age >= interval or guided != before:
            age = 0
        total += (cached if age else 1.0) * (1.0 if guided else 0.5)
        before = guided
    return total


def run(binary, folder, image, prompt, seed, options):
    """Processor seconds, sidecar, latents and frames of one run."""
    options = SIZE | options
    seed += options.pop("other_seed", 0)
    flags = [x for key, value in options.items() for x in (f"--{key.replace('_', '-')}", str(value))]
    output, latents = folder / "frames.safetensors", folder / "latents.safetensors"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [binary, "generate", "--quiet", "--model", ROOT / "crates/demo-model/model", "--image", EXAMPLES / image,
         "--prompt", prompt, "--seed", str(seed), "--output", output, "--save-latents", latents, *flags], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    sidecar = json.loads(output.with_name(output.name + ".json").read_text())
    tensors = load_file(latents)["latents"], load_file(output)["frames"]
    return processor, sidecar, *(tensor.astype(numpy.float64) for tensor in tensors)


def psnr(found, expected, peak):
    error = numpy.mean((found - expected) ** 2)
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=ROOT / "target/release/i2vgen")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--pictures", type=int, default=len(RUNS))
    parser.add_argument("--only", help="the first row and those with this in their name")
    arguments = parser.parse_args()
    rows = [row for i, row in enumerate(ROWS) if i == 0 or arguments.only is None or arguments.only in row[0]]
    results = {name: [] for name, _ in rows}
    with tempfile.TemporaryDirectory() as folder:
        for image, prompt in RUNS[: arguments.pictures]:
            for seed in arguments.seeds:
                for name, options in rows:
                    processor, sidecar, latents, frames = run(arguments.binary, Path(folder), image, prompt, seed, options)
                    if name == rows[0][0]:
                        full = (sidecar, latents, frames, processor)
                    seconds, video = sidecar["seconds"]["denoise"], sidecar["videos"][0]
                    results[name].append((
                        seconds, seconds / full[0]["seconds"]["denoise"], processor / full[3],
                        psnr(latents, full[1], full[1].max() - full[1].min()), psnr(frames, full[2], 1.0),
                        video["first_frame_similarity"], video["motion_energy"],
                    ))
    runs = f"{arguments.pictures} pictures, {len(arguments.seeds)} seeds each"
    columns = [runs, "denoise, s", "ratio", "processor", "latents, dB (worst)", "frames, dB (worst)", "first frame", "motion"]
    print("| " + " | ".join([*columns, "full-size work"]) + " |")
    print("| ---" + " | ---:" * len(columns) + " |")
    for name, options in rows:
        seconds, ratio, processor, latents, frames, first, motion = zip(*results[name])
        median, mean = statistics.median, statistics.mean
        decibels = ["same" if name == rows[0][0] else f"{mean(x):.1f} ({min(x):.1f})" for x in (latents, frames)]
        times = [f"{median(x):.2f}" for x in (seconds, ratio, processor)]
        quality = [*decibels, f"{mean(first):.3f}", f"{mean(motion):.4f}"]
        print("|", name, "|", " | ".join([*times, *quality, f"{work(options) / work(rows[0][1]):.2f}"]), "|")


main()
