"""wgmma, mbarriers and bulk copies in machine code: the bits, the reports and the errors of the NumPy form."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from kvproof.kernels.ptx.native import records, tiers

from .. import _text
from ..asynchronous import _orders, _pipelines
from ..tensor_core._matmul import Product
from ..tensor_core.test_wgmma import CASES
from ..tma import _by_hand
from ..tma import test_tensors as tensors
from . import _both
from ._random import Program
from .test_engines import natively, wider
from .test_random import outcome


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)
    monkeypatch.setattr(tiers, "OFTEN", 1 << 60)


def facts(case: Any, engine: str | None, edit: Any = None) -> tuple[dict[str, Any], Any]:
    """What a pipelined kernel leaves and reports on an engine, and the report or the error."""
    left = []

    def run(**settings):
        result, report = _pipelines.run(case, edit, engine=settings["engine"])
        left.append(_both.bits(result.numpy()))
        return report

    report, found = _both.outcome(run, engine, (), {})
    found.pop("stored_to", None)  # addresses of this launch's own arrays
    return found | {"left": left}, report


@pytest.mark.parametrize("name", ["product", "attend", "sums"])
def test_pipelined_kernels_run_natively(name):
    case = _pipelines.cases()[name]
    usual, _ = facts(case, "numpy")
    now, report = facts(case, "native")
    assert now == usual
    assert report.engine == "native"


@pytest.mark.parametrize("case", wider(CASES, 8), ids=lambda case: case[2])
def test_wgmmas_have_the_bits_of_the_numpy_form(case):
    dtype, options, _ = case
    with natively():
        Product(dtype, **options).run()


def test_sums_of_numbers_of_very_different_sizes_have_the_same_bits():
    product = Product(torch.bfloat16, tb=True)
    scale = torch.randint(-60, 60, product.a.shape, generator=torch.Generator().manual_seed(0))
    product.a *= (2.0**scale).to(torch.bfloat16)
    with natively():
        product.run()


@pytest.mark.parametrize("case", wider(tensors.CASES, 9), ids=str)
def test_boxes_of_tensors(case):
    with natively():
        tensors.test_boxes_are_copied_but_for_what_lies_outside(*case)


@pytest.mark.parametrize("block", wider([(16, 128), (8, 16), (8, 32), (8, 64), (16, 256)], 5), ids=str)
def test_swizzles_and_fillings(block):
    with natively():
        tensors.test_every_swizzle_and_what_fills_a_box_outside_of_the_tensor(torch.float16, block, "nan")


DELETED = [(name, k) for name in ("product", "attend", "sums") for k in range(8)]


@pytest.mark.parametrize("mutants", wider(DELETED, 24), ids=str)
def test_without_a_wait_or_fence_it_ends_alike(mutants):
    """An eighth of the mutants that test_pipelines.py makes."""
    name, part = mutants
    case, texts, ended = _pipelines.cases()[name], [], Counter()
    _pipelines.run(case, lambda text: texts.append(text) or text)
    for n, (_, _, mutant) in enumerate(_pipelines.deletions(texts[0])):
        if n % 8 == part:
            usual, _ = facts(case, "numpy", lambda _, mutant=mutant: mutant)
            now, _ = facts(case, None, lambda _, mutant=mutant: mutant)
            assert now == usual
            ended["error" in usual] += 1
    assert ended[True] or (name == "sums" and ended)  # no fault is in some eighths of these


def outcomes(body: str, arrays: list[np.ndarray], settings: dict[str, Any]) -> tuple[Any, Any, str]:
    """What a body leaves and reports in NumPy form, and where machine code may run; and who ran it there."""
    program = Program(body, arrays, settings)
    came = [a.copy() for a in arrays]
    usual, _ = outcome(program, "numpy", came)
    return usual, *outcome(program, None, came)


# All threads copy a word, and read their neighbour's once an mbarrier says that all have come.
HANDED = """@%p1 mbarrier.init.shared::cta.b64 [1024], {count}; bar.sync 0;
cp.async.ca.shared.global [%r5], [%rd11], 4; {arrive} [1024];
L: mbarrier.try_wait.parity.shared::cta.b64 %p4, [1024], 0; @!%p4 bra L;
xor.b32 %r9, %r5, 256; ld.shared.b32 %r9, [%r9]; {end} st.global.b32 [%rd11], %r9; ret;"""
ARRIVE, TWICE = "cp.async.mbarrier.arrive.noinc.shared::cta.b64", "cp.async.mbarrier.arrive.shared::cta.b64"
# whether it is right, and what it is made of
HANDS = {
    "all arrive": (True, {"count": 128, "arrive": ARRIVE, "end": ""}),
    "and use it again": (True, {"count": 128, "arrive": ARRIVE, "end": "bar.sync 0; @%p1 st.shared.b64 [1024], 0;"}),
    "one more is expected": (False, {"count": 129, "arrive": ARRIVE, "end": ""}),
    "one more arrives": (False, {"count": 127, "arrive": ARRIVE, "end": ""}),
    "each adds one": (False, {"count": 1, "arrive": TWICE, "end": ""}),
    "another writes it": (False, {"count": 128, "arrive": ARRIVE, "end": "st.shared.b32 [%r5], 1;"}),
    "it is overwritten": (False, {"count": 128, "arrive": f"@%p1 st.shared.b64 [1024], 0; {ARRIVE}", "end": ""}),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDS)
def test_copies_that_arrive_at_an_mbarrier(name):
    right, parts = HANDS[name]
    body, settings = "setp.eq.u32 %p1, %r1, 0; " + HANDED.format(**parts), {"threads": 128, "shared": 1032}
    usual, now, engine = outcomes(body, [np.arange(128, dtype=np.uint32)], settings)
    assert now == usual
    assert ("error" not in usual) == right, usual
    assert not right or engine == "native"


# A thread touches what it and another then store the same bytes to, in bulk, by one instruction.
BULK = """setp.eq.u32 %p1, %r1, 0; setp.lt.u32 %p2, %r1, 2; mov.u32 %r7, 7;
@%p1 st.shared.v4.b32 [0], {{%r7, %r7, %r7, %r7}}; fence.proxy.async.shared::cta; bar.sync 0;
fence.proxy.async.shared::cta; {touch}
@%p2 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [0], 16;
@%p2 cp.async.bulk.commit_group; @%p2 cp.async.bulk.wait_group 0; ret;"""
TOUCHES = {
    "read": "@%p1 ld.global.v4.b32 {%r8, %r9, %r10, %r11}, [%rd1];",
    "write": "@%p1 st.global.v4.b32 [%rd1], {%r7, %r7, %r7, %r7};",
    "write other bytes": "@%p1 st.global.v4.b32 [%rd1], {%r1, %r1, %r1, %r1};",
    "": "",
}


@pytest.mark.parametrize("name", TOUCHES)
def test_two_bulk_stores_of_the_same_bytes(name):
    body = BULK.format(touch=TOUCHES[name])
    usual, now, engine = outcomes(body, [np.arange(256, dtype=np.uint32)], {})
    assert now == usual
    assert ("Race" in str(usual.get("error"))) == bool(name)
    assert name or engine == "native"


STORE = "setp.eq.u32 %p1, %r1, {}; @%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd7], [0], 16;"
PATHS = f"setp.eq.u32 %p3, %r2, 1; @%p3 bra A; {STORE.format('%r2')} bra B; A: {STORE.format(5)} B:"


@pytest.mark.parametrize("waits", ["@%p1 cp.async.bulk.wait_group 0;", ""])
@pytest.mark.parametrize("stores", [STORE.format("%r2"), PATHS], ids=["in lockstep", "apart"])
def test_another_thread_of_each_program_stores_in_bulk(stores, waits):
    body = f"""mov.u32 %r7, 7; mul.wide.u32 %rd6, %r2, 16; add.u64 %rd7, %rd1, %rd6; setp.eq.u32 %p2, %r1, 0;
