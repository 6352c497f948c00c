"""A test file run as a program of its own, where its relative imports work as they do under pytest."""

from pathlib import Path

TESTS = Path(__file__).parent


def words(file: str) -> list[str]:
    """What follows `python` on the command line to run `file`, a module under tests/, as __main__."""
    name = ".".join(("tests", *Path(file).relative_to(TESTS).with_suffix("").parts))
    program = (
        "import runpy, sys, types\n"
        f"tests = sys.modules['tests'] = types.ModuleType('tests'); tests.__path__ = [{str(TESTS)!r}]\n"
        f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
    )
    return ["-c", program]
