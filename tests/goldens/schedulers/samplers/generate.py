"""Goldens of whole runs of diffusers' schedulers. Needs torch 2.15.0, diffusers 0.33.1, scipy, safetensors; CPU.

    python generate.py     writes cases.json and samplers.safetensors beside this file

A run starts at START times init_noise_sigma and is driven by `toy`, which a test can repeat in any language. Noise is
taken from NOISE, one image per draw. Kept are timesteps, sigmas and the sample after every evaluation.

Zero-SNR betas are torch's, kept in `rescaled_betas`. Classes that ignore `rescale_betas_zero_snr` get them as
`trained_betas`, with the last of the alphas_cumprod set to 2^-24 as the other classes set it.
"""

import importlib
import json
import pathlib
import warnings

import diffusers
import torch
from safetensors.numpy import save_file

warnings.filterwarnings("ignore")
assert diffusers.__version__ == "0.33.1", diffusers.__version__
assert torch.__version__.startswith("2.15"), torch.__version__
torch.set_num_threads(1)

FILES = {
    "ddim": ("DDIMScheduler", "ddim"),
    "ddpm": ("DDPMScheduler", "ddpm"),
    "pndm": ("PNDMScheduler", "pndm"),
    "lms": ("LMSDiscreteScheduler", "lms_discrete"),
    "euler": ("EulerDiscreteScheduler", "euler_discrete"),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", "euler_ancestral_discrete"),
    "heun": ("HeunDiscreteScheduler", "heun_discrete"),
    "kdpm2": ("KDPM2DiscreteScheduler", "k_dpm_2_discrete"),
    "dpmsolver++": ("DPMSolverMultistepScheduler", "dpmsolver_multistep"),
    "sde-dpmsolver++": ("DPMSolverMultistepScheduler", "dpmsolver_multistep"),
    "unipc": ("UniPCMultistepScheduler", "unipc_multistep"),
    "deis": ("DEISMultistepScheduler", "deis_multistep"),
    "lcm": ("LCMScheduler", "lcm"),
}
NEVER_RESCALED = ("pndm", "lms", "heun", "kdpm2", "deis")
KARRAS = ("lms", "euler", "heun", "kdpm2", "dpmsolver++", "sde-dpmsolver++", "unipc", "deis")
NO_SAMPLE = ("pndm", "euler-ancestral", "kdpm2")

MODEL = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "rescale_betas_zero_snr": True,
    "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": True,
    "clip_sample": False,
}
LATENT = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
}

SHAPE = (2, 1, 2, 2)
generator = torch.Generator().manual_seed(8888)
START = torch.randn(SHAPE, generator=generator)
NOISE = torch.randn(60, *SHAPE, generator=generator)
RESCALED = diffusers.DDIMScheduler(
    beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=True
).betas


def toy(x, t):
    """A model with the scale of a real one."""
    u = float(t) / 1000
    return torch.sin(x * 1.3 + 2 * u) * 0.7 + x * 0.2 - 0.1


def build(name, config):
    cls = getattr(importlib.import_module("diffusers.schedulers"), FILES[name][0])
    config = dict(config)
    if name == "sde-dpmsolver++":
        config["algorithm_type"] = "sde-dpmsolver++"
    patched = name in NEVER_RESCALED and config.get("rescale_betas_zero_snr")
    if patched:
        del config["rescale_betas_zero_snr"]
        config["trained_betas"] = RESCALED.tolist()
    scheduler = cls.from_config(config)
    if patched:
        scheduler.alphas_cumprod[-1] = 2**-24
    return scheduler


