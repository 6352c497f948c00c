"""The engine compiled for another CPU has the same bits: its source says what is computed, whatever the vectors."""

import os
import sys

import pytest

from kvproof.kernels.cpu import host

from ... import _child
from ..._engine import ENGINE

RUN = """
import hashlib
import sys

import numpy as np
from kvproof.kernels.cpu import compiler, host, machine_code

cpu, dtype, weights, kv_dtype = sys.argv[1:]
if cpu != "this":
    host.cpu_name, host.cpu_features = lambda: cpu, lambda: "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+sse4.2"
    entry = "kvproof.kernels.cpu.forward", "entry"
    machine_code.compiled = lambda variant: compiler.compile_engine(*entry, tuple(variant))

from kvproof.gpt2 import load

model = load("tiny", dtype=dtype, weights=weights if weights != "none" else None, impl="numba")
cache = model.new_cache(3, 300, kv_dtype=kv_dtype if kv_dtype != "none" else None)
rng, digest = np.random.default_rng(0), hashlib.sha256()
logits = model.prefill([rng.integers(0, 2000, n).tolist() for n in (200, 31, 7)], cache)
for _ in range(4):
    digest.update(logits.numpy().tobytes())
    logits = model.decode(logits.argmax(-1), cache)
print(digest.hexdigest())
"""


@ENGINE
@pytest.mark.skipif("+avx512f" not in host.cpu_features().split(","), reason="no vectors wider than AVX2's here")
@pytest.mark.parametrize(
    ("dtype", "weights", "kv_dtype"),
    [
        ("float32", "none", "none"),
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in (("bfloat16", "none", "none"), ("float16", "none", "none"), ("float64", "none", "none"),
                         ("float32", "int8", "int8"))
        ),
    ],
)  # fmt: skip
def test_vectors_of_half_the_width_give_the_same_bits(dtype, weights, kv_dtype, tmp_path):
    found = []  # by the engine that this machine has, and by one that it shall not keep
    for cpu, caches in (("this", {}), ("haswell", {"KVPROOF_CACHE_DIR": str(tmp_path)})):
        environment = {**os.environ, **caches}
        command = [sys.executable, "-c", RUN, cpu, dtype, weights, kv_dtype]
        run = _child.run(command, capture_output=True, text=True, env=environment, check=False)
        assert run.returncode == 0, run.stderr
        found.append(run.stdout)
    assert found[0] == found[1]
    assert len(found[0]) > 60
