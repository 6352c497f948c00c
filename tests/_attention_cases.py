"""Whole calls of decode attention with any features together, held to the plain float64 formula.

`check(op, case)` asks op for o, lse and the appended cache. Random data does not see edges: every other sequence has a
needle in its last live slot, windows have one just outside or just inside, and NaN fills what nobody may read: dead
slots, slots about to be appended, and the page that unused entries of the block table name. K and V are laid out
differently. attention_grid.py has the cases.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvproof.reference.cache import quantise
from kvproof.reference.judge.features import append, plain_cache
from kvproof.reference.judge.rounding import attention, attention_error, log_sum_exp, lse_error

from ._attention_battery import DTYPES

F64_BAR = 1e-13  # of the largest output, or of 1


@dataclass(frozen=True)
class Case:
    """One call of the op: its inputs' sizes and what it asks for. The fields are the op's arguments where they share
    a name."""

    dtype: str = "float32"
    lengths: tuple[int, ...] = (140, 33, 1)
    T: int = 160  # capacity; a paged cache has as many whole pages as that takes
    D: int = 16
    H_kv: int = 2
    group: int = 1  # query heads per KV head
    M: int | None = None  # new tokens; None gives q no axis for them
    page: int | None = None  # slots of a page; None is a contiguous cache
    int8: bool = False
    append: bool = False
    window: int | None = None
    sinks: int = 0
    softcap: float | None = None
    alibi: str | None = None  # slopes by "head" (H,) or by "row" (B, H)
    causal: bool = True
    scale: float | None = None
    std: float = 1.0  # of q, k and v
    seed: int = 0

    @property
    def new(self) -> int:
        return self.M or 1

    @property
    def rounded_weights(self):
        """The dtype to which an honest op may round the weights: 16 bits where the tensor cores multiply them."""
        multiplied = self.new > 1 or self.group > 1 or self.int8
        return DTYPES[self.dtype] if multiplied and self.dtype in ("float16", "bfloat16") else None

    @property
    def features(self) -> dict[str, Any]:
        """The keywords of the formula, slopes apart."""
        return {"causal": self.causal, "window": self.window, "sinks": self.sinks, "softcap": self.softcap}


def draw(case: Case) -> dict[str, Any]:
    """The op's keyword arguments, NumPy arrays and numbers; what the case does not ask for is left out."""
    rng = np.random.default_rng(case.seed)
    dtype, B, M, H = DTYPES[case.dtype], len(case.lengths), case.new, case.H_kv * case.group
    T = case.T if case.page is None else -(-case.T // case.page) * case.page
    q = (case.std * rng.standard_normal((B, M, H, case.D))).astype(dtype)
    k, v = (case.std * rng.standard_normal((2, B, case.H_kv, T, case.D))).astype(np.float32)  # whatever q's dtype is
    plant(case, q.astype(np.float32), k)
    k, v = k.astype(dtype), v.astype(dtype)
    call: dict[str, Any] = {"q": q if case.M else q[:, 0], "lengths": np.array(case.lengths, np.int32)}
    if case.append:
        new = np.maximum(np.array(case.lengths)[:, None] - M + np.arange(M), 0)  # (B, M)
        rows = [np.take_along_axis(x, new[:, None, :, None], 2).swapaxes(1, 2) for x in (k, v)]  # (B, M, H_kv, D)
        call["k_new"], call["v_new"] = (np.ascontiguousarray(x if case.M else x[:, 0]) for x in rows)
    if case.int8:
        (k, call["k_scale"]), (v, call["v_scale"]) = (quantise(x.astype(np.float32)) for x in (k, v))
    call |= {"k": k, "v": v}
    poison(case, call)
    if case.page:
        turn_to_pages(case, call, rng)
    call["v"] = np.ascontiguousarray(call["v"].swapaxes(1, 2)).swapaxes(1, 2)
    if case.alibi:
        call["alibi_slopes"] = rng.uniform(-0.05, 0.3, (H,) if case.alibi == "head" else (B, H)).astype(np.float32)
    asked = case.features | {"scale": case.scale}
    return call | {name: value for name, value in asked.items() if value != getattr(Case, name)}


def plant(case: Case, q, k):
    """Needles in k (B, H_kv, T, D), in place, for the last token: in its own slot, and at either edge of its window."""
    for b, n in enumerate(case.lengths):
        slot = n - 1
        if b % 2 == 0 and case.window is not None:
            slot = n - 1 - case.window + (b > 0)
        elif b % 2 == 0:
            continue
        if slot >= (case.sinks if b % 2 == 0 else 0):
            k[b, :, slot] = 4 / case.std * q[b, -1, b % case.group :: case.group]


def poison(case: Case, call):
    """NaN in every slot that is dead or about to be appended; 8-bit rows keep their digits and lose their scale."""
    for b, n in enumerate(case.lengths):
        old = max(n - case.new, 0) if case.append else n
        for name in ("k_scale", "v_scale") if case.int8 else ("k", "v"):
            call[name][b, :, old:] = np.nan


def turn_to_pages(case: Case, call, rng):
    """Cut the caches into pages, in a random order; table entries past the length name a page that is all poison."""
    page = case.page or 1
    B, N = len(case.lengths), call["k"].shape[2] // page
    order = rng.permutation(B * N + 1)
    table = order[:-1].reshape(B, N).astype(np.int32)
    for name in {"k", "v", "k_scale", "v_scale"} & set(call):
        x = call[name]
        spare = np.full((1, case.H_kv, page, *x.shape[3:]), 77 if x.dtype == np.int8 else np.nan, x.dtype)
        cut = x.reshape(B, case.H_kv, N, page, *x.shape[3:]).swapaxes(1, 2).reshape(B * N, *spare.shape[1:])
        pages = np.empty((B * N + 1, *spare.shape[1:]), x.dtype)
        pages[order] = np.concatenate([cut, spare])
        call[name] = pages
    unused = np.arange(N) >= -(-np.array(case.lengths)[:, None] // page)
    call["block_table"] = np.where(unused, order[-1], table).astype(np.int32)


def check(op, case: Case):
    """Raise AssertionError unless op(**draw(case), return_lse=True) -> (o, lse) is right, and writes what it should.

    o has q's shape and dtype, lse (B, H) or (B, M, H) float32 (float64 for float64); op appends to the arrays k and v
    (k_scale, v_scale) that it is given, in place, and leaves every other byte of its inputs as it was.
    """
    call = draw(case)
    want = {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in call.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a wrong op may overflow; it is the answer that counts
        o, lse = op(**call, return_lse=True)
    cache = {name: want[name] for name in ("block_table", "k_scale", "v_scale") if name in want}
    if case.append:
        append(want["k"], want["v"], want["lengths"], want["k_new"], want["v_new"], **cache)
    for name, x in want.items():
        assert not isinstance(x, np.ndarray) or x.tobytes() == call[name].tobytes(), f"{case}: {name} is not as it was"
    q, lengths, (k, v) = want["q"], want["lengths"], plain_cache(want["k"], want["v"], **cache)
    assert (o.shape, o.dtype) == (q.shape, q.dtype), f"{case}: o is {o.shape} {o.dtype}"
    kept = np.float64 if q.dtype == np.float64 else np.float32
    assert (lse.shape, lse.dtype) == (q.shape[:-1], kept), f"{case}: lse is {lse.shape} {lse.dtype}"
    asked = case.features | {"scale": case.scale, "alibi_slopes": want.get("alibi_slopes")}
    if q.dtype == np.float64:
        errors = [far(o, attention(q, k, v, lengths, **asked)), far(lse, log_sum_exp(q, k, lengths, **asked))]
    else:
        o_error = attention_error(o, q, k, v, lengths, rounded_weights=case.rounded_weights, **asked)
        errors = [o_error, lse_error(lse, q, k, lengths, **asked)]
    for name, error in zip(("o", "lse"), errors, strict=True):
        assert error <= 1, f"{case}: the error of {name} is {error:.3g} times what honest rounding explains"


def far(x, exact) -> float:
    """The largest error of a float64 result in multiples of F64_BAR; infinities must agree, NaN is infinitely far."""
    finite = np.isfinite(exact)
    if not np.array_equal(x[~finite], exact[~finite]):
        return np.inf
    error = np.abs(x[finite] - exact[finite]).max(initial=0)
    worst = float(error / F64_BAR / max(1, np.abs(exact[finite]).max(initial=0)))
    return np.inf if np.isnan(worst) else worst
