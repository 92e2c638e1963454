"""Tiny checkpoints as torch writes them, and in expected.safetensors what they hold, as "FILE/KEY".

    python generate.py          (torch 2.15.0, safetensors 0.8.0, numpy)
"""

import os
import pickle
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
torch.manual_seed(3)


def plain():
    return {
        "conv.weight": torch.randn(2, 3),
        "conv.bias": torch.randn(3).half(),
        "wide": torch.randn(2, 1, 2, dtype=torch.float64),
        "brain": torch.randn(4).bfloat16(),
        "ids": torch.arange(4).reshape(1, 4),
        "mask": torch.tensor([True, False, True]),
        "steps": torch.tensor(7, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
    }


def views():
    """All views of one storage of 24 numbers, and one storage of one."""
    base = torch.randn(24)
    grid = base.reshape(4, 6)
    return {
        "whole": base,
        "again": base,
        "transposed": grid.t(),
        "permuted": base.reshape(2, 3, 4).permute(2, 0, 1),
        "row": grid[2],
        "column": grid[:, 1],
        "steps": base[1::5],
        "overlapping": base.as_strided((5, 4), (2, 1), 3),
        "expanded": grid[1:2].expand(3, 6),
        "one": torch.tensor([1.5]).expand(2, 4),
        "middle": grid[1:3, 2:5],
    }


class Key:
    """A class used as a dictionary key, as Lightning's callbacks are."""


class Holder:
    """An object that holds a tensor, as Lightning's hyper-parameters may."""

    def __init__(self):
        self.tensor = torch.randn(2)


class System:
    """What a malicious file does. The marker file must never appear."""

    def __reduce__(self):
        return os.system, ("touch /tmp/i2vgen-bad-input-was-executed",)


def training():
    return {
        "epoch": 3,
        "state_dict": views() | plain(),
        "callbacks": {Key: {"best": 0.5}},
        "hyper_parameters": Holder(),
    }


def main():
    expected = {}

    def record(name, tensors):
        for key, tensor in tensors.items():
            expected[f"{name}/{key}"] = tensor.detach().clone().contiguous()

    def write(name, saved, tensors, **options):
        torch.save(saved, HERE / name, **options)
        record(name, tensors)

    state = plain()
    write("plain.pth", state, state)
    write("protocol4.pth", state, state, pickle_protocol=4)
    write("legacy.pth", state, state, _use_new_zipfile_serialization=False)
    save_file({k: v for k, v in state.items()}, HERE / "plain.safetensors", {"format": "pt"})
    record("plain.safetensors", state)
    state = views()
    write("views.pth", state, state)
    write("views_legacy.pth", state, state, _use_new_zipfile_serialization=False)
    saved = training()
    write("training.ckpt", saved, saved["state_dict"])
    wrapped = {"state_dict": {"module.a": torch.randn(2)}, "step": 1}
    write("wrapped.pth", wrapped, {"a": wrapped["state_dict"]["module.a"]})
    torch.serialization.set_crc32_options(False)
    state = views()
    write("no_crc.pth", state, state)
    saved = training()
    write("training_no_crc.ckpt", saved, saved["state_dict"])
    torch.serialization.set_crc32_options(True)
    saved = {0: torch.randn(2), 1: {2: torch.randn(1)}}
    write("integer_keys.pth", saved, {"0": saved[0], "1.2": saved[1][2]})
    parameters = {"p": nn.Parameter(torch.randn(2, 2)), "q": nn.Parameter(torch.randn(1), requires_grad=False)}
    write("parameters.pth", parameters, parameters)
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    write("module.pth", module, module.state_dict())
    weight = torch.randn(2)
    write("system_outside.pth", {"state_dict": {"a": weight}, "evil": System()}, {"a": weight})
    torch.save({"state_dict": {"a": weight, "evil": System()}}, HERE / "system_inside.pth")
    torch.save({"a": weight, "evil": System()}, HERE / "system_flat.pth")
    torch.save(System(), HERE / "system_root.pth")
    torch.save({"state_dict": {"a": weight, "q": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)}}, HERE / "quantized.pth")
    torch.save({"state_dict": {"a": weight, "s": torch.eye(2).to_sparse()}}, HERE / "sparse.pth")
    torch.save({"a": torch.randn(2, dtype=torch.complex64)}, HERE / "complex.pth")
    (HERE / "plain.pickle").write_bytes(pickle.dumps({"lr": 0.1, "name": "x"}, protocol=2))
    save_file(expected, HERE / "expected.safetensors")


if __name__ == "__main__":
    main()
