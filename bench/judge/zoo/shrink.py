"""The configuration of a tiny model of any architecture: each size replaced, each list of layers cut down."""

from typing import Any

from .sizes import EXCEPTIONS, MADE, SIZES

N_VOCAB = 101
LONGEST = 6  # layers


def shrunk(kind: type, override: dict[str, Any] | None = None) -> Any:
    """A small configuration of class `kind`.

    kind      a PreTrainedConfig of transformers; the configurations it holds are shrunk as well
    override  fields that replace those found here; of a configuration inside, a dict of its fields

    Raises what transformers raises where the fields do not go together.
    """
    fields = EXCEPTIONS.get(kind.model_type, ({}, ""))[0] | (override or {})
    default = kind()
    known = default.to_dict()
    inner = {name: getattr(default, name, None) for name in kind.sub_configs}
    inner = {name: type(x) for name, x in inner.items() if hasattr(x, "to_dict")}
    made = {name: shrunk(inside, fields.get(name)) for name, inside in inner.items()}
    return kind(**sizes(known) | token_ids(known) | layers(known) | fields | made)


def sizes(fields: dict[str, Any]) -> dict[str, Any]:
    """The table's value for every field that the default configuration has."""
    found = {name: size for name, size in SIZES.items() if name in fields}
    if "kv_lora_rank" in fields:  # latent attention has no groups
        found["num_key_value_heads"] = found["num_attention_heads"]
        if fields.get("head_dim") == fields["qk_rope_head_dim"]:  # some call that part alone head_dim
            found["head_dim"] = found["qk_rope_head_dim"]
    return {name: size for name, size in found.items() if fields[name] is not None or name in MADE}


def token_ids(fields: dict[str, Any]) -> dict[str, int]:
    """Padding, start and end inside the vocabulary; images' and sounds' ids behind it, where no prompt has them."""
    inside = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    names = [name for name in fields if name.endswith(("_token_id", "_token_index")) and name not in inside]
    found = {name: id for name, id in inside.items() if name in fields}
    return found | {name: N_VOCAB + i for i, name in enumerate(names) if fields[name] is not None}


def layers(fields: dict[str, Any]) -> dict[str, Any]:
    """Every list that holds one entry per layer, cut to layers in which each kind of layer occurs."""
    count = next((fields[name] for name in LAYERS if isinstance(fields.get(name), int)), None)
    lists = {name: x for name, x in fields.items() if isinstance(x, list) and count and len(x) == count > 1}
    if not lists:
        return {}
    kept = chosen(list(zip(*lists.values(), strict=True)))
    return {name: [x[i] for i in kept] for name, x in lists.items()} | {
        name: len(kept) for name in LAYERS if name in fields
    }


LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")


def chosen(kinds: list[tuple]) -> list[int]:
    """Indices of a few layers, in order: the first of each kind, then more from the start, to four at least."""
    kept: list[int] = []
    for i, kind in enumerate(kinds):
        if all(kinds[j] != kind for j in kept):
            kept.append(i)
    for i in range(len(kinds)):
        if len(kept) < min(4, len(kinds)) and i not in kept:
            kept.append(i)
    return sorted(kept[:LONGEST])