def run(name, config, steps, begin=0):
    scheduler = build(name, config)
    scheduler.set_timesteps(steps)
    if name == "deis" and (config.get("solver_order") == 3 or scheduler.sigmas[0] > 100):
        # Its formulas subtract large numbers: in f32, three digits are left of some coefficients.
        scheduler.sigmas = scheduler.sigmas.double()
    if hasattr(scheduler, "set_begin_index"):
        # Karras sigmas can give two steps one whole timestep, and diffusers would start at the second of them.
        scheduler.set_begin_index(begin)
    draws = iter(NOISE)
    drawn = 0

    def randn_tensor(shape, **_):
        nonlocal drawn
        drawn += 1
        return next(draws)

    module = importlib.import_module(f"diffusers.schedulers.scheduling_{FILES[name][1]}")
    module.randn_tensor = randn_tensor
    x = START * scheduler.init_noise_sigma
    samples = []
    for t in scheduler.timesteps[begin:]:
        output = toy(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(output, t, x).prev_sample.float()
        samples.append(x)
    samples = torch.stack(samples)
    if not samples.isfinite().all():
        return None
    return {
        "samples": samples,
        "timesteps": scheduler.timesteps.float(),
        "sigmas": scheduler.sigmas.float() if hasattr(scheduler, "sigmas") else torch.zeros(0),
        "init": float(scheduler.init_noise_sigma),
        "draws": drawn,
    }


def cases():
    """Name, config and numbers of steps. The config is the model's, unless it says otherwise."""
    many, few, one = (5, 10, 20, 50), (5, 20), (10,)
    for name in FILES:
        if name == "ddim":
            continue
        yield name, MODEL, many
        yield name, LATENT, few
        # The constructor's defaults.
        yield name, {}, (7,)
        yield name, {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}, (7,)
        for spacing in ("linspace", "trailing"):
            if name != "pndm":  # which would divide by a signal of 0
                yield name, MODEL | {"timestep_spacing": spacing}, one
            yield name, LATENT | {"timestep_spacing": spacing}, one
        if name not in NO_SAMPLE:
            yield name, LATENT | {"prediction_type": "sample"}, (6,)
        if name in NEVER_RESCALED:
            yield name, MODEL | {"rescale_betas_zero_snr": False}, few
        if name in KARRAS:
            yield name, MODEL | {"use_karras_sigmas": True}, many
            yield name, LATENT | {"use_karras_sigmas": True}, one
        yield name, LATENT, (1,)
    yield "pndm", MODEL | {"skip_prk_steps": True}, many
    yield "pndm", LATENT | {"skip_prk_steps": True, "set_alpha_to_one": True}, few
    yield "ddpm", MODEL | {"variance_type": "fixed_large"}, one
    yield "ddpm", MODEL | {"variance_type": "fixed_small_log"}, one
    yield "ddpm", LATENT | {"thresholding": True, "sample_max_value": 1.5}, one
    yield "ddpm", LATENT | {"clip_sample": True, "clip_sample_range": 0.7}, one
    yield "heun", LATENT | {"clip_sample": True, "clip_sample_range": 0.7}, one
    yield "euler", MODEL | {"final_sigmas_type": "sigma_min"}, one
    yield "lcm", MODEL | {"original_inference_steps": 100, "timestep_scaling": 3.0}, (7, 38)
    for name in ("dpmsolver++", "sde-dpmsolver++"):
        for order, kind in ((1, "midpoint"), (2, "heun"), (3, "midpoint")):
            yield name, MODEL | {"solver_order": order, "solver_type": kind}, many
        yield name, LATENT | {"solver_order": 3, "lower_order_final": False}, few
        yield name, MODEL | {"solver_order": 3, "final_sigmas_type": "sigma_min"}, (10, 20)
    yield "dpmsolver++", LATENT | {"euler_at_final": True, "final_sigmas_type": "sigma_min"}, (20,)
    yield "dpmsolver++", LATENT | {"thresholding": True, "sample_max_value": 1.5}, one
    for order in (1, 3):
        yield "unipc", MODEL | {"solver_order": order}, many
        yield "deis", MODEL | {"solver_order": order}, many
        yield "deis", MODEL | {"solver_order": order, "use_karras_sigmas": True}, (20,)
    for order in (1, 2, 3):
        bh1 = {"solver_order": order, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}
        yield "unipc", MODEL | bh1, few
        yield "unipc", LATENT | bh1 | {"lower_order_final": False}, (10,)
    yield "unipc", MODEL | {"disable_corrector": [0, 3]}, one
    yield "unipc", MODEL | {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, one
    yield "deis", LATENT | {"lower_order_final": False}, (10,)


# Where a run begins later than at its first evaluation. (LMS in diffusers takes derivatives for known that are not.)
BEGIN = {"euler": 3, "euler-ancestral": 3, "heun": 4, "kdpm2": 4, "lcm": 3, "unipc": 3, "deis": 3} | {
    "dpmsolver++": 3,
    "sde-dpmsolver++": 3,
}


def main():
    folder = pathlib.Path(__file__).parent
    tensors = {
        "start": START.numpy(),
        "noise": NOISE.numpy(),
        "rescaled_betas": RESCALED.numpy(),
    }
    flat = {"samples": [], "timesteps": [], "sigmas": []}
    listed, configs, skipped = [], [], []
    all_cases = [(*case, 0) for case in cases()]
    for name, begin in BEGIN.items():
        third = {"solver_order": 3} if name in ("dpmsolver++", "sde-dpmsolver++", "unipc") else {}
        all_cases.append((name, MODEL | third, (10,), begin))
    for name, config, lengths, begin in all_cases:
        for steps in lengths:
            try:
                result = run(name, config, steps, begin)
            except (IndexError, ValueError, RuntimeError, AssertionError) as error:
                result = None
                print(name, config, steps, repr(error)[:100])
            if result is None:
                skipped.append((name, steps, config))
                continue
            if config not in configs:
                configs.append(config)
            row = {"name": name, "config": configs.index(config), "steps": steps}
            if begin:
                row["begin"] = begin
            for key, parts in flat.items():
                parts.append(result[key].flatten())
                row[key] = result[key].numel()
            listed.append(row | {"init": result["init"], "draws": result["draws"]})
    for key, parts in flat.items():
        tensors[key] = torch.cat(parts).numpy()
    path = folder / "samplers.safetensors"
    save_file(tensors, path, {"diffusers": "0.33.1", "torch": "2.15.0"})
    path.chmod(0o644)
    rows = [",\n".join(json.dumps(row) for row in part) for part in (configs, listed)]
    (folder / "cases.json").write_text(
        f'{{"configs": [\n{rows[0]}\n], "runs": [\n{rows[1]}\n]}}\n'
    )
    print(len(listed), "runs;", "not finite in diffusers:")
    for case in skipped:
        print("  ", *case)


main()
