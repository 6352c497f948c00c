"""Fake records of bench/decode.py, small and valid, whose figures belong together; and a picture's marks by words."""

import json
from pathlib import Path

import jsonschema
import numpy as np

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "bench" / "measure" / "decode.schema.json").read_text(encoding="utf-8"))
CONFIG = {"n_layer": 6, "n_head": 4, "n_embd": 128, "n_vocab": 2049, "n_ctx": 1024, "n_inner": 512}
GREEN = {"green": True, "error": 4e-7, "bar": 5e-5, "agree": 9, "of": 9, "faults": []}


def summary(values) -> dict:
    low, median, high = (float(v) for v in np.percentile(values, (20, 50, 80)))
    return {"median": median, "p20": low, "p80": high, "p95": high * 1.1, "low": median * 0.96, "high": median * 1.05}


def row(impl: str, cell: dict, rng) -> dict:
    """An impl's fake measurement: three runs of noisy steps, everything else derived from them."""
    cached, scale = impl != "naive", {"naive": 2.0, "eager": 1.6, "sdpa": 1.4}.get(impl, 3.0)
    tokens = cell["context"] + np.arange(1, cell["new_tokens"])
    steps = scale * (1 + tokens * (0.0005 if cached else 0.02)) * rng.uniform(0.97, 1.03, (3, len(tokens)))
    runs = [{"prefill_s": 0.003, "steps_s": [float(ms) / 1e3 for ms in run]} for run in steps]
    total = 3 + steps.sum(1)
    naive = 3 + 2 * (1 + tokens * 0.02).sum()
    parts = dict.fromkeys(("overhead_ms", "bytes_ms", "flops_ms"), scale / 3)
    predicted = {"prefill_ms": 3.0, "step_ms": scale, "total_ms": 3 + scale * len(tokens), **parts}
    rest = {"version": "2.9", "text": "and", "emulated": None, "refused": None, "launches": 130}
    return rest | {
        "impl": impl, "cached": cached, "dtype": cell["dtype"], "parity_before": GREEN, "parity_after": GREEN,
        "runs": runs,
        "prefill_ms": summary([3.0]), "step_ms": summary(steps), "total_ms": summary(total),
        "tokens_per_s": summary(1e3 * cell["batch"] * cell["new_tokens"] / total), "speedup": summary(naive / total),
        "bytes_per_step": 6.5e6, "gb_per_s": 6.5e-3 / float(np.median(steps)) * 1e3, "bandwidth_share": 0.2,
        "predicted": predicted,
    }  # fmt: skip


def record(batch=1, context=5, new=10, impls=("naive", "eager", "sdpa"), dtype="float32", seed=0) -> dict:
    cell = {
        "model": "tiny", "dtype": dtype, "device": "cpu", "batch": batch, "context": context, "new_tokens": new,
        "prompt_tokens": [context] * batch, "repeats": 3, "clock": "host clock", "flushed": False, "graph": False,
        "config": CONFIG, "parameters": 1_580_000, "weight_bytes": 6_320_000, "kv_bytes_per_token": 6144,
    }  # fmt: skip
    cpu = {"model": "EPYC", "cores": 2, "threads": 2, "mhz": None, "governor": None, "load": None}
    environment = {
        "device": "cpu: EPYC", "device_type": "cpu", "python": "3.11", "versions": {"torch": "2.9"},
        "commit": "d04c962a", "dirty": False, "cpu": cpu, "gpu": None, "collect_env": None,
    }  # fmt: skip
    speeds = [{"bytes": 1 << 20, "gb_per_s": 35.0}]
    found = {
        "schema": "kvproof/decode/1", "key": f"{dtype} b{batch} c{context} n{new}", "written": "2026-11-22T05:00:00Z",
        "command": "python bench/decode.py", "environment": environment,
        "constants": {"overhead_us": 9.0, "gflops": 80.0, "bandwidth": speeds, "measured_in_s": 2.0}, "cell": cell,
        "bandwidth": {"working_set_bytes": 7_000_000, "gb_per_s": 35.0,
                      "limit_gb_per_s": 36.0, "limit_is": "best measured"},
        "impls": [row(impl, cell, np.random.default_rng([seed, place])) for place, impl in enumerate(impls)],
        "break_even": {"cached": "sdpa", "predicted_context": 30, "predicted_new_tokens": 12, "measured_new_tokens": 8},
        "explanation": "",
    }  # fmt: skip
    jsonschema.validate(found, SCHEMA)
    return found


SWEEP = [*(record(new=new) for new in (5, 10, 30)), *(record(batch=b) for b in (2, 8)), record(context=60)]


def named(figure, gid_text: str) -> list[tuple]:
    """(artist, its texts) of every artist one of whose texts begins so."""
    return [
        (figure.findobj(lambda artist, gid=gid: artist.get_gid() == gid)[0], texts)
        for gid, texts in figure.hovers.items()
        if any(text.startswith(gid_text) for text in texts)
    ]


def of(found: dict, impl: str) -> dict:
    return next(row for row in found["impls"] if row["impl"] == impl)


def caption(figure) -> str:
    return " ".join(figure.get_supxlabel().split())
