"""Streams and events that have nothing to wait for: every launch has ended when it returns."""

import itertools
import warnings
from typing import Any

import torch

from .places import is_gpu, pretence

_numbers = itertools.count(1)


def done(self: Any, *other: Any, **named: Any) -> None:
    """What waits, or marks a place to wait for."""


class Stream:
    """torch.cuda.Stream: what runs on it has run."""

    device_index, device_type = 0, 1

    def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any):
        if device is not None:
            is_gpu(device)
        self.stream_id = self.cuda_stream = kwargs.get("stream_id", next(_numbers))
        self.device, self.priority, self._before = torch.device("cuda", 0), priority, []

    @classmethod
    def default(cls) -> "Stream":
        return cls(stream_id=0)

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return 0, -5

    @property
    def native_handle(self) -> int:
        return self.cuda_stream

    @property
    def _as_parameter_(self) -> Any:
        import ctypes

        return ctypes.c_void_p(self.cuda_stream)

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False

    synchronize = wait_event = wait_stream = done

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def __enter__(self) -> "Stream":
        self._before.append(pretence().stream)
        pretence().stream = self
        return self

    def __exit__(self, *error: object) -> None:
        pretence().stream = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.stream_id == self.stream_id

    def __hash__(self) -> int:
        return hash(self.stream_id)

    def __repr__(self) -> str:
        return f"<pretended torch.cuda.Stream device=cuda:0 cuda_stream={self.cuda_stream:#x}>"


class ExternalStream(Stream):
    """torch.cuda.ExternalStream: one that other code made."""

    def __init__(self, stream_ptr: int, device: Any = None, **kwargs: Any):
        super().__init__(device, stream_id=stream_ptr)


class Event:
    """torch.cuda.Event: what it marks has happened."""

    device, cuda_event, event_id = torch.device("cuda", 0), 0, 0

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def query(self) -> bool:
        return True

    record = wait = synchronize = done

    def elapsed_time(self, end: "Event") -> float:
        return untimed("Event.elapsed_time")


def untimed(what: str) -> float:
    """The time of anything, 0.0 ms, with a warning that it is none."""
    warnings.warn(f"{what} measures nothing on a pretended GPU: it answers 0.0 ms", RuntimeWarning, stacklevel=4)
    return 0.0
