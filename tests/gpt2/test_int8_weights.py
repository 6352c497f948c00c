"""int8 weights: they are the reference's rint(w / scale), and every impl computes what their values say."""

import copy
import gc
import json
import math
import re
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from kvproof import reference
from kvproof.gpt2 import GPT2, CheckpointError, generate, load
from kvproof.gpt2 import int8_weights as module
from kvproof.gpt2.int8_weights import Int8Linear, Int8Matrix, OutOfMemory, dequantised, int8_bytes, quantise
from kvproof.gpt2.perplexity import sliding_nll
from kvproof.gpt2.weights import as_dtype, build
from kvproof.reference.cache import quantise as numpy_quantise
from kvproof.reference.config import Config
from kvproof.reference.synthetic import SIZES, random_tensors

from .._gpt2_models import IMPLS, forced, random_prompts
from .._refused import refused

CONFIG = Config(n_vocab=61, n_ctx=48, n_embd=48, n_head=3, n_layer=2, n_inner=80)
UNTIED = Config(n_vocab=61, n_ctx=48, n_embd=48, n_head=3, n_layer=1, n_inner=48, tie_word_embeddings=False)
BARS = {"float64": 1e-11, "float32": 5e-5}
LENGTHS = (5, 1, 9)


def tensors(config=CONFIG, seed=0):
    return ((name, torch.from_numpy(array)) for name, array in random_tensors(config, seed))


def make(dtype="float64", impl="sdpa", invariant=False, config=CONFIG, weights: str | None = "int8") -> GPT2:
    return build(config, tensors(config), None, as_dtype(dtype), torch.device("cpu"), impl, invariant, weights)


def matrices(model):
    return {f"{name}.weight": one for name, one in model.named_modules() if isinstance(one, Int8Matrix)}


def differ(model) -> int:
    """The whole numbers and scales of a model that are not the reference's, of the checkpoint's rows per channel."""
    given, wrong = dict(random_tensors(model.config, 0)), 0
    for name, one in matrices(model).items():
        numbers, scale = numpy_quantise(given[name].T if isinstance(one, Int8Linear) else given[name])
        wrong += int((numbers != one.weight.numpy()).sum() + (scale != one.scale.numpy()).sum())
    return wrong


def parity(model) -> float:
    """Largest logit error of the prefill and the decode steps, or of the whole sequences, against the oracle's."""
    prompts = random_prompts(CONFIG.n_vocab, LENGTHS)
    tokens = np.random.default_rng(1).integers(CONFIG.n_vocab, size=(len(prompts), 4))
    params, worst = dequantised(model), 0.0
    got = None if model.impl == "naive" else forced(model, prompts, tokens).double().numpy()
    for b, prompt in enumerate(prompts):
        ids = np.array([[*prompt, *tokens[b]]])
        want = reference.forward(ids, params, model.config)[0]
        with torch.no_grad():
            have = model(torch.tensor(ids))[0].double().numpy() if got is None else got[b]
        want = want if got is None else want[len(prompt) - 1 :]
        worst = max(worst, np.abs(have - want).max() / max(1.0, np.abs(want).max()))
    return worst


