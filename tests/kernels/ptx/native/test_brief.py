"""What is kept beside machine code: a later process launches without parsing, and its reports are the same."""

import os
import time

import numpy as np
import pytest

from kvproof.kernels.ptx import execute
from kvproof.kernels.ptx.assemble import assemble
from kvproof.kernels.ptx.errors import PtxError
from kvproof.kernels.ptx.native import brief, code, disk, kernel, tiers

from .._text import run
from ._both import facts

BODY = """
    setp.gt.u32 %p1, %r1, 40; @!%p1 atom.global.add.u32 %r6, [%rd2], 1;
    shl.b32 %r9, %r4, 1; st.global.b32 [%rd11], %r9; ret;
"""
ARRAYS = np.zeros(192, np.uint32), np.zeros(4, np.uint32)  # of every launch: where they lie decides on their sectors
WRONG = "ret;", "st.global.b32 [%rd1], %r1; ret;"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KVPROOF_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("KVPROOF_PTX_ENGINE", raising=False)
    forget()
    yield tmp_path / "ptx"
    forget()


def forget():
    """As in a new process."""
    for kept in (brief.read, brief.opcodes, kernel.kept, kernel.code_of):
        kept.cache_clear()
    code._known.clear()
    tiers._spent.clear()
    tiers._suspected.clear()


@pytest.fixture
def assembled(monkeypatch):
    """How often a kernel was parsed."""
    found, usual = [], assemble
    monkeypatch.setattr(execute, "assemble", lambda *known: found.append(known) or usual(*known))
    return found


def launched(engine=None, body=BODY, **settings):
    for array in ARRAYS:
        array[...] = 0
    report = run(body, *ARRAYS, programs=3, threads=64, engine=engine, **settings)
    return report, [a.tobytes() for a in ARRAYS]


def told(report):
    return {name: x for name, x in facts(report).items() if name != "stored_to"}  # addresses


def test_a_later_process_parses_nothing_until_somebody_asks(assembled, monkeypatch):
    usual, left = launched("numpy")
    launched("native")
    forget()
    assembled.clear()
    with monkeypatch.context() as patched:  # nor does it compile: the best code is taken, though nobody asks for it
        patched.setattr(kernel, "code_of", None)
        report, now = launched()
    assert (report.engine, now) == ("native", left)
    assert not assembled
    assert told(report) == told(usual)
    assert len(assembled) == 1


def test_the_numpy_form_has_all_of_it():
    launched("native")
    forget()
    usual = launched("numpy", trace=True)
    report, now = launched(trace=True)
    assert report.engine_reason == "it is to keep a log of all accesses"
    assert (told(report), now) == (told(usual[0]), usual[1])


@pytest.mark.parametrize("which", ["brief", "code"])
def test_either_may_be_gone_or_wrong(folder, which):
    _, left = launched("native")
    (small, large) = sorted(folder.glob("*.code"), key=lambda x: x.stat().st_size)
    (small if which == "brief" else large).write_bytes(b"wrong")
    forget()
    report, now = launched("native")
    assert (report.engine, now) == ("native", left)
    assert told(report) == told(launched("numpy")[0])


def test_errors_are_those_of_the_numpy_form():
    body = BODY.replace(*WRONG)
    told = []
    for kind in ("numpy", "native", "native"):
        forget()
        with pytest.raises(PtxError) as caught:
            launched(kind, body)
        told.append(str(caught.value))
    assert told[0] == told[1] == told[2]


def test_what_numpy_costs_counts_over_processes(monkeypatch, folder):
    monkeypatch.setattr(tiers, "LEAST", (0.0, 0.0))
    monkeypatch.setattr(tiers, "PRICE", 1.0)
    for _ in range(2):
        forget()
        assert launched()[0].engine_reason == "it takes less time than compiling"
    (notes,) = folder.glob("*.spent")
    assert len(notes.read_text().split()) == 2
    assert notes.stat().st_mode & 0o777 == 0o600
    disk.spend(notes.stem, 1e4)
    assert launched()[0].engine == "numpy"
    forget()
    assert launched()[0].engine == "native"


def test_notes_that_are_no_numbers_count_nothing(folder):
    disk.spend("key", 2.5)
    disk.spend("key", 1.5)
    assert disk.spent("key") == 4.0
    (folder / "key.spent").write_text("wrong\n")
    assert disk.spent("key") == disk.spent("other") == 0.0


def test_what_a_run_before_this_one_has_cost_counts_for_those_to_come(monkeypatch, folder):
    monkeypatch.setattr(tiers, "LEAST", (0.0, 0.0))
    monkeypatch.setattr(tiers, "PRICE", 1.0)
    launched()
    (notes,) = folder.glob("*.spent")
    price = len(launched()[0].counters.decoded.steps)
    notes.write_text(f"{price / disk.EARLIER + 1}\n")
    forget()
    assert launched()[0].engine == "numpy", "another process of this run"
    notes.write_text(f"{price / disk.EARLIER + 1}\n")
    os.utime(notes, (tiers.BEGAN - 1, tiers.BEGAN - 1))
    forget()
    assert launched()[0].engine == "native"


def test_what_it_costs_to_parse_counts_once(monkeypatch, folder):
    def slow(*known):
        begun = time.thread_time()
        while time.thread_time() < begun + 0.2:
            pass
        return assemble(*known)

    monkeypatch.setattr(execute, "assemble", slow)
    monkeypatch.setattr(tiers, "PRICE", 1e3)
    launched()
    monkeypatch.setattr(execute, "assemble", assemble)
    launched()
    (notes,) = folder.glob("*.spent")
    first, second = map(float, notes.read_text().split())
    assert first > 0.2
    assert first > second
