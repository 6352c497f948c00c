"""GPT-2's byte-level BPE: tiktoken, built from a checkpoint's own merges."""

import functools
import re
from pathlib import Path

import tiktoken

ENDOFTEXT = "<|endoftext|>"
# How GPT-2 cuts text into pieces before merging (OpenAI, gpt-2/src/encoder.py).
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class TokenizerError(ValueError):
    """A merges file that is none, or an id the tokenizer does not have."""


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: character -> byte, in the order of their token ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}


def read_merges(path: Path) -> dict[bytes, int]:
    """The ranks (token bytes -> id) that a merges file gives: the 256 bytes, then one token per merge.

    path    vocab.bpe or merges.txt: a version line, then "left right" a line
    Raises TokenizerError naming the first line that merges what does not exist yet.
    """
    alphabet = byte_alphabet()
    ranks = {bytes([b]): i for i, b in enumerate(alphabet.values())}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise TokenizerError(f"{path} is no UTF-8 text; pass a vocab.bpe or merges.txt") from None
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: some merges hold its exotic line ends
        if not line or (number == 1 and line.startswith("#version")):
            continue
        try:
            left, right = (bytes(alphabet[c] for c in part) for part in line.split(" "))
        except (KeyError, ValueError):
            raise TokenizerError(
                f"{path}, line {number}: {line!r} is no merge of two tokens in GPT-2's alphabet"
            ) from None
        if left not in ranks or right not in ranks or left + right in ranks:
            raise TokenizerError(f"{path}, line {number}: {line!r} merges an unknown token or makes one twice")
        ranks[left + right] = len(ranks)
    return ranks


class Tokenizer:
    """Text <-> ids. Any bytes round-trip; <|endoftext|> is a special token only when asked for.

    n_vocab is 257 + the number of merges; `eot` is the id of <|endoftext|>, the last one.
    """

    def __init__(self, ranks: dict[bytes, int]):
        self.eot = len(ranks)
        self.n_vocab = len(ranks) + 1
        self._bpe = tiktoken.Encoding(
            f"gpt2-{self.n_vocab}", pat_str=PIECES, mergeable_ranks=ranks, special_tokens={ENDOFTEXT: self.eot}
        )

    @classmethod
    def from_merges(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a vocab.bpe or merges.txt file.  Raises TokenizerError."""
        return cls(read_merges(Path(path)))

    def encode(self, text: str | bytes, special: bool = False) -> list[int]:
        """Ids of a text or of any bytes. With special=True <|endoftext|> becomes its one id, else it is spelled out."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="surrogateescape")
        ids = []
        for piece in re.split("([\udc80-\udcff])", text):  # each a byte that is no UTF-8
            if len(piece) == 1 and "\udc80" <= piece <= "\udcff":
                ids.append(self._bpe.encode_single_token(bytes([ord(piece) - 0xDC00])))
            elif special:
                ids += self._bpe.encode(piece, allowed_special="all")
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


@functools.cache
def gpt2_tokenizer() -> Tokenizer:
    """The tokenizer of the published GPT-2 models: all 50,000 merges, ids 0..50256."""
    return Tokenizer.from_merges(Path(__file__).parent / "data" / "vocab.bpe")
