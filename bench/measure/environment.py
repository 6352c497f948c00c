"""Where a number was measured: without this it means nothing."""

import importlib.metadata
import os
import platform
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..roofline.gpus import datasheet_gb_per_s

PACKAGES = ("kvproof", "torch", "triton", "numpy", "transformers")
PEER_PACKAGES = (  # named where they are installed
    *("onnxruntime", "onnx", "openvino", "ctranslate2", "llama_cpp_python"),
    *("flash-attn", "flashinfer-python"),
)


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit(file: Path = Path(__file__)) -> tuple[str | None, bool | None]:
    """The commit of the repository that tracks `file`, and whether tracked files differ from it.

    (None, None) where no repository does: another project's may lie around an installed copy.
    """

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=file.resolve().parent, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        name = git("describe", "--always", "--dirty=+changes", "--abbrev=12", "--match=")
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return name.removesuffix("+changes"), name.endswith("+changes")


def read_text(path: str) -> str:
    """What a file of the kernel's says, "" where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def cpu() -> dict[str, Any]:
    """The CPU: model, physical cores, hardware threads, clock in MHz now, governor, load of the last minute.

    None where the system does not show it: a virtual machine shows no governor.
    """
    # One block per hardware thread, "key : value" a line.
    blocks = [
        dict(re.findall(r"^(.+?)\s*:[ \t]*(.*)$", block, re.MULTILINE))
        for block in read_text("/proc/cpuinfo").split("\n\n")
    ]
    first = blocks[0]
    cores = {(block.get("physical id"), block["core id"]) for block in blocks if "core id" in block}
    clocks = [float(block["cpu MHz"]) for block in blocks if "cpu MHz" in block]
    return {
        "model": first.get("model name") or platform.processor() or platform.machine(),
        "cores": len(cores) or None,
        "threads": os.cpu_count() or 1,
        "mhz": max(clocks, default=None),
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def nvidia_smi(uuid: str, *fields: str) -> dict[str, str]:
    """What nvidia-smi says of one GPU, field by field; a field is absent where the driver does not show it."""
    command = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in run.stdout.strip().split(",")]
    if len(values) != len(fields):
        return {}
    return {field: value for field, value in zip(fields, values, strict=True) if value and value[0] not in "[N"}


def gpu(device: torch.device) -> dict[str, Any]:
    """A CUDA GPU. Clocks are the highest it may take, in MHz: those of this moment, between runs, say nothing."""
    properties = torch.cuda.get_device_properties(device)
    # By uuid, since CUDA_VISIBLE_DEVICES gives torch other numbers than nvidia-smi has.
    shown = nvidia_smi(f"GPU-{properties.uuid}", "driver_version", "clocks.max.sm", "clocks.max.memory", "power.limit")
    number = {field: float(value) for field, value in shown.items() if re.fullmatch(r"\d+(\.\d+)?", value)}
    return {
        "name": properties.name,
        "driver": shown.get("driver_version"),
        "sm_clock_mhz": number.get("clocks.max.sm"),
        "memory_clock_mhz": number.get("clocks.max.memory"),
        "power_limit_w": number.get("power.limit"),
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "datasheet_gb_per_s": datasheet_gb_per_s(properties.name),
    }


def heading(environment: dict) -> list[str]:
    about = {name: environment[name] for name in ("device", "python", "commit")}
    about["commit"] = f"{about['commit']}{'+changes' * bool(environment['dirty'])}"
    about["versions"] = ", ".join(f"{name} {got}" for name, got in environment["versions"].items() if got)
    return [f"{name:9} {value}" for name, value in about.items()]


@lru_cache(maxsize=1)
def collect_env() -> str:
    """torch.utils.collect_env's report, asked for once a process (it runs pip and takes a second); home is "~" in it.

    Where it fails, why: it calls programs that a machine may lack.
    """
    from torch.utils.collect_env import get_pretty_env_info

    try:
        report = get_pretty_env_info()
    except Exception as error:  # anything a probe of a strange machine may raise; a benchmark must not die of it
        report = f"torch.utils.collect_env failed: {error!r}"
    home = os.path.expanduser("~").rstrip("/")
    return report.replace(home, "~") if home else report


def environment(device: torch.device, kept: bool = True) -> dict[str, Any]:
    """Everything about the machine and the code that a figure depends on: "environment" in decode.schema.json.

    kept  whether anybody keeps it: else collect_env, which takes a second and which no report prints, is None
    """
    processor, name = cpu(), ""
    if device.type == "cpu":
        name = f"{processor['model']} ({torch.get_num_threads()} of {processor['threads']} threads)"
    graphics = gpu(device) if device.type == "cuda" else None
    sha, dirty = commit()
    versions = {package: version(package) for package in PACKAGES}
    versions |= {package: found for package in PEER_PACKAGES if (found := version(package))}
    return {
        "device": f"{device.type}: {graphics['name'] if graphics else name}",
        "device_type": device.type,
        "python": platform.python_version(),
        "versions": versions,
        "commit": sha,
        "dirty": dirty,
        "cpu": processor,
        "gpu": graphics,
        "collect_env": collect_env() if kept else None,
    }
