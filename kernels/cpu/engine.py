"""The compiled engine, from Python: where a model's tensors lie, what a call brings, and the logits it asks for.

It computes on tensors in place: weights and caches of torch, on the CPU, in their own dtypes; it keeps no copy of them.
Nothing here imports Numba: the machine code is loaded from a file, or compiled by machine_code.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from .job import CALL, JOB, LAYER, SPLIT_LEN, phases, scratch_bytes
from .machine_code import Variant, load
from .team import TEAM

AT_ONCE = 1024  # tokens of one pass: a longer call is several, so its scratch memory stays small
CACHE_LINE = 64  # bytes
KEPT = 2**22  # bytes of memory that a call leaves to the next
ALONE = 8e6  # products of one pass that a thread computes before others have woken up


@dataclass(frozen=True)
class Sizes:
    """A model's numbers, in the checkpoint's names."""

    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_vocab: int
    eps: float
    exact_gelu: bool

    @property
    def products(self) -> int:
        """Multiplications of a token, without its attention and logits."""
        return self.n_layer * self.n_embd * (4 * self.n_embd + 2 * self.n_inner)


@dataclass(frozen=True)
class Slots:
    """A cache as the engine reads it.

    k, v              per layer (pages, n_head, page, head_dim), contiguous; of a static cache, a page per sequence
    k_scale, v_scale  per layer (pages, n_head, page) float32 where k and v are int8, else empty
    table             (batch, max_pages) int32
    """

    k: Sequence[torch.Tensor]
    v: Sequence[torch.Tensor]
    k_scale: Sequence[torch.Tensor]
    v_scale: Sequence[torch.Tensor]
    table: torch.Tensor

    @cached_property
    def addresses(self) -> np.ndarray:
        """(n_layer, 4): of k, v and their scales, 0 without."""
        found = np.zeros((len(self.k), 4), np.int64)
        for column, tensors in enumerate((self.k, self.v, self.k_scale, self.v_scale)):
            found[: len(tensors), column] = [x.data_ptr() for x in tensors]
        return found


class Engine:
    """The layers of one model, compiled for its dtypes.

    weight  "float64", "float32", "float16", "bfloat16" or "int8"; sums are float32, those of a float64 model float64
    param   the dtype of LayerNorms, biases and positions
    cache   the dtype of keys and values, as for weight
    """

    def __init__(self, sizes: Sizes, weight: str, param: str, cache: str):
        self.sizes, self.variant = sizes, Variant(weight, param, cache, "float64" if param == "float64" else "float32")
        self.run = load(self.variant)
        self.sum = getattr(torch, self.variant.total)
        self.layers = np.zeros((sizes.n_layer, len(LAYER)), np.int64)
        self.head = np.zeros(3, np.int64)
        self.spare: list[np.ndarray] = []
        self.template = np.zeros(1, JOB)
        known = {name: getattr(sizes, name) for name in ("n_layer", "n_head", "n_embd", "n_inner", "n_vocab", "eps")}
        known |= {"head_dim": sizes.n_embd // sizes.n_head, "exact_gelu": sizes.exact_gelu}
        known |= {"int8_weights": weight == "int8", "int8_cache": cache == "int8"}
        known |= {"layers": self.layers.ctypes.data, "head": self.head.ctypes.data}
        for name, value in known.items():
            self.template[name] = value

    def bind(self, layers: np.ndarray, rest: Mapping[str, int], head: tuple[int, int]):
        """Say where the model's tensors lie.

        layers  (n_layer, len(LAYER)) the addresses of LAYER, 0 for a scale that is not there
        rest    those of wte, wte_scale, wpe, ln_f and ln_f_bias;  head: those of its weight and scale

        A weight is (n_out, n_in), contiguous: one output's inputs after another. int8 has float32 scales (n_out,).
        """
        self.layers[:] = layers
        self.head[:2] = head
        for name, address in rest.items():
            self.template[name] = address

    def forward(self, ids, sequences, slots, output_rows, cache: Slots) -> torch.Tensor:
        """The logits of some of the new tokens, all of whose keys and values are written to the cache.

        ids, sequences, slots  (rows,) int64 arrays: each token, its sequence and its slot; a sequence's are in order
        output_rows            (outputs,) int64, increasing: rows whose logits are wanted
        returns                (outputs, n_vocab) float32, or float64 for a float64 model
        """
        assert all(array.dtype == np.int64 for array in (ids, sequences, slots, output_rows)), "not int64"
        logits = torch.empty(len(output_rows), self.sizes.n_vocab, dtype=self.sum)
        if len(ids) <= AT_ONCE:
            self.pass_on(ids, sequences, slots, output_rows, logits, cache)
            return logits
        done = 0
        for low in range(0, len(ids), AT_ONCE):
            part = slice(low, low + AT_ONCE)
            wanted = output_rows[(output_rows >= low) & (output_rows < low + AT_ONCE)] - low
            self.pass_on(ids[part], sequences[part], slots[part], wanted, logits[done:], cache)
            done += len(wanted)
        return logits

    def pass_on(self, ids, sequences, slots, output_rows, logits, cache: Slots):
        """One pass of at most AT_ONCE tokens."""
        rows, outputs, sizes = len(ids), len(output_rows), self.sizes
        work = rows * sizes.products + outputs * sizes.n_embd * sizes.n_vocab
        threads = 1 if work < ALONE else torch.get_num_threads()
        tokens = [address_of(array) for array in (ids, sequences, slots, output_rows)]
        self.start(rows, outputs, cache, 0, tokens, logits.data_ptr(), threads)

    def attend(self, q, sequences, slots, cache: Slots, k_new=None, v_new=None) -> torch.Tensor:
        """The attention of the cache's first layer alone: append the new rows, if any came, and let queries attend.

        q, k_new, v_new   (rows, n_head, head_dim)
        sequences, slots  (rows,) int64 arrays: a query sees the slots up to its own, into which its new row goes
        returns           (rows, n_head, head_dim) float32, or float64 for a float64 model
        """
        wide = torch.stack([q, *((q, q) if k_new is None or v_new is None else (k_new, v_new))], 1)
        wide = wide.to(self.sum).contiguous()
        out = torch.empty(q.shape, dtype=self.sum)
        tokens = [0, address_of(sequences), address_of(slots), 0]
        given = {"normed": out.data_ptr(), "wide": wide.data_ptr()}
        self.start(len(q), 0, cache, 1 if k_new is None else 2, tokens, 0, torch.get_num_threads(), given)
        return out

    def start(
        self, rows: int, outputs: int, cache: Slots, only_attention: int, tokens, logits, threads: int, given=None
    ):
        """Run a job.

        tokens, logits   addresses: of the arrays of a call, in the order of CALL, and of where its logits go
        given            addresses of what CALL names, in place of memory that is found here
        """
        sizes, size = self.sizes, self.sum.itemsize
        page, max_pages = cache.k[0].shape[2], cache.table.shape[1]
        splits = -(-page * max_pages // SPLIT_LEN)
        own = scratch_bytes(sizes.n_embd // sizes.n_head, splits, size)
        parts = [rows * sizes.n_embd, rows * sizes.n_embd, rows * max(3 * sizes.n_embd, sizes.n_inner)]
        memory, counters = self.memory(own * threads + size * sum(parts)), phases(sizes.n_layer)
        scratch = address_of(memory)
        x, normed, wide = (scratch + own * threads + size * sum(parts[:i]) for i in range(3))
        job = self.template.copy()
        job.view(np.int64)[-len(CALL.split()) :] = [
            rows, outputs, page, max_pages, splits, only_attention, threads, *tokens, address_of(cache.addresses),
            cache.table.data_ptr(), x, normed, wide, logits, scratch, own, address_of(counters),
        ]  # fmt: skip
        for name, address in (given or {}).items():
            job[name] = address
        TEAM.run(self.run, job, counters, threads)
        if memory.nbytes <= KEPT:
            self.spare = [memory]

    def memory(self, nbytes: int) -> np.ndarray:
        """Memory that no other call has, from the call before if that is large enough; it starts a cache line.

        Else every second vector of a row lies in two lines: products of 24 rows took a fifth longer, or more (AVX2).
        """
        try:
            found = self.spare.pop()
        except IndexError:  # none, or another thread has it
            found = None
        if found is None or found.nbytes < nbytes:
            found = np.empty(nbytes + CACHE_LINE, np.uint8)
            found = found[-address_of(found) % CACHE_LINE :]
        return found


def address_of(array: np.ndarray) -> int:
    """Where an array's numbers lie; a tenth of the time of array.ctypes.data."""
    return array.__array_interface__["data"][0]
