"""Functions of anybody's before the judge: both doors take the same ones, and what they raise is theirs."""

import json
import sys
from functools import partial

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from kvproof.bench.judge import __main__ as verify
from kvproof.bench.judge.contract.attention import CHECKS, check_attention
from kvproof.bench.judge.contract.functions import check_decode
from kvproof.bench.judge.contract.report import BROKEN, HELD, NOT_CHECKED
from kvproof.bench.judge.investigation import investigate
from kvproof.bench.judge.subjects.callables import CallableSubject

from .test_attention import torch_attention

sys.modules["test_functions"] = sys.modules[__name__]  # as a user would name it
LOGITS = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 6, 20)))


def plain(dtype, shift):
    return (LOGITS * (1 + shift)).to(getattr(torch, dtype))


def with_gradient(dtype, shift):
    return plain(dtype, shift).requires_grad_()


def without_shift(dtype):
    return plain(dtype, 0.0)


def shift_by_name(dtype, *, shift=0.0):
    return plain(dtype, shift)


def seeded(dtype, seed=0):
    """Whose second argument is no shift."""
    assert seed == 0
    return plain(dtype, 0.0)


def in_rows(dtype, shift):
    return list(plain(dtype, shift))


def in_numpy(dtype, shift):
    return plain(dtype, shift).double().numpy().astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def without_float64(error):
    def path(dtype, shift):
        if dtype == "float64":
            raise error
        return plain(dtype, shift)

    return path


no_float64 = without_float64(NotImplementedError("the chip has none"))
torch_has_no_float64 = without_float64(RuntimeError("\"rope_cpu\" not implemented for 'Double'"))


def float32_weights(dtype, shift):
    """Which meet float64 in one product."""
    return plain(dtype, shift) @ torch.eye(20, dtype=torch.float32 if dtype == "float64" else getattr(torch, dtype))


BUFFERS: dict[str, torch.Tensor] = {}


def one_buffer(dtype, shift):
    buffer = BUFFERS.setdefault(dtype, torch.empty(2, 6, 20, dtype=getattr(torch, dtype)))
    return buffer.copy_(plain(dtype, shift))


class Runner:
    def decode(self, dtype, shift):
        return plain(dtype, shift)


runner = Runner()
TAKEN = [
    *("plain", "with_gradient", "without_shift", "shift_by_name", "seeded", "in_rows", "in_numpy", "no_float64"),
    *("torch_has_no_float64", "one_buffer", "runner.decode"),
]


def named(name):
    found = sys.modules[__name__]
    for part in name.split("."):
        found = getattr(found, part)
    return found


def judged(name: str, dtype: str, capsys) -> dict:
    argv = ["--callable", f"test_functions:{name}", "--against", "test_functions:plain", "--dtype", dtype, "--json"]
    code, words = verify.main(argv), capsys.readouterr()
    assert code in (0, 2), words.err
    return json.loads(words.out)


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_doors_take_the_same_functions_and_say_the_same(name, dtype, capsys):
    at_the_command, in_python = judged(name, dtype, capsys), check_decode(named(name), plain, dtype)
    assert at_the_command["verdict"] == in_python.verdict == "ROUNDING"
    assert at_the_command["rungs"] == in_python.record()["rungs"]


@pytest.mark.parametrize("name", ["no_float64", "torch_has_no_float64", "float32_weights"])
def test_a_rung_that_a_function_does_not_reach_is_left_out_and_the_verdict_says_so(name, capsys):
    found = judged(name, "float32", capsys)
    assert [rung["dtype"] for rung in found["rungs"]] == ["float32"]
    assert "Not run in float64: " in found["reason"]


def test_dtypes_that_clash_in_the_dtype_in_question_are_a_mistake():
    with pytest.raises(RuntimeError, match="dtype"):
        check_decode(float32_weights, plain, "float64")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_stand_at_both_doors(dtype, monkeypatch):
    logits = plain(dtype, 0.0)
    monkeypatch.setattr(sys.modules[__name__], "saved", logits, raising=False)
    assert CallableSubject("test_functions:saved", "test_functions:plain", dtype).paths(dtype)[0].shape == (2, 6, 20)
    assert check_decode(logits, plain, dtype).verdict == check_decode(logits, logits, dtype).verdict == "ROUNDING"


def test_an_array_too_narrow_for_the_dtype_in_question_is_refused_and_not_accused():
    with pytest.raises(ValueError, match="path A holds bfloat16, which no float32 logits fit in; ask in bfloat16"):
        check_decode(plain("bfloat16", 0.0), plain, "float32")


def returning(value):
    return lambda dtype, shift: value


class Output:
    logits = LOGITS


