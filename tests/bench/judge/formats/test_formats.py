"""Torch quantisers, our 8-bit caches and other libraries before the judge of formats."""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from kvproof.bench.judge.__main__ import main
from kvproof.bench.judge.contract.user_errors import UserCodeError
from kvproof.bench.judge.formats import command
from kvproof.bench.judge.formats.arrays import to_numpy, to_torch
from kvproof.bench.judge.formats.quantisers import check_format
from kvproof.bench.judge.formats.transformers_cache import LayerSide, fp8_format, fp8_layer, quanto_format, quanto_layer
from kvproof.bench.judge.pytest_plugin import FormatBroken
from kvproof.gpt2.int8_cache import Int8PagedCache, Int8StaticCache
from kvproof.gpt2.int8_weights import quantise
from kvproof.reference.cache import Int8Cache
from kvproof.reference.config import Config
from kvproof.reference.judge.formats.cases import KINDS
from kvproof.reference.judge.formats.format import Format
from kvproof.reference.judge.formats.verdict import BUG, FORMAT

from .... import _child
from . import _quantisers as mine

DTYPES = ("float32", "float16", "bfloat16")
FEW = ("normal", "offset", "outlier", "zeros", "ramp", "growing", "steps", "tiny")
D = 64


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back(dtype):
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert to_torch(x).dtype == getattr(torch, dtype)
    assert np.array_equal(to_numpy(to_torch(x)), x)
    assert to_numpy(to_torch(x)).dtype == x.dtype
    with pytest.raises(ValueError, match="return a tensor"):
        to_numpy(["a"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_function_loses_what_the_format_loses(dtype):
    assert check_format(mine.right, "int8-row", dtype, only=FEW).verdict == FORMAT


def test_a_wrong_function_is_named():
    verdict = check_format(mine.truncating, "int8-row")
    assert (verdict.verdict, verdict.names) == (BUG, ("truncation",))


def test_codes_and_scales_apart():
    assert check_format(mine.Parts, "int8-row", only=FEW).verdict == FORMAT
    assert check_format(mine.Doubled, "int8-row", only=FEW).verdict == BUG


FINITE = tuple(name for name in KINDS if name not in ("nonfinite", "tiny"))


@pytest.mark.parametrize("quantiser", [mine.Microscaled, mine.MicroscaledAsE8m0])
def test_scales_of_e8m0_may_be_bytes_or_floats(quantiser):
    verdict = check_format(quantiser, "mxfp8", only=FINITE)
    assert verdict.verdict == FORMAT, str(verdict)
    assert all(found.scales == 0 for found in verdict.found)


def test_a_wrong_byte_of_e8m0_is_seen():
    verdict = check_format(mine.OneExponentUp, "mxfp8", only=FINITE)
    assert verdict.verdict == BUG
    assert "stored scales are none that the rule gives" in verdict.reason


def test_integer_scales_of_other_formats_are_refused():
    with pytest.raises(ValueError, match="scales came as uint8, and this format stores float32; return floats"):
        check_format(mine.Microscaled, "mxfp8,scale_dtype=float32", only=("normal",))


def test_a_row_of_zeros_may_have_any_scale():
    verdict = check_format(mine.Guarded, "int8-row", only=FEW)
    assert verdict.verdict == FORMAT, str(verdict)


@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]
)
def test_floats_of_8_bits_come_as_they_are(dtype):
    x = torch.tensor([0.5, 1.0, 2.0, 16.0]).to(getattr(torch, dtype))
    assert str(to_numpy(x).dtype) == dtype
    assert to_numpy(x).astype(np.float32).tolist() == [0.5, 1.0, 2.0, 16.0]


@pytest.mark.parametrize(
    ("quantiser", "arrays", "says"),
    [(lambda x: x.to(torch.int8), "torch", "int8 came back, as codes do; return what is read back, in floats"),
        (lambda x: x.astype(np.int32), "numpy", "int32 came back, as codes do"),
        (lambda x: x > 0, "torch", "a tensor of bool came back; return"),
        (lambda x: x > 0, "numpy", "a ndarray of bool came back; return"),
        (lambda x: x.to(torch.complex64), "torch", "a tensor of complex64 came back; return"),
        (lambda x: None, "torch", "a NoneType of object came back; return")],
)  # fmt: skip
def test_what_is_not_read_back_in_floats_is_refused(quantiser, arrays, says):
    with pytest.raises(ValueError, match=says):
        check_format(quantiser, "int8-row", arrays=arrays)


