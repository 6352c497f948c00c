"""A checkpoint's folder is read whole: end tokens, added tokens, settings; a tokenizer that does not fit is refused."""

import json
import re

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from kvproof.gpt2 import CheckpointError, ConfigError, generate, load
from kvproof.gpt2.__main__ import main
from kvproof.gpt2.checkpoint.generation_config import with_end_tokens
from kvproof.gpt2.checkpoint.merges import PUBLISHED, TokenizerError
from kvproof.gpt2.tokenizer import Tokenizer, find_tokenizer, gpt2_tokenizer
from kvproof.reference.config import Config

from .._folders import END, MERGES, merges_text, sizes, speaker, tokenizer_json, vocabulary, write

LINE = [101, 102, 103, 104, END, 105]  # what a speaker says
OWN = {"merges.txt": merges_text(), "vocab.json": vocabulary()}
CHAT = ["<|im_start|>", "<|im_end|>"]  # ids END + 1, END + 2


def tokenizer_in(path, config: Config) -> Tokenizer:
    found = find_tokenizer(path, config)
    assert found is not None
    return found


def spoken(path, impl="sdpa", **changes) -> list[int]:
    (done,) = generate(load(path, impl=impl), [[1]], max_new_tokens=len(LINE), **changes)
    return done.ids


ENDS = [
    # eos_token_id of config.json and of generation_config.json ("-": no file) -> how much of LINE is written
    (103, "-", 2), ([104, 102], "-", 1), ([103], "-", 2), ([], "-", 4), (None, "-", 4), (102, 104, 3),
    (102, [104, 103], 2), (None, 102, 1), (103, None, 2), (999, "-", 4), ([999, 104], "-", 3), (103, [998, 999], 4),
]  # fmt: skip


@pytest.mark.parametrize(("own", "generation", "written"), ENDS)
def test_each_end_token_that_the_folder_names_ends_a_text(tmp_path, own, generation, written):
    files = OWN if generation == "-" else OWN | {"generation_config.json": {"eos_token_id": generation}}
    assert spoken(speaker(tmp_path / "model", LINE, END + 1, files, eos_token_id=own)) == LINE[:written]


@pytest.mark.parametrize("impl", ["naive", "eager", "sdpa", pytest.param("triton", marks=pytest.mark.exhaustive)])
def test_each_impl_and_each_row_of_a_batch_ends_at_any_of_them(tmp_path, impl, device):
    model = load(speaker(tmp_path / "model", LINE, END + 1, OWN, eos_token_id=[104, 102]), impl=impl, device=device)
    heard = []
    prompts = [[1], [1, 1], [1, 1, 1]]  # the second begins at LINE[1], which ends it, the third after it
    done = generate(model, prompts, max_new_tokens=3, stream=lambda row, token, text: heard.append((row, token)))
    assert [one.ids for one in done] == [[101], [], [103]]
    assert [one.finish_reason for one in done] == ["stop"] * 3
    assert [token for _, token in heard if token is not None] == [101, 103]


def test_without_a_word_in_the_configs_the_tokenizer_s_end_token_ends_a_text(tmp_path):
    names = {"tokenizer_config.json": {"eos_token": "<|im_end|>"}}
    files = {"tokenizer.json": tokenizer_json(CHAT)} | names
    path = speaker(tmp_path / "model", [101, END, END + 2, 102], END + 3, files)
    assert spoken(path) == [101, END]
    config = json.loads((path / "config.json").read_text())
    del config["eos_token_id"]
    (path / "config.json").write_text(json.dumps(config))
    assert spoken(path) == [101, END]


@pytest.mark.parametrize("value", ["50256", [1, "2"], {"a": 1}, 1.5, True, -3])
def test_an_end_token_that_is_none_is_named_with_its_file(tmp_path, value):
    path = speaker(tmp_path / "model", LINE, END + 1, OWN | {"generation_config.json": {"eos_token_id": value}})
    with pytest.raises(ConfigError, match=r"generation_config\.json: eos_token_id is .*; it must be a token id"):
        load(path)


