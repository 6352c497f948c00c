"""A step's forward pass: the tokens of many sequences at once, their keys and values in one pool of blocks."""

from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch

from ..arguments import check_kv_dtype
from ..attention import Attention
from ..int8_cache import Int8PagedCache
from ..linear import ROWS
from ..model import GPT2
from ..paged import PagedCache
from .scheduler import Span

POOL = 2**30  # bytes of keys and values, unless blocks are asked for


class Runner:
    """The pool's memory, and a model that computes on it. Base of one class per impl.

    pool  a paged cache, whose memory is used; which block is whose, the block manager says
    """

    def __init__(self, model: GPT2, running: int, page: int, blocks: int | None, kv_dtype: str | None):
        self.model = model
        self.most = -(-model.config.n_ctx // page)  # blocks of a sequence
        kind = Int8PagedCache if check_kv_dtype(kv_dtype) else PagedCache
        if blocks is None:
            blocks = max(self.most, min(running * self.most, POOL // block_bytes(model, page, kv_dtype)))
        self.pool = kind(
            model.config, running, model.config.n_ctx, page=page, pages=blocks, dtype=model.dtype, device=model.device,
            impl=model.impl, new=ROWS if model.impl == "triton" else 1,
        )  # fmt: skip
        kinds = (self.pool.k, self.pool.v, self.pool.k_scale, self.pool.v_scale)
        self.memory = [tensor for kind in kinds if kind is not None for tensor in kind]

    @property
    def blocks(self) -> int:
        return len(self.pool.k[0])

    def copy(self, source: int, target: int):
        """Copy a block's keys and values, in every layer."""
        for tensor in self.memory:
            tensor[target] = tensor[source]

    def forward(self, spans: list[Span]) -> torch.Tensor:
        """Compute all tokens of the spans -> (n, V) logits of their outputs, span by span."""
        raise NotImplementedError


class Numba(Runner):
    """By the compiled engine of kernels/cpu: a pass takes any tokens of any sequences."""

    def forward(self, spans: list[Span]) -> torch.Tensor:
        from ..compiled import bound

        to, table = bound(self.model, self.pool), self.pool.block_table.numpy()
        for row, span in enumerate(spans):
            blocks = span.sequence.table.blocks
            table[row, : len(blocks)] = blocks
        counts = [len(span.ids) for span in spans]
        sequences = np.repeat(np.arange(len(spans)), counts)
        ids = np.array([i for span in spans for i in span.ids], np.int64)
        return to.engine.forward(ids, sequences, slots(spans), outputs(spans), to.slots)


@dataclass
class Call:
    """One call of the kernel: `count` tokens of each of B sequences.

    rows   (B, count) of the step's rows
    seen   (B,) int32: slots that each sequence's last token sees
    table  (B, max_pages) int32
    """

    rows: torch.Tensor
    seen: torch.Tensor
    table: torch.Tensor


class Triton(Runner):
    """By torch's invariant layers, and our kernel, which takes and writes up to ROWS tokens of a sequence."""

    @torch.no_grad()
    def forward(self, spans: list[Span]) -> torch.Tensor:
        model, device = self.model, self.model.device
        ids = torch.tensor([i for span in spans for i in span.ids], device=device)
        x = model.wte(ids) + model.wpe.weight[torch.from_numpy(slots(spans)).to(device)]  # (R, E)
        calls = self.calls(spans)
        for layer, block in enumerate(model.blocks):
            x = block(x, partial(self.attend, attention=block.attn, layer=layer, calls=calls))
        return model.logits(model.ln_f(x[torch.from_numpy(outputs(spans)).to(device)]))

    def calls(self, spans: list[Span]) -> list[Call]:
        """The kernel's calls: the first tokens of every span, then those after them; equal numbers go together."""
        groups: dict[tuple[int, int], list[tuple[int, Span]]] = {}
        first = 0
        for span in spans:
            for low in range(0, len(span.ids), ROWS):
                groups.setdefault((low, min(ROWS, len(span.ids) - low)), []).append((first + low, span))
            first += len(span.ids)
        return [self.call(*key, groups[key]) for key in sorted(groups)]

    def call(self, low: int, count: int, group: list[tuple[int, Span]]) -> Call:
        """The call for tokens low ... low + count - 1 of some spans; each comes with the row of the first of them."""
        rows = np.array([first for first, _ in group])[:, None] + np.arange(count)
        seen = np.array([span.start + low + count for _, span in group], np.int32)
        table = np.full((len(group), self.most), -1, np.int32)
        for row, (_, span) in zip(table, group, strict=True):
            blocks = span.sequence.table.blocks
            row[: len(blocks)] = blocks
        return Call(*(torch.from_numpy(array).to(self.model.device) for array in (rows, seen, table)))

    def attend(self, x, attention: Attention, layer: int, calls: list[Call]):
        """Attention of all rows x (R, E) -> (R, E)"""
        from ...kernels.attention import check_engine, decode_attention

        pool, R = self.pool, len(x)
        q, k, v = attention.c_attn(x).view(R, 3, attention.n_head, -1).unbind(1)  # (R, H, D) each
        o = torch.empty_like(q)
        k_scale, v_scale = (None if scale is None else scale[layer] for scale in (pool.k_scale, pool.v_scale))
        for call in calls:
            some = q[call.rows]  # (B, count, H, D)
            found = decode_attention(
                some, pool.k[layer], pool.v[layer], call.seen, k_new=k[call.rows], v_new=v[call.rows],
                block_table=call.table, workspace=pool.workspace, engine=check_engine(None, some, False, 2),
                k_scale=k_scale, v_scale=v_scale,
            )  # fmt: skip
            o[call.rows] = cast(torch.Tensor, found)
        return attention.c_proj(o.view(R, -1))


def slots(spans: list[Span]) -> np.ndarray:
    """(R,) int64: the slot of every token."""
    return np.concatenate([np.arange(span.start, span.start + len(span.ids)) for span in spans])


def outputs(spans: list[Span]) -> np.ndarray:
    """The rows whose logits are wanted, int64, increasing."""
    ends = np.cumsum([len(span.ids) for span in spans])
    return np.concatenate([np.arange(end - span.outputs, end) for end, span in zip(ends, spans, strict=True)])


def block_bytes(model: GPT2, page: int, kv_dtype: str | None) -> int:
    """Bytes of a block: keys and values of `page` tokens in every layer."""
    config = model.config
    row = config.head_dim * model.dtype.itemsize if kv_dtype is None else config.head_dim + 4  # 8 bits, and a scale
    return 2 * config.n_layer * config.n_head * page * row


RUNNERS: dict[str, type[Runner]] = {"numba": Numba, "triton": Triton}
