"""Calls of a decode attention: `Case` names one, `draw` draws its inputs, `check` holds its answer to the formula.

Tests, contract and probes share them. Random data does not see edges, so every other sequence has a needle in its last
live slot, which a kernel short by one misses; windows have one just outside or just inside; the sequences without a
needle show what a needle outshines. NaN fills what nobody may read: dead slots, slots about to be appended, and the
page that unused entries of the block table name. K and V are laid out differently.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from ..cache import quantise
from .features import append, plain_cache
from .rounding import attention, attention_error, log_sum_exp, lse_error

DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
F64_BAR = 1e-13  # of the largest output, or of 1
KEPT = 2**19  # numbers of K and V, 4 MB: drawing them takes a third of a check's time


@dataclass(frozen=True)
class Case:
    """One call: the sizes of its inputs, the features it asks for, and how its numbers are drawn.

    Fields that share a name with an argument of the op are that argument.
    """

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
    q_scale: float = 1.0  # multiplies q, and with it the scores
    v_mean: float = 0.0
    shift: float = 0.0  # added to the scores of each KV head's first query head
    rising: bool = False  # scores grow along the context, so that the running maximum moves in every block
    needles: bool = True
    seed: int = 0

    @property
    def new(self) -> int:
        """New tokens."""
        return self.M or 1

    @property
    def rounded_weights(self):
        """The dtype to which a correct op may round the weights: 16 bits where tensor cores multiply them."""
        multiplied = self.new > 1 or self.group > 1 or self.int8
        return DTYPES[self.dtype] if multiplied and self.dtype in ("float16", "bfloat16") else None

    @property
    def features(self) -> dict[str, Any]:
        """The keywords of the formula, ALiBi's slopes apart."""
        return {name: getattr(self, name) for name in ("scale", "causal", "window", "sinks", "softcap")}

    def __str__(self) -> str:
        """The dtype and all fields that are not the default."""
        given = [f"{f.name}={x!r}" for f in fields(self)[1:] if (x := getattr(self, f.name)) != f.default]
        return f"Case({self.dtype!r}, {', '.join(given)})"


