"""The command line: text as it is decoded, times on standard error, documented exit codes, one line for a mistake."""

import errno
import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import kvproof
from kvproof.gpt2 import Completion, arguments, attention, generate, load, weights
from kvproof.gpt2.__main__ import main
from kvproof.gpt2.checkpoint.merges import byte_alphabet
from kvproof.gpt2.cli.generate import Clock, Page
from kvproof.gpt2.cli.parser import parser
from kvproof.gpt2.cli.run import RUN
from kvproof.gpt2.cli.tools import step_logits
from kvproof.gpt2.int8_weights import OutOfMemory
from kvproof.gpt2.perplexity import sliding_nll
from kvproof.kernels.cpu import CompilerFailed, Variant
from kvproof.reference.synthetic import SIZES

from ... import _child
from ..._gpt2_models import golden_model
from ..._reference_models import goldens
from .._folders import merges_text, speaker
from ._limits import small_files

PROGRAM = [sys.executable, "-m", "kvproof.gpt2"]


@pytest.mark.parametrize("cache", ["--kv-cache", "--no-kv-cache"])
@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_the_text_is_generate_s_and_the_times_go_elsewhere(capsys, tiny, cache, stream):
    assert main(["generate", "--prompt", "ROMEO:", "--max-tokens", "12", cache, stream]) == 0
    out, err = capsys.readouterr()
    (done,) = generate(tiny, "ROMEO:", max_new_tokens=12)
    assert out == "ROMEO:" + done.text + "\n"
    for word in ("prefill", "decode", "for 11 tokens", "tokens/s"):
        assert word in err


def test_sampling_options_reach_the_sampler(capsys, tiny):
    options = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 3, "stop": "e"}
    words = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]
    assert main(["generate", "--prompt", "ROMEO:", "--max-tokens", "12", *words]) == 0
    (done,) = generate(tiny, "ROMEO:", max_new_tokens=12, **options)
    assert done.finish_reason == "stop"
    assert capsys.readouterr().out == "ROMEO:" + done.text + "\n"


@pytest.mark.parametrize("size", ["1", "2", "8"])
def test_several_prompts_come_in_order_whatever_the_batch(capsys, tiny, size):
    prompts = ["ROMEO:", "Once upon a time", "A"]
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    words += ["--max-tokens", "8", "--batch", size, "--temperature", "0.8", "--seed", "2"]
    done = generate(tiny, prompts, max_new_tokens=8, temperature=0.8, seed=2)
    assert main(["generate", *words]) == 0
    assert capsys.readouterr().out == "".join(f"{p}{one.text}\n" for p, one in zip(prompts, done, strict=True))
    assert main(["generate", *words, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["index"], r["prompt"], r["ids"]) for r in records] == [
        (i, p, one.ids) for i, (p, one) in enumerate(zip(prompts, done, strict=True))
    ]


def test_a_page_shows_the_first_text_as_it_comes_and_the_others_whole(capsys):
    page = Page(["a", "b"], stream=True)
    page.hear(0, 5, "1")
    assert capsys.readouterr().out == "a1"
    page.hear(1, 6, "2")
    assert not capsys.readouterr().out
    page.hear(0, None, "3")
    page.close([Completion([0], [5], "13", "length"), Completion([0], [6], "2", "length")])
    assert capsys.readouterr().out == "3\nb2\n"


