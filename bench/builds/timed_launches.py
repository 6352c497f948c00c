"""A pytest plugin: the seconds that each test spends in launches on the PTX machine, and how many ran natively.

    KVPROOF_LAUNCH_SECONDS=FILE pytest -p timed_launches ...

It imports nothing of the build whose tests run before they do, and goes by a name that every build has since 364e8ed.
"""

import json
import os
import time
from functools import wraps
from importlib import import_module
from typing import Any

import pytest

seconds = {"launches": 0, "seconds": 0.0, "native": 0}


def timed(execute):
    @wraps(execute)
    def launch(*args, **kwargs):
        start = time.perf_counter()
        try:
            report = execute(*args, **kwargs)
            seconds["native"] += getattr(report, "engine", "") == "native"
            return report
        finally:
            seconds["launches"] += 1
            seconds["seconds"] += time.perf_counter() - start

    return launch


def pytest_collection_finish():
    launch: Any = import_module("kvproof.kernels.ptx.launch")
    launch.execute = timed(launch.execute)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    seconds.update(launches=0, seconds=0.0, native=0)
    start = time.perf_counter()
    yield
    line = {"test": item.nodeid, **seconds, "whole": time.perf_counter() - start}
    with open(os.environ["KVPROOF_LAUNCH_SECONDS"], "a") as file:
        print(json.dumps(line), file=file)
