"""The paged KV cache: pages shared by all sequences, allocated when a token needs one and freed again."""

from collections.abc import Sequence

import numpy as np
import torch

from ..reference.config import Config, ContextFull
from .arguments import size, whole
from .cache import Cache


class PagedCache(Cache):
    """K and V of B sequences in pages: slot t of sequence b lies in page block_table[b, t // page], at t % page.

    k, v          per layer (P, H, page, D), shared by all sequences
    block_table   (B, max_pages) int32, on the device, written in place; -1 where no page is allocated
    host_table    the allocated pages of each sequence, as Python ints
    free_pages    pages that no sequence has; the last is allocated next

    Free pages start in a shuffled order (by `seed`), so that no code comes to rely on adjacent pages.
    The rest is as in Cache. A call that needs more pages than are free raises ContextFull before anything changes. The
    decode kernel reads pages in place; `read` copies them for the other impls.
    Source: Kwon et al. 2023 (arXiv:2309.06180).
    """

    def __init__(
        self,
        config: Config,
        batch: int,
        capacity: int,
        *,
        page: int = 16,
        pages: int | None = None,
        seed: int = 0,
        dtype=torch.float32,
        device: str | torch.device = "cpu",
        impl: str = "sdpa",
        new: int = 1,
    ):
        """Room for `batch` sequences of up to `capacity` tokens, in `pages` pages (default: enough for all of them).

        Raises ValueError for a size below 1, ContextFull past n_ctx.
        """
        batch, capacity, page = size("batch", batch), size("capacity", capacity), size("page", page)
        seed = whole("seed", seed, "a whole number, 0 or more", 0)
        max_pages = -(-capacity // max(page, 1))
        pages = batch * max_pages if pages is None else size("pages", pages)
        if min(batch, capacity, page, pages) < 1:
            raise ValueError(
                f"a cache for {batch} sequences of {capacity} tokens, in {pages} pages of {page}, holds nothing; all "
                "must be 1 or more"
            )
        memory = pages, page
        super().__init__(config, batch, capacity, dtype=dtype, device=device, impl=impl, new=new, memory=memory)
        self.page = page
        self.block_table: torch.Tensor = torch.full((batch, max_pages), -1, dtype=torch.int32, device=device)
        self.host_table: list[list[int]] = [[] for _ in range(batch)]
        self.free_pages: list[int] = np.random.default_rng(seed).permutation(pages).tolist()

    def pages_of(self, n: int) -> int:
        """The number of pages that n tokens take."""
        return -(-n // self.page)

    def set_lengths(self, lengths: Sequence[int]):
        """Set the number of tokens of each sequence. Allocates the pages it needs and frees those beyond.

        Raises ValueError unless there is one length per sequence, each 0..capacity; ContextFull if pages run out.
        """
        lengths = self.check_lengths(lengths)
        self.hand_out(lengths, give_back=True)
        super().set_lengths(lengths)

    def free(self, b: int):
        """Set the length of sequence b to 0 and free its pages.  Raises ValueError if there is no sequence b."""
        b = whole("b", b, f"a sequence of the cache, 0..{self.batch - 1}", 0, self.batch - 1)
        self.set_lengths([0 if row == b else n for row, n in enumerate(self.host_lengths)])

    def hand_out(self, lengths: list[int], *, give_back: bool = False):
        """Give every sequence the pages for its length and, with give_back, free those beyond.

        Raises ContextFull, before anything changes, if too few are free.
        """
        needs = [self.pages_of(n) for n in lengths]
        moves = [need - len(table) for need, table in zip(needs, self.host_table, strict=True)]
        returned = -sum(move for move in moves if move < 0) if give_back else 0
        if sum(move for move in moves if move > 0) > len(self.free_pages) + returned:
            past = max(self.host_lengths)
            raise ContextFull(past, max(lengths) - past, self.fitting(), f"the {len(self.free_pages)} free pages")
        if give_back:
            for need, table in zip(needs, self.host_table, strict=True):
                self.free_pages.extend(table[need:])
                del table[need:]
        for need, table in zip(needs, self.host_table, strict=True):
            while len(table) < need:
                table.append(self.free_pages.pop())
        if any(move > 0 or (give_back and move < 0) for move in moves):
            width = self.block_table.shape[1]
            rows = [table + [-1] * (width - len(table)) for table in self.host_table]
            self.block_table.copy_(torch.tensor(rows, dtype=torch.int32))

    def fitting(self) -> int:
        """The number of tokens that every sequence can add in the free pages."""

        def lacking(fit: int) -> int:
            rows = zip(self.host_lengths, self.host_table, strict=True)
            return sum(max(0, self.pages_of(n + fit) - len(table)) for n, table in rows)

        fit = 0
        while fit < self.capacity and lacking(fit + 1) <= len(self.free_pages):
            fit += 1
        return fit

    def check_room(self, tokens: int) -> int:
        """The first slot of a prefill of `tokens` tokens.  Raises ContextFull or CacheMismatch if they do not fit.

        Prompts are padded to the longest: each takes the pages of that one, and frees what it did not fill when its
        length is set.
        """
        start = super().check_room(tokens)
        if tokens > self.fitting():
            raise ContextFull(start, tokens, self.fitting(), f"the {len(self.free_pages)} free pages")
        return start

    def claim(self):
        """As in Cache; a sequence whose last page is full gets another."""
        if max(self.host_lengths) < self.capacity:
            self.hand_out([n + 1 for n in self.host_lengths])
        return super().claim()

    def make_room(self, stop: int):
        """Give every sequence the pages of its slots up to `stop`.  Raises ContextFull, before anything changes."""
        self.hand_out([max(n, stop) for n in self.host_lengths])

    def put(self, a: torch.Tensor, slots, x: torch.Tensor):
        column = slots // self.page
        pages = self.block_table[:, column] if isinstance(slots, int) else self.block_table[self.rows, column]
        a[pages, :, slots % self.page] = x

    def put_span(self, a: torch.Tensor, start: int, x: torch.Tensor):
        slots = torch.arange(start, start + x.shape[2], device=self.rows.device)
        pages, offset = self.block_table[:, slots // self.page], slots % self.page  # (B, M), (M,)
        a[pages, :, offset] = x.transpose(1, 2)  # (B, M, H, ...)

    def get(self, a: torch.Tensor, n: int) -> torch.Tensor:
        """A copy of the first n slots of every sequence; slow, for impls that cannot read pages.

        Slots from a sequence's length on are dead; without a page they hold another sequence's numbers.
        """
        table = self.block_table[:, : self.pages_of(n)]  # -1, no page, reads the last one
        found = a[table].transpose(1, 2)  # (B, H, pages, page, ...)
        return found.reshape(*found.shape[:2], -1, *a.shape[3:])[:, :, :n]
