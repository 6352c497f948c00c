"""Saved logits: each verdict, each way that a file can be wrong, and no pickle loaded."""

import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from kvproof.bench.judge import __main__ as verify
from kvproof.bench.judge.subjects.logits import NARROW_FIRST, LogitsSubject

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(2, 5, 50))
NOISE = rng.normal(size=LOGITS.shape)
ROUNDED = {"float64": 1e-15, "float32": 1e-7, "float16": 5e-4, "bfloat16": 4e-3}


class Opened:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of pairs that differ by rounding, a-DTYPE and b-DTYPE, and of files with something wrong."""
    monkeypatch.chdir(tmp_path)
    for dtype, size in ROUNDED.items():
        np.save(f"a-{dtype}.npy", (LOGITS * (1 + size * NOISE)).astype(dtype))
        np.save(f"b-{dtype}.npy", LOGITS.astype(dtype))
    np.save("wrong.npy", (LOGITS + 0.01 * (np.arange(50) == 3)).astype("float32"))
    np.save("far.npy", (-3 * LOGITS).astype("float32"))
    for path in ("a", "b"):
        np.save(f"{path}-widened.npy", np.load(f"{path}-bfloat16.npy").view(ml_dtypes.bfloat16).astype("float32"))
    np.save("nan.npy", np.where(np.arange(50) == 7, np.nan, LOGITS).astype("float32"))
    return tmp_path


def judged(capsys, *words):
    code = verify.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def pair(dtype):
    return ["--logits", f"a-{dtype}.npy", f"b-{dtype}.npy"]


@pytest.mark.parametrize(("words", "code", "says"), [
    ([*pair("float32"), "--dtypes", "float32"], 0, "differ by"),
    (["--logits", "wrong.npy", "b-float32.npy", "--dtype", "float32"], 1, ", token 3"),
    (["--logits", "wrong.npy", "b-float32.npy"], 2, "say --dtypes float32 or --dtypes bfloat16"),
    (["--logits", "far.npy", "b-float32.npy"], 1, "times what rounding explains"),
    (pair("bfloat16"), 2, "no logits came in float64; add --logits A B"),
    ([*pair("bfloat16"), *pair("float32"), *pair("float64")], 0, "part less with each wider dtype"),
    (["--logits", "nan.npy", "b-float32.npy", "--dtype", "float32"], 1, "path A gives NaN in 10 of 500 logits"),
    (["--logits", "b-float32.npy", "nan.npy", "--dtype", "float32"], 1, "path B gives NaN in 10 of 500 logits"),
])  # fmt: skip
def test_each_verdict(folder, capsys, words, code, says):
    got, found = judged(capsys, *words)
    assert got == code, found["reason"]
    assert says in found["reason"]


@pytest.mark.parametrize(("size", "word"), [
    (0.0, "ROUNDING"), (1e-16, "ROUNDING"), (1e-14, "ROUNDING"), (3e-13, "INCONCLUSIVE"), (1e-9, "INCONCLUSIVE"),
    (1e-6, "INCONCLUSIVE"), (1e-5, "INCONCLUSIVE"),
])  # fmt: skip
@pytest.mark.parametrize("more", [[], ["float32"], ["bfloat16", "float32"]], ids=len)
def test_float64_is_cleared_by_its_own_rounding_alone(folder, capsys, size, word, more):
    np.save("moved.npy", LOGITS * (1 + size))
    pairs = [x for dtype in more for x in pair(dtype)]
    _, found = judged(capsys, *pairs, "--logits", "moved.npy", "b-float64.npy", "--dtypes", *more, "float64")
    assert found["verdict"] == word, found["reason"]
    if word == "INCONCLUSIVE":
        assert "a bug, if nothing in either path is float32 inside" in found["reason"]
    if word == "ROUNDING" and size:
        assert found["rungs"][0]["gate"] < 1e-12


@pytest.mark.parametrize(("stored", "said"), [
    (a, b) for i, a in enumerate(NARROW_FIRST) for b in NARROW_FIRST[i + 1 :]
])  # fmt: skip
@pytest.mark.parametrize("saved", ["as it is", "in float64"])
@pytest.mark.parametrize("option", ["--dtype", "--dtypes"])
def test_a_dtype_wider_than_the_numbers_is_refused(folder, capsys, stored, said, saved, option):
    for path, x in (("a", LOGITS * 1.01), ("b", LOGITS)):
        x = x.astype(stored)
        np.save(f"{path}.npy", x.astype("float64") if saved == "in float64" else x)
    assert verify.main(["--logits", "a.npy", "b.npy", option, said]) == 3
    held = f"holds numbers of {stored} alone, so it was not computed in {said}"
    assert held in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", "<f4"])
def test_either_byte_order_is_read(folder, dtype):
    np.save("other.npy", LOGITS.astype(dtype))
    a, _ = LogitsSubject([("other.npy", "b-float64.npy")]).rungs[np.dtype(dtype).newbyteorder("=").name]
    np.testing.assert_array_equal(a, LOGITS.astype(dtype).astype("float64"))


def test_each_pair_is_a_rung_of_the_dtype_that_its_numbers_show(folder):
    subject = LogitsSubject([(f"a-{dtype}.npy", f"b-{dtype}.npy") for dtype in ("float64", "float16")])
    assert set(subject.rungs) == {"float64", "float16"}
    assert subject.dtype == "float16"
    widened = LogitsSubject([("a-widened.npy", "b-widened.npy")])
    assert widened.dtype == "bfloat16"
    assert widened.notes == ["a-widened.npy and b-widened.npy are taken for bfloat16, by the numbers they hold"]


def test_two_dimensions_npz_and_safetensors_are_read_alike(folder):
    np.save("flat.npy", LOGITS[0])
    np.savez("one.npz", logits=LOGITS[0])
    save_file({"logits": LOGITS[0]}, "one.safetensors")
    for name in ("one.npz", "one.safetensors"):
        a, b = LogitsSubject([(name, "flat.npy")]).paths("float64")
        assert a.shape == (1, 5, 50)
        np.testing.assert_array_equal(a, b)


def test_a_page_is_written(folder, capsys):
    pytest.importorskip("matplotlib")
    assert verify.main([*pair("float32"), "--dtype", "float32", "--html", "page.html"]) == 0
    assert "a-float32.npy against b-float32.npy" in (folder / "page.html").read_text(encoding="utf-8")


def made_wrong(name):
    """A file of that name with something wrong."""
    whole = (np.float64(1) * np.arange(3000).reshape(2, 3, 500)) + 0.5
    np.save("whole.npy", whole)
    np.savez("whole.npz", whole)
    save_file({"logits": whole}, "whole.safetensors")
    makes = {
        "ints.npy": lambda f: np.save(f, np.arange(6).reshape(2, 3)),
        "objects.npy": lambda f: np.save(f, np.array([Opened()], dtype=object)),
        "empty.npy": lambda f: np.save(f, np.zeros((0, 5))),
        "short.npy": lambda f: np.save(f, LOGITS[:, :4]),
        "vector.npy": lambda f: np.save(f, LOGITS[0, 0]),
        "complex.npy": lambda f: np.save(f, LOGITS * 1j),
        "float8.npy": lambda f: np.save(f, LOGITS.astype(ml_dtypes.float8_e4m3fn)),
        "long.npy": lambda f: np.save(f, LOGITS.astype(np.longdouble)),
        "named.npy": lambda f: np.save(f, np.zeros((2, 3), [("x", "f4")])),
        "two.npz": lambda f: np.savez(f, a=LOGITS, b=LOGITS),
        "pickle.npy": lambda f: f.write(pickle.dumps(Opened())),
        "nothing.npy": lambda f: None,
        "text.txt": lambda f: f.write(b"1 2 3"),
    }
    for kind in ("npy", "npz", "safetensors"):
        makes[f"cut.{kind}"] = lambda f, kind=kind: f.write(Path(f"whole.{kind}").read_bytes()[:900])
    with open(name, "wb") as file:
        makes[name](file)


@pytest.mark.parametrize(("name", "says"), [
    ("ints.npy", "holds whole numbers, such as token ids"),
    ("objects.npy", "holds Python objects, which are never loaded"),
    ("pickle.npy", "does not begin as a .npy file does"),
    ("nothing.npy", "does not begin as a .npy file does"),
    ("empty.npy", "holds an array (0, 5)"),
    ("short.npy", "both need the same positions"),
    ("vector.npy", "logits are (n, V) or (B, n, V)"),
    ("complex.npy", "holds complex128"),
    ("float8.npy", "holds raw bytes (|V1), as numpy.save leaves a dtype that NumPy lacks"),
    ("float8.npy", "or float16: save them as one of these"),
    ("long.npy", ": save them as one of these"),
    ("named.npy", ": save them as one of these"),
    ("two.npz", "holds 2 arrays (a, b); save one array of logits per file"),
    ("text.txt", "is no .npy, .npz or .safetensors file"),
    ("cut.npy", "cannot be read"),
    ("cut.npz", "cannot be read"),
    ("cut.safetensors", "cannot be read"),
])  # fmt: skip
def test_a_wrong_file_is_refused_by_name_in_one_line(folder, capsys, name, says):
    made_wrong(name)
    assert verify.main(["--logits", name, "b-float64.npy"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kvproof verify: {name}")
    assert says in line


@pytest.mark.parametrize(("words", "says"), [
    (["--logits", "none.npy", "b-float64.npy"], "none.npy: No such file"),
    (["--logits", "b-float64.npy", "b-float64.npy"], "came twice in one --logits"),
    ([*pair("float64"), "--dtypes", "float64", "float32"], "--dtypes names 2 for 1 pair"),
    ([*pair("float32"), *pair("float32")], "two pairs came in float32"),
    (["--logits", "a-widened.npy", "b-widened.npy", "--dtypes", "float32"], "holds numbers of bfloat16 alone"),
    ([*pair("float64"), *pair("float32"), "--dtype", "float16"], "logits came in float64, float32; add that pair"),
    ([*pair("float64"), "--steps", "3"], "--steps does nothing beside --logits"),
    ([*pair("float64"), "--dtypes", "float64", "--dtype", "float32"], "is none of --dtypes float64"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(folder, capsys, words, says):
    assert verify.main(words) == 3
    assert says in " ".join(capsys.readouterr().err.split())