def test_the_clock_counts_a_row_s_first_token_as_prefill(tiny):
    clock = Clock()
    for _ in range(2):
        clock.generate(tiny, [[1, 2], [3]], None, max_new_tokens=5)
    assert clock.tokens == 16
    assert clock.prefill > 0
    assert "16 tokens, " in str(clock)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "--prompt", ""], "prompt 0 is empty; --unconditional starts from nothing"),
        (["generate", "--prompt", "x", "--temperature", "-1"], "temperature is -1.0"),
        (["generate", "--prompt", "x", "--top-p", "2"], "top_p is 2.0"),
        (["generate", "--prompt", "x", "--seed", "-1"], "seed is -1"),
        (["generate", "--prompt", "x", "--stop", ""], "a stop string is empty"),
        (["generate", "--prompt", "x", "--stop", "a\udcff"], "has a byte that is no UTF-8"),
        (["generate", "--prompt", "x", "--temperature", "nan"], "temperature is nan"),
        (["generate", "--prompt", "x", "--max-tokens", "5000"], "1024 fit"),
        (["generate", "--prompt", "x", "--max-tokens", "0"], "--max-tokens is 0"),
        (["generate", "--prompt", "x", "--batch", "0"], "--batch is 0"),
        (["generate", "--prompt", "x", "--output", "y"], "--output came without --prompt-file"),
        (["generate", "--prompt-file", "/no/such/file"], "/no/such/file: No such file"),
        (["generate", "--prompt-file", "/"], "/: Is a directory"),
        (["generate", "--prompt", "x", "--model", "tinny"], "did you mean 'tiny'"),
        (["generate", "--prompt", "x", "--model", "/"], " in /"),
        (["generate", "--prompt", "x", "--device", "abacus"], "device 'abacus' is not known"),
        (["logits", "--ids", "1,x", "--out", "y"], "like 1,2,3; 'x' came"),
        (["logits", "--ids", ",", "--out", "y"], "none came"),
        (["logits", "--ids", "99999", "--out", "y"], "token id 99999"),
        (["logits", "--ids", "1", "--out", "/no/such/folder/y"], "No such file or directory; make the folder /no/such"),
        (["logits", "--ids", "1", "--out", "/"], "/: Is a directory; name a file in it"),
        (["tokenize", "--decode", "99999"], "id 99999 has no text"),
        (["perplexity", "--file", "/no/such/file"], "No such file"),
        (["perplexity", "--file", os.devnull], "perplexity needs 2 or more"),
        (["perplexity", "--file", __file__, "--stride", "0"], "stride is 0"),
        (["perplexity", "--file", __file__, "--window", "2000"], "window is 2000"),
        (["info", "random:gpt3"], "there is no random model 'gpt3'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, message):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert not out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "COMMAND"),
        ("write", "invalid choice: 'write'"),
        ("generate", "--prompt"),
        ("generate --prompt x --prompt-file y", "not allowed with argument"),
        ("generate --unconditional --prompt x", "not allowed with argument"),
        ("generate --unconditional --prompt-file x", "not allowed with argument"),
        ("generate --prompt -x", "expected one argument"),
        ("generate --prompt x --impl magic", "invalid choice: 'magic'"),
        ("generate --prompt x --top-k many", "invalid int value: 'many'"),
        ("tokenize", "one of the arguments TEXT --file is required"),
    ],
)
def test_a_mistake_in_the_options_is_one_line_too(capsys, line, words):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert words in err
    assert "--help" in err
    assert err.count("\n") == 1
    assert not out


