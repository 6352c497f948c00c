"""Wrong operations outside the attention, computed from right inputs: LayerNorms, projections, MLP, head.

GPT-2's alone have a plain formula here; of other families only positions are tried, where the model's are rotations.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ....reference.config import Config
from ....reference.model import gelu, layer_norm, linear
from ..tracing.tape import Activation
from .explanation import Candidate, Explanation, choose
from .token_positions import explain_positions, weights_of

WIDE = 4096  # columns up to which a move of all of them is tried
KINDS = {"head": "head", "mlp": "mlp", "ln_1": "norm", "ln_2": "norm", "ln_f": "norm"}  # of hypotheses
Places = Mapping[tuple[int | None, str], Activation]


def explain_operation(
    layer: int | None, operation: str, a: Places, b: Places, subject: Any, parted
) -> Explanation | None:
    """What makes a's operation part from b's, all before it agreeing; None where nothing tried does, or too much.

    parted  (B, n) where they part
    """
    came, right = a[layer, operation].value, b[layer, operation].value
    if came.shape != right.shape or not np.isfinite(came[parted]).all():
        return None
    if operation in ("embed", "positions"):
        return explain_positions(came, right, subject, parted, operation)
    known = weights_of(subject)
    size = np.abs(came - right)[parted].max()
    rms = float(np.sqrt(np.mean(np.square(right))))

    def left(other: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            part = np.abs(came - other)[parted].max() / size if other.shape == came.shape else np.inf
        return float(part) if np.isfinite(part) else np.inf

    tried = [
        *elsewhere(operation, came, right, parted),
        *(formulas(layer, operation, b, *known, came) if known else ()),
    ]
    return choose([Candidate(name, words, left(other)) for name, words, other in tried], float(size / (rms or 1.0)))


def elsewhere(operation: str, came: np.ndarray, right: np.ndarray, parted) -> Iterator[tuple[str, str, np.ndarray]]:
    """The right numbers in another place: of another token, in other columns, times a number."""
    B, n = right.shape[:2]
    wide, places = right.reshape(B * n, -1), np.argwhere(parted)
    if B * n > 1:
        other, pairs = right.copy(), []
        for row, step in places:
            far = np.abs(wide - came[row, step].ravel()).max(1)
            far[row * n + step] = np.inf
            at = int(far.argmin())
            other[row, step] = right[at // n, at % n]
            pairs.append(f"that of step {at % n} of sequence {at // n} for step {step} of sequence {row}")
        words = f"the result is another token's: {pairs[0]}{', …' * (len(pairs) > 1)}"
        yield "last token", words, other
    factor = float((came * right).sum() / max((right * right).sum(), 1e-300))
    words = f"the result is multiplied by {factor:.4g}" if abs(factor) > 1e-12 else "the result is zero"
    yield "projection", words, factor * right
    if B * n > 2 and wide.shape[1] <= WIDE:
        for by in shifts(came.reshape(B * n, -1), wide):
            words = f"the columns are moved by {by}: a weight is split or laid out wrongly"
            if operation == "head":
                words = f"the head's rows are moved by {by}: it is not the embedding it is tied to"
            yield KINDS.get(operation, "projection"), words, np.roll(wide, by, 1).reshape(right.shape)


def shifts(flat: np.ndarray, wide: np.ndarray) -> list[int]:
    """By how many columns the right numbers may have moved: where the first column's numbers are found again."""
    far = np.abs(flat - wide[:, :1]).max(0)
    by = int(far.argmin())
    return [by] if by else []


def stream(b: Places, layer: int, branch: str) -> np.ndarray:
    """The residual stream that enters ln_1 or ln_2 of a layer, as the trusted path computes it."""
    x = b[None, "embed"].value
    for done in range(layer):
        x = x + b[done, "c_proj"].value + b[done, "mlp"].value
    return x + b[layer, "c_proj"].value if branch == "ln_2" else x


def formulas(layer, operation: str, b: Places, params: dict, config: Config, came) -> Iterator[tuple[str, str, Any]]:
    """(kind, sentence, result) of GPT-2's operation computed wrongly."""
    p = params["h"][layer] if layer is not None else params
    if operation in ("ln_1", "ln_2", "ln_f"):
        at = (layer, operation) if layer is not None else (config.n_layer, "ln_1")
        yield from norms(stream(b, *at), p[operation], config.layer_norm_epsilon, came, b, layer, operation)
    elif operation == "c_attn":
        yield from projections(b[layer, "ln_1"].value, p["attn"]["c_attn"], came.shape)
        yield from thirds(came, b[layer, "c_attn"].value)
    elif operation == "c_proj":
        x = b[layer, "attention"].value
        yield from projections(x.reshape(*x.shape[:2], -1), p["attn"]["c_proj"], came.shape)
        turned = x.swapaxes(2, 3).reshape(*x.shape[:2], -1)
        yield "projection", "heads and columns are not transposed before c_proj", linear(turned, p["attn"]["c_proj"])
    elif operation == "mlp":
        yield from activations(b[layer, "ln_2"].value, p["mlp"], config)
    elif operation == "head":
        yield from heads(b, params, config)


