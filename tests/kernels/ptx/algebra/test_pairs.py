"""The table of pairs: as kernels they leave the bits of the ring, and the ring says what the table says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof.kernels import ptx
from kvproof.kernels.ptx.algebra import embedding, ring
from kvproof.kernels.ptx.algebra.same import compare

from ._fpsan import needs_fpsan
from ._pairs import EQUAL, UNEQUAL, Pair, agrees, drawn, in_ring, table, triton_source

PAIRS = EQUAL + UNEQUAL
IN_THE_SUITE = 16  # of so many pairs one; all of them with -m exhaustive
CASES = [(n, dtype) for n, pair in enumerate(PAIRS) for dtype in pair.dtypes]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The kernels of all pairs, in a file that Triton can read."""
    path = tmp_path_factory.mktemp("pairs") / "pairs_of_kernels.py"
    path.write_text(triton_source(PAIRS), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("pairs_of_kernels", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def out_dtype(pair: Pair, dtype: str) -> torch.dtype:
    return torch.float16 if pair.one.startswith("half") else getattr(torch, dtype)


@needs_fpsan
@pytest.mark.parametrize(("n", "dtype"), [
    pytest.param(n, dtype, marks=[] if i % IN_THE_SUITE == 0 or PAIRS[n].given else pytest.mark.exhaustive)
    for i, (n, dtype) in enumerate(CASES)])  # fmt: skip
def test_both_sides_as_kernels_leave_the_bits_of_the_ring(n, dtype, kernels):
    pair = PAIRS[n]
    out = torch.full((32,), torch.nan, dtype=out_dtype(pair, dtype))
    args, options = (*drawn(dtype), out), {"num_warps": 1}
    one, other = (getattr(kernels, f"{side}_{n}") for side in ("one", "other"))
    verdict = compare((one, 1, args, options), (other, 1, args, options), outputs="out")
    if pair.given:  # on the machine alone
        assert verdict.same == agrees(pair, dtype, (3, 9) if embedding.installed().folds else (3, 8))
        return
    for kernel, expression in ((one, pair.one), (other, pair.other)):
        ptx.run(kernel, 1, *args, **options, target="sm_80", instrumentation_mode="fpsan")
        assert np.array_equal(ring.array(out).bits, in_ring(expression, dtype)), expression
    assert verdict.same == np.array_equal(in_ring(pair.one, dtype), in_ring(pair.other, dtype))


def test_the_committed_table_is_what_the_rings_say():
    committed = Path(__file__).with_name("pairs.md").read_text(encoding="utf-8")
    assert committed.splitlines() == list(table())


def test_every_blind_pair_is_explained_and_the_others_are_right():
    for pairs, truth in ((EQUAL, True), (UNEQUAL, False)):
        assert len({pair[:2] for pair in pairs}) == len(pairs)
        for pair in pairs:
            wrong = [(d, v) for d in pair.dtypes for v in embedding.DIALECTS if agrees(pair, d, v) != truth]
            assert bool(wrong) == bool(pair.why), (pair, wrong)
        assert sum(not pair.why for pair in pairs) >= 25
