"""What every test shares: where the kernels run, and which tests need a GPU or an hour."""

import gc
import os
import signal
from pathlib import Path

# Two workers share two cores; more threads would wait for each other. Set before torch and NumPy are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Whether a * b + c is contracted where a kernel of a test leaves it open: Triton 3.9 warns that 3.10 will do otherwise.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

# A shell's `&` has Ctrl-C ignored, which the programs that tests start would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import torch

from kvproof.kernels.backend import without_gpu

DATA = Path(__file__).parent / "data"
HAS_GPU = torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def _without_gpu():
    """Kernels launched on CPU tensors run on the PTX machine, or interpreted where TRITON_INTERPRET=1 asks for it."""
    with without_gpu():
        yield


def pytest_collection_modifyitems(config, items):
    asked = config.option.markexpr
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}  # keywords hold the names of folders and parameters, too
        if "gpu" in marks and not HAS_GPU:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU, and torch finds none here"))
        if "exhaustive" in marks and "exhaustive" not in asked:
            item.add_marker(
                pytest.mark.skip(reason="exhaustive: run once with pytest -m exhaustive, see tests/EXHAUSTIVE.md")
            )
        if "hub" in marks and "hub" not in asked:
            item.add_marker(pytest.mark.skip(reason="hub: downloads the published models; run with pytest -m hub"))


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """What is imported stays: it is not walked while it is made, a quarter of the time of collecting, nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish(session):
    """Compilers make objects by the million, few of them in circles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def device() -> str:
    """Where kernels run: on the GPU if there is one, else on the CPU."""
    return "cuda" if HAS_GPU else "cpu"


@pytest.fixture(scope="session")
def data() -> Path:
    """The goldens, the checkpoints in all spellings, the tokenizer's cases."""
    return DATA
