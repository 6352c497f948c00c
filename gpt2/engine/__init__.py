"""Many requests through one model, each with the bytes of its lone run: continuous batching over a paged cache."""

from .engine import Engine
from .lookup import Drafter
from .request import Event, Request, Result

__all__ = ["Drafter", "Engine", "Event", "Request", "Result"]
