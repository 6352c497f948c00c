"""Calls of flash_attn_with_kvcache, held to the definition in float64: the grid of flash-attn's own test.

The grid is that of test_flash_attn_kvcache in flash-attn's tests/test_flash_attn.py, every factor of it, with float64,
small pages and rows of the cache in any order (which is off there) added. Lengths are smaller, as nothing but splits
depends on them: one and several splits are among them, and 1, up to 16 and more query tokens. NaN fills all slots out
of use.
"""

from itertools import combinations, product
from typing import Any

import numpy as np
import torch

from kvproof.kernels.attention import flash_attn_with_kvcache
from kvproof.reference.judge.cases import DTYPES
from kvproof.reference.judge.rounding import SUM_ERROR, Row, in_gates, roundoff, softmax, sums

FACTORS: dict[str, tuple[Any, ...]] = {
    "dtype": ("float16", "float64"),
    "num_splits": (1, 0),
    "heads": (6, 1, 3),  # KV heads for 6 query heads
    "new_kv": (False, True),
    "alibi": (False, True),
    "local": (False, True),
    "causal": (False, True),
    "new_eq_q": (True, False),
    "interleaved": (False, True),
    "rotary": (0.0, 0.5, 1.0),  # share of head_dim
    "page": (None, 256, 16),  # 16 is ours alone
    "leftpad": (False, True),
    "batch_idx": (False, True),
    "d": (32, 59, 64, 80, 128, 256),
    "sizes": ((1, 128), (1, 139), (3, 260), (20, 60), (17, 40), (3, 199), (16, 130), (21, 21)),  # queries, slots
}


def allowed(case) -> bool:
    """flash-attn's own exceptions. A factor without effect keeps its first value."""
    paged, new = case.get("page") is not None, case.get("new_kv", True)
    if paged and (case.get("leftpad") or case.get("batch_idx")):
        return False
    idle = () if new else ("new_eq_q", "interleaved", "rotary")
    return all(case.get(name, FACTORS[name][0]) == FACTORS[name][0] for name in idle)


def pairs_of(case) -> set:
    return set(combinations(case.items(), 2))


def covering(seed=0) -> list[dict[str, Any]]:
    """Cases in which every allowed pair of two factors' values is met: of random ones, those with most new pairs."""
    rng = np.random.default_rng(seed)
    missing = [
        (one, other)
        for a, b in combinations(FACTORS, 2)
        for one, other in product([(a, x) for x in FACTORS[a]], [(b, x) for x in FACTORS[b]])
        if allowed(dict([one, other]))
    ]
    chosen = []
    while missing:
        drawn = []
        while len(drawn) < 30:
            start = dict(missing[rng.integers(len(missing))])
            case = {n: start.get(n, values[rng.integers(len(values))]) for n, values in FACTORS.items()}
            drawn += [case] if allowed(case) else []
        met, best = max(((pairs_of(case), case) for case in drawn), key=lambda x: len(x[0].intersection(missing)))
        missing = [pair for pair in missing if pair not in met]
        chosen.append(best)
    return chosen


def rotated(x, cos, sin, positions, interleaved):
    """Pairs of x (M, H, D) turned by the angles of their positions (M,), in float32 at least, rounded once."""
    exact, half = np.promote_types(x.dtype, np.float32), cos.shape[1]
    x, turned = x.astype(exact), x.astype(exact)
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        c, s = (table[positions, i, None].astype(exact) for table in (cos, sin))
        turned[..., a] = x[..., a] * c - x[..., b] * s
        turned[..., b] = x[..., a] * s + x[..., b] * c
    return turned


