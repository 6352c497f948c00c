"""The GPUs that bench/ knows: memory bandwidth by torch's name, the model's constants with sources, a user's own."""

import difflib
import math
import re
from typing import Any, NamedTuple

from . import kernel

ISSUE_SLOTS = 4  # warp schedulers of an SM, one instruction a clock each, from Volta on: CUDA programming guide

# Datasheet memory bandwidth in 10^9 bytes a second, by the words the device's name ends with: a slice of a GPU (MIG), a
# laptop's or a Ti of the same number goes on, and matches none.
# Source: NVIDIA's datasheets.
BANDWIDTH = {
    r"T4": 320,
    r"A10G": 600,
    r"L4": 300,
    r"Tesla V100-(SXM2|SXM3|PCIE)-\d+GB": 900,
    r"A100-(SXM4|PCIE)-40GB": 1555,
    r"A100-SXM4-80GB": 2039,
    r"A100 80GB PCIe": 1935,
    r"H100 80GB HBM3": 3350,
    r"H100 PCIe": 2039,
    r"H200": 4800,
    r"H200 NVL": 4800,
    r"B200": 8000,
    r"GeForce RTX 3090": 936,
    r"GeForce RTX 4090": 1008,
    r"GeForce RTX 5090": 1792,
}


class GPU(NamedTuple):
    """The model's constants of a GPU; SOURCES gives each one's meaning, unit and origin."""

    name: str
    bandwidth: float
    sms: float
    clock: float
    l2: float
    arch: int
    share: float
    launch: float
    latency: float

    @property
    def achievable(self) -> float:
        """Bytes a second that a kernel which only reads is expected to reach."""
        return self.bandwidth * 1e9 * self.share

    @property
    def issue(self) -> float:
        """Warp instructions a second, all issue slots busy."""
        return self.sms * ISSUE_SLOTS * self.clock * 1e6


# By key of BANDWIDTH. The order is GPU's: name bandwidth sms clock l2 arch share launch latency.
DEVICES = {
    "T4": GPU("T4", BANDWIDTH["T4"], 40, 1590, 4, 75, 0.75, 2.0, 0.4),
    "A100-SXM4-80GB": GPU("A100 (80GB SXM)", BANDWIDTH["A100-SXM4-80GB"], 108, 1410, 40, 80, 0.88, 2.0, 0.4),
    "H100 80GB HBM3": GPU("H100 (SXM)", BANDWIDTH["H100 80GB HBM3"], 132, 1980, 50, 90, 0.92, 2.0, 0.4),
    "H200": GPU("H200", BANDWIDTH["H200"], 132, 1980, 50, 90, 0.90, 2.0, 0.4),
    "B200": GPU("B200", BANDWIDTH["B200"], 148, 1980, 126, 100, 0.90, 2.0, 0.5),
    "GeForce RTX 4090": GPU("RTX 4090", BANDWIDTH["GeForce RTX 4090"], 128, 2520, 72, 89, 0.92, 2.0, 0.35),
}
GPUS = {gpu.name.partition(" (")[0]: gpu for gpu in DEVICES.values()}

# (what it is and its unit, where it is from); "assumption" leads where nobody vouches for the figure.
SOURCES = {
    "bandwidth": ("memory bandwidth, GB/s", "NVIDIA's datasheet of the board"),
    "sms": ("SMs", "NVIDIA's architecture whitepapers; B200: two dies of 74 enabled, chipsandcheese.com on B200"),
    "clock": (
        "SM clock, MHz",
        "boost clock of the datasheet; H100, H200: the datasheet's float32 rate / (SMs * 256), rounded; B200: "
        "assumed to be H100's; that a kernel holds it is an assumption",
    ),
    "l2": ("L2 cache, MB", "NVIDIA's whitepapers; B200: chipsandcheese.com. The model reads a cold L2"),
    "arch": ("architecture, sm_", "CUDA programming guide; its code is in kernels/aot/targets.txt"),
    "share": ("achievable share of bandwidth", "assumption, of what plain copies reach; T4's GDDR6 with ECC less"),
    "launch": ("launch, µs", "assumption: an empty kernel between two events, the host ahead"),
    "latency": ("trip to memory, µs", "assumption: an idle memory's, rounded"),
}
NEEDED, DEFAULTS = (
    ("name", "bandwidth", "sms", "clock"),
    {"l2": 0.0, "arch": 86, "share": 0.9, "launch": 2.0, "latency": 0.4},
)
SPELLING = '"name=My GPU,bandwidth=900,sms=80,clock=1530" (GB/s, MHz)'


