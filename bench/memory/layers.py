"""Which layers of a model keep keys and values, and how wide: read off the fields of its config.json.

Only model types whose cache has been compared with a real one are counted (tests/bench/memory/test_layers.py); a config
that speaks of another kind of cache is refused by name.
"""

from typing import NamedTuple

from ...reference.config import brief

# Every layer keeps K and V of num_key_value_heads heads. Compared with the caches of transformers 5.24.
_UNIFORM = """
    afmoe apertus arcee aria_text biogpt bitnet bloom codegen cohere cohere2 cohere2_moe cwm diffllama doge dots1
    ernie4_5 ernie4_5_moe exaone exaone4 exaone_moe falcon flex_olmo gemma gemma2 gemma3_text glm glm4 glm4_moe gpt2
    gpt_bigcode gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa
    granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 jais2 llama llama4_text
    mellum minimax_m2 ministral ministral3 mistral mixtral modernbert-decoder mpt nanochat nemotron olmo olmo2 olmo3
    olmoe opt persimmon phi phi3 phi4_multimodal phimoe qwen2 qwen2_moe qwen3 qwen3_moe sarvam_moe seed_oss smollm3
    solar_open stablelm starcoder2 vaultgemma xglm
"""
# Some layers keep another state, or none; which, a field says.
_HYBRID = """
    bamba deci falcon_h1 granitemoehybrid jamba lara_mini lfm2 lfm2_moe lfm3 minimax nemotron_h nemotron-nas
    olmo_hybrid openelm qwen3_5_moe_text qwen3_5_text qwen3_next
"""
UNIFORM, HYBRID = frozenset(_UNIFORM.split()), frozenset(_HYBRID.split())
GEMMA4 = frozenset({"gemma4_text", "gemma4_unified_text"})  # two widths of heads; the last layers may share
KEEPING = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention", "hybrid"})
EMPTY = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "mlp", "moe"})
OTHER = {  # fields of a cache that is not K and V per layer and head, whatever the model type
    "kv_lora_rank": "a latent is cached",
    "is_encoder_decoder": "an encoder's keys and values are cached too",
    "cross_attention_layers": "an encoder's keys and values are cached too",
    "use_cla": "layers share their keys and values",
    "cla_share_factor": "layers share their keys and values",
    "swa_head_dim": "layers with a window have heads of another width",
    "swa_num_key_value_heads": "layers with a window have another number of heads",
}


QUERY_HEADS = ("num_attention_heads", "n_head", "n_heads", "attention_heads")  # what families call them


class Rows(NamedTuple):
    """What one token adds in one layer: `heads` rows of K and of V, so many numbers wide."""

    heads: int
    k: int
    v: int


def layers_of(raw: dict) -> list[Rows | None]:
    """What each layer caches of one token, None where it keeps no K and V; raw is the text model's config.json.

    Raises ValueError for a model type that is not known here, for fields that speak of another cache, and for those
    that are missing or senseless.
    """
    refuse_other_caches(raw)
    names = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers")
    blocks = raw.get("layers_block_type")  # Nemotron-H gives its layers by these alone
    L = whole(raw, *names, default=len(blocks) if isinstance(blocks, list) else None)
    heads, width = heads_of(raw, L), head_dim_of(raw)
    rows = [Rows(n, width, width) if n and keeps else None for n, keeps in zip(heads, schedule(raw, L), strict=True)]
    rows = gemma4(raw, rows) if raw.get("model_type") in GEMMA4 else rows
    return [row and overridden(raw, i, row) for i, row in enumerate(rows)]


def overridden(raw: dict, i: int, row: Rows) -> Rows:
    """Layer i's row with what per_layer_config, as transformers 5 writes it, says of that layer alone."""
    layers = raw.get("per_layer_config") or {}
    own = layers.get(str(i), {}) if isinstance(layers, dict) else None
    if not isinstance(own, dict) or any("skip" in name or "no_op" in name for name in own):
        raise ValueError(f"per_layer_config of layer {i} is {brief(own)}; only other heads and widths are known here")
    width = whole(own, "head_dim", default=row.k)
    return Rows(whole(own, "num_key_value_heads", default=row.heads), width, width)


def refuse_other_caches(raw: dict):
    """ValueError unless the model type is one whose cache is known here, and no field speaks of another."""
    kind = raw.get("model_type", "llama")
    allowed = {"num_kv_shared_layers"} if kind in GEMMA4 else set()
    for name, why in (OTHER | {"num_kv_shared_layers": "layers share their keys and values"}).items():
        if raw.get(name) and name not in allowed:
            raise ValueError(f"{name} is {brief(raw[name])}: {why}, which is not counted here")
    if kind not in UNIFORM | HYBRID | GEMMA4:
        raise ValueError(
            f"model_type {brief(kind)} is not one whose cache is known here; if each of its layers keeps K and V of "
            'every token, say so in a copy of its config.json: "model_type": "llama"'
        )


