"""What reductions into global memory compute, by operation and type.

Source: PTX ISA 8.8, 9.7.9.27.1.2 (cp.reduce.async.bulk) and 9.7.9.27.1.4 (cp.reduce.async.bulk.tensor).
"""

from collections.abc import Callable

from .. import isa
from ..atomics import OPERATIONS

WHOLE = ("u32", "s32", "u64", "s64")
TYPES = {
    "add": ("u32", "s32", "u64", "f16", "bf16", "f32", "f64"), "min": (*WHOLE, "f16", "bf16"),
    "max": (*WHOLE, "f16", "bf16"), "inc": ("u32",), "dec": ("u32",),
    **dict.fromkeys(("and", "or", "xor"), (*WHOLE, "b32", "b64")),
}  # fmt: skip


def reduction(operation: str, kind: str) -> Callable | None:
    """(old, new) -> what stays, of unsigned patterns; None where no GPU has it."""
    if kind not in TYPES[operation]:
        return None
    kind = f"b{kind[1:]}" if operation in ("and", "or", "xor") else kind
    return OPERATIONS.get(operation) or isa.semantics(f"{operation}.{kind}", None).function
