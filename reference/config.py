"""The shape of a GPT-2, read from a checkpoint's config.json; what we do not honour is refused by name."""

import reprlib
from dataclasses import dataclass

# Hugging Face's activation names -> our two. "gelu_new" is the tanh form that OpenAI trained with.
ACTIVATIONS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh", "gelu": "exact"}

# Flags that change the mathematics. Each maps to the one value under which our equations hold.
FIXED_FLAGS = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
# Fields that say the weights are not GPT-2's as they stand; null and {} say nothing.
ABSENT_FIELDS = ("quantization_config", "pruned_heads")

MAX_LAYERS = 4096  # the largest published GPT-2 has 48; a wilder number would cost memory before any tensor is read


class ConfigError(ValueError):
    """A config.json that describes no GPT-2 we can compute; the message names the field."""


class ContextFull(ValueError):
    """More tokens than there are positions or cache slots, raised before any work; `fit` more have a place.

    Positions are absolute, so dropping old tokens would void the cache.
    """

    def __init__(self, past: int, new: int, fit: int, room: str = "the model's context"):
        """past tokens are there, new were asked for, fit more have a place in what `room` names."""
        self.fit = max(fit, 0)
        advice = f"{self.fit} fit" if self.fit else "none fits; start from fewer"
        super().__init__(f"{new} new tokens after {past} do not fit {room}: {advice}")


@dataclass(frozen=True)
class Config:
    """Sizes under the names the checkpoint uses. The defaults are GPT-2 small (124M)."""

    n_vocab: int = 50257
    n_ctx: int = 1024
    n_embd: int = 768
    n_head: int = 12
    n_layer: int = 12
    n_inner: int = 3072
    gelu: str = "tanh"  # "tanh" | "exact"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    eos_token_id: int | tuple[int, ...] | None = None  # what ends a text: one token, any of several, none named

    def __post_init__(self):
        for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer", "n_inner"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {brief(value)}; it must be a whole number from 1 up")
        if self.n_layer > MAX_LAYERS:
            raise ConfigError(f"n_layer is {brief(self.n_layer)}; more than {MAX_LAYERS} layers are no GPT-2")
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd {brief(self.n_embd)} is no multiple of n_head {brief(self.n_head)}; heads must be equally wide"
            )
        if self.gelu not in ("tanh", "exact"):
            raise ConfigError(f"gelu is {self.gelu!r}; it must be 'tanh' or 'exact'")
        eps, tied = self.layer_norm_epsilon, self.tie_word_embeddings
        if type(eps) not in (int, float) or not 0 < eps < 1:
            raise ConfigError(f"layer_norm_epsilon is {brief(eps)}; it must be a number between 0 and 1")
        if type(tied) is not bool:
            raise ConfigError(f"tie_word_embeddings is {brief(tied)}; it must be true or false")
        end_ids(self.eos_token_id)

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The ids of eos_token_id, however many it names."""
        eos = end_ids(self.eos_token_id)
        return eos if isinstance(eos, tuple) else () if eos is None else (eos,)

    @classmethod
    def from_dict(cls, raw: dict) -> "Config":
        """A Config from the fields of a Hugging Face config.json.

        Raises ConfigError for another architecture, a missing size, a field of the wrong type, or a flag whose value
        our equations do not honour.
        """
        if raw.get("model_type", "gpt2") != "gpt2":
            raise ConfigError(
                f"model_type is {brief(raw['model_type'])}; only 'gpt2' is computed here. Other models keep their "
                "own code and take the kernels: kvproof.register_with_transformers(), then transformers' "
                'AutoModelForCausalLM.from_pretrained(folder, attn_implementation="kvproof")'
            )
        for flag, honoured in FIXED_FLAGS.items():
            if raw.get(flag, honoured) != honoured:
                raise ConfigError(f"{flag}={brief(raw[flag])} is not honoured; only {honoured!r} is")
        for name in ABSENT_FIELDS:
            if raw.get(name):
                raise ConfigError(f"{name}={brief(raw[name])} is not honoured; save the model without it")
        activation = raw.get("activation_function", "gelu_new")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ConfigError(
                f"activation_function {brief(activation)} is not honoured; one of {sorted(ACTIVATIONS)} is"
            )
        if raw.get("n_positions") is None:  # older files say n_ctx alone; where both are there, n_positions counts
            raw = raw | {"n_positions": raw.get("n_ctx")}
        missing = [
            name for name in ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer") if raw.get(name) is None
        ]
        if missing:
            raise ConfigError(f"config.json lacks {', '.join(missing)}; is it a GPT-2's?")
        n_embd, n_inner = raw["n_embd"], raw.get("n_inner")
        if n_inner is None and type(n_embd) is int:
            n_inner = 4 * n_embd
        return cls(
            n_vocab=raw["vocab_size"],
            n_ctx=raw["n_positions"],
            n_embd=n_embd,
            n_head=raw["n_head"],
            n_layer=raw["n_layer"],
            n_inner=n_inner,  # pyright: ignore[reportArgumentType] (None only beside an n_embd that is refused)
            gelu=ACTIVATIONS[activation],
            layer_norm_epsilon=raw.get("layer_norm_epsilon", 1e-5),
            tie_word_embeddings=raw.get("tie_word_embeddings", True),
            eos_token_id=end_ids(raw.get("eos_token_id")),
        )


def end_ids(value) -> int | tuple[int, ...] | None:
    """The eos_token_id of a JSON file: one id, several of them (each once, in the file's order), or None.

    Raises ConfigError for anything else.
    """
    ids = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    if not all(type(i) is int and i >= 0 for i in ids):
        raise ConfigError(f"eos_token_id is {brief(value)}; it must be a token id, a list of them or null")
    ids = tuple(dict.fromkeys(ids))
    return ids if len(ids) > 1 else ids[0] if ids else None


def brief(value) -> str:
    """The repr of a value out of a file, cut to what fits one line of a message."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to print a whole number of more than 4300 digits
        return "a number of thousands of digits"
