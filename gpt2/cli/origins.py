"""The files that a model's weights, head, end tokens and vocabulary come from, for `kvproof info`."""

from contextlib import ExitStack
from pathlib import Path

from ...reference.config import Config
from ...reference.files import SAFETENSORS, find_weights
from ...reference.weights import match_tensors, read_config
from ..checkpoint.generation_config import not_applied, read_generation, with_end_tokens
from ..checkpoint.pickles import PICKLES, is_pickle, open_pickles
from ..tokenizer import Tokenizer, find_tokenizer, gpt2_tokenizer


def describe(path: Path) -> tuple[Config, dict[str, str]]:
    """The config of a folder or a file, and the origin of its "weights", "head", "end_tokens", ...

    A folder without weights is described by its other files.
    Raises CheckpointError, ConfigError or TokenizerError as load does.
    """
    folder = path if path.is_dir() else path.parent
    names = (*SAFETENSORS, *PICKLES)
    weights = find_weights(path, names) if path.is_file() or any((path / name).is_file() for name in names) else None
    if weights is None:
        config, origin = read_config(folder / "config.json"), {"config_from": "config.json", "weights_from": "no file"}
    else:
        config, origin = describe_weights(weights)
    config, said = with_end_tokens(config, folder)
    tokenizer = find_tokenizer(folder, config)
    origin |= describe_text(config, tokenizer, said)
    if ignored := not_applied(read_generation(folder)):
        origin["not_applied"] = f"{', '.join(ignored)} of generation_config.json"
    return config, origin


def describe_weights(weights: Path) -> tuple[Config, dict[str, str]]:
    """The config of a file of weights, and the origin of config, weights and head."""
    said = "config.json"
    if is_pickle(weights):
        config, state, source, nanogpt = open_pickles(weights)
        said = f"model_args of {weights.name}" if nanogpt else said
        dtypes = {str(state[name].dtype).removeprefix("torch.") for name in source.values()}
    else:
        config = read_config(weights.parent / "config.json")
        with ExitStack() as stack:
            source, shards = match_tensors(weights, config, "np", stack)
            found = [shards[name] for name in source.values()]
            dtypes = {stored.shard.get_slice(stored.name).get_dtype() for stored in found}
    head = source.get("lm_head.weight")
    if not config.tie_word_embeddings:
        words = f"{head}, its own"
    else:
        words = f"{source['wte.weight']}, tied" + (f"; {head} must equal it" if head else "")
    origin = {"config_from": said, "weights_from": f"{weights.name}, stored as {', '.join(sorted(dtypes))}"}
    return config, origin | {"head_from": words}


def describe_text(config: Config, tokenizer: Tokenizer | None, said: str | None = None) -> dict[str, str]:
    """End tokens and vocabulary in words; said is the file that config's end tokens come from."""
    ends, words = config.end_tokens or ((tokenizer.eot,) if tokenizer else ()), "none: text cannot be encoded"
    named = ", ".join(f"{i} {tokenizer.decode([i])!r}" if tokenizer else str(i) for i in ends)
    if tokenizer is not None:
        origin = "the published merges" if tokenizer is gpt2_tokenizer() else tokenizer.vocabulary.origin
        words = f"{tokenizer.n_vocab} tokens from {origin}"
    return {"end_tokens": f"{named} from {said or 'the tokenizer'}" if ends else "none named", "vocabulary": words}