def test_an_end_token_past_the_vocabulary_is_said_aloud(tmp_path, caplog):
    config, said = with_end_tokens(sizes(100, (7, 50256)), tmp_path)
    assert (config.end_tokens, said) == ((7,), "config.json")
    assert "config.json: eos_token_id 50256 is no id of this model, whose ids end at 99; it ends no text" in caplog.text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"repetition_penalty": 1.3, "do_sample": False, "temperature": 1.0}, "repetition_penalty=1.3"),
        ({"suppress_tokens": [1], "num_beams": 4}, "num_beams=4, suppress_tokens=[1]"),
        ({"do_sample": True, "temperature": 0.7, "top_k": 50}, "do_sample=True, temperature=0.7"),
        ({"max_new_tokens": 9, "bos_token_id": 3, "transformers_version": "5", "bad_words_ids": None}, None),
    ],
)
def test_settings_of_a_generation_config_are_left_to_the_call_aloud(tmp_path, caplog, asked, said):
    with_end_tokens(sizes(100), write(tmp_path / "model", {"generation_config.json": asked}))
    assert (f"asks for {said}, which is not applied" in caplog.text) if said else not caplog.text


DECODER = {str(END + 1 + i): {"content": name} for i, name in enumerate(CHAT)}
FORMS = {
    "added_tokens.json": OWN | {"added_tokens.json": {"<|im_start|>": END + 1, "<|im_end|>": END + 2}},
    "merges alone": {"vocab.bpe": merges_text(), "added_tokens.json": {"<|im_end|>": END + 2, "<|im_start|>": END + 1}},
    "added_tokens_decoder": OWN | {"tokenizer_config.json": {"added_tokens_decoder": DECODER}},
    "tokenizer.json": {"tokenizer.json": tokenizer_json(CHAT)},
    "vocab.json": OWN | {"vocab.json": vocabulary() | {c: END + 1 + i for i, c in enumerate(CHAT)}},
    "two of them": OWN
    | {
        "added_tokens.json": {"<|im_start|>": END + 1},
        "tokenizer_config.json": {"added_tokens_decoder": {str(END + 2): {"content": "<|im_end|>"}}},
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_a_model_writes_the_tokens_that_were_added_to_it(tmp_path, form):
    said = [101, END + 1, 102, END]
    path = speaker(tmp_path / "model", [*said, END + 2], END + 3, FORMS[form], eos_token_id=END + 2)
    (done,) = generate(load(path), [[1]], max_new_tokens=5)
    assert done.ids == said
    assert "<|im_start|>" in str(done.text)


def test_an_added_token_that_is_not_special_is_found_in_any_text(tmp_path):
    files = OWN | {"added_tokens.json": {"hew": END + 1, "heworld": END + 2, "<x>": END + 3}}
    files |= {"special_tokens_map.json": {"additional_special_tokens": ["<x>"]}}
    tokenizer = tokenizer_in(write(tmp_path / "model", files), sizes(END + 4))
    h, hello = vocabulary()["h"], vocabulary()["hello"]
    assert tokenizer.encode("hellohewhheworld") == [hello, END + 1, h, END + 2]
    assert END + 3 not in tokenizer.encode("hello<x>")
    assert tokenizer.encode("hello<x>", special=True) == [hello, END + 3]
    assert tokenizer.decode([END + 3, END + 1]) == "<x>hew"


@pytest.mark.parametrize(
    ("flags", "text", "wanted"),
    [
        ({"lstrip": True}, "h  <x> h", ["h", None, "Ġ", "h"]),
        ({"rstrip": True}, "h  <x> h", ["h", "Ġ", "Ġ", None, "h"]),
        ({}, "h<x>h", ["h", None, "h"]),
        ({"single_word": True}, "h<x>h <x>", ["h", "<", "x", ">", "h", "Ġ", None]),
    ],
)
def test_the_flags_of_an_added_token_are_kept(tmp_path, flags, text, wanted):
    added = {"content": "<x>", "special": False, "lstrip": False, "rstrip": False, "single_word": False} | flags
    files = OWN | {"tokenizer_config.json": {"added_tokens_decoder": {str(END + 1): added}}}
    tokenizer = tokenizer_in(write(tmp_path / "model", files), sizes(END + 2))
    assert tokenizer.encode(text) == [END + 1 if name is None else vocabulary()[name] for name in wanted]


def test_endoftext_stays_special_where_it_is_listed_among_added_tokens(tmp_path):
    files = OWN | {"added_tokens.json": {"<|endoftext|>": END}}
    tokenizer = tokenizer_in(write(tmp_path / "model", files), sizes(END + 1))
    assert END not in tokenizer.encode("<|endoftext|>")
    assert tokenizer.encode("<|endoftext|>", special=True) == [END]


@pytest.mark.parametrize("form", [OWN, {"merges.txt": merges_text()}])
def test_added_tokens_past_the_model_s_ids_are_left_out_aloud(tmp_path, caplog, form):
    path = write(tmp_path / "model", form | {"added_tokens.json": {"[PAD]": END + 1}})
    assert tokenizer_in(path, sizes(END + 1, END)).n_vocab == END + 1
    assert f"adds '[PAD]' = {END + 1}, past the model's {END + 1} ids; left out" in caplog.text


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("files", [("merges.txt", "vocab.json"), ("vocab.bpe",), ("tokenizer.json",)])
def test_a_tokenizer_s_files_are_read_with_a_mark_and_with_crlf(tmp_path, files, mark, end):
    texts = {"merges.txt": merges_text(), "vocab.bpe": merges_text()}
    texts |= {
        "vocab.json": json.dumps(vocabulary(), indent=1),
        "tokenizer.json": json.dumps(tokenizer_json(), indent=1),
    }
    raw = {name: mark + texts[name].encode().replace(b"\n", end) for name in files}
    tokenizer = tokenizer_in(write(tmp_path / "model", raw), sizes(END + 1))
    assert tokenizer.encode("hello world") == [vocabulary()["hello"], vocabulary()["Ġworld"]]


PART = MERGES[:4]
PUBLISHED_LINES = PUBLISHED.read_text(encoding="utf-8").split("\n")
UNFIT = {
    # files, the model's n_vocab and end token -> what is said
    "cut at a line": ({"merges.txt": merges_text(PART)}, END + 1, END, "the model's end token is id 265 of its 266"),
    "cut, no end token named": ({"vocab.bpe": merges_text(PART)}, END + 1, None, "makes 261 tokens, the model has 266"),
    "cut in a line": ({"merges.txt": merges_text()[:-4]}, END + 1, END, "line 10: 'Ġwor ' merges|line 10: 'Ġwor"),
    "cut in a character": ({"merges.txt": merges_text().encode().split(b"\xa0")[0]}, 266, END, "within a character"),
    "header only": ({"merges.txt": "#version: 0.2\n"}, END + 1, END, "makes 257 tokens, and the model's end token"),
    "empty": ({"merges.txt": b""}, END + 1, END, r"merges\.txt is empty"),
    "empty, vocab.json": (OWN | {"merges.txt": b""}, END + 1, END, r"merges\.txt is empty"),
    "cut, vocab.json": (OWN | {"merges.txt": merges_text(PART)}, END + 1, END, "has 5 tokens that no merge of"),
    "header, vocab.json": (OWN | {"merges.txt": "#version: 0.2"}, END + 1, END, "has 9 tokens that no merge of"),
    "vocab.json cut": (OWN | {"vocab.json": json.dumps(vocabulary())[:900]}, END + 1, END, r"vocab\.json is not JSON"),
    "vocab.json of fewer": (
        OWN | {"vocab.json": {n: i for n, i in vocabulary().items() if i < 260}}, 266, END, "lacks 'Ġw', which"
    ),
    "another's merges": (OWN | {"merges.txt": merges_text([*PART, "a b"])}, END + 1, END, "lacks 'ab', which the mer"),
    "another's, larger": ({"merges.txt": merges_text()}, 40, 39, "makes 266 tokens, the model has 40"),
    "another's, smaller": (OWN, 50257, None, "makes 266 tokens, the model has 50257"),
    "GPT-2's, half": ({"merges.txt": "\n".join(PUBLISHED_LINES[:20000])}, 50304, None, "19999 of GPT-2's 50000 merges"),
    "GPT-2's, less one": ({"merges.txt": "\n".join(PUBLISHED_LINES[:50000])}, 50304, None, "49999 of GPT-2's 50000"),
    "GPT-2's, in a line": ({"vocab.bpe": "\n".join(PUBLISHED_LINES)[:5003]}, 1000, None, "cut off within line"),
    "LFS pointer": ({"merges.txt": "version https://git-lfs.github.com/spec/v1\n"}, 300, None, "is a Git-LFS pointer"),
    "web page": (OWN | {"vocab.json": "<!doctype html>"}, 300, None, r"vocab\.json is a web page"),
    "no end token": (OWN, END + 3, END + 2, "the model's end token is id 267 of its 268"),
    "two numbers": (OWN | {"added_tokens.json": {"hello": 400}}, 300, None, "numbers 'hello' 259, the files beside"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNFIT)
def test_a_tokenizer_that_does_not_fit_the_model_is_refused_with_the_reason(tmp_path, what):
    files, n_vocab, end, words = UNFIT[what]
    with pytest.raises((CheckpointError, TokenizerError), match=words):
        find_tokenizer(write(tmp_path / "model", files), sizes(n_vocab, end))


@pytest.mark.parametrize("beside", [{}, {"vocab.json": vocabulary()}, {"added_tokens.json": {"<|im_end|>": END + 1}}])
@pytest.mark.parametrize("end", [END, None])
def test_merges_cut_off_anywhere_are_refused_or_whole_or_said_to_have_no_end(tmp_path, caplog, beside, end):
    whole, config = merges_text().encode(), sizes(END + 1 + ("added_tokens.json" in beside), end)
    for size in range(len(whole)):
        caplog.clear()
        path = write(tmp_path / "model", {**beside, "merges.txt": whole[:size]})
        try:
            tokenizer = tokenizer_in(path, config)
        except (CheckpointError, TokenizerError):
            continue
        same = tokenizer.encode("hello world") == [vocabulary()["hello"], vocabulary()["Ġworld"]]
        assert (same and size == len(whole) - 1) or "has no line end after its last merge" in caplog.text, size


@pytest.mark.parametrize(
    ("files", "n_vocab", "said"),
    [
        (OWN, END + 1, ""),
        ({"merges.txt": merges_text()}, 272, ""),  # padded to a multiple of 8
        ({"merges.txt": merges_text()}, 384, ""),  # of 128
        (OWN, 271, "its ids from 266 on have no text and are never written"),
        ({"merges.txt": "\n".join(PUBLISHED_LINES)}, 50260, "its ids from 50257 on have no text"),
        ({}, 50304, ""),
    ],
)
def test_ids_without_a_text_are_padding_or_said_aloud(tmp_path, caplog, files, n_vocab, said):
    assert find_tokenizer(write(tmp_path / "model", files), sizes(n_vocab)) is not None
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def test_the_published_tokenizer_is_not_given_where_the_end_token_is_none_of_its_own(tmp_path, caplog):
    assert find_tokenizer(tmp_path, sizes(50304, 198)) is gpt2_tokenizer()
    assert find_tokenizer(tmp_path, sizes(50304, 50300)) is None
    assert "its end token 50300 is none of the published one" in caplog.text


def test_added_tokens_without_a_vocabulary_are_added_to_the_published_one(tmp_path):
    path = write(tmp_path / "model", {"added_tokens.json": {"<|im_start|>": 50257}})
    assert tokenizer_in(path, sizes(50258)).decode([31373, 50257]) == "hello<|im_start|>"


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|endoftext|>"}}, {"Sequence": {"id": "A"}}],
}
FOREIGN = {
    "prefix space": (OWN | {"tokenizer_config.json": {"add_prefix_space": True}}, "says add_prefix_space"),
    "added bos": (OWN | {"tokenizer_config.json": {"add_bos_token": True}}, "says add_bos_token"),
    "class": (OWN | {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}}, "says tokenizer_class 'BertToken"),
    "vocab.txt": ({"vocab.txt": "[PAD]\n[UNK]\n"}, r"vocab\.txt is a tokenizer of another kind"),
    "sentencepiece": ({"tokenizer.model": b"\x0a\x0e"}, r"tokenizer\.model is a tokenizer of another kind"),
    "template": ({"tokenizer.json": tokenizer_json(post_processor=TEMPLATE)}, "the post_processor 'TemplatePro"),
    "decoder": ({"tokenizer.json": tokenizer_json(decoder={"type": "Metaspace"})}, "has the decoder 'Metaspace'"),
    "no regex": (
        {"tokenizer.json": tokenizer_json(pre_tokenizer={"type": "ByteLevel", "use_regex": False})}, "other pieces"
    ),
    **{
        field: ({"tokenizer.json": tokenizer_json(model=tokenizer_json()["model"] | {field: value})}, f"has {field}=")
        for field, value in {"dropout": 0.1, "ignore_merges": True, "end_of_word_suffix": "</w>"}.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_what_would_cut_text_otherwise_leaves_the_model_without_a_tokenizer_aloud(tmp_path, caplog, what):
    files, words = FOREIGN[what]
    assert find_tokenizer(write(tmp_path / "model", files), sizes(END + 1 if files is OWN else 50257)) is None
    assert caplog.text.count("\n") == 1
    assert "the model has no tokenizer until one is put there" in caplog.text
    assert re.search(words, caplog.text)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"vocab": vocabulary(), "merges": MERGES}},
        {"model": {"vocab": vocabulary(), "merges": [merge.split(" ") for merge in MERGES]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [tokenizer_json()["pre_tokenizer"]]}},
        {"normalizer": {"type": "Sequence", "normalizers": []}},
        {"post_processor": None, "decoder": None},
    ],
)
def test_a_tokenizer_json_may_say_the_same_in_other_words(tmp_path, change):
    path = write(tmp_path / "model", {"tokenizer.json": tokenizer_json(**change)})
    assert tokenizer_in(path, sizes(END + 1)).encode("hello world") == [vocabulary()["hello"], vocabulary()["Ġworld"]]


