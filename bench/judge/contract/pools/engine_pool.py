"""The adapter of the pool contract for our request engine, below its scheduler: block manager, paged memory, runner."""

from itertools import count

import numpy as np
import torch

from .....gpt2.engine.blocks import BlockManager
from .....gpt2.engine.runner import RUNNERS
from .....gpt2.engine.scheduler import Sequence, Span
from .....gpt2.model import GPT2

MANY = 8  # sequences of one pass at most


class EnginePool:
    """A model of impl "numba", or "triton" with invariant=True, with the engine's blocks.

    other  a model of the same shape and impl, whose weights change_weights() goes on with; None: they do not change

    Preemption frees the blocks, as the engine's does: on resume what is not known any more is computed again. A fork
    takes the full blocks by content and computes the rest again: the engine has no other.
    """

    batch_invariant = True

    def __init__(self, model: GPT2, blocks: int = 40, page: int = 4, other: GPT2 | None = None, kv_dtype=None):
        self.dtype, self.other, self.page = model.dtype, other, page
        self.runner = RUNNERS[model.impl](model, MANY, page, blocks, kv_dtype)
        self.blocks = BlockManager(blocks, page, self.runner.copy)
        self.numbers = count()
        self.found: dict[Sequence, int] = {}  # how many tokens the blocks of each sequence were found to hold

    def start(self, ids: list[int]):
        sequence = Sequence(next(self.numbers), list(ids), len(ids))
        try:
            return sequence, self.resume(sequence)
        except MemoryError:
            del self.found[sequence]
            raise

    def resume(self, sequence: Sequence) -> torch.Tensor:
        sequence.table = self.blocks.take(sequence.tokens)
        self.found[sequence] = sequence.table.kept
        try:
            return self.compute([sequence])[0]
        except MemoryError:
            self.evict(sequence)
            raise

    def compute(self, sequences: list[Sequence]) -> torch.Tensor:
        """Blocks for all tokens that are pending, and one pass over them -> (n, V) logits."""
        for i, sequence in enumerate(sequences):
            if not self.blocks.grow(sequence.table, len(sequence.tokens)):
                for other in sequences[:i]:
                    self.blocks.cut(other.table, other.table.kept)
                raise MemoryError(f"{len(sequence.tokens)} tokens do not fit {self.blocks.free} free blocks")
        spans = [Span(s, s.table.kept, s.tokens[s.table.kept :], 0, True) for s in sequences]
        logits = self.runner.forward(spans)
        for sequence in sequences:
            self.blocks.keep(sequence.table, sequence.tokens)
        return logits

    def extend(self, sequence: Sequence, ids: list[int]):
        return self.extend_all([sequence], [ids])[0]

    def extend_all(self, sequences: list[Sequence], pieces: list[list[int]]):
        for sequence, ids in zip(sequences, pieces, strict=True):
            sequence.tokens += ids
        try:
            return self.compute(sequences)
        except MemoryError:
            for sequence, ids in zip(sequences, pieces, strict=True):
                del sequence.tokens[len(sequence.tokens) - len(ids) :]
            raise

    def crop(self, sequence: Sequence, n: int):
        if not self.blocks.cut(sequence.table, n):
            raise MemoryError("no block is free for the copy of one that is cut")
        del sequence.tokens[n:]

    def fork(self, sequence: Sequence) -> Sequence:
        return self.start(sequence.tokens)[0]

    def evict(self, sequence: Sequence):
        self.blocks.release(sequence.table)

    def free(self, sequence: Sequence):
        self.evict(sequence)
        del self.found[sequence]

    def reset(self):
        for sequence in list(self.found):
            self.free(sequence)
        self.blocks.reset()

    def change_weights(self):
        if self.other is None:
            raise NotImplementedError("there is no other model")
        self.runner.model = self.other
        self.reset()

    def free_blocks(self) -> int:
        return self.blocks.free

    def kept(self, sequence: Sequence) -> int:
        return self.found[sequence]

    def buffers(self):
        """Keys and values of each layer, (P, H, page, ...), and where tokens lie."""
        live = np.zeros((self.blocks.blocks, self.page), bool)
        live[list(self.blocks.node_of)] = True
        for sequence in self.found:
            slot = np.arange(sequence.table.kept)
            live[np.array(sequence.table.blocks, int)[slot // self.page], slot % self.page] = True
        shown = [(tensor, (len(live), 1, self.page) + (1,) * (tensor.dim() - 3)) for tensor in self.runner.memory]
        return [(tensor, live.reshape(shape)) for tensor, shape in shown]
