"""GPT-2's byte-level BPE: tiktoken, built from a checkpoint's own merges."""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import tiktoken

ENDOFTEXT = "<|endoftext|>"
PUBLISHED = Path(__file__).parent / "data" / "vocab.bpe"
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
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise TokenizerError(f"{path} is no UTF-8 text; pass a vocab.bpe or merges.txt") from None
    return make_ranks(text.split("\n"), path)  # not splitlines: some merges hold its exotic line ends


def make_ranks(lines: Sequence[str], path: Path) -> dict[bytes, int]:
    """The ranks that lines of merges give, as read_merges says; path is for its messages."""
    alphabet = byte_alphabet()
    ranks = {bytes([b]): i for i, b in enumerate(alphabet.values())}
    for number, line in enumerate(lines, 1):
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


def read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from None


def renumber(ranks: dict[bytes, int], vocab: object, where: Path) -> tuple[dict[bytes, int], dict[str, int]]:
    """The merges' tokens under the ids of a vocabulary of their own, and its special tokens, which no merge makes.

    ranks    token bytes -> its place, as read_merges gives it
    vocab    token, in GPT-2's printable alphabet -> id, as vocab.json has it

    Raises TokenizerError where the ids have gaps, lack a token, or do not follow the merges' order: tiktoken merges
    the lowest id first.
    """
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise TokenizerError(f"{where} is no vocabulary, which maps tokens to ids")
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise TokenizerError(f"{where}: the ids of its {len(vocab)} tokens are not 0..{len(vocab) - 1}, each once")
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    names = {"".join(letters[b] for b in token): token for token in ranks}
    lost = next((name for name in names if name not in vocab), None)
    if lost is not None:
        raise TokenizerError(f"{where} lacks {lost!r}, which the merges make; the two are of different checkpoints")
    ids = {token: vocab[name] for name, token in names.items()}
    merged = list(ids.values())[256:]
    if merged != sorted(merged):
        raise TokenizerError(f"{where} numbers its tokens in another order than the merges make them")
    return ids, {name: i for name, i in vocab.items() if name not in names}


class Tokenizer:
    """Text <-> ids. Any bytes round-trip; the token that ends a text is special only when asked for.

    Without a vocabulary of its own, n_vocab is 257 + the number of merges and `eot` the last id, <|endoftext|>; with
    one, `eot` is the id of its <|endoftext|> or </s>, and tokens no merge makes are never made from text.
    """

    def __init__(self, ranks: dict[bytes, int], special: dict[str, int] | None = None):
        special = {ENDOFTEXT: len(ranks)} if special is None else special
        ends = [name for name in (ENDOFTEXT, "</s>") if name in special]
        if not ends:
            raise TokenizerError(f"the vocabulary has neither {ENDOFTEXT} nor </s>, so no token ends a text")
        self._end = ends[0]
        self.eot = special[self._end]
        self.n_vocab = len(ranks) + len(special)
        self._bpe = tiktoken.Encoding(
            f"gpt2-{self.n_vocab}", pat_str=PIECES, mergeable_ranks=ranks, special_tokens=special
        )

    @classmethod
    def from_merges(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a vocab.bpe or merges.txt file, with the ids of the vocab.json beside it, if there is one.

        Raises TokenizerError.
        """
        vocab = Path(path).parent / "vocab.json"
        ranks = read_merges(Path(path))
        return cls(*renumber(ranks, read_json(vocab), vocab)) if vocab.is_file() else cls(ranks)

    @classmethod
    def from_json(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer of a tokenizer.json file.  Raises TokenizerError for a kind other than GPT-2's."""
        path, raw = Path(path), read_json(Path(path))
        if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
            raise TokenizerError(f"{path} describes no tokenizer")
        model, cut = raw["model"], raw.get("pre_tokenizer") or {}
        if model.get("type") != "BPE" or raw.get("normalizer") or not isinstance(model.get("merges"), list):
            raise TokenizerError(f"{path} is no byte-level BPE as GPT-2's; put merges.txt and vocab.json beside it")
        if cut.get("type") != "ByteLevel" or cut.get("add_prefix_space") or not cut.get("use_regex", True):
            raise TokenizerError(f"{path} cuts text into other pieces than GPT-2 does")
        lines = [" ".join(map(str, pair)) if isinstance(pair, list) else str(pair) for pair in model["merges"]]
        added = {t.get("content"): t.get("id") for t in raw.get("added_tokens") or [] if isinstance(t, dict)}
        vocab = model.get("vocab")
        return cls(*renumber(make_ranks(lines, path), vocab | added if isinstance(vocab, dict) else vocab, path))

    def encode(self, text: str | bytes, special: bool = False) -> list[int]:
        """Ids of a text or of any bytes. With special=True <|endoftext|> becomes its one id, else it is spelled out."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="surrogateescape")
        ids = []
        for piece in re.split("([\udc80-\udcff])", text):  # each a byte that is no UTF-8
            if len(piece) == 1 and "\udc80" <= piece <= "\udcff":
                ids.append(self._bpe.encode_single_token(bytes([ord(piece) - 0xDC00])))
            elif special:
                ids += self._bpe.encode(piece, allowed_special={self._end}, disallowed_special=())
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


def folder_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer a folder brings: merges.txt or vocab.bpe, with vocab.json's ids, or tokenizer.json.

    returns  None where there is none of them, or a vocab.json alone that numbers the published tokens as published
    Raises TokenizerError for files that are there and cannot be read as a tokenizer of GPT-2's kind.
    """
    for name in ("merges.txt", "vocab.bpe"):
        if (folder / name).is_file():
            return Tokenizer.from_merges(folder / name)
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_json(folder / "tokenizer.json")
    vocab = folder / "vocab.json"
    if vocab.is_file():
        ranks = read_merges(PUBLISHED)
        if renumber(ranks, read_json(vocab), vocab) != (ranks, {ENDOFTEXT: len(ranks)}):
            raise TokenizerError(f"{vocab} is not the published one and came without merges; put its merges.txt there")
    return None


@functools.cache
def gpt2_tokenizer() -> Tokenizer:
    """The tokenizer of the published GPT-2 models: all 50,000 merges, ids 0..50256."""
    return Tokenizer.from_merges(PUBLISHED)
