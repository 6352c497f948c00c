"""Decode attention with bugs planted in its source: the whole chain of kernel modules, loaded again from edited text.

A fault is a file of kernels/attention/, a piece of text that occurs there exactly once, and what replaces it; a fault
whose text is gone is reported as stale.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from kvproof.bench.judge.contract.op import to_numpy, to_torch
from kvproof.kernels.attention import make_workspace
from kvproof.reference.judge.features import plain_cache
from kvproof.reference.judge.rounding import log_sum_exp

KERNELS = Path(__file__).parents[3] / "kernels"
ATTENTION = KERNELS / "attention"


def source(file: str) -> Path:
    """Where the kernels of that name stand: in decode.py itself, or in the general op's room."""
    return (KERNELS if file == "decode" else ATTENTION) / f"{file}.py"


def load_kernels(folder: Path, *edits: tuple[str, str, str], module: str = "attention.launch") -> Any:
    """A module of kernels/ with edits (file without .py, old, new) in any of them; each old must occur once.

    folder  empty, takes the edited files; Triton reads its kernels' source there
    """
    for file, old, new in edits:
        path = folder / f"{file}.py"
        text = (path if path.exists() else source(file)).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"stale: {old!r} occurs {text.count(old)} times in {path.name}"
        path.write_text(text.replace(old, new), encoding="utf-8")
    package, room = ModuleType("kvproof_planted"), ModuleType("kvproof_planted.attention")
    package.__path__ = [str(folder), str(KERNELS)]
    room.__path__ = [str(folder), str(ATTENTION)]  # what is not edited is loaded again beside it, unchanged
    try:
        sys.modules |= {package.__name__: package, room.__name__: room}
        return importlib.import_module(f"{package.__name__}.{module}")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package.__name__]:
            del sys.modules[name]


def planted_op(module: Any, **options):
    """An op for cases.check: what `decode_attention` does, by this `launch` module; options are its."""

    def op(*, scale=None, return_lse=True, **call):
        arrays = {name: call.pop(name, None) for name in module.Inputs._fields}
        q = arrays["q"]
        if q.ndim == 3:
            arrays |= {name: arrays[name][:, None] for name in ("q", "k_new", "v_new") if arrays[name] is not None}
        x = module.Inputs(*(None if array is None else to_torch(array) for array in arrays.values()))
        B, M, H, D = x.q.shape
        engine = module.choose_engine(x.q.dtype, x.int8, x.queries, D)
        chosen = module.Options(D**-0.5 if scale is None else scale, **{"engine": engine, **call, **options})
        partials = make_workspace(B, H, x.capacity, D, x.q.dtype, "cpu", M)
        out, lse = torch.full_like(x.q, torch.nan), torch.full(x.q.shape[:-1], torch.nan, dtype=partials.m.dtype)
        for sums in partials[:3]:
            sums.fill_(torch.nan)
        for kernel, grid, arguments, compiling in module.launches(x, chosen, module.Result(out, lse), partials):
            kernel[grid](**arguments, **compiling)
        return to_numpy(out).reshape(q.shape), lse.numpy().reshape(q.shape[:-1])

    return op


def decode_op(module: Any):
    """An op for cases.check: `decode_attention` of kernels/decode.py, or of its twin. The log-sum-exp, which
    they do not return, is the formula's own."""

    def op(q, k, v, lengths, *, return_lse=True, block_table=None, **rows):
        arrays = {"q": q, "k": k, "v": v, "lengths": lengths, "block_table": block_table, **rows}
        if module.__name__.endswith("reference.decode"):
            o = module.decode_attention(**arrays)
        else:
            tensors = {name: None if x is None else to_torch(x) for name, x in arrays.items()}
            o = to_numpy(module.decode_attention(**tensors))
        plain, _ = plain_cache(k, v, block_table)
        return o, log_sum_exp(q, plain, lengths).astype(np.float64 if q.dtype == np.float64 else np.float32)

    return op
