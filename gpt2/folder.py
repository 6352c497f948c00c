"""What a checkpoint's folder says beside its tensors, and from which of its files: end tokens, tokenizer, settings."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..reference.config import Config, ConfigError, brief, end_ids
from ..reference.files import CheckpointError, read_json
from .tokenizer import Tokenizer, gpt2_tokenizer
from .tokenizer_files import MERGES, Vocabulary, folder_vocabulary, within
from .vocabulary import ForeignTokenizer, TokenizerError

log = logging.getLogger(__name__)
GENERATION = "generation_config.json"
PUBLISHED_VOCAB = (50257, 50304)  # the second is the first, padded to a multiple of 64 for speed, as nanoGPT does
PAD_TO = (8, 16, 32, 64, 128, 256, 512, 1024)  # vocabularies are padded to a multiple of one of these
PAD = 128  # so many ids may be padding however small the vocabulary is, else a sixteenth of it

# What generation_config.json may ask for that changes the text -> the values under which it changes nothing. Here the
# call asks for sampling, as it does for the length.
SETTINGS: dict[str, tuple] = {
    "do_sample": (False,),
    "temperature": (1.0,),
    "top_k": (50, 0),
    "top_p": (1.0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "length_penalty": (1.0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "min_p": (0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "guidance_scale": (1.0,),
    "bad_words_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "forced_decoder_ids": (),
    "sequence_bias": (),
    "exponential_decay_length_penalty": (),
    "stop_strings": (),
}


def read_generation(folder: Path) -> dict[str, Any]:
    """The fields of generation_config.json, {} where there is none.  Raises CheckpointError."""
    path = folder / GENERATION
    raw = read_json(path) if path.is_file() else {}
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return raw


def not_applied(generation: dict[str, Any]) -> dict[str, Any]:
    """Those settings of a generation_config.json that would change a text, and are left to the call here."""
    return {
        name: generation[name]
        for name, neutral in SETTINGS.items()
        if generation.get(name) is not None and generation[name] not in neutral
    }


def with_end_tokens(config: Config, folder: Path, said: str = "config.json") -> tuple[Config, str | None]:
    """The config with the end tokens of the whole folder, and the file they are from, or None if none names any.

    said  the file that config's own are from
    Those of generation_config.json count before config.json's, as transformers has it. An id past the vocabulary can
    end no text and is left out aloud.  Raises CheckpointError, ConfigError.
    """
    generation = read_generation(folder)
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


def find_tokenizer(folder: Path, config: Config) -> Tokenizer | None:
    """The tokenizer beside the weights; the published one where there is none and the vocabulary is its size.

    A tokenizer of another kind than GPT-2's, or a tokenizer.json or vocab.json that cannot be read, is said aloud and
    leaves the model without a tokenizer: ids still work, and text never gets the published ids, which are not the
    model's.  Raises CheckpointError or TokenizerError for merges that are cut off or another checkpoint's.
    """
    try:
        vocabulary = folder_vocabulary(folder)
        if vocabulary is not None:
            check_fit(folder, vocabulary, config)
            return Tokenizer(within(vocabulary, config.n_vocab))
    except TokenizerError as error:
        if not isinstance(error, ForeignTokenizer) and any((folder / name).is_file() for name in MERGES):
            raise
        log.warning("%s; the model has no tokenizer until one is put there", error)
        return None
    if config.n_vocab not in PUBLISHED_VOCAB:
        return None
    if strange := [i for i in config.end_tokens if i >= gpt2_tokenizer().n_vocab]:
        log.warning(
            "%s has no tokenizer, and its end token %d is none of the published one; put its own there",
            folder, strange[0],
        )  # fmt: skip
        return None
    return gpt2_tokenizer()


def check_fit(folder: Path, vocabulary: Vocabulary, config: Config):
    """Raises CheckpointError unless a folder's vocabulary has the model's end tokens and fills its ids but for padding.

    Added tokens past the model's ids, a [PAD] for instance, are left out aloud: no model of these ids writes them.
    """
    model, kept = config.n_vocab, within(vocabulary, config.n_vocab)
    made = 1 + max(vocabulary.ranks.values()) + vocabulary.inferred  # whose <|endoftext|> is the next id
    known, where = kept.n_vocab, f"the tokenizer in {folder} ({vocabulary.origin})"
    if made > model:
        raise CheckpointError(
            f"{where} makes {vocabulary.n_vocab} tokens, the model has {model}; put "
            "the merges of the same checkpoint there"
        )
    if len(kept.added) < len(vocabulary.added):
        lost = [f"{name!r} = {t.id}" for name, t in vocabulary.added.items() if name not in kept.added]
        log.warning("%s adds %s, past the model's %d ids; left out", where, ", ".join(lost[:3]), model)
    advice = "put the whole tokenizer of the same checkpoint there"
    if model >= PUBLISHED_VOCAB[0] and is_beginning(vocabulary):
        raise CheckpointError(
            f"{where} has {len(vocabulary.ranks) - 256} of GPT-2's 50000 merges and the model {model} tokens: they are "
            f"cut off; {advice}"
        )
    if strange := [i for i in config.end_tokens if i >= known]:
        raise CheckpointError(
            f"{where} makes {known} tokens, and the model's end token is id {strange[0]} of its {model}: files of it "
            f"are missing or cut off; {advice}"
        )
    if (last := unended_merges(folder)) and vocabulary.inferred and not is_published(vocabulary):
        log.warning("%s has no line end after its last merge; if that is cut off, fetch the file again", last)
    if known < model and not is_padding(known, model):
        words = f"{where} makes {known} tokens, the model has {model}"
        # A lost merge would move the ids of all that follow, where no file numbers them.
        unsure = vocabulary.inferred and not is_published(vocabulary)
        if unsure or model - known > most_padding(known):
            raise CheckpointError(f"{words}: its files are cut off or another checkpoint's; {advice}")
        log.warning("%s; its ids from %d on have no text and are never written, until a file names them", words, known)


def unended_merges(folder: Path) -> Path | None:
    """The folder's merges file, if its last line has no end, as every program that writes one puts there."""
    found = next((folder / name for name in MERGES if (folder / name).is_file()), None)
    return found if found and not found.read_bytes().endswith(b"\n") else None


def is_padding(known: int, model: int) -> bool:
    """Whether a model has just so many more ids than its tokenizer as make a round number of them."""
    return model - known <= most_padding(known) and any(model == -(-known // size) * size for size in PAD_TO)


def most_padding(known: int) -> int:
    return max(PAD, known // 16)


def is_published(vocabulary: Vocabulary) -> bool:
    return [*vocabulary.ranks] == [*gpt2_tokenizer().vocabulary.ranks]


def is_beginning(vocabulary: Vocabulary) -> bool:
    """Whether the merges are the published ones' beginning and not all of them."""
    whole = [*gpt2_tokenizer().vocabulary.ranks]
    return len(vocabulary.ranks) < len(whole) and [*vocabulary.ranks] == whole[: len(vocabulary.ranks)]