def help_of(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_names_the_commands_and_the_exit_codes(capsys):
    text = help_of([], capsys)
    for word in ("exit codes:", "130", "    verify  ", *RUN):
        assert word in text


def test_the_example_of_download_is_no_folder_of_a_clone(capsys):
    ((folder, used),) = re.findall(r"download gpt2 (\S+) && .*--model (\S+)", help_of(["download"], capsys))
    assert folder == used
    assert not (Path(__file__).parents[3] / folder).exists()


def test_the_package_says_its_version():
    assert kvproof.__version__ == version("kvproof")


def test_the_parser_s_choices_are_those_of_the_model():
    assert tuple(attention.DECODE_STEP) == arguments.IMPLS
    for name, values in (("impl", attention.DECODE_STEP), ("dtype", weights.DTYPES)):
        for value in values:
            assert vars(parser().parse_args(["generate", "--prompt", "x", f"--{name}", value]))[name] == value


@pytest.mark.parametrize("words", [["tokenize", "--decode"], ["logits", "--ids"]])
def test_help_says_how_ids_are_separated(capsys, words):
    text = " ".join(help_of(words[:1], capsys).split())
    assert "separated by commas or white space" in text[text.index(f" {words[1]} ", text.index("options:")) :]


@pytest.mark.parametrize("command", RUN)
def test_the_examples_in_help_are_calls_the_parser_takes(capsys, command):
    examples = [line for line in help_of([command], capsys).splitlines() if line.startswith("  kvproof ")]
    assert examples
    for example in examples:
        for call in re.split(r" \| | && ", example.strip()):
            if call.startswith("kvproof "):
                assert parser().parse_args(shlex.split(call)[1:]).command in RUN


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FloatingPointError("NaN\ncame"), 1),
        (MemoryError(), 1),
        (torch.OutOfMemoryError("CUDA out of memory"), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 1),
        (RuntimeError("unable to mmap 8 bytes from file <x>: Cannot allocate memory (12)"), 1),
        (OutOfMemory(SIZES["gpt2"], 4), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2),
        (ValueError("wrong"), 2),
        (ImportError("triton is absent"), 2),
        (CompilerFailed(Variant(*["float32"] * 4), "LLVM said no"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_goes_wrong_has_the_exit_code_that_help_says(capsys, monkeypatch, error, code):
    def fail(args):
        raise error

    monkeypatch.setitem(RUN, "info", fail)
    assert main(["info", "tiny"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bug_of_ours_is_not_passed_off_as_a_mistake(monkeypatch):
    def fail(args):
        raise RuntimeError("shapes disagree")

    monkeypatch.setitem(RUN, "info", fail)
    with pytest.raises(RuntimeError, match="shapes disagree"):
        main(["info", "tiny"])


def test_download_prints_where_the_files_are(capsys, monkeypatch, tmp_path):
    hub = ModuleType("hub")
    hub.fetch = lambda name, folder: (folder or tmp_path) / name  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "kvproof.gpt2.hub", hub)
    assert main(["download", "gpt2"]) == 0
    assert main(["download", "gpt2", "here"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/gpt2\nhere/gpt2\n"


def test_characters_that_span_tokens_stream_whole_and_before_the_run_ends(tmp_path):
    text, tokens = "é😀日本 ~א🤗!".encode(), 4300
    letters = list(byte_alphabet().values())  # in the order of their ids
    ids = [letters.index(byte) for byte in (text * tokens)[: tokens + 1]]
    model = speaker(tmp_path / "model", ids, 257, {"merges.txt": merges_text(())})
    words = ["generate", "--model", str(model), "--prompt", "A", "--max-tokens", str(tokens)]
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)  # the text is longer, so the run cannot end before it is read
    with _child.Popen([*PROGRAM, *words], stdout=write, stderr=subprocess.PIPE) as run:
        os.close(write)
        got, pieces = b"", 0
        while piece := os.read(read, 4096):
            if not pieces:
                assert run.poll() is None
            got, pieces = got + piece, pieces + 1
            got.decode()  # what is there never ends inside a character
        os.close(read)
    assert run.returncode == 0
    assert pieces > 1
    assert got == b"A" + (text * tokens)[:tokens].decode(errors="replace").encode() + b"\n"


def test_bytes_that_are_no_utf_8_go_out_as_they_came_in(capfdbinary):
    assert main(["generate", "--prompt", os.fsdecode(b"\xff\xc3"), "--max-tokens", "1"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"\xff\xc3")


def test_logits_are_the_model_s_whichever_impl_makes_them(tmp_path, capsys, tiny):
    with torch.no_grad():
        want = tiny(torch.tensor([[7, 300, 2, 5]]))[0].numpy()
    for impl in ("naive", "eager", "sdpa"):
        out = tmp_path / f"{impl}.npy"
        assert main(["logits", "--ids", "7,300, 2\n5", "--impl", impl, "--out", str(out)]) == 0
        got = np.load(out)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-5)
        assert f"logits {want.shape}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eager.npy", "naive.npy", "sdpa.npy"]


@pytest.mark.parametrize("impl", ["naive", "eager", "sdpa", "triton"])
def test_logits_step_by_step_are_the_goldens(impl, device):
    golden = goldens("syn-hd32")
    got = step_logits(golden_model("syn-hd32", device=device).with_impl(impl), golden["prompt_A"].tolist())
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, golden["logits_A_f64"], rtol=0, atol=1e-11)


def test_logits_that_cannot_be_written_whole_leave_no_file(tmp_path, capsys):
    out = tmp_path / "x.npy"
    with small_files(1024):
        assert main(["logits", "--ids", "1,2,3", "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"kvproof: {out}: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_text_becomes_ids_and_again_the_same_bytes(tmp_path, capfdbinary, tiny):
    data = "Once 😀\r\n".encode() + b"\xff\x00"
    path, ids = tmp_path / "text", tmp_path / "ids"
    path.write_bytes(data)
    assert main(["tokenize", "--file", str(path)]) == 0
    ids.write_bytes(capfdbinary.readouterr().out)
    assert [int(i) for i in ids.read_text().split(",")] == tiny.tokenizer.encode(data)
    assert main(["tokenize", "--decode", "--file", str(ids)]) == 0
    assert capfdbinary.readouterr().out == data


@pytest.mark.parametrize("ids", ["32,33,34", "32 33 34", " 32,\t33 ,\n34\n", "32\n33\r\n34"])
def test_ids_are_separated_by_commas_or_white_space(tmp_path, capsys, ids):
    path = tmp_path / "x.npy"
    assert main(["tokenize", "--decode", ids]) == 0
    assert main(["logits", "--ids", ids, "--out", str(path)]) == 0
    assert capsys.readouterr().out == "ABC"
    assert len(np.load(path)) == 3


def test_a_published_size_has_the_published_tokens(capsys):
    assert main(["tokenize", "Hello world", "--model", "random:gpt2"]) == 0
    assert capsys.readouterr().out == "15496,995\n"


@pytest.mark.parametrize(
    ("model", "dtype", "parameters", "cache"),
    [("tiny", "float32", None, 6144), ("random:gpt2", "bfloat16", 124439808, 36864)],
)
def test_info_counts_parameters_and_cache_bytes(capsys, tiny, model, dtype, parameters, cache):
    parameters = parameters or sum(p.numel() for p in tiny.parameters())
    assert main(["info", model, "--dtype", dtype, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == parameters
    assert facts["weight_bytes"] == parameters * (4 if dtype == "float32" else 2)
    assert facts["cache_bytes_per_token"] == cache
    if model == "tiny":
        held = tiny.new_cache(1, 1)
        assert cache == sum(x.nbytes for x in (*held.k, *held.v))
    wanted = ("2048", "2049 tokens from vocab.bpe") if model == "tiny" else ("50256", "50257 tokens from the published")
    assert facts["origin"]["end_tokens"].startswith(f"{wanted[0]} '<|endoftext|>' from ")
    assert facts["origin"]["vocabulary"].startswith(wanted[1])
    assert main(["info", model]) == 0
    assert f"parameters                {parameters:,}\n" in capsys.readouterr().out


def test_info_counts_the_bytes_of_int8_weights(capsys):
    assert main(["info", "tiny", "--weights", "int8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    model = load("tiny", weights="int8")
    assert facts["weight_bytes"] == sum(x.nbytes for x in (*model.parameters(), *model.buffers()))
    assert (facts["dtype"], facts["quantised"]) == ("float32", "int8")
    assert main(["info", "tiny"]) == 0
    assert "quantised" not in capsys.readouterr().out


def test_every_command_that_takes_a_dtype_takes_int8_weights(tmp_path, capsys):
    words, model = tmp_path / "a.txt", load("tiny", weights="int8")
    words.write_text("A king had a daughter.")
    assert main(["perplexity", "--file", str(words), "--weights", "int8", "--json"]) == 0
    total, count = sliding_nll(model, model.tokenizer.encode(words.read_text()))
    assert json.loads(capsys.readouterr().out)["nats_per_token"] == total / count
    assert main(["logits", "--ids", "1,2,3", "--out", str(tmp_path / "x.npy"), "--weights", "int8"]) == 0
    want = step_logits(model, [1, 2, 3])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), want)
    assert np.abs(want - step_logits(load("tiny"), [1, 2, 3])).max() > 1e-3
    capsys.readouterr()
    assert main(["generate", "--prompt", "A", "--weights", "int8", "--max-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["quantised"] == "int8"


@pytest.mark.parametrize(
    "words", [["--unconditional"], ["--prompt", "<|endoftext|>"], ["--prompt=<|endoftext|>", "--allow-special"]]
)
def test_a_text_can_start_from_nothing(capsys, tiny, words):
    assert main(["generate", *words, "--max-tokens", "5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (done,) = generate(tiny, [tiny.tokenizer.eot], max_new_tokens=5)
    assert (record["prompt_tokens"], record["ids"]) == (1, done.ids)
    assert main(["generate", *words, "--max-tokens", "5"]) == 0
    assert capsys.readouterr().out == ("" if "--unconditional" in words else "<|endoftext|>") + done.text + "\n"


@pytest.mark.parametrize("prompt", ["A<|endoftext|>", "<|endoftext|> ", "<|endoftext|><|endoftext|>"])
def test_the_end_token_inside_a_text_is_plain_text_unless_it_is_allowed(capsys, tiny, prompt):
    words = ["generate", "--prompt", prompt, "--max-tokens", "1", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == len(tiny.tokenizer.encode(prompt))
    assert main([*words, "--allow-special"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == len(tiny.tokenizer.encode(prompt, special=True))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_json_is_utf_8_whatever_the_prompt_s_bytes_and_the_locale(encoding):
    prompts = [b"a\xff", b"\xed\xa0\x80", b"\xc3", b"\xf0\x9f\x98", "é".encode()]
    words = [word for prompt in prompts for word in (b"--prompt", prompt)]
    env = os.environ | {"PYTHONIOENCODING": encoding}
    run = _child.run([*PROGRAM, "generate", *words, "--max-tokens", "1", "--json"], capture_output=True, env=env)
    assert run.returncode == 0, run.stderr
    records = map(json.loads, run.stdout.decode("utf-8").splitlines())
    assert [os.fsencode(record["prompt"]) for record in records] == prompts, "nothing is lost"


@pytest.mark.parametrize("path", ["/dev/null", "link", "kept"])
def test_logits_go_where_the_path_leads(tmp_path, path):
    (tmp_path / "link").symlink_to("goal")
    (tmp_path / "kept").touch(mode=0o600)
    assert main(["logits", "--ids", "1", "--out", str(tmp_path / path)]) == 0
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600
    if path != "/dev/null":
        assert len(np.load(tmp_path / path)) == 1
