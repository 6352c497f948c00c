"""A process that has imported torch and forks a child per request, which runs a Python program as `python` would.

Standard input is a socket, see _child.py. A request is the program's words, environment and folder, with four file
descriptors: where to say its process and its end, and its standard input, output and error. The child has what a fresh
process has: these descriptors and no other, the words in sys.argv, its own __main__, random numbers of its own, a whole
interpreter's end. A traceback of it begins with lines of this file.
"""

import atexit
import builtins
import codecs
import ctypes
import gc
import importlib.machinery
import io
import os
import pickle
import re
import runpy
import select
import signal
import socket
import sys
import types
import warnings
from contextlib import suppress
from typing import Any

LONGEST = 1 << 20  # bytes of a request
DEFAULTS = len(warnings.filters)


def main() -> None:
    sys.path.pop(0)  # this file's folder
    requests = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends this process
    import_all()
    requests.send(b"ready" if single_threaded() else b"threads")
    request, descriptors = serve(requests)
    requests.detach()  # `become` closes it
    words = become(request, descriptors)
    signal.signal(signal.SIGINT, ctrl_c)
    run(words)


def import_all() -> None:
    """What most programs import: nothing that reads an environment which _child.py leaves free, or starts a thread."""
    before, imported = {*sys.modules}, {}
    atexit.register(leave, imported)  # first, so it runs last
    gc.disable()
    import safetensors.torch  # noqa: F401
    import torch  # noqa: F401

    gc.freeze()
    gc.enable()
    imported |= {name: module for name, module in sys.modules.items() if name not in before}
    library = ctypes.CDLL(None)
    library.on_exit(library._exit, None)  # with the exit code, before what torch's libraries have registered
    library.__cxa_atexit(library.fflush, None, None)


def leave(modules: dict[str, Any]) -> None:
    """Have the interpreter end without these modules, as it then ends without their libraries: both take 0.3 s."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(modules))
    for name in modules:
        sys.modules.pop(name, None)


def single_threaded() -> bool:
    return len(os.listdir("/proc/self/task")) == 1


def serve(requests: socket.socket) -> tuple[Any, list[int]]:
    """Fork a child per request, and say how each ended.  Returns in the children alone: (request, descriptors)."""
    ends: dict[int, tuple[int, socket.socket]] = {}  # a child's pidfd -> its process and who is told
    while True:
        for ready in select.select([requests.fileno(), *ends], [], [])[0]:
            if ready in ends:
                process, told = ends.pop(ready)
                say(told, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
                os.close(ready)
                continue
            data, descriptors, _, _ = socket.recv_fds(requests, LONGEST, 4)
            if not data:
                os._exit(0)
            process = os.fork()
            if not process:
                return pickle.loads(data), descriptors[1:]
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            told = socket.socket(fileno=descriptors[0])
            say(told, process)
            ends[os.pidfd_open(process)] = process, told


def say(told: socket.socket, number: int) -> None:
    with suppress(OSError):  # nobody may listen any more
        told.send(b"%d" % number)


def become(request: Any, descriptors: list[int]) -> list[str]:
    """Give this process what `python` has when its program begins.  Returns what followed -W and its like."""
    words, warned, environment, folder = request
    sys.orig_argv[1:] = words
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    os.chdir(folder)
    os.environb.clear()
    os.environb.update(environment)
    for name in ("stdin", "stdout", "stderr"):
        stream = reopened(getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    warn(warned)
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].default_generator.seed()
    return words[2 * len(warned) :]


def reopened(stream: Any) -> io.TextIOWrapper:
    """A standard stream anew, as Python opens it at its start."""
    number, mode = stream.fileno(), stream.mode
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    raw: Any = io.FileIO(number, mode, closefd=False)
    raw.name = stream.name
    binary: Any = io.BufferedReader(raw) if mode == "r" else raw if unbuffered else io.BufferedWriter(raw)
    lines = not unbuffered and (number == 2 or raw.isatty())
    encoding, errors = stream.encoding, stream.errors
    if wanted := os.environ.get("PYTHONIOENCODING"):
        encoding, errors = codecs.lookup(wanted).name, errors if number == 2 else "strict"
    text: Any = io.TextIOWrapper(binary, encoding, errors, "\n", lines, unbuffered)
    text.mode = mode
    return text


def warn(options: list[str]) -> None:
    """Filter warnings as `-W action:message:category` does: below the filters that imported modules have set."""
    imported, defaults = warnings.filters[:-DEFAULTS], warnings.filters[-DEFAULTS:]
    warnings.resetwarnings()
    for option in options:
        action, message, category = (*option.split(":"), "", "")[:3]
        known: Any = action, re.escape(message), getattr(builtins, category or "Warning")
        warnings.filterwarnings(*known)
    sys.warnoptions[:] = options
    sys.modules["warnings"].filters[:] = [*imported, *warnings.filters, *defaults]


def run(words: list[str]) -> None:
    """`python *words`; the first is -c, -m or a file."""
    main: Any = types.ModuleType("__main__")
    code: Any
    main.__builtins__, main.__annotations__ = builtins, {}
    sys.modules["__main__"], (kind, *rest) = main, words
    if kind == "-m":
        sys.argv[:] = [kind, *rest[1:]]
        sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(rest[0])  # pyright: ignore[reportAttributeAccessIssue] it is what `python -m` calls
        return
    if kind == "-c":
        sys.argv[:], folder = [kind, *rest[1:]], ""
        code, main.__loader__ = compile(rest[0], "<string>", "exec"), importlib.machinery.BuiltinImporter
    else:
        sys.argv[:], folder = words, os.path.dirname(os.path.realpath(kind))
        main.__file__, main.__cached__ = os.path.abspath(kind), None
        main.__loader__ = importlib.machinery.SourceFileLoader("__main__", main.__file__)
        code = main.__loader__.get_code("__main__")
    sys.path.insert(0, folder)
    exec(code, main.__dict__)


if __name__ == "__main__":
    main()
