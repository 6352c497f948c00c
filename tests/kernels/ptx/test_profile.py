"""`python -m kvproof.kernels.ptx`: what it counts, what it draws, and how it fails."""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as ElementTree
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

from kvproof.kernels.ptx.__main__ import main

from ..._browser import Visit, needs_browser

SECTOR = 32
HEAD = """
import numpy as np, sys, torch, triton, triton.language as tl
@triton.jit
def copy(x, out, n, stride, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at * stride, mask=at < n), mask=at < n)
"""
LAUNCH = "x = torch.arange(1024.)\ncopy[(8,)](x, torch.zeros(1024), {n}, {stride}, BLOCK=128)\n"


def command(*arguments, code=0):
    """Run the command here; assert its exit code; returns its standard output and standard error."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error), patch.multiple(sys, argv=[], path=[*sys.path]):
        try:
            left = main([*map(str, arguments)])
        except SystemExit as end:
            left = end.code
    assert left == code, error.getvalue()
    return out.getvalue(), error.getvalue()


def driver(folder, *lines) -> Path:
    path = folder / "driver.py"
    path.write_text(HEAD + "".join(lines))
    return path


def one_line(error: str) -> str:
    """Assert that an error takes one line and is no traceback; return it."""
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def pictures(page: str) -> list[str]:
    """The SVG of each launch on a page."""
    return [section.partition("<pre>")[0] for section in page.split("<section>")[1:]]


def test_a_driver_that_insists_on_a_gpu_finds_one_where_it_is_asked_to(tmp_path):
    launch = "x = torch.arange(1024., device='cuda')\nassert x.is_cuda\n"
    launch += "copy[(8,)](x, torch.zeros(1024).cuda(), 1024, 1, BLOCK=128)\n"
    out, _ = command(driver(tmp_path, launch), "--pretend", "--json")
    assert json.loads(out)[0]["kernel"] == "copy"


def letters(svg: str) -> str:
    """The text of a picture, its lines joined."""
    return " ".join(element.text or "" for element in ElementTree.fromstring(svg).iter())


@cache
def example():
    """The example's counters, its page, and the first of its pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "driver.py").write_text(command("--example")[0])
        out, _ = command(folder / "driver.py", "--json", "--html", folder / "page.html")
        page = (folder / "page.html").read_text()
        return json.loads(out), page, pictures(page)[0]


def test_the_example_s_attention_reads_each_live_byte_and_no_other():
    (attend,) = example()[0]
    assert attend["kernel"] == "attend_simt"
    (k, v) = (array for array in attend["arrays"] if array["array"] in ("cache.k", "cache.v"))
    for array in (k, v):
        assert array["asked"] == array["moved"] == array["distinct"] == (1000 + 200) * 3 * 64 * 2


def test_the_log_and_the_counters_agree_on_every_byte():
    for launch in example()[0]:
        for kind, asked in (("load", "loaded"), ("store", "stored")):
            assert sum(a["asked"] for a in launch["arrays"] if a["kind"] == kind) == launch["total"][asked]
        assert sum(a["moved"] for a in launch["arrays"] if a["kind"] == "load") == launch["total"]["moved"]
        assert sum(launch["classes"].values()) == launch["total"]["instructions"]
        for name, total in launch["total"].items():
            assert sum(line[name] for line in launch["lines"]) == total


