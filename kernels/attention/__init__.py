"""The general decode attention and what goes with it, behind one door.

    from kvproof.kernels.attention import decode_attention, flash_attn_with_kvcache, merge_state

Each name is loaded when it is first asked for: a workspace's bytes are counted where there is no Triton.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .flash import flash_attn_with_kvcache
    from .merge import merge_state
    from .op import check_device, check_engine, decode_attention
    from .workspace import SPLIT_LEN, Workspace, WorkspaceFault, doublings, make_workspace, max_splits

__all__ = [
    "SPLIT_LEN", "Workspace", "WorkspaceFault", "check_device", "check_engine", "decode_attention", "doublings",
    "flash_attn_with_kvcache", "make_workspace", "max_splits", "merge_state",
]  # fmt: skip
_FILES = {"flash_attn_with_kvcache": "flash", "merge_state": "merge"}
_FILES |= dict.fromkeys(("check_device", "check_engine", "decode_attention"), "op")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(f".{_FILES.get(name, 'workspace')}", __name__), name)
    return value
