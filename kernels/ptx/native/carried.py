"""The shadow of one launch as machine code: its memory, and what came of it, as shadow/launch.py's Shadow has it."""

from typing import Any

import numpy as np

from ..segments import Region, address_of
from ..shadow.launch import Kept, Shadow, kept_at
from ..shadow.planes import Plane
from ..start import Start
from .lower import Unlowered
from .pieces import BYTES, CODES, DATA, LAST, VALUES, WRITTEN
from .twin_cells import CHOICE, ERRORS, GIVEN, KEEPS, LOST, NOTED, WORDS

MOST = 1 << 28  # bytes of shared memory of all programs that run at a time


class Carried(Shadow):
    """Keeps alive what compiled code works on. Raises Unlowered for more shared memory than there is room."""

    def __init__(self, start: Start, records: Any, arrays: Any):
        steps, threads, rows = len(start.decoded.steps), records.threads, len(records.rows)
        planes = {id(piece): self.plane(piece, start.shadow.earlier) for piece in arrays.pieces}
        for row, (plane, origin) in zip(arrays.table, planes.values(), strict=False):
            if plane:
                parts, cells = (plane.value, plane.code, plane.bytes), row[DATA] - origin >> 1
                row[[VALUES, CODES, BYTES]] = [address_of(x) + cells * (x.nbytes // plane.cells) for x in parts]
        self.held = []
        for piece, buffer, first in arrays.placed:
            plane, origin = planes[id(piece)]
            if plane:
                self.held.append((Region(buffer, first - origin, 0, 0, buffer.array.strides), buffer.array, plane))
        self.noted, self.largest = np.zeros((threads, steps), np.uint8), np.zeros((threads, steps))
        self.keeps = np.isin(np.arange(steps), [*kept_at(start.shadow, start.decoded)])
        floats = [start.parameters[x] for x, kind in start.decoded.parameters if kind in ("f32", "f64")]
        self.given = np.array([*map(float, floats), 0.0])
        if rows * (size := records.shared_size) > MOST:
            raise Unlowered(f"{rows * size} bytes of shared memory with a shadow")
        self.shared, n = Plane(rows, size), np.arange(rows)
        self.table = np.zeros((rows, WORDS), np.int64)
        self.table[:, [LAST, DATA]] = np.array([size + 0 * n, address_of(records.state["shared_bytes"]) + size * n]).T
        for word, x in {VALUES: self.shared.value, CODES: self.shared.code, BYTES: self.shared.bytes}.items():
            self.table[:, word] = address_of(x) + x.nbytes // rows * n
        for word, x in {NOTED: self.noted, ERRORS: self.largest}.items():
            self.table[:, word] = address_of(x) + x.strides[0] * (n % threads)
        self.table[:, KEEPS], self.table[:, GIVEN] = address_of(self.keeps), address_of(self.given)
        records.put("shadow", address_of(self.table) + 8 * WORDS * n)

    @staticmethod
    def plane(piece: Any, earlier: tuple[Kept, ...]) -> tuple[Plane | None, int]:
        """The twins of a piece of memory, those of earlier launches among them, and where the first cell lies.

        None where none can be; an earlier launch's own, where it has them all and none are added.
        """
        origin, low, high = piece.record[DATA], piece.low, piece.low + piece.length
        meets = [x for x in earlier if x.low < high and low < x.high and piece.buffers]
        written = WRITTEN in piece.planes
        if meets and not written and meets[-1].low <= low and high <= meets[-1].high:
            return meets[-1].plane, meets[-1].origin
        if not (written or meets):
            return None, origin
        plane = Plane(1, high - origin + 8)
        plane.recall(origin, low, high, meets)
        return plane, origin

    def __getattr__(self, name: str) -> Any:
        """lost, choices and errors, of a launch that has ended."""
        if name == "errors":
            return dict(enumerate(self.largest.max(0).tolist()))
        bit = {"lost": LOST, "choices": CHOICE}[name]
        return {*np.flatnonzero((self.noted & bit).any(0)).tolist()}
