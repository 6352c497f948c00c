"""Decode attention with bugs planted in its source: the whole chain of kernel modules, loaded again from edited text.

A fault is a file of kernels/attention/, a piece of text that occurs there exactly once, and what replaces it; when a
kernel changes under a fault, the fault says that it is stale.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from kvproof.kernels.attention.workspace import workspace
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


def tensor(x: np.ndarray | None) -> torch.Tensor | None:
    """The same memory as a tensor; torch knows no other package's bfloat16."""
    if x is None or x.dtype != "bfloat16":
        return x if x is None else torch.from_numpy(x)
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)


def planted_op(module: Any, **options):
    """An op for cases.check: what `decode_attention` does, by this `launch` module; options are its."""

    def op(q, k, v, lengths, *, k_new=None, v_new=None, block_table=None, k_scale=None, v_scale=None,
           alibi_slopes=None, scale=None, return_lse=True, **asked):  # fmt: skip
        rows = [x if q.ndim == 4 or x is None else x[:, None] for x in (k_new, v_new)]
        inputs = [tensor(x) for x in (q if q.ndim == 4 else q[:, None], k, v, lengths, *rows, block_table)]
        heads, keys, table = inputs[0], inputs[1], inputs[6]
        assert heads is not None
        assert keys is not None
        B, M, H, D = heads.shape
        T = keys.shape[2] if table is None else table.shape[1] * keys.shape[2]
        engine = module.choose_engine(heads.dtype, k_scale is not None, M * H // keys.shape[1], D)
        chosen = module.Options(D**-0.5 if scale is None else scale, **{"engine": engine, **asked, **options})
        parts = workspace(B, H, T, D, heads.dtype, "cpu", M)
        out, lse = torch.full_like(heads, torch.nan), torch.full(heads.shape[:-1], torch.nan, dtype=parts.m.dtype)
        for x in parts[:3]:
            x.fill_(torch.nan)
        inputs += [tensor(x) for x in (k_scale, v_scale, alibi_slopes)]
        for kernel, grid, arguments, compiling in module.launches(*inputs, out, lse, parts, chosen):
            kernel[grid](**arguments, **compiling)
        o = out.view(torch.int16).numpy().view(q.dtype) if out.dtype == torch.bfloat16 else out.numpy()
        return o.reshape(q.shape), lse.numpy().reshape(q.shape[:-1])

    return op


def decode_op(module: Any):
    """An op for cases.check: `decode_attention` of kernels/decode.py, or of its twin. The log-sum-exp, which
    they do not return, is the formula's own."""

    def op(q, k, v, lengths, *, return_lse=True, block_table=None, **rows):
        arrays = {"q": q, "k": k, "v": v, "lengths": lengths, "block_table": block_table, **rows}
        if module.__name__.endswith("reference.decode"):
            o = module.decode_attention(**arrays)
        else:
            out = module.decode_attention(**{name: tensor(x) for name, x in arrays.items()})
            o = out.view(torch.int16).numpy().view(q.dtype) if out.dtype == torch.bfloat16 else out.numpy()
        plain, _ = plain_cache(k, v, block_table)
        return o, log_sum_exp(q, plain, lengths).astype(np.float64 if q.dtype == np.float64 else np.float32)

    return op
