"""Where storages are: those that are copied, saved, loaded, or sent by another process.

What was saved inside a route of a tensor on the GPU says cuda:0 in the file, as a GPU's does; torch.load takes it
outside with map_location="cpu". A storage itself says that it is on the CPU, which it is.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from . import replaced
from .places import GPU, HOST, PINNED, faking, is_gpu, note_storage, place_of


def put_all() -> None:
    method = functools.partial(replaced.around, where=lambda self, *_: self.device.type == "cpu" and not faking())
    for name in ("to", "cuda", "clone"):
        replaced.put(torch.UntypedStorage, name, method, globals()[f"storage_{name}"])
    replaced.put(torch.serialization, "location_tag", replaced.around, location_tag)
    replaced.put(torch.serialization, "_get_restore_location", replaced.around, restore_location)
    replaced.put(torch.multiprocessing.reductions, "rebuild_tensor", replaced.around, rebuild_tensor)


def storage_to(usual: Any, self: Any, *, device: Any, non_blocking: bool = False) -> Any:
    if not is_gpu(device):
        return usual(self, device=device, non_blocking=non_blocking)
    return self if place_of(self._cdata) == GPU else copied(self, GPU)


def storage_cuda(usual: Any, self: Any, device: Any = None, non_blocking: bool = False) -> Any:
    return storage_to(usual, self, device="cuda" if device is None else device)


def storage_clone(usual: Any, self: Any) -> Any:
    return copied(self, place_of(self._cdata))


def untyped(storage: Any) -> Any:
    """The storage within a torch.TypedStorage, which warns when it is asked for more."""
    return getattr(storage, "_untyped_storage", storage)


def copied(storage: Any, where: str) -> Any:
    new = type(storage)(storage.nbytes(), device="cpu").copy_(storage)
    note_storage(new, where)
    return new


def location_tag(usual: Callable[..., str], storage: Any) -> str:
    """The device that torch.save writes."""
    found = usual(storage)
    return "cuda:0" if found == "cpu" and place_of(untyped(storage)._cdata) not in (HOST, PINNED) else found


def restore_location(usual: Callable[..., Any], map_location: Any) -> Callable[..., Any]:
    """What torch.load does with each storage: read to the host, and from there to where map_location says."""
    inner = usual(map_location)

    def restore(storage, location):
        if (memory := untyped(storage)).device.type == "cpu" and not faking():
            note_storage(memory, HOST)
        return inner(storage, location)

    return restore


def rebuild_tensor(usual: Callable[..., Any], cls: Any, storage: Any, metadata: Any) -> Any:
    """A tensor in shared memory that another process sent, as a DataLoader's workers do: the host's."""
    if (memory := untyped(storage)).device.type == "cpu":
        note_storage(memory, HOST)
    return usual(cls, storage, metadata)
