"""The limit: bytes, splits and times by hand, more work is slower, modelled figures say so, bad input is refused."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from kvproof.bench.gpu import attention_peers
from kvproof.bench.measure.environment import datasheet_gb_per_s
from kvproof.bench.roofline.__main__ import main
from kvproof.bench.roofline.compare import compare, in_words, measured_on_gpu
from kvproof.bench.roofline.gpus import GPU, GPUS, SOURCES, find, of_device, parse_spec
from kvproof.bench.roofline.kernel import Call, program, split_len, splits, targets, variants
from kvproof.bench.roofline.model import predict
from kvproof.bench.roofline.work import Shape, instructions, moved
from kvproof.kernels.aot.table import TABLE, read_table
from kvproof.kernels.aot.variants import VARIANTS, launches_of

COMMITTED = Path(__file__).parents[3] / "bench" / "results" / "roofline.md"
H100 = GPUS["H100"]
# Constants that make arithmetic easy: 1000 bytes and 4 * 10 * 100 = 4000 warp instructions a µs at half the bandwidth.
TOY = GPU("toy", bandwidth=2, sms=10, clock=100, l2=1, arch=80, share=0.5, launch=3, latency=1)


def test_splits_are_those_that_walking_the_boundaries_counts():
    starts, size = [0], 128  # each boundary from the one before: never by the formula
    while starts[-1] < 600_000:
        starts.append(starts[-1] + size)
        size = min(4096, 2 * size) if len(starts) - 1 in (64, 96, 128, 160, 192) else size
    for n in sorted({1, 599_999, *range(0, 600_000, 997), *(s + i for s in starts for i in (-1, 0, 1))} - {-1}):
        if n < 600_000:
            assert splits(n) == max(1, sum(start < n for start in starts)), n
    assert [splits(n) for n in (0, 128, 129, 8192, 8193, 16385, 262144, 262145)] == [1, 1, 2, 64, 65, 97, 224, 225]
    lengths = (0, 1, 8192, 8193, 16384, 16385, 262144, 10**7)
    assert list(map(split_len, lengths)) == [0, 1, 128, 256, 256, 512, 4096, 4096]


def test_bytes_by_hand():
    shape = Shape((0, 300), heads=4, kv_heads=2, head_dim=32, new_tokens=2, append=True)
    parts = moved(shape, 90)
    assert parts == {
        "kv": 2 * 2 * 32 * 2 * 300,
        "scales": 0,
        "kv_again": 0,  # 4 query rows of a KV head are one tile of the tensor cores
        "q": 2 * 2 * 4 * 32 * 2,
        "out": 2 * 2 * 4 * 32 * 2,
        "lengths": 8,
        "append": 2 * 2 * 32 * 2 * 2,  # of the second sequence alone: the first has no slot for them
        "partials_written": 4 * 3 * (4 * 2 * 34 + 2 * 2),  # 3 splits of 300 slots; 2 tags, one tile per KV head
        "partials_read": 4 * 3 * (4 * 2 * 34 + 2 * 2),
    }
    simt = {"kv_again": 3 * parts["kv"]} | dict.fromkeys(("partials_written", "partials_read"), 4 * 3 * 4 * 2 * 36)
    assert moved(shape, 75) == parts | simt  # a program per query
    int8 = moved(Shape((100,), heads=4, kv_heads=2, head_dim=32, dtype="int8", append=True), 90)
    assert (int8["kv"], int8["scales"], int8["q"], int8["append"]) == (12800, 1600, 256, 2 * 2 * (32 + 4))
    assert int8["partials_written"] == 0  # a lone split is the result


def test_a_modelled_time_by_hand():
    p = predict(TOY, Shape((256,) * 40, heads=12, head_dim=32, dtype="float16"))
    assert (p.programs, p.program.resident, p.waves) == (2 * 12 * 40, 28, 960 / 280)
    kv, q_out, partials = 2 * 12 * 32 * 2 * 10240, 2 * 40 * 12 * 32 * 2, 2 * 4 * 80 * (12 * 34 + 2 * 12)
    assert p.minimal == kv + q_out + 160
    assert p.ideal == pytest.approx(p.minimal / 2e9)
    assert p.bytes == pytest.approx((p.minimal + partials) / 1e9)
    assert p.issue == pytest.approx((p.program.loop * 12 * 10240 + p.program.beside * 960) / 4e9)
    assert p.program.in_flight == 2048  # so that K and V of 128 rows of 64 bytes take 8 trips; 4 to L2 are 2 to memory
    assert p.wave == pytest.approx(3 * 10e-6)
    assert p.floor == pytest.approx(3e-6 + 10e-6 + 0.5e-6)
    assert p.seconds == pytest.approx(p.floor + p.bytes)
    assert (p.low, p.high) == pytest.approx((0.7 * p.seconds, 1.3 * p.seconds))
    assert p.latency_until == pytest.approx(13500)
    roomy = predict(TOY, replace(p.shape, capacity=1100))
    assert roomy.dead_programs == (9 - 2) * 12 * 40
    assert roomy.seconds - p.seconds == pytest.approx(3360 / 280 * 0.5e-6)
    longer = predict(TOY, Shape((1100,), head_dim=128))
    assert longer.program.in_flight == 2048
    assert longer.floor == pytest.approx(3e-6 + (2 + 32) * 1e-6 + 2 * 0.5e-6)  # 64 KiB, 9 splits in 2 reads
    again = predict(TOY, Shape((256,), heads=12, kv_heads=3, dtype="float32"))
    assert again.parts["kv_again"] == 3 * again.parts["kv"]
    assert again.bytes == pytest.approx((sum(again.parts.values()) - 1.5 * again.parts["kv"]) / 1e9)


def test_designs_figure_for_an_h100_is_the_models_byte_time():
    p = predict(H100, Shape((1024,) * 256))
    assert p.parts["kv"] / 3350e9 == pytest.approx(240.4e-6, abs=1e-7)
    assert p.bytes == pytest.approx(266e-6, abs=1e-6)
    assert p.low < 266e-6 < p.seconds < p.high


def test_each_cause_can_bind():
    long = Shape((4096,) * 64)
    assert predict(H100, Shape((128,))).bound == "latency"
    assert predict(H100, long).bound == "bytes"
    assert predict(H100._replace(clock=100), long).bound == "issue"
    assert predict(H100._replace(latency=100, launch=0), long).bound == "waves"
    for gpu in (H100, H100._replace(clock=100), H100._replace(latency=100)):
        p = predict(gpu, long)
        assert p.seconds == p.floor + max(p.bytes, p.issue, p.wave)


def test_latency_bound_ends_where_moving_takes_as_long_as_the_floor():
    p = predict(H100, Shape((128,) * 64))
    assert p.parts["kv"] > p.latency_until
    assert p.bound == "bytes"
    most = int(p.latency_until / (p.parts["kv"] / 64))
    assert predict(H100, Shape((128,) * (most - 1))).bound == "latency"
    assert predict(H100, Shape((128,) * (most + 1))).bound == "bytes"


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_more_work_is_never_faster_and_a_better_gpu_never_slower(gpu):
    base = Shape((1000,) * 8, heads=8, kv_heads=2)
    seconds = lambda shape, gpu=gpu: predict(gpu, shape).seconds  # noqa: E731
    contexts = [seconds(replace(base, lengths=(n,) * 8)) for n in (0, 1, 127, 128, 129, 1024, 8192, 8193, 300_000)]
    grown = [
        contexts,
        [seconds(replace(base, lengths=(1000,) * B)) for B in (1, 2, 9, 64, 1000)],
        [seconds(replace(base, kv_heads=H)) for H in (1, 2, 4)],
        [seconds(replace(base, head_dim=D)) for D in (8, 64, 72, 256)],
        [seconds(replace(base, new_tokens=M)) for M in (1, 4, 5, 16)],
        [seconds(replace(base, capacity=T)) for T in (1000, 1024, 8192, 100_000)],
        [seconds(replace(base, append=a)) for a in (False, True)],
        [seconds(base, gpu._replace(bandwidth=gpu.bandwidth / i)) for i in (1, 2, 4)],
        [seconds(base, gpu._replace(latency=gpu.latency * i)) for i in (1, 2, 4)],
    ]
    for times in grown:
        assert times == sorted(times)
        assert times[0] < times[-1]
    for shape in (base, Shape((1,)), Shape((5000,) * 100)):
        p = predict(gpu, shape)
        assert p.seconds > p.ideal > 0


@pytest.mark.parametrize("name", variants())
def test_a_modelled_program_is_the_one_that_the_kernel_launches(name):
    """Engine, tile, warps, grid and the row of the table, of each plain variant on each target."""
    call, rows = variants()[name], {(row.variant, row.target): row for row in read_table(TABLE.read_text("utf-8"))}
    for sm in targets():
        (launch,) = launches_of(VARIANTS[name], sm, B=3, H_kv=2, T=1000)
        shape = Shape((1000, 700, 0), 2 * call.G, 2, call.D, call.dtype, call.M)
        p, row = predict(TOY._replace(arch=sm), shape), rows[name, f"sm_{sm}"]
        assert launch.kernel.__name__ == f"attend_{p.program.engine}"
        assert math.prod(launch.grid) == p.programs + p.dead_programs
        assert p.program.block_m == launch.arguments["CFG"].BLOCK_M
        assert p.program.warps == launch.options["num_warps"] == row.warps
        assert p.program.exact
        assert (p.program.variant, p.program.registers, p.program.resident) == (name, row.registers, row.programs)
        assert p.program.loop == row.per_slot
    for n, rel in ((8192, 1e-6), (1024, 0.2), (128, 0.2)):  # beside what the PTX machine counted; the first fixes them
        executed = getattr(rows[name, "sm_90"], f"n{n}") * 2 * call.G * call.M * n
        shape = Shape((n,), 2 * call.G, 2, call.D, call.dtype, call.M)
        assert instructions(shape, 90) == pytest.approx(executed, rel=rel)


def test_the_programs_that_figures_are_quoted_of():
    simt, mma = (program(Call("float16", 64, G, 1), 90) for G in (1, 4))
    assert (simt.registers, simt.warps, simt.resident) == (64, 1, 32)
    assert (mma.registers, mma.warps, mma.resident) == (130, 1, 15)
    assert simt.engine != mma.engine


def test_where_the_table_has_no_such_call_the_nearest_is_scaled():
    near = {
        ("float16", 80, 1, 1): "simt-fp16-d128",
        ("bfloat16", 64, 12, 1): "mma-bf16",
        ("float16", 64, 2, 8): "mma-fp16-tokens",
        ("float32", 64, 8, 4): "simt-fp32-grouped",
        ("float16", 256, 4, 1): "simt-fp16-d128",  # the tensor cores take no head_dim above 128
        ("int8", 128, 4, 1): "mma-int8",
    }
    for call, name in near.items():
        found = program(Call(*call), 90)
        assert (found.variant, found.exact) == (name, False)
    wide, d128 = (program(Call("float16", D, 1, 1), 90) for D in (256, 128))
    assert (wide.engine, wide.loop, wide.resident) == (d128.engine, 2 * d128.loop, d128.resident)
    int8 = program(Call("int8", 128, 1, 1), 90)  # of two warps, where the row has one
    assert (int8.warps, int8.resident) == (2, program(Call("int8", 64, 1, 1), 90).resident // 2)


def test_engines_and_tiles():
    simt, mma = (Shape((1,), kv_heads=n).program(90).engine for n in (12, 4))
    assert simt != mma
    for other in (Shape((1,), dtype="int8"), Shape((1,), new_tokens=2)):
        assert other.program(90).engine == mma
        assert other.program(75).engine == simt  # Triton gives no tensor cores there
    for other in (Shape((1,), kv_heads=4, dtype="float32"), Shape((1,), kv_heads=4, head_dim=256)):
        assert other.program(90).engine == simt
    # 8 query heads of a KV head times 5 tokens are 40 rows: 3 tiles
    grouped = Shape((128,), heads=32, kv_heads=4, new_tokens=5)
    assert (grouped.columns(90), grouped.columns(75)) == (12, 160)


def test_bytes_are_what_bench_gpu_counts():
    timed = attention_peers.Shape(7, 1000, 25, 64, "bfloat16")
    assert predict(H100, Shape((1000,) * 7, 25, dtype="bfloat16")).minimal == timed.bytes


def test_the_tables_bandwidths_are_those_that_timings_are_held_to():
    names = ("Tesla T4", "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA B200",
             "NVIDIA GeForce RTX 4090")  # fmt: skip
    for name, gpu in zip(names, GPUS.values(), strict=True):
        assert of_device(name) is gpu
        assert datasheet_gb_per_s(name) == gpu.bandwidth
    for other in ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-40GB"):
        assert of_device(other) is None


def test_every_constant_has_a_source_and_guesses_are_called_assumptions():
    assert [*SOURCES] == [field for field in GPU._fields if field != "name"]
    for name in ("share", "launch", "latency"):
        assert SOURCES[name][1].startswith("assumption")
    assert all(words and source for words, source in SOURCES.values())


def rows_of(text: str) -> list[list[str]]:
    """The cells of every row of figures."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if re.match(r"\| +\d+ \| +\d+ \|", line)
    ]


