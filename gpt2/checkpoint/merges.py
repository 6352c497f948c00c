"""Merges and the ids of their tokens: vocab.bpe, merges.txt and vocab.json, in every form that other programs write."""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path

from ...reference.files import stand_in

ENDOFTEXT = "<|endoftext|>"
PUBLISHED = Path(__file__).parents[1] / "data" / "vocab.bpe"
SPECIAL_SHAPE = re.compile(r"<.*\w.*>|\[.*\w.*\]", re.DOTALL)  # the form of a token that stands for no text


class TokenizerError(ValueError):
    """A tokenizer's file that is wrong or cut off, or an id that the tokenizer does not have."""


class ForeignTokenizer(TokenizerError):
    """A tokenizer of another kind than GPT-2's."""


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: character -> byte, in the order of their token ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(hidden)}


def names_of(ranks: dict[bytes, int]) -> dict[str, bytes]:
    """Every token in GPT-2's printable alphabet -> its bytes."""
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    return {"".join(letters[b] for b in token): token for token in ranks}


def read_merges(path: Path) -> dict[bytes, int]:
    """The ranks (token bytes -> id) of a merges file: the 256 bytes, then one token per merge.

    path    vocab.bpe or merges.txt: a version line, then "left right" a line; a byte-order mark and CRLF are skipped

    Raises TokenizerError if it is no text or cut off, and for the first line that merges an unknown token.
    """
    check_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        cut = error.end == len(error.object) and error.reason == "unexpected end of data"
        why = "ends within a character: it is cut off, fetch it again" if cut else "is no UTF-8 text"
        raise TokenizerError(f"{path} {why}; pass a vocab.bpe or merges.txt") from None
    if not text.endswith("\n") and published_text().startswith(text) and not published_text().startswith(f"{text}\n"):
        raise TokenizerError(f"{path} is GPT-2's, cut off within line {text.count(chr(10)) + 1}; fetch it again")
    return make_ranks(text.split("\n"), path)  # not splitlines: some merges hold its exotic line ends


@functools.cache
def published_ranks() -> dict[bytes, int]:
    """The ranks of GPT-2's own merges."""
    return read_merges(PUBLISHED)


def published_text() -> str:
    return PUBLISHED.read_text(encoding="utf-8")


def make_ranks(lines: Sequence[str], path: Path) -> dict[bytes, int]:
    """The ranks of lines of merges, as in read_merges; path is for messages."""
    alphabet = byte_alphabet()
    ranks = {bytes([b]): i for i, b in enumerate(alphabet.values())}
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        try:
            left, right = (bytes(alphabet[c] for c in part) for part in line.split(" "))
        except (KeyError, ValueError):
            raise TokenizerError(
                f"{path}, line {number}: {line[:60]!r} is no merge of two tokens in GPT-2's alphabet"
            ) from None
        if left not in ranks or right not in ranks or left + right in ranks:
            raise TokenizerError(f"{path}, line {number}: {line!r} merges an unknown token or makes one twice")
        ranks[left + right] = len(ranks)
    return ranks


def check_file(path: Path):
    """Raises TokenizerError for an empty file, a Git-LFS pointer or a web page."""
    if what := stand_in(path):
        raise TokenizerError(f"{path} {what}")


def read_json(path: Path) -> object:
    """The value in a JSON file.  Raises TokenizerError."""
    check_file(path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from None


def read_object(path: Path) -> dict:
    """The object in a JSON file, {} where there is no such file.  Raises TokenizerError."""
    raw = read_json(path) if path.is_file() else {}
    if not isinstance(raw, dict):
        raise TokenizerError(f"{path} holds no JSON object")
    return raw


def check_vocabulary(vocab: object, where: Path) -> dict[str, int]:
    """A vocabulary, token -> id, as vocab.json has it.  Raises TokenizerError."""
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise TokenizerError(f"{where} is no vocabulary, which maps tokens to ids")
    return vocab


def read_vocabulary(path: Path) -> dict[str, int] | None:
    """The vocabulary of a vocab.json, None where there is no such file.  Raises TokenizerError."""
    return check_vocabulary(read_json(path), path) if path.is_file() else None


def renumber(ranks: dict[bytes, int], vocab: object, where: Path) -> tuple[dict[bytes, int], dict[str, int]]:
    """The merges' tokens with the ids of a vocabulary, and its other tokens, which no merge makes.

    ranks    token bytes -> its place, as read_merges gives it
    vocab    token, in GPT-2's printable alphabet -> id, as vocab.json has it

    Raises TokenizerError where ids have gaps, lack a token or leave the merges' order: the lowest is merged first.
    """
    vocab = check_vocabulary(vocab, where)
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise TokenizerError(f"{where}: the ids of its {len(vocab)} tokens are not 0..{len(vocab) - 1}, each once")
    names = names_of(ranks)
    lost = next((name for name in names if name not in vocab), None)
    if lost is not None:
        raise TokenizerError(f"{where} lacks {lost!r}, which the merges make; the two are of different checkpoints")
    ids = {token: vocab[name] for name, token in names.items()}
    merged = list(ids.values())[256:]
    if merged != sorted(merged):
        raise TokenizerError(f"{where} numbers its tokens in another order than the merges make them")
    return ids, {name: i for name, i in vocab.items() if name not in names}


def unmade(special: dict[str, int], vocab: dict[str, int], named: set[str]) -> list[str]:
    """The tokens that look like merges but that no merge makes: the merges are cut off or of another checkpoint.

    special  the tokens of `vocab` that no merge makes
    named    those that the checkpoint's files call added or special, which need no merge

    Such a token is two earlier ones joined, and not written like <pad> or [MASK].
    """

    def earlier(name: str, i: int) -> bool:
        return vocab.get(name, i) < i

    return [
        name
        for name, i in special.items()
        if name not in named
        and not SPECIAL_SHAPE.fullmatch(name)
        and any(earlier(name[:k], i) and earlier(name[k:], i) for k in range(1, len(name)))
    ]
