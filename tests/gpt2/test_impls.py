"""impl "auto": the compiled engine where it can run, torch elsewhere, and which of them it was is said."""

import copy
import subprocess
import sys

import pytest
import torch

from kvproof.gpt2 import GPT2, Config, generate, load
from kvproof.gpt2.__main__ import main
from kvproof.gpt2.impls import resolve_impl, say_once
from kvproof.kernels.cpu import machine_code

from .. import _child
from .._engine import ENGINE
from .._refused import refused

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = Config(n_vocab=11, n_ctx=8, n_embd=8, n_head=2, n_layer=1, n_inner=16)
LACKS = "impl 'numba' needs a CPU with avx9, which this one lacks; use impl='sdpa'"


@pytest.fixture
def no_engine(monkeypatch):
    """A machine on which the engine cannot run, in a process that has not said so yet."""
    monkeypatch.setattr(machine_code, "available", lambda variant=None: LACKS)
    say_once.cache_clear()


@ENGINE
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("weights", [None, "int8"])
def test_on_a_cpu_the_default_is_the_engine(dtype, weights):
    assert load("tiny", dtype=dtype, weights=weights).impl == "numba"


def test_on_a_gpu_the_default_is_sdpa_and_the_engine_is_refused():
    assert resolve_impl("auto", CUDA, torch.float32) == "sdpa"
    refused(
        ValueError, "device is 'cuda'; it must be the CPU for impl 'numba'", resolve_impl, "numba", CUDA, torch.float32
    )


def test_a_model_that_is_not_loaded_stays_with_sdpa_and_takes_no_auto():
    assert GPT2(CONFIG).impl == "sdpa"
    refused(ValueError, "impl 'auto' is not known", GPT2, CONFIG, "auto")


@pytest.mark.parametrize("impl", ["naive", "eager", "sdpa"])
def test_other_impls_ask_nothing_of_the_engine(impl, no_engine, capsys):
    assert load("tiny", impl=impl).impl == impl
    assert capsys.readouterr().err == ""


def test_without_the_engine_the_default_is_sdpa_which_one_line_says_once(no_engine, capsys):
    for _ in range(2):
        assert load("tiny").impl == "sdpa"
    assert capsys.readouterr().err == f"kvproof: impl 'sdpa' computes, the slower one: {LACKS}\n"


@pytest.mark.parametrize("asked", [{"impl": "numba"}, {"invariant": True}], ids=str)
def test_without_the_engine_who_asks_for_it_gets_its_error(asked, no_engine, capsys):
    refused(machine_code.NoEngine, "needs a CPU with avx9", load, "tiny", **asked)
    assert main(["generate", "--prompt", "A", "--impl", "numba"]) == 2
    assert capsys.readouterr().err == f"kvproof: {LACKS}\n"


@ENGINE
def test_invariant_is_another_name_for_the_engine():
    for impl in ("auto", "numba"):
        model = load("tiny", impl=impl, invariant=True)
        assert (model.impl, model.invariant) == ("numba", True)
        assert not any(block.attn.invariant for block in model.blocks)  # torch's products at torch's cost
    (alone,) = generate(model, "ROMEO:", max_new_tokens=4)
    assert generate(model, ["Once", "ROMEO:"], max_new_tokens=4)[1] == alone
    refused(ValueError, "'sdpa' came with invariant=True, which only 'numba' and 'triton'", model.with_impl, "sdpa")
    refused(ValueError, "load it with impl='triton' and invariant=True", model.with_impl, "triton")


def test_layers_made_for_triton_serve_the_engine_and_triton_again():
    model = GPT2(CONFIG, "triton", invariant=True)
    assert model.with_impl("numba").with_impl("triton").impl == "triton"


@ENGINE
def test_the_impl_is_said_by_info_and_with_the_times(capsys, tmp_path):
    assert main(["info", "tiny"]) == 0
    assert f"{'impl':26}numba\n" in capsys.readouterr().out
    for asked, found in (("auto", "numba"), ("eager", "eager")):
        assert main(["generate", "--prompt", "A", "--max-tokens", "2", "--impl", asked]) == 0
        assert capsys.readouterr().err.endswith(f"({found}, float32, cpu)\n")
    assert main(["logits", "--ids", "1,2", "--out", str(tmp_path / "x.npy")]) == 0
    assert capsys.readouterr().err.endswith("by numba\n")


def child(program: str, **options) -> subprocess.CompletedProcess:
    run = _child.run([sys.executable, "-c", program], capture_output=True, text=True, **options)
    assert run.returncode == 0, run.stderr
    return run


@pytest.mark.parametrize("use", [
    "import kvproof.gpt2, kvproof.bench.measure.interleaved",
    "from kvproof.gpt2 import generate, load; generate(load('tiny', impl='sdpa'), 'A', max_new_tokens=2)",
    "from kvproof.gpt2.__main__ import main\ntry:\n    main(['generate', '--help'])\nexcept SystemExit:\n    pass",
])  # fmt: skip
def test_what_does_not_use_the_engine_imports_neither_numba_nor_llvmlite(use, tmp_path):
    program = f"import sys\n{use}\nassert not {{'numba', 'llvmlite'}} & {{name.split('.')[0] for name in sys.modules}}"
    child(program, cwd=tmp_path)


@ENGINE
def test_a_process_that_finds_its_engine_on_the_disk_imports_no_numba(tmp_path):
    generate(load("tiny"), "A", max_new_tokens=2)  # where it had to be compiled, it is on the disk now
    program = (
        "import sys\nfrom kvproof.gpt2.__main__ import main\n"
        "assert main(['generate', '--prompt', 'A', '--max-tokens', '2']) == 0\n"
        "assert 'llvmlite' in sys.modules and 'numba' not in sys.modules"
    )
    assert "(numba, float32, cpu)" in child(program, cwd=tmp_path).stderr


def test_without_numba_everything_else_works(tmp_path):
    program = (
        "import sys; sys.modules['numba'] = None\nfrom kvproof.gpt2 import generate, load\n"
        "for _ in range(2):\n    model = load('tiny')\n"
        "print(model.impl, generate(model, 'A', max_new_tokens=2)[0].finish_reason)"
    )
    run = child(program, cwd=tmp_path)
    assert run.stdout == "sdpa length\n"
    assert run.stderr.count("\n") == 1
    assert "needs the package numba, which is not installed here: pip install numba" in run.stderr


def test_the_engine_sees_a_module_that_was_replaced():
    model = load("tiny", impl="numba")
    before = model.decode(torch.tensor([3]), model.new_cache(1))
    model.ln_f = torch.nn.LayerNorm(model.config.n_embd, eps=model.config.layer_norm_epsilon).requires_grad_(False)
    twin = model.with_impl("sdpa")
    after, want = (m.decode(torch.tensor([3]), m.new_cache(1)) for m in (model, twin))
    torch.testing.assert_close(after, want, rtol=0, atol=5e-5)
    assert not torch.equal(after, before)


@pytest.mark.parametrize("page", [None, 5])
def test_a_copy_of_a_cache_goes_on_by_itself(page):
    model = load("tiny", impl="numba")
    cache, ids = model.new_cache(1, 20, page=page), torch.tensor([3])
    model.prefill([[1, 2]], cache)
    model.decode(ids, cache)
    twin = copy.deepcopy(cache)
    want = model.decode(ids, cache)
    assert torch.equal(model.decode(ids, twin), want)
    assert torch.equal(model.decode(ids + 1, twin), model.decode(ids + 1, cache))
