"""How MS-Vid2Vid-XL samples: its noise schedule, its sigmas, both solvers and its guidance.

    python generate.py

The formulas are those of the ModelScope release; nothing here runs its code. All is computed in f64 and stored as f32. A run is
driven by `toy` instead of the UNet, which a test can repeat in any language.

Writes beside this script:
- cases.json: `runs`: per run `solver` ("dpmpp_2m_sde" or "heun"), `steps`, `guided`, `timesteps` (the integer of every model call, in
  order) and `indices` (the fractional index of every sigma but the last); `guidance`: per case `scale` and `rescale`.
- sampling.safetensors:
  - `sigmas` (1000): sigma of the VP schedule; `sigmas_in_f32` (1000): the same formulas with every tensor in f32, as the original
    computes them. They differ by up to 1e-4 of their value at low indices, by 2e-6 where the runs read them.
  - `z0`, `noise` (SHAPE): the encoded video and the noise of the start; `start`: alpha_599 z0 + sigma_599 noise.
  - `step_noise` (49, SHAPE): noise of the SDE's step i. The last step, to sigma 0, draws none.
  - `<run>.sigmas` (steps + 1): sigma / alpha, then 0; `<run>.samples` (steps, SHAPE): the sample after every step.
  - `<guidance case>.uncond`, `.cond`, `.output`: (rows, 4, frames, h, w).

In a guided run cond is `toy` and uncond is half of it plus 0.1. Needs: torch==2.15.0
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

assert torch.__version__.startswith("2.15.0"), torch.__version__
HERE = Path(__file__).resolve().parent
NOISE_LEVELS, START = 1000, 599
SHAPE = (1, 4, 2, 3, 2)
SCALE, RESCALE = 7.5, 0.2
RUNS = {
    "fast": ("dpmpp_2m_sde", 30, False),
    "fast_10": ("dpmpp_2m_sde", 10, False),
    "fast_guided": ("dpmpp_2m_sde", 10, True),
    "fast_2": ("dpmpp_2m_sde", 2, False),
    "fast_1": ("dpmpp_2m_sde", 1, False),
    "fast_50": ("dpmpp_2m_sde", 50, False),
    "normal": ("heun", 50, False),
    "normal_10": ("heun", 10, False),
    "normal_guided": ("heun", 10, True),
    "normal_11": ("heun", 11, False),
    "normal_1": ("heun", 1, False),
}
GUIDANCE = {
    "guidance": dict(scale=7.5, rescale=0.2),
    "guidance_full_rescale": dict(scale=7.5, rescale=1.0),
    "guidance_no_rescale": dict(scale=9.0, rescale=0.0),
}


def log_snr_schedule(dtype):
    """Cosine log-SNR, shifted by a resolution of 2 times the base at u = 1 and of 4 times at u = 0."""
    low, high = math.atan(math.exp(7.5)), math.atan(math.exp(-7.5))
    u = torch.linspace(1, 0, NOISE_LEVELS, dtype=dtype)
    log_snr = -2 * torch.log(torch.tan(low + u * (high - low)))
    log_snr = u * (log_snr + 2 * math.log(1 / 2)) + (1 - u) * (log_snr + 2 * math.log(1 / 4))
    return torch.sqrt(torch.sigmoid(-log_snr))


class Schedule:
    def __init__(self, dtype=torch.float64):
        self.sigmas = log_snr_schedule(dtype)
        self.alphas = torch.sqrt(1 - self.sigmas**2)
        self.log_ratio = torch.log(self.sigmas / self.alphas)

    def ratio(self, index):
        """sigma / alpha of a fractional index: linear in its logarithm."""
        low = index.floor().long()
        part = index - low
        return torch.exp((1 - part) * self.log_ratio[low] + part * self.log_ratio[index.ceil().long()])

    def timestep(self, ratio):
        """The nearest integer index, halves to even."""
        log = torch.log(ratio)
        low = int((self.log_ratio <= log).sum() - 1)
        low = min(max(low, 0), NOISE_LEVELS - 2)
        part = (log - self.log_ratio[low]) / (self.log_ratio[low + 1] - self.log_ratio[low])
        return int(torch.round(low + part.clamp(0, 1)))


def toy(x, t):
    """A model with the scale of a real one."""
    u = t / 1000
    return torch.sin(x * 1.3 + 2 * u) * 0.7 + x * 0.2 - 0.1


def guide(uncond, cond, scale, rescale):
    out = uncond + scale * (cond - uncond)
    axes = tuple(range(1, out.ndim))
    factor = cond.std(axes, keepdim=True) / (out.std(axes, keepdim=True) + 1e-12)  # unbiased
    return out * (rescale * factor + (1 - rescale))


class Denoiser:
    """x in sigma space to x0, remembering the timesteps of its calls."""

    def __init__(self, schedule, guided):
        self.schedule, self.guided, self.timesteps = schedule, guided, []

    def __call__(self, x, ratio):
        t = self.schedule.timestep(ratio)
        self.timesteps.append(t)
        x = x / torch.sqrt(ratio**2 + 1)
        out = toy(x, t)
        if self.guided:
            out = guide(0.5 * out + 0.1, out, SCALE, RESCALE)
        return self.schedule.alphas[t] * x - self.schedule.sigmas[t] * out


def indices(solver, steps):
    """Trailing spacing over 599..0. The SDE takes one more step and leaves out the last sigma before 0."""
    count = steps + (solver == "dpmpp_2m_sde")
    return START - torch.arange(count, dtype=torch.float64)[:steps] * ((START + 1) / count)


def dpmpp_2m_sde(denoise, x, sigmas, noise):
    """Midpoint form, eta 1, plain Gaussian noise."""
    previous = None
    for i, (sigma, following) in enumerate(zip(sigmas, sigmas[1:])):
        x0 = denoise(x, sigma)
        if following == 0:
            x = x0
        else:
            h = torch.log(sigma / following)
            gain = -torch.expm1(-2 * h)
            x = following / sigma * torch.exp(-h) * x + gain * x0
            if previous is not None:
                x = x + 0.5 * gain * h / previous[1] * (x0 - previous[0])
            x = x + following * torch.sqrt(gain) * noise[i]
            previous = x0, h
        yield x


def heun(denoise, x, sigmas, _):
    """Second order, without churn; the step to 0 is Euler's."""
    for sigma, following in zip(sigmas, sigmas[1:]):
        slope = (x - denoise(x, sigma)) / sigma
        predicted = x + slope * (following - sigma)
        if following > 0:
            slope = (slope + (predicted - denoise(predicted, following)) / following) / 2
            predicted = x + slope * (following - sigma)
        x = predicted
        yield x


