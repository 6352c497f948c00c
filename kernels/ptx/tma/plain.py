"""Bulk copies of plain bytes, reductions of them into global memory, and the groups that copies out are waited for by.

Source: PTX ISA 8.8, 9.7.9.25.4 (cp.async.bulk, cp.reduce.async.bulk, commit_group, wait_group).
"""

import re
from collections.abc import Callable, Iterator

import numpy as np

from ..asynchronous import proxy
from ..decode import Decoder, Run
from ..errors import Misaligned, UnknownOpcode
from ..opcode import BITS
from ..parse import Instruction
from . import global_side, tensor
from .opcodes import Operands, alone, form, operands
from .reductions import reduction
from .requests import Request, requests
from .tensor_map import PIECE


def copy(d: Decoder, i: Instruction) -> Run:
    """cp.async.bulk and cp.reduce.async.bulk."""
    if ".prefetch." in i.opcode:
        return lambda block, active: None
    if "tensor" in i.opcode.split("."):
        return tensor.copy(d, i)
    if match := re.fullmatch(r"cp\.async\.bulk\.(commit_group|wait_group)(\.read)?", i.opcode):
        return groups(i, match[1], bool(match[2]))
    f = form(i)
    given = operands(d, i, f)
    function = reduction(f.operation, f.kind) if f.operation else None
    if f.operation and function is None:
        raise UnknownOpcode(i.opcode, f"{f.operation} of {f.kind}", i)
    step = BITS[f.kind] // 8 if function else PIECE

    def run(block, active):
        block.instruction = i
        for request in requests(block, active):
            alone(request, given.mask, i)
            if not f.loads:
                global_side.begin(request)
            for part, size in sizes(request, given):
                if f.loads:
                    load(part, given, size)
                else:
                    store(part, given, size, step, function)

    return run


def groups(i: Instruction, name: str, reads: bool) -> Run:
    """commit_group, and wait_group{.read} N: of all but the N latest groups, the reads or all are over."""
    if name == "commit_group":
        return lambda block, active: proxy.commit(block, active, "bulk")
    left = i.operands[0].bits

    def run(block, active):
        block.instruction = i
        proxy.wait(block, active, "bulk", left)
        if not reads:
            threads = [*global_side.bulk(block).pending]
            for request in requests(block, active, threads):
                global_side.end(request)

    return run


def sizes(request: Request, given: Operands) -> Iterator[tuple[Request, int]]:
    """The numbers of bytes that programs move, each with the request of these programs."""
    assert given.size is not None
    size = np.broadcast_to(request.value(given.size), request.rows.shape)
    where = [np.broadcast_to(request.value(x), size.shape) for x in (given.shared, given.other)]
    words = ("of {} bytes", "at {} of shared memory", "at {} of global memory")
    for values, what in zip((size, *where), words, strict=True):
        if (bad := (values % PIECE != 0) & request.rows).any():
            row = int(np.argmax(bad))
            what = f"a bulk copy {what.format(int(values[row]))}, which is no multiple of {PIECE}"
            raise request.error(Misaligned, what, row)
    for n in np.unique(size[request.rows]).tolist():
        if n:
            yield Request(request.block, request.thread, request.rows & (size == n)), n


def pieces(request: Request, read: Callable, size: int, step: int = PIECE) -> np.ndarray:
    """The places (P or 1, pieces) of what lies at an operand's address."""
    return request.value(read)[:, None] + np.arange(0, size, step)


def load(request: Request, given: Operands, size: int) -> None:
    assert given.mbarrier is not None
    block, bar = request.block, request.value(given.mbarrier)
    address = pieces(request, given.other, size).view(np.uint64)
    on = np.broadcast_to(request.on, (len(request.rows), address.shape[1]))
    data = global_side.load(request, address, PIECE, on, request.site(lambda row, n: f"piece {n} of a bulk copy"))
    at = pieces(request, given.shared, size)
    proxy.write(block, at, data, request.some, request.who, proxy.Done("mbarrier", bar))
    block.mbarriers.complete_tx(block, bar, size, request.counted)


def store(request: Request, given: Operands, size: int, step: int, function: Callable | None) -> None:
    """Bytes go out as they are, or into a reduction, one element of `step` bytes after the other."""
    at = pieces(request, given.shared, size)
    data = proxy.read(request.block, at, PIECE, request.some, request.who, proxy.Done("bulk"))
    address = pieces(request, given.other, size, step).view(np.uint64)
    on = np.broadcast_to(request.on, (len(request.rows), address.shape[1]))
    address = np.broadcast_to(address, on.shape)
    site = request.site(lambda row, n: f"element {n} of a bulk reduction" if function else f"piece {n} of a bulk copy")
    if function is None:
        global_side.store(request, address, data, PIECE, on, site)
    else:
        global_side.atomic(request, address, data.reshape(len(data), -1, step), step, function, on, site)


FAMILIES = {"cp.async.bulk": copy, "cp.reduce.async": copy}
