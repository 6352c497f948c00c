"""The kernels compiled ahead of time for GPUs that are not here, and what their machine code holds.

A process without the interpreter and with an empty Triton cache compiles them.
"""

import json
import os
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton

from kvproof.kernels.aot.__main__ import main
from kvproof.kernels.aot.gates import GATES, MISSED, beyond_the_table, broken
from kvproof.kernels.aot.machine_code import ahead, count, loads, main_loop, packed, programs_per_sm
from kvproof.kernels.aot.readings import counted
from kvproof.kernels.aot.table import TABLE, Row, changes, read_table, table
from kvproof.kernels.aot.variants import VARIANTS, kind, launches_of
from kvproof.kernels.attention import op

from ... import _child

MEASURE = """
import json, sys, torch
from kvproof.kernels.aot.readings import compile_launch, example_launches, measure
if __name__ == "__main__":
    rows = [row._asdict() for row in measure(*json.loads(sys.argv[1]))]
    float64 = [compile_launch(launch, 90)["ttir"] for launch in example_launches(torch.float64, 32)]
    print(json.dumps([rows, float64]))
"""
NVIDIA = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
TARGETS = ("sm_90",)  # measured anew; the others are held to their bounds as the table has them
BINDING = ("simt-fp16", "simt-bf16", "mma-fp16", "mma-fp16-d128")
OF_THE_TABLE = pytest.mark.skipif(triton.__version__ != "3.8.0", reason="the table is of triton 3.8.0's compilers")
COMMITTED = read_table(TABLE.read_text())


def measured(cache, variants, targets, processes):
    """The rows of these variants on these targets, and the Triton IR of a call in float64."""
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)
    path = Path(cache) / "program.py"  # a file, which the processes that it starts can import again
    path.write_text(MEASURE)
    command = [sys.executable, str(path), json.dumps([variants, targets, processes])]
    done = _child.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, float64 = json.loads(done.stdout)
    return [Row(**row) for row in rows], float64


def committed(variant, target="sm_90"):
    (row,) = [row for row in COMMITTED if (row.variant, row.target) == (variant, target)]
    return row


@pytest.fixture(scope="module")
def binding(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("triton"), BINDING, [*TARGETS], 1)


@OF_THE_TABLE
def test_the_binding_variants_are_what_the_table_says(binding):
    rows, _ = binding
    assert [(row.variant, row.target) for row in rows] == [(v, t) for v in BINDING for t in TARGETS]
    assert changes(rows, COMMITTED) == []
    assert broken(rows) == []


def test_the_table_has_every_variant_and_target_and_keeps_every_gate():
    assert {(row.variant, row.target) for row in COMMITTED} == {(v, t) for v in VARIANTS for t in (*NVIDIA, "gfx942")}
    assert len(COMMITTED) == 8 * len(VARIANTS)
    assert len(VARIANTS) <= 24
    assert broken(COMMITTED) == []


def test_every_variant_is_counted_on_sm_90_and_reads_what_it_must():
    for row in COMMITTED:
        counted = [row.n128, row.n1024, row.n8192]
        assert all(counted) if row.target == "sm_90" else counted == [None] * 3
        assert (row.read is not None) == (row.target == "sm_90" and VARIANTS[row.variant].window is None)


def test_each_gate_listed_as_missed_is_missed():
    found = {
        (gate.name, r.variant, r.target) for gate in GATES for r in COMMITTED if gate.applies(r) and not gate.holds(r)
    }
    assert found == MISSED


def test_every_gate_has_rows_that_it_could_refuse():
    for gate in GATES:
        values = [gate.value(row) for row in COMMITTED if gate.applies(row)]
        assert any(value is not None for value in values), gate.name


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_a_row_past_the_bound_is_refused_by_name(gate):
    row = next(row for row in COMMITTED if gate.applies(row) and gate.value(row) is not None)
    past = gate._replace(bound=gate.value(row) + (1 if gate.at_least else -1))
    assert not past.holds(row)
    assert gate._replace(bound=gate.value(row)).holds(row)


