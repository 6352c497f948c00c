"""The general decode attention, and what stands beside it.

    from kvproof.kernels.attention import decode_attention, flash_attn_with_kvcache, merge_state

Each name is loaded when it is first asked for, so that counting a workspace's bytes needs no Triton.
"""

from importlib import import_module

_HOME = {
    "decode_attention": "op",
    "flash_attn_with_kvcache": "flash",
    "merge_state": "merge",
    "Workspace": "workspace",
    "WorkspaceFault": "workspace",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOME)}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