def plain(name: str) -> str:
    """A name as it is compared: "rtx-4090" is "RTX 4090"."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find(name: str) -> GPU:
    """A GPU of the table by its key or its full name, however spelled.  Raises ValueError with a guess."""
    known = {plain(key): gpu for key, gpu in GPUS.items()} | {plain(gpu.name): gpu for gpu in GPUS.values()}
    if plain(name) in known:
        return known[plain(name)]
    keys = {plain(key): key for key in GPUS}
    close = difflib.get_close_matches(plain(name), keys, 1, 0.5)
    guess = f"did you mean {keys[close[0]]}? " if close else ""
    raise ValueError(f"no GPU {name!r} in the table; {guess}it holds {', '.join(GPUS)}; describe others by --gpu-spec")


def device_of(name: str) -> str | None:
    """The key of BANDWIDTH that a device's name ends with; None for a slice, a laptop's GPU or one not in the table."""
    return next((device for device in BANDWIDTH if re.search(rf"\b{device}$", name)), None)


def of_device(name: str) -> GPU | None:
    """The model's GPU that torch calls `name`; None for one that the model does not know."""
    return DEVICES.get(device_of(name) or "")


def datasheet_gb_per_s(name: str) -> float | None:
    """The memory bandwidth of a GPU by torch's name of it, 10^9 bytes a second; None for one not in the table."""
    return BANDWIDTH.get(device_of(name) or "")


def parse_spec(text: str) -> GPU:
    """ "name=X,bandwidth=900,sms=80,clock=1530" -> a GPU; the rest by DEFAULTS.  Raises ValueError."""
    pairs = [word.partition("=") for word in text.split(",")]
    given = {key.strip(): value.strip() for key, _, value in pairs}
    wrong = [key for key in given if key not in (*NEEDED, *DEFAULTS)]
    if wrong:
        raise ValueError(f"a GPU has no {wrong[0]!r}; it has {', '.join((*NEEDED, *DEFAULTS))}, as in {SPELLING}")
    if missing := [key for key in NEEDED if not given.get(key)]:
        raise ValueError(f"the GPU lacks {', '.join(missing)}; write {SPELLING}")
    name = given.pop("name")
    values: dict[str, Any] = DEFAULTS | {key: number(key, value) for key, value in given.items()}
    return GPU(name, **values | {"arch": int(values["arch"])})


def number(key: str, text: str) -> float:
    """A constant of a GPU: above 0 (l2 and launch from 0), a share of at most 1, whole where it counts.

    Raises ValueError for any other text.
    """
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{key} is {text!r}; it must be a number, as in {SPELLING}") from None
    if not math.isfinite(value) or value < 0 or (value == 0 and key not in ("l2", "launch")):
        raise ValueError(f"{key} is {text}; it must be more than 0")
    if key == "share" and value > 1:
        raise ValueError(f"share is {text}; no kernel reaches more than all of the bandwidth, 1")
    if key in ("sms", "arch") and value != int(value):
        raise ValueError(f"{key} is {text}; it must be a whole number")
    if key == "arch" and value not in kernel.targets():
        raise ValueError(f"arch is {text}; the kernel is compiled for {', '.join(map(str, kernel.targets()))}")
    return value