def test_a_picture_draws_each_program_where_it_reads_and_hatches_what_nobody_does():
    root = ElementTree.fromstring(example()[2])
    assert "3,600 of 6,144 slots are read" in letters(example()[2])
    assert "cache.k[1, 2] · programs (0, 2, 1) to (1, 2, 1)" in letters(example()[2])
    bands = [e for e in root.iter() if e.get("class") == "l"]
    drawn = []
    for band in bands:
        paths = "".join(e.get("d", "") for e in band)
        spans = [[int(x) for x in span] for span in re.findall(r"M(\d+) (\d+)\.5h(\d+)", paths)]
        drawn.append(sorted({slot: line for x, line, n in spans for slot in range(x, x + n)}.items()))
    for length, slots in zip([1000] * 3 + [200] * 3, drawn, strict=True):
        assert slots == [(slot, slot // 128) for slot in range(length)]  # one program for each 128 slots
    never = [e for e in root.iter() if e.get("fill") == "url(#never)" and (e.get("x") or "").endswith("%")]
    assert [(e.get("x"), e.get("width")) for e in never] == [("97.66%", "2.344%")] * 3 + [("19.53%", "80.47%")] * 3


def test_a_page_loads_nothing_and_is_small():
    page = example()[1]
    assert len(page) < 1e6
    assert set(re.findall(r"https?://[^\"<\s]*", page)) == {"http://www.w3.org/2000/svg"}
    assert "<script" not in page
    assert not re.search(r"\b(src|href|@import)\b", page)


@needs_browser
def test_the_browser_fits_the_page_into_a_phone(tmp_path):
    (tmp_path / "page.html").write_text(example()[1])
    probe = "document.body.dataset.wide = document.documentElement.scrollWidth"
    seen = Visit(tmp_path / "page.html", width=360, probe=probe)
    assert 'data-wide="360"' in seen.dom
    assert not seen.console
    assert not seen.addresses


def test_coalesced_and_strided_reads_move_their_sectors(tmp_path):
    launches = json.loads(command(driver(tmp_path, *(LAUNCH.format(n=100, stride=s) for s in (1, 8))), "--json")[0])
    reads = [next(a for a in launch["arrays"] if a["array"] == "x") for launch in launches]
    assert [(a["asked"], a["distinct"]) for a in reads] == [(400, 400)] * 2
    assert [a["moved"] for a in reads] == [13 * SECTOR, 100 * SECTOR]
    line = next(line for line in launches[0]["lines"] if line["loaded"])
    assert line["text"].startswith("tl.store(out + at, tl.load(x + at * stride")
    assert (line["file"], line["line"]) == ("driver.py", 6)


def test_a_table_has_the_counters_beside_the_source_lines(tmp_path):
    out, _ = command(driver(tmp_path, LAUNCH.format(n=1024, stride=1)), "--lines", "--target", "sm_80", "--seed", 3)
    assert out.startswith("copy: grid (8, 1, 1), 8 programs of 4 warps, sm_80\n")
    assert re.search(r"^  x +load +4,096 +4,096 +4,096 +100.0 %$", out, re.M)
    assert re.search(r"^  driver.py:6 .* 4,096 .* tl.store\(out", out, re.M)


def test_the_axis_can_be_chosen_and_any_strides_are_undone(tmp_path):
    written = tmp_path / "page.html"
    backwards = "x, out = np.zeros((4, 256), np.float32)[::-1, ::2], torch.zeros(64)\n"
    backwards += "copy[(1,)](x, out, {}, {}, BLOCK=64, num_warps=2)\n"
    cases = (
        ((64, 2), ("--axis", 1), "64 of 512 slots", ["x[0] · program (0, 0, 0)", "x[1] to x[3] · program none"]),
        ((64, 2), ("--axis", 0), "1 of 4 slots", ["x · program (0, 0, 0)", "the n-th load of x"]),
        ((64, 0), (), "1 of 512 slots", ["read, 1 of them more than once"]),  # by each of two warps
        ((4, -256), ("--axis", -2), "4 of 4 slots", ["axis 0 of (4, 128)"]),
    )
    for numbers, words, read, others in cases:
        command(driver(tmp_path, backwards.format(*numbers)), "--html", written, "--array", "x", *words)
        (picture,) = pictures(written.read_text())
        for sentence in (f"sums up: {read} are read", *others):
            assert sentence in letters(picture)


def test_a_large_launch_gives_a_small_picture(tmp_path):
    lines = "n = 1 << 20\ncopy[(n // 256,)](torch.zeros(n), torch.zeros(n), n // 3, 3, BLOCK=256)\n"
    command(driver(tmp_path, lines), "--html", tmp_path / "p.html")
    (picture,) = pictures((tmp_path / "p.html").read_text())
    assert "up to 8 neighbouring programs" in letters(picture)
    assert len(picture) < 5e5


def test_a_fault_is_one_line_and_exit_code_1_after_what_ran_before_it(tmp_path):
    path = driver(tmp_path, LAUNCH.format(n=1024, stride=1), LAUNCH.format(n=1024, stride=2))
    out, error = command(path, "--html", tmp_path / "page.html", code=1)
    assert out.count("copy: grid") == 1
    assert "OutOfBounds" in one_line(error)
    assert "driver.py:6" in error
    assert "copy reads x" in (tmp_path / "page.html").read_text()


def test_bad_usage_is_one_line_and_exit_code_2(tmp_path):
    path = driver(tmp_path, "print(sys.argv)\n")
    assert "--example" in one_line(command(tmp_path / "none.py", code=2)[1])
    assert "sm_80" in one_line(command(path, "--target", "sm_12", code=2)[1])
    assert "no Triton kernel" in one_line(command(path, code=2)[1])
    for flags in (("--no-checks",), ("--engine", "native")):
        assert f"leave {' '.join(flags)} out" in one_line(command(path, *flags, "--html", "x.html", code=2)[1])
    launching = driver(tmp_path, LAUNCH.format(n=1024, stride=1))
    for words, answer in ((("--array", "y"), "are read: x"), (("--axis", 1), "can be 0 to 0")):
        assert answer in one_line(command(launching, "--html", tmp_path / "p.html", *words, code=2)[1])
    assert "there is no such folder" in one_line(command(launching, "--html", tmp_path / "none" / "p.html", code=2)[1])


def test_the_driver_gets_its_arguments_and_its_own_exit(tmp_path):
    path = driver(tmp_path, LAUNCH.format(n=1024, stride=1), "print(*sys.argv[1:])\nsys.exit(int(sys.argv[2]))\n")
    out, error = command(path, "--json", "--", "--words", "0")
    assert error == "--words 0\n"
    assert json.loads(out)[0]["kernel"] == "copy"
    assert "--words 7" in command(path, "--", "--words", "7", code=7)[0]


def test_without_checks_the_counters_stay(tmp_path):
    path = driver(tmp_path, LAUNCH.format(n=1024, stride=1))
    (fast,), (whole,) = (json.loads(command(path, "--json", *words)[0]) for words in (["--no-checks"], []))
    assert fast["total"] == whole["total"]
    assert not fast["arrays"]
    assert whole["arrays"]


def test_as_a_command_it_is_one_line_under_the_interpreter_and_silent_where_nobody_reads(tmp_path):
    words = [sys.executable, "-m", "kvproof.kernels.ptx", driver(tmp_path, LAUNCH.format(n=1024, stride=1))]
    for interpret, code in (("1", 2), ("0", 0)):
        read, write = os.pipe()
        os.close(read)
        environment = os.environ | {"TRITON_INTERPRET": interpret}
        run = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
        os.close(write)
        assert run.returncode == code, run.stderr
        assert ("unset it" in one_line(run.stderr)) if code else not run.stderr


def test_a_launch_that_no_gpu_takes_is_one_line_with_the_driver_s_line(tmp_path):
    cases = (
        ("copy[(1, 70000)](x, x, 8, 1, BLOCK=8)", "the grid is (1, 70000)"),
        ("copy[(1,)](x, x, 8, 1, BLOCK=8, num_warps=64)", "OutOfResources: copy has 64 warps"),
        ("copy[(1,)](x, x, 8, 1, BLOCK=8, num_wraps=4)", "did you mean num_warps=?"),
    )
    for launch, words in cases:
        path = driver(tmp_path, "x = torch.arange(8.)\n", "\n" * 5, launch)
        error = one_line(command(path, code=1)[1])
        assert words in error
        assert f"driver.py:{len(path.read_text().splitlines())}: " in error


def test_a_driver_that_insists_on_a_gpu_is_told_of_pretend(tmp_path):
    for lines in ("x = torch.ones(8, device='cuda')\n", "triton.runtime.driver.active.get_current_device()\n"):
        path = driver(tmp_path, "\n" * 5, lines, "copy[(1,)](torch.ones(8), torch.zeros(8), 8, 1, BLOCK=8)\n")
        assert (error := one_line(command(path, code=1)[1])).endswith("; give --pretend\n")
        assert f"driver.py:{len(path.read_text().splitlines()) - 1}: " in error
        assert "copy: grid (1, 1, 1)" in command(path, "--pretend")[0]
    with pytest.raises(RuntimeError, match="own"):
        command(driver(tmp_path, "raise RuntimeError('own')\n"))


def test_settings_of_the_command_line_are_asked_for(tmp_path):
    path = driver(tmp_path, LAUNCH.format(n=1024, stride=1))
    for flags, words in (
        (("--seed", -1), "--seed is -1"),
        (("--max-steps", 0), "--max-steps is 0; it must be None or a whole number of instructions"),
        (("--approximation-ulps", 10**9), "--approximation-ulps is 1000000000"),
    ):
        assert words in one_line(command(path, *flags, code=2)[1])
    assert "did not end within 5 instructions" in one_line(command(path, "--max-steps", 5, code=1)[1])
    assert command(path, "--engine", "numpy")[0] == command(path)[0]


def test_a_page_is_written_to_what_was_named_and_asked_for_before_the_work(tmp_path):
    path, real, link = driver(tmp_path, LAUNCH.format(n=1024, stride=1)), tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("before")
    link.symlink_to(real)
    command(path, "--html", link)
    assert link.is_symlink()
    assert "<svg" in real.read_text()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    command(path, "--html", pipe)
    reader.join()
    assert read[0] == real.read_text()
    assert pipe.is_fifo()
    assert "it is a folder" in one_line(command(path, "--html", tmp_path, code=2)[1])
    launched = driver(tmp_path, "raise SystemExit(3)")
    assert "no such folder" in one_line(command(launched, "--html", tmp_path / "none" / "page.html", code=2)[1])


def test_a_reader_that_leaves_and_ctrl_c_end_it_quietly(tmp_path):
    run = [sys.executable, "-m", "kvproof.kernels.ptx"]
    path = driver(tmp_path, *[LAUNCH.format(n=1024, stride=1)] * 3, "while True: print('still here')\n")
    for arguments in (["--example"], [path]):
        with subprocess.Popen([*run, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout
            assert child.stderr
            child.stdout.readline()
            child.stdout.close()
            assert child.stderr.read() == ""
            assert child.wait(60) == 0
    lines = "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & ignores it
    path = driver(tmp_path, LAUNCH.format(n=1024, stride=1), lines, "os.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run([*run, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, f"{path}: interrupted\n")
    assert "copy: grid (8, 1, 1)" in done.stdout
