"""Runs a parsed command; its errors become an exit code and one line."""

import argparse
import errno
import io
import sys

from ..int8_weights import OutOfMemory, is_out_of_memory
from ..jobs.ray_workers import RayFailed
from .batch import run_batch
from .generate import run_generate
from .interrupt import abandon_output
from .tools import run_download, run_info, run_logits, run_perplexity, run_tokenize

RUN = {
    "generate": run_generate,
    "batch": run_batch,
    "logits": run_logits,
    "tokenize": run_tokenize,
    "perplexity": run_perplexity,
    "info": run_info,
    "download": run_download,
}
# Errors of the call, exit code 2; any other OSError is the machine's, exit code 1.
CALLERS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
CALLERS_TOO = (errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)


def run(args: argparse.Namespace) -> int:
    """Run the command that args name.  Returns the exit code 0, 1 or 2; raises KeyboardInterrupt, or for a bug."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # bytes of a prompt that are no UTF-8 are printed unchanged
        if getattr(args, "json", False) or getattr(args, "prompt_file", None) or args.command == "batch":
            sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8 whatever the locale
        sys.stdout.reconfigure(errors="surrogateescape" if sys.stdout.encoding.lower() == "utf-8" else "replace")
    try:
        RUN[args.command](args)
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_output()
    except OSError as error:
        abandon_output()
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        return complain(what, 2 if isinstance(error, CALLERS) or error.errno in CALLERS_TOO else 1)
    except (ValueError, ImportError) as error:
        return complain(str(error), 2)
    except FloatingPointError as error:
        return complain(str(error), 1)
    except (OutOfMemory, RayFailed) as error:
        return complain(str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if is_compiler_failure(error):
            return complain(str(error), 1)
        if not is_out_of_memory(error):
            raise
        return complain("out of memory; try a smaller --batch or model, or a narrower --dtype", 1)
    return 0


def is_compiler_failure(error: Exception) -> bool:
    """Whether the engine of the impl numba could not be compiled."""
    from ...kernels.cpu import CompilerFailed

    return isinstance(error, CompilerFailed)


def complain(what: str, code: int) -> int:
    """One line on standard error; returns the exit code."""
    print("kvproof:", " ".join(what.split()), file=sys.stderr)
    return code
