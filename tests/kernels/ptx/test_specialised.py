"""A kernel that is recalled is the one that Triton would have given, and Triton is asked where anything is new."""

from collections import namedtuple

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kvproof.kernels.ptx import compile as compiling
from kvproof.kernels.ptx import run, specialised
from kvproof.kernels.ptx.compile import compile

FACTOR = tl.constexpr(2)


@triton.jit
def mixed(x, n, flag, rate, pair, SIZE: tl.constexpr, NAME: tl.constexpr = None):  # pyright: ignore
    at = tl.arange(0, 16)
    if flag:
        tl.store(x + at, pair[0] + at + n + rate + SIZE * FACTOR, mask=at < n)
    if pair[1] is not None:
        tl.store(pair[1] + at, at + SIZE, mask=at < n)


@pytest.fixture
def asked(monkeypatch):
    """What Triton was asked for."""
    calls, usual = [], compiling._compile
    monkeypatch.setattr(compiling, "_compile", lambda *asks: calls.append(asks) or usual(*asks))
    monkeypatch.setattr(specialised, "_known", {})
    return calls


ROOM, PAIR = np.zeros(64, np.int32), namedtuple("PAIR", "one two")
USUAL = {"x": ROOM[:32], "n": 7, "flag": True, "rate": 2.0, "pair": (3, None), "SIZE": 4}
OTHERS = {
    "x": [ROOM[1:33], ROOM[:32].astype(np.int64), torch.zeros(32, dtype=torch.int32), np.zeros(4, np.uint32)],
    "n": [16, 1, 8, -16, -(1 << 31), -(1 << 31) - 1, (1 << 31) - 1, 1 << 31, 1 << 62, 1 << 63, np.int32(5)],
    "flag": [False, 2, 1],
    "rate": [3.0, 1.0, 1, np.float32(2)],
    "pair": [(1, None), (16, None), (3, ROOM[32:]), (3, ROOM[33:]), PAIR(3, None), PAIR(4, ROOM[32:])],
    "SIZE": [5, 4.0, True],
    "NAME": ["a", 3, (1, 2)],
    "num_warps": [1, 2],
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_recalled_is_what_triton_gives(name, asked):
    for value in OTHERS[name]:
        for given in (USUAL, {**USUAL, name: value}, USUAL):
            found, known = compile(mixed, (), given), {**specialised._known}
            specialised._known.clear()
            want = compile(mixed, (), given)
            assert found.triton is want.triton, value
            assert [(x, id(y)) for x, y in found.arguments] == [(x, id(y)) for x, y in want.arguments], value
            specialised._known.update(known)
    assert len(specialised._known) > 1


def test_a_launch_like_one_before_is_not_asked_for_again(asked):
    for n in (7, 9, -3):
        compile(mixed, (ROOM, n, True, 0.5 * n, (n, None), 4), {})
    assert len(asked) == 1


def test_whatever_else_triton_looks_at_it_is_asked(asked, monkeypatch):
    compile(mixed, (), USUAL)
    hooked: list = []
    monkeypatch.setattr(mixed, "pre_run_hooks", [lambda *args, **kwargs: hooked.append(kwargs)])
    compile(mixed, (), USUAL)
    assert len(hooked) == 1
    monkeypatch.setattr(mixed, "pre_run_hooks", [])
    first = compile(mixed, (), USUAL).triton
    assert len(asked) == 2
    mixed.device_caches.clear()
    assert compile(mixed, (), USUAL).triton is not first
    monkeypatch.setitem(globals(), "FACTOR", tl.constexpr(3))
    with pytest.raises(RuntimeError, match="FACTOR has changed"):
        compile(mixed, (), USUAL)


def test_a_recalled_kernel_computes_with_the_launch_s_own_arguments(asked):
    for n in (7, 9):
        out = np.zeros(16, np.int32)
        run(mixed, 1, **{**USUAL, "x": out, "n": n})
        assert out.tolist() == [3 + at + n + 2 + 4 * 2 if at < n else 0 for at in range(16)]
    assert len(asked) == 1
