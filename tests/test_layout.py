"""The house: arrows between folders run one way, and modules only define things."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("reference", "kernels", "gpt2", "bench")

# What a folder may import beside the standard library: packages, and our other folders.
ALLOWED = {
    "reference": {"numpy", "ml_dtypes", "safetensors", "reference"},
    "kernels": {
        "numpy",
        "torch",
        "triton",
        "numba",
        "llvmlite",
        "pytest",
        "kernels",
    },  # pytest: the PTX machine's plugin
    "gpt2": {"numpy", "torch", "safetensors", "huggingface_hub", "tiktoken", "reference", "gpt2"},
    "bench": {
        *("numpy", "torch", "ml_dtypes", "safetensors", "jsonschema", "matplotlib", "pytest"),
        *("reference", "gpt2", "kernels", "bench"),
    },
}
# Reached from within the branches that run them, never on import, since they may be absent.
ALLOWED_INSIDE_FUNCTIONS = {
    "kernels": {"transformers"},
    "gpt2": {"kernels", "transformers", "ray", "pyarrow"},
    "bench": {
        *("triton", "transformers", "onnx", "onnxruntime", "openvino", "ctranslate2", "llama_cpp", "gguf"),
        *("flash_attn", "flashinfer"),
    },
}


# What each room may import of the other rooms of its folder; a file that stands beside the rooms imports any.
ROOMS = {
    "reference": {"attention": set(), "judge": set()},
    "kernels": {
        "ptx": set(),
        "attention": {"ptx"},
        "aot": {"attention", "ptx"},
        "ladder": {"ptx"},
        "cpu": set(),
        "huggingface": {"attention", "cpu"},
    },
    "gpt2": {
        "checkpoint": set(),
        "engine": set(),
        "jobs": {"engine", "checkpoint"},
        "cli": {"checkpoint", "engine", "jobs"},
    },
    "bench": {
        "measure": {"roofline"},
        "builds": {"measure"},
        "report": {"measure"},
        "memory": set(),
        "roofline": set(),
        "gpu": {"measure", "report", "roofline"},
        "judge": {"measure", "report"},
        "peers": {"measure"},
        "requests": {"measure", "memory", "report"},
    },
}


@cache
def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(dotted name, ours or a package's, line number, whether inside a function) of each name that a file imports."""
    found, tree = [], ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)
    }
    package = path.parent.parts[max(i for i, part in enumerate(path.parent.parts) if part in FOLDERS) :]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif not isinstance(node, ast.ImportFrom):
            continue
        else:
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}".lstrip(".") for alias in node.names]
        found += [(name.removeprefix("kvproof."), node.lineno, id(node) in inside) for name in names]
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_arrow_is_drawn_backwards(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert len(paths) > 2
    for path in paths:
        for name, line, inside in imports(path):
            target = name.split(".")[0]
            allowed = ALLOWED[folder] | (ALLOWED_INSIDE_FUNCTIONS.get(folder, set()) if inside else set())
            known = target in sys.stdlib_module_names or target in allowed
            assert known, f"{path.relative_to(ROOT)}:{line} imports {target}, which {folder}/ must not"


@pytest.mark.parametrize("folder", FOLDERS)
def test_rooms_import_as_they_may(folder):
    rooms = ROOMS[folder]
    assert set(rooms) == {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
    for room, others in rooms.items():
        for path in sorted((ROOT / folder / room).rglob("*.py")):
            for name, line, _ in imports(path):
                used = name.split(".")[1] if name.startswith(f"{folder}.") else room
                known = used in {room, *others} or used not in rooms
                assert known, f"{path.relative_to(ROOT)}:{line} imports {name}, which {folder}/{room}/ must not"


@cache
def modules() -> dict[str, Path]:
    """Every file of the folders by its dotted name; a package by the name of its folder."""
    paths = {path.relative_to(ROOT): path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    return {".".join(name.with_suffix("").parts).removesuffix(".__init__"): path for name, path in paths.items()}


def files(names) -> set[Path]:
    """The files that dotted names stand for: each the longest beginning that is a module."""
    found = set()
    for name in names:
        while name and name not in modules():
            name = name.rpartition(".")[0]
        found |= {modules()[name]} if name else set()
    return found


@cache
def uses(path: Path) -> set[Path]:
    """The files that a file imports, at any depth, by name where it calls import_module, or runs as commands."""
    text = path.read_text(encoding="utf-8")
    words = set(re.findall(r'"([\w./]+)"', text))
    beside = {f"{'.'.join(path.parent.relative_to(ROOT).parts)}.{word.lstrip('.')}" for word in words}
    named = {word.removeprefix("kvproof.") for word in words} | (beside if "import_module" in text else set())
    programs = {word.removesuffix(".py").replace("/", ".") for word in words if word.endswith(".py")}
    return files({name for name, *_ in imports(path)}) | {modules()[n] for n in (named | programs) & set(modules())}


def reached(first: set[Path], room: Path) -> set[Path]:
    """`first` and what these files use, through files of the room alone."""
    seen, todo = set(), [path for path in first if room in path.parents]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += [other for other in uses(path) if room in other.parents]
    return seen


def test_no_import_is_circular():
    """Not one file's of another: imports of whole files, those inside functions apart. Nor one room's of another."""
    graph = {path: files(name for name, _, inside in imports(path) if not inside) for path in modules().values()}
    try:
        TopologicalSorter({path: used - {path} for path, used in graph.items()}).prepare()
        for rooms in ROOMS.values():
            TopologicalSorter(rooms).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other in a circle: {', '.join(map(str, error.args[1]))}")


WHOLE = {
    ROOT / "tests" / "kernels" / "ptx" / name for name in ("gluon", "museum")
}  # of tests about all of the folder above


def folder_of(test: Path) -> Path:
    """The folder whose files a test file is about: where it stands, one level up."""
    folder = test.parent.parent if test.parent in WHOLE else test.parent
    return ROOT / folder.relative_to(ROOT / "tests")


TESTS = sorted(path for folder in FOLDERS for path in (ROOT / "tests" / folder).rglob("*.py"))


def test_tests_stand_as_the_files_that_they_test():
    assert len(TESTS) > 100
    for path in TESTS:
        assert any(folder_of(path).glob("*.py")), f"{path.relative_to(ROOT)} stands under a folder that is not there"


def test_every_file_is_reached_from_the_tests_of_its_folder():
    """Imported or run by a test that stands as the file does, or by what such a test imports of that folder."""
    unreached = set()
    for folder in {path.parent for path in modules().values()}:
        tests = [path for path in TESTS if folder in (folder_of(path), *folder_of(path).parents)]
        unreached |= {*folder.glob("*.py")} - reached(set().union(*map(uses, tests)), folder)
    assert [str(path.relative_to(ROOT)) for path in sorted(unreached) if path.name != "__init__.py"] == []


def test_words_that_were_replaced_stay_away():
    gone = re.compile("HO" r"W\b|foret" "(ell|old)")
    for path in (*modules().values(), *(ROOT / "tests").rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not gone.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_the_machine_imports_nothing_else_of_ours():
    for path in sorted((ROOT / "kernels" / "ptx").rglob("*.py")):
        for name, line, _ in imports(path):
            ours = name.split(".")[0] in FOLDERS
            assert not ours or name.startswith("kernels.ptx"), f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_neither_engine_of_the_machine_imports_the_other():
    """Both stand on the typed form, decode.py and start.py; what chooses between them, execute.py, knows both."""
    room = ROOT / "kernels" / "ptx"
    numpy_form = {f"kernels.ptx.{x}" for x in ("machine", "block", "lockstep", "memory", "shared", "access", "atomics")}
    numpy_form |= {
        f"kernels.ptx.{x}"
        for x in ("collective", "warp", "races", "happens_before", "calls", "assemble", "local", "deadlock")
    }
    for path in sorted(room.rglob("*.py")):
        native = room / "native" in path.parents
        for name, line, _ in imports(path):
            modules = {name, name.rpartition(".")[0]}
            crosses = modules & numpy_form if native else "kernels.ptx.native" in name and path != room / "execute.py"
            assert not crosses, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_the_walk_sees_every_kind_of_import(tmp_path):
    path = tmp_path / "gpt2" / "deep" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import torch.nn as nn\nfrom ...kernels.backend import a\nfrom ... import bench\nfrom . import y\n"
        "from ..model import GPT2\nfrom kvproof.bench import z\nfrom kvproof import tests\n"
        "def f():\n    import triton\n"
    )
    assert [(name, inside) for name, _, inside in imports(path)] == [
        ("torch.nn", False), ("kernels.backend.a", False), ("bench", False), ("gpt2.deep.y", False),
        ("gpt2.model.GPT2", False), ("bench.z", False), ("tests", False), ("triton", True),
    ]  # fmt: skip


def test_files_and_functions_fit_their_budget():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
            assert len(text.splitlines()) <= 300, f"{name} is two ideas"
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    rest, last = node.body[ast.get_docstring(node) is not None :], node.body[-1]
                    lines = (last.end_lineno or 0) - rest[0].lineno + 1 if rest else 0
                    assert lines <= 40, f"{name}: {node.name} has {lines} lines below its docstring"


def test_importing_the_model_needs_no_triton_and_sets_nothing(tmp_path):
    program = (
        "import os, sys; before = dict(os.environ); sys.modules['triton'] = None\n"
        "import kvproof.gpt2, kvproof.reference, kvproof.bench.measure.interleaved, torch\n"
        "assert dict(os.environ) == before\n"
        "model = kvproof.gpt2.load('tiny')\n"
        "print(kvproof.gpt2.generate(model, 'Once', max_new_tokens=2)[0].finish_reason)\n"
        "try:\n    kvproof.gpt2.load('tiny', impl='triton')\nexcept ImportError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == "length"
    assert 'use impl="sdpa"' in run.stdout
