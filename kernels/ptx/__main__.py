"""Run a driver's Triton kernels on the PTX machine, print what they did, and draw which program reads what and when.

    python -m kvproof.kernels.ptx --example > driver.py
    python -m kvproof.kernels.ptx driver.py --lines --html picture.html

A driver is a Python file that launches Triton kernels on CPU tensors, kernel[grid](...), without TRITON_INTERPRET.
Exit code: 0, 1 if the machine finds a fault or no GPU takes a launch, 2 for bad usage, 130 when interrupted.
"""

import argparse
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from . import PtxError, Refused, Report, route
from .compile import TARGETS, capability
from .profile import summary, text, touches
from .profile_page import NoPicture, Picture, chosen, page
from .settings import Settings, check_settings

NO_GPU = ("Found no NVIDIA driver", "Torch not compiled with CUDA", "CUDA error: CUDA driver", "0 active drivers")
PAGE = 800_000  # characters of a page, from which on no launch is added
EXAMPLE = '''\
"""Decode attention over a ragged cache: two requests, of 1000 and 200 slots, in a cache with room for 1024."""

import torch

from kvproof.kernels.attention import decode_attention

B, H, T, D = 2, 3, 1024, 64
torch.manual_seed(0)
q = torch.randn(B, H, D, dtype=torch.float16)
k = torch.randn(B, H, T, D, dtype=torch.float16)
v = torch.randn(B, H, T, D, dtype=torch.float16)
decode_attention(q, k, v, torch.tensor([1000, 200], dtype=torch.int32))
'''


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see --help\n")


