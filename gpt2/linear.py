"""Linear layers and GELU: torch's fastest, and batch-invariant ones, whose rows keep their bits in any batch.

A library picks its kernel by the number of rows, so one token's logits have other last bits in another batch or prefill
chunk. The invariant versions take that choice away, at a cost; they are for the impl triton. The engine of kernels/cpu
fixes the order of every sum in its source and needs none of this. LayerNorm (row by row) and sums of residuals and
embeddings (each number rounded once) need no such care: on a CPU none of them changed a bit for 1 to 64 rows and 1 to 5
threads.
"""

import torch
import torch.nn.functional as F
from torch import nn

SMALL = 1 << 17  # elements of a weight
ROWS = 16  # of every invariant product; as many as a decode step may bring new tokens per sequence


class Conv1D(nn.Module):
    """x @ weight + bias, with the weight as GPT-2 checkpoints hold it: (n_in, n_out)."""

    def __init__(self, n_in: int, n_out: int, invariant: bool = False):
        super().__init__()
        self.linear = invariant_linear if invariant else linear
        # Long columns lie in memory one by one: a CPU then takes 0.6 to 0.9 of the time, for the same numbers.
        self.weight = nn.Parameter(torch.empty(n_out, n_in).mT if n_in > n_out else torch.empty(n_in, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))

    def forward(self, x):
        return self.linear(x, self.weight.mT, self.bias)

    def lay_by_output(self):
        """Put the weight in memory one output's inputs after another, where it does not lie so yet; its values stay."""
        if not self.weight.mT.is_contiguous():
            self.weight.data = self.weight.data.mT.contiguous().mT


def linear(x, weight, bias=None):
    """x weight^T + bias, as F.linear gives it: by oneDNN for float32 on a CPU that has it, without gradients.

    x        (..., n_in)
    weight   (n_out, n_in)  any strides: Conv1D passes a transposed view; nothing is copied or packed
    bias     (n_out,) or None
    returns  (..., n_out)

    MKL, torch's own choice for float32, takes 1.1 to 1.9 times oneDNN's time on a CPU that is not Intel's. Only for one
    row by a Conv1D weight is it ahead, or by a SMALL one, where oneDNN takes 20 us and it 5; in half precision torch
    chooses oneDNN itself.
    """
    one_row = x.numel() == x.shape[-1]
    by_onednn = not one_row or (weight.numel() > SMALL and weight.is_contiguous())
    # Dynamo cannot ask whether oneDNN is there; a compiled graph has products of its own anyway.
    by_onednn = by_onednn and not (torch.compiler.is_compiling() or torch.is_grad_enabled())
    by_onednn = by_onednn and x.dtype == torch.float32 and x.device.type == "cpu"
    if by_onednn and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def invariant_linear(x, weight, bias=None):
    """`linear`, where a row's bits depend on that row alone: not on the number, content or order of the others.

    Shapes as in `linear`. The rows go through it ROWS at a time, the last group padded with zeros, from memory of its
    own: float64 products change with the alignment of x. One kernel then does all the work; it must treat its ROWS
    places alike, which `keeps_bits` checks. Bits with gradients differ from those without.

    Measured with torch 2.14.1 on an AMD EPYC (oneDNN for float32, MKL for float64), one thread and two: it does, for
    each product of the tiny, 124M and XL models. Not measured on a GPU. On an Intel Xeon with AVX-512, MKL's float64
    products have other bits with two threads than with one, unless MKL_CBWR=AVX512,STRICT is set. The 124M model
    without its attention takes 2.5 to 2.7 times as long for a token of one sequence, 1.4 to 1.5 for one of each of 8,
    1.5 for a prefill of 64 (float64: 3.4, 1.3, 2.2; one thread, medians of alternating runs on a busy machine).
    """
    rows = x.reshape(-1, x.shape[-1])
    padded = x.new_zeros(-(-len(rows) // ROWS) * ROWS, x.shape[-1])
    padded[: len(rows)] = rows
    y = torch.cat([linear(group, weight, bias) for group in padded.split(ROWS)])
    return y[: len(rows)].view(*x.shape[:-1], weight.shape[0])


def invariant_gelu(x, approximate: str = "tanh"):
    """F.gelu(x, approximate=...), where a row's bits depend on that row alone.  x (..., n) -> (..., n)

    A CPU computes most numbers in vectors and, in other last bits, those left over at the end of each thread's share,
    which change with the number of rows but not row by row. On a GPU every number has a thread of its own.
    """
    if x.device.type != "cpu":
        return F.gelu(x, approximate=approximate)
    rows = x.reshape(-1, x.shape[-1])
    return torch.cat([F.gelu(row, approximate=approximate) for row in rows.split(1)]).view(x.shape)


@torch.no_grad()
def keeps_bits(weight, bias=None) -> bool:
    """Whether a row has the same bits at each of the ROWS places of `linear`: among zeros, random rows and NaN.

    weight   (n_out, n_in) and bias (n_out,) as `invariant_linear` takes them; it runs 3 * ROWS products by them
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(weight)

    row, want = random(weight.shape[1]), None
    nothing = torch.zeros_like(row)
    for others in (nothing, random(ROWS, weight.shape[1]), nothing / nothing):
        for place in range(ROWS):
            x = others.expand(ROWS, -1).clone()
            x[place] = row
            y = linear(x, weight, bias)[place]
            want = y if want is None else want
            if not torch.equal(y, want):
                return False
    return True
