"""Triton kernels in bfloat16 alone before the judge: right ones, and those with a bug planted in their source."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from kvproof.bench.judge.contract.op import to_torch
from kvproof.bench.judge.subjects.shadowed import SHADOW_GATE, shadowed
from kvproof.bench.measure.gate import to_numpy
from kvproof.kernels.attention import make_workspace
from kvproof.reference.judge.cases import Case, draw
from kvproof.reference.judge.features import append, plain_cache
from kvproof.reference.judge.parity import judge
from kvproof.reference.judge.rounding import attention, attention_error
from kvproof.reference.judge.verdict import Verdict

QUESTION = "the kernel against the formula"


def in_bfloat16(case: Case) -> Case:
    return replace(case, dtype="bfloat16")


def decode_path(module: Any, case: Case) -> Callable[[str], torch.Tensor]:
    """What kernels/decode.py gives, as a path of the judge's."""

    def path(dtype):
        return module.decode_attention(**tensors(draw(case)))

    return path


def tensors(call: dict[str, Any]) -> dict[str, Any]:
    return {name: to_torch(x) if isinstance(x, np.ndarray) else x for name, x in call.items()}


def general_path(module: Any, case: Case, engine: str) -> Callable[[str], torch.Tensor]:
    """What an engine of the general op gives, by a `launch` module, as `_planted_kernels.planted_op` calls it."""

    def path(dtype):
        call = tensors(draw(case))
        scale = call.pop("scale", None)
        arrays = {name: call.pop(name, None) for name in module.Inputs._fields}
        if arrays["q"].ndim == 3:
            arrays |= {name: arrays[name][:, None] for name in ("q", "k_new", "v_new") if arrays[name] is not None}
        x = module.Inputs(*arrays.values())
        B, M, H, D = x.q.shape
        chosen = module.Options(D**-0.5 if scale is None else scale, **{"engine": engine, **call})
        partials = make_workspace(B, H, x.capacity, D, x.q.dtype, "cpu", M)
        out, lse = torch.full_like(x.q, torch.nan), torch.full(x.q.shape[:-1], torch.nan, dtype=partials.m.dtype)
        for kernel, grid, arguments, compiling in module.launches(x, chosen, module.Result(out, lse), partials):
            kernel[grid](**arguments, **compiling)
        return out

    return path


class Formula:
    """The plain formula on the case's own numbers, in float64; in other dtypes that, off by half an ulp at random."""

    def __init__(self, case: Case):
        call = draw(case)
        table = {name: call[name] for name in ("block_table", "k_scale", "v_scale") if name in call}
        if case.append:
            append(call["k"], call["v"], call["lengths"], call["k_new"], call["v_new"], **table)
        k, v = plain_cache(call["k"], call["v"], **table)
        self.case, self.arrays = case, (call["q"], k, v, call["lengths"])
        self.asked = case.features | {"alibi_slopes": call.get("alibi_slopes")}
        self.exact = attention(*self.arrays, **self.asked)

    def __call__(self, dtype: str) -> np.ndarray:
        if dtype == "float64":
            return self.exact
        rng = np.random.default_rng(0)  # a result with 16-bit rounding of its own
        return (self.exact * (1 + 2.0**-9 * rng.uniform(-1, 1, self.exact.shape))).astype(self.arrays[0].dtype)

    def error(self, o: np.ndarray) -> float:
        return attention_error(o, *self.arrays, rounded_weights=self.case.rounded_weights, **self.asked)


def judged(path: Callable[[str], torch.Tensor], case: Case) -> tuple[Verdict, Verdict]:
    """The verdicts without and with the shadow."""
    formula, kernel = Formula(case), shadowed(path)
    shape = formula.exact.shape[0], -1, formula.exact.shape[-1]

    def paths(dtype, shift=0.0, alone=False):
        if shift or (alone and dtype == "float64"):
            raise NotImplementedError
        a = kernel(dtype)
        a = to_numpy(a) if isinstance(a, torch.Tensor) else a
        return tuple(x.astype(np.float64).reshape(shape) for x in (a, formula(dtype)))

    def op(dtype):
        return formula.error(to_numpy(kernel(dtype)).reshape(formula.exact.shape))

    before = judge(lambda dtype, shift=0.0: paths(dtype, shift, alone=True), "bfloat16", question=QUESTION)
    return before, judge(paths, "bfloat16", question=QUESTION, op=op, float64_gate=SHADOW_GATE)
