"""The ring in NumPy: the bits that Triton's instrumented code computes on the machine, and the theorems it keeps."""

# pyright: reportArgumentType=false

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx.algebra import embedding, ring

from ._fpsan import needs_fpsan

N = 256
UNARY = ("exp", "exp2", "sin", "cos", *embedding.TAGGED)
BINARY = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "rem": lambda x, y: x % y,
    "neg": lambda x, y: -x, "max": ring.maximum, "min": ring.minimum, "fma": lambda x, y: x * y + x,
    "constants": lambda x, y: 0.1 - x * 2.0, "sum": lambda x, y: ring.sum(x) + ring.zeros(N, x.dtype),
}  # fmt: skip
CASTS = [(a, b) for a in ("float64", "float32", "float16", "bfloat16") for b in embedding.FORMATS if a != b]


@triton.jit
def operate(px, py, out, OP: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    x, y = tl.load(px + i), tl.load(py + i)
    if OP == "add":
        r = x + y
    elif OP == "sub":
        r = x - y
    elif OP == "mul":
        r = x * y
    elif OP == "div":
        r = x / y
    elif OP == "rem":
        r = x % y
    elif OP == "neg":
        r = -x
    elif OP == "max":
        r = tl.maximum(x, y)
    elif OP == "min":
        r = tl.minimum(x, y)
    elif OP == "fma":
        r = tl.fma(x, y, x)
    elif OP == "constants":
        r = 0.1 - x * 2.0
    elif OP == "sum":
        r = tl.sum(x, 0) + tl.zeros_like(x)
    elif OP == "cast":
        r = (x + y).to(out.dtype.element_ty)
    else:
        r = getattr(tl, OP)(x)
    tl.store(out + i, r)


def any_bits(dtype: str, seed: int) -> torch.Tensor:
    """Floats of random bits, NaN and infinities among them."""
    bits = embedding.FORMATS[dtype][0]
    words = np.random.default_rng(seed).integers(0, 1 << bits - 1, N, dtype=np.int64) * 2 + seed % 2
    return torch.from_numpy(words.astype(f"i{bits // 8}")).view(getattr(torch, dtype))


def on_the_machine(operation: str, dtype: str, out: str) -> np.ndarray:
    result = torch.zeros(N, dtype=torch.float32).to(getattr(torch, out))
    args = (any_bits(dtype, 0), any_bits(dtype, 1), result, operation, N)
    target = "sm_90" if "8" in out else "sm_80"
    ptx.run(operate, 1, *args, target=target, num_warps=1, instrumentation_mode="fpsan")
    return ring.array(result).bits


def inputs(dtype: str) -> tuple[ring.Array, ring.Array]:
    return ring.array(any_bits(dtype, 0)), ring.array(any_bits(dtype, 1))


@needs_fpsan
@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=pytest.mark.exhaustive),
    pytest.param("float64", marks=pytest.mark.exhaustive)])  # fmt: skip
def test_arithmetic_has_the_bits_of_the_instrumented_code(dtype):
    for name, formula in BINARY.items():
        assert np.array_equal(on_the_machine(name, dtype, dtype), formula(*inputs(dtype)).bits), name


@needs_fpsan
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.exhaustive)])
def test_functions_have_the_bits_of_the_instrumented_code(dtype):
    x, y = inputs(dtype)
    assert np.array_equal(on_the_machine("div", dtype, dtype), (x / y).bits)
    for name in UNARY:
        if name == "sqrt_rn" and dtype != "float32":
            continue
        own = getattr(ring, name, None)
        expected = own(x) if own else ring.unary(name, x)
        assert np.array_equal(on_the_machine(name, dtype, dtype), expected.bits), name


@needs_fpsan
@pytest.mark.parametrize(("dtype", "to"), [
    pytest.param(*pair, marks=[] if pair in (("float32", "float16"), ("float16", "float64"), ("float32", "float8_e5m2"))
                 else pytest.mark.exhaustive) for pair in CASTS])  # fmt: skip
def test_conversions_have_the_bits_of_the_instrumented_code(dtype, to):
    x, y = inputs(dtype)
    assert np.array_equal(on_the_machine("cast", dtype, to), (x + y).to(to).bits)


@pytest.mark.parametrize("version", embedding.DIALECTS)
@pytest.mark.parametrize("dtype", embedding.FORMATS)
def test_the_embedding_is_one_to_one_and_keeps_zero_and_one(dtype, version):
    with embedding.as_of(*version):
        x = ring.array(any_bits(dtype, 1))
        assert np.array_equal(ring.of(x.payload, dtype).bits, x.bits)
        assert [int(ring.full((), v, dtype).payload) for v in (0.0, 1.0)] == [0, 1]
        assert ring.full((), -1.0, dtype).payload == (1 << embedding.FORMATS[dtype][0]) - 1
        assert np.array_equal((-x).bits, x.bits ^ x.bits.dtype.type(1 << embedding.FORMATS[dtype][0] - 1))


@pytest.mark.parametrize("version", embedding.DIALECTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_theorems_of_the_ring(dtype, version):
    with embedding.as_of(*version):
        x, y = inputs(dtype)
        assert np.array_equal(ring.exp(x + y).bits, (ring.exp(x) * ring.exp(y)).bits)
        assert np.array_equal(ring.cos(x + y).bits, (ring.cos(x) * ring.cos(y) - ring.sin(x) * ring.sin(y)).bits)
        odd = ring.exp2(x)  # every exp is odd
        assert np.all((odd / odd).payload == 1)
        assert np.array_equal((x / odd * odd).bits, x.bits)
        assert np.array_equal((1.0 / (1.0 / y)).bits, y.bits)


def test_integers_hold_each_operation_by_hand():
    """Truth by Python's integers, for float16: no NumPy wraps here."""
    x, y = inputs("float16")
    M = 1 << 16
    for name, formula in {"mul": lambda a, b: a * b, "sub": lambda a, b: a - b}.items():
        expected = [formula(int(a), int(b)) % M for a, b in zip(x.payload, y.payload, strict=True)]
        assert BINARY[name](x, y).payload.tolist() == expected
    assert ring.exp2(x).payload.tolist() == [pow(17, int(a), M) for a in x.payload]
    assert ring.dot(x.reshape(16, 16), y.reshape(16, 16), "float16").payload[3, 5] == (
        sum(int(a) * int(b) for a, b in zip(x.payload[48:64], y.payload[5::16], strict=True)) % M)  # fmt: skip


def test_arrays_of_two_dtypes_do_not_mix():
    x, y = ring.zeros(3, "float32"), ring.zeros(3, "float16")
    with pytest.raises(TypeError, match=r"float32 meets float16; convert one as the kernel does, x.to\('float32'\)"):
        _ = x + y
    assert (x + y.to("float32")).dtype == "float32"
    with pytest.raises(TypeError, match="the ring has no int32; it has, by name, float8"):
        ring.array(np.zeros(3, np.int32))


def test_a_new_triton_speaks_the_newest_dialect_known(monkeypatch):
    embedding.installed.cache_clear()
    try:
        monkeypatch.setattr(embedding, "version", lambda name: "3.12.1+git")
        assert embedding.installed() is embedding.DIALECTS[3, 9]
    finally:
        monkeypatch.undo()
        embedding.installed.cache_clear()
