"""Copies of boxes of tensors between global and shared memory, and reductions of a box into global memory.

The machine moves the bytes when the instruction is issued; proxy.py and global_side.py know until when they may still
be moving. Elements of a box outside of the tensor are read as zeros, or NaN, and not written, but for those in a piece
of 16 bytes that begins within the tensor: hardware writes pieces whole (triton-lang/triton#11583, seen on an H100).

Source: PTX ISA 8.8, 9.7.9.27.1 (cp.async.bulk.tensor, cp.reduce.async.bulk.tensor), 5.5 (tensors).
"""

from collections.abc import Iterator

import numpy as np

from .. import isa
from ..asynchronous import proxy
from ..decode import Decoder, Run
from ..errors import InvalidTensorMap, Misaligned
from ..parse import Instruction
from . import global_side, maps
from .boxes import Box, boxes
from .opcodes import Form, Operands, alone, form, operands
from .reductions import TYPES, reduction
from .requests import Request, requests
from .tensor_map import PIECE

ALIGNED = 128  # bytes, of a box in shared memory
ANYTHING = 0xE5  # bytes of padding: the ISA leaves them open


def copy(d: Decoder, i: Instruction) -> Run:
    """cp.async.bulk.tensor and cp.reduce.async.bulk.tensor."""
    f = form(i)
    given = operands(d, i, f)

    def run(block, active):
        block.instruction = i
        for request in requests(block, active):
            alone(request, given.mask, i)
            at = request.value(given.shared)
            if (at % ALIGNED).any():
                bad = int(np.argmax(at % ALIGNED != 0))
                what = f"a box of a tensor at {int(at[bad])} of shared memory: the address is no multiple of {ALIGNED}"
                raise request.error(Misaligned, what, bad if len(at) > 1 else None)
            if f.loads:
                load(request, f, given, at)
            else:
                global_side.begin(request)
                store(request, f, given, at)

    return run


def parts(request: Request, f: Form, given: Operands) -> Iterator[tuple[Box, Request]]:
    """The boxes that a request moves, each with the request of the programs that have one."""
    found = maps.read(request, request.value(given.other))
    start = [request.value(x, signed=True) for x in given.coordinates]
    offsets = [request.value(x) for x in given.offsets]
    for one in boxes(request, found, f, start, offsets):
        yield one, Request(request.block, request.thread, one.rows)


def load(request: Request, f: Form, given: Operands, at: np.ndarray) -> None:
    """A box comes into shared memory; its bytes, with those that are filled in, are counted by an mbarrier."""
    assert given.mbarrier is not None
    block, bar = request.block, request.value(given.mbarrier)
    for box, part in parts(request, f, given):
        data = global_side.load(part, box.address, box.word, box.inside & part.on, part.site(box.where, by_map=True))
        data = np.where(box.inside[..., None], converted(data, box), filling(box))
        pieces, held = data.reshape(len(data), -1, box.element.held), box.element.held
        if held < PIECE:
            pieces = np.pad(pieces, ((0, 0), (0, 0), (0, PIECE - held)), constant_values=ANYTHING)
        proxy.write(block, box.places(at), pieces, part.some, part.who, proxy.Done("mbarrier", bar))
        if held < PIECE:
            proxy.forget(block, box.places(at), held, PIECE, part.some, part.who)
        block.mbarriers.complete_tx(block, bar, box.bytes, part.counted)


def store(request: Request, f: Form, given: Operands, at: np.ndarray) -> None:
    """A box goes out of shared memory, as it is or as the second operand of a reduction."""
    for box, part in parts(request, f, given):
        if box.element.packed:
            what = f"elements of {box.element.name} are loaded, and neither stored nor reduced"
            raise part.error(InvalidTensorMap, what)
        pieces = proxy.read(request.block, box.places(at), PIECE, wanted(box, part), part.who, proxy.Done("bulk"))
        on, site = box.inside & part.on, part.site(box.where, by_map=True)
        if not f.operation:
            data = pieces.reshape(len(pieces), -1, box.word)
            address = np.broadcast_to(box.address, on.shape)
            global_side.store(part, address, data, box.word, on, site)
            if box.tail is not None and (tail := box.tail & part.on).any():
                global_side.spill(part, address, data, box.word, tail, site)
            continue
        kind = box.element.name.removesuffix(".ftz")
        function = reduction(f.operation, kind)
        if function is None:
            what = f"elements of {box.element.name} are not reduced by {f.operation}, but by "
            what += ", ".join(name for name, kinds in TYPES.items() if kind in kinds) or "nothing"
            raise part.error(InvalidTensorMap, what)
        size = box.element.size
        many = box.word // size
        data = pieces.reshape(len(pieces), -1, size)
        address = (box.address[..., None] + np.arange(0, box.word, size, dtype=np.uint64)).reshape(len(box.address), -1)
        on = np.repeat(on, many, axis=1)
        site = part.site(lambda row, n, box=box, many=many: box.where(row, n // many), by_map=True)
        global_side.atomic(part, np.broadcast_to(address, on.shape), data, size, function, on, site)


def wanted(box: Box, part: Request) -> np.ndarray | None:
    """Which pieces of shared memory go out, (P or 1, pieces) of bool; None: all."""
    inside = box.inside.reshape(len(box.inside), -1, PIECE // box.word).any(2)
    return part.some if np.all(inside) else np.logical_and(inside, part.on)


def filling(box: Box) -> np.ndarray:
    """The bytes of a word outside of the tensor: (word,)."""
    if not box.nan or box.element.nan is None:
        return np.zeros(box.word, np.uint8)
    one = box.element.nan.to_bytes(box.element.size, "little")
    return np.frombuffer(one * (box.word // box.element.size), np.uint8)


def converted(data: np.ndarray, box: Box) -> np.ndarray:
    """Elements as they arrive: those of tf32 are rounded, those with .ftz lose subnormals."""
    if box.element.name not in ("tf32", "tf32.ftz", "f32.ftz"):
        return data
    bits = np.ascontiguousarray(data).view("<u4")
    if box.element.name.endswith("ftz"):
        bits = np.where(bits & 0x7F800000, bits, bits & np.uint32(0x80000000))
    if box.element.name.startswith("tf32"):
        bits = isa.semantics("cvt.rna.tf32.f32", None).function(bits)
    return np.ascontiguousarray(bits).view(np.uint8)
