"""Whether a folder's vocabulary fits the model's ids."""

import logging
from pathlib import Path

from ...reference.config import Config
from ...reference.files import CheckpointError
from .merges import published_ranks
from .vocabulary import MERGES, Vocabulary, within

log = logging.getLogger(__name__)
PUBLISHED_VOCAB = (50257, 50304)  # the second is the first, padded to a multiple of 64 for speed, as nanoGPT does
PAD_TO = (8, 16, 32, 64, 128, 256, 512, 1024)  # vocabularies are padded to a multiple of one of these
PAD = 128  # ids that may be padding however small the vocabulary is, else a sixteenth of it


def check_fit(folder: Path, vocabulary: Vocabulary, config: Config):
    """Raises CheckpointError unless a folder's vocabulary has the model's end tokens and fills its ids up to padding.

    Added tokens past the model's ids, such as a [PAD], are left out with a warning: the model cannot write them.
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
    """Whether the model's ids are the tokenizer's, padded to a round number."""
    return model - known <= most_padding(known) and any(model == -(-known // size) * size for size in PAD_TO)


def most_padding(known: int) -> int:
    return max(PAD, known // 16)


def is_published(vocabulary: Vocabulary) -> bool:
    return [*vocabulary.ranks] == [*published_ranks()]


def is_beginning(vocabulary: Vocabulary) -> bool:
    """Whether the merges are the published ones' beginning and not all of them."""
    whole = [*published_ranks()]
    return len(vocabulary.ranks) < len(whole) and [*vocabulary.ranks] == whole[: len(vocabulary.ranks)]