def test_without_arguments_it_prints_what_is_committed_and_every_row_says_not_run(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert text == COMMITTED.read_text(encoding="utf-8")
    rows = rows_of(text)
    assert len(rows) == 6 * 12
    assert all(row[-1] == "not run" for row in rows)
    for line in text.splitlines():
        if "taken apart" in line or (line.startswith("## ") and line != "## Constants"):
            assert "not run" in line
        if "µs (" in line or "modelled time" in line:
            assert "±30 %" in line
    (h100,) = [row for row in rows if row[0] == "256" and row[1] == "1024" and row[6] == "241"]
    assert h100[3:11] == ["805", "0.786", "13.4", "241", "24576", "32", "5.82", "274 (192 - 356)"]


def test_a_gpu_of_ones_own_and_every_option_reach_the_records(tmp_path, capsys):
    file = tmp_path / "limit.json"
    spec = "name=Mine,bandwidth=900,sms=80,clock=1530,arch=80,share=0.8,launch=4"
    words = ["--gpu", "h-100", "--gpu-spec", spec, "--batch", "2,1", "--context", "300", "--heads", "32,64"]
    words += ["--kv-heads", "8", "--head-dim", "128", "--dtype", "int8", "--new-tokens", "3", "--capacity", "1000"]
    assert main([*words, "--append", "--json", str(file)]) == 0
    records = json.loads(file.read_text())
    assert [(r["gpu"], r["shape"]["heads"], r["shape"]["lengths"]) for r in records] == [
        (gpu, H, [300] * B) for gpu in ("H100 (SXM)", "Mine") for H in (32, 64) for B in (1, 2)
    ]
    mine = predict(parse_spec(spec), Shape((300,) * 2, 64, 8, 128, "int8", 3, 1000, True))
    assert records[-1]["modelled_s"] == {"low": mine.low, "middle": mine.seconds, "high": mine.high}
    assert records[-1]["dead_programs"] == 2 * 16 * (8 - 3)
    assert all(r["status"] == "not run" for r in records)
    assert "160 dead programs" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "said"), [
    ("--gpu H10", "did you mean H100?"),
    ("--gpu 4090", "did you mean RTX 4090?"),
    ("--gpu-spec name=x,bandwidth=-3,sms=8,clock=1000", "bandwidth is -3; it must be more than 0"),
    ("--gpu-spec name=x,bandwidth=nan,sms=8,clock=1", "bandwidth is nan"),
    ("--gpu-spec name=x,bandwidth=fast,sms=8,clock=1000", "bandwidth is 'fast'; it must be a number"),
    ("--gpu-spec name=x,bandwidth=9,sms=8.5,clock=1000", "sms is 8.5; it must be a whole number"),
    ("--gpu-spec name=x,bandwidth=9,sms=8,clock=1000,share=1.1", "share is 1.1; no kernel reaches more"),
    (
        "--gpu-spec name=x,bandwidth=9,sms=8,clock=9,arch=70",
        "arch is 70; the kernel is compiled for 75, 80, 86, 89",
    ),
    ("--gpu-spec name=x,sms=8", "the GPU lacks bandwidth, clock"),
    ("--gpu-spec name=x,speed=8", "a GPU has no 'speed'"),
    ("--batch 0", "each must be 1 or more"),
    ("--heads 12 --kv-heads 5", "12 heads do not share 5 KV heads evenly"),
    ("--kv-heads 0", "12 heads do not share 0 KV heads"),
    ("--head-dim 300", "head_dim is 300; the kernel takes 1..256"),
    ("--new-tokens 17", "new_tokens is 17; the kernel takes 1..16"),
    ("--dtype float64", "float64 exists to be judged"),
    ("--capacity 100", "capacity is 100, below a length of 128"),
    ("--json no/such/folder.json", "No such file"),
    ("--nonsense", "unrecognized arguments: --nonsense"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(capsys, words, said):
    try:
        code = main(words.split())
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert err.startswith("bench/roofline: ")


def test_find_takes_keys_and_full_names_however_spelled():
    for key, gpu in GPUS.items():
        for name in (key, key.lower(), gpu.name, gpu.name.replace(" ", "-")):
            assert find(name) is gpu


def test_prediction_beside_measurement():
    shape = {"B": 256, "T": 1024, "H": 12, "D": 64, "dtype": "float16"}
    predicted = predict(H100, Shape((1024,) * 256)).seconds
    times = [predicted * share for share in (0.69, 0.71, 1.29, 1.31)]
    rows = compare([{"gpu": "NVIDIA H100 80GB HBM3", "shape": shape, "seconds": s} for s in times])
    assert [row["within"] for row in rows] == [False, True, True, False]
    assert [row["ratio"] for row in rows] == pytest.approx([1 / 0.69, 1 / 0.71, 1 / 1.29, 1 / 1.31])
    others = compare([
        {"gpu": "NVIDIA L4", "shape": shape, "seconds": 1.0},
        {"gpu": "h100", "shape": shape | {"dtype": "float64"}, "seconds": 1.0},
        {"gpu": "h100", "shape": shape | {"H_kv": 4, "M": 2}, "seconds": 1.0},
    ])  # fmt: skip
    assert others[0]["skipped"].startswith("no GPU 'NVIDIA L4'")
    assert others[1]["skipped"].startswith("dtype is float64")
    assert others[2]["predicted"] == predict(H100, Shape((1024,) * 256, 12, 4, new_tokens=2)).seconds
    words = list(in_words([*rows, others[0]]))
    assert "in 2 of 4 shapes" in words[0]
    assert "from 0.76 to 1.45" in words[0]
    assert words[1].startswith("The model has no prediction: no GPU 'NVIDIA L4'")
    for seconds in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="a time must be above 0"):
            compare([{"gpu": "H100", "shape": shape, "seconds": seconds}])


def test_records_of_bench_gpu_are_compared_where_their_figures_stand():
    shape = vars(attention_peers.Shape(8, 1024, 12, 64, "float16"))
    row = {"median_us": 13.0, "refused": None}
    records = [
        {"shape": shape, "peers": {"kernel": row, "sdpa": row | {"median_us": 26.0}}},
        {"shape": shape, "peers": {"kernel": row | {"refused": "wrong"}}},
        {"shape": shape, "skipped": "needs 90 GB", "peers": {}},
        {"shape": shape, "peers": {"kernel": {"skipped": "absent", "refused": None}}},
    ]
    measured = measured_on_gpu(records, "NVIDIA H100 80GB HBM3")
    assert [m["seconds"] for m in measured] == pytest.approx([13e-6])
    assert compare(measured)[0]["within"]
    assert measured_on_gpu(records, "x", "sdpa")[0]["seconds"] == pytest.approx(26e-6)


def test_the_picture_has_a_panel_per_gpu_and_says_that_nothing_was_run(tmp_path, capsys):
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not here; pip install -e '.[plots]'")
    file = tmp_path / "limit.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        assert main(["--gpu", "T4", "B200", "--batch", "1,8", "--plot", str(file)]) == 0
    svg = file.read_text(encoding="utf-8")
    for words in ("T4: 320 GB/s, 40 SMs", "B200: 8,000 GB/s, 148 SMs", "head_dim 64: modelled, not run", "±30 %"):
        assert svg.count(words) == 1
    capsys.readouterr()
    assert main(["--gpu", "T4", "--plot", str(tmp_path / "limit.doc")]) == 2
    assert capsys.readouterr().err.startswith("bench/roofline: Format 'doc' is not supported")
