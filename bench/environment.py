"""Where a number was measured: without this it means nothing."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch


def version(package: str) -> str | None:
    """The installed version of a package, None where it is absent."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the code that runs, with "+changes" if files differ from it; None outside a clone of it."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=here.parent, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # another project's repository may lie around an installed copy
        return git("describe", "--always", "--dirty=+changes", "--abbrev=12", "--match=")
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The CPU's model and how many threads torch uses of it."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        name = models[0] if models else name
    return f"{name} ({torch.get_num_threads()} of {os.cpu_count()} threads)"


def environment(device: torch.device) -> dict[str, str | None]:
    """Device, versions and commit."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    packages = {package: version(package) for package in ("kvproof", "torch", "triton", "numpy")}
    return {"device": f"{device.type}: {name}", "python": platform.python_version(), **packages, "commit": commit()}
