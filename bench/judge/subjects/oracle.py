"""The NumPy GPT-2 with its operations recorded, and the subject that holds one of its wrong copies against it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ....reference import model as reference_model
from ....reference.config import Config
from ..tracing.planted import planted
from ..tracing.tape import Activation

NUMPY_DTYPES = ("float64", "float32")


class NumpyTape:
    """What `capture_numpy` records: calls[layer, operation], each (B, M, ...); and the caches, in order of last use.

    Which operation a call of layer_norm, linear or mlp is follows from the order in which every forward calls them;
    what it is given may be a wrong path's own.
    """

    def __init__(self, config: Config):
        self.config = config
        self.calls: dict[tuple[int | None, str], list[np.ndarray]] = {}
        self.caches: list[Any] = []
        self.layer, self.waiting = 0, list(BLOCK)

    def record(self, layer: int | None, operation: str, value: np.ndarray):
        self.calls.setdefault((layer, operation), []).append(np.array(value, np.float64))

    def layer_norm(self, x: np.ndarray, out: np.ndarray):
        if self.layer == self.config.n_layer:
            self.record(None, "ln_f", out)
            self.layer = 0
            return
        if (self.layer, self.waiting[0]) == (0, "ln_1"):
            self.record(None, "embed", x)
        self.record(self.layer, self.waiting.pop(0), out)

    def linear(self, x: np.ndarray, out: np.ndarray):
        operation = self.waiting[0]
        if operation == "mlp":
            return  # its own two
        if operation == "c_proj":
            self.record(self.layer, "attention", self.split(x))
        self.record(self.layer, self.waiting.pop(0), self.split(out) if operation == "c_attn" else out)

    def mlp(self, x: np.ndarray, out: np.ndarray):
        self.record(self.layer, "mlp", out)
        self.layer, self.waiting = self.layer + 1, list(BLOCK)

    def split(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], -1, self.config.head_dim)

    def activations(self, logits: np.ndarray, head: np.ndarray) -> list[Activation]:
        """The tokens that logits (B, n, V) were read off, of each operation, in order of computation.

        A wrong path may run other tokens too, in any order and sequence by sequence, so its tokens are found by their
        logits, the last LayerNorm's output times head (V, E). Where none fits, they are the last n of each call's.
        """
        flat = {key: np.concatenate([x.reshape(-1, *x.shape[2:]) for x in calls]) for key, calls in self.calls.items()}
        B, n, _ = logits.shape
        known = flat[None, "ln_f"] @ head.T  # (tokens, V)
        fits = known.shape[1:] == logits.shape[2:]
        far = [np.abs(known - row).max(-1)[::-1] for row in logits.reshape(B * n, -1)] if fits else []
        if far and max(x.min() for x in far) <= 1e-4 * np.abs(logits).max():
            where = [len(known) - 1 - int(np.argmin(x)) for x in far]  # of equals the latest
            flat = {key: x for key, x in flat.items() if len(x) == len(known)}
            return [Activation(*key, x[where].reshape(B, n, *x.shape[1:])) for key, x in flat.items()]
        joined = {key: np.concatenate(calls, axis=1)[:, -n:] for key, calls in self.calls.items()}
        return [Activation(*key, x) for key, x in joined.items()]


BLOCK = ("ln_1", "c_attn", "c_proj", "ln_2", "mlp")


@contextmanager
def capture_numpy(config: Config) -> Iterator[NumpyTape]:
    """Record each operation of every NumPy forward while the context is open, but for the head's.

    The functions of reference/model.py are wrapped wherever reference/ has them by name, so a wrong path that comes by
    them is seen too. Not for two threads at once.
    """
    tape, changes = NumpyTape(config), []
    package = reference_model.__name__.rpartition(".")[0]
    modules = [module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")]
    watches = {
        name: watch(getattr(tape, name), getattr(reference_model, name)) for name in ("layer_norm", "linear", "mlp")
    }
    watches["self_attention"] = watch_cache(tape, reference_model.self_attention)
    for name, watched in watches.items():
        function = getattr(reference_model, name)
        changes += [(vars(module), name, watched) for module in modules if getattr(module, name, None) is function]
    with planted(changes):
        yield tape


def watch(see: Callable, function: Callable) -> Callable:
    def watched(x, *rest):
        out = function(x, *rest)
        see(x, out)
        return out

    return watched


def watch_cache(tape: NumpyTape, self_attention: Callable) -> Callable:
    def watched(x, p, config, layer, cache):
        tape.caches = [*(c for c in tape.caches if c is not cache), *([] if cache is None else [cache])]
        return self_attention(x, p, config, layer, cache)

    return watched


def live_slots(k: np.ndarray, v: np.ndarray, lengths: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """What a cache holds for tokens 0 .. lengths[b] - 1: keys' heads, then values'; zeros beyond.

    k, v     (B, H_kv, T, D)
    start    (B,) slot of each sequence's first token, 0 where not given
    returns  (B, max(lengths), 2 H_kv, D)
    """
    both = np.concatenate([k, v], axis=1).swapaxes(1, 2)  # (B, T, 2 H_kv, D)
    out = np.zeros((len(both), int(max(lengths)), *both.shape[2:]))
    for b, n in enumerate(lengths):
        first = 0 if start is None else int(start[b])
        out[b, :n] = both[b, first : first + n]
    return out


def cache_of(tape: NumpyTape, trace: list[Activation], n: int) -> list[Activation]:
    """Each layer's first n slots at the end, ("cache"), NaN where there are fewer.

    They come from the last cache of the trace's batch, or the last ones of its single sequences; without any, from the
    keys and values that were computed, which is what a cache should hold.
    """
    batch = len(trace[0].value)
    caches = tape.caches[-1:] if tape.caches and len(tape.caches[-1].lengths) == batch else tape.caches[-batch:]
    if sum(len(cache.lengths) for cache in caches) != batch:
        return computed(tape, batch, n)
    found = []
    for layer in range(tape.config.n_layer):
        rows = np.full((batch, n, 2 * tape.config.n_head, tape.config.head_dim), np.nan)
        held = [np.concatenate(cache.read(layer, b)) for cache in caches for b in range(len(cache.lengths))]
        for row, slots in zip(rows, held, strict=True):
            row[: slots.shape[1]] = slots[:, :n].swapaxes(0, 1)
        found.append(Activation(layer, "cache", rows))
    return found


def computed(tape: NumpyTape, batch: int, n: int) -> list[Activation]:
    """The keys and values of all n tokens as ("cache"); nothing where other tokens were computed too."""
    found = []
    for (layer, operation), calls in tape.calls.items():
        if operation == "c_attn" and {len(x) for x in calls} == {batch} and sum(x.shape[1] for x in calls) == n:
            found.append(Activation(layer, "cache", np.concatenate(calls, 1)[:, :, tape.config.n_head :]))
    return found


class NumpySubject:
    """A cached path in NumPy, such as a planted fault's, against another, by default the whole sequence at once.

    apply      (ids (B, T), params, config) -> logits (B, T, V)
    params_of  dtype -> the model's params in it
    ids        (B, T) tokens that both are fed; all T positions are compared
    trusted    like apply, what the path should give, for caches that round: such as a fault's `correct`
    """

    question = "against the oracle"
    name_b = "numpy without a cache"

    def __init__(
        self,
        name: str,
        apply: Callable,
        params_of: Callable[[str], dict],
        config: Config,
        ids: np.ndarray,
        trusted: Callable = reference_model.forward,
    ):
        self.name_a, self.apply, self.params_of, self.config, self.ids = name, apply, params_of, config, ids
        self.trusted = trusted
        self.positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        self.prefilled = (ids.shape[1] + 1) // 2  # positions that come from the prompt, as `cached_logits` cuts it

    def _params(self, dtype: str, shift: float) -> dict:
        if dtype not in NUMPY_DTYPES:
            raise NotImplementedError(f"NumPy has no arithmetic in {dtype}; it computes in float64 and float32")
        return shifted(self.params_of(dtype), shift)

    def paths(self, dtype: str, shift: float = 0.0):
        params = self._params(dtype, shift)
        return self.apply(self.ids, params, self.config), self.trusted(self.ids, params, self.config)

    def trace_one(self, which: str, dtype: str = "float64", shift: float = 0.0) -> list[Activation]:
        path, params = self.apply if which == "a" else self.trusted, self._params(dtype, shift)
        with capture_numpy(self.config) as tape:
            logits = path(self.ids, params, self.config)
        return traced(tape, logits, params, self.ids.shape[1])

    def trace(self, dtype: str = "float64") -> tuple[list[Activation], list[Activation]]:
        return self.trace_one("a", dtype), self.trace_one("b", dtype)


def traced(tape: NumpyTape, logits: np.ndarray, params: dict, n: int) -> list[Activation]:
    """The activations behind logits (B, m, V), the logits as ("head"), and a cache of n slots."""
    head = params["wte" if tape.config.tie_word_embeddings else "lm_head"]["weight"]
    trace = tape.activations(np.asarray(logits, np.float64), head.astype(np.float64))
    return [*trace, Activation(None, "head", np.asarray(logits, np.float64)), *cache_of(tape, trace, n)]


def shifted(params: dict, shift: float) -> dict:
    """params with the token embedding times 1 + shift, in its own dtype."""
    wte = params["wte"]["weight"]
    return params | {"wte": {"weight": wte * wte.dtype.type(1 + shift)}} if shift else params