def heads_of(raw: dict, L: int) -> list[int]:
    """KV heads of each layer, 0 where a layer has none."""
    query = whole(raw, *QUERY_HEADS, default=0)
    blocks, listed = raw.get("block_configs"), raw.get("num_key_value_heads_per_layer")
    if isinstance(blocks, list):
        listed = [block_heads(block, query) for block in blocks]
    for name in ("num_kv_heads", "num_key_value_heads"):
        listed = raw[name] if listed is None and isinstance(raw.get(name), list) else listed
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != L:
            raise ValueError(f"KV heads layer by layer are {brief(listed)}; there must be {L}, one for each layer")
        found = [0 if n is None else n for n in listed]
        queries = raw.get("num_query_heads")  # of each layer, as OpenELM has it
        pairs = zip(queries if isinstance(queries, list) else [query] * L, found, strict=False)
    else:
        attn = raw.get("attn_config")  # MPT's
        grouped = attn.get("kv_n_heads") if isinstance(attn, dict) else None
        one = whole(raw, "num_key_value_heads", "num_kv_heads", default=0) or grouped or query
        if raw.get("multi_query") is True and not raw.get("new_decoder_architecture"):
            one = 1  # one K and V for all query heads, under the name that Falcon and GPT-BigCode give it
        elif raw.get("model_type") in ("falcon", "gpt_bigcode") and not raw.get("new_decoder_architecture"):
            one = query
        found, pairs = [one] * L, [(query, one)]
    for heads, n in pairs:
        if type(n) is not int or n < 0 or not heads or (n and heads % n):
            raise ValueError(f"{heads} query heads came with {brief(n)} KV heads; each KV head serves equally many")
    return found


def block_heads(block: dict, query: int) -> int:
    """KV heads of a layer of a Nemotron-NAS, whose attention may be left out or be a matrix."""
    attention = block.get("attention") if isinstance(block, dict) else None
    if not isinstance(attention, dict):
        raise ValueError(f"block_configs has {brief(block)}; each must tell of its attention")
    if attention.get("no_op") or attention.get("replace_with_linear"):
        return 0
    return query // whole(attention, "n_heads_in_group")


def head_dim_of(raw: dict) -> int:
    """Numbers in a row of K, and of V."""
    if raw.get("head_dim") is not None:
        return whole(raw, "head_dim")
    heads = whole(raw, *QUERY_HEADS)
    width = whole(raw, "hidden_size", "n_embd", "d_model")
    if width % heads:
        raise ValueError(f"hidden_size {width} is no multiple of {heads} heads, and there is no head_dim")
    return width // heads


def schedule(raw: dict, L: int) -> list[bool]:
    """Which of L layers have attention, by each field that speaks of it.  Raises ValueError where two disagree."""
    said = {}
    for name in ("layer_types", "layers_block_type"):
        if isinstance(raw.get(name), list):
            other = {str(kind) for kind in raw[name]} - KEEPING - EMPTY
            if other:
                raise ValueError(f"{name} has {', '.join(sorted(other))}; only attention layers are counted")
            said[name] = [kind in KEEPING for kind in raw[name]]
    if raw.get("attn_layer_period") is not None:
        period, offset = whole(raw, "attn_layer_period"), raw.get("attn_layer_offset") or 0
        said["attn_layer_period"] = [i % period == offset for i in range(L)]
    if raw.get("full_attention_interval") is not None:
        every = whole(raw, "full_attention_interval")
        said["full_attention_interval"] = [(i + 1) % every == 0 for i in range(L)]
    for name in ("attn_layer_indices", "full_attn_idxs"):
        if isinstance(raw.get(name), list):
            said[name] = [i in raw[name] for i in range(L)]
    for name, mark in (("hybrid_override_pattern", "*"), ("attn_type_list", 1)):
        if isinstance(raw.get(name), (str, list)):
            said[name] = [kind == mark for kind in raw[name]]
    for name, which in said.items():
        if len(which) != L:
            raise ValueError(f"{name} has {len(which)} layers; the model has {L}")
    if len(set(map(tuple, said.values()))) > 1:
        raise ValueError(f"{' and '.join(said)} name different layers for attention; one of them is wrong")
    kind = raw.get("model_type")
    if not said and kind in HYBRID - {"falcon_h1", "openelm", "deci", "nemotron-nas"}:
        raise ValueError(f"config.json of a {kind} does not say which of its {L} layers have attention")
    return next(iter(said.values()), [True] * L)


def gemma4(raw: dict, rows: list[Rows | None]) -> list[Rows | None]:
    """Rows of a Gemma 4: full attention has heads of its own, and the last layers use the keys of earlier ones."""
    if not isinstance(raw.get("layer_types"), list):
        raise ValueError("config.json of a Gemma 4 has no layer_types; they say which heads are wide")
    wide = whole(raw, "global_head_dim", default=head_dim_of(raw))
    heads = raw.get("num_global_key_value_heads")
    shared = raw.get("num_kv_shared_layers") or 0
    for i, kind in enumerate(raw["layer_types"]):
        if kind == "full_attention" and (row := rows[i]):
            rows[i] = Rows(heads or row.heads, wide, wide)
    return [*rows[: len(rows) - shared], *[None] * shared]


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