def test_info_says_what_is_taken_from_where(tmp_path, capsys):
    files = OWN | {"generation_config.json": {"eos_token_id": [104, END], "temperature": 0.5}}
    path = speaker(tmp_path / "model", LINE, END + 1, files, eos_token_id=102)
    assert main(["info", str(path), "--json"]) == 0
    facts, decoded = json.loads(capsys.readouterr().out), gpt2_tokenizer().decode([104])  # a byte's id is the same
    assert facts["eos_token_id"] == [104, END]
    assert facts["origin"] == {
        "config_from": "config.json",
        "weights_from": "model.safetensors, stored as F32",
        "head_from": "wte.weight, tied",
        "end_tokens": f"104 {decoded!r}, {END} '<|endoftext|>' from generation_config.json",
        "vocabulary": "266 tokens from merges.txt, vocab.json",
        "not_applied": "temperature of generation_config.json",
    }
    assert main(["info", str(path)]) == 0
    assert "vocabulary                266 tokens from merges.txt, vocab.json\n" in capsys.readouterr().out


def test_info_names_a_head_that_stands_for_the_embedding_and_a_folder_without_weights(tmp_path, capsys):
    path = speaker(tmp_path / "model", LINE, END + 1, {"tokenizer.json": tokenizer_json()})
    state = load_file(path / "model.safetensors")
    state["lm_head.weight"] = state.pop("wte.weight").half()
    save_file(state, path / "model.safetensors")
    assert main(["info", str(path), "--json"]) == 0
    origin = json.loads(capsys.readouterr().out)["origin"]
    assert origin["head_from"] == "lm_head.weight, tied"
    assert origin["weights_from"] == "model.safetensors, stored as F16, F32"
    assert origin["end_tokens"] == f"{END} '<|endoftext|>' from the tokenizer"
    (path / "model.safetensors").unlink()
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["origin"]["weights_from"] == "no file"