SOLVERS = {"dpmpp_2m_sde": dpmpp_2m_sde, "heun": heun}


def run(solver, steps, guided, start, noise, dtype=torch.float64):
    schedule = Schedule(dtype)
    at = indices(solver, steps)
    sigmas = torch.cat([schedule.ratio(at.to(dtype)), torch.zeros(1, dtype=dtype)])
    denoise = Denoiser(schedule, guided)
    # Not times sqrt(1 + sigma²), which would be exact.
    x = start.to(dtype) * sigmas[0]
    samples = torch.stack(list(SOLVERS[solver](denoise, x, sigmas, noise.to(dtype))))
    assert samples.isfinite().all()
    return at, sigmas, samples, denoise.timesteps


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(8888)
    z0 = torch.randn(SHAPE, generator=generator)
    noise = torch.randn(SHAPE, generator=generator)
    step_noise = torch.randn(49, *SHAPE, generator=generator)
    schedule = Schedule()
    start = schedule.alphas[START] * z0.double() + schedule.sigmas[START] * noise.double()
    in_f32 = log_snr_schedule(torch.float32)
    relative = ((in_f32 - schedule.sigmas) / schedule.sigmas).abs()
    print(f"sigma_0 {schedule.sigmas[0]:.6f}, sigma_599 {schedule.sigmas[599]:.6f}, sigma_999 {schedule.sigmas[999]:.9f}")
    print(f"f32 table off by {relative.max():.1e}, by {relative[11:600].max():.1e} where the runs read it")
    tensors = dict(
        sigmas=schedule.sigmas, sigmas_in_f32=in_f32, z0=z0, noise=noise, start=start, step_noise=step_noise,
    )
    runs = {}
    for name, (solver, steps, guided) in RUNS.items():
        at, sigmas, samples, timesteps = run(solver, steps, guided, start, step_noise)
        assert len(samples) == steps and len(timesteps) == (steps if solver == "dpmpp_2m_sde" else 2 * steps - 1)
        narrow = run(solver, steps, guided, start, step_noise, torch.float32)
        assert narrow[3] == timesteps
        tensors[f"{name}.sigmas"], tensors[f"{name}.samples"] = sigmas, samples
        runs[name] = dict(solver=solver, steps=steps, guided=guided, timesteps=timesteps, indices=at.tolist())
        print(name, [round(float(s), 4) for s in (*sigmas[:2], *sigmas[-2:])], f"std {samples[-1].std():.3f},",
              f"all in f32 {(narrow[2] - samples).abs().max():.1e}")
    for name, case in GUIDANCE.items():
        uncond, cond = (torch.randn(2, 4, 2, 3, 2, generator=generator) for _ in range(2))
        cond = cond * torch.tensor([1.0, 0.3]).reshape(2, 1, 1, 1, 1) + 0.2  # rows of different spread
        tensors[f"{name}.uncond"], tensors[f"{name}.cond"] = uncond, cond
        tensors[f"{name}.output"] = guide(uncond.double(), cond.double(), **case)
    rows = [",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in part.items()) for part in (runs, GUIDANCE)]
    (HERE / "cases.json").write_text(f'{{\n "runs": {{\n{rows[0]}\n }},\n "guidance": {{\n{rows[1]}\n }}\n}}\n')
    save_file({key: value.float().contiguous() for key, value in tensors.items()}, HERE / "sampling.safetensors")


main()
