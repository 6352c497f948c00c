"""Bugs planted in a running torch model, and taken out again: `with fault.inject(model):` makes its decoding wrong.

reference/judge/faults has more of them, with pages and 8 bits; `in_torch` brings its attention
faults here. A model that shares its modules with the injected one (`with_impl`) shares what is planted in them; naive,
which recomputes everything, stays right under all that only a cache can show.
"""

import numpy as np
import torch

from ....reference.judge.faults import Fault
from . import decode, model, prefill
from .planting import TorchFault, in_decode, planted


def in_torch(fault: Fault) -> TorchFault:
    """An "attention" fault of reference/judge/faults as the decode step of a torch model: `step_` and its name.

    K and V share a layout here, so that `strides_swapped` stays invisible. Raises ValueError for another kind.
    """
    if fault.kind != "attention":
        raise ValueError(f"{fault.name} is a {fault.kind} fault; only an attention fault is a decode step by itself")

    def step(q, k, v, cache, layer, slots, attend):
        cache.write(layer, slots, k, v)
        arrays = [a.detach().double().cpu().numpy() for a in (q, cache.k[layer], cache.v[layer])]
        with np.errstate(all="ignore"):  # dead slots may hold anything
            o = fault.apply(*arrays, np.array(cache.host_lengths))
        return torch.from_numpy(np.ascontiguousarray(o)).to(q)

    plan = in_decode(step)
    return TorchFault(
        f"step_{fault.name}", "torch", lambda model: planted(plan(model)), fault.imitates, fault.link, fault.closest,
        fault.place, fault.seen_by,
    )  # fmt: skip


TORCH_FAULTS: tuple[TorchFault, ...] = tuple(
    fault for part in (decode, prefill, model) for fault in vars(part).values() if isinstance(fault, TorchFault)
)