@%p2 st.shared.v4.b32 [0], {{%r7, %r7, %r7, %r7}}; fence.proxy.async.shared::cta; bar.sync 0;
{stores} @%p1 cp.async.bulk.commit_group; {waits} ret;"""
    usual, now, engine = outcomes(body, [np.arange(256, dtype=np.uint32)], {"programs": 3})
    assert now == usual
    assert ("error" in usual) == (not waits)
    assert not waits or engine == "native"


def test_programs_in_lockstep_swizzle_matrices_in_different_ways():
    body = """mov.u32 %r6, %r5; add.u32 %r7, %r1, 0x3C003800;
L: st.shared.b32 [%r6], %r7; add.u32 %r7, %r7, 0x10020; add.u32 %r6, %r6, 512; setp.lt.u32 %p3, %r6, 8192; @%p3 bra L;
fence.proxy.async.shared::cta; bar.sync 0; cvt.u64.u32 %rd5, %r2; shl.b64 %rd6, %rd5, 62;
or.b64 %rd7, %rd6, 0x0000000800080000; wgmma.fence.sync.aligned;
wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r8, %r9, %r10, %r11}, %rd7, %rd7, 0, 1, 1, 0, 0;
wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; st.global.b32 [%rd11], %r8; ret;"""
    out = np.zeros(512, np.uint32)
    usual, now, engine = outcomes(body, [out], {"programs": 4, "threads": 128, "shared": 8192})
    assert now == usual
    assert (engine, "error" in usual) == ("native", False), usual
    assert len({x.tobytes() for x in out.reshape(4, 128)}) == 4


@pytest.mark.parametrize("fields", [{"elemtype": 13}, {"element_stride": [1, 2]}], ids=["b4x16", "strides"])
def test_maps_of_other_kinds_are_for_the_numpy_form_before_there_is_room_for_anything(fields, monkeypatch):
    monkeypatch.setattr(records.Records, "fill", None)
    body = _by_hand.INIT + _by_hand.EXPECT.format(64)
    body += "@%p1 cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes "
    body += f"[0], [%rd2, {{0, 0}}], [{_by_hand.BAR}]; " + _by_hand.WAIT.format(0, 0) + _by_hand.OUT.format(0, 64)
    map = _by_hand.tensor(np.arange(256, dtype=np.uint8).reshape(8, 32), [32, 2], 0)
    map.fields.update(fields)
    each = [_both.outcome(_by_hand.run, engine, (body, np.zeros(64, np.uint8), map), {}) for engine in ("numpy", None)]
    assert each[0][1] == each[1][1]


def test_too_many_mbarriers_are_for_the_numpy_form_for_good():
    made = "; ".join(f"@%p1 mbarrier.init.shared::cta.b64 [{8 * n}], 1" for n in range(130))
    usual, now, engine = outcomes(f"setp.eq.u32 %p1, %r1, 0; {made}; ret;", [np.zeros(1, np.uint32)], {"shared": 2048})
    assert now == usual
    assert engine == "numpy"
    assert "no machine code for 130 mbarriers" in tiers._refused.values()


@pytest.mark.parametrize(("room", "threads"), [(1 << 30, 4), (5 << 19, 2), (1, 0)])
def test_no_more_threads_run_than_there_is_room_for(room, threads, monkeypatch):
    found, fill = [], records.Records.fill
    monkeypatch.setattr(records.Records, "fill", lambda x, *more: found.append(x.threads) or fill(x, *more))
    monkeypatch.setattr(records, "ROOM", room)
    monkeypatch.setattr(records.os, "cpu_count", lambda: 4)
    body = f"setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared::cta.b64 [0], 1; add.u32 %r9, %r4, {room}; {_text.OWN}"
    settings = {"programs": 8, "shared": 1 << 16}
    usual, now, engine = outcomes(body.format("%r9"), [np.zeros(256, np.uint32)], settings)
    assert now == usual
    assert (found, engine) == (([threads], "native") if threads else ([], "numpy"))


def ended(seed: int, copies: bool) -> tuple[str, str]:
    """How a random program of test_orders.py ends on both engines, alike, and on which; all warps meet at barriers."""
    rng = np.random.default_rng(seed)
    events = _orders.draw(rng, int(rng.integers(6, 20)), copies)
    everybody = ("meet", tuple(range(_orders.WARPS)), 0)
    events = [everybody if event[0] == "meet" else event for event in events]
    body, size = _orders.text(events)
    arrays = [np.zeros(_orders.WORDS * _orders.CELLS // 4, np.uint32), np.zeros(1 << 16, np.uint32)]
    usual, now, engine = outcomes(body, arrays, {"threads": 32 * _orders.WARPS, "shared": size})
    assert now == usual, events
    waits = sum(event[0] == "wait" for event in events)
    asked = sum(line.instructions for name, line in usual.items() if "try_wait" in name)
    return "error" if "error" in usual else "spins" if asked > waits else "fine", engine


@pytest.mark.parametrize("copies", [False, True])
def test_random_programs_end_alike_and_natively_unless_a_warp_has_to_ask_twice(copies):
    ends = Counter(ended(100 + seed, copies) for seed in range(28 if copies else 14))
    assert ends["error", "error"] > 1, ends
    assert ends["fine", "native"] > 1, ends
    assert ends["fine", "numpy"] == ends["spins", "native"] == 0, ends


@pytest.mark.exhaustive
@pytest.mark.parametrize("copies", [False, True])
def test_hundreds_of_random_programs_end_alike(copies):
    ends = Counter(ended(seed, copies) for seed in range(1000, 1800))
    assert ends["fine", "numpy"] == ends["spins", "native"] == 0, ends
