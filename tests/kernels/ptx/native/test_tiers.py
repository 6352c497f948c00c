"""Which engine runs a launch, and when it changes; a recorder stands where machine code would be compiled and run."""

import os
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import pytest

from kvproof.kernels.ptx import Refused, Trap, execute, lockstep
from kvproof.kernels.ptx.machine import Machine
from kvproof.kernels.ptx.native import tiers
from kvproof.kernels.ptx.native.context import FUEL, SUSPECT
from kvproof.kernels.ptx.native.lower import Unlowered

from .._text import OWN, run

BODY = "mov.b32 %r9, 0; LOOP: add.u32 %r9, %r9, 1; setp.ne.u32 %p1, %r9, 50; @%p1 bra LOOP; "


class Engine:
    """Compiles to 1, and runs the NumPy form instead."""

    def __init__(self, monkeypatch):
        self.done, self.lacks, self.refusal, self.stored = [], "", "", False
        self.ends: list[int] = []  # what the next runs end in; then all is well
        monkeypatch.setattr(tiers, "engine", self)
        monkeypatch.setattr(tiers, "kernel", self)
        monkeypatch.setattr(tiers.code, "at_hand", lambda key: self.stored)
        monkeypatch.setattr(tiers, "_spent", defaultdict(float))
        monkeypatch.setattr(tiers, "_refused", {})
        monkeypatch.delenv("KVPROOF_PTX_ENGINE", raising=False)

    def key(self, start) -> bytes:
        return start.text.encode()

    def compiled(self, start, best=False) -> int:
        self.done.append("compiled")
        if self.lacks:
            raise Unlowered(self.lacks)
        return 1

    def key_of(self, text, num_warps) -> bytes:
        return text.encode()

    def refuses(self, start) -> str:
        return self.refusal

    def run(self, start, code, written, fuel):
        assert code == 1
        assert (start.buffers[0].array == 99).all(), "the arrays are as they came"
        self.done.append("run")
        if self.ends:
            return self.ends.pop()
        return lockstep.run(start, written, lambda: False)


@pytest.fixture
def engine(monkeypatch):
    return Engine(monkeypatch)


@pytest.fixture
def dear(monkeypatch):
    """Compiling never pays."""
    monkeypatch.setattr(tiers, "PRICE", 1e9)


def launch(body=BODY, **settings):
    out = np.full(32, 99, np.uint32)
    report = run(body + OWN.format("%r9"), out, **settings)
    assert (out == 50).all()
    return report.engine, report.engine_reason


def test_a_short_launch_runs_in_numpy_form_and_says_why(engine, dear):
    assert launch() == ("numpy", "it takes less time than compiling")
    assert engine.done == []


def test_code_at_hand_runs_at_once(engine, dear):
    engine.stored = True
    assert launch() == ("native", "")
    assert engine.done == ["compiled", "run"]


def test_numpy_s_time_adds_up_until_compiling_pays(engine, monkeypatch):
    monkeypatch.setattr(tiers, "LEAST", (0.0, 0.0))
    monkeypatch.setattr(tiers, "PRICE", 1.0)
    assert launch()[0] == "numpy"
    ((kernel, spent),) = tiers._spent.items()
    assert spent > 0
    assert launch()[0] == "numpy"
    assert tiers._spent[kernel] > spent
    tiers._spent[kernel] = 1e3
    assert launch() == ("native", "")
    assert launch(BODY + " ")[0] == "numpy", "another kernel"


def test_what_numpy_waits_for_on_a_busy_machine_costs_nothing(engine, monkeypatch):
    monkeypatch.setattr(tiers, "LEAST", (0.0, 0.0))
    monkeypatch.setattr(tiers, "PRICE", 0.02)  # 0.28 s for 14 instructions, which take far less
    usual = Machine.run
    monkeypatch.setattr(Machine, "run", lambda self: time.sleep(0.3) or usual(self))
    for _ in range(2):
        assert launch() == ("numpy", "it takes less time than compiling")


def test_so_many_threads_are_compiled_for_at_once(engine, monkeypatch):
    monkeypatch.setattr(tiers, "LEAST", (0.0, 1e9))
    assert launch() == ("native", "")


def test_a_run_that_takes_long_starts_over_as_machine_code(engine, monkeypatch):
    monkeypatch.setattr(tiers, "LEAST", (0.0, 0.0))
    monkeypatch.setattr(tiers, "PRICE", 1e-9)
    stops = []
    usual = Machine.advance

    def advance(self, *fragment):
        stops.append(self)
        return usual(self, *fragment)

    class Late(tiers.Tier):
        def due(self):  # in the middle of the first run
            return len(stops) == 10 and super().due()

    monkeypatch.setattr(Machine, "advance", advance)
    monkeypatch.setattr(tiers, "Tier", Late)
    assert launch("st.global.b32 [%rd11], 7; bar.sync 0; " + BODY) == ("native", "")
    assert engine.done == ["compiled", "run"]
    assert len({*map(id, stops)}) == 2


