"""Run rungs on the PTX machine and print what each cost: `python -m kvproof.kernels.ladder [rung ...]`, all by default.

The workload: one sequence of 1024 slots, 8 query heads, D = 64, float16, sm_90. On the way to decode.py each query head
has its own KV head, beyond it 8 query heads share 2. Moved are bytes in sectors of 32, once for each warp that touches
one; distinct are the bytes read, each once. Instructions are of warps, per token and query head, so that 8 * 1024 share
the sum. Counted with triton 3.8.0.
"""

import argparse
from importlib import import_module
from inspect import signature
from typing import Any, NamedTuple

import torch

from .. import ptx

WAY = ("naive", "online", "split", "row_private", "paged", "decode")  # the last one is kernels/decode.py itself
BEYOND = ("grouped", "fused")  # towards the general op
RUNGS = (*WAY, *BEYOND)


class Count(NamedTuple):
    """What one call of a rung did, all launches together."""

    error: float  # the largest, against float64
    moved: int  # bytes between memory and the programs
    distinct: int  # bytes read, each once
    instructions: float  # of warps, per token and query head
    barriers: int  # by warps
    shuffles: int
    launches: int


def inputs(lengths, H=8, H_kv=8, T=1024, D=64, seed=0):
    """Random q (B, H, D), k and v (B, H_kv, T, D) in float16, and the lengths as a tensor."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (len(lengths), H, D), *2 * [(len(lengths), H_kv, T, D)]
    q, k, v = (torch.randn(shape, generator=draw).half() for shape in shapes)
    return q, k, v, torch.tensor(lengths, dtype=torch.int32)


def truth(q, k, v, lengths):
    """The formula in float64 -> (B, H, D); a length of 0 gives zeros."""
    (B, H, D), G, out = q.shape, q.shape[1] // k.shape[1], torch.zeros(q.shape, dtype=torch.float64)
    for b, h in torch.cartesian_prod(torch.arange(B), torch.arange(H)):
        s = k[b, h // G, : lengths[b]].double() @ q[b, h].double() / D**0.5
        out[b, h] = s.softmax(0) @ v[b, h // G, : lengths[b]].double()
    return out


def into_pages(x, page, table):
    """A cache (B, H_kv, T, D) -> pages (P, H_kv, page, D), slot t of sequence b in table[b, t // page]."""
    B, H_kv, _, D = x.shape
    pages = torch.empty(table.numel(), H_kv, page, D, dtype=x.dtype)
    pages[table.flatten()] = x.view(B, H_kv, -1, page, D).transpose(1, 2).reshape(-1, H_kv, page, D)
    return pages


def load(name: str) -> Any:
    """A rung's module."""
    return import_module("..decode" if name == "decode" else f".{name}", __package__)


def call(rung: Any, q, k, v, lengths):
    """The rung on a contiguous cache; a paged one, and decode.py, get it in shuffled pages of 16 slots."""
    attention = getattr(rung, "attention", None) or rung.decode_attention
    name = next((x for x in ("table", "block_table") if x in signature(attention).parameters), None)
    if name is None:
        return attention(q, k, v, lengths)
    shuffled = torch.randperm(k.numel() // k.shape[1] // k.shape[3] // 16, generator=torch.Generator().manual_seed(1))
    table = shuffled.view(len(lengths), -1).int()
    pages = into_pages(k, 16, table), into_pages(v, 16, table)
    table[16 * torch.arange(table.shape[1]) >= lengths[:, None]] = -1  # no page: nothing may look there
    return attention(q, *pages, lengths, **{name: table})


def kv_heads(name: str) -> int:
    """KV heads of a rung's workload."""
    return 2 if name in BEYOND else 8


def count(name: str, target: str = "sm_90", n: int = 1024) -> Count:
    """Run a rung on `n` slots of its workload and count."""
    arrays = inputs([n], H_kv=kv_heads(name))
    with ptx.route(target=target) as reports:
        out = call(load(name), *arrays)
    totals = [report.total for report in reports]
    return Count(
        float((out.double() - truth(*arrays)).abs().max()),
        sum(32 * (total.loaded.sectors + total.stored.sectors) for total in totals),
        sum(sum(report.unique.values()) for report in reports),
        sum(total.instructions for total in totals) / (n * arrays[0].shape[1]),
        sum(total.barriers for total in totals),
        sum(report.classes.get("shuffle, vote", 0) for report in reports),
        len(reports),
    )


def counted(c: Count) -> str:
    """The counts in words, as each rung's docstring has them."""
    return (
        f"{c.moved:,} bytes moved, {c.distinct:,} distinct; {c.instructions:.2f} instructions; "
        f"{c.barriers:,} barriers; {c.shuffles:,} shuffles; {c.launches} launch{'es' * (c.launches > 1)}."
    )


def row(name: str, c: Count) -> str:
    """A line of the table."""
    return (
        f"{name:12} {c.error:8.1e} {c.moved:11,} {c.distinct:11,} {c.instructions:13.2f} {c.barriers:9,} "
        f"{c.shuffles:9,} {c.launches:9}"
    )


def main(argv: list[str] | None = None) -> None:
    """Print the table of these rungs, or of all."""
    parser = argparse.ArgumentParser("python -m kvproof.kernels.ladder", description=str(__doc__).split("\n\n")[1])
    parser.add_argument("rung", nargs="*", help=f"any of {', '.join(RUNGS)}")
    names = parser.parse_args(argv).rung or RUNGS
    if unknown := [name for name in names if name not in RUNGS]:
        parser.error(f"there is no rung {', '.join(unknown)}; choose from {', '.join(RUNGS)}")
    print("rung            error bytes moved    distinct  instructions  barriers  shuffles  launches")
    for name in names:
        print(row(name, count(name)), flush=True)


if __name__ == "__main__":
    main()
