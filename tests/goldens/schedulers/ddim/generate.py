"""Goldens of DDIMScheduler. Needs torch 2.15.0, diffusers 0.33.1, safetensors; CPU.

    python generate.py              writes cases.json and ddim.safetensors beside this file (a random choice of cases)
    python generate.py --all DIR    writes every combination to DIR

A case picks one entry of each axis; merged, the entries are the scheduler's config and the arguments of the run.
"""

import argparse
import itertools
import json
import pathlib
import random

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler
from safetensors.numpy import save_file

assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert torch.__version__.startswith("2.15"), torch.__version__
torch.set_num_threads(2)

SCHEDULES = [
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"num_train_timesteps": 40, "trained_betas": [round(0.002 + 0.006 * i, 4) for i in range(40)]},
]
ZERO_SNR = [{"rescale_betas_zero_snr": False}, {"rescale_betas_zero_snr": True}]
AXES = [
    SCHEDULES,
    ZERO_SNR,
    [{"timestep_spacing": s} for s in ("leading", "linspace", "trailing")],
    [{"prediction_type": p} for p in ("epsilon", "sample", "v_prediction")],
    [
        {"clip_sample": False},
        {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.4},
        {"thresholding": True, "sample_max_value": 100.0},
        {"thresholding": True, "sample_max_value": 1.25, "dynamic_thresholding_ratio": 0.7},
    ],
    [
        {"set_alpha_to_one": True, "steps_offset": 1},
        {"set_alpha_to_one": False, "steps_offset": 0},
    ],
    [{"eta": 0.0}, {"eta": 0.3}, {"eta": 1.0}],
    [{"use_clipped_model_output": False}, {"use_clipped_model_output": True}],
    [{"num_inference_steps": n} for n in (5, 7, 20)],
]
CASES = 380
SHAPE = (2, 3, 2, 2)
POSITIONS = 3  # a case steps once at its first, its middle and its last timestep

generator = torch.Generator().manual_seed(2024)
SAMPLE, OUTPUT, NOISE = (
    torch.randn(POSITIONS, *SHAPE, generator=generator) * scale for scale in (1.2, 1.2, 1.0)
)


def scheduler_of(fields):
    known = DDIMScheduler().config.keys()
    return DDIMScheduler(**{k: v for k, v in fields.items() if k in known})


def positions(timesteps):
    return [0, len(timesteps) // 2, len(timesteps) - 1]


def step_case(fields):
    """The next samples and the predicted clean samples at the three positions."""
    scheduler = scheduler_of(fields)
    scheduler.set_timesteps(fields["num_inference_steps"])
    prev, original = [], []
    for i, position in enumerate(positions(scheduler.timesteps)):
        eta = fields["eta"]
        out = scheduler.step(
            OUTPUT[i],
            scheduler.timesteps[position],
            SAMPLE[i],
            eta=eta,
            use_clipped_model_output=fields["use_clipped_model_output"],
            variance_noise=NOISE[i] if eta > 0 else None,
        )
        prev.append(out.prev_sample)
        original.append(out.pred_original_sample)
    return torch.stack(prev), torch.stack(original)


def timestep_sums():
    """For each spacing and number of steps: the sum of (position + 1) * timestep."""
    rows = []
    for spacing in ("leading", "linspace", "trailing"):
        scheduler = DDIMScheduler(timestep_spacing=spacing)
        row = []
        for steps in range(1, 1001):
            scheduler.set_timesteps(steps)
            t = scheduler.timesteps.numpy()
            t = t[t >= 0]  # trailing has an extra -1 for some numbers of steps
            assert len(t) == steps
            row.append(int((t * np.arange(1, steps + 1)).sum()))
        rows.append(row)
    return np.array(rows, dtype=np.int32)


def loop(config, steps):
    """A whole run with a model that is cheap to repeat elsewhere."""
    scheduler = scheduler_of(config)
    scheduler.set_timesteps(steps)
    x = SAMPLE[0]
    for t in scheduler.timesteps:
        x = scheduler.step(x * 0.5 - 0.25, t, x).prev_sample
    return x


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", type=pathlib.Path)
    args = parser.parse_args()
    folder = args.all or pathlib.Path(__file__).parent

    choices = list(itertools.product(*(range(len(axis)) for axis in AXES)))
    random.Random(0).shuffle(choices)
    cases, prev, original = [], [], []
    for choice in choices:
        fields = {}
        for axis, i in zip(AXES, choice):
            fields |= axis[i]
        a, b = step_case(fields)
        # Zero SNR with epsilon, and rounding below zero under a root: no number to compare with.
        if not (a.isfinite().all() and b.isfinite().all()):
            continue
        cases.append(choice)
        prev.append(a)
        original.append(b[1:2])
        if not args.all and len(cases) == CASES:
            break

    tensors = {
        "sample": SAMPLE.numpy(),
        "output": OUTPUT.numpy(),
        "noise": NOISE.numpy(),
        "prev_sample": torch.stack(prev).numpy(),
        "pred_original_sample": torch.cat(original).numpy(),
        "timestep_sums": timestep_sums(),
    }
    for i, (schedule, snr) in enumerate(itertools.product(SCHEDULES, ZERO_SNR)):
        scheduler = scheduler_of(schedule | snr)
        tensors[f"alphas_cumprod.{i}"] = scheduler.alphas_cumprod.numpy()
        if snr["rescale_betas_zero_snr"]:
            tensors[f"betas.{i}"] = scheduler.betas.numpy()
    model = {
        "beta_schedule": "squaredcos_cap_v2",
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
        "steps_offset": 1,
        "clip_sample": False,
    }
    tensors["loop"] = loop(model, 50).numpy()
    t = torch.tensor([3, 981])
    scheduler = scheduler_of(model)
    tensors["add_noise"] = scheduler.add_noise(SAMPLE[0], NOISE[0], t).numpy()
    tensors["velocity"] = scheduler.get_velocity(SAMPLE[0], NOISE[0], t).numpy()

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ddim.safetensors"
    save_file(tensors, path, {"diffusers": "0.33.1", "torch": "2.15.0"})
    path.chmod(0o644)
    rows = ",\n".join(json.dumps(row) for row in AXES)
    picks = ",\n".join(json.dumps("".join(map(str, case))) for case in cases)
    (folder / "cases.json").write_text(
        f'{{"axes": [\n{rows}\n], "loop": {json.dumps(model)}, "cases": [\n{picks}\n]}}\n'
    )
    print(len(cases), "of", len(choices), "cases")


main()
