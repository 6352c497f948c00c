"""bench/results/peer-kernels.json is what bench/peers writes, and ours costs no more than it says there."""

import importlib
import json
from functools import partial
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from kvproof.bench.measure import environment as measured
from kvproof.bench.peers import __main__ as peer_kernels
from kvproof.bench.peers.__main__ import HEADS, LENGTHS, OURS, SOURCES, TARGETS, draw, main, measure, ours, row
from kvproof.bench.peers.launches import PEERS, Call
from kvproof.bench.peers.stubs import FILES, sources

RECORD = json.loads((Path(peer_kernels.__file__).parents[1] / "results" / "peer-kernels.json").read_text())
SETTLED = {
    "peer": {"enum": [*OURS, *PEERS]},
    "load": {"enum": ["alone", "full", "any"]},
    "target": {"enum": [*TARGETS]},
    "n": {"enum": [*LENGTHS]},
}
COUNT, FIGURE = {"type": "integer", "minimum": 1}, {"type": "number", "minimum": 0}
LAUNCH = {
    "kernel": {"type": "string"},
    "grid": {"type": "array", "items": COUNT, "minItems": 3, "maxItems": 3},
    **dict.fromkeys(("num_warps", "instructions", "registers"), COUNT),
    "stack_and_local": {"type": "integer", "minimum": 0},
}
MEASURED = SETTLED | {
    "splits": COUNT,
    "configuration": {"type": "string", "minLength": 1},
    **{name: {"type": "boolean"} for name in ("default", "wrong")},
    **dict.fromkeys(("gates", "error", "barriers_per_token_head", "shuffles_per_token_head"), FIGURE),
    **dict.fromkeys(("instructions", "bytes_moved", "bytes_distinct"), COUNT),
    "per_token_head": FIGURE,
    "classes": {"type": "object", "additionalProperties": COUNT},
    "launches": {"type": "array", "minItems": 1},
}


def fits(value: dict, properties: dict) -> bool:
    schema = {"properties": properties, "required": list(properties), "additionalProperties": False}
    return Draft202012Validator(schema).is_valid(value)


def rows(**wanted):
    return [row for row in RECORD["rows"] if all(row[name] == value for name, value in wanted.items())]


def test_every_row_has_its_figures_or_says_what_refused_it():
    for found in RECORD["rows"]:
        assert fits(
            found, SETTLED | {"refused": {"type": "string", "minLength": 1}} if "refused" in found else MEASURED
        )
        assert all(fits(launch, LAUNCH) for launch in found.get("launches", ()))


def test_figures_per_token_head_follow_from_the_launches():
    for found in rows():
        if "refused" not in found:
            assert found["instructions"] == sum(launch["instructions"] for launch in found["launches"])
            assert found["instructions"] == sum(found["classes"].values())
            assert found["per_token_head"] == round(found["instructions"] / (HEADS * found["n"]), 4)
            # Each slot's keys and values are read at least once: less was not attention.
            assert found["bytes_moved"] >= found["bytes_distinct"] >= 2 * HEADS * found["n"] * 64 * 2


def test_every_subject_is_measured_at_every_length_and_target():
    assert {found["peer"] for found in rows()} == {*OURS, *PEERS}
    loads = {**dict.fromkeys(OURS, ("any",)), **{name: loads for name, (_, loads) in PEERS.items()}}
    expected = sum(len(of) for of in loads.values()) * len(TARGETS) * len(LENGTHS)
    assert len({(f["peer"], f["load"], f["target"], f["n"]) for f in rows()}) == len(rows()) == expected
    assert set(RECORD["peers"]["sources"]) == set(SOURCES) == {name.split(".")[0] for name in FILES}
    assert set(RECORD["peers"]["sha256"]) == set(FILES)


def test_no_figure_of_a_peer_that_is_wrong_is_among_those_that_count():
    counted = [found for found in rows() if "refused" not in found and not found["wrong"]]
    assert {found["peer"] for found in counted} >= {*OURS, "SGLang", "vLLM decode", "vLLM unified", "MSLK", "FLA w1"}
    assert all(found["gates"] <= peer_kernels.WRONG for found in counted)


def no_more_than(own):
    """Where a peer executes no more instructions than ours: its load and target -> the lengths."""
    found = {}
    for peer in rows():
        if peer["peer"] not in OURS and "refused" not in peer and not peer["wrong"]:
            (mine,) = rows(peer=own, target=peer["target"], n=peer["n"])
            if peer["per_token_head"] <= mine["per_token_head"]:
                found.setdefault(" ".join([peer["peer"], peer["load"], peer["target"]]), []).append(peer["n"])
    return found


