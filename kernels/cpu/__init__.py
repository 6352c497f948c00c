"""The decode step compiled for this CPU, behind one door: the equations of reference/model.py, in Numba.

    from kvproof.kernels.cpu import Engine, Sizes, Slots, available

Each name is loaded when it is first asked for, and Numba only where machine code must be compiled.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import Engine, Sizes, Slots
    from .machine_code import CompilerFailed, NoEngine, Variant, available

__all__ = ["CompilerFailed", "Engine", "NoEngine", "Sizes", "Slots", "Variant", "available"]
_FILES: dict[str, str] = dict.fromkeys(("Engine", "Sizes", "Slots"), "engine")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(f".{_FILES.get(name, 'machine_code')}", __name__), name)
    return value
