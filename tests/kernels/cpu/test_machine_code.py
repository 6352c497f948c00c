"""The compiled engine: compiled once, read from the disk if all is as it was, and refused with one clear line."""

import ctypes
import io
import os
import platform
import subprocess
import sys
import threading

import pytest

from kvproof.kernels.cpu import host, machine_code

from ._stand_in import VARIANT, Machine


@pytest.fixture
def compiling(tmp_path, monkeypatch):
    """A machine whose compiler runs."""
    return Machine(tmp_path, monkeypatch)


def child(program: str, **options):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, **options)


def test_an_engine_is_compiled_once_and_then_read_from_the_disk(machine):
    assert machine.load().origin == "compiled"
    assert machine.said == ["compiling the engine for this CPU, float32 (some 10 s, once)"]
    assert machine.load().origin == "disk"
    assert machine.said == []
    assert machine.compiled == 1
    assert machine_code.load(VARIANT) is machine_code.load(VARIANT)


def test_threads_that_ask_at_once_get_one_engine(machine):
    found, barrier = [], threading.Barrier(8)

    def ask():
        barrier.wait()
        found.append(machine_code.load(VARIANT, machine.said.append))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.compiled == 1
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_an_engine_runs_without_the_interpreter_s_lock(machine):
    """It waits for a number that only another thread of this interpreter writes."""
    engine, flag, looks = machine.load(), ctypes.c_int64(0), []
    waiting = threading.Thread(target=lambda: looks.append(engine(ctypes.addressof(flag), -1)))
    waiting.start()
    flag.value = 1
    waiting.join(60)
    assert looks
    assert looks[0] < 10**10


def test_variants_have_engines_of_their_own(machine):
    machine.load()
    other = machine_code.Variant("int8", "bfloat16", "int8", "float32")
    assert machine.load(other).origin == "compiled"
    assert machine.said == ["compiling the engine for this CPU, int8 + bfloat16 + float32 (some 10 s, once)"]
    assert len(machine.entries()) == 2
    assert machine.load().origin == machine.load(other).origin == "disk"


def test_what_is_on_the_disk_needs_neither_numba_nor_torch(compiling):
    compiling.load()
    loaded = "[m for m in ('numba', 'torch', 'numpy') if m in sys.modules]"
    run = child(compiling.program(f"print(load().origin, load()(40, 2), {loaded})"))
    assert run.stdout == "disk 42 []\n", run.stderr
    assert run.stderr == ""


def test_two_processes_that_compile_at_once_end_well(compiling):
    program = compiling.program("print(load().origin, load()(40, 2))")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([sys.executable, "-c", program], **pipes) for _ in range(2)]
    for run in runs:
        out, err = run.communicate()
        assert out in ("compiled 42\n", "disk 42\n"), err
        assert "cannot keep" not in err
    assert [path.parent.name for path in compiling.cache.rglob("*") if path.is_file()] == ["machine_code"]
    assert compiling.load().origin == "disk"


def test_numba_s_settings_of_the_user_change_nothing(compiling, code, tmp_path, monkeypatch):
    settings = {"DISABLE_JIT": "1", "OPT": "0", "CPU_NAME": "nocona", "BOUNDSCHECK": "1", "DUMP_LLVM": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"NUMBA_{name}", value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1\nopt: 0\n")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    (tmp_path / "sitecustomize.py").write_text("print('good morning')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert "good morning" in child("").stdout
    assert compiling.load().code == code


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("with_a_list", "the engine calls NRT_"),
        ("with_a_stranger", "the engine calls no_such_function, which may not exist where Numba is not"),
        ("let_strangers_in", "impl 'numba' calls no_such_function, which no library of this program has"),
        ("that_fails", "MemoryError: no room for this engine"),
        ("that_is_killed", "signal 9 ended it, as when memory runs out"),
        ("that_is_not_there", "module 'stand_in' has no attribute 'that_is_not_there'"),
    ],
)
def test_what_cannot_be_compiled_is_one_error_with_the_compiler_s_last_words(compiling, code, entry, words):
    compiling.enter(entry)
    with pytest.raises(machine_code.CompilerFailed) as caught:
        compiling.load()
    text = str(caught.value)
    assert words in text
    assert text.startswith("the engine for float32, float32, float32, float32 could not be compiled: ")
    assert text.endswith("; use impl='sdpa'")
    assert "\n" not in text
    assert compiling.entries() == []
    compiling.enter("entry")
    compiling.code = code
    assert compiling.load().origin == "compiled"


