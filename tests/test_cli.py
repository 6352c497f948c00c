"""`kvproof generate`: text on standard output as it is decoded, times on standard error, one line for a mistake."""

import subprocess
import sys

import pytest

from kvproof.gpt2 import generate, load
from kvproof.gpt2.__main__ import main


@pytest.mark.parametrize("cache", ["--kv-cache", "--no-kv-cache"])
def test_the_text_is_generate_s_and_the_times_go_elsewhere(capsys, cache):
    assert main(["generate", "--prompt", "ROMEO:", "--max-tokens", "12", cache]) == 0
    out, err = capsys.readouterr()
    (done,) = generate(load("tiny"), "ROMEO:", max_new_tokens=12)
    assert out == "ROMEO:" + done.text + "\n"
    assert "tokens/s" in err


def test_sampling_options_reach_the_sampler(capsys):
    options = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 3}
    words = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), str(value))]
    assert main(["generate", "--prompt", "ROMEO:", "--max-tokens", "12", *words]) == 0
    (done,) = generate(load("tiny"), "ROMEO:", max_new_tokens=12, **options)
    assert capsys.readouterr().out == "ROMEO:" + done.text + "\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", ""], "prompt 0 is empty"),
        (["--prompt", "x", "--temperature", "-1"], "temperature is -1.0"),
        (["--prompt", "x", "--top-p", "2"], "top_p is 2.0"),
        (["--prompt", "x", "--max-tokens", "5000"], "1024 fit"),
        (["--prompt", "x", "--model", "nowhere"], "no model 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, message):
    assert main(["generate", *words]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert not out


def test_the_module_runs_as_a_program_and_survives_a_closed_pipe():
    command = f"{sys.executable} -m kvproof.gpt2 generate --prompt 'Once upon a time' --max-tokens 200 | head -c 10"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.stdout == "Once upon "
    assert "Traceback" not in run.stderr