def draw(case: Case, dead: float = np.nan) -> dict[str, Any]:
    """The op's keyword arguments, NumPy arrays and numbers; what the case does not ask for is left out.

    dead  the number in dead slots and in those about to be appended
    """
    dtype, B, M, H = DTYPES[case.dtype], len(case.lengths), case.new, case.H_kv * case.group
    T = case.T if case.page is None else -(-case.T // case.page) * case.page
    lengths = np.array(case.lengths, np.int32)
    q, kv, state = normals(case.seed, (B, M, H, case.D), (2, B, case.H_kv, T, case.D))
    q = (case.q_scale * case.std * q).astype(dtype)
    k, v = (case.std * kv).astype(np.float32).astype(np.float64)
    k = shaped(case, q.astype(np.float64), k)
    plant(case, q.astype(np.float32), k)
    k, v = k.astype(dtype), (v + case.v_mean).astype(dtype)
    call: dict[str, Any] = {"q": q if case.M else q[:, 0], "lengths": lengths}
    if case.append:
        new = np.maximum(lengths[:, None] - M + np.arange(M), 0)  # (B, M)
        rows = [np.take_along_axis(x, new[:, None, :, None], 2).swapaxes(1, 2) for x in (k, v)]  # (B, M, H_kv, D)
        call["k_new"], call["v_new"] = (np.ascontiguousarray(x if case.M else x[:, 0]) for x in rows)
    if case.int8:
        (k, call["k_scale"]), (v, call["v_scale"]) = (quantise(x.astype(np.float32)) for x in (k, v))
    call |= {"k": k, "v": v}
    old = np.maximum(lengths - M, 0) if case.append else lengths
    # 8-bit rows keep their digits and lose their scale.
    poison(*((call["k_scale"], call["v_scale"]) if case.int8 else (k, v)), old, dead)
    rng = np.random.default_rng()
    rng.bit_generator.state = state
    if case.page:
        turn_to_pages(case, call, rng)
    call["v"] = np.ascontiguousarray(call["v"].swapaxes(1, 2)).swapaxes(1, 2)
    if case.alibi:
        call["alibi_slopes"] = rng.uniform(-0.05, 0.3, (H,) if case.alibi == "head" else (B, H)).astype(np.float32)
    return call | {name: value for name, value in case.features.items() if value != getattr(Case, name)}


def normals(seed: int, q: tuple[int, ...], kv: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, Mapping[str, Any]]:
    """Numbers in these shapes, and the generator's state after them; small ones, which checks ask for again, kept."""
    return (kept_normals if math.prod(kv) <= KEPT else drawn_normals)(seed, q, kv)


def drawn_normals(seed: int, *shapes: tuple[int, ...]):
    rng = np.random.default_rng(seed)
    q, kv = (rng.standard_normal(shape) for shape in shapes)
    q.flags.writeable = kv.flags.writeable = False
    return q, kv, rng.bit_generator.state


kept_normals = lru_cache(16)(drawn_normals)


def draw_qkv(case: Case, dead: float = np.nan) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v and lengths of `draw`, for an op that takes no more."""
    call = draw(case, dead)
    return call["q"], call["k"], call["v"], call["lengths"]


def shaped(case: Case, q, k):
    """k (B, H_kv, T, D) with scores shifted or in rising order for the last token's first head in each group."""
    one = q[:, -1, :: case.group]  # (B, H_kv, D)
    if case.shift:
        k = k + case.shift * (case.D**0.5 / np.sum(one * one, -1, keepdims=True) * one)[:, :, None]
    if case.rising:
        scores = np.einsum("bhd,bhtd->bht", one, k)
        k = np.take_along_axis(k, np.argsort(scores, axis=2)[..., None], axis=2)
    return k


def plant(case: Case, q, k):
    """Needles in k (B, H_kv, T, D), in place, for the last token: in its own slot, and at either edge of its window."""
    for b, n in enumerate(case.lengths if case.needles else ()):
        slot = n - 1
        if b % 2 == 0 and case.window is not None:
            slot = n - 1 - case.window + (b > 0)
        elif b % 2 == 0:
            continue
        if slot >= (case.sinks if b % 2 == 0 else 0):
            k[b, :, slot] = 4 / case.std * q[b, -1, b % case.group :: case.group]


def poison(k, v, lengths, value: float):
    """Put a number into the dead slots of k and v (B, H_kv, T, ...), in place."""
    for b, n in enumerate(lengths):
        k[b, :, n:] = v[b, :, n:] = value


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


def check(op, case: Case, return_lse: bool = True):
    """Raise AssertionError unless op(**draw(case), return_lse=True) -> (o, lse) is right, and writes what it should.

    o has q's shape and dtype, lse (B, H) or (B, M, H) float32 (float64 for float64); op appends to the arrays k and v
    (k_scale, v_scale) that it is given, in place, and leaves every other byte of its inputs as it was. Where a token
    sees one slot, o is that slot's value exactly.

    return_lse  False for an op without that argument, which gives o alone
    """
    call = draw(case)
    want = {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in call.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a wrong op may overflow; it is the answer that counts
        answer: Any = op(**call, return_lse=True) if return_lse else (op(**call), None)
    o, lse = answer
    cache = {name: want[name] for name in ("block_table", "k_scale", "v_scale") if name in want}
    if case.append:
        append(want["k"], want["v"], want["lengths"], want["k_new"], want["v_new"], **cache)
    for name, x in want.items():
        assert not isinstance(x, np.ndarray) or x.tobytes() == call[name].tobytes(), f"{case}: {name} is not as it was"
    q, lengths, (k, v) = want["q"], want["lengths"], plain_cache(want["k"], want["v"], **cache)
    assert (o.shape, o.dtype) == (q.shape, q.dtype), f"{case}: o is {o.shape} {o.dtype}"
    asked = case.features | {"alibi_slopes": want.get("alibi_slopes")}
    errors = {"o": o_error(case, o, q, k, v, lengths, **asked)}
    if return_lse:
        kept = np.float64 if q.dtype == np.float64 else np.float32
        assert (lse.shape, lse.dtype) == (q.shape[:-1], kept), f"{case}: lse is {lse.shape} {lse.dtype}"
        exact = log_sum_exp(q, k, lengths, **asked)
        errors["lse"] = far(lse, exact) if q.dtype == np.float64 else lse_error(lse, q, k, lengths, **asked)
    for name, error in errors.items():
        assert error <= 1, f"{case}: the error of {name} is {error:.3g} times what rounding explains"
    if case.M is None and not case.int8:
        lone = lengths == 1
        first = np.repeat(v[lone, :, 0], case.group, axis=1)
        assert np.array_equal(o[lone], first), f"{case}: one slot must return its value exactly"


def o_error(case: Case, o, q, k, v, lengths, **asked) -> float:
    """The error of o in multiples of its gate; in float64 of F64_BAR too, unless scores are shifted past its digits."""
    error = attention_error(o, q, k, v, lengths, rounded_weights=case.rounded_weights, **asked)
    if q.dtype == np.float64 and not case.shift:
        error = max(error, far(o, attention(q, k, v, lengths, **asked)))
    return error


def far(x, exact) -> float:
    """The largest error of a float64 result in multiples of F64_BAR; infinities must agree, NaN is infinitely far."""
    finite = np.isfinite(exact)
    if not np.array_equal(x[~finite], exact[~finite]):
        return np.inf
    error = np.abs(x[finite] - exact[finite]).max(initial=0)
    worst = float(error / F64_BAR / max(1, np.abs(exact[finite]).max(initial=0)))
    return np.inf if np.isnan(worst) else worst