def test_a_python_that_does_not_start_is_one_error(compiling, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(
        machine_code.CompilerFailed, match="/python does not start: No such file or directory; use impl"
    ):
        compiling.load()


def test_a_terminal_s_line_is_completed_with_the_seconds(machine, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    machine_code.load(VARIANT)
    assert screen.getvalue() == "kvproof: compiling the engine for this CPU, float32 (some 10 s, once): 0 s\n"


def test_a_program_without_standard_error_is_told_nothing(machine, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert machine_code.load(VARIANT)(40, 2) == 42
    assert capsys.readouterr().out == ""


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == BLOCK:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("package", ["numba", "llvmlite"])
def test_without_a_package_one_line_says_what_to_do(machine, package):
    body = (
        "print(machine_code.available())\ntry:\n    load()\nexcept ImportError as error:\n    print(type(error), error)"
    )
    run = child(f"BLOCK = {package!r}{BLOCKED}{machine.program(body)}")
    line = (
        f"impl 'numba' needs the package {package}, which is not installed here: pip install numba, or use impl='sdpa'"
    )
    assert run.stdout.splitlines() == [line, f"<class 'kvproof.kernels.cpu.host.NoEngine'> {line}"], run.stderr
    assert run.stderr == ""


def test_an_engine_can_run_here_and_asking_imports_no_numba():
    run = child(
        "import sys; from kvproof.kernels.cpu.machine_code import available\n"
        "print(available(), available(('float16',) * 3 + ('float32',)), 'numba' in sys.modules)"
    )
    assert run.stdout == "None None False\n", run.stderr


@pytest.mark.parametrize(
    ("lacks", "weight", "named"),
    [("avx2", "float32", "avx2"), ("fma", "int8", "fma"), ("f16c", "float16", "f16c"), ("f16c", "float32", None)],
)
def test_a_cpu_without_what_the_engine_needs_is_named(machine, monkeypatch, lacks, weight, named):
    features = host.cpu_features().split(",")
    monkeypatch.setattr(host, "cpu_features", lambda: ",".join(f for f in features if f[1:] != lacks) + f",-{lacks}")
    monkeypatch.setattr(host, "cpu_name", lambda: "nocona")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    variant = VARIANT._replace(weight=weight)
    if named is None:
        machine.load(variant)
        return
    with pytest.raises(machine_code.NoEngine) as caught:
        machine.load(variant)
    assert str(caught.value) == (
        f"impl 'numba' needs a CPU with {named}, which this one (nocona) lacks; use impl='sdpa'"
    )
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    machine.load(variant)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("maxsize", 2**31 - 1, "needs a 64-bit Python, and this one has 32 bits"),
        ("executable", "", "is compiled in a Python of its own, and this program has none"),
    ],
)
def test_a_python_in_which_no_engine_runs_is_refused(machine, monkeypatch, attribute, value, words):
    monkeypatch.setattr(sys, attribute, value)
    with pytest.raises(machine_code.NoEngine, match=words):
        machine_code.load(VARIANT)


@pytest.mark.parametrize(
    ("came", "fits"),
    [
        (
            "float64 float32 float32 float32",
            "weight float32, bfloat16, float16, int8; param float32, bfloat16, float16; ",
        ),
        ("float32 int8 float32 float32", "weight float32, bfloat16, float16, int8; param float32, bfloat16, float16; "),
        (
            "bfloat16 float64 float64 float64",
            "weight float64, int8; param float64; cache float64, int8; total float32, ",
        ),
        ("int4 int4 int4 int4", "cache float32, bfloat16, float16, int8; total float32, float64; use impl='sdpa'"),
    ],
)
def test_dtypes_that_do_not_go_together_are_refused(machine, came, fits):
    with pytest.raises(ValueError, match=f"impl 'numba' has no engine for weight {came.split()[0]}, .*{fits}"):
        machine_code.load(machine_code.Variant(*came.split()))
    assert machine.compiled == 0


MIXED = "int8", "bfloat16", "float16", "float32"


@pytest.mark.parametrize("variant", [("float32",) * 4, pytest.param(MIXED, marks=pytest.mark.exhaustive)], ids=str)
def test_an_engine_of_ours_is_compiled_linked_and_read_by_a_new_process(variant):
    """The real one, of a variant that other tests use, too; what it computes is tested where it is used."""
    program = (
        "from kvproof.kernels.cpu.machine_code import Variant, load\n"
        "from kvproof.kernels.cpu.host import undefined\n"
        f"engine = load(Variant(*{variant}))\n"
        "print(engine.origin, 'erff' in undefined(engine.code))"
    )
    first, second = child(program), child(program)
    known = sys.platform == "linux"
    assert first.stdout in (f"compiled {known}\n", f"disk {known}\n"), first.stderr
    assert second.stdout == f"disk {known}\n", second.stderr
