"""Machine code from IR: compiled once, linked with what it calls, and never run if it was made for something else."""

import ctypes
import math
from collections import OrderedDict
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import pytest

from kvproof.kernels.ptx.native import code
from kvproof.kernels.ptx.native.lower import Unlowered

from ._ir import ADD, CALLS, TANH


@pytest.fixture(autouse=True)
def another_process(tmp_path, monkeypatch):
    """An empty folder, and nothing known; call it to forget again."""

    def forget():
        for function in (code.surroundings, code.cpu, code.digest_of):
            function.cache_clear()
        monkeypatch.setattr(code, "_known", OrderedDict())

    monkeypatch.setenv("KVPROOF_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(code, "compilations", 0)
    forget()
    yield forget
    monkeypatch.undo()
    forget()


def added(n: int, key: bytes = b"k") -> code.Code:
    return code.compiled(key, lambda: [ADD.format(n)])


def call(found: code.Code, name: str, x, kind: Any = ctypes.c_int64):
    return ctypes.CFUNCTYPE(kind, kind)(found[name])(x)


def test_a_key_is_compiled_once_in_a_process_and_once_for_all(another_process):
    assert not code.at_hand(b"k")
    first = added(41)
    assert call(first, "f", 1) == 42
    assert added(99) is first
    another_process()
    assert code.at_hand(b"k")
    assert call(added(99), "f", 1) == 42
    assert code.compilations == 1
    assert call(first, "f", 2) == 43, "what was handed out stays in memory"


def test_better_code_that_is_at_hand_is_taken(another_process):
    better = code.compiled(b"k", lambda: [ADD.format(41)], level=1)
    assert added(99) is better
    another_process()
    assert code.at_hand(b"k")
    assert call(added(99), "f", 1) == 42
    assert code.compilations == 1
    code.compiled(b"other", lambda: [ADD.format(1)])
    assert call(code.compiled(b"other", lambda: [ADD.format(2)], level=1), "f", 1) == 3
    assert code.compilations == 3


def test_modules_call_each_other_what_they_need_and_libm(another_process):
    for _ in range(2):
        together = code.compiled(b"both", lambda: [CALLS, ADD.format(1)])
        assert call(together, "g", 4) == 10
        apart = code.compiled(b"apart", lambda: [CALLS], needs=(added(2),))
        assert call(apart, "g", 4) == 12
        assert call(code.compiled(b"m", lambda: [TANH]), "h", 0.3, ctypes.c_double) == math.tanh(0.3)
        another_process()
    assert code.compilations == 4


def another_source(patch, tmp_path):
    (tmp_path / "more.py").write_text("")
    patch.setattr(code, "SOURCES", tmp_path)


CHANGES = {
    "another key": lambda patch, _: patch.setattr(code, "PASSES", ((), ())),
    "another source": another_source,
    "another llvmlite": lambda patch, _: patch.setattr(llvmlite, "__version__", "9.9"),
    "another LLVM": lambda patch, _: patch.setattr(llvm, "llvm_version_info", (99, 0, 0)),
    "another CPU": lambda patch, _: patch.setattr(code, "cpu", lambda: ("z80", "")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_made_from_or_for_something_else_is_not_run(another_process, monkeypatch, tmp_path, change):
    added(41)
    code.target(0)
    another_process()
    with monkeypatch.context() as patch:
        CHANGES[change](patch, tmp_path)
        assert not code.at_hand(b"k")
        assert call(added(42), "f", 1) == 43
    assert code.compilations == 2


def test_a_damaged_file_is_compiled_anew_in_silence(another_process, capfd):
    added(41)
    path = code.disk.path_of(code.digest_of(b"k"))
    path.write_bytes(path.read_bytes()[:-1])
    another_process()
    assert call(added(41), "f", 1) == 42
    another_process()
    assert call(added(41), "f", 1) == 42
    assert code.compilations == 2
    assert capfd.readouterr().err == ""


def test_code_goes_from_the_process_where_there_is_much(monkeypatch):
    monkeypatch.setattr(code, "MOST", 2)
    kept = added(1, b"1")
    for n in (2, 1, 3, 1):
        assert call(added(n, b"%d" % n), "f", 1) == n + 1
    assert added(1, b"1") is kept
    assert len(code._known) == 2
    assert code.compilations == 3


def test_what_cannot_be_written_or_compiled_leaves_nothing():
    def refuses():
        raise Unlowered("wgmma")

    with pytest.raises(Unlowered, match="wgmma"):
        code.compiled(b"k", refuses)
    with pytest.raises(RuntimeError, match="expected"):
        code.compiled(b"k", lambda: ["define i64 @f("])
    with pytest.raises(RuntimeError, match="materialize"):
        code.compiled(b"other", lambda: ["declare void @nowhere() define void @f() { call void @nowhere() ret void }"])
    assert not code.at_hand(b"k")
    assert call(added(41), "f", 1) == 42
