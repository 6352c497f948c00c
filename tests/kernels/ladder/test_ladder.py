"""The ladder from the textbook to the decode kernel: each rung is right, costs what it says, gains what it claims."""

import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import triton

from kvproof.kernels import ptx
from kvproof.kernels.backend import interpreting
from kvproof.kernels.ladder import __main__ as ladder
from kvproof.kernels.ladder.__main__ import RUNGS, WAY, call, counted, inputs, kv_heads, load, truth

FOLDER = Path(ladder.__file__).parent
RAGGED = (1, 127, 128, 129, 1000, 0)
COUNTED_WITH = "3.8.0"  # the Triton of every count that is stated
EARLIER = pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8), reason="earlier Tritons make other loops: VERSIONS.md"
)
TENSOR = ("grouped", "fused")  # weights are rounded to float16 there
pytestmark = pytest.mark.skipif(interpreting(), reason="the ladder is counted and judged on what Triton compiles")


@cache
def count(name):
    return ladder.count(name)


def readable(kernel, parameters):
    """What may be read before a program has written it: no dead slot, no result, no partial but the second kernel's."""
    partials = ("o", "lse", "part_m", "part_l", "part_acc") if "k" in parameters else ()
    new = dict.fromkeys(("out", "scores", *partials), False)
    live = {name: ~parameters[name].isnan().numpy() for name in ("k", "v") if name in parameters}
    entries = {name: parameters[name].numpy() >= 0 for name in ("table", "block_table") if name in parameters}
    return {name: may for name, may in {**new, **live, **entries}.items() if name in parameters}


def ragged(lengths=RAGGED, **shape):
    """Inputs with NaN in every dead slot, the same with zeros, and the largest error of one correct rounding."""
    q, k, v, n = inputs(lengths, **shape)
    dead = (torch.arange(k.shape[2]) >= n[:, None])[:, None, :, None]
    return q, k.masked_fill(dead, torch.nan), v.masked_fill(dead, torch.nan), n


def check(name, arrays, out):
    """Float16 rounds the result once, and the weights of a tensor core once each; float32 sums lose 1e-6 at most."""
    q, k, v, n = arrays
    expected = truth(*arrays)
    bound = 2**-11 * expected.abs() + 1e-6
    if name in TENSOR:  # and a weight too small for a normal number is off by 2^-25 at most, 128 of them in a split
        bound += 2**-11 * truth(q, k, v.abs(), n) + 128 * 2**-25 * v.nan_to_num().abs().max()
    assert torch.isfinite(out).all()
    assert ((out - expected).abs() <= bound).all(), f"{name} is wrong by {(out - expected).abs().max():.3g}"
    assert not out[n == 0].any()


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_computes_the_formula_and_reads_no_dead_slot(name):
    arrays = ragged(H_kv=kv_heads(name))
    with ptx.route(target="sm_90", readable=readable) as reports:
        out = call(load(name), *arrays)
    check(name, arrays, out)
    assert [report.disagreeing for report in reports] == [0] * len(reports)


@pytest.mark.parametrize("name", ["row_private", "fused"])
def test_a_rung_computes_the_formula_on_an_older_gpu_and_at_another_head_size(name):
    arrays = ragged((129, 0), H=6, H_kv=2 if name == "fused" else 6, T=256, D=128)
    with ptx.route(target="sm_80", readable=readable):
        check(name, arrays, call(load(name), *arrays))


@pytest.mark.parametrize("seed", [0, 1])
def test_fused_programs_may_finish_in_any_order_and_leave_the_workspace_as_it_was(seed):
    q, k, v, n = arrays = ragged((500, 129, 0), H_kv=2, T=512)
    work = torch.empty(3 * 8, 4, 64), torch.empty(3 * 8, 4), torch.zeros(3 * 2, dtype=torch.int32)
    fused = load("fused")
    with ptx.route(target="sm_90"):
        first = fused.attention(q, k, v, n, work)
    with ptx.route(target="sm_90", seed=seed):
        second = fused.attention(q, k, v, n, work)
    check("fused", arrays, first)
    assert torch.equal(first, second)
    assert not work[2].any()


@pytest.mark.parametrize("name", ["split", "fused"])
def test_a_row_has_the_bits_that_it_has_alone(name):
    q, k, v, n = ragged((129, 500), H_kv=kv_heads(name), T=512)
    with ptx.route(target="sm_90"):
        together = call(load(name), q, k, v, n)
        alone = call(load(name), q[1:], k[1:], v[1:], n[1:])
    assert torch.equal(together[1:], alone)