def test_transformers_gives_the_same_ids_and_ends_for_the_same_folders(tmp_path):
    transformers = pytest.importorskip("transformers")
    texts = ["hello world", "<|im_start|>hello<|im_end|>  w", "", "<|endoftext|>", " <|im_start|> "]
    for form, files in FORMS.items():
        # transformers needs a vocab.json, finds no token that is named nowhere else, and reads one of two files alone.
        if form in ("merges alone", "vocab.json", "two of them"):
            continue
        path = speaker(tmp_path / "model", LINE, END + 3, files, eos_token_id=END)
        theirs, ours = transformers.AutoTokenizer.from_pretrained(path), tokenizer_in(path, load(path).config)
        assert [theirs(text)["input_ids"] for text in texts] == [ours.encode(text, special=True) for text in texts], (
            form
        )


ODD = [None, True, 0, 1, -1, 1.5, "", "x", [], [1], ["a"], {}, {"a": 1}, [[]], [None], 10**30, float("nan")]


def places(node, path=()):
    """The path of every value in a JSON tree, of long lists and objects the first twelve."""
    yield path
    items = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
    for key, value in items[:12]:
        yield from places(value, (*path, key))


def mutants() -> list[tuple[dict, str, tuple, object]]:
    """(files, one of their names, a place in it, a value of another type): every place with every value."""
    settings = {"eos_token": "<|im_end|>", "add_prefix_space": False, "tokenizer_class": "GPT2Tokenizer"}
    settings |= {"added_tokens_decoder": {str(END): {"content": "<|endoftext|>", "special": True, "lstrip": False}}}
    settings |= {"additional_special_tokens": ["<|im_start|>"], "extra_special_tokens": {"a": "<|im_end|>"}}
    names = {"eos_token": {"content": "<|im_end|>"}, "additional_special_tokens": [{"content": "<|im_start|>"}]}
    generation = {"eos_token_id": [END, 3], "temperature": 0.7, "suppress_tokens": [1]}
    level = {"type": "Sequence", "processors": [{"type": "ByteLevel"}]}
    described = {"tokenizer.json": tokenizer_json(CHAT, post_processor=level)}
    side = {"tokenizer_config.json": settings, "special_tokens_map.json": names, "generation_config.json": generation}
    added = {"added_tokens.json": {c: END + 1 + i for i, c in enumerate(CHAT)}}
    return [
        (files, name, place, value)
        for files in (described | side, OWN | added | side)
        for name, raw in files.items()
        if isinstance(raw, dict)
        for place in places(raw)
        for value in ODD
    ]


