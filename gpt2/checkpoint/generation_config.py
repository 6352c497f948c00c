"""generation_config.json: a checkpoint's end tokens, and its sampling settings, which are left to the call."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...reference.config import Config, ConfigError, brief, end_ids
from ...reference.files import CheckpointError, read_json

log = logging.getLogger(__name__)
GENERATION = "generation_config.json"

# Settings that change the text -> the values under which they change nothing. Here the call chooses them.
SETTINGS: dict[str, tuple] = {
    "do_sample": (False,), "temperature": (1.0,), "top_k": (50, 0), "top_p": (1.0,), "num_beams": (1,),
    "penalty_alpha": (0,), "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,), "length_penalty": (1.0,), "min_length": (0,), "min_new_tokens": (0,), "min_p": (0,),
    "typical_p": (1.0,), "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "guidance_scale": (1.0,),
    "bad_words_ids": (), "suppress_tokens": (), "begin_suppress_tokens": (), "forced_bos_token_id": (),
    "forced_eos_token_id": (), "forced_decoder_ids": (), "sequence_bias": (), "exponential_decay_length_penalty": (),
    "stop_strings": (),
}  # fmt: skip


def read_generation(folder: Path) -> dict[str, Any]:
    """The fields of generation_config.json, {} where there is none.  Raises CheckpointError."""
    path = folder / GENERATION
    raw = read_json(path) if path.is_file() else {}
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return raw


def not_applied(generation: dict[str, Any]) -> dict[str, Any]:
    """The settings of a generation_config.json that would change a text, and are not applied here."""
    return {
        name: generation[name]
        for name, neutral in SETTINGS.items()
        if generation.get(name) is not None and generation[name] not in neutral
    }


def with_end_tokens(config: Config, folder: Path) -> tuple[Config, str | None]:
    """The config with the end tokens of the whole folder, and the file that names them, None if none does.

    generation_config.json counts before config.json, as in transformers. An id past the vocabulary ends no text; a
    warning names it.  Raises CheckpointError, ConfigError.
    """
    generation, said = read_generation(folder), "config.json"
    try:
        own = end_ids(generation.get("eos_token_id"))
    except ConfigError as error:
        raise ConfigError(f"{folder / GENERATION}: {error}") from None
    if settings := not_applied(generation):
        asked = ", ".join(f"{name}={brief(value)}" for name, value in settings.items())
        log.warning("%s asks for %s, which is not applied; settings are the call's", folder / GENERATION, asked)
    if own is not None:
        config, said = replace(config, eos_token_id=own), GENERATION
    ends = [i for i in config.end_tokens if i < config.n_vocab]
    if lost := [i for i in config.end_tokens if i >= config.n_vocab]:
        log.warning(
            "%s: eos_token_id %s is no id of this model, whose ids end at %d; it ends no text",
            folder / said, ", ".join(map(brief, lost)), config.n_vocab - 1,
        )  # fmt: skip
    return replace(config, eos_token_id=end_ids(ends)), said if ends else None