def test_what_has_no_machine_code_goes_on_in_numpy_form_and_is_not_tried_again(engine, monkeypatch):
    monkeypatch.setattr(tiers, "PRICE", -1.0)
    engine.lacks = "wgmma.fence"
    assert launch() == ("numpy", "no machine code for wgmma.fence")
    assert launch() == ("numpy", "no machine code for wgmma.fence")
    assert engine.done == ["compiled"]
    with pytest.raises(
        Refused, match=r'engine="native" cannot run this launch: no machine code for wgmma\.fence; leave'
    ):
        launch(engine="native")


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_launch_that_machine_code_cannot_run_is_refused_where_it_is_asked_for(engine, monkeypatch, when):
    def run(*launch):
        raise Unlowered("arrays with holes")

    why = {"before": "it has atomics", "during": "no machine code for arrays with holes"}[when]
    engine.stored = True
    if when == "before":
        engine.refusal = why
    else:
        monkeypatch.setattr(engine, "run", run)
    assert launch() == ("numpy", why)
    with pytest.raises(Refused, match=f"cannot run this launch: {why}; leave engine= out"):
        launch(engine="native")


def test_numpy_form_says_what_looked_wrong(engine):
    engine.ends = [SUSPECT, SUSPECT]
    assert launch(engine="native") == ("numpy", "something looks wrong, and NumPy says exactly what")
    with pytest.raises(Trap):
        launch(BODY + "trap; ", engine="native")
    assert engine.done == ["compiled", "run"] * 2


def test_numpy_form_is_asked_whether_a_long_launch_ends_and_goes_on_for_a_time(engine, monkeypatch):
    engine.ends = [FUEL]
    assert launch(engine="native") == ("numpy", "it may never end")
    monkeypatch.setattr(tiers, "PATIENCE", 0.0)
    engine.ends = [FUEL]
    assert launch(engine="native") == ("native", "")
    assert engine.done == ["compiled", "run", "compiled", "run", "run"]


def test_an_engine_is_chosen_by_launch_or_for_the_process(engine, dear, monkeypatch):
    assert launch(engine="native") == ("native", "")
    monkeypatch.setenv("KVPROOF_PTX_ENGINE", "native")
    assert launch() == ("native", "")
    assert launch(engine="numpy") == ("numpy", "asked for")
    monkeypatch.setenv("KVPROOF_PTX_ENGINE", "numpy")
    assert launch() == ("numpy", "asked for")
    monkeypatch.setenv("KVPROOF_PTX_ENGINE", "")
    assert launch() == ("numpy", "it takes less time than compiling")
    monkeypatch.setenv("KVPROOF_PTX_ENGINE", "cuda")
    with pytest.raises(Refused, match="KVPROOF_PTX_ENGINE is 'cuda'; it must be"):
        launch()


WITHOUT = """
import sys, numpy as np
sys.modules["llvmlite"] = None
from kvproof.kernels.ptx.execute import execute
from kvproof.kernels.ptx.segments import Buffer
from kvproof.kernels.ptx import Refused
def launch(**settings):
    out = np.zeros(32, np.uint32)
    known = dict(name="k", target="sm_80", shared=0, num_warps=1)
    report = execute({text!r}, (1, 1, 1), [("a", Buffer("a", out))], **known, **settings)
    print(report.engine, report.engine_reason, out.sum())
launch()
launch()
try:
    launch(engine="native")
except Refused as error:
    print(error)
"""
TEXT = """.version 8.7
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p)
{
.reg .b64 %rd<3>; .reg .b32 %r<3>;
ld.param.b64 %rd1, [p];
mov.u32 %r1, %tid.x;
mul.wide.u32 %rd2, %r1, 4;
add.u64 %rd1, %rd1, %rd2;
st.global.b32 [%rd1], %r1;
ret;
}
"""


def test_without_llvmlite_one_line_is_said_and_numpy_form_runs():
    words = [sys.executable, "-W", "error", "-c", WITHOUT.format(text=TEXT)]
    environment = {k: x for k, x in os.environ.items() if k != "KVPROOF_PTX_ENGINE"}
    child = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr
    (said,) = child.stderr.splitlines()
    assert said.startswith("kvproof: the PTX machine runs in NumPy form, slowly; llvmlite cannot be imported: ")
    first, second, refused = child.stdout.splitlines()
    assert first == second
    assert first.startswith("numpy llvmlite cannot be imported")
    assert first.endswith(" 496")
    assert refused.startswith('engine="native" cannot run this launch: llvmlite cannot be imported')


def test_a_mistake_of_ours_is_no_missing_llvmlite(monkeypatch):
    monkeypatch.setitem(sys.modules, "kvproof.kernels.ptx.native.tiers", None)
    with pytest.raises(ImportError, match="tiers"):
        execute.tier_of(None, False)  # pyright: ignore[reportArgumentType]
