"""A kernel under triton.autotune: its first configuration, or all of them, which must agree.

Configurations are those that pruning leaves and the target takes; those of clusters, which the machine does not run,
are passed over with a warning. Nothing is timed. A configuration's pre_hook runs, as Triton runs it in every launch.
What it runs around the launches that it times does not: the tuner's post_hook, and its pre_hook but for reset_only=True
before the first launch of each key, where arrays of reset_to_zero become zero. What was launched is known to one route:
in the next one, and in the next `run`, a launch is the first again, where in one process on a GPU it would go on adding
up. The tuner's best_config is the last launch's, also after the route.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from triton.compiler.errors import CompileTimeAssertionFailure
from triton.runtime.errors import OutOfResources

from .compile import instrumentation
from .differences import copied, difference, named_arrays, put, rounding
from .errors import ConfigDependent, PtxError, Refused
from .reachable import buffer, reached
from .settings import Tuning

try:
    from triton.runtime.errors import PTXASError
except ImportError:  # in a Triton that has none
    PTXASError = OutOfResources

LEFT_OUT = (OutOfResources, CompileTimeAssertionFailure, PTXASError)  # what Triton's tuner takes for "too slow"
chosen: ContextVar[Any] = ContextVar("chosen", default=None)  # the triton.Config of the launch that is under way
# Of it, by array, which elements the kernel wrote, as bools: filled by the launch; None where nobody asks.
written: ContextVar[dict[str, np.ndarray] | None] = ContextVar("written", default=None)


class Launched(NamedTuple):
    """What one route knows of its launches of autotuned kernels.

    keys    tuner -> the keys it was launched with: the tuner itself, since the id of one that is gone is given again
    arrays  names of all arrays that came
    """

    keys: WeakKeyDictionary
    arrays: set[str]

    def first(self, tuner: Any, given: dict[str, Any]) -> bool:
        """Whether a launch is the first of its key; it is noted."""
        dtypes = (str(x.dtype) for x in given.values() if hasattr(x, "dtype"))
        key, keys = (*(given.get(k) for k in tuner.keys), *dtypes), self.keys.setdefault(tuner, set())
        new = key not in keys
        keys.add(key)
        return new


class Tuned(NamedTuple):
    """One launch of an autotuned kernel."""

    tuner: Any
    given: dict[str, Any]  # parameters by name, as they came
    configs: list
    launch: Callable[..., Any]  # of a configuration's keywords
    first: bool  # of its key

    def each(self) -> Iterator[tuple[Any, Callable[[], Any]]]:
        """Every configuration, and what launches it and returns what the launch does.

        One of clusters is passed over if there are others. Raises Refused if the launch names what they set.
        """
        clusters = [config for config in self.configs if config.all_kwargs().get("num_ctas", 1) != 1]
        for config in self.configs:
            asked = config.all_kwargs()
            if config in clusters and len(clusters) < len(self.configs):
                what = f"the configuration {config} of {self.tuner.base_fn.__name__} is passed over"
                warnings.warn(f"{what}: the machine runs no thread block clusters", RuntimeWarning, stacklevel=2)
                continue
            if clash := sorted(set(asked) & set(self.given)):
                name = self.tuner.base_fn.__name__
                what = f"{clash[0]}= came with a launch of {name}, whose configurations set it"
                raise Refused(f"{what}: leave it out, or launch {name}.fn")
            yield config, lambda config=config, asked=asked: self.run(config, asked)

    def run(self, config: Any, asked: dict[str, Any]) -> Any:
        everything = self.given | asked
        if config.pre_hook is not None:
            config.pre_hook(everything)
        if self.first and len(self.configs) > 1:
            self.tuner.pre_hook(everything, reset_only=True)
        token = chosen.set(config)
        try:
            return self.launch(**asked)
        finally:
            chosen.reset(token)


class Result(NamedTuple):
    """What one configuration left."""

    config: Any
    values: dict[str, np.ndarray]  # by array, the bits
    written: dict[str, np.ndarray]  # by array, which elements it wrote; {} without checks
    left: Any  # what the launch returned

    def alone(self, other: "Result", name: str) -> np.ndarray | bool:
        """Which elements one of two wrote and the other did not."""
        known = name in self.written and name in other.written
        return known and self.written[name] != other.written[name]


def run_tuned(
    tuner: Any, launch: Callable[..., Any], args: tuple, kwargs: dict[str, Any], launched: Launched, tuning: Tuning,
    reachable: Any = None,
) -> Any:  # fmt: skip
    """Launch one configuration of `tuner`, or all, and return what `launch(*args, **kwargs)` does, of the first.

    launched   what the route has launched; this launch is added
    reachable  as in Settings

    Raises Refused if the launch names what the configurations set; ConfigDependent if they disagree; what `launch`
    raises, where one of several leaves a fault, or none fits the target.
    """
    given = dict(zip(tuner.arg_names, args, strict=False)) | kwargs
    tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
    try:
        configs = tuner.prune_configs(kwargs) if len(tuner.configs) > 1 else tuner.configs
        launched.arrays.update(name for x, value in given.items() for name, _ in named_arrays(x, value))
        first = launched.first(tuner, given)
        tuned = Tuned(tuner, given, configs, lambda **asked: launch(*args, **kwargs, **asked), first)
        if tuning.autotune == "all" and len(configs) > 1:
            return run_all(tuned, tuning.tolerance or {}, reachable)
        return run_first(tuned)
    finally:
        tuner.nargs = None


def run_first(tuned: Tuned) -> Any:
    failure = None
    for config, run in tuned.each():
        try:
            left = run()
        except LEFT_OUT as error:
            failure = failure or error
            continue
        tuned.tuner.best_config = config
        return left
    assert failure is not None
    raise failure


def run_all(tuned: Tuned, tolerance: Any, reachable: Any) -> Any:
    """Run every configuration from the arrays as they came; they are left as the first leaves them."""
    arrays = dict(pair for name, value in tuned.given.items() for pair in named_arrays(name, value))
    buffers = [buffer(name, value) for name, value in arrays.items()]
    others = reached(buffers, reachable)  # which are restored; what they hold is not known to be numbers
    memory: dict[str, Any] = dict((*buffers, *others))
    came, usual, failure = copied(memory), None, None
    exact = "fpsan" in (tuned.given.get("instrumentation_mode") or instrumentation())
    try:
        for config, run in tuned.each():
            put(memory, came)
            token = written.set(wrote := {})
            try:
                left = run()
            except LEFT_OUT as error:
                failure = failure or error
                continue
            except PtxError as error:
                error.args = (f"{error}; with the configuration {config}", *error.args[1:])
                raise
            finally:
                written.reset(token)
            now = Result(config, copied(memory), wrote, left)
            if usual is None:
                usual = now
                tuned.tuner.best_config = config
            for name, like in arrays.items():
                agree(name, like, usual, now, tolerance, exact)
    finally:
        if usual is not None:
            put(memory, usual.values)
    if usual is None:
        assert failure is not None
        raise failure
    return usual.left


def agree(name: str, like: Any, one: Result, other: Result, tolerance: Any, exact: bool = False) -> None:
    """Raise ConfigDependent unless two configurations left an array alike, but for rounding or the tolerance.

    An element that one of them alone wrote is none of rounding, unless a tolerance is named.

    exact  whether the values are payloads of fpsan's ring: no floats, in which all orders of a sum are alike, so that
           only an infinite tolerance means anything
    """
    allowed = tolerance.get(name, rounding(like))
    if exact and allowed != math.inf:
        allowed = None
    alone = name not in tolerance and one.alone(other, name)
    found = difference(name, like, one.values[name], other.values[name], allowed, alone)
    if found is None:
        return
    why = "" if name in tolerance or allowed is None else f", where another order of sums explains {allowed:.2g}"
    why += ", unless terms cancel" if why else ""
    words = [f"{value} with {result.config}" for value, result in ((found.one, one), (found.other, other))]
    if found.alone:
        words[not one.written[name][found.at]] += ", which alone writes it"
        why = ""
    raise ConfigDependent(
        f"{found.place} depends on the configuration: {words[0]}, and {words[1]}; "
        f"{found.count}{why}. Where that is right, as of partial sums for each block or large terms that cancel, allow "
        f"it: tolerance={{{name!r}: ...}}"
    )
