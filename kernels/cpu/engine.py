"""The compiled engine, from Python: where a model's tensors lie, what a call brings, and the logits it asks for.

It computes on tensors in place: weights and caches of torch, on the CPU, in their own dtypes; it keeps no copy of them.
Nothing here imports Numba: the machine code is loaded from a file, or compiled by machine_code.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from .job import JOB, LAYER, SPLIT_LEN, phases, scratch_bytes
from .machine_code import Variant, load
from .team import TEAM

AT_ONCE = 1024  # tokens of one pass: a longer call is several, so its scratch memory stays small
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

    weight  "float64", "float32", "float16", "bfloat16" or "int8"; the sums are float32, for float64 float64
    param   the dtype of LayerNorms, biases and positions
    cache   the dtype of keys and values, as for weight
    """

    def __init__(self, sizes: Sizes, weight: str, param: str, cache: str):
        self.sizes, self.variant = sizes, Variant(weight, param, cache, "float64" if param == "float64" else "float32")
        self.run = load(self.variant)
        self.sum = getattr(torch, self.variant.total)
        self.layers = np.zeros((sizes.n_layer, len(LAYER)), np.int64)
        self.head = np.zeros(3, np.int64)
        self.rest: dict[str, int] = {}

    def bind(self, layers: Sequence[Sequence[int]], rest: Mapping[str, int], head: tuple[int, int]):
        """Say where the model's tensors lie.

        layers  per layer the addresses of LAYER, 0 for a scale that is not there
        rest    those of wte, wte_scale, wpe, ln_f and ln_f_bias;  head: those of its weight and scale

        A weight is (n_out, n_in), contiguous: one output's inputs after another; int8 ones have float32 scales (n_out,).
        """
        self.layers[:] = layers
        self.head[:2], self.rest = head, dict(rest)

    def forward(self, ids, sequences, slots, output_rows, cache: Slots) -> torch.Tensor:
        """The logits of some of the new tokens, whose keys and values are written to the cache.

        ids, sequences, slots  (rows,) int64 arrays: each token, its sequence and its slot; a sequence's are in order
        output_rows            (outputs,) int64, increasing: rows whose logits are wanted
        returns                (outputs, n_vocab) float32, or float64 for a float64 model
        """
        logits = torch.empty(len(output_rows), self.sizes.n_vocab, dtype=self.sum)
        done = 0
        for low in range(0, len(ids), AT_ONCE):
            part = slice(low, low + AT_ONCE)
            wanted = output_rows[(output_rows >= low) & (output_rows < low + AT_ONCE)] - low
            into = logits[done : done + len(wanted)]
            self.pass_on(ids[part], sequences[part], slots[part], wanted, into, cache)
            done += len(wanted)
        return logits

    def pass_on(self, ids, sequences, slots, output_rows, logits, cache: Slots):
        """One pass of at most AT_ONCE tokens."""
        rows, sizes = len(ids), self.sizes
        x, normed = (torch.empty(rows, sizes.n_embd, dtype=self.sum) for _ in range(2))
        wide = torch.empty(rows, max(3 * sizes.n_embd, sizes.n_inner), dtype=self.sum)
        work = rows * sizes.products + len(output_rows) * sizes.n_embd * sizes.n_vocab
        job = self.job(rows, cache, x, normed, wide)
        for name, value in self.rest.items():
            job[name] = value
        for name, array in {"ids": ids, "sequences": sequences, "slots": slots, "output_rows": output_rows}.items():
            job[name] = array.ctypes.data
        job["outputs"], job["logits"] = len(output_rows), logits.data_ptr()
        self.start(job, 1 if work < ALONE else torch.get_num_threads())

    def attend(self, q, sequences, slots, cache: Slots, k_new=None, v_new=None) -> torch.Tensor:
        """The attention of the cache's first layer alone: append the new rows, if there are any, and let queries attend.

        q, k_new, v_new   (rows, n_head, head_dim)
        sequences, slots  (rows,) int64 arrays: a query sees the slots up to its own, into which its new row goes
        returns           (rows, n_head, head_dim) float32, or float64 for a float64 model
        """
        appends = k_new is not None
        wide = torch.stack([q, *((k_new, v_new) if appends else (q, q))], 1).to(self.sum).contiguous()
        out = torch.empty(q.shape, dtype=self.sum)
        job = self.job(len(q), cache, out, out, wide)
        job["sequences"], job["slots"] = sequences.ctypes.data, slots.ctypes.data
        job["only_attention"] = 2 if appends else 1
        self.start(job, torch.get_num_threads())
        return out

    def job(self, rows: int, cache: Slots, x, normed, wide) -> np.ndarray:
        """A job but for its tokens and weights."""
        sizes, job = self.sizes, np.zeros((), JOB)
        job["n_layer"], job["n_head"], job["n_embd"] = sizes.n_layer, sizes.n_head, sizes.n_embd
        job["n_inner"], job["n_vocab"], job["eps"] = sizes.n_inner, sizes.n_vocab, sizes.eps
        job["exact_gelu"], job["head_dim"] = sizes.exact_gelu, sizes.n_embd // sizes.n_head
        job["int8_weights"], job["int8_cache"] = self.variant.weight == "int8", self.variant.cache == "int8"
        job["rows"], job["page"], job["max_pages"] = rows, cache.k[0].shape[2], cache.table.shape[1]
        job["splits"] = -(-int(job["page"] * job["max_pages"]) // SPLIT_LEN)
        job["layers"], job["head"], job["table"] = (
            self.layers.ctypes.data,
            self.head.ctypes.data,
            cache.table.data_ptr(),
        )
        job["x"], job["normed"], job["wide"] = x.data_ptr(), normed.data_ptr(), wide.data_ptr()
        job["cache"] = cache.addresses.ctypes.data
        return job

    def start(self, job: np.ndarray, threads: int):
        """Run a job."""
        size = scratch_bytes(int(job["head_dim"]), int(job["splits"]), self.sum.itemsize)
        scratch, counters = np.empty(size * threads, np.uint8), phases(self.sizes.n_layer)
        job["scratch"], job["scratch_size"], job["threads"] = scratch.ctypes.data, size, threads
        job["phases"] = counters.ctypes.data
        TEAM.run(self.run, job, counters, threads)
