"""Mutated checkpoints and hostile pickles: each loads, or ends in a named error; no code is run, nothing crashes.

The trials run in a process of their own, under an audit hook, so that a crash, a started program or an allocation out
of proportion shows; warnings are errors there.
"""

import collections
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof import reference
from kvproof.gpt2 import CheckpointError, ConfigError, load
from kvproof.gpt2.huge_pages import c_library

from ... import _child
from ..._checkpoints import (
    VARIANTS,
    hostile_pickles,
    mutate_bytes,
    mutate_json,
    mutate_state,
    read_safetensors,
    rewrite_archive,
    write_safetensors,
)

SPELLINGS = sorted(path.name for path in VARIANTS.iterdir() if path.is_dir())
# What no reading of weights does: start a program, run code that a file brings, or speak to a network.
FORBIDDEN = re.compile(r"os\.(system|exec|fork|posix_spawn|spawn)|subprocess\.|socket\.|ctypes\.dlopen")
MEMORY = 150e6  # a bar far above the files' 30 kB and torch's caches, far below the gigabytes they claim


def pick(rng, things):
    return things[rng.integers(len(things))]


def spoil_bytes(folder: Path, rng):
    """A few bytes of any file."""
    file = pick(rng, sorted(folder.iterdir()))
    file.write_bytes(mutate_bytes(file.read_bytes(), rng))


def spoil_header(folder: Path, rng):
    """A safetensors header, still JSON and of the right length."""
    file = pick(rng, sorted(folder.glob("*.safetensors")))
    header, data = read_safetensors(file)
    write_safetensors(file, mutate_json(header, rng), data)


def spoil_json(folder: Path, rng):
    """config.json or an index, still JSON."""
    file = pick(rng, sorted(folder.glob("*.json")))
    file.write_text(json.dumps(mutate_json(json.loads(file.read_bytes()), rng)))


def pickle_of(folder: Path, rng) -> Path:
    return pick(rng, sorted([*folder.glob("*.bin"), *folder.glob("*.pt")]))


def spoil_state(folder: Path, rng):
    """The tensors of a pickle, saved by torch, in its new format or the old."""
    file = pickle_of(folder, rng)
    saved = torch.load(file, weights_only=True)
    if "model" in saved:
        key = pick(rng, ["model", "model", "model_args"])
        saved[key] = mutate_state(saved[key], rng) if key == "model" else mutate_json(saved[key], rng)
    else:
        saved = mutate_state(saved, rng)
    torch.save(saved, file, _use_new_zipfile_serialization=bool(rng.random() < 0.7))


def spoil_program(folder: Path, rng):
    """A few bytes of the pickle within the archive, whose checksums hold."""
    rewrite_archive(pickle_of(folder, rng), lambda name, raw: mutate_bytes(raw, rng) if name.endswith(".pkl") else raw)


def spoil_hostile(folder: Path, rng):
    """A hostile pickle for a good one, as it is or mutated, in the archive or bare."""
    file, programs = pickle_of(folder, rng), hostile_pickles(folder.parent / "canary")
    program = programs[pick(rng, sorted(programs))]
    program = mutate_bytes(program, rng) if rng.random() < 0.5 and len(program) < 1000 else program
    if rng.random() < 0.5:
        rewrite_archive(file, lambda name, raw: program if name.endswith("/data.pkl") else raw)
    else:
        file.write_bytes(program + rng.bytes(int(rng.integers(0, 99))))


def spoils(spelling: str) -> list:
    """The ways to spoil a spelling."""
    ways = [spoil_bytes]
    if spelling != "nanogpt-ckpt":
        ways.append(spoil_json)
    pickled = spelling.endswith(("bin", "ckpt"))
    return ways + ([spoil_state, spoil_program, spoil_hostile] if pickled else [spoil_header])


def outcome(read, folder: Path) -> str:
    """ "loads", or the name of the error."""
    try:
        read(folder)
    except Exception as error:
        return type(error).__name__
    return "loads"


def forbidden(event: str, args: tuple) -> bool:
    """Whether an audit event is one that no checkpoint may bring about; a late import of a module's file may be."""
    if event in ("exec", "compile"):
        origin = str(args[1] if event == "compile" else getattr(args[0], "co_filename", ""))
        return not (origin.startswith("<frozen ") or Path(origin).is_file())
    return FORBIDDEN.match(event) is not None


def trial(seed: int, work: Path) -> tuple[str, list[str]]:
    """Spoil a checkpoint and load it: what was done, and how it ended in gpt2 and in the reference."""
    rng = np.random.default_rng(seed)
    spelling = pick(rng, SPELLINGS)
    way = pick(rng, spoils(spelling))
    folder = work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(VARIANTS / spelling, folder)
    way(folder, rng)
    return f"{way.__name__} {spelling}", [outcome(read, folder) for read in (load, reference.load)]


def trials(first: int, count: int, work: Path) -> dict:
    """`count` trials, one per seed from `first` on: how often each way ended how, what went wrong, memory at most."""
    seen, wrong, events = collections.Counter(), [], []
    for seed in range(20):  # what torch and Python import or cache at first use is not the file's doing
        trial(seed, work)
    sys.addaudithook(lambda event, args: events.append(event) if forbidden(event, args) else None)
    before = high_water(reset=True)
    for seed in range(first, first + count):
        events.clear()
        what, ends = trial(seed, work)
        ran = events[:3]
        seen[f"{what.split()[0]} {ends[0]}"] += 1
        if not {*ends} <= {"loads", CheckpointError.__name__, ConfigError.__name__}:
            wrong.append(f"seed {seed}, {what}: ends in {ends}")
        if ran or (work / "canary").exists():
            wrong.append(f"seed {seed}, {what}: ran {ran}")
        if high_water() - before > MEMORY:
            wrong.append(f"seed {seed}, {what}: took {(high_water() - before) / 1e6:.0f} MB")
            before = high_water(reset=True)
    return {"seen": dict(sorted(seen.items())), "wrong": wrong, "memory_MB": round((high_water() - before) / 1e6)}


def high_water(reset: bool = False) -> int:
    """The most memory this process has had resident, in bytes, since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads and resets /proc/self")
@pytest.mark.parametrize(("first", "count"), [(0, 200), pytest.param(1000, 10_000, marks=pytest.mark.exhaustive)])
def test_mutated_checkpoints_end_in_named_errors(tmp_path, first, count):
    words = [*_child.words(__file__), str(first), str(count), str(tmp_path)]
    done = subprocess.run([sys.executable, "-W", "error", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-2000:]}"  # a crash is a failure
    result = json.loads(done.stdout)
    print(json.dumps(result, indent=1))
    assert result["wrong"] == []
    assert sum(result["seen"].values()) == count
    assert len({end.split()[0] for end in result["seen"]}) == 6
    assert sum(n for end, n in result["seen"].items() if not end.endswith(" loads")) > count / 2


if __name__ == "__main__":
    first, count, work = sys.argv[1:]
    torch.set_num_threads(1)
    c_library()  # opened once in a process, by whatever is loaded first
    print(json.dumps(trials(int(first), int(count), Path(work))))