def parser() -> Parser:
    made = Parser("python -m kvproof.kernels.ptx", description=__doc__, allow_abbrev=False,
                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = made.add_argument
    add("driver", nargs="?", help="the Python file; what follows it after -- are its own arguments")
    add("--example", action="store_true", help="print a short driver")
    add("--target", default="sm_90", choices=[f"sm_{sm}" for sm in TARGETS], help="default %(default)s")
    add("--seed", type=int, help="run a random schedule, this one")
    add("--max-steps", type=int, metavar="N", help="stop a launch after so many instructions; default: %(default)s, "
        "which stops loops that show no end")  # fmt: skip
    add("--approximation-ulps", type=int, default=0, metavar="N", help="move exp2, division and their like by up to N "
        "last places; default %(default)s")  # fmt: skip
    add("--engine", choices=["native", "numpy"], help="native is faster, and counts no bytes by array; default: numpy, "
        "which keeps a log of all accesses")  # fmt: skip
    add("--pretend", action="store_true", help="the driver finds a GPU, cuda:0, whose memory is the CPU's")
    add("--no-checks", action="store_true", help="check nothing; bytes are then not counted by array")
    add("--lines", action="store_true", help="count per Python source line, too")
    add("--json", action="store_true", help="print the counters as a list of launches; the driver prints to stderr")
    add("--html", metavar="FILE", help="write a page with each launch's picture and counters")
    add("--array", metavar="NAME", help="the kernel's parameter to draw; default: the largest array that is read")
    add("--axis", type=int, help="of the array's slots; default: the last but one")
    return made


class Shown:
    """What becomes of the launches: printed as they come, and drawn."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.out = options, sys.stdout  # which the driver does not get with --json
        self.launches: list[dict[str, Any]] = []
        self.sections: list[tuple[str, str]] = []  # SVG and text
        self.size = self.left_out = 0  # characters of the page; launches that it lacks
        self.drawn = False
        self.read: set[str] = set()

    def add(self, report: Report) -> None:
        """Print a launch's counters, unless --json is to have them together, and draw its picture."""
        options, found = self.options, touches(report)
        self.launches.append(summary(report, found))
        words = text(self.launches[-1], options.lines)
        if not options.json:
            print(words, file=self.out, flush=True)
        self.read |= {t.region.buffer.name for t in found if t.kind == "load"}
        reads = chosen(found, options.array) if options.html else None
        svg = Picture(report, reads, options.axis).svg() if reads else ""
        self.drawn |= bool(svg)
        if self.size + len(svg) + len(words) < PAGE:
            self.sections.append((svg, words))
            self.size += len(svg) + len(words)
        else:
            self.left_out += 1

    def write(self) -> None:
        """Write what was asked for. Raises NoPicture if there is nothing to draw."""
        options = self.options
        if options.json:
            print(json.dumps(self.launches, indent=1), file=self.out)
        if not options.html:
            return
        if self.launches and not self.drawn:
            names = ", ".join(sorted(self.read)) or "none"
            raise NoPicture(f"--array is {options.array}, which no launch reads; those that are read: {names}")
        title = f"What the kernels of {Path(options.driver).name} read"
        title += f"; of {len(self.launches)} launches the last {self.left_out} are left out" * (self.left_out > 0)
        Path(options.html).write_text(page(title, self.sections), encoding="utf-8")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the machine is to do. Raises ValueError for what it cannot."""
    names = set(Settings._fields) & set(vars(options))
    found = {name: getattr(options, name) for name in names} | {"checks": not options.no_checks}
    found["trace"] = options.engine != "native"  # which keeps no log of accesses
    try:
        check_settings(found)
    except Refused as error:
        name, words = str(error).split(" ", 1)
        raise Refused(f"--{name.replace('_', '-')} {words}") from None
    return found


def check_page(path: str) -> None:
    """Raise OSError unless a page can be written there; nothing is touched yet."""
    at = Path(path)
    if at.is_dir() or not at.resolve().parent.is_dir():
        raise IsADirectoryError(f"--html is {path}; " + ("it is a folder: name a file in it" if at.is_dir() else
                                "there is no such folder: make it first"))  # fmt: skip
    if not os.access(at if at.exists() else at.resolve().parent, os.W_OK):
        raise PermissionError(f"--html is {path}, which cannot be written; name another file")


def drive(options: argparse.Namespace, each: Callable[[Report], None]) -> None:
    """Run the driver as Python would, on the machine."""
    sys.argv = [options.driver, *options.arguments]
    sys.path.insert(0, str(Path(options.driver).resolve().parent))
    out = redirect_stdout(sys.stderr) if options.json else nullcontext()
    with out, route(options.target, keep=0, each=each, pretend=options.pretend, **settings(options)):
        try:
            runpy.run_path(options.driver, run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


def place(error: BaseException, driver: str) -> str:
    """The driver's line that an error came from, as "driver.py:12"."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == driver]
    return f"{driver}:{lines[-1]}" if lines else driver


def work(options: argparse.Namespace) -> int:
    """Run the driver, print and draw. Returns the exit code. Raises what is bad usage."""
    capability(options.target)
    settings(options)
    if options.html:
        check_page(options.html)
    shown, code = Shown(options), 0
    try:
        drive(options, shown.add)
    except (PtxError, Refused) as error:
        at = options.driver if isinstance(error, PtxError) else place(error, options.driver)
        print(f"{at}: {type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    except (AssertionError, RuntimeError) as error:
        if options.pretend or not str(error).startswith(NO_GPU):
            raise
        words = str(error).partition("\n")[0].partition(". ")[0].rstrip(".")
        print(f"{place(error, options.driver)}: {words}; give --pretend", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print(f"{options.driver}: interrupted", file=sys.stderr)
        code = 130
    if not shown.launches and not code:
        raise NoPicture(f"{options.driver} launched no Triton kernel on CPU tensors, so there is nothing to show")
    shown.write()
    return code


def main(arguments: list[str] | None = None) -> int:
    usage = parser()
    words = sys.argv[1:] if arguments is None else arguments
    end = words.index("--") if "--" in words else len(words)
    options = usage.parse_args(words[:end], argparse.Namespace(arguments=words[end + 1 :]))
    if options.example:
        print(EXAMPLE, end="")
        return 0
    if not options.driver or not Path(options.driver).is_file():
        what = f"{options.driver} is no file" if options.driver else "no driver came"
        usage.error(f"{what}; name a Python file, such as --example prints")
    if options.html and (options.no_checks or options.engine == "native"):
        flag = "--no-checks" if options.no_checks else "--engine native"
        usage.error(f"pictures are drawn from the accesses that the checks note in NumPy form; leave {flag} out")
    try:
        return work(options)
    except BrokenPipeError:
        raise
    except (Refused, NoPicture, OSError) as error:
        usage.error(str(error))


def command() -> int:
    """`main`, for a reader that may leave: `| head` ends it quietly, and so does Ctrl-C."""
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(command())
