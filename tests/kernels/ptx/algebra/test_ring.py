"""Arrays of the ring beside NumPy's: what is written in place, and what is refused instead of guessed."""

# pyright: reportArgumentType=false

import numpy as np
import pytest
import torch

from kvproof.kernels.ptx.algebra import embedding, ring

pytestmark = pytest.mark.usefixtures("newest")
OPERATIONS = {
    "+": lambda x, y: x.__iadd__(y), "-": lambda x, y: x.__isub__(y), "*": lambda x, y: x.__imul__(y),
    "/": lambda x, y: x.__itruediv__(y), "%": lambda x, y: x.__imod__(y),
}  # fmt: skip


@pytest.fixture
def newest():
    with embedding.as_of(*max(embedding.DIALECTS)):
        yield


@pytest.mark.parametrize("sign", OPERATIONS)
def test_an_operation_in_place_writes_to_the_caller_s_memory(sign):
    memory = np.arange(1, 9, dtype=np.float32)
    x, y = ring.array(memory), ring.array(memory[::-1].copy())
    expected = eval(f"x {sign} y", {"x": x, "y": y}).bits
    same = OPERATIONS[sign](x, y)
    assert same is x
    assert np.array_equal(memory.view("u4"), expected)
    row = ring.array(memory.reshape(2, 4))
    first = row[0]
    first += 1.0  # of a view
    assert np.array_equal(memory[:4].view("u4"), (ring.Array(expected[:4], "float32") + 1.0).bits)


x = ring.array(np.ones(3, np.float32))
REFUSED = {
    "==": (lambda: x == x, TypeError, "compares no floats: a payload is no number"),
    "!=": (lambda: x != 1.0, TypeError, "compares no floats"),
    "<": (lambda: x < 1.0, TypeError, "compares no floats"),
    "where": (lambda: ring.where(x, x, x), TypeError, r"ring.where\(i < n, x, y\)"),
    "if": (lambda: bool(x), TypeError, "neither true nor false"),
    "hash": (lambda: hash(x), TypeError, "unhashable"),
    "NumPy's": (lambda: x * np.ones(3), TypeError, r"a ndarray meets an Array; .* ring.array\(it\)"),
    "torch's": (lambda: x + torch.ones(()), TypeError, "a Tensor meets an Array"),
    "to int": (lambda: x.to("int32"), TypeError, "the ring has no int32; it has, by name, float8"),
    "to torch's": (lambda: x.to(torch.float16), TypeError, "the ring has no torch.float16; it has, by name"),
    "zeros": (lambda: ring.zeros(3, "float12"), TypeError, "the ring has no float12"),
    "array": (lambda: ring.array([1.0], "float12"), TypeError, "the ring has no float12"),
    "tanh": (lambda: ring.unary("tanh", x), ValueError, "the ring has no tanh of one number; it has log, log2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_ring_has_not_is_refused_with_what_to_do(name):
    call, kind, match = REFUSED[name]
    with pytest.raises(kind, match=match):
        call()