@pytest.mark.parametrize(("path", "message"), [
    (returning(None), "it returned None: is its return missing"),
    (returning(Output()), "it returned a Output: return its .logits"),
    (returning({"logits": 1}), "it returned a dict"),
    (returning("logits"), "it returned a str"),
    (returning(LOGITS + 1j), "complex numbers"),
    (returning(LOGITS[None]), r"it returned the shape \(1, 2, 6, 20\)"),
    (returning(torch.empty(2, 6, 20, device="meta")), "it returned a Tensor"),
    (returning([LOGITS[0], LOGITS[1, :3]]), "it returned a list"),
    (lambda dtype, shift: plain(dtype, shift)[:, : 5 if dtype == "float32" else 6], "the same positions"),
    (lambda: LOGITS, "cannot be called with a dtype and a shift"),
    (lambda shift, dtype: LOGITS, "cannot be called with a dtype and a shift"),
    (lambda dtype, shift, more: LOGITS, "cannot be called with a dtype and a shift"),
])  # fmt: skip
def test_what_is_no_path_to_logits_is_one_line_that_says_what_came(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_decode(path, plain)
    assert "\n" not in str(caught.value)


MODULES = {
    "syntax": ("def f(:\n", "SyntaxError: invalid syntax (at syntax.py:1)"),
    "lacking": ("\nimport nothing_of_that_name\n", "No module named 'nothing_of_that_name' (at lacking.py:2)"),
    "leaves": ("import sys\nsys.exit(0)\n", "SystemExit: 0 (at leaves.py:2)"),
    "fails": ("x = {}\nx['key']\n", "KeyError: 'key' (at fails.py:2)"),
    "stops": ("import sys\ndef f(dtype, shift):\n    sys.exit(0)\n", "stops:f raised SystemExit: 0 (at stops.py:3)"),
    "oserror": ("def f(dtype):\n    open('/no/such/file')\n", "(at oserror.py:2)"),
    "deep": ("import torch\ndef f(dtype):\n    return torch.ones(2) @ torch.ones(3)\n", "(at deep.py:3)"),
    "mute": (
        "class Mute(Exception):\n    def __str__(self):\n        return 1 / 0\n\n\ndef f(dtype):\n    raise Mute\n",
        "mute:f raised Mute: no message (at mute.py:7)",
    ),
}


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", MODULES)
def test_what_a_user_s_module_raises_is_theirs_with_its_line_and_exit_code_3(name, own_folder, capsys):
    text, message = MODULES[name]
    (own_folder / f"{name}.py").write_text(text)
    assert verify.main(["--callable", f"{name}:f", "--against", "test_functions:plain"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(("name", "message"), [
    ("test_functions.py:plain", "names a file; write its module"),
    ("test_functions:plian", "did you mean 'plain'?"),
    ("test_functions:runner.decod", "object 'test_functions.runner' has no 'decod'; did you mean 'decode'?"),
    (".test_functions:plain", "names no function"),
    ("test_functions", "'test_functions' names no function; write module:function"),
    ("test_functions:c", "'test_functions:c': module 'test_functions' has no 'c'"),
    ("test_functions:runner", "'test_functions:runner' is a Runner; it must be a function"),
    ("nobody.here:f", "module 'nobody.here' cannot be imported"),
    ("nobody_here:c", "; is its folder on sys.path"),
])  # fmt: skip
def test_a_name_of_nothing_says_what_is_there_in_one_line(name, message):
    with pytest.raises(ValueError, match="'" + name.replace(".", r"\.")) as caught:
        CallableSubject(name, "test_functions:plain")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def one_and_the_shift(dtype, shift):
    return np.full((1, 2, 3), 1 + shift, dtype)


def ones(dtype, shift):
    return one_and_the_shift(dtype, 0)


def test_two_functions_are_a_subject():
    two = CallableSubject("test_functions:one_and_the_shift", "test_functions:ones")
    a, b = two.paths("float32", 0.5)
    assert (a == 1.5).all()
    assert (b == 1).all()
    assert a.dtype == b.dtype == np.float64  # which holds the values of any dtype
    assert (two.name_a, two.name_b) == ("test_functions:one_and_the_shift", "test_functions:ones")


def test_what_the_user_s_code_prints_is_not_in_the_report(own_folder, capsys):
    text = "print('loading')\nfrom test_functions import plain\ndef f(dtype, shift):\n    print(dtype)\n    "
    (own_folder / "fails.py").write_text(text + "return plain(dtype, shift)\n")
    assert verify.main(["--callable", "fails:f", "--against", "test_functions:plain", "--json"]) == 0
    words = capsys.readouterr()
    assert json.loads(words.out)["verdict"] == "ROUNDING"
    assert words.err.startswith("loading\nfloat64")


def test_ctrl_c_within_a_user_s_function_is_no_error_of_theirs(monkeypatch):
    def interrupted(dtype, shift):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[__name__], "interrupted", interrupted, raising=False)
    assert verify.main(["--callable", "test_functions:interrupted", "--against", "test_functions:plain"]) == 130


class Block(nn.Module):
    def __init__(self, wrong: bool):
        super().__init__()
        self.inner, self.outer, self.wrong = nn.Linear(8, 8), nn.Linear(8, 8), wrong

    def forward(self, x):
        return x + self.outer(self.inner(x) * (1 + 1e-4 * self.wrong))


class Model(nn.Module):
    """No attention, so that decoding step by step is the same computation."""

    def __init__(self, wrong=False):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)
        self.blocks = nn.ModuleList([Block(False), Block(wrong)])

    def forward(self, ids):
        x = self.table(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


IDS = torch.arange(16).reshape(2, 8)


def model_of(wrong, dtype, shift=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(wrong).to(getattr(torch, dtype)).requires_grad_(False)
    model.table.weight.mul_(1 + shift)
    return model


def whole(dtype, shift):
    return model_of(False, dtype, shift)(IDS)[:, 4:]


def stepped(dtype, shift, wrong=True):
    model = model_of(wrong, dtype, shift)
    return torch.cat([model(IDS[:, :5])[:, -1:], *(model(IDS[:, t : t + 1]) for t in (5, 6, 7))], 1)


def stepped_without_shift(dtype):
    return stepped(dtype, 0.0)


def prefixes(dtype, shift):
    model = model_of(True, dtype, shift)
    return torch.cat([model(IDS[:, : t + 1])[:, -1:] for t in (4, 5, 6, 7)], 1)


@pytest.mark.parametrize("name", ["stepped", "stepped_without_shift", "prefixes"])
def test_the_module_where_two_functions_part_is_named_by_its_path(name, capsys):
    assert verify.main(["--callable", f"test_functions:{name}", "--against", "test_functions:whole"]) == 1
    assert "\nstarts at blocks.1.outer, position " in capsys.readouterr().out


def test_the_same_computation_is_accused_of_nothing_though_its_modules_are_watched():
    subject = CallableSubject("test_functions:stepped", "test_functions:whole")
    subject.a.call = (partial(stepped, wrong=False), True)
    assert investigate(subject, "float32").verdict.verdict == "ROUNDING"


MODELS = {(wrong, dtype): model_of(wrong, dtype) for wrong in (True, False) for dtype in ("float64", "float32")}
broken, sound = MODELS[True, "float64"], MODELS[False, "float64"]


def part_by_part(wrong, dtype):
    model = MODELS[wrong, dtype]
    x = model.table(IDS)
    for block in model.blocks:
        x = block(x)
    return model.head(x)


parts_broken, parts_sound = partial(part_by_part, True), partial(part_by_part, False)


def test_a_model_whose_parts_are_run_by_themselves_is_named_by_module(capsys):
    argv = ["--callable", "test_functions:parts_broken", "--against", "test_functions:parts_sound"]
    assert verify.main([*argv, "--module", "test_functions:broken", "--module", "test_functions:sound"]) == 1
    assert "\nstarts at blocks.1.outer, position 0" in capsys.readouterr().out
    assert verify.main(argv) == 1
    assert "torch modules by themselves; name the model that they are parts of by --module" in capsys.readouterr().out
    assert verify.main([*argv, "--module", "test_functions:IDS"]) == 3
    assert "'test_functions:IDS' is a Tensor; it must be a torch module" in capsys.readouterr().err


def wrong_numbers(dtype, shift):
    return plain(dtype, shift) * 1.01


def test_a_verdict_is_printed_though_the_place_is_not_known(capsys):
    assert verify.main(["--callable", "test_functions:wrong_numbers", "--against", "test_functions:plain"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("BUG")
    assert "not known: where the paths part: the first function ran no torch module" in out


def torch_by_methods(q, k, v, lengths):
    return torch_attention(q.contiguous(), k.clone(), v.detach(), lengths)


def torch_compares_devices(q, k, v, lengths):
    assert q.device == k.device == v.device
    return torch_attention(q, k, v, lengths)


@pytest.mark.parametrize("fn", [torch_attention, torch_by_methods, torch_compares_devices])
def test_an_attention_of_torch_tensors_needs_no_device(fn):
    few = ("random scores", "dead slots", "no slot")
    assert check_attention(fn, lengths=(1, 16, 17), only=few).named(HELD) == list(few)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_an_attention_that_raises_is_said_to_once(device):
    def mistaken(q, k, v, lengths):
        return q.no_such_thing

    report = check_attention(mistaken, device=device)
    assert (len(report.named(BROKEN)), len(report.named(NOT_CHECKED))) == (1, len(CHECKS) - 1)
    assert "AttributeError: 'Tensor' object has no attribute 'no_such_thing' (at " in report.checks[0].sentence
    assert not report.green


def test_an_attention_of_arrays_that_is_given_tensors_is_told_to_leave_the_device_out():
    def of_arrays(q, k, v, lengths):
        return q.astype(k.dtype)

    assert "leave device= out" in check_attention(of_arrays, device="cpu").checks[0].sentence
