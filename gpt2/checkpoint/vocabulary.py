"""The vocabulary of a checkpoint's folder, from all of its tokenizer files together.

    tokenizer.json                  everything, as `tokenizers` writes it; first choice, as transformers has it
    merges.txt or vocab.bpe         merges; with vocab.json their ids, else in the order of the merges
    added_tokens.json               tokens that were added later, and their ids
    tokenizer_config.json           added_tokens_decoder, the same with flags; eos_token; settings of text
    special_tokens_map.json         which tokens are special, eos_token

Settings under which Tokenizer would give other ids are refused by name.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from .merges import (
    ENDOFTEXT,
    PUBLISHED,
    ForeignTokenizer,
    TokenizerError,
    check_vocabulary,
    make_ranks,
    names_of,
    published_ranks,
    read_json,
    read_merges,
    read_object,
    read_vocabulary,
    renumber,
    unmade,
)

MERGES = ("merges.txt", "vocab.bpe")
TOKENIZER, VOCAB = "tokenizer.json", "vocab.json"
ADDED, SETTINGS, SPECIAL = "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json"
SIDE_FILES = (ADDED, SETTINGS, SPECIAL)  # they change what the others say
FOREIGN = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")  # of other kinds
LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
FLAGS = ("special", "lstrip", "rstrip", "single_word")
# Classes of transformers that cut text as GPT-2 does; for another class a tokenizer.json must show it.
CLASSES = ("GPT2Tokenizer", "CodeGenTokenizer", "PreTrainedTokenizer", "TokenizersBackend")


@dataclass(frozen=True)
class Added:
    """A token outside the merges: its id, whether it is special, and its white space and word boundaries."""

    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.

    ranks    token bytes -> id, of the bytes and of what the merges make
    added    name -> Added, of every other token
    end      the name of the token that ends a text, if the files give one
    origin   the files it comes from, as `kvproof info` prints them
    inferred  whether the ids follow from the merges alone, so that a lost merge moves them
    """

    ranks: dict[bytes, int]
    added: dict[str, Added]
    end: str | None = None
    origin: str = ""
    inferred: bool = False

    @property
    def n_vocab(self) -> int:
        return 1 + max([*self.ranks.values(), *(token.id for token in self.added.values())])


@dataclass
class Side:
    """What the files beside the vocabulary say: added tokens, the names of special ones, the end, and settings."""

    added: dict[str, Added] = field(default_factory=dict)
    special: set[str] = field(default_factory=set)
    end: str | None = None
    settings: dict = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def folder_vocabulary(folder: Path) -> Vocabulary | None:
    """A folder's own vocabulary; None if no file of it differs from the published one.

    Raises TokenizerError for files that cannot be read, ForeignTokenizer for another kind than GPT-2's.
    """
    side = read_side(folder)
    merges = next((folder / name for name in MERGES if (folder / name).is_file()), None)
    if (folder / TOKENIZER).is_file():
        return read_tokenizer_json(folder / TOKENIZER, side)
    check_class(folder, side)
    if merges is not None:
        return assemble(read_merges(merges), read_vocabulary(folder / VOCAB), side, merges, folder / VOCAB)
    if (folder / VOCAB).is_file() or side.added or side.end not in (None, ENDOFTEXT):
        return published_with(folder, side)
    return None


def published_with(folder: Path, side: Side) -> Vocabulary | None:
    """The published merges with a vocab.json or added tokens of the folder's own; None if all are as published."""
    ranks, vocab, own = published_ranks(), folder / VOCAB, read_vocabulary(folder / VOCAB)
    published = {name: ranks[token] for name, token in names_of(ranks).items()} | {ENDOFTEXT: len(ranks)}
    own = published if own is None else own
    if not published.items() <= own.items():
        raise TokenizerError(f"{vocab} is not the published one and came without merges; put its merges.txt there")
    found = assemble(ranks, own, side, PUBLISHED, vocab)
    return None if found.n_vocab == len(published) and side.end in (None, ENDOFTEXT) else found


