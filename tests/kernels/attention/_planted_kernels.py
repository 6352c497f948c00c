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

from kvproof.kernels.attention import make_workspace

KERNELS = Path(__file__).parents[3] / "kernels"
ATTENTION = KERNELS / "attention"


def load_kernels(folder: Path, *edits: tuple[str, str, str]) -> Any:
    """The `launch` module of kernels/attention/ with edits (file without .py, old, new); each old must occur once.

    folder  empty, takes the edited files; Triton reads its kernels' source there
    """
    for file, old, new in edits:
        path = folder / f"{file}.py"
        text = (path if path.exists() else ATTENTION / path.name).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"stale: {old!r} occurs {text.count(old)} times in {path.name}"
        path.write_text(text.replace(old, new), encoding="utf-8")
    package, room = ModuleType("kvproof_planted"), ModuleType("kvproof_planted.attention")
    package.__path__ = [str(KERNELS)]
    room.__path__ = [str(folder), str(ATTENTION)]  # what is not edited is loaded again beside it, unchanged
    try:
        sys.modules |= {package.__name__: package, room.__name__: room}
        return importlib.import_module(f"{room.__name__}.launch")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package.__name__]:
            del sys.modules[name]


def tensor(x: np.ndarray | None) -> torch.Tensor | None:
    """The same memory as a tensor; torch knows no other package's bfloat16."""
    if x is None or x.dtype != "bfloat16":
        return x if x is None else torch.from_numpy(x)
    return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)


def planted_op(module: Any, **options):
    """An op for attention_cases.check: what `decode_attention` does, by this `launch` module; options are its."""

    def op(q, k, v, lengths, *, k_new=None, v_new=None, block_table=None, k_scale=None, v_scale=None,
           alibi_slopes=None, scale=None, return_lse=True, **asked):  # fmt: skip
        rows = [x if q.ndim == 4 or x is None else x[:, None] for x in (k_new, v_new)]
        given = (q if q.ndim == 4 else q[:, None], k, v, lengths, *rows, block_table, k_scale, v_scale, alibi_slopes)
        x = module.Inputs(*map(tensor, given))
        B, M, H, D = x.q.shape
        engine = module.choose_engine(x.q.dtype, x.int8, x.queries, D)
        chosen = module.Options(D**-0.5 if scale is None else scale, **{"engine": engine, **asked, **options})
        partials = make_workspace(B, H, x.capacity, D, x.q.dtype, "cpu", M)
        out, lse = torch.full_like(x.q, torch.nan), torch.full(x.q.shape[:-1], torch.nan, dtype=partials.m.dtype)
        for sums in partials[:3]:
            sums.fill_(torch.nan)
        for kernel, grid, arguments, compiling in module.launches(x, chosen, module.Result(out, lse), partials):
            kernel[grid](**arguments, **compiling)
        o = out.view(torch.int16).numpy().view(q.dtype) if out.dtype == torch.bfloat16 else out.numpy()
        return o.reshape(q.shape), lse.numpy().reshape(q.shape[:-1])

    return op
