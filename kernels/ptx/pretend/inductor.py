"""torch.compile's own Triton kernels on the machine: written by inductor for a pretended GPU, or on a true one before.

    with ptx.route("sm_80", pretend=True):
        total = inductor.compiled(lambda a, b: torch.relu(a * 2 + b).sum(-1), a, b)
        out = total(a, b)

Under a pretence torch.compile itself runs functions as they are written, since torch's compiler looks past Python at
each tensor's memory, finds the CPU's, and would write C++. So `compiled` hands inductor the graph with tensors that it
takes for a GPU's. A module that inductor wrote elsewhere (TORCH_LOGS=output_code) runs, too, if it is imported inside.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

from ..errors import Refused
from . import replaced
from .places import pretending

HEURISTICS = "torch._inductor.runtime.triton_heuristics"


def compiled(function: Callable[..., Any], *args: torch.Tensor) -> Callable[..., Any]:
    """What inductor makes of a function of tensors, for tensors of these shapes, strides and dtypes; no gradients.

    Raises Refused outside a pretence; what torch raises for a function that it cannot trace or compile.
    """
    if not pretending():
        raise Refused(
            "inductor writes Triton for the GPU that a route pretends: open ptx.route(pretend=True) around it"
        )
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils._python_dispatch import _disable_current_modes

    prepare()
    gpu, single = torch.device("cuda", 0), []

    def flat(*args: torch.Tensor) -> tuple:
        out = function(*args)
        single.append(isinstance(out, torch.Tensor))
        return (out,) if single[-1] else tuple(out)

    with _disable_current_modes(), FakeTensorMode(), torch.no_grad():
        empty = torch.ops.aten.empty_strided.default
        fakes = [empty(x.shape, x.stride(), dtype=x.dtype, device=gpu) for x in args]
        graph = make_fx(flat, select_decomp_table())(*fakes)
        made: Any = compile_fx_inner(graph, fakes)

    def call(*args: torch.Tensor) -> Any:
        out = made(list(args))
        return out[0] if single[0] else tuple(out)

    return call


def prepare() -> None:
    """Put what inductor's modules call in place of a driver's; again does nothing."""
    import torch._inductor.runtime.triton_helpers as helpers
    import torch._inductor.runtime.triton_heuristics as heuristics

    if getattr(heuristics.CachingAutotuner.run, "__wrapped__", None) is None:
        replaced.put(heuristics.CachingAutotuner, "run", replaced.function, launch)
        replaced.put(heuristics.CachingAutotuner, "precompile", replaced.function, lambda tuner, *args, **kwargs: None)
        replaced.put(helpers, "set_driver_to_gpu", replaced.function, lambda: None)


def launch(tuner: Any, *args: Any, stream: Any = None, **kwargs: Any) -> Any:
    """CachingAutotuner.run: its first configuration, by Triton's own launch."""
    config = tuner.configs[0]
    args, grid = tuner._interpret_args_grid(args, config)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return tuner.fn[grid](*args, **kwargs, **config.kwargs, **options)


def put_all() -> None:
    if HEURISTICS in sys.modules:
        prepare()
