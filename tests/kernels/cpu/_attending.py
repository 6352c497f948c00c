"""The engine's attention as an op for reference/judge/cases.check: the engine's own, or compiled alone.

Alone are planted files, and engines that no other test has compiled.
"""

from unittest.mock import patch

import numpy as np
import torch

from kvproof.bench.judge.contract.op import to_torch
from kvproof.kernels.cpu.machine_code import Variant, load

from ._compiled import DTYPES, compiled, engine_modules

WHOLE = {("float32", "float32"), ("bfloat16", "bfloat16"), ("float64", "float64")}  # parameters and cache


def alone(modules, param: str, cache: str, total: str):
    """What `forward.entry` does of a job that asks for attention alone: a fifth of the engine, so compiled sooner."""
    forward, pointer = modules.forward, modules.pointers.pointer
    Kinds, job_at, scratch_of = forward.Kinds, forward.job_at, forward.scratch_of
    append_rows, attend_rows, at = forward.append_rows, forward.attend_rows, modules.pointers.at
    count_up, all_here, Crew = modules.phases.count_up, modules.phases.all_here, modules.phases.Crew

    def run(address, thread):
        kinds = Kinds(
            pointer(param, total, 0), pointer(param, total, 0), pointer(cache, total, 0), pointer(total, total, 0),
            pointer("float32", total, 0), pointer("int64", total, 0), pointer("int32", total, 0),
        )  # fmt: skip
        job = job_at(address)
        phases = at(kinds.index, job.phases)
        if thread == 0:
            count_up(phases, 0)
        elif not all_here(phases):
            return 0
        crew, scratch = Crew(phases, thread, job.threads), scratch_of(job, kinds, thread)
        normed, wide = at(kinds.sum, job.normed), at(kinds.sum, job.wide)
        if job.only_attention > 1:
            append_rows(job, kinds, crew, 1, wide, 0)
        attend_rows(job, kinds, crew, 2, normed, wide, 0, scratch)
        return 0

    return compiled(run)


def nan(*shape, dtype):
    return torch.full(shape[0] if not isinstance(shape[0], int) else shape, torch.nan, dtype=dtype)


def op(modules, dtype: str, cache: str | None = None, threads: int = 1, exact: bool = False):
    """op(q, k, v, lengths, k_new, v_new, block_table, k_scale, v_scale) -> o, by an engine's files.

    dtype    of q, and of k and v unless cache says another
    exact    give o as the engine does, in the dtype of its sums
    """
    cache, total = cache or dtype, "float64" if dtype == "float64" else "float32"
    whole = modules is engine_modules() and (dtype, cache) in WHOLE
    run = load(Variant(dtype, dtype, cache, total)) if whole else alone(modules, dtype, cache, total)
    engines = {}

    def engine(H: int, D: int):
        if (H, D) not in engines:
            with patch.object(modules.engine, "load", lambda variant: run):
                sizes = modules.engine.Sizes(1, H, H * D, 0, 0, 0.0, False)
                engines[H, D] = modules.engine.Engine(sizes, dtype, dtype, cache)
        return engines[H, D]

    def attend(q, k, v, lengths, k_new=None, v_new=None, block_table=None, k_scale=None, v_scale=None):
        B, H, D = q.shape
        given = {"k": k, "v": v, "k_scale": k_scale, "v_scale": v_scale}
        held = {name: to_torch(np.ascontiguousarray(x)).clone() for name, x in given.items() if x is not None}
        table = torch.arange(B, dtype=torch.int32)[:, None] if block_table is None else torch.from_numpy(block_table)
        scales = [(held["k_scale"],), (held["v_scale"],)] if k_scale is not None else [(), ()]
        slots = modules.engine.Slots((held["k"],), (held["v"],), *scales, table)
        rows = np.arange(B)
        new = [None if x is None else to_torch(x) for x in (k_new, v_new)]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with patch.object(modules.engine.torch, "empty", nan):
                o = engine(H, D).attend(to_torch(q), rows, np.asarray(lengths, np.int64) - 1, slots, *new)
        finally:
            torch.set_num_threads(before)
        for name, x in held.items():
            given[name][...] = x.view(torch.int16).numpy().view(given[name].dtype) if x.dtype == torch.bfloat16 else x
        return o.numpy() if exact else o.numpy().astype(DTYPES[dtype])

    return attend
