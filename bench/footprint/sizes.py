"""How many bytes a model's weights and its KV cache take, by arithmetic: nothing is allocated.

One token of one sequence takes 2 (K and V) x n_layer x n_kv_head x head_dim numbers. The figures equal `nbytes` of the
caches of gpt2/cache.py and reference/cache.py; tests compare them.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from ...reference.config import Config, brief
from ...reference.synthetic import SIZES, recipe

ITEMSIZE = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
SCALE = 4  # bytes of int8's float32 scale, one per token and KV head, for K and for V
GPT3 = Config(n_ctx=2048, n_embd=12288, n_head=96, n_layer=96, n_inner=49152)  # Brown et al. 2020, arXiv:2005.14165

# Dense decoders whose parameters the fields of config.json determine: (q, k, v biases; norms of q and k).
DENSE = {"llama": (False, False), "mistral": (False, False), "qwen2": (True, False), "qwen3": (False, True)}


@dataclass(frozen=True)
class Shape:
    """What of a model decides the size of its cache, and how many parameters it has (None: not known)."""

    name: str
    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    n_ctx: int
    parameters: int | None
    notes: list[str] = field(default_factory=list)

    def token_bytes(self, dtype: str) -> int:
        """Bytes that one token of one sequence adds: K and V of all layers, int8's scales included."""
        row = self.head_dim * ITEMSIZE[dtype] + (SCALE if dtype == "int8" else 0)
        return 2 * self.n_layer * self.n_kv_head * row

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
    return Shape(name, config.n_layer, config.n_head, config.n_head, config.head_dim, config.n_ctx, parameters)


def of_config(name: str, raw: dict) -> Shape:
    """The Shape that a config.json of Llama's field names describes; of several modalities, the text's.

    Raises ValueError for a missing or senseless field, and for caches that hold something else than every token's K
    and V in every layer.
    """
    text = raw.get("text_config")
    notes = ["text_config is read; other modalities keep no cache of their own"] if isinstance(text, dict) else []
    raw = text if isinstance(text, dict) else raw
    refuse_other_caches(raw)
    layers, heads = whole(raw, "num_hidden_layers", "n_layer"), whole(raw, "num_attention_heads", "n_head")
    if raw.get("multi_query") is True and not raw.get("new_decoder_architecture"):
        kv_heads = 1  # one K and V for all query heads, under the name that Falcon and GPT-BigCode give it
    else:
        kv_heads = whole(raw, "num_key_value_heads", "num_kv_heads", default=heads)
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads came with {kv_heads} KV heads; each KV head serves equally many")
    if raw.get("head_dim") is None:
        width = whole(raw, "hidden_size", "n_embd")
        if width % heads:
            raise ValueError(f"hidden_size {width} is no multiple of {heads} heads, and there is no head_dim")
        head_dim = width // heads
    else:
        head_dim = whole(raw, "head_dim")
    n_ctx = whole(raw, "max_position_embeddings", "n_positions")
    window = raw.get("sliding_window")
    if window is not None and raw.get("use_sliding_window", True):
        notes.append(
            f"sliding_window {brief(window)} saves nothing here: every token is counted, as in a cache that keeps "
            f"all; one that drops what the window has passed stays at {brief(window)} tokens in the layers that slide"
        )
    parameters = dense_parameters(raw, layers, heads, kv_heads, head_dim)
    return Shape(name, layers, heads, kv_heads, head_dim, n_ctx, parameters, notes)


def refuse_other_caches(raw: dict):
    """ValueError if the fields speak of a cache that is not K and V of every token in every layer."""
    for name in ("kv_lora_rank", "num_kv_shared_layers", "is_encoder_decoder"):
        if raw.get(name):
            raise ValueError(f"{name} is {brief(raw[name])}: its cache is not K and V per layer and head, counted here")
    kinds = raw.get("layer_types")
    other = set(kinds) - {"full_attention", "sliding_attention"} if isinstance(kinds, list) else set()
    if other:
        raise ValueError(f"layer_types has {', '.join(sorted(map(str, other)))}; only attention layers are counted")


def dense_parameters(raw: dict, L: int, H: int, G: int, D: int) -> int | None:
    """Parameters of a dense decoder of L layers, H query and G KV heads of D; None for a model_type not in DENSE."""
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in DENSE:
        return None
    V, E, inner = whole(raw, "vocab_size"), whole(raw, "hidden_size"), whole(raw, "intermediate_size")
    qkv_bias, qk_norm = DENSE[kind]
    attention = 2 * E * H * D + 2 * E * G * D + (qkv_bias * (H + 2 * G) + qk_norm * 2) * D
    if raw.get("attention_bias"):
        attention += (H + 2 * G) * D + E
    tied = raw.get("tie_word_embeddings", False)
    mlp = 3 * E * inner + (2 * inner + E if raw.get("mlp_bias") else 0)
    return V * E * (1 if tied else 2) + L * (attention + mlp + 2 * E) + E


def whole(raw: dict, *names: str, default: int | None = None) -> int:
    """The first of these fields that is there, a whole number from 1 up; ValueError if none is or it is not one."""
    for name in names:
        if raw.get(name) is not None:
            if type(raw[name]) is not int or raw[name] < 1:
                raise ValueError(f"{name} is {brief(raw[name])}; it must be a whole number from 1 up")
            return raw[name]
    if default is None:
        raise ValueError(f"config.json lacks {' and '.join(names)}, by which the cache's size is known")
    return default


def cache_bytes(shape: Shape, kind: str, batch: int, capacity: int, dtype: str, page: int | None = None) -> dict:
    """Bytes of each part of an empty cache for `batch` sequences of `capacity` tokens.

    kind     "static" (gpt2.cache.StaticCache), "triton" (the same, made for that impl), "contiguous", "paged" or
             "int8" (reference.cache); paged has as many pages as `batch` full sequences need, and in int8 is
             arithmetic alone: no cache here is both
    dtype    a name in ITEMSIZE: of K and V; int8's is "int8"
    returns  kv, scales and the bookkeeping: lengths, rows (of StaticCache), block_table, free_list (of PagedCache: the
             pointers of its Python list), workspace (what splits of a long context wait in)
    """
    per_token = 2 * shape.n_layer * shape.n_kv_head
    slots, parts = batch * capacity, {"lengths": 4 * batch}
    if kind == "paged":
        assert page
        pages = batch * -(-capacity // page)
        slots = pages * page
        parts |= {"block_table": 4 * pages, "free_list": 8 * pages}
    elif kind in ("static", "triton"):
        parts["rows"] = 8 * batch
    if kind == "triton":
        from ...kernels.workspace import max_splits  # imports torch

        sums, queries = 8 if dtype == "float64" else 4, batch * shape.n_head
        tags = 2 * 4 * queries * max_splits(capacity) + 4 * queries + 4  # and a counter per query, and the fault flag
        parts["workspace"] = sums * queries * max_splits(capacity) * (shape.head_dim + 2) + tags
    scales = per_token * slots * SCALE if dtype == "int8" else 0
    return {"kv": per_token * slots * shape.head_dim * ITEMSIZE[dtype], "scales": scales} | parts


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
