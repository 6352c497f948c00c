"""Numbers of 4 and 6 bits beside those of 8: padded in shared memory, multiplied from there."""

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from kvproof.kernels import ptx
from kvproof.kernels.ptx import Deadlock, UnknownOpcode, launch
from kvproof.kernels.ptx.compile import compile
from kvproof.kernels.ptx.launch import buffer  # pyright: ignore[reportPrivateImportUsage]
from kvproof.kernels.ptx.tensor_core import numbers
from kvproof.kernels.ptx.tensor_core.tcgen05_mma import Form, Issue, in_memory

from ._padded import BLOCK, K, N, Padded, padded

SIX = {"e2m3": (3, ml_dtypes.float6_e2m3fn), "e3m2": (4, ml_dtypes.float6_e3m2fn)}


def packed(bits: np.ndarray) -> np.ndarray:
    """(rows, n) numbers of 6 bits -> (rows, 3 n // 4) bytes, number after number, by Python's integers."""
    rows = [sum(int(x) << 6 * n for n, x in enumerate(row)).to_bytes(6 * len(row) // 8, "little") for row in bits]
    return np.stack([np.frombuffer(row, np.uint8) for row in rows])


def test_eight_bits_by_four():
    product = Padded()
    report = ptx.run(padded, N // BLOCK, *product.args, target="sm_100")
    assert any("mxf8f6f4.block_scale" in i.opcode for i, _ in report.by_instruction)
    assert product.error(product.y) < 8 * 2**-24


def launched(product: Padded, code: int, b: np.ndarray, map: dict, counted: int) -> None:
    """Launch it with another B, whose type has this code; the mbarrier waits for so many bytes."""
    compiled = compile(padded, product.args, {}, "sm_100")
    text = compiled.ptx
    for k in range(4):
        descriptor = 143660032 ^ k * (1 << 29 | 1 << 4)
        assert text.count(f", {descriptor};") == 1
        text = text.replace(f", {descriptor};", f", {descriptor ^ (5 ^ code) << 10};")
    assert text.count(", 20480;") == 1
    text = text.replace(", 20480;", f", {counted};")
    arguments = []
    for name, x in compiled.arguments:
        if name == "b":
            x = x._replace(base=torch.from_numpy(b).clone(), fields=x.fields | map)
        base = getattr(x, "base", None)
        is_map = hasattr(x, "fields")
        arguments.append((name, x._replace(base=buffer(name, base)) if is_map else buffer(name, x)))
    launch.execute(
        text, (N // BLOCK, 1, 1), arguments, name="padded", target="sm_100", shared=compiled.shared, num_warps=4
    )


@pytest.mark.parametrize("kind", SIX)
def test_eight_bits_by_six(kind):
    code, dtype = SIX[kind]
    y = np.random.default_rng(1).standard_normal((N, K)).astype(dtype)
    product = Padded()
    launched(product, code, packed(y.view(np.uint8)), {"elemtype": 15, "global_stride": [96]}, 128 * 128 + 64 * 96)
    assert product.error(y.astype(np.float64)) < 8 * 2**-24


def test_an_mbarrier_that_counts_the_padding_waits_for_ever():
    product = Padded()
    b = product.args[1].base.numpy()
    with pytest.raises(Deadlock, match="lacks 4,096 bytes"):
        launched(product, 5, b, {}, 128 * 128 + 64 * 128)


def test_numbers_of_six_bits_are_ml_dtypes_own():
    bits = np.arange(64, dtype=np.uint8)
    for kind, (_, dtype) in SIX.items():
        assert np.array_equal(numbers.of_six_bits(packed(bits[None]), kind)[0], bits.view(dtype).astype(np.float64))


def test_few_bits_in_tensor_memory_are_refused_by_name():
    block: Any = SimpleNamespace(instruction=SimpleNamespace(opcode="tcgen05.mma.cta_group::1.kind::f8f6f4", line=1))
    f = Form(128, N, 32, 1, "e2m1", "e4m3", "f32", False, False, False, False)
    with pytest.raises(UnknownOpcode, match=r"A of e2m1 in tensor memory; .* it takes those in shared"):
        in_memory(block, Issue(np.ones(1, bool), np.zeros(1, int)), np.zeros(1, int), f)