def assemble(ranks: dict[bytes, int], vocab: dict | None, side: Side, merges: Path, where: Path) -> Vocabulary:
    """Merges, the ids of vocab.json or None, and the files beside them -> a Vocabulary.  Raises TokenizerError.

    where  the file that gives the ids, for messages
    """
    inferred = vocab is None
    files = [merges.name if merges != PUBLISHED else "the published merges", *([] if inferred else [where.name])]
    origin = ", ".join(dict.fromkeys([*files, *side.files]))
    if inferred and not side.added and side.end in (None, ENDOFTEXT):  # nothing is numbered anew
        return Vocabulary(ranks, {ENDOFTEXT: Added(len(ranks))}, side.end, origin, inferred)
    if vocab is None:
        vocab, where = {name: i for i, name in enumerate(names_of(ranks))} | {ENDOFTEXT: len(ranks)}, merges
    for name, token in side.added.items():
        if vocab.get(name, token.id) != token.id:
            raise TokenizerError(f"{where} numbers {name!r} {vocab[name]}, the files beside it {token.id}")
    whole = vocab | {name: token.id for name, token in side.added.items()}
    ids, others = renumber(ranks, whole, where)
    lost = unmade(others, vocab, {*side.added, *side.special, *([side.end] if side.end else [])})
    if lost:
        raise TokenizerError(
            f"{where} has {len(lost)} tokens that no merge of {merges} makes, the first {lost[0]!r}; the merges are "
            f"cut off or another checkpoint's: fetch them again (a token that was added is named in {ADDED})"
        )
    added = {name: side.added.get(name, Added(i)) for name, i in others.items()} | side.added
    for name in (side.special | {ENDOFTEXT}) & added.keys():
        added[name] = Added(**{**vars(added[name]), "special": True})
    if side.end is not None and side.end not in whole:
        raise ForeignTokenizer(f"the end token {side.end!r} of {SETTINGS} or {SPECIAL} has no id in {where}")
    if side.end is not None and side.end not in added:
        added[side.end] = Added(whole[side.end])
    return Vocabulary(ids, added, side.end, origin, inferred)


def within(vocabulary: Vocabulary, n_vocab: int) -> Vocabulary:
    """The vocabulary without added tokens past a model's n_vocab ids."""
    added = {name: token for name, token in vocabulary.added.items() if token.id < n_vocab}
    return replace(vocabulary, added=added)


def read_side(folder: Path) -> Side:
    """The content of added_tokens.json, tokenizer_config.json and special_tokens_map.json.  Raises TokenizerError."""
    side, settings = Side(), read_object(folder / SETTINGS)
    for name, i in read_object(folder / ADDED).items():
        add_token(side, name, {"id": i, "special": False}, folder / ADDED)
    decoder = settings.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise TokenizerError(f"{folder / SETTINGS} has added_tokens_decoder, which is no object of ids")
    for i, token in decoder.items():
        if not isinstance(token, dict) or not (i.isascii() and i.isdigit() and len(i) < 10):
            raise TokenizerError(f"{folder / SETTINGS} has added_tokens_decoder, whose {i[:20]!r} is no id of a token")
        add_token(side, token.get("content"), token | {"id": int(i)}, folder / SETTINGS)
    for name, raw in ((SPECIAL, read_object(folder / SPECIAL)), (SETTINGS, settings)):
        for key, value in raw.items():
            if key in LISTS or (key.endswith("_token") and not key.startswith("add_")):
                names = token_names(value, f"{key} of {folder / name}")
                side.special.update(names)
                side.end = names[0] if names and key == "eos_token" else side.end
    side.settings = settings
    side.files = [name for name in SIDE_FILES if (folder / name).is_file()]
    check_settings(side.settings, folder / SETTINGS)
    return side


def token_names(value: object, what: str) -> list[str]:
    """The names in an entry of a special-tokens map: a text, an object with "content", or several of them."""
    if isinstance(value, dict) and "content" not in value:
        value = list(value.values())
    values = value if isinstance(value, list) else [] if value in (None, False) else [value]
    names = [one.get("content") if isinstance(one, dict) else one for one in values]
    if not all(isinstance(name, str) and name for name in names):
        raise TokenizerError(f"{what} is no name of a token")
    return names  # pyright: ignore[reportReturnType]


def add_token(side: Side, name: object, token: dict, where: Path):
    """Add one token to the others.  Raises TokenizerError if it is no token, or has two ids."""
    i, flags = token.get("id"), {flag: token.get(flag) or False for flag in FLAGS}
    flags["special"] = token.get("special", True)
    if not isinstance(name, str) or not name or type(i) is not int or i < 0:
        raise TokenizerError(f"{where} names an added token by {str(name)[:40]!r} and id {str(i)[:20]}, which are none")
    if not all(type(flag) is bool for flag in flags.values()):
        raise TokenizerError(f"{where}: the flags of {name[:40]!r} are not true or false")
    if side.added.get(name, Added(i)).id != i:
        raise TokenizerError(f"{where} numbers {name[:40]!r} {i}, another file of the folder {side.added[name].id}")
    side.added[name] = Added(i, **flags)


