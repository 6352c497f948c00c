"""The configuration of a kernel under triton.autotune: the first that pruning leaves and the target takes.

Nothing is timed. The launch's hooks run, and arrays of reset_to_zero become zero before the first launch of each key.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from triton.compiler.errors import CompileTimeAssertionFailure
from triton.runtime.errors import OutOfResources

from .errors import Refused

try:
    from triton.runtime.errors import PTXASError
except ImportError:  # in a Triton that has none
    PTXASError = OutOfResources

LEFT_OUT = (OutOfResources, CompileTimeAssertionFailure, PTXASError)  # what Triton's tuner takes for "too slow"
chosen: ContextVar[Any] = ContextVar("chosen", default=None)  # the triton.Config of the launch that is under way


def run_tuned(tuner: Any, launch: Callable[..., Any], args: tuple, kwargs: dict[str, Any], seen: set) -> Any:
    """Launch one configuration of `tuner` and return what `launch(*args, **kwargs)` does.

    seen  the tuners and keys that were launched before; a new one is added

    Raises Refused if the launch names what the configurations set; what `launch` raises if no configuration fits.
    """
    name = tuner.base_fn.__name__
    given = dict(zip(tuner.arg_names, args, strict=False)) | kwargs
    tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
    try:
        configs = tuner.prune_configs(kwargs) if len(tuner.configs) > 1 else tuner.configs
        dtypes = (str(x.dtype) for x in given.values() if hasattr(x, "dtype"))
        key = (id(tuner), *(given.get(k) for k in tuner.keys), *dtypes)
        first, failure = key not in seen, None
        seen.add(key)
        for config in configs:
            asked = config.all_kwargs()
            if clash := sorted(set(asked) & set(given)):
                what = f"{clash[0]}= came with a launch of {name}, whose configurations set it"
                raise Refused(f"{what}: leave it out, or launch {name}.fn")
            everything = given | asked
            if config.pre_hook is not None:
                config.pre_hook(everything)
            if first and len(configs) > 1:
                tuner.pre_hook(everything, reset_only=True)
            token = chosen.set(config)
            try:
                left = launch(*args, **kwargs, **asked)
            except LEFT_OUT as error:
                failure = failure or error
                continue
            finally:
                chosen.reset(token)
            tuner.best_config = config
            return left
        assert failure is not None
        raise failure
    finally:
        tuner.nargs = None
