"""torch.autocast("cuda") for tensors of the CPU: what torch casts on a GPU is cast here by the same lists.

Source: torch's documentation of torch.amp: "CUDA Ops that can autocast to float16", to float32, to the widest input.
Functions are seen where Python calls them; of one written in Python its own casts count, not those of what it calls.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import overrides
from torch.overrides import TorchFunctionMode

from . import replaced
from .places import said

LOWER = (
    "matmul", "__matmul__", "__rmatmul__", "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "chain_matmul",
    "multi_dot", "mm", "mv", "vecdot", "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "conv_tbc", "prelu", "einsum", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "scaled_dot_product_attention",
)  # fmt: skip
FULL = (
    "__pow__", "__rpow__", "__rdiv__", "__rtruediv__", "acos", "asin", "binary_cross_entropy_with_logits",
    "cosine_embedding_loss", "cdist", "cosine_similarity", "cosh", "cross_entropy", "cumprod", "cumsum", "dist",
    "erfinv", "exp", "expm1", "group_norm", "hinge_embedding_loss", "kl_div", "huber_loss", "l1_loss", "layer_norm",
    "log", "log10", "log_softmax", "log1p", "log2", "logsumexp", "margin_ranking_loss", "mse_loss",
    "multi_margin_loss", "multilabel_margin_loss", "nll_loss", "norm", "pdist", "poisson_nll_loss", "pow", "prod",
    "reciprocal", "renorm", "rsqrt", "sinh", "smooth_l1_loss", "soft_margin_loss", "softmax", "softmin", "softplus",
    "sum", "tan", "triplet_margin_loss", "vector_norm",
)  # fmt: skip
WIDEST = (
    "addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sample", "index_put", "scatter_add", "tensordot",
)  # fmt: skip
LOW = (torch.float16, torch.bfloat16)


def cast(values: Any, to: torch.dtype) -> Any:
    """Float tensors of 16 and 32 bits on the GPU as another dtype, in lists too."""
    if isinstance(values, torch.Tensor):
        return values.to(to) if values.dtype in (*LOW, torch.float32) and said(values).type == "cuda" else values
    return type(values)(cast(x, to) for x in values) if type(values) in (list, tuple) else values


class Casting(TorchFunctionMode):
    """Within `torch.autocast("cuda")`."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "").partition(".")[0]
        known = name in LOWER or name in FULL or name in WIDEST
        if not known or not torch.is_autocast_enabled("cuda"):
            return func(*args, **kwargs)
        to = torch.get_autocast_dtype("cuda") if name in LOWER else torch.float32
        if name in WIDEST:
            dtypes = {x.dtype for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)}
            to = to if torch.float32 in dtypes else torch.get_autocast_dtype("cuda")
        if kwargs.get("dtype") is not None:  # which says what to sum in
            return func(*args, **kwargs)
        return func(*cast(args, to), **{key: cast(x, to) for key, x in kwargs.items()})


@contextmanager
def casting() -> Iterator[None]:
    """A pretence, for an autocast that was entered before it, or is left after it.

    One that was made before it where there is no GPU stays off, as torch warns then.
    """
    if torch.is_autocast_enabled("cuda"):
        Casting().__enter__()
    try:
        yield
    finally:
        modes = overrides._get_current_function_mode_stack()
        if any(isinstance(mode, Casting) for mode in modes):
            for _ in modes:
                overrides._pop_mode()
            for mode in modes:
                if not isinstance(mode, Casting):
                    overrides._push_mode(mode)


def enter(usual: Any, self: Any) -> Any:
    left = usual(self)
    if self.device == "cuda":
        self._kvproof_casting = Casting()
        self._kvproof_casting.__enter__()
    return left


def leaving(usual: Any, _: None) -> Any:
    def __exit__(self, *error):
        casting = vars(self).pop("_kvproof_casting", None)
        if casting is not None:
            casting.__exit__(*error)
        return usual(self, *error)

    return __exit__


def put_all() -> None:
    replaced.put(torch.amp.autocast_mode.autocast, "__enter__", replaced.around, enter)
    replaced.put(torch.amp.autocast_mode.autocast, "__exit__", leaving, None)
