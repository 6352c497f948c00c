"""Errors of the user's code and of libraries, reported as theirs: what was raised, where in their code, what to do."""

import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..tracing.tape import TracingError

HERE = Path(__file__).resolve().parents[3]
OURS = tuple(str(HERE / folder) + "/" for folder in ("bench", "gpt2", "kernels", "reference"))
STDLIB = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))
INSTALLED = re.compile(r".*/(?:site|dist)-packages/")
ENGINES = re.compile(r"(?:torch|numpy|triton|jax|jaxlib|scipy)/")  # they run what a model asks of them

# torch's and NumPy's words for a dtype, where a message says that it cannot be computed in.
WORDS = {
    "float64": r"double|float64|f64",
    "float32": r"float|float32|f32",
    "bfloat16": r"bfloat16|bf16",
    "float16": r"half|float16|f16|fp16",
}
NEVER = re.compile(
    r"not (?:implemented|supported)|unsupported|does not support|doesn't support|no kernel|got unsupported"
)
OVERFLOW = "without overflow"  # a constant of one dtype that another does not hold
MIXED = re.compile(r"same dtype|scalar ?type|dtype mismatch|expected .*\bdtype|to be .* matrix|to have .*type", re.I)
LONGEST = 300  # characters of a message that are shown


class UserCodeError(ValueError):
    """An error of the user's code or of a library, in one line; `__cause__` is the exception itself."""


@contextmanager
def user_code(what: str, advice: str = "", *, refusals: bool = True) -> Iterator[None]:
    """Turn whatever is raised inside, by the code that `what` names, into a UserCodeError.

    advice    what to do, added to the line
    refusals  let NotImplementedError pass, which is how a path says that it does not run in a dtype

    KeyboardInterrupt and what our own hooks raise pass. SystemExit does not: it would end the command with an exit code
    that means a verdict.
    """
    try:
        yield
    except (KeyboardInterrupt, UserCodeError, TracingError):
        raise
    except BaseException as error:
        if refusals and isinstance(error, NotImplementedError):
            raise
        says = UserCodeError(f"{what} raised {described(error)}" + (f"; {advice}" if advice else ""))
        # A cause that is NotImplementedError would be taken for the refusal of a dtype.
        raise says from (None if isinstance(error, NotImplementedError) else error)


def described(error: BaseException) -> str:
    """The exception's type and message on one line, and the file and line of the code that is to be looked at."""
    place = where(error)
    return f"{type(error).__name__}: {said(error)}" + (f" (at {place})" if place else "")


def said(error: BaseException) -> str:
    """The exception's message on one line, cut where it is long."""
    try:
        text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    except Exception:  # an exception of the user's own may fail to say what it is
        text = ""
    text = text or "no message"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def where(error: BaseException) -> str:
    """file:line of the innermost frame of the user's own code; without one, of the library that their model runs in."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shown(error.filename)}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*OURS, "<frozen"))]
    for fits in (is_user_file, is_library_file):
        for frame in reversed(frames):
            if fits(frame.filename):
                return f"{shown(frame.filename)}:{frame.lineno}"
    return ""


def is_user_file(filename: str) -> bool:
    return not INSTALLED.match(filename) and not filename.startswith(STDLIB)


def is_library_file(filename: str) -> bool:
    found = INSTALLED.match(filename)
    return bool(found) and not ENGINES.match(filename[found.end() :])


def shown(filename: str) -> str:
    """A file's name as it is looked for: within its package, or from the current folder if it lies below it."""
    found = INSTALLED.match(filename)
    if found:
        return filename[found.end() :]
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def refusal(error: BaseException, dtype: str, asked: str) -> str | None:
    """Why a path does not run in `dtype`, if that is what its error says; None where it is a mistake like any other.

    NotImplementedError, and torch's and NumPy's own words for an operation they lack in a dtype. Two dtypes that meet
    within one operation count too, but for `asked`, the dtype in question: a path that does not follow the judge to
    float64 has no such rung; one that mixes dtypes in its own is mistaken.
    """
    root = error.__cause__ if isinstance(error, UserCodeError) and error.__cause__ is not None else error
    if isinstance(root, NotImplementedError):
        place = where(root)
        return said(root) + (f" (at {place})" if place else "") if str(root) else described(root)
    text = said(root)
    if OVERFLOW in text and dtype != asked:
        return described(root)
    if not isinstance(root, (RuntimeError, TypeError, ValueError)) or not re.search(
        rf"\b({WORDS[dtype]})\b", text, re.I
    ):
        return None
    if NEVER.search(text) or (dtype != asked and MIXED.search(text)):
        return described(root)
    return None
