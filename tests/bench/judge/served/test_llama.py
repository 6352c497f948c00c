"""A real server, llama.cpp's by llama-cpp-python, in a process of its own: cleared, and its off-by-one echo named."""

import json

import pytest

from kvproof.bench.judge import __main__ as verify

from ._llama import llama_server, write_model

for needed in ("llama_cpp", "gguf", "uvicorn", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings"):
    pytest.importorskip(needed, reason="needs llama-cpp-python[server] and gguf")

F32 = ("--type_k", "0", "--type_v", "0", "--flash_attn", "false", "--n_ctx", "128")  # 0 is float32 in ggml
WORDS = ("--prompt", "Once upon a time", "--prompt", "ROMEO:", "--timeout", "20", "--json")


def judged(url, capsys, *words):
    code = verify.main(["--url", url, *WORDS, *words])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("begins", [True, False], ids=["with a first token", "without"])
def test_llama_cpp_s_server_is_not_accused_and_its_echo_is_read_where_it_belongs(begins, tmp_path, capsys):
    model = write_model(tmp_path / "model.gguf", begins)
    with llama_server(model, *F32) as url:
        code, found = judged(url, capsys, "--dtype", "float32")
        assumed, _ = judged(url, capsys)
    # Its GELU is a table of float16, so that it rounds about as much as float32's gate allows.
    assert (code, found["verdict"]) in ((0, "ROUNDING"), (2, "INCONCLUSIVE")), found["reason"]
    assert 0 < found["rungs"][0]["error"] < 2e-3
    assert any("a bug of echo" in note for note in found["notes"]) == (not begins)
    assert any("takes text and no token ids" in note for note in found["notes"])
    assert any("prefill by echo" in note for note in found["notes"])
    assert assumed == 2


def test_two_of_its_servers_with_other_weights_are_told_apart(tmp_path, capsys):
    models = [write_model(tmp_path / f"{i}.gguf", True, seed=i) for i in range(2)]
    words = ("--dtype", "float32", "--steps", "8")
    with llama_server(models[0], *F32) as a:
        with llama_server(models[1], *F32) as b:
            code, found = judged(a, capsys, "--against", b, *words)
        with llama_server(models[0], *F32) as b:
            same, _ = judged(a, capsys, "--against", b, *words)
    assert code == 1, found["reason"]
    assert same in (0, 2)
