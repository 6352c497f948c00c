"""How many bytes a model's weights and its KV cache take, by arithmetic: nothing is allocated.

One token of one sequence takes, in each layer that keeps K and V, n_kv_head rows of each, head_dim numbers wide. The
figures equal `nbytes` of the caches of gpt2/cache.py and reference/cache.py, and of transformers'; tests compare them.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from ...reference.config import Config, brief
from ...reference.synthetic import SIZES, recipe
from .layers import QUERY_HEADS, Rows, layers_of, whole

ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
SCALE = 4  # bytes of int8's float32 scale, one per token and KV head, for K and for V
GPT3 = Config(n_ctx=2048, n_embd=12288, n_head=96, n_layer=96, n_inner=49152)  # Brown et al. 2020, arXiv:2005.14165

# Dense decoders whose parameters the fields of config.json determine: (q, k, v biases; norms of q and k).
DENSE = {"llama": (False, False), "mistral": (False, False), "qwen2": (True, False), "qwen3": (False, True)}


@dataclass(frozen=True)
class Shape:
    """What of a model decides the size of its cache, and how many parameters it has (None: not known).

    layers  what each layer keeps of one token, None where it keeps no K and V
    """

    name: str
    layers: list[Rows | None]
    n_head: int
    n_ctx: int
    parameters: int | None
    notes: list[str] = field(default_factory=list)

    @property
    def kept(self) -> list[Rows]:
        return [rows for rows in self.layers if rows]

    @property
    def numbers(self) -> int:
        """Numbers that one token of one sequence adds: K and V of all layers."""
        return sum(rows.heads * (rows.k + rows.v) for rows in self.kept)

    @property
    def scales(self) -> int:
        """Scales that it adds if they are int8."""
        return sum(2 * rows.heads for rows in self.kept)

    def heads(self) -> str:
        """The layers in words: "12 layers, 12 KV heads of 12, head_dim 64"."""
        kinds = list(dict.fromkeys(self.kept))
        if len(kinds) == 1 and len(self.kept) == len(self.layers):
            return f"{len(self.layers)} layers, {kinds[0].heads} KV heads of {self.n_head}, head_dim {kinds[0].k}"
        each = [f"{self.kept.count(x)} with {x.heads} KV heads of {self.n_head}, head_dim {x.k}" for x in kinds]
        return "; ".join([f"{len(self.layers)} layers, of which {len(self.kept)} keep K and V", *each])

    def token_bytes(self, dtype: str) -> int:
        """Bytes that one token of one sequence adds: K and V of all layers, int8's scales included."""
        return self.numbers * ITEMSIZE[dtype] + (self.scales * SCALE if dtype == "int8" else 0)

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of the weights beside a cache of this dtype; ValueError where the parameters are not known.

        int8 is the cache's alone: the weights beside it are taken as bfloat16.
        """
        if self.parameters is None:
            raise ValueError(f"{self.name}'s config.json does not tell its parameters; pass --parameters")
        return self.parameters * ITEMSIZE["bfloat16" if dtype == "int8" else dtype]


def read_shape(name: str) -> Shape:
    """The Shape of "gpt2", "random:gpt2-xl", "tiny", "gpt3", a folder with a config.json, or such a file.

    Raises ValueError (ConfigError among them) for an unknown name or a config whose cache is not K and V per token.
    """
    size = name.removeprefix("random:")
    if size in SIZES or size == "gpt3":
        return of_gpt2(size, SIZES.get(size, GPT3))
    if name == "tiny":
        from ...gpt2.weights import EMBEDDED  # imports torch, which no other name needs

        path = EMBEDDED["tiny"]
    else:
        path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no model {name!r}; name a folder, a config.json, tiny, {', '.join(SIZES)} or gpt3")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds {brief(raw)}; a config.json holds an object")
    label = name if path.name != "config.json" or name == "tiny" else path.resolve().parent.name
    if raw.get("model_type", "gpt2") == "gpt2" and "n_embd" in raw:
        return of_gpt2(label, Config.from_dict(raw))
    return of_config(label, raw)


def of_gpt2(name: str, config: Config) -> Shape:
    """The Shape of a GPT-2 or GPT-3, its parameters counted tensor by tensor."""
    parameters = sum(math.prod(shape) for _, shape, _, _ in recipe(config))
    rows = Rows(config.n_head, config.head_dim, config.head_dim)
    return Shape(name, [rows] * config.n_layer, config.n_head, config.n_ctx, parameters)


def of_config(name: str, raw: dict) -> Shape:
    """The Shape that a config.json describes; of several modalities, the text's.

    Raises ValueError as `layers_of` does: a cache is counted exactly, or refused by name.
    """
    text = raw.get("text_config")
    notes = ["text_config is read; other modalities keep no cache of their own"] if isinstance(text, dict) else []
    raw = text if isinstance(text, dict) else raw
    layers = layers_of(raw)
    if not any(layers):
        raise ValueError(f"none of its {len(layers)} layers keeps K and V; there is no KV cache to count")
    without = sum(rows is None for rows in layers)
    if without:
        notes.append(f"{without} of {len(layers)} layers keep no K and V; their state, of a fixed size, is not counted")
    window = raw.get("sliding_window")
    if window is not None and raw.get("use_sliding_window", True):
        notes.append(
            f"sliding_window {brief(window)} saves nothing here: every token is counted, as in a cache that keeps "
            f"all; one that drops what the window has passed stays at {brief(window)} tokens in the layers that slide"
        )
    if raw.get("model_type") == "falcon" and raw.get("new_decoder_architecture"):
        notes.append("transformers repeats these K and V for every query head before it caches them; others need not")
    # ALiBi has no last position, and transformers' config of a BLOOM none: it was trained on 2048 tokens.
    trained = 2048 if raw.get("model_type") == "bloom" else None
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "max_context_length", "seq_length")
    n_ctx = whole(raw, *names, default=trained)
    # Of query heads there are no fewer than of a layer's KV heads.
    heads = whole(raw, *QUERY_HEADS, default=max(rows.heads for rows in layers if rows))
    return Shape(name, layers, heads, n_ctx, dense_parameters(raw, layers, heads), notes)


def dense_parameters(raw: dict, layers: list[Rows | None], H: int) -> int | None:
    """Parameters of a dense decoder of these layers and H query heads; None for a model_type not in DENSE."""
    kind, first, L = raw.get("model_type"), layers[0], len(layers)
    if not isinstance(kind, str) or kind not in DENSE or first is None or layers.count(first) != L:
        return None
    G, D, _ = first
    V, E, inner = whole(raw, "vocab_size"), whole(raw, "hidden_size"), whole(raw, "intermediate_size")
    qkv_bias, qk_norm = DENSE[kind]
    attention = 2 * E * H * D + 2 * E * G * D + (qkv_bias * (H + 2 * G) + qk_norm * 2) * D
    if raw.get("attention_bias"):
        attention += (H + 2 * G) * D + E
    tied = raw.get("tie_word_embeddings", False)
    mlp = 3 * E * inner + (2 * inner + E if raw.get("mlp_bias") else 0)
    return V * E * (1 if tied else 2) + L * (attention + mlp + 2 * E) + E


def cache_bytes(shape: Shape, kind: str, batch: int, capacity: int, dtype: str, page: int | None = None) -> dict:
    """Bytes of each part of an empty cache for `batch` sequences of `capacity` tokens.

    kind     "static" (gpt2.cache.StaticCache), "triton" (the same, made for that impl), "contiguous", "paged" or
             "int8" (reference.cache); paged has as many pages as `batch` full sequences need. In int8 static and
             paged are those of gpt2.int8_cache
    dtype    a name in ITEMSIZE: of K and V; int8's is "int8"
    returns  kv, scales and the bookkeeping: lengths, rows (of StaticCache), block_table, free_list (of PagedCache: the
             pointers of its Python list), workspace (what splits of a long context wait in)
    """
    slots, parts = batch * capacity, {"lengths": 4 * batch}
    if kind == "paged":
        assert page
        pages = batch * -(-capacity // page)
        slots = pages * page
        parts |= {"block_table": 4 * pages, "free_list": 8 * pages}
    elif kind in ("static", "triton"):
        parts["rows"] = 8 * batch
    if kind == "triton":
        from ...kernels.attention import max_splits  # imports torch

        sums, queries = 8 if dtype == "float64" else 4, batch * shape.n_head
        tags = 2 * 4 * queries * max_splits(capacity) + 4 * queries + 4  # and a counter per query, and the fault flag
        parts["workspace"] = sums * queries * max_splits(capacity) * (shape.kept[0].v + 2) + tags
    scales = shape.scales * slots * SCALE if dtype == "int8" else 0
    return {"kv": shape.numbers * slots * ITEMSIZE[dtype], "scales": scales} | parts


def waste(capacity: int, page: int | None) -> tuple[float, int]:
    """Slots a sequence holds and does not fill: (mean, worst) over all lengths 1..capacity, each as likely.

    Contiguous (page None) it holds `capacity` whatever its length. In pages it loses (-n) mod page, of which the sum
    over n = 1..capacity, capacity = q page + r, is q page (page - 1)/2 + r page - r (r + 1)/2.
    """
    if page is None:
        return (capacity - 1) / 2, capacity - 1
    q, r = divmod(capacity, page)
    lost = q * page * (page - 1) // 2 + r * page - r * (r + 1) // 2
    return lost / capacity, page - 1


def longest_context(shape: Shape, room: int, batch: int, dtype: str, page: int | None) -> int:
    """The most tokens per sequence whose cache fits `room` bytes, 0 if none."""
    token = shape.token_bytes(dtype) * batch
    if page is None:
        return max(0, room - 4 * batch) // token
    return max(0, room - 4 * batch) // (token * page + 12 * batch) * page


def largest_batch(shape: Shape, room: int, context: int, dtype: str, page: int | None) -> int:
    """The most sequences of `context` tokens whose cache fits `room` bytes, 0 if none."""
    kind = "contiguous" if page is None else "paged"
    return max(0, room) // sum(cache_bytes(shape, kind, 1, context, dtype, page).values())
