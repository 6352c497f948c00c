"""GPT-2's byte-level BPE: tiktoken, built from a checkpoint's own merges."""

import functools
import logging
import re
from pathlib import Path

import tiktoken

from ..reference.config import Config
from .checkpoint.fit import PUBLISHED_VOCAB, check_fit
from .checkpoint.merges import ENDOFTEXT, PUBLISHED, ForeignTokenizer, TokenizerError, read_merges, read_vocabulary
from .checkpoint.vocabulary import MERGES, VOCAB, Added, Vocabulary, assemble, folder_vocabulary, read_side, within

log = logging.getLogger(__name__)
# The pieces into which GPT-2 cuts a text before merging (OpenAI, gpt-2/src/encoder.py).
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BYTE = "[\udc80-\udcff]"  # a byte that is no UTF-8, as surrogateescape writes it


class Tokenizer:
    """Text <-> ids. Any bytes round-trip; special tokens are made from text only when asked for.

    `eot` is the id of the token that ends a text: the one its files name, else <|endoftext|> or </s>. Added tokens that
    are not special are found in any text; other tokens that no merge makes are never made from text.
    """

    def __init__(self, vocabulary: Vocabulary):
        added, ranks = vocabulary.added, vocabulary.ranks
        end = next((name for name in (vocabulary.end, ENDOFTEXT, "</s>") if name in added), None)
        if end is None:
            raise ForeignTokenizer(f"the vocabulary has neither {ENDOFTEXT} nor </s>, so no token ends a text")
        self.eot = added[end].id
        self.n_vocab = vocabulary.n_vocab
        self.vocabulary = vocabulary
        made = set(ranks.values())
        others = {name: token.id for name, token in added.items() if token.id not in made}
        self._bpe = tiktoken.Encoding(
            f"gpt2-{self.n_vocab}", pat_str=PIECES, mergeable_ranks=ranks, special_tokens=others
        )
        self._plain = pattern({name: token for name, token in added.items() if not token.special})
        self._all = pattern(added)

    @classmethod
    def from_merges(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a vocab.bpe or merges.txt file, with the ids of the vocab.json beside it, if there is one.

        Raises TokenizerError.
        """
        path, vocab = Path(path), Path(path).parent / VOCAB
        return cls(assemble(read_merges(path), read_vocabulary(vocab), read_side(path.parent), path, vocab))

    def encode(self, text: str | bytes, special: bool = False) -> list[int]:
        """Ids of a text or of any bytes. With special=True <|endoftext|> and other special tokens become their one id,
        else they are spelled out.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="surrogateescape")
        names, ids, start = self._all if special else self._plain, [], 0
        for found in names.finditer(text) if names else ():
            ids += self._encode_plain(text[start : found.start()])
            ids.append(self.vocabulary.added[found[found.lastgroup or 0]].id)
            start = found.end()
        return ids + self._encode_plain(text[start:])

    def _encode_plain(self, text: str) -> list[int]:
        """Ids of a text in which no added token is looked for."""
        ids = []
        for piece in re.split(f"({BYTE})", text):
            if len(piece) == 1 and "\udc80" <= piece <= "\udcff":
                ids.append(self._bpe.encode_single_token(bytes([ord(piece) - 0xDC00])))
            else:
                ids += self._bpe.encode_ordinary(piece)
        return ids

    def decode_bytes(self, ids) -> bytes:
        """The bytes ids stand for.  Raises TokenizerError for an id the tokenizer does not have."""
        ids = [int(i) for i in ids]
        unknown = [i for i in ids if not 0 <= i < self.n_vocab]
        if unknown:
            raise TokenizerError(f"id {unknown[0]} has no text; this tokenizer's ids are 0..{self.n_vocab - 1}")
        return self._bpe.decode_bytes(ids)

    def decode(self, ids) -> str:
        """Text of ids; bytes that are no UTF-8 show as U+FFFD.  Raises TokenizerError as decode_bytes does."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def pattern(added: dict[str, Added]) -> re.Pattern[str] | None:
    """What finds these tokens in a text, the longest first, each as the group t0, t1, ...; None for no tokens.

    A token may take the white space on its left or right with it, or be found as a whole word only.
    Source: huggingface/tokenizers, added_vocabulary.rs.
    """
    parts = []
    for i, name in enumerate(sorted(added, key=len, reverse=True)):
        token = added[name]
        word = r"(?<!\w)" * token.single_word, r"(?!\w)" * token.single_word
        left, right = r"\s*" * token.lstrip, r"\s*" * token.rstrip
        parts.append(f"{left}{word[0]}(?P<t{i}>{re.escape(name)}){word[1]}{right}")
    return re.compile("|".join(parts)) if parts else None


def find_tokenizer(folder: Path, config: Config) -> Tokenizer | None:
    """The tokenizer beside the weights; without one, the published tokenizer if the vocabulary has its size.

    A tokenizer of another kind than GPT-2's, or a tokenizer.json or vocab.json that cannot be read, gives a warning and
    None: ids still work, and text never gets the published ids, which are not the model's.

    Raises CheckpointError or TokenizerError for merges that are cut off or another checkpoint's.
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


@functools.cache
def gpt2_tokenizer() -> Tokenizer:
    """The tokenizer of the published GPT-2 models: all 50,000 merges, ids 0..50256."""
    return Tokenizer.from_merges(PUBLISHED)