def changed(tree, place: tuple, value):
    """The tree with another value in one place."""
    if not place:
        return value
    tree = dict(tree) if isinstance(tree, dict) else list(tree)
    tree[place[0]] = changed(tree[place[0]], place[1:], value)
    return tree


@pytest.mark.parametrize("count", [150, pytest.param(None, marks=pytest.mark.exhaustive)])
def test_a_value_of_another_type_in_any_file_is_no_traceback(tmp_path, count):
    """Each mutant is read, or is no tokenizer aloud, or is refused in one line."""
    every, seen = mutants(), {"read": 0, "none": 0, "refused": 0}
    assert len(every) > 2000
    for i in np.random.default_rng(0).choice(len(every), count or len(every), replace=False):
        files, name, place, value = every[i]
        folder = write(tmp_path / "model", files | {name: json.dumps(changed(files[name], place, value))})
        try:
            config, _ = with_end_tokens(sizes(END + 3), folder)
            tokenizer = find_tokenizer(folder, config)
            if tokenizer:
                tokenizer.decode(tokenizer.encode("hello <|im_start|> w", special=True))
            seen["read" if tokenizer else "none"] += 1
        except (CheckpointError, ConfigError, TokenizerError) as error:
            seen["refused" if "\n" not in str(error) else f"{name} {place} {value}"] += 1
        except Exception as error:
            raise AssertionError((name, place, value)) from error
    assert all(seen.values())
    print(len(every), seen)