@pytest.mark.skipif(triton.__version__ != COUNTED_WITH, reason=f"the docstrings are counted with triton {COUNTED_WITH}")
@pytest.mark.parametrize("name", RUNGS)
def test_a_docstring_states_what_the_machine_counts(name):
    if name != "decode":  # which says nothing of the ladder
        stated = re.search(r"^Counted: (.*)", str(load(name).__doc__), re.M)
        assert stated
        assert stated[1] == counted(count(name))
    assert ladder.row(name, count(name)) in (FOLDER / "README.md").read_text(encoding="utf-8")


def loop(name):
    """(instructions per token and query head, barriers of one warp) that a second block of a split adds."""
    cost = []
    for n in (64, 128):
        with ptx.route(target="sm_90") as reports:
            call(load(name), *inputs([n], H_kv=kv_heads(name)))
        total, warps = reports[0].total, kv_heads(name) * (1 if name == "decode" else 4)
        cost.append((total.instructions / (64 * 8), total.barriers / warps))
    return tuple(b - a for a, b in zip(*cost, strict=True))


@EARLIER
@pytest.mark.parametrize(
    ("name", "barriers"),
    [("online", 8), ("split", 8), ("row_private", 0), ("paged", 0), ("decode", 0), ("grouped", 2), ("fused", 2)],
)
def test_a_block_costs_the_barriers_that_are_claimed(name, barriers):
    assert loop(name)[1] == barriers


@EARLIER
def test_the_loop_without_reductions_is_shorter_by_what_is_claimed():
    before, after = loop("split")[0], loop("row_private")[0]
    assert after < 0.8 * before
    if triton.__version__ == COUNTED_WITH:
        assert f"{after:.1f} instructions" in str(load("row_private").__doc__)


def test_each_rung_gains_what_its_headline_says():
    c = {name: count(name) for name in RUNGS}
    cache = {name: 2 * kv_heads(name) * 1024 * 64 * 2 for name in RUNGS}  # bytes of K and V, once
    scores = 8 * 1024 * 4
    assert c["naive"].moved - c["online"].moved > 4 * scores  # written, read, written, read: and by several warps
    assert c["naive"].distinct - c["online"].distinct == scores
    for name in WAY:
        assert c[name].moved > 4 * cache["grouped"]  # each of the 4 query heads of a group on its own
    for name in TENSOR:
        assert c[name].moved < 1.25 * cache[name]
        assert c[name].instructions < c["row_private"].instructions / 2
    for name in RUNGS:
        assert cache[name] <= c[name].distinct < 1.07 * cache[name]
    assert c["decode"].instructions == min(c[name].instructions for name in WAY)
    assert [c[name].launches for name in RUNGS] == [1, 1, 2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize(
    ("name", "right", "wrong", "error"),
    [
        ("fused", 'sem="acq_rel"', 'sem="relaxed"', ptx.Race),
        ("naive", "    tl.debug_barrier()", "    #", ptx.Race),
        ("row_private", "tl.minimum(first + block, hi - 1)", "first + block", ptx.Uninitialised),
        ("online", "tl.where(t < n, s,", "tl.where(t <= n, s,", AssertionError),
    ],
)
def test_a_rung_without_what_its_comments_insist_on_is_caught(name, right, wrong, error, tmp_path):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8").replace("from .", "from kvproof.kernels.ladder.")
    assert right in text
    path = tmp_path / f"{name}_without.py"
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arrays = ragged((200, 70), H_kv=kv_heads(name), T=256)
    with pytest.raises(error), ptx.route(target="sm_90", readable=readable):
        check(name, arrays, call(module, *arrays))


def steps(path):
    return re.findall(r"^ *# (\d+)\. (.*)$", path.read_text(encoding="utf-8"), re.M)


def test_a_rungs_steps_have_the_numbers_and_words_of_decode():
    final = steps(FOLDER.parent / "decode.py")
    taken = {name: steps(FOLDER / f"{name}.py") for name in RUNGS if name != "decode"}
    for name, found in taken.items():
        assert [step for step in final if step in found] == found, name
    assert [len(taken[name]) for name in ("naive", "online", "split", "row_private", "paged")] == [0, 4, 8, 7, 7]
    assert set(taken["paged"]) | set(taken["split"]) >= set(final) - {final[7]}


def test_every_rung_fits_a_page_and_runs_by_its_name(capsys):
    for name in set(RUNGS) - {"decode"}:
        assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 60, name
    assert {path.stem for path in FOLDER.glob("*.py")} == {*RUNGS, "__init__", "__main__"} - {"decode"}
    assert load(WAY[-1]).__file__ == str(FOLDER.parent / "decode.py")
    ladder.main(["online"])
    assert capsys.readouterr().out.splitlines()[1] == ladder.row("online", count("online"))
    with pytest.raises(SystemExit):
        ladder.main(["offline"])
    assert "there is no rung offline; choose from naive, online" in capsys.readouterr().err
