"""Time, memory and crash safety of `cargo xtask convert trio` on files of any size.

    python make_random_model.py MODEL && python make_trio.py MODEL TRIO --f32
    python measure_converter.py XTASK TRIO SCRATCH [--configs DIR]

Prints the converter's rate beside `cp` on the same files in the same run, its peak memory, what twenty `kill -9` leave behind,
and what a full disk does (a small tmpfs; needs root).
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("xtask", type=Path)
parser.add_argument("trio", type=Path)
parser.add_argument("scratch", type=Path)
parser.add_argument("--configs", type=Path)
parser.add_argument("--kills", type=int, default=20)
args = parser.parse_args()

files = [args.trio / name for name in ("unet.pth", "vae.ckpt", "clip.bin")]
size = sum(f.stat().st_size for f in files)
args.scratch.mkdir(parents=True, exist_ok=True)
output = args.scratch / "converted"


def command(target, *extra):
    line = [args.xtask, "convert", "trio", "--unet", files[0], "--vae", files[1], "--clip", files[2], "--output", target, *extra]
    return [str(x) for x in line + (["--configs", args.configs] if args.configs else [])]


def clean():
    for path in args.scratch.glob("converted*"):
        shutil.rmtree(path)


def run(line):
    """Wall seconds and peak memory (bytes) of a process that must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, line
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def copy():
    start = time.perf_counter()
    for file in files:
        subprocess.run(["cp", file, args.scratch / "copy"], check=True)
        subprocess.run(["sync", args.scratch / "copy"], check=True)
    (args.scratch / "copy").unlink()
    return time.perf_counter() - start


for file in files:  # into the page cache, as far as it fits
    subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True)
for name, extra in (("keep", []), ("f16", ["--dtype", "f16"])):
    clean()
    copied = copy()
    seconds, memory = run(command(output, *extra))
    print(f"--dtype {name}: {seconds:.1f} s, {size / seconds / 1e6:.0f} MB/s; cp and sync {copied:.1f} s, "
          f"{size / copied / 1e6:.0f} MB/s; ratio {copied / seconds:.2f}; peak {memory / 1e6:.0f} MB", flush=True)

whole = seconds
left = {"nothing": 0, "marked incomplete": 0, "complete": 0}
for i in range(args.kills):
    clean()
    process = subprocess.Popen(command(output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(random.uniform(0, whole * 1.05))
    process.send_signal(signal.SIGKILL)
    process.wait()
    if output.exists():
        assert (output / "i2vgen.json").exists() and not (output / ".incomplete").exists(), "half a folder has its final name"
        left["complete"] += 1
    elif (args.scratch / "converted.incomplete").exists():
        left["marked incomplete"] += 1
    else:
        left["nothing"] += 1
print(f"killed {args.kills} times: {left}")
if not output.exists():
    run(command(output))
    print("a second run completes:", (output / "i2vgen.json").exists(), sorted(p.name for p in args.scratch.iterdir()))

clean()
mount = args.scratch / "full"
mount.mkdir(exist_ok=True)
if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size // 3, 1 << 20)}", "tmpfs", mount]).returncode == 0:
    try:
        result = subprocess.run(command(mount / "converted"), capture_output=True, text=True)
        print("full disk:", result.returncode, result.stderr.strip(), "left:", list(mount.iterdir()))
    finally:
        subprocess.run(["umount", mount])
first = subprocess.Popen(command(output), stdout=subprocess.DEVNULL)
time.sleep(min(whole / 4, 2))
second = subprocess.run(command(output), capture_output=True, text=True)
print("two at once:", second.returncode, second.stderr.strip(), "| first:", first.wait())
clean()
sys.exit(0)