def test_no_two_variants_are_one_kernel():
    kinds = [(*kind(launches_of(variant)[0]), variant.page, variant.split_len) for variant in VARIANTS.values()]
    assert len({*kinds}) == len(VARIANTS)


def test_a_table_is_read_as_it_was_written_and_one_instruction_more_is_a_change():
    assert table(COMMITTED) == TABLE.read_text()
    row = committed("simt-fp16")
    assert changes([row], COMMITTED) == []
    assert changes([row._replace(loop=row.loop + 1)], COMMITTED) == [
        f"simt-fp16 sm_90: loop {row.loop} -> {row.loop + 1}"
    ]
    assert changes([row], []) == ["simt-fp16 sm_90: new"]
    with pytest.raises(ValueError, match="--write"):
        read_table("variant target colour\n")


def test_part_of_the_table_cannot_replace_it(capsys):
    with pytest.raises(SystemExit):
        main(["--write", "--targets", "sm_90"])
    assert "--write replaces the whole table" in capsys.readouterr().err


def loaded(registers: int, spills: int = 0, name: str = "loaded"):
    """What a launch returns on a GPU, as far as it is looked at."""
    return SimpleNamespace(hash=name, n_regs=registers, n_spills=spills)


def test_a_kernel_that_takes_more_registers_than_its_like_in_the_table_is_named():
    launch, row = launches_of(VARIANTS["simt-fp16"], 90)[0], committed("simt-fp16")
    assert beyond_the_table(loaded(row.registers), launch, 90) is None
    assert beyond_the_table(loaded(255, 9), launch, 70) is None  # no such GPU
    other = launch._replace(arguments=launch.arguments | {"CFG": replace(launch.arguments["CFG"], D=80)})
    assert beyond_the_table(loaded(255, 9), other, 90) is None  # no such variant
    for unfused in launches_of(VARIANTS["simt-fp16"], 90, fused=False):
        assert beyond_the_table(loaded(255, 9), unfused, 90) is None
    words = f"has {row.registers + 8} registers and 2 spills here; compiled ahead of time it has {row.registers} and 0"
    assert words in (beyond_the_table(loaded(row.registers + 8, 2), launch, 90) or "")
    assert beyond_the_table(loaded(row.registers + 8), launch, 90)
    assert beyond_the_table(loaded(row.registers, 1), launch, 90)


