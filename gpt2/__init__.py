"""GPT-2 in PyTorch, with a static KV cache and a decode step computed by the impl you choose."""

import sys

from .cli.interrupt import quiet_ctrl_c, runs_main, starting

with quiet_ctrl_c(starting(sys.argv[0]), on=runs_main()):  # torch takes seconds to import
    from ..reference.config import Config, ConfigError, ContextFull
    from ..reference.weights import CheckpointError
    from .cache import CacheMismatch, StaticCache
    from .generate import Completion, generate
    from .model import GPT2
    from .tokenizer import Tokenizer
    from .weights import load

__all__ = [
    "GPT2",
    "CacheMismatch",
    "CheckpointError",
    "Completion",
    "Config",
    "ConfigError",
    "ContextFull",
    "StaticCache",
    "Tokenizer",
    "generate",
    "load",
]
