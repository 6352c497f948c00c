"""The tests whose launches took longest, run by pytest in several builds: the seconds that each spends in launches."""

import json
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .process import HERE, Build, BuildFailed

LIST = HERE / "tests" / "bench" / "builds" / "slowest.txt"
FILE = "KVPROOF_LAUNCH_SECONDS"
PLUGIN = Path("kernels") / "ptx" / "pytest_plugin.py"  # of builds that have one, installed or not


class SlowTest(NamedTuple):
    """A test by its id now and, where it was there under another one, at 364e8ed."""

    now: str
    then: str | None

    def in_build(self, root: Path) -> str | None:
        """Its id in the build at root; None where it is not there."""
        return next((name for name in (self.now, self.then) if name and defined(root, name)), None)


@cache
def defined(root: Path, name: str) -> bool:
    file, function = name.split("::", 1)
    try:
        return f"def {function.split('[')[0]}(" in (root / file).read_text()
    except OSError:
        return False


def listed(text: str | None = None) -> list[SlowTest]:
    """The list, slowest first: a line is an id, or an id, " | " and the one at 364e8ed."""
    lines = (LIST.read_text() if text is None else text).splitlines()
    pairs = [line.partition(" | ") for line in lines if line and not line.startswith("#")]
    return [SlowTest(now, then or None) for now, _, then in pairs]


def shared(roots: list[Path], most: int) -> list[SlowTest]:
    """The slowest tests that all builds have."""
    return [test for test in listed() if all(test.in_build(root) for root in roots)][:most]


def launch_seconds(build: Build, tests: list[SlowTest], caches: Path) -> dict[str, dict]:
    """Run tests in a build, one after the other: by the id of now its line, see timed_launches.

    Raises BuildFailed where one does not pass.
    """
    names = {name: test.now for test in tests if (name := test.in_build(build.root))}
    with tempfile.TemporaryDirectory() as scratch:
        out, env = Path(scratch) / "seconds", build.environment(Path(scratch), caches)
        env |= {FILE: str(out), "PYTHONPATH": f"{env['PYTHONPATH']}:{Path(__file__).parent}"}
        options = ["-p", "timed_launches", "-p", "no:cacheprovider", "-n", "0", "-q"]
        if not (build.root / PLUGIN).exists():  # the installed build's plugins would look for themselves in this one
            env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            options = ["-p", "xdist.plugin", *options]
        command = [sys.executable, "-m", "pytest", *options, *names]
        run = subprocess.run(command, cwd=build.root, env=env, capture_output=True, text=True)
        if run.returncode:
            raise BuildFailed(f"{build.title}: its tests do not pass:\n{run.stdout[-3000:]}{run.stderr[-1000:]}")
        lines = [json.loads(line) for line in out.read_text().splitlines()]
    return {names[line.pop("test")]: line for line in lines}
