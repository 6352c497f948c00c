"""Pools broken on purpose, each by a bug that a real system has had, and the promises it must be told to break.

All are one small pool under two layers of attention: cheap, and a key in the second depends on the whole past.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from kvproof.bench.judge.contract.pools.numpy_pool import NumpyPool, Sequence

V, E, L = 23, 8, 2
RNG = np.random.default_rng(0)
WTE, WPE, W = RNG.normal(size=(V, E)), RNG.normal(size=(256, E)), RNG.normal(size=(L, 3, E, E)) / E**0.5
CONFIG: Any = SimpleNamespace(n_layer=L, n_head=1, head_dim=E)
PARAMS = {"wte": {"weight": WTE}}


class Good(NumpyPool):
    """The pool as it should be, with one pass for many."""

    def __init__(self, blocks=24, page=4):
        super().__init__(PARAMS, CONFIG, blocks, page)

    def slots(self, sequence, n):
        slot = np.arange(n)
        return np.array(sequence.blocks)[slot // self.page], slot % self.page

    def compute(self, sequence, ids, past, first=None):
        n, wte = past + len(ids), self.params["wte"]["weight"]
        first = past if first is None else first  # the position of the first of ids
        x = wte[ids] + WPE[first : first + len(ids)]
        block, place = self.slots(sequence, n)
        for layer, (wq, wk, wv) in enumerate(W):
            self.k[layer, block[past:], 0, place[past:]] = x @ wk
            self.v[layer, block[past:], 0, place[past:]] = x @ wv
            x = x + self.attend(x @ wq, layer, block, place, past)
        return x[-1] @ wte.T

    def attend(self, q, layer, block, place, past):
        k, v = self.k[layer, block, 0, place], self.v[layer, block, 0, place]
        s = np.where(np.arange(len(k)) <= past + np.arange(len(q))[:, None], q @ k.T / E**0.5, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True) @ v

    def extend_all(self, handles, pieces):
        return np.stack([self.extend(handle, ids) for handle, ids in zip(handles, pieces, strict=True)])


class NoMethods:
    """Only what every pool has."""

    def __init__(self):
        self.pool = Good()

    def start(self, ids):
        return self.pool.start(ids)

    def extend(self, handle, ids):
        return self.pool.extend(handle, ids)


BREAKS: dict[type, tuple[str, set[str]]] = {}


def breaks(promise, *others, link):
    """The promise that names a pool's bug, what else breaks beside "lives", and the thread of it or of a near relative.

    link  OWNER/NAME/issues/N or OWNER/NAME/pull/N on GitHub
    """

    def add(pool):
        pool.link = f"https://github.com/{link}"
        BREAKS[pool] = (promise, {promise, *others})
        return pool

    return add


@breaks(
    "growing",
    "exhaustion",
    "preemption",
    "prefix",
    "rollback",
    "rollback in shared blocks",
    "together",
    "two owners",
    link="vllm-project/vllm/pull/47056",
)
class GrowsLate(Good):
    """The first token of a block is written into the last place of the one before."""

    def compute(self, sequence, ids, past, first=None):
        if len(ids) == 1 and past and past % self.page == 0:
            sequence.blocks[-2:] = sequence.blocks[-2:][::-1]
        return super().compute(sequence, ids, past, first)


# What a block is known by.


@breaks("another past", link="openvinotoolkit/openvino.genai/issues/3722")
class KnownByItsTokens(Good):
    """A block is known by its own tokens, whatever comes before them."""

    def key(self, ids, i):
        return tuple(ids[i * self.page : (i + 1) * self.page])


@breaks("another past", link="openvinotoolkit/openvino.genai/issues/3722")
class KeysCollide(Good):
    """A weak hash: pasts of the same tokens in another order have one key."""

    def key(self, ids, i):
        return tuple(sorted(ids[: (i + 1) * self.page]))


@breaks(
    "another past",
    "preemption",
    "prefix",
    "prefix of the gone",
    "rollback in shared blocks",
    "two owners",
    link="vllm-project/vllm/issues/37076",
)
class KeyIsShort(Good):
    """The last token of a block is not in its key."""

    def key(self, ids, i):
        return tuple(ids[: (i + 1) * self.page - 1])


@breaks("another past", link="vllm-project/vllm/pull/5188")
class KeyWithoutTheFirst(Good):
    """The key holds two blocks, this one and the one before it."""

    def key(self, ids, i):
        return i, tuple(ids[max(0, i - 1) * self.page + 1 : (i + 1) * self.page])


@breaks("prefix", link="vllm-project/vllm-ascend/pull/10440")
class SharesTheLastBlock(Good):
    """A block that is not full is found by what it holds, and its finder writes on in it."""

    def find(self, sequence, ids):
        super().find(sequence, ids)
        for other in self.alive:
            n = len(other.ids)
            if n % self.page and n < len(ids) and other.ids == ids[:n] and len(sequence.blocks) == n // self.page:
                sequence.blocks.append(other.blocks[-1])
                self.owners[other.blocks[-1]] += 1
                sequence.ids, sequence.kept = list(ids[:n]), n
                self.halves = {*getattr(self, "halves", ()), other.blocks[-1]}

    def must_copy(self, block):
        return super().must_copy(block) and block not in getattr(self, "halves", ())


@breaks("prefix", "rollback in shared blocks", link="vllm-project/vllm/pull/17999")
class FullHit(Good):
    """Where all of a prompt is cached, its last token is computed again behind itself."""

    def start(self, ids):
        sequence, logits = super().start(ids)
        if len(ids) % self.page == 0 and sequence.kept == len(ids) - self.page and sequence.kept:
            self.free(sequence)
            self.alive.append(sequence := Sequence())
            self.find(sequence, [*ids, 0])
            return sequence, self.extend(sequence, ids[-1:])
        return sequence, logits


@breaks(
    "prefix",
    "another past",
    "exhaustion",
    "preemption",
    "prefix of the gone",
    "reset",
    "rollback in shared blocks",
    "two owners",
    link="tenstorrent/vllm/issues/415",
)
class PositionsRestart(Good):
    """What follows a cached prefix is computed as if nothing came before."""

    def compute(self, sequence, ids, past, first=None):
        hit = past and past == sequence.kept
        return super().compute(sequence, ids, past, 0 if hit else None)


@breaks("prefix", "prefix of the gone", "reset", link="vllm-project/vllm/pull/17305")
class SaysTooMuch(Good):
    """The count of cached tokens is that of an earlier look, when more was cached."""

    def kept(self, sequence):
        return len(sequence.ids) - len(sequence.ids) % self.page


# Who owns a block.


@breaks("two owners", "rollback in shared blocks", link="xLLM-AI/xllm/pull/1984")
class NoCopyOnWrite(Good):
    """A shared block that is not full is written by both."""

    def must_copy(self, block):
        return False


@breaks("two owners", "rollback in shared blocks", link="huggingface/transformers/issues/34232")
class CopiesKeysTwice(Good):
    """The copy of a block gets the keys, and no values."""

    def make_room(self, sequence, n):
        before = sequence.blocks[-1:]
        kept = self.v.copy()
        super().make_room(sequence, n)
        if before and sequence.blocks[len(sequence.ids) // self.page : len(sequence.ids) // self.page + 1] != before:
            self.v[:] = kept


@breaks("two owners", "exhaustion", "preemption", "prefix of the gone", link="jjang-ai/vmlx/issues/198")
class FreedByTheFirst(Good):
    """A block is free as soon as one of its owners leaves."""

    def release(self, block):
        self.owners[block] = 0
        if block not in self.unused:
            self.unused.append(block)

    def share(self, block):
        if block in self.unused:
            self.unused.remove(block)
        self.owners[block] += 1


@breaks("prefix of the gone", "exhaustion", "preemption", "rollback in shared blocks", link="Wenyueh/MinivLLM/pull/87")
class HitsAreNotCounted(Good):
    """A cached block that is in use gets no second reference."""

    def find(self, sequence, ids):
        before = list(self.owners)
        super().find(sequence, ids)
        for block in sequence.blocks:
            self.owners[block] = max(1, before[block])

    def release(self, block):
        if self.owners[block]:
            super().release(block)


@breaks("prefix of the gone", "exhaustion", link="jjang-ai/vmlx/issues/198")
class RevivedStaysFree(Good):
    """A free block that is found again is in use and in the queue of free ones."""

    def share(self, block):
        self.owners[block] += 1

    def release(self, block):
        self.owners[block] -= 1
        if not self.owners[block] and block not in self.unused:
            self.unused.append(block)


@breaks("prefix of the gone", "exhaustion", "preemption", link="vllm-project/vllm/pull/4761")
class KeysOutlive(Good):
    """A block that is taken for something else is still found by its old key."""

    def take(self):
        block = self.unused.pop(0)
        self.owners[block] = 1
        return block


@breaks("blocks back", link="xLLM-AI/xllm/pull/829")
class ForkCountsTwice(Good):
    """A fork adds a reference that nobody drops."""

    def fork(self, sequence):
        other = super().fork(sequence)
        self.owners[sequence.blocks[0]] += 1
        return other


@breaks("blocks back", link="xLLM-AI/xllm/pull/1526")
class CopyKeepsItsReference(Good):
    """Copy on write keeps the reference to what was copied."""

    def make_room(self, sequence, n):
        last = len(sequence.ids) // self.page
        before = sequence.blocks[last : last + 1]
        super().make_room(sequence, n)
        if before and before != sequence.blocks[last : last + 1]:
            self.owners[before[0]] += 1


@breaks("blocks back", link="sgl-project/sglang-jax/pull/982")
class FreedTwice(Good):
    """A sequence that ends while it is evicted gives its blocks back again."""

    def evict(self, sequence: Any):
        sequence.old = sequence.blocks
        super().evict(sequence)

    def resume(self, sequence: Any):
        sequence.old = []
        super().resume(sequence)

    def free(self, sequence: Any):
        self.unused += getattr(sequence, "old", [])
        super().free(sequence)


@breaks("blocks back", link="vllm-project/vllm-ascend/issues/16662")
class AbortedInTheQueue(Good):
    """A sequence that ends right behind the prefix it found keeps its last block for good."""

    def free(self, sequence: Any):
        if sequence.kept and len(sequence.ids) == sequence.kept + 1:
            self.owners[sequence.blocks[-1]] += 1
        super().free(sequence)


@breaks("prefix of the gone", "exhaustion", "preemption", "two owners", link="sgl-project/sglang/issues/6778")
class CachedIsNotReclaimed(Good):
    """Blocks kept for a later prefix count as free and are never taken."""

    def make_room(self, sequence, n):
        more = -(-n // self.page) - len(sequence.blocks)
        if more > sum(not self.is_known(block) for block in self.unused):
            raise MemoryError("no block is free")
        super().make_room(sequence, n)


# Rollback.


@breaks("rollback", "rollback in shared blocks", link="sgl-project/sglang/issues/27789")
class CropKeepsBlocks(Good):
    """Blocks of tokens that were taken back stay with the sequence."""

    def crop(self, sequence, n):
        del sequence.ids[n:]


@breaks("rollback", "dead places", "rollback in shared blocks", link="lablup/mlxcel/issues/994")
class CropsToABlock(Good):
    """The block in which the last kept token lies goes too."""

    def crop(self, sequence, n):
        super().crop(sequence, n)
        if n % self.page:
            self.release(sequence.blocks.pop())


@breaks("rollback", "preemption", "rollback in shared blocks", link="nicedreamzapp/claude-code-local/issues/46")
class CropsShort(Good):
    """A token too many is kept."""

    def crop(self, sequence, n):
        super().crop(sequence, min(n + 1, len(sequence.ids)))


@breaks("rollback", "blocks back", "preemption", "rollback in shared blocks", link="sgl-project/sglang-jax/pull/994")
class CroppedIsFreedAgain(Good):
    """Blocks given back by a rollback are given back again at the end."""

    def crop(self, sequence, n):
        keep = -(-n // self.page)
        self.unused += [block for block in sequence.blocks[keep:] if self.owners[block] == 1]
        del sequence.ids[n:]


@breaks("rollback in shared blocks", link="vllm-project/vllm/issues/49449")
class RewrittenIsStillKnown(Good):
    """A block that is written anew after a rollback is found by the tokens that were taken back."""

    def make_room(self, sequence, n):
        self.writing = True
        super().make_room(sequence, n)
        self.writing = False

    def take(self):
        self.writing, writing = False, getattr(self, "writing", False)
        block = super().take()
        self.writing = writing
        return block

    def forget(self, block):
        if not getattr(self, "writing", False):
            super().forget(block)


@breaks("rollback in shared blocks", link="NVIDIA/TensorRT-LLM/pull/6767")
class FullBlocksAreNotCopied(Good):
    """A block that was full is thought never to be written, and is, after a rollback into it."""

    def must_copy(self, block):
        return super().must_copy(block) and not self.is_known(block)


# Preemption.


@breaks("preemption", "exhaustion", link="LMCache/LMCache/pull/1361")
class ResumedWithTheOldTable(Good):
    """The table of before the preemption is used again, whoever has the blocks now."""

    def evict(self, sequence: Any):
        sequence.old = list(sequence.blocks)
        super().evict(sequence)

    def resume(self, sequence: Any):
        for block in sequence.old:
            self.share(block)
        sequence.blocks = sequence.old


@breaks("preemption", link="vllm-project/vllm/pull/9972")
class ResumesThePrompt(Good):
    """What was generated before the preemption is not computed again."""

    def start(self, ids):
        sequence: Any = None
        sequence, logits = super().start(ids)
        sequence.prompt = len(ids)
        return sequence, logits

    def resume(self, sequence: Any):
        del sequence.ids[getattr(sequence, "prompt", 1) :]
        super().resume(sequence)


@breaks("preemption", link="LMCache/LMCache/pull/4955")
class EvictedTakesItsSharers(Good):
    """Eviction frees blocks that others have."""

    def evict(self, sequence: Any):
        for block in sequence.blocks if sequence in self.alive else ():
            if self.owners[block] > 1:
                self.unused.insert(0, block)
        super().evict(sequence)

    def take(self):
        block = super().take()
        while block in self.unused:
            self.unused.remove(block)
        return block


@breaks("preemption", "exhaustion", link="vllm-project/vllm/pull/8824")
class SwappedInBackwards(Good):
    """Blocks come back from the host in another order."""

    def evict(self, sequence: Any):
        sequence.host = [(self.k[:, block].copy(), self.v[:, block].copy()) for block in sequence.blocks]
        super().evict(sequence)

    def resume(self, sequence: Any):
        ids, sequence.ids = sequence.ids, []
        self.make_room(sequence, len(ids))
        sequence.ids = ids
        for block, (k, v) in zip(sequence.blocks[::-1], sequence.host, strict=True):
            self.k[:, block], self.v[:, block] = k, v


# Reset, new weights, exhaustion, dead places, many in one pass.


@breaks("reset", "new weights", link="vllm-project/vllm-omni/issues/6739")
class ResetKeepsKeys(Good):
    """reset() frees the blocks and leaves the prefix cache."""

    def reset(self):
        known = getattr(self, "known", {})
        super().reset()
        self.known = known


@breaks("reset", "blocks back", link="vllm-project/vllm/pull/12284")
class ResetOfTheIdle(Good):
    """reset() does nothing about blocks that are in use."""

    def reset(self):
        owners = getattr(self, "owners", [])
        super().reset()
        self.unused = [block for block in self.unused if not owners or not owners[block]]


@breaks("new weights", link="InternLM/lmdeploy/issues/4917")
class OldBlocksNewWeights(Good):
    """The prefix cache outlives the weights."""

    def change_weights(self):
        self.params = {"wte": {"weight": WTE[::-1]}}


@breaks(
    "exhaustion", "blocks back", "dead places", "preemption", "prefix of the gone",
    link="ovg-project/kvcached/issues/364",
)  # fmt: skip
class TakesUntilItFails(Good):
    """An allocation that fails half-way keeps what it took."""

    def make_room(self, sequence, n):
        more = -(-n // self.page) - len(sequence.blocks)
        if more > len(self.unused):
            self.unused.clear()
            raise MemoryError("no block is free")
        super().make_room(sequence, n)


@breaks("exhaustion", link="inference-sim/inference-sim/issues/1061")
class RefusalFreesThePast(Good):
    """A step that does not fit gives back the blocks of all steps before it."""

    def make_room(self, sequence, n):
        try:
            super().make_room(sequence, n)
        except MemoryError:
            self.evict(sequence)
            raise


@breaks("exhaustion", link="ggml-org/llama.cpp/pull/12695")
class CountsTheRefused(Good):
    """Tokens of a step that does not fit are counted all the same."""

    def extend(self, sequence, ids):
        try:
            return super().extend(sequence, ids)
        except MemoryError:
            sequence.ids += ids
            raise


@breaks("exhaustion", link="sgl-project/sglang/pull/16067")
class RefusedKeepsItsPrefix(Good):
    """A sequence that does not fit keeps its references to the prefix it found."""

    def start(self, ids):
        sequence = Sequence()
        self.find(sequence, ids)
        logits = self.extend(sequence, ids[sequence.kept :])
        self.alive.append(sequence)
        return sequence, logits


@breaks("dead places", link="huggingface/transformers/issues/39421")
class MasksTheRest(Good):
    """The rest of the last block is given weight 0 instead of being left out."""

    def __init__(self):
        super().__init__()
        self.k[:], self.v[:] = 0, 0

    def attend(self, q, layer, block, place, past):
        rest = self.v[layer, block[-1], 0, place[-1] + 1 :].sum(0)
        return super().attend(q, layer, block, place, past) + 0 * rest


@breaks("together", link="tanishqkumar/ssd/issues/23")
class OneTableForAll(Good):
    """In one pass for many, each reads by the table of the longest."""

    def extend_all(self, handles, pieces):
        logits = super().extend_all(handles, pieces)
        longest = max(range(len(handles)), key=lambda i: len(handles[i].ids))
        return logits[[longest] * len(logits)] if len(logits) > 2 else logits
