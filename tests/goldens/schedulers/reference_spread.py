"""How far diffusers is from itself where our bounds are wider than 1e-5: run twice, with MKL's newest instructions and its oldest.

torch takes square roots and logarithms from MKL, which rounds them differently from processor to processor. Where a step divides by
a difference of nearly equal numbers, that last bit decides. Run: python reference_spread.py
"""

import os
import subprocess
import sys
import tempfile

import torch
from diffusers import DDIMScheduler, DEISMultistepScheduler, EulerDiscreteScheduler

ZERO_SNR = {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def compute():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(2, 3, 2, 2, generator=generator)
    sample, output, noise = draw(), draw(), draw()

    ddim = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **ZERO_SNR)
    ddim.set_timesteps(25)
    first = ddim.step(output, ddim.timesteps[0], sample, eta=1.0, variance_noise=noise).prev_sample

    euler = EulerDiscreteScheduler(**ZERO_SNR)
    euler.set_timesteps(1000)

    deis = DEISMultistepScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", solver_order=3)
    deis.set_timesteps(20)
    x = sample
    for t in deis.timesteps:
        x = deis.step(x * 0.5 - 0.25, t, x).prev_sample
    return {
        "alphas_cumprod, zero SNR": ddim.alphas_cumprod[:-1],
        "sigmas, zero SNR": euler.sigmas[1:-1],
        "DDIM from pure noise, eta 1": first,
        "DEIS, order 3, 20 steps": x,
    }


def main():
    if len(sys.argv) > 1:
        torch.save(compute(), sys.argv[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for name, environment in [("newest", {}), ("oldest", {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"})]:
            file = os.path.join(folder, name)
            subprocess.run([sys.executable, __file__, file], env=os.environ | environment, check=True)
            results.append(torch.load(file))
    newest, oldest = results
    for name in newest:
        a, b = newest[name].double(), oldest[name].double()
        table = a.dim() == 1
        error = ((a - b).abs() / (b.abs() if table else b.abs().max())).max().item()
        print(f"{name}: {error:.1e}", "(NaN on one side)" if error != error else "")


if __name__ == "__main__":
    main()
