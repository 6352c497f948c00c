"""Made-up, valid records of bench/decode.py, with hostile texts in them; and a picture's marks by words."""

import copy
from typing import Any

import numpy as np

from kvproof.bench.measure.records import check

EVIL = "<script>document.title='taken'</script><img src=x onerror=alert(1)>\"'&"
CONFIG = {"n_layer": 6, "n_head": 4, "n_embd": 128, "n_vocab": 2049, "n_ctx": 1024, "n_inner": 512}
GREEN = {"green": True, "error": 4e-7, "bar": 5e-5, "agree": 10, "of": 10, "faults": []}
RED = GREEN | {"green": False, "faults": ["the logits err by 0.3"]}
ENVIRONMENT = {
    "device": "cpu: EPYC", "device_type": "cpu", "python": "3.11", "versions": {"torch": "2.9", "triton": None},
    "commit": "d04c962a", "dirty": False, "gpu": None, "collect_env": EVIL,
    "cpu": {"model": "EPYC", "cores": 2, "threads": 2, "mhz": None, "governor": None, "load": 0.1},
}  # fmt: skip


def summary(values) -> dict:
    low, median, high = (float(v) for v in np.percentile(values, (20, 50, 80)))
    return {"median": median, "p20": low, "p80": high, "p95": high * 1.1, "low": median * 0.97, "high": median * 1.03}


def row_of(impl: str, cell: dict, prefill: float, steps: np.ndarray, naive: float, predicted: float) -> dict:
    """An impl's row, all of it derived from the milliseconds of the prefill and of each run's steps (runs, n).

    naive      milliseconds of naive's whole decode
    predicted  of a step
    """
    total, median = prefill + steps.sum(1), float(np.median(steps))
    parts = dict.fromkeys(("overhead_ms", "bytes_ms", "flops_ms"), predicted / 3)
    return {
        "impl": impl, "cached": impl != "naive", "dtype": cell["dtype"], "version": "2.9", "emulated": None,
        "parity_before": GREEN, "parity_after": GREEN, "text": EVIL, "refused": None, "launches": 130,
        "runs": [{"prefill_s": prefill / 1e3, "steps_s": [float(ms) / 1e3 for ms in run]} for run in steps],
        "prefill_ms": summary([prefill]), "step_ms": summary(steps), "total_ms": summary(total),
        "tokens_per_s": summary(1e3 * cell["batch"] * cell["new_tokens"] / total), "speedup": summary(naive / total),
        "bytes_per_step": 6.5e6, "gb_per_s": 6.5 / median, "bandwidth_share": 0.2,
        "predicted": {"prefill_ms": prefill, "step_ms": predicted,
                      "total_ms": prefill + predicted * steps.shape[1], **parts},
    }  # fmt: skip


def cell_of(batch: int, context: int, new: int, dtype: str = "float32", model: str = "tiny") -> dict:
    return {
        "model": model, "dtype": dtype, "device": "cpu", "batch": batch, "context": context, "new_tokens": new,
        "prompt_tokens": [context] * batch, "repeats": 3, "clock": "host clock", "flushed": False, "graph": False,
        "config": CONFIG, "parameters": 1_580_000, "weight_bytes": 6_320_000, "kv_bytes_per_token": 6144,
    }  # fmt: skip


def record_of(cell: dict, rows: list[dict], measured: int | None) -> dict:
    """The record of a cell with these rows; measured: new tokens from which the cache pays."""
    made: dict[str, Any] = {
        "schema": "kvproof/decode/1", "written": "2026-11-22T05:00:00Z", "command": "python bench/decode.py --impl all",
        "key": " ".join(f"{cell[name]}" for name in ("model", "dtype", "batch", "context", "new_tokens")),
        "environment": copy.deepcopy(ENVIRONMENT), "cell": cell, "impls": rows, "explanation": EVIL,
        "constants": {"overhead_us": 9.5, "gflops": 80.0, "bandwidth": [{"bytes": 1 << 24, "gb_per_s": 35.0}],
                      "measured_in_s": 2.1},
        "bandwidth": {"working_set_bytes": 6_400_000, "gb_per_s": 35.0, "limit_gb_per_s": 36.4,
                      "limit_is": "best measured"},
        "break_even": {"cached": "sdpa", "predicted_context": 30, "predicted_new_tokens": 12,
                       "measured_new_tokens": measured},
    }  # fmt: skip
    check(made, "the test's record")
    return made


def steady(steps: dict[str, float], new: int = 10, batch: int = 1, model: str = "tiny", **changes) -> dict:
    """A cell in which each impl takes so many milliseconds a step and one for the prefill; the model says 2 a step."""
    cell, naive = cell_of(batch, 5, new, model=model), 1 + steps.get("naive", np.nan) * (new - 1)
    rows = [
        row_of(impl, cell, 1.0, np.full((3, new - 1), step), naive if "naive" in steps else 1 + step * (new - 1), 2.0)
        | changes.get(impl.replace("-", "_"), {})
        for impl, step in steps.items()
    ]
    return record_of(cell, rows, None)


def noisy_row(impl: str, cell: dict, rng) -> dict:
    """Three runs of noisy steps that take longer with each token, naive's much longer."""
    scale = {"naive": 2.0, "eager": 1.6, "sdpa": 1.4}.get(impl, 3.0)
    tokens = cell["context"] + np.arange(1, cell["new_tokens"])
    steps = scale * (1 + tokens * (0.02 if impl == "naive" else 0.0005)) * rng.uniform(0.97, 1.03, (3, len(tokens)))
    return row_of(impl, cell, 3.0, steps, 3 + 2 * (1 + tokens * 0.02).sum(), scale)


def noisy(batch=1, context=5, new=10, impls=("naive", "eager", "sdpa")) -> dict:
    cell = cell_of(batch, context, new)
    rows = [noisy_row(impl, cell, np.random.default_rng([0, place])) for place, impl in enumerate(impls)]
    return record_of(cell, rows, 8)


SWEEP = [*(noisy(new=new) for new in (5, 10, 30)), *(noisy(batch=b) for b in (2, 8)), noisy(context=60)]


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
