"""The kernels compiled ahead of time for GPUs that are not here, and what the machine code says.

One process without the interpreter and with an empty Triton cache compiles them all.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from kvproof.kernels.decode_attention import LOG2E, tile
from kvproof.kernels.targets import HEAD_DIMS, SM, Report, main_loop

COMPILE = """
import json, sys, torch
from kvproof.kernels.targets import example_launches, report
for sm, dtype, D, T in json.loads(sys.argv[1]):
    for launch in example_launches(getattr(torch, dtype), D, T):
        print(json.dumps(report(launch, sm)._asdict()), flush=True)
"""
FLOAT64 = """
import torch
from kvproof.kernels.targets import compile_launch, example_launches
for launch in example_launches(torch.float64, 32):
    print(compile_launch(launch, 90)["ttir"])
"""
JIT = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from kvproof.kernels.targets import compile_launch, example_launches

class AbsentGPU:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

driver.set_active(AbsentGPU())
for head_dim, T in ((80, 300), (3, 1)):
    for launch in example_launches(torch.float16, head_dim, T):
        jit = launch.kernel.warmup(grid=launch.grid, **launch.arguments, **launch.options)
        print(launch.kernel.__name__, jit.asm["ptx"] == compile_launch(launch, 90)["ptx"])
"""
ITEMSIZE = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}
DTYPES = ("float16", "bfloat16", "float32", "float64")

# T = 128 needs no combine kernel. Every target and head_dim in float16; the other dtypes at GPT-2's head_dim.
SAMPLE = [(sm, "float16", D, 1024 if D == 64 else 128) for sm in SM for D in HEAD_DIMS]
SAMPLE += [(sm, dtype, 64, 128) for sm in SM for dtype in ("bfloat16", "float32")]
WIDE = [(sm, dtype, D, 1024) for sm in SM for dtype in DTYPES for D in (1, 3, 4, 16, 32, 64, 80, 96, 128, 256)]


def compiled(code, cache, *arguments):
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def reports(cases, cache):
    lines = compiled(COMPILE, cache, json.dumps(cases)).splitlines()
    return [Report(**{**json.loads(line), "loads": tuple(json.loads(line)["loads"])}) for line in lines]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return reports(SAMPLE, tmp_path_factory.mktemp("triton"))


def check_no_spills(found):
    for r in found:
        assert (r.stack, r.local, r.spills, r.barriers) == (0, 0, 0, 0), r


def check_wide_loads(found):
    """Every load of the loop is 128 bits wide, and together they are the K and V of one block, no more and no less."""
    for r in found:
        if r.kernel == "attend_split":
            shape = tile(r.head_dim, ITEMSIZE[r.dtype])
            assert set(r.loads) == {128}, r
            block = 2 * shape["R"] * shape["ROWS"] * r.head_dim * ITEMSIZE[r.dtype]
            assert len(r.loads) * 16 * 32 * shape["num_warps"] == block, r


def test_the_sample_has_every_target_and_head_dim_and_both_kernels(sample):
    attend = {(r.sm, r.dtype, r.head_dim) for r in sample if r.kernel == "attend_split"}
    assert {(sm, "fp16", D) for sm in SM for D in HEAD_DIMS} < attend
    assert {(sm, dtype, 64) for sm in SM for dtype in ("bf16", "fp32")} < attend
    assert {r.sm for r in sample if r.kernel == "combine_splits"} == set(SM)


def test_nothing_spills_and_no_loop_waits_at_a_barrier(sample):
    check_no_spills(sample)


def test_every_load_of_k_and_v_is_128_bits_wide(sample):
    check_wide_loads(sample)


def test_half_of_the_threads_that_an_sm_holds_fit(sample):
    assert max(r.registers for r in sample) <= 64  # 65536 registers / 64 = 1024 of 2048 threads


def test_a_float64_cache_is_summed_in_float64_from_end_to_end(tmp_path):
    ttir = compiled(FLOAT64, tmp_path)
    assert "f64" in ttir
    assert not re.findall(r"\bf32\b|xf32\b", ttir)
    assert f"dense<{32**-0.5 * LOG2E}>" in ttir  # all of its digits


def test_what_is_compiled_ahead_of_time_is_what_a_launch_compiles(tmp_path):
    assert compiled(JIT, tmp_path).split() == ["attend_split", "True", "combine_splits", "True", "attend_split", "True"]


@pytest.mark.exhaustive
def test_nothing_spills_at_any_head_dim_dtype_and_target(tmp_path):
    found = reports(WIDE, tmp_path)
    assert len(found) == 2 * len(WIDE)
    check_no_spills(found)
    check_wide_loads([r for r in found if r.head_dim in HEAD_DIMS])


def test_the_interpreter_has_nothing_to_compile():
    program = (
        "import torch; from kvproof.kernels.targets import compile_launch, example_launches as launches\n"
        "try: compile_launch(launches(torch.float16, 64)[0], 90)\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("BackendError TRITON_INTERPRET is set, so nothing is compiled; unset it")


def test_the_main_loop_is_the_shortest_that_loads():
    listing = ["MOV", "LDG.E.128 R1", "FADD", "@P0 BRA `(.L_x_1)", "BRA `(.L_x_0)", "FMUL", "BRA `(.L_x_2)"]
    labels = {".L_x_0": 0, ".L_x_1": 1, ".L_x_2": 5}
    assert main_loop(listing, labels) == ["LDG.E.128 R1", "FADD", "@P0 BRA `(.L_x_1)"]
