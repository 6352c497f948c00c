"""A pool of blocks in plain lists under the NumPy reference: small, and an example of an adapter."""

from typing import Any

import numpy as np

from .....reference.cache import PagedCache
from .....reference.config import Config
from .....reference.model import forward


class Sequence:
    """One owner of blocks: its tokens, the blocks they lie in, and how many of them it found there."""

    def __init__(self, ids=(), blocks=(), kept=0):
        self.ids, self.blocks, self.kept = list(ids), list(blocks), kept


class Rows(PagedCache):
    """One sequence of a pool as the cache of batch 1 that `forward` takes; its blocks are there already."""

    def __init__(self, pool: "NumpyPool", sequence: Sequence, past: int):
        self.shape, self.dtype, self.page = pool.shape, pool.dtype, pool.page
        self.k, self.v = pool.k, pool.v
        self.block_table, self.lengths = np.array([sequence.blocks], np.int32), np.array([past], np.int32)

    def advance(self, M):
        self.lengths += M


class NumpyPool:
    """GPT-2 with blocks that any sequence may share.

    A full block is known by all tokens up to its end, and stays known after its last owner is gone until the block is
    taken for something else. A block with two owners, or one that is known, is not written: its writer gets a copy.
    """

    def __init__(self, params: dict, config: Config, blocks: int = 24, page: int = 4):
        self.params, self.config, self.page = params, config, page
        self.dtype = params["wte"]["weight"].dtype
        self.shape = (config.n_layer, 1, config.n_head, config.head_dim)
        self.k = np.full((config.n_layer, blocks, config.n_head, page, config.head_dim), np.nan, self.dtype)
        self.v = self.k.copy()
        self.reset()

    def reset(self):
        self.alive: list[Sequence] = []
        self.owners = [0] * self.k.shape[1]
        self.unused = list(range(self.k.shape[1]))  # the one that is taken next first
        self.known: dict[Any, int] = {}  # all tokens up to a block's end -> the block

    def start(self, ids: list[int]):
        sequence = Sequence()
        self.alive.append(sequence)
        try:
            self.find(sequence, ids)
            return sequence, self.extend(sequence, ids[sequence.kept :])
        except MemoryError:
            self.free(sequence)
            raise

    def extend(self, sequence: Sequence, ids: list[int]):
        past = len(sequence.ids)
        self.make_room(sequence, past + len(ids))
        sequence.ids += ids
        logits = self.compute(sequence, ids, past)
        self.learn(sequence)
        return logits

    def compute(self, sequence: Sequence, ids: list[int], past: int):
        """Write keys and values of ids into the sequence's blocks, from place `past` on; logits (V,) of the last."""
        return forward([ids], self.params, self.config, Rows(self, sequence, past))[0, -1]

    def free(self, sequence: Sequence):
        self.alive.remove(sequence)
        self.evict(sequence)

    def crop(self, sequence: Sequence, n: int):
        keep = -(-n // self.page)
        del sequence.ids[n:]
        for block in sequence.blocks[keep:]:
            self.release(block)
        del sequence.blocks[keep:]

    def fork(self, sequence: Sequence) -> Sequence:
        for block in sequence.blocks:
            self.share(block)
        self.alive.append(other := Sequence(sequence.ids, sequence.blocks))
        return other

    def evict(self, sequence: Sequence):
        for block in sequence.blocks[::-1]:  # the end of a past is of use to fewer
            self.release(block)
        sequence.blocks = []

    def resume(self, sequence: Sequence):
        ids, sequence.ids = sequence.ids, []
        try:
            self.find(sequence, ids)
            self.extend(sequence, ids[len(sequence.ids) :])
        except MemoryError:
            self.evict(sequence)
            sequence.ids = ids
            raise

    def free_blocks(self) -> int:
        return len(self.unused)

    def kept(self, sequence: Sequence) -> int:
        return sequence.kept

    def change_weights(self):
        wte = self.params["wte"]
        self.params = self.params | {"wte": wte | {"weight": wte["weight"][::-1].copy()}}
        self.reset()

    def buffers(self):
        """k and v (L, P, H, page, D), and which places hold a token that may be read."""
        live = np.zeros((len(self.owners), 1, self.page, 1), bool)
        live[list(self.known.values())] = True
        for sequence in self.alive:
            slot = np.arange(len(sequence.ids) if sequence.blocks else 0)
            live[np.array(sequence.blocks, int)[slot // self.page], 0, slot % self.page] = True
        return [(self.k, live), (self.v, live)]

    # What the blocks are known by, who owns them, and who may write them.

    def key(self, ids: list[int], i: int) -> Any:
        """What the i-th block of a sequence is known by: its whole past, so that no two pasts are confused."""
        return tuple(ids[: (i + 1) * self.page])

    def find(self, sequence: Sequence, ids: list[int]):
        """Give a sequence the known blocks that begin ids, all but its last token, which is to be computed."""
        for i in range((len(ids) - 1) // self.page):
            block = self.known.get(self.key(ids, i))
            if block is None:
                break
            self.share(block)
            sequence.blocks.append(block)
        sequence.kept = len(sequence.blocks) * self.page
        sequence.ids = list(ids[: sequence.kept])

    def learn(self, sequence: Sequence):
        """Make the full blocks of a sequence known."""
        for i in range(len(sequence.ids) // self.page):
            self.known.setdefault(self.key(sequence.ids, i), sequence.blocks[i])

    def is_known(self, block: int) -> bool:
        return block in self.known.values()

    def forget(self, block: int):
        self.known = {key: other for key, other in self.known.items() if other != block}

    def make_room(self, sequence: Sequence, n: int):
        """Blocks for n tokens, of which the new may be written; MemoryError, and nothing done, if too few are free."""
        half = sequence.blocks[-1:] if len(sequence.ids) % self.page else []
        copies = [block for block in half if self.must_copy(block)]
        more = -(-n // self.page) - len(sequence.blocks)
        if len(copies) + more > len(self.unused):
            raise MemoryError(f"{len(copies) + more} blocks are needed, {len(self.unused)} are free")
        for block in copies:
            sequence.blocks[-1] = new = self.take()
            self.k[:, new], self.v[:, new] = self.k[:, block], self.v[:, block]
            self.release(block)
        for block in half:
            if not copies:
                self.forget(block)
        sequence.blocks += [self.take() for _ in range(more)]

    def must_copy(self, block: int) -> bool:
        return self.owners[block] > 1

    def take(self) -> int:
        block = self.unused.pop(0)
        self.forget(block)
        self.owners[block] = 1
        return block

    def share(self, block: int):
        if not self.owners[block]:
            self.unused.remove(block)
        self.owners[block] += 1

    def release(self, block: int):
        self.owners[block] -= 1
        if not self.owners[block]:
            self.unused.append(block)