def draw(case, B=2, H=6):
    """The call's arguments as arrays, and the caches in plain order (B, T, H_kv, D), NaN out of use."""
    rng = np.random.default_rng(0)
    (M, T), D, H_kv, dtype = case["sizes"], case["d"], case["heads"], DTYPES[case["dtype"]]
    N = 0 if not case["new_kv"] else M if case["new_eq_q"] else int(rng.integers(1, M + 1))
    rotary = int(case["rotary"] * D) // 16 * 16
    reach = M if rotary and (case["causal"] or case["local"]) else N
    filled = rng.integers(0 if N else 1, T - reach + 1, B).astype(np.int32)
    pad = np.array([rng.integers(0, max(n, 1)) for n in filled], np.int32) if case["leftpad"] else None
    k, v = rng.standard_normal((2, B, T, H_kv, D)).astype(dtype)
    for b in range(B):
        k[b, filled[b] :] = v[b, filled[b] :] = np.nan
        k[b, : 0 if pad is None else pad[b]] = v[b, : 0 if pad is None else pad[b]] = np.nan
    call = {"q": rng.standard_normal((B, M, H, D)).astype(dtype), "cache_seqlens": filled, "causal": case["causal"]}
    if N:
        call["k"], call["v"] = rng.standard_normal((2, B, N, H_kv, D)).astype(dtype)
    if rotary:
        angle = rng.uniform(0, 2 * np.pi, (T + 5 if case["page"] is None else -(-T // 256) * 256, rotary // 2))
        call |= {"rotary_cos": np.cos(angle).astype(dtype), "rotary_sin": np.sin(angle).astype(dtype)}
    if case["alibi"]:
        call["alibi_slopes"] = rng.uniform(0, 0.3, (B, H)).astype(np.float32)
    window = tuple(int(w) for w in rng.integers(0, T, 2)) if case["local"] else (-1, -1)
    call |= {"window_size": window, "rotary_interleaved": case["interleaved"], "num_splits": case["num_splits"]}
    call["cache_leftpad"] = pad
    return call, k, v


def stored(case, call, k, v):
    """The caches as the call takes them, in place of k, v; and how to read them in plain order again."""
    rng = np.random.default_rng(1)
    B, T = k.shape[:2]
    if case["page"]:
        page = case["page"]
        N = -(-T // page)
        table = rng.permutation(3 * B * N)[: B * N].reshape(B, N)
        call["block_table"] = table.astype(np.int32)
        where = table[:, np.arange(T) // page], np.arange(T) % page
        shape = 3 * B * N, page
    else:
        rows = rng.permutation(2 * B)[:B] if case["batch_idx"] else np.arange(B)
        if case["batch_idx"]:
            call["cache_batch_idx"] = rows.astype(np.int32)
        where = rows[:, None], np.arange(T)
        shape = 2 * B if case["batch_idx"] else B, T
    for name, x in (("k_cache", k), ("v_cache", v)):
        call[name] = np.full((*shape, *x.shape[2:]), np.nan, x.dtype)
        call[name][where] = x
    return where


def appended(call, k, v):
    """q, k and v as attention sees them: rotated, and with the new rows in place."""
    q, k, v = call["q"].copy(), k.copy(), v.copy()
    moving = call["causal"] or any(0 <= w < k.shape[1] for w in call["window_size"])  # wider than the cache is endless
    for b, n in enumerate(call["cache_seqlens"]):
        new = call["k"][b] if "k" in call else q[b, :0, :0]
        if "rotary_cos" in call:
            angles = call["rotary_cos"], call["rotary_sin"]
            new = rotated(new, *angles, n + np.arange(len(new)), call["rotary_interleaved"])
            q[b] = rotated(q[b], *angles, n + np.arange(q.shape[1]) * moving, call["rotary_interleaved"])
        if "k" in call:
            k[b, n : n + len(new)], v[b, n : n + len(new)] = new, call["v"][b]
    return q, k, v


def truth(call, q, k, v):
    """o, lse and their gates, float64, from the definition: which slots are seen, and what is taken off a score."""
    B, M, H, D = q.shape
    o, lse, gate, lse_gate = np.zeros(q.shape), np.full((B, H, M), -np.inf), np.zeros(q.shape), np.zeros((B, H, M))
    slopes, (left, right) = call.get("alibi_slopes"), call["window_size"]
    cap, scale = call.get("softcap", 0.0), call.get("softmax_scale", D**-0.5)
    right, left = 0 if call["causal"] else 10**9 if right < 0 else right, 10**9 if left < 0 else left
    new = call["k"].shape[1] if "k" in call else 0
    for b, i, h in np.ndindex(B, M, H):
        first = 0 if call["cache_leftpad"] is None else call["cache_leftpad"][b]
        n = call["cache_seqlens"][b] - first + new
        p, t = n - M + i, np.arange(n)
        t = t[(t >= p - left) & (t <= p + right)]
        if len(t) == 0:
            continue
        one = q[b, i, h].astype(np.float64)
        ks, vs = (x[b, first + t, h * k.shape[2] // H].astype(np.float64) for x in (k, v))
        s, terms = ks @ one * scale, np.abs(ks) @ np.abs(one) * scale
        if cap:
            s, terms = cap * np.tanh(s / cap), terms + 2 * cap
        bias = 0 if slopes is None else slopes[b, h].astype(np.float64) * np.abs(p - t)
        row = Row(*softmax(s - bias), vs, terms + bias)
        o[b, i, h], lse[b, h, i] = row.p @ vs, row.lse
        inside = SUM_ERROR * np.sqrt(max(len(t), D)) * roundoff(sums(q.dtype))
        # parts of the slots before and ahead, if they are merged, were rounded once more: |p| |v| at most
        twice = (row.p @ np.abs(vs)) * (slopes is not None and right > 0)
        gate[b, i, h] = roundoff(q.dtype) * (np.abs(o[b, i, h]) + twice) + inside * row.sensitivity() + 1e-30
        gate[b, i, h] += row.weight_rounding(q.dtype) if q.dtype == np.float16 else 0
        lse_gate[b, h, i] = inside * (1 + row.p @ row.terms + abs(row.lse) + np.log(len(t)))
    return o, lse, gate, lse_gate


def check(case, device, **more):
    """Raise AssertionError unless the call is right, writes what it should to the caches, and nothing else."""
    call, k, v = draw(case)
    call |= more
    where = stored(case, call, k, v)
    q, k, v = appended(call, k, v)
    given = {n: torch.from_numpy(x.copy()).to(device) if isinstance(x, np.ndarray) else x for n, x in call.items()}
    o, lse = flash_attn_with_kvcache(**given, return_softmax_lse=True)
    for name, x in (("k_cache", k), ("v_cache", v)):
        call[name][where] = x
        np.testing.assert_array_equal(given[name].cpu().numpy(), call[name], err_msg=name)
    want, want_lse, gate, lse_gate = truth(call, q, k, v)
    assert (o.dtype, o.shape) == (given["q"].dtype, want.shape)
    assert in_gates(o.cpu().numpy(), want, gate) <= 1
    assert in_gates(lse.cpu().numpy(), want_lse, lse_gate) <= 1
