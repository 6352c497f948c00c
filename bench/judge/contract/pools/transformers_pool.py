"""The adapter of the pool contract for transformers' paged manager, the cache of generate_batch().

A pass is fed as the scheduler of continuous batching feeds it: PagedAttentionCache finds the prefix and gives blocks,
ContinuousBatchingIOs packs the inputs of RequestStates, and full blocks are made known after the pass.
"""

from itertools import count
from typing import Any

import numpy as np
import torch

MANY = 8  # sequences of one pass at most


class TransformersPool:
    """A Hugging Face causal LM with a PagedAttentionCache; attention "sdpa" or "paged|eager" runs on a CPU.

    blocks  of the pool, page tokens each; 4 or more
    share   allow_block_sharing: forks share full blocks, and prompts that begin alike find them
    tokens  of one pass at most

    Preemption is generate_batch()'s soft reset: the blocks are freed and all tokens computed again.
    """

    def __init__(self, model: Any, blocks: int = 40, page: int = 4, share: bool = True, tokens: int = 128):
        from transformers import ContinuousBatchingConfig, LogitsProcessorList
        from transformers.generation.continuous_batching import cb_logits_processors, distributed, input_outputs
        from transformers.generation.continuous_batching.cache import PagedAttentionCache

        self.model, self.page, self.numbers = model, page, count()
        self.dtype = torch.float32 if model.dtype == torch.float64 else model.dtype  # its softmax is float32
        config = model.config.get_text_config()
        batching = ContinuousBatchingConfig(
            page_size=page, num_blocks=blocks, max_batch_tokens=tokens, max_requests_per_batch=MANY,
            max_blocks_per_request=0, allow_block_sharing=share, use_async_batching=False, max_memory_percent=0.9,
            use_cuda_graph=(False, False),
        )  # fmt: skip
        helper = distributed.DistributedHelper(None, None)
        self.cache = PagedAttentionCache(config, batching, model.device, helper, dtype=model.dtype)
        self.processors = cb_logits_processors.ContinuousBatchingLogitsProcessorList(LogitsProcessorList([]))
        self.inputs = input_outputs.ContinuousBatchingIOs(
            self.cache, config, batching, model.device, model.dtype, self.processors
        )
        self.alive: list[Any] = []

    def start(self, ids: list[int]):
        from transformers.generation.continuous_batching.requests import RequestState

        state = RequestState(str(next(self.numbers)), list(ids))
        self.alive.append(state)
        try:
            return state, self.compute(state)
        except MemoryError:
            self.free(state)
            raise

    def compute(self, state: Any) -> torch.Tensor:
        """Give a request that has no blocks its prefix, and compute the rest of its tokens."""
        tokens = state.initial_tokens
        state.kept = state.position_offset = self.cache.search_prefix_match(state.request_id, tokens)
        return self.extend_all([state], [tokens[state.kept :]], known=True)[0]

    def extend(self, state: Any, ids: list[int]) -> torch.Tensor:
        return self.extend_all([state], [ids])[0]

    @torch.no_grad()
    def extend_all(self, states: list[Any], pieces: list[list[int]], known: bool = False) -> torch.Tensor:
        """One pass over the packed pieces of several requests; `known` says that their tokens are the requests' own."""
        from transformers.generation.continuous_batching.requests import FutureRequestState

        self.make_room(states, pieces)
        batch, past = [], sum(state.current_len() for state in states)
        for state, ids in zip(states, pieces, strict=True):
            state.tokens_to_process = list(ids)
            state.initial_tokens = state.initial_tokens + ([] if known else list(ids))
            done = self.cache.count_new_complete_blocks(state, len(ids))
            batch.append(FutureRequestState(state, True, done, len(ids)))
        self.inputs.prepare_batch_tensors(batch, self.processors, False, sum(map(len, pieces)), past, False)
        given = self.inputs.get_model_kwargs()
        logits = self.model(**given).logits[0, given["logits_indices"]]
        for one in batch:
            self.cache.mark_complete_blocks(one.state, one.complete_blocks)
        return logits

    def make_room(self, states: list[Any], pieces: list[list[int]]):
        """Blocks for all pieces; MemoryError if they do not suffice, blocks kept for later prefixes included."""
        for state, ids in zip(states, pieces, strict=True):
            fits = self.cache.can_store_request_tokens(state, len(ids))
            if not fits and self.cache.evict_cached_blocks():
                fits = self.cache.can_store_request_tokens(state, len(ids))
            if not fits:
                raise MemoryError(f"{len(ids)} tokens do not fit {self.free_blocks()} free blocks")

    def free(self, state: Any):
        self.alive.remove(state)
        self.cache.free_blocks(state.request_id)

    def fork(self, state: Any):
        number, copies = str(next(self.numbers)), {name: ([], []) for name in self.cache.cache_allocators}
        if not self.cache.prepare_fork_request(state, [number], copies):
            raise MemoryError(f"a fork does not fit {self.free_blocks()} free blocks")
        self.cache.perform_cache_copy(copies)
        self.alive.append(other := state.fork(number))
        return other

    def evict(self, state: Any):
        self.cache.free_blocks(state.request_id, no_cache=True)
        state.position_offset = 0

    def resume(self, state: Any):
        try:
            self.compute(state)
        except MemoryError:
            self.evict(state)
            raise

    def crop(self, state: Any, n: int):
        raise NotImplementedError("PagedAttentionCache takes no token of a running request back")

    def reset(self):
        self.cache.reset()
        self.alive = []

    def kept(self, state: Any) -> int:
        return state.kept

    def free_blocks(self) -> int:
        cached = sum(len(allocator.ledger.cached_blocks) for allocator in self.cache.cache_allocators.values())
        (allocator,) = self.cache.cache_allocators.values()
        return int(self.cache.compute_free_capacity(relative=False)) // allocator.bytes_per_block + cached

    def buffers(self):
        """The one allocator's memory as (blocks, layers, K and V, page, heads, head_dim), and where tokens lie."""
        (allocator,) = self.cache.cache_allocators.values()
        size = (-1, allocator.pages_per_block, 2, self.page, *allocator.cache_tensor.shape[2:])
        memory, padding = allocator.cache_tensor.view(size), 2 * allocator.blocks_per_sector
        live = np.zeros((len(memory), 1, 1, self.page, 1, 1), bool)
        live[list(allocator.ledger.cached_blocks)] = True
        for state in self.alive:
            slot = np.arange(state.current_len())
            table = np.array(allocator.block_table.get(state.request_id, []), int)
            live[table[slot // self.page], 0, 0, slot % self.page] = True
        return [(memory[padding:], live[padding:])]  # the blocks before are read and written by padding