def check_settings(settings: dict, where: Path):
    """Raises ForeignTokenizer for a setting of tokenizer_config.json that changes the ids of a text."""
    for name in ("add_prefix_space", "add_bos_token", "add_eos_token", "do_lower_case"):
        if settings.get(name):
            raise ForeignTokenizer(f"{where} says {name}, which is not honoured; encode elsewhere and pass ids")


def check_class(folder: Path, side: Side):
    """Raises ForeignTokenizer where the folder's tokenizer is of another class, or made by files of another kind."""
    name = side.settings.get("tokenizer_class")
    known = name is None or (isinstance(name, str) and name.removesuffix("Fast") in CLASSES)
    if not known:
        raise ForeignTokenizer(f"{folder / SETTINGS} says tokenizer_class {str(name)[:40]!r}, not GPT-2's kind")
    foreign = next((name for name in FOREIGN if (folder / name).is_file()), None)
    if foreign and not any((folder / name).is_file() for name in (*MERGES, VOCAB)):
        raise ForeignTokenizer(f"{folder / foreign} is a tokenizer of another kind than GPT-2's byte-level BPE")


def read_tokenizer_json(path: Path, side: Side) -> Vocabulary:
    """The vocabulary of a tokenizer.json and the files beside it.  Raises TokenizerError, ForeignTokenizer."""
    raw = read_json(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise TokenizerError(f"{path} describes no tokenizer")
    model, tokens = raw["model"], raw.get("added_tokens") or []
    kind = model.get("type", "BPE" if {"vocab", "merges"} <= model.keys() else None)  # GPT-2's own file has no type
    if kind != "BPE" or unwrap(raw.get("normalizer"), "normalizers") not in (None, {}, []):
        raise ForeignTokenizer(f"{path} is no byte-level BPE as GPT-2's; put merges.txt and vocab.json in its place")
    check_pipeline(raw, path)
    check_model(model, path)
    merges, vocab = model.get("merges"), check_vocabulary(model.get("vocab"), path)
    if not isinstance(merges, list) or not isinstance(tokens, list) or not all(isinstance(t, dict) for t in tokens):
        raise TokenizerError(f"{path} has merges or added_tokens that are no list of them")
    for token in tokens:
        add_token(side, token.get("content"), token, path)
    lines = [merge_line(pair, path) for pair in merges]
    return assemble(make_ranks(lines, path), vocab, side, path, path)


def merge_line(pair: object, path: Path) -> str:
    """A merge of tokenizer.json, "left right" or [left, right], as a line.  Raises TokenizerError."""
    if isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair):
        pair = " ".join(pair)
    if not isinstance(pair, str):
        raise TokenizerError(f"{path} has a merge {str(pair)[:40]!r}, which is no pair of tokens")
    return pair


def unwrap(step: object, inner: str) -> object:
    """A step of tokenizer.json's pipeline, without a Sequence of one around it; None for an empty Sequence."""
    steps = step.get(inner) if isinstance(step, dict) and step.get("type") == "Sequence" else None
    if isinstance(steps, list) and len(steps) < 2:
        return unwrap(steps[0], inner) if steps else None
    return step


def check_pipeline(raw: dict, path: Path):
    """Raises ForeignTokenizer unless tokenizer.json's steps before and after the merges are GPT-2's."""
    cut = unwrap(raw.get("pre_tokenizer"), "pretokenizers")
    cut = cut if isinstance(cut, dict) else {}
    flags = cut.get("type"), cut.get("add_prefix_space", False), cut.get("use_regex", True)
    if flags != ("ByteLevel", False, True):
        raise ForeignTokenizer(f"{path} cuts text into other pieces than GPT-2 does")
    for name, inner in (("post_processor", "processors"), ("decoder", "decoders")):
        step = unwrap(raw.get(name), inner)
        if step is not None and not (isinstance(step, dict) and (step.get("type") == "ByteLevel" or adds_none(step))):
            what = step.get("type") if isinstance(step, dict) else step
            raise ForeignTokenizer(f"{path} has the {name} {str(what)[:40]!r}, which changes what GPT-2's merges give")


def adds_none(step: dict) -> bool:
    """Whether a post-processor of templates adds no token to a text."""
    single = step.get("single")
    alone = isinstance(single, list) and len(single) == 1 and isinstance(single[0], dict) and "Sequence" in single[0]
    return step.get("type") == "TemplateProcessing" and alone


def check_model(model: dict, path: Path):
    """Raises ForeignTokenizer for a field of tokenizer.json's model that changes the merges' tokens."""
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(name) not in (None, 0) if name == "dropout" else model.get(name):
            raise ForeignTokenizer(f"{path} has {name}={str(model[name])[:40]} in its model, which is not honoured")