@pytest.mark.parametrize(
    ("given", "says"),
    [(lambda x: x, "quantise gave a Tensor; it gives"), (lambda x: (x,), "quantise gave a tuple of 1; it gives"),
        (lambda x: {"codes": x}, "quantise gave a dict; it gives")],
)  # fmt: skip
def test_codes_without_scales_are_refused(given, says):
    class Odd(mine.Parts):
        quantise = staticmethod(given)

    with pytest.raises(ValueError, match=says):
        check_format(Odd, "int8-row")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, np.float16, np.dtype("float64")])
def test_dtypes_are_taken_as_torch_and_numpy_have_them(dtype):
    assert check_format(mine.right, "int8-row", dtype, only=("normal",)).verdict == FORMAT


@pytest.mark.parametrize("n", [8, 40, 48, 56, 57, 80])
def test_rows_of_any_width(n):
    verdict = check_format(mine.right, "int8-row", D=n)
    assert verdict.verdict == FORMAT
    assert all(found.of > 0 for found in verdict.found)


def test_caches_are_given_tokens_in_pieces():
    assert check_format(mine.RightCache, "int8-row", only=FEW).verdict == FORMAT
    assert check_format(mine.StaleCache, "int8-row", only=FEW).verdict == BUG


def test_what_is_no_quantiser_is_refused_in_one_line():
    with pytest.raises(ValueError, match="it must be f"):
        check_format(3, "int8-row")
    with pytest.raises(ValueError, match="give its class"):
        check_format(mine.RightCache(), "int8-row")
    with pytest.raises(ValueError, match="arrays is"):
        check_format(mine.right, "int8-row", arrays="jax")
    with pytest.raises(ValueError, match="no case 'nosuch'; there are normal, offset"):
        check_format(mine.right, "int8-row", only=("nosuch",))
    with pytest.raises(UserCodeError, match="no such kernel"):
        check_format(mine.broken, "int8-row")


CONFIG = Config(n_layer=1, n_head=3, n_embd=3 * D, n_vocab=8, n_ctx=256)


class ReferenceCache:
    """The reference's cache of 8 bits: its values, beside keys three times as large."""

    def __init__(self, dtype: Any):
        self.cache = Int8Cache(CONFIG, 2, 256, dtype)

    def append(self, x):
        self.cache.advance(x.shape[2])
        self.cache.append(0, 3 * x, x)

    def read(self):
        return np.stack([self.cache.read(0, b)[1] for b in range(2)])