def thirds(came, right) -> Iterator[tuple[str, str, np.ndarray]]:
    """Queries, keys or values alone times a number; came and right (B, n, 3 H, D)."""
    H = right.shape[2] // 3
    for i, words in enumerate(("queries", "keys", "values")):
        part, other = slice(i * H, (i + 1) * H), right.copy()
        factor = float((came[:, :, part] * right[:, :, part]).sum() / np.square(right[:, :, part]).sum())
        other[:, :, part] *= factor
        yield "projection", f"the {words} are multiplied by {factor:.4g}", other


def norms(x, p, eps: float, came, b: Places, layer, operation: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """(kind, sentence, result) of a LayerNorm of the stream x (B, n, E) computed wrongly."""
    for other in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12, 0.0, 10 * eps, eps / 10):
        if not np.isclose(other, eps, rtol=1e-3):
            yield "norm", f"the LayerNorm's epsilon is {other:.0e}, not {eps:.0e}", layer_norm(x, p, other)
    yield "norm", "the LayerNorm is left out", x
    bare = {"weight": np.ones_like(p["weight"]), "bias": p["bias"]}
    yield "norm", "the LayerNorm's weight is not applied", layer_norm(x, bare, eps)
    yield "norm", "the LayerNorm's bias is not added", layer_norm(x, p | {"bias": np.zeros_like(p["bias"])}, eps)
    scale = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    yield "norm", "the mean is not subtracted (RMSNorm for LayerNorm)", scale * p["weight"] + p["bias"]
    if operation == "ln_2":
        lost = x - b[layer, "c_proj"].value
        yield "projection", "the attention's result is not added to the stream", layer_norm(lost, p, eps)
        only = b[layer, "c_proj"].value
        yield "projection", "the stream before the attention is not kept (no residual)", layer_norm(only, p, eps)


def projections(x, p, shape) -> Iterator[tuple[str, str, np.ndarray]]:
    w, bias = p["weight"], p["bias"]
    yield (
        "projection",
        "the result is the bias alone: the input is lost",
        np.broadcast_to(bias, (*x.shape[:2], len(bias))).reshape(shape),
    )
    yield "projection", "the bias is not added", (x @ w).reshape(shape)
    yield "projection", "the bias is added twice", (x @ w + 2 * bias).reshape(shape)
    if w.shape[0] == w.shape[1]:
        yield "projection", "the square weight is untransposed", (x @ w.T + bias).reshape(shape)
    product = x @ w
    for by in range(1, w.shape[1]):
        if w.shape[1] > WIDE:
            break
        words = f"the weight's columns are moved by {by}: it is split or laid out wrongly"
        yield "projection", words, (np.roll(product, by, -1) + bias).reshape(shape)
    if w.shape[1] == 3 * w.shape[0]:
        for parts in (2, 4, 8):
            if w.shape[0] % parts == 0:
                order = sharded(w.shape[0], parts)
                words = f"the fused weight is cut in {parts} shards as one block, not query, key and value each"
                yield "projection", words, (product[..., order] + bias[order]).reshape(shape)
                yield "projection", words, (product[..., order] + bias).reshape(shape)


def sharded(E: int, parts: int) -> np.ndarray:
    """Which columns of a fused (E, 3 E) weight stand where, when each of `parts` shards is taken for q, k and v."""
    whole = np.arange(3 * E).reshape(parts, 3, E // parts)
    return whole.swapaxes(0, 1).ravel()


def activations(x, p, config: Config) -> Iterator[tuple[str, str, np.ndarray]]:
    inner = linear(x, p["c_fc"])
    silu = inner / (1 + np.exp(-inner))
    quick = inner / (1 + np.exp(-1.702 * inner))
    other = {"tanh": "exact", "exact": "tanh"}[config.gelu]
    for words, y in (
        (f"the GELU is the {other} one, not the {config.gelu} one", gelu(inner, other)),
        ("the activation is ReLU, not GELU", np.maximum(inner, 0)),
        ("the activation is SiLU, not GELU", silu),
        ("the GELU is x sigmoid(1.702 x)", quick),
        ("there is no activation between the MLP's layers", inner),
    ):
        yield "mlp", words, linear(y, p["c_proj"])
    right = gelu(inner, config.gelu)
    yield "mlp", "the MLP's last bias is not added", right @ p["c_proj"]["weight"]
    bare = gelu(inner - p["c_fc"]["bias"], config.gelu)
    yield "mlp", "the MLP's first bias is not added", linear(bare, p["c_proj"])


def heads(b: Places, params: dict, config: Config) -> Iterator[tuple[str, str, np.ndarray]]:
    x = b[None, "ln_f"].value
    tied = params["wte"]["weight"]
    if not config.tie_word_embeddings:
        yield "head", "the head is the embedding, though the model has one of its own", x @ tied.T
    last = stream(b, config.n_layer, "ln_1")
    head = tied if config.tie_word_embeddings else params["lm_head"]["weight"]
    yield "head", "the head reads the last block's output, not the final LayerNorm's", last @ head.T