def test_the_vector_engine_is_below_every_peer_but_mslk_and_fla():
    # MSLK multiplies on the tensor cores; FLA, to judge by its error, in float16.
    assert no_more_than("kvproof") == {
        "MSLK alone sm_90": [1024, 8192], "MSLK alone sm_80": [8192],
        "MSLK full sm_90": [128, 1024, 8192], "MSLK full sm_80": [128, 1024, 8192],
        "MSLK w1 s3 alone sm_90": [1024, 8192], "MSLK w1 s3 alone sm_80": [1024, 8192],
        "MSLK w1 s3 full sm_90": [128, 1024, 8192], "MSLK w1 s3 full sm_80": [128, 1024, 8192],
        "FLA w1 any sm_90": [128, 1024, 8192], "FLA w1 any sm_80": [128, 1024, 8192],
        "FLA w2 any sm_90": [1024, 8192], "FLA w2 any sm_80": [8192],
    }  # fmt: skip


def test_the_tensor_engine_is_below_every_peer_as_it_comes_and_above_mslk_with_one_warp_and_few_splits():
    lost = {"MSLK w1 s3 full sm_90": [1024, 8192], "MSLK w1 s3 full sm_80": [1024, 8192]}
    assert no_more_than("kvproof tensor") == lost
    assert not any(found["default"] for found in rows(peer="MSLK w1 s3"))


@pytest.mark.parametrize("n", [128, 1024])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", OURS)
def test_ours_executes_no_more_than_the_record_says(name, n, target):
    (recorded,) = rows(peer=name, target=target, n=n)
    found = row(name, partial(ours, OURS[name]), "any", target, n)
    assert fits(found, MEASURED)
    assert found["gates"] <= (1 if name == "kvproof" else recorded["gates"])  # on tensor cores weights have 16 bits
    assert found["per_token_head"] <= recorded["per_token_head"]


def test_a_wrong_result_is_recorded_as_wrong_and_what_fails_as_refused():
    x = draw(128)
    attend = ours("simt", x, "any").attend
    assert not measure(attend, x, "sm_90")["wrong"]
    assert measure(lambda: attend() * 1.5, x, "sm_90")["wrong"]
    assert measure(lambda: attend() * float("nan"), x, "sm_90")["wrong"]
    fails = Call(partial(measure, x, x), 1, "")  # pyright: ignore[reportArgumentType]
    assert row("peer", lambda x, load: fails, "any", "sm_90", 128)["refused"].startswith("TypeError: measure()")


def test_what_a_source_imports_is_a_stub_that_says_no(tmp_path):
    path = tmp_path / "fla" / "ops" / "attn" / "decoding.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from fla.utils import check_shared_mem\nfrom fla.somewhere import Base, is_amd, decorate\n"
        "@decorate\nclass Kernel(Base):\n    amd = bool(is_amd().any.thing)\n    hopper = check_shared_mem()\n"
    )
    with sources(tmp_path):
        found = importlib.import_module("fla.ops.attn.decoding").Kernel
        assert (found.amd, found.hopper) == (False, True)
    with pytest.raises(ImportError):
        importlib.import_module("fla.ops.attn.decoding")


def test_ours_measured_anew_keeps_the_rows_of_the_peers(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "collect_env", str)  # it takes seconds
    kept, results = tmp_path / "kept.json", tmp_path / "results.json"
    kept.write_text(json.dumps(RECORD | {"versions": None}))
    assert main(["--keep", str(kept), "--results", str(results), "--n", "128"]) == 0
    found = json.loads(results.read_text())
    assert found["peers"] == RECORD["peers"]
    assert [f for f in found["rows"] if f["peer"] not in OURS] == [f for f in rows() if f["peer"] not in OURS]
    first = ["kvproof", "kvproof", "kvproof tensor", "kvproof tensor", "SGLang"]
    assert [(f["peer"], f["n"]) for f in found["rows"][:5]] == [(name, 128) for name in first]
    kept.write_text(json.dumps(RECORD | {"peers": {"versions": {"triton": "2.0"}}}))
    with pytest.raises(SystemExit):
        main(["--keep", str(kept)])


def test_a_folder_without_the_sources_is_refused_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--sources", str(tmp_path)])
    assert stop.value.code == 2
    assert "has no aiter." in capsys.readouterr().err
