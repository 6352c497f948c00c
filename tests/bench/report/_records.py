"""Records such as bench/decode.py writes, made up, with hostile texts in them."""

import copy

from kvproof.bench.measure.records import check

EVIL = "<script>document.title='taken'</script><img src=x onerror=alert(1)>\"'&"
GREEN = {"green": True, "error": 4e-7, "bar": 5e-5, "agree": 10, "of": 10, "faults": []}
RED = GREEN | {"green": False, "faults": ["the logits err by 0.3"]}
CPU = {"model": "EPYC", "cores": 2, "threads": 2, "mhz": None, "governor": None, "load": 0.1}
ENVIRONMENT = {
    "device": "cpu: EPYC", "device_type": "cpu", "python": "3.11", "versions": {"torch": "2.9", "triton": None},
    "commit": "d04c962a", "dirty": False, "cpu": CPU, "gpu": None, "collect_env": EVIL,
}  # fmt: skip


def summary(value: float) -> dict:
    return {"median": value, "p20": value * 0.98, "p80": value * 1.02, "p95": value * 1.1,
            "low": value * 0.97, "high": value * 1.03}  # fmt: skip


def record(steps: dict[str, float], new: int = 10, batch: int = 1, model: str = "tiny", **impl_changes) -> dict:
    """A cell in which each impl takes so many milliseconds a step and one for the prefill; the model says 2 a step."""
    cell = {
        "model": model, "dtype": "float32", "device": "cpu", "batch": batch, "context": 5, "new_tokens": new,
        "prompt_tokens": [5] * batch, "repeats": 3, "clock": "host clock", "flushed": False, "graph": False,
        "config": {"n_layer": 6, "n_head": 4, "n_embd": 128, "n_vocab": 2049, "n_ctx": 1024, "n_inner": 512},
        "parameters": 1_580_000, "weight_bytes": 6_320_000, "kv_bytes_per_token": 6144,
    }  # fmt: skip
    rows = []
    for impl, step in steps.items():
        total = 1 + step * (new - 1)
        parts = {"overhead_ms": 1.0, "bytes_ms": 0.6, "flops_ms": 0.4}
        rows.append({
            "impl": impl, "cached": impl != "naive", "dtype": "float32", "version": "2.9", "emulated": None,
            "parity_before": GREEN, "parity_after": GREEN, "text": EVIL, "refused": None, "launches": 130,
            "runs": [{"prefill_s": 1e-3, "steps_s": [step / 1e3] * (new - 1)}] * 3, "prefill_ms": summary(1.0),
            "step_ms": summary(step), "total_ms": summary(total), "tokens_per_s": summary(1e3 * batch * new / total),
            "speedup": summary((1 + steps.get("naive", step) * (new - 1)) / total), "bytes_per_step": 6.4e6,
            "gb_per_s": 6.4 / step, "bandwidth_share": 6.4 / step / 35,
            "predicted": {"prefill_ms": 1.0, "step_ms": 2.0, "total_ms": 1 + 2 * (new - 1), **parts},
        } | impl_changes.get(impl.replace("-", "_"), {}))  # fmt: skip
    made = {
        "schema": "kvproof/decode/1", "key": f"{model} b{batch} n{new}", "written": "2026-11-22T05:00:00Z",
        "command": "python bench/decode.py --impl all", "environment": copy.deepcopy(ENVIRONMENT),
        "constants": {"overhead_us": 9.5, "gflops": 80.0, "bandwidth": [{"bytes": 1 << 24, "gb_per_s": 35.0}],
                      "measured_in_s": 2.1},
        "cell": cell, "impls": rows, "explanation": EVIL,
        "bandwidth": {"working_set_bytes": 6_400_000, "gb_per_s": 35.0, "limit_gb_per_s": 36.4,
                      "limit_is": "best measured"},
        "break_even": {"cached": "sdpa", "predicted_context": 30, "predicted_new_tokens": 12,
                       "measured_new_tokens": None},
    }  # fmt: skip
    check(made, "the test's record")
    return made
