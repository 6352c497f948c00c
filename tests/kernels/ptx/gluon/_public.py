"""What Gluon offers for NVIDIA GPUs, by name, and which of it some kernels use: read from their source."""

import ast
import inspect
import textwrap
from types import ModuleType
from typing import Any

from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import ampere, blackwell, hopper, rubin
from triton.runtime.jit import JITFunction

MODULES = {"ampere": ampere, "hopper": hopper, "blackwell": blackwell, "rubin": rubin}
VENDORS = ("amd", "nvidia", "extra")


def public() -> dict[str, Any]:
    """Every name -> what it stands for: "add", "hopper.tma.async_load", and "shared_memory_descriptor.load"."""
    found = {name: x for name, x in vars(gl).items() if not name.startswith("_") and not isinstance(x, ModuleType)}
    found |= {f"shared_memory_descriptor.{name}": x for name, x in methods(gl.shared_memory_descriptor)}
    for name, module in MODULES.items():
        for part in {*module.__all__, *(x for x in vars(module) if x.startswith(("tcgen05", "warpgroup")))}:
            value = getattr(module, part)
            if isinstance(value, ModuleType):
                found |= {f"{name}.{part}.{x}": getattr(value, x) for x in value.__all__}
            else:
                found[f"{name}.{part}"] = value
    found |= {f"tensor_memory_descriptor.{name}": x for name, x in methods(blackwell.tensor_memory_descriptor)}
    return found


def methods(kind: type) -> list[tuple[str, Any]]:
    """Those that a kernel may call."""
    return [(name, x) for name, x in vars(kind).items() if getattr(x, "__triton_builtin__", False)]


def used(kernels: list[JITFunction]) -> set[Any]:
    """The ids of what the kernels, and the functions they call, name; and the names of methods, after a dot."""
    seen, rest, found = set(), list(kernels), set()
    while rest:
        kernel = rest.pop()
        if id(kernel) in seen:
            continue
        seen.add(id(kernel))
        space = kernel.fn.__globals__
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(kernel.fn)))):
            value = meant(node, space)
            if value is not None:
                found.add(id(value))
            if isinstance(value, JITFunction) and value.fn.__module__ == kernel.fn.__module__:
                rest.append(value)
            if isinstance(node, ast.Attribute):
                found.add("." + node.attr)
    return found


def meant(node: ast.AST, space: dict[str, Any]) -> Any:
    """What a name, or a chain of attributes from one, stands for in a module; None if nothing."""
    if isinstance(node, ast.Name):
        return space.get(node.id)
    if isinstance(node, ast.Attribute):
        return getattr(meant(node.value, space), node.attr, None)
    return None