class TorchCache:
    """One of gpt2's caches of 8 bits: its keys, beside values three times as large."""

    def __init__(self, kind):
        self.cache, self.T = kind(CONFIG, 2, 256), 0

    def append(self, x):
        self.cache.write_span(0, self.T, x, 3 * x)
        self.T += x.shape[2]

    def read(self):
        return self.cache.read(0, self.T)[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_reference_cache_is_its_format(dtype):
    verdict = check_format(lambda: ReferenceCache(dtype), "int8-row", dtype, arrays="numpy", caches=True, D=D, only=FEW)
    assert verdict.verdict == FORMAT, str(verdict)


@pytest.mark.parametrize("kind", [Int8StaticCache, Int8PagedCache])
def test_our_torch_caches_are_their_format(kind):
    verdict = check_format(lambda: TorchCache(kind), "int8-row", caches=True, D=D, only=FEW)
    assert verdict.verdict == FORMAT, str(verdict)


@pytest.mark.parametrize("dtype", DTYPES)
def test_our_int8_rows_are_their_format(dtype):
    class Rows:
        @staticmethod
        def quantise(x):
            return quantise(x)

        @staticmethod
        def dequantise(codes, scale):
            return codes.float() * scale[..., None]

    verdict = check_format(Rows, "int8-row", dtype)
    assert verdict.verdict == FORMAT, str(verdict)
    assert all(found.scales == 0 for found in verdict.found)


@pytest.fixture
def beside(monkeypatch):
    """The quantisers beside this file can be named on a command line."""
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.mark.usefixtures("beside")
def test_the_command_gives_the_verdict_and_its_exit_code(capsys):
    assert main(["--quantised", "_quantisers:right", "--format", "int8-row", "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out.startswith("FORMAT: int8-row, bfloat16")
    assert main(["--quantised", "_quantisers:truncating", "--format", "int8-row", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["verdict"], record["names"]) == ("BUG", ["truncation"])


@pytest.mark.usefixtures("beside")
def test_the_command_takes_the_width_of_rows(capsys):
    words = ["--quantised", "_quantisers:right", "--format", "int8-row", "--head-dim"]
    assert main([*words, "48"]) == 0
    assert main([*words, "0"]) == 3
    assert "at least 8" in capsys.readouterr().err
    assert main(["--faults", "--head-dim", "48"]) == 3


@pytest.mark.parametrize("more", [[], ["--json"]])
@pytest.mark.parametrize(("quantiser", "code"), [("right", 0), ("truncating", 1)])
def test_a_reader_that_leaves_does_not_change_the_exit_code(quantiser, code, more):
    read, write = os.pipe()
    os.close(read)
    words = ["--quantised", f"_quantisers:{quantiser}", "--format", "int8-row", *more]
    program = f"import sys; from kvproof.bench.judge.__main__ import main; sys.exit(main({words!r}))"
    done = _child.run([sys.executable, "-c", program], stdout=write, cwd=Path(__file__).parent)
    os.close(write)
    assert done.returncode == code


def test_the_exit_codes_are_those_of_verify():
    assert command.CODES == {"FORMAT": 0, "BUG": 1, "INCONCLUSIVE": 2}


def test_the_command_lists_formats(capsys):
    assert main(["--formats"]) == 0
    assert "scale = max|x| / 127" in capsys.readouterr().out
    assert main(["--formats", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} >= {"int8-row", "mxfp4", "q4_0"}


@pytest.mark.parametrize(
    ("words", "says"),
    [(["--quantised", "a:b"], "--format NAME"), (["--quantised", "a:b", "--format", "int9"], "no format"),
        (["--format", "int8-row", "--faults"], "does nothing beside"), (["--quantised", "none.such:f", "--format",
            "int8-row"], "none.such")],
)  # fmt: skip
def test_the_command_refuses(words, says, capsys):
    assert main(words) == 3
    assert says in capsys.readouterr().err


def test_the_fixture_raises_with_the_verdict(assert_format, kvproof_records):
    assert_format(mine.right, format="int8-row", only=FEW)
    with pytest.raises(FormatBroken, match="truncated"):
        assert_format(mine.truncating, format="int8-row")
    assert [record["passed"] for record in kvproof_records] == [True, False]
    kvproof_records.clear()


@pytest.mark.parametrize("side", ["keys", "values"])
def test_transformers_fp8_layer_is_its_format(side):
    found = pytest.importorskip("transformers.cache_utils", reason="transformers is not installed")
    if not hasattr(found, "Fp8QuantizedLayer"):
        pytest.skip("this transformers has no FP8 cache layer")
    verdict = check_format(lambda: LayerSide(fp8_layer, side), fp8_format(), caches=True, D=D, only=FEW)
    assert verdict.verdict == FORMAT, str(verdict)


def test_transformers_on_quanto_is_its_format_until_it_quantises_again():
    pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
    still = check_format(lambda: LayerSide(quanto_layer), quanto_format(), caches=True, D=D, only=FEW)
    assert still.verdict == FORMAT, str(still)
    make, f = partial(quanto_layer, group=48, residual=1), quanto_format(group=48, residual=1)
    again = check_format(lambda: LayerSide(make), f, caches=True, D=32, only=("normal", "ramp"))
    assert (again.verdict, again.names) == (BUG, ("quantised again",)), str(again)


def test_gguf_s_quantisers_are_their_formats():
    quants = pytest.importorskip("gguf.quants", reason="gguf is not installed")
    from gguf import GGMLQuantizationType as Types

    for name, kind in (("q8_0", Types.Q8_0), ("q4_0", Types.Q4_0), ("q4_1", Types.Q4_1)):

        def run(x, kind=kind):
            if x.shape[-1] % 32:
                raise ValueError("no whole blocks")
            rows = x.reshape(-1, x.shape[-1])
            return quants.dequantize(quants.quantize(rows, kind), kind).reshape(x.shape)

        verdict = check_format(run, name, arrays="numpy")
        assert verdict.verdict == FORMAT, str(verdict)


def test_torchao_s_int8_is_its_format():
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torchao.quantization import quant_primitives as ao

    f = Format("torchao-int8", "int8", top=127.5, floor=2.0**-23)

    def run(x):
        block = (1, 1, 1, x.shape[-1])
        s, zero = ao.choose_qparams_affine(x, ao.MappingType.SYMMETRIC, block, torch.int8, eps=2.0**-23)
        codes = ao.quantize_affine(x, block, s, zero, torch.int8)
        return ao.dequantize_affine(codes, block, s, zero, torch.int8, output_dtype=x.dtype)

    verdict = check_format(run, f, only=("normal", "offset", "outlier", "zeros", "ramp"))
    assert verdict.verdict == FORMAT, str(verdict)