ROWS = {
    "random": np.random.default_rng(0).normal(size=(37, 19)),
    "with a row of zeros": np.random.default_rng(1).normal(size=(5, 7)) * [[1], [0], [1e-3], [0], [50]],
    "halves between two numbers": np.arange(-127, 128)[None] * 0.5 * np.array([[1.0], [2.0]]),
    "close to nothing": np.full((2, 3), 1e-44) * [[1], [1e3]],
    "one column": np.array([[3.0], [-2.0], [0.0]]),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_quantise_is_the_reference_s_bit_for_bit(rows, dtype):
    w = torch.from_numpy(rows).to(as_dtype(dtype))
    want = numpy_quantise(w.to(torch.promote_types(w.dtype, torch.float32)).numpy())
    for same in (w, w.mT.contiguous().mT):
        numbers, scale = quantise(same)
        assert (numbers.dtype, scale.dtype) == (torch.int8, torch.float32)
        assert numbers.is_contiguous()
        np.testing.assert_array_equal(numbers, want[0])
        np.testing.assert_array_equal(scale, want[1])


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_the_matrices_are_the_checkpoint_s_in_8_bits_whatever_the_dtype(config):
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        model = make(dtype, config=config)
        assert differ(model) == 0
        assert len(matrices(model)) == 4 * config.n_layer + 1 + (not config.tie_word_embeddings)
        assert (model.dtype, model.weights) == (as_dtype(dtype), "int8")
        for one in matrices(model).values():
            assert one.weight.is_contiguous()
            assert (one.weight.dtype, one.scale.dtype) == (torch.int8, torch.float32)
        others = list(model.parameters())
        assert {p.dtype for p in others} == {model.dtype}
        held = [*others, *model.buffers()]
        assert sum(x.nbytes for x in held) == int8_bytes(config, model.dtype.itemsize)


def test_blocks_of_channels_make_no_difference(monkeypatch):
    whole = make()
    ids = torch.tensor(random_prompts(CONFIG.n_vocab, (9,)))
    want = whole(ids)
    monkeypatch.setattr(module, "CHANNELS", 7)
    cut = make()
    assert differ(cut) == 0
    assert (cut(ids) - want).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize("impl", IMPLS)
def test_every_impl_computes_what_the_values_say(impl, dtype):
    assert parity(make(dtype, impl)) <= BARS[dtype]


def test_an_untied_head_and_invariance_do_too():
    assert parity(make(config=UNTIED)) <= BARS["float64"]
    assert parity(make(impl="triton", invariant=True)) <= BARS["float64"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_errs_as_far_as_the_same_values_in_floats_do(dtype):
    """The same values, rounded to the dtype once, in a model of floats: the products are then the very same."""
    model, plain = make(dtype), make(dtype, weights=None)
    values = {name: one.values(slice(None), model.dtype) for name, one in matrices(model).items()}
    for name, value in values.items():
        plain.get_parameter(name).copy_(value.mT if name.startswith("h.") else value)
    ids = torch.tensor(random_prompts(CONFIG.n_vocab, (9,)))
    assert (model(ids) - plain(ids)).abs().max() <= 2 * torch.finfo(model.dtype).eps * plain(ids).abs().max()


def test_dequantised_params_of_a_float_model_are_its_own():
    params = dequantised(make("float32", weights=None), "float32")
    for name, array in random_tensors(CONFIG, 0):
        node = params
        for key in name.split("."):
            node = node[int(key) if key.isdigit() else key]
        np.testing.assert_array_equal(node, array)


MOVES = {
    "half": lambda m: m.half(),
    "double": lambda m: m.double(),
    "to bfloat16": lambda m: m.to(torch.bfloat16),
    "to cpu and float64": lambda m: m.to("cpu", torch.float64),
    "there and back": lambda m: m.half().float(),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_a_conversion_changes_no_number_and_no_scale(move):
    model = make("float32")
    moved = move(make("float32"))
    for name, one in matrices(moved).items():
        was = matrices(model)[name]
        assert torch.equal(one.weight, was.weight)
        assert torch.equal(one.scale, was.scale)
        assert one.scale.dtype == torch.float32
    ids = torch.tensor([[1, 2, 3]])
    assert moved(ids).dtype == moved.wte(ids).dtype == moved.dtype


def test_a_state_dict_comes_back():
    model, other = make("float32"), make("float32", config=CONFIG)
    for one in matrices(other).values():
        one.weight.zero_()
        one.scale.zero_()
    other.load_state_dict(model.state_dict())
    assert differ(other) == 0


def truncated(w):
    _, scale = quantise(w)
    return (w / scale.where(scale > 0, 1)[:, None]).trunc().to(torch.int8), scale


def by_128(w):
    scale = w.abs().amax(1) / 128
    return (w / scale[:, None]).round().clamp(-128, 127).to(torch.int8), scale


def one_for_all(w):
    scale = (w.abs().amax() / 127).expand(len(w)).clone()
    return (w / scale[:, None]).round().to(torch.int8), scale


def column_scale(w):
    scale = w.abs().amax(0) / 127
    return (w / scale).round().to(torch.int8), scale.repeat(len(w))[: len(w)].contiguous()


@pytest.mark.parametrize("fault", [truncated, by_128, one_for_all, column_scale], ids=lambda fault: fault.__name__)
def test_a_planted_fault_of_quantising_shows(monkeypatch, fault):
    monkeypatch.setattr(module, "quantise", fault)
    assert differ(make()) > 0


def no_scale(self, rows, dtype):
    return self.weight[rows].to(dtype)


def scale_of_inputs(self, rows, dtype):
    """Wrong only where the matrix is square and the shapes do not show it."""
    channels, n = self.weight.shape
    scale = self.scale[:n] if channels == n else self.scale[rows][..., None]
    return self.weight[rows].to(dtype) * scale.to(dtype)


def narrow_scale(self, rows, dtype):
    return self.weight[rows].to(dtype) * self.scale[rows].bfloat16().to(dtype)[..., None]


def unsigned(self, rows, dtype):
    return self.weight[rows].to(torch.uint8).to(dtype) * self.scale[rows].to(dtype)[..., None]


def next_scale(self, rows, dtype):
    return self.weight[rows].to(dtype) * self.scale.roll(1)[rows].to(dtype)[..., None]


@pytest.mark.parametrize("fault", [no_scale, scale_of_inputs, narrow_scale, unsigned, next_scale])
@pytest.mark.parametrize("impl", ["naive", "sdpa"])
def test_a_planted_fault_of_widening_is_no_rounding(monkeypatch, fault, impl):
    model = make("float32", impl)
    assert parity(model) <= BARS["float32"]
    monkeypatch.setattr(Int8Matrix, "values", fault)
    assert parity(model) > 10 * BARS["float32"]


@pytest.mark.parametrize("where", ["head", "table"])
def test_a_scale_forgotten_in_one_place_alone_shows(monkeypatch, where):
    model = make()
    name = "product" if where == "head" else "forward"
    whole = getattr(model.wte, name)
    scale = torch.linspace(0.999, 1.001, CONFIG.n_vocab, dtype=torch.float64)
    monkeypatch.setattr(model.wte, name, lambda x: whole(x) * (scale if where == "head" else scale[x][..., None]))
    assert parity(model) > 1e-5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["wte.weight", "h.1.mlp.c_proj.weight"])
def test_a_tensor_that_is_not_finite_is_named(name, bad):
    given = {key: tensor.clone() for key, tensor in tensors()}
    given[name][-1, -1] = bad
    args = (CONFIG, iter(given.items()), None, torch.float32, torch.device("cpu"), "sdpa", False)
    assert build(*args).weights is None
    args = (CONFIG, iter(given.items()), None, torch.float32, torch.device("cpu"), "sdpa", False, "int8")
    refused(CheckpointError, f"^tensor {name} holds NaN, inf .*load it without weights", build, *args)


def test_float64_beyond_float32_is_refused_too():
    assert quantise(torch.full((1, 2), 1e300, dtype=torch.float64))[1].isinf().all()
    refused(
        CheckpointError,
        "^tensor x holds .*beyond float32",
        Int8Matrix(1, 2).fill,
        "x",
        torch.tensor([[1e300, 0]]).double(),
    )


def test_no_tensor_of_the_checkpoint_outlives_its_turn():
    """At most one float tensor is alive when the next is asked for."""
    alive = []

    def one_by_one():
        for name, array in random_tensors(CONFIG, 0):
            tensor = torch.from_numpy(array)
            alive.append(weakref.ref(tensor))
            yield name, tensor
            del tensor, array
            assert [ref() for ref in alive] == [None] * len(alive), f"after {name}"

    build(CONFIG, one_by_one(), None, torch.float32, torch.device("cpu"), "sdpa", False, "int8")
    assert len(alive) > 20


@pytest.mark.parametrize("lacking", [
    MemoryError("Unable to allocate 147. MiB"), torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
], ids=["NumPy", "CUDA", "torch"])  # fmt: skip
def test_without_memory_one_error_says_what_is_needed_and_nothing_is_left(monkeypatch, lacking):
    models = []

    def lacks(self, name, w):
        models.append(weakref.ref(self))
        raise lacking

    with monkeypatch.context() as patch:
        patch.setattr(Int8Linear, "fill", lacks)
        with pytest.raises(OutOfMemory) as caught:
            make("float32")
    lacking.__traceback__ = None
    assert re.match("out of memory while quantising .* million weights: in int8 they take", str(caught.value))
    assert "free that much, or load a smaller model" in str(caught.value)
    gc.collect()
    assert models
    assert [ref() for ref in models] == [None] * len(models)


def test_an_error_that_is_none_of_memory_s_stays_what_it_is(monkeypatch):
    def breaks(self, name, w):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Int8Linear, "fill", breaks)
    refused(RuntimeError, "^shapes do not match$", make)


def test_tiny_generates_scores_and_says_so():
    model, plain = load("tiny", weights="int8"), load("tiny")
    ids = (
        plain.tokenizer.encode("A king had a daughter who was beautiful beyond all measure.") if plain.tokenizer else []
    )
    texts = {generate(model.with_impl(impl), "Once upon a time", max_new_tokens=12)[0].text for impl in IMPLS}
    assert len(texts) == 1
    total, count = sliding_nll(model, ids)
    assert abs(total / count - sliding_nll(plain, ids)[0] / count) < 0.05
    assert (model.weights, plain.weights) == ("int8", None)


@pytest.mark.parametrize("wrong", ["int4", "INT8", "", True, 8, torch.int8, b"int8", ["int8"]], ids=repr)
def test_other_weights_are_refused(wrong):
    refused(ValueError, "^weights is .*; it must be one of int8, or None", load, "tiny", weights=wrong)
    refused(ValueError, "^weights is .*; it must be one of int8, or None", GPT2, CONFIG, weights=wrong)


PEAK = """
import sys
from pathlib import Path
from kvproof.bench.memory.peak import status, trim
from kvproof.gpt2 import load
load("tiny", weights="int8")
trim()
base = status()["VmRSS"]
Path("/proc/self/clear_refs").write_text("5")
model = load(sys.argv[1], weights="int8")
peak = status()["VmHWM"] - base
trim()
print(peak, status()["VmRSS"] - base)
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")


@linux
@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["random:gpt2", "a file of it"])
def test_loading_124_million_parameters_never_holds_much_more_than_they_take(kind, tmp_path):
    """All pages count, those of the file and of libraries first touched, too."""
    name, floats = kind, 4 * 124_439_808
    if kind != "random:gpt2":
        name = str(tmp_path)
        save_file(dict(random_tensors(SIZES["gpt2"])), tmp_path / "model.safetensors")
        sizes = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"} | sizes))
    run = subprocess.run([sys.executable, "-c", PEAK, name], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    peak, steady = map(int, run.stdout.split())
    assert int8_bytes(SIZES["gpt2"], 4) <= steady <= 0.30 * floats
    assert steady < peak <= 0.75 * floats


LIMITED = """
import resource, sys
from kvproof.gpt2 import load
from kvproof.gpt2.int8_weights import OutOfMemory
from kvproof.gpt2.cli.run import run
from kvproof.gpt2.cli.parser import parser
load("tiny", weights="int8")
used = 4096 * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + 180_000_000, -1))
sys.exit(run(parser().parse_args(["generate", "--model", "random:gpt2", "--weights", "int8", "--prompt", "x"])))
"""


@linux
def test_a_machine_that_is_too_small_is_told_in_one_line():
    run = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert run.stderr.splitlines()[-1].startswith("kvproof: out of memory while quantising ")
    assert "124 million weights: in int8 they take 128 MB, and up to 154 MB more while they load" in run.stderr
    assert "Traceback" not in run.stderr
