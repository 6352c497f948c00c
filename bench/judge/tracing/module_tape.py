"""The results of any torch modules, recorded by hooks on all modules, by their names in the model.

tape.py knows the operations of two families by name; here an operation is a module, and its name its path. A
module counts whose result holds one row per token, (B, M, ...), whenever the model is run.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from .tape import Activation

# Which tokens of a path's runs are compared: all, each run's last, or the last n of all.
ALIGNMENTS = (("all", "all"), ("last", "last"), ("last", "end"), ("end", "last"), ("end", "end"))


class ModuleTape:
    """The calls of every module that runs.

    roots  models whose modules are named by their paths; empty: whatever module is called from outside all others
    ids    the tokens of each run, (B, M) int64
    calls  path of a module -> its results, one per call, (B, M, ...) float64; in order of computation
    """

    def __init__(self, roots: Sequence[nn.Module] = ()):
        self.names = {id(part): name or type(root).__name__ for root in roots for name, part in root.named_modules()}
        self.roots = {id(root) for root in roots}
        self.calls: dict[str, list[np.ndarray]] = {}
        self._ids: dict[str, list[np.ndarray]] = {}  # by the module that was given them
        self._depth = 0
        self._outermost: list[nn.Module] = []  # kept, so that no two have one id

    def enter(self, module: nn.Module, args: tuple) -> None:
        if not self._depth and not any(module is seen for seen in self._outermost):
            self._outermost.append(module)
        if not self._depth and not self.roots:
            self.names = {id(part): name or type(module).__name__ for name, part in module.named_modules()}
        self._depth += 1

    def leave(self, module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        self._depth -= 1
        name, value = self.names.get(id(module)), tensor_of(out)
        if name is None or out is None:  # another model's, or one that raised
            return
        ids = tokens_of((*args, kwargs.get("input_ids"), *kwargs.values()))
        if ids is not None:
            whole = id(module) in self.roots if self.roots else not self._depth
            self._ids.setdefault("" if whole else name, []).append(ids)
        if value is not None and value.ndim > 1:
            self.calls.setdefault(name, []).append(value.detach().to("cpu", torch.float64, copy=True).numpy())

    @property
    def nameless(self) -> bool:
        """Whether parts of a model were run by themselves, whose names nobody gave."""
        return not self.roots and len(self._outermost) > 1

    @property
    def ids(self) -> list[np.ndarray]:
        """Those of the outermost module; where it was given none, of the first that was: the embedding."""
        return self._ids.get("") or next(iter(self._ids.values()), [])

    def each_token(self) -> dict[str, list[np.ndarray]]:
        """The calls of each module that gave a row of one shape for each token of every run."""
        sizes = [x.shape for x in self.ids]
        return {
            name: calls
            for name, calls in self.calls.items()
            if [x.shape[:2] for x in calls] == sizes and len({x.shape[2:] for x in calls}) == 1
        }

    def activations(self, which: str, n: int) -> list[Activation]:
        """(B, n', ...) of those modules, in order of computation; `which` as in ALIGNMENTS."""
        return [Activation(None, name, tokens(calls, which, n)) for name, calls in self.each_token().items()]


class Columns:
    """A tape of modules, of whose calls some rows and tokens count, said by `at` before each."""

    def __init__(self, tape: ModuleTape):
        self.tape = tape
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []

    def at(self, rows: np.ndarray, positions: torch.Tensor):
        """Of the next call, keep these rows (B,) and of each the tokens at positions (B, n)."""
        self.kept.append((rows, positions.numpy()))

    def activations(self) -> list[Activation]:
        """(B, n', ...) of the modules that gave a row for each token of every run, in order of computation."""
        found = []
        for name, calls in self.tape.each_token().items():
            kept = [x[rows[:, None], columns] for x, (rows, columns) in zip(calls, self.kept, strict=True)]
            found.append(Activation(None, name, np.concatenate(kept, 1)))
        return found


def tokens(calls: Sequence[np.ndarray], which: str, n: int) -> np.ndarray:
    """The tokens of runs (B, M, ...) that are compared."""
    if which == "last":
        calls = [x[:, -1:] for x in calls]
    joined = np.concatenate(calls, axis=1)
    return joined[:, -n:] if which == "end" else joined


def places(calls: Sequence[np.ndarray], which: str, n: int) -> np.ndarray:
    """The positions of those tokens; runs that grow by a token each are prefixes of one sequence, others its parts."""
    sizes = np.array([x.shape[1] for x in calls])
    if which == "last":
        prefixes = len(sizes) > 1 and (sizes > 1).all()
        return (sizes if prefixes else sizes.cumsum()) - 1
    return np.arange(sizes.sum())[-n:] if which == "end" else np.arange(sizes.sum())


def align(a: ModuleTape, b: ModuleTape, n: int) -> tuple[str, str, np.ndarray]:
    """(which tokens of a, which of b, their positions (B, n')), by the first of ALIGNMENTS that gives equal token ids.

    n  positions of the logits

    Raises ValueError where no modules were run, or on tokens that do not go together.
    """
    for tape, name in ((a, "first"), (b, "second")):
        if tape.nameless:
            raise ValueError(
                f"the {name} function runs {len(tape._outermost)} torch modules by themselves; name the model that "
                "they are parts of by --module MODULE:OBJECT"
            )
        if not tape.ids:
            raise ValueError(f"the {name} function ran no torch module that was given token ids (B, M)")
    for which_a, which_b in ALIGNMENTS:
        try:
            ids_a, ids_b = tokens(a.ids, which_a, n), tokens(b.ids, which_b, n)
        except ValueError:  # runs of other batches
            continue
        if ids_a.shape == ids_b.shape and (ids_a == ids_b).all():
            side, which = (b, which_b) if which_b == "end" else (a, which_a)
            return which_a, which_b, np.broadcast_to(places(side.ids, which, n), ids_a.shape)
    sizes = [[x.shape for x in tape.ids][:4] for tape in (a, b)]
    raise ValueError(f"the functions ran their modules on other tokens, {sizes[0]} and {sizes[1]} at first")


@contextmanager
def capture_modules(roots: Sequence[nn.Module] = ()) -> Iterator[ModuleTape]:
    """Record the results of every torch module that runs while the context is open; none of them is changed."""
    tape = ModuleTape(roots)
    with ExitStack() as undo:
        undo.callback(register_module_forward_pre_hook(tape.enter).remove)
        undo.callback(register_module_forward_hook(tape.leave, with_kwargs=True, always_call=True).remove)
        yield tape


def tensor_of(out: Any) -> torch.Tensor | None:
    """The floats that a module gives: its result, the first of several, or an output object's logits or first field."""
    if isinstance(out, dict):
        out = [out["logits"]] if "logits" in out else list(out.values())
    if isinstance(out, (tuple, list)):
        out = next((x for x in out if isinstance(x, torch.Tensor)), None)
    return out if isinstance(out, torch.Tensor) and out.is_floating_point() else None


def tokens_of(given: tuple) -> np.ndarray | None:
    """The first of a module's arguments that can be token ids: integers (B, M)."""
    for x in given:
        if isinstance(x, torch.Tensor) and x.ndim == 2 and x.dtype in (torch.int64, torch.int32):
            return x.detach().cpu().numpy()
    return None
