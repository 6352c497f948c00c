"""Peak memory of a real generation, held against weights + cache + one step's activations.

A fresh process warms up on one layer of the model, so that modules, thread pools, the tokenizer and the scratch that
MKL and oneDNN keep for products this wide are in its baseline; then it loads the model and generates. On the CPU the
peak is the kernel's own (VmHWM, reset through /proc/self/clear_refs), less what files held; on CUDA torch's
max_memory_allocated. The C library keeps freed memory for its next request, how much depends on the order of requests;
so a second process runs with an allocator set to return each block of 64 KB at once. That one shows what is alive and
is held to the bar; the first shows what the machine must have.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from ...reference.config import Config
from .sizes import ITEMSIZE, cache_bytes, of_gpt2

BAR = 1.05  # times the sum,
# And bytes that the meter counts beside: pages of libraries first touched, Python's own, see HostMeter.
FLOOR = 2_000_000
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # glibc's; others ignore them


def activations(config: Config, batch: int, tokens: int, itemsize: int) -> dict[str, int]:
    """Bytes alive at once in the largest moment of a pass, beside weights and cache, as gpt2/model.py computes.

    In a block's MLP two residual streams, the LayerNorm's output, and c_fc's output before and after GELU live: rows of
    3 E + 2 n_inner; in its attention 8 E. A prefill takes batch x tokens rows and gives (B, V) logits at its end. A
    decode step takes batch rows while the last step's logits live, and then has both steps' logits.
    """
    E, V = config.n_embd, config.n_vocab
    row = max(3 * E + 2 * config.n_inner, 8 * E)
    prefill = batch * max(tokens * row + E, V + 2 * E)
    decode = batch * max(V + row, 2 * V + 2 * E)
    return {"prefill": prefill * itemsize, "decode": decode * itemsize}


def expected(config: Config, batch: int, prompt: int, new: int, dtype: str) -> dict[str, int]:
    """Bytes of weights, of the cache that `generate` makes, and of the larger pass's activations."""
    shape = of_gpt2("", config)
    passes = activations(config, batch, prompt, ITEMSIZE[dtype])
    cache = sum(cache_bytes(shape, "static", batch, prompt + new - 1, dtype).values())
    return {"weights": shape.weight_bytes(dtype), "cache": cache, "activations": max(passes.values())} | passes


def measure(model: str, batch: int, prompt: int, new: int, dtype: str, device: str) -> dict:
    """Generate in fresh processes and compare.

    returns  expected's parts in bytes, `sum` of the first three; `held` and `alive`, the measured peaks in bytes above
             the baseline with the allocator as it is and returning at once (one figure on CUDA); `ratio` of alive to
             the sum; `bar`, the most that alive may be

    Raises ValueError with the process's last words if it fails.
    """
    task = {"model": model, "batch": batch, "prompt": prompt, "new": new, "dtype": dtype, "device": device}
    plain = {name: value for name, value in os.environ.items() if name not in RETURNING}
    held = run(task, plain)
    alive = held if device.startswith("cuda") else run(task, plain | RETURNING)
    parts = expected(Config(**held["config"]), batch, prompt, new, dtype)
    total = parts["weights"] + parts["cache"] + parts["activations"]
    figures = {"sum": total, "held": held["peak"], "alive": alive["peak"], "ratio": alive["peak"] / total}
    figures["bar"] = round(BAR * total) + FLOOR
    return task | parts | figures


def run(task: dict, env: dict[str, str]) -> dict:
    """One generation in a fresh process; its peak in bytes and the model's config."""
    child = subprocess.run(
        [sys.executable, "-m", "kvproof.bench.memory.peak", json.dumps(task)], capture_output=True, text=True, env=env
    )
    if child.returncode:
        raise ValueError(f"the measured process failed: {(child.stderr.strip() or 'no words').splitlines()[-1]}")
    return json.loads(child.stdout)


def generate_and_measure(task: dict) -> dict:
    """What `run` is answered: load, generate, and the peak in bytes above what was there before loading."""
    import torch

    from ...gpt2 import generate
    from ...gpt2.weights import DTYPES, as_device, build, checkpoint, open_checkpoint
    from ...reference.synthetic import random_config, random_tensors

    device, dtype = as_device(task["device"]), DTYPES[task["dtype"]]

    def drawn(config: Config):
        return ((name, torch.from_numpy(array)) for name, array in random_tensors(config))

    def make(config: Config, tensors):
        return build(dataclasses.replace(config, eos_token_id=None), tensors, None, dtype, device, "sdpa")

    def decode(model):
        ids = [[(7 * t + b) % model.config.n_vocab for t in range(task["prompt"])] for b in range(task["batch"])]
        generate(model, ids, max_new_tokens=task["new"])

    path = checkpoint(task["model"])
    if isinstance(path, str):
        config = random_config(path)
        tensors = drawn(config)
    else:
        config, tensors, _tokenizer = open_checkpoint(path)  # the tokenizer stays in the baseline
    small = dataclasses.replace(config, n_layer=1, n_vocab=min(config.n_vocab, 512), tie_word_embeddings=True)
    decode(make(small, drawn(small)))
    meter = CudaMeter(device) if device.type == "cuda" else HostMeter()
    model = make(config, tensors)
    meter.reset()
    decode(model)
    return {"peak": meter.peak(), "config": dataclasses.asdict(config)}


class CudaMeter:
    """Bytes of tensors, by torch's own count."""

    def __init__(self, device):
        import torch

        self.cuda, self.device = torch.cuda, device
        self.base = self.cuda.memory_allocated(device)

    def reset(self):
        self.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        return self.cuda.max_memory_allocated(self.device) - self.base


class HostMeter:
    """Bytes of the process's anonymous memory, by Linux's count; OSError where there is no /proc."""

    def __init__(self):
        trim()
        self.base = status()["RssAnon"]

    def reset(self):
        trim()
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of loading
        self.files = status()["RssFile"] + status().get("RssShmem", 0)

    def peak(self) -> int:
        """Pages of libraries first touched meanwhile count as ours, so it errs upward: by up to 1.0 MB on tiny."""
        return status()["VmHWM"] - self.files - self.base


def status() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(value) for name, value, _ in pairs}


def trim():
    """Have glibc return what it keeps of freed memory; other C libraries have no such call."""
    import ctypes

    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


if __name__ == "__main__":
    try:
        print(json.dumps(generate_and_measure(json.loads(sys.argv[1]))))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