def test_a_kernel_that_spills_on_a_gpu_is_warned_of_once(monkeypatch):
    monkeypatch.setattr(op, "_spilling", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op.warn_of_spills(loaded(255), "attend_simt")
    words = rf"attend_simt has 64 registers and 2 spills on this GPU.*Triton {triton.__version__}"
    with pytest.warns(RuntimeWarning, match=words):
        op.warn_of_spills(loaded(64, 2), "attend_simt")
    with pytest.warns(RuntimeWarning, match="attend_mma has 96"):
        op.warn_of_spills(loaded(96, 1, "another"), "attend_mma")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op.warn_of_spills(loaded(64, 2), "attend_simt")


@pytest.mark.gpu
def test_what_a_gpu_loads_spills_nothing_and_is_not_beyond_the_table(monkeypatch):
    seen = []
    monkeypatch.setattr(op, "warn_of_spills", lambda compiled, name: seen.append((compiled, name)))
    q, k = torch.ones(2, 4, 64, device="cuda").half(), torch.ones(2, 4, 128, 64, device="cuda").half()
    op.decode_attention(q, k, k, torch.full((2,), 128, dtype=torch.int32, device="cuda"))
    ((compiled, name),) = seen
    assert name == "attend_simt"
    assert 0 < compiled.n_regs <= 255
    assert compiled.n_spills == 0
    major, minor = torch.cuda.get_device_capability()
    for variant in VARIANTS.values():
        (launch,) = launches_of(variant, 10 * major + minor, device="cuda")
        compiled = launch.kernel[launch.grid](**launch.arguments, **launch.options)
        assert beyond_the_table(compiled, launch, 10 * major + minor) is None


def test_a_float64_cache_is_summed_in_float64_from_end_to_end(binding):
    _, ttirs = binding
    for ttir in ttirs:
        assert "f64" in ttir
        assert not re.findall(r"\bf32\b|xf32\b", ttir)


@OF_THE_TABLE
@pytest.mark.exhaustive
def test_the_whole_table_is_what_the_compiler_gives(tmp_path):
    rows, _ = measured(tmp_path, [*VARIANTS], [*NVIDIA, "gfx942"], 2)
    assert changes(rows, COMMITTED) == []
    assert broken(rows) == []


@pytest.mark.parametrize(("terminal", "seconds", "shown"), [(True, 3, "2 of 3"), (True, 1, ""), (False, 3, "")])
def test_a_terminal_shows_the_progress_after_five_seconds(terminal, seconds, shown, monkeypatch, capsys):
    clock = iter(range(0, 100, seconds))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert list(counted("abc", 3)) == list("abc")
    assert (shown in capsys.readouterr().err) if shown else not capsys.readouterr().err


def test_the_interpreter_has_nothing_to_compile():
    program = (
        "import torch; from kvproof.kernels.aot.readings import compile_launch, example_launches as launches\n"
        "try: compile_launch(launches(torch.float16, 64)[0], 90)\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = _child.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Refused TRITON_INTERPRET is set, so nothing is compiled; unset it")


def test_the_main_loop_is_the_shortest_that_loads_a_block_and_stands_before_the_atomic():
    whole = ["LDG.E.128 R4, [R2.64]", "LDGSTS.E.BYPASS.128 [R1], [R2.64]", "@P0 BRA `(.L_x_1)"]
    edge = [*whole[:2], "FADD R1, R2, R3", "FMUL R1, R2, R3", "BRA `(.L_x_2)"]
    combine = [*whole[:2], "BRA `(.L_x_3)"]
    tags = ["LDG.E R4, [R2.64]", "BRA `(.L_x_0)"]
    listing = [*tags, *whole, *edge, "ATOMG.E.ADD.STRONG.GPU R1, [R2.64]", *combine]
    labels = {".L_x_0": 0, ".L_x_1": 2, ".L_x_2": 5, ".L_x_3": 11}
    assert main_loop(listing, labels, 2) == whole
    assert main_loop(listing, labels, 3) == []


def test_what_is_counted_in_machine_code_is_what_its_name_says():
    code = ["@!P0 LDG.E.128 R4, [R2.64]", "LDG.E R8, [R2.64]", "LDG.E.U16 R9, [R2.64]", "LDG.E.64 R10, [R2.64+0x8]"]
    assert loads(code) == [128, 32, 16, 64]
    assert count("LDG", code) == 4
    assert count("LD", code) == 0
    halves = [
        "HADD2.F32 R1, -RZ, R2.H0_H0",
        "HFMA2.MMA R3, -RZ, RZ, 0, 0",
        "HFMA2 R1, R2, R3, R4",
        "@P1 HMUL2 R1, R2, R3",
    ]
    assert packed(halves) == 2
    wide = ["LDG.E.128 R4, [R2.64]", "LDG.E.128 R8, [R2.64+0x10]", "FADD R1, R5, R2", "LDG.E.128 R12, [R2.64+0x20]"]
    assert ahead(wide) == 2
    assert ahead([wide[0], wide[1], wide[3], wide[2]]) == 3


@pytest.mark.parametrize(
    ("sm", "registers", "warps", "shared", "expected"),
    [(90, 64, 1, 128, 32), (90, 65, 1, 0, 28), (86, 64, 1, 128, 16), (90, 32, 4, 0, 16), (80, 64, 1, 15360, 10)],
)
def test_programs_of_an_sm_are_bounded_by_whichever_runs_out(sm, registers, warps, shared, expected):
    assert programs_per_sm(sm, registers, warps, shared) == expected
