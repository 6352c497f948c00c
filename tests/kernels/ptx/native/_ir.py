"""Modules of LLVM IR to compile, and processes that compile them."""

import os
import subprocess
import sys
from pathlib import Path

ADD = "define i64 @f(i64 %x) {{ %y = add i64 %x, {0} ret i64 %y }}"
CALLS = "declare i64 @f(i64) define i64 @g(i64 %x) { %y = call i64 @f(i64 %x) %z = mul i64 %y, 2 ret i64 %z }"
TANH = "declare double @tanh(double) define double @h(double %x) { %y = call double @tanh(double %x) ret double %y }"

CHILD = """
import ctypes, os, resource, signal, sys
from kvproof.kernels.ptx.native import code, disk
{before}
found = code.compiled(b"k", lambda: [{ir!r}])
print(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(found["f"])(1), code.compilations)
"""


def start(cache: Path | str, before: str = "") -> subprocess.Popen:
    """A process that compiles x + 41 under the key "k" and prints f(1) and how often it compiled."""
    environment = os.environ | {"KVPROOF_CACHE_DIR": str(cache)}
    command = [sys.executable, "-W", "error", "-c", CHILD.format(before=before, ir=ADD.format(41))]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
