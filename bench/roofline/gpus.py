"""The GPUs of the model: every constant in one table, with its source in words; and a user's own GPU."""

import difflib
import math
import re
from typing import Any, NamedTuple


class GPU(NamedTuple):
    """What the model knows of a GPU; SOURCES says what each constant is, in which unit, and where it is from."""

    name: str
    bandwidth: float
    sms: float
    clock: float
    l2: float
    warps: float
    programs: float
    share: float
    launch: float
    latency: float
    device: str = r"(?!)"  # the end of the name by which torch knows it, a regular expression; by default no name's

    @property
    def achievable(self) -> float:
        """Bytes a second that a kernel which only reads is expected to reach."""
        return self.bandwidth * 1e9 * self.share

    @property
    def issue(self) -> float:
        """Warp instructions a second, all issue slots busy."""
        return self.sms * ISSUE_SLOTS * self.clock * 1e6


ISSUE_SLOTS = 4  # warp schedulers of an SM, one instruction a clock each, from Volta on: CUDA programming guide
REGISTERS = 65536  # 32-bit registers of an SM, from Kepler on: CUDA programming guide

# The order is GPU's: bandwidth sms clock l2 warps programs share launch latency.
GPUS = {
    "T4": GPU("T4", 320, 40, 1590, 4, 32, 16, 0.75, 2.0, 0.4, r"T4"),
    "A100": GPU("A100 (80GB SXM)", 2039, 108, 1410, 40, 64, 32, 0.88, 2.0, 0.4, r"A100-SXM4-80GB"),
    "H100": GPU("H100 (SXM)", 3350, 132, 1980, 50, 64, 32, 0.92, 2.0, 0.4, r"H100 80GB HBM3"),
    "H200": GPU("H200", 4800, 132, 1980, 50, 64, 32, 0.90, 2.0, 0.4, r"H200"),
    "B200": GPU("B200", 8000, 148, 1980, 126, 64, 32, 0.90, 2.0, 0.5, r"B200"),
    "RTX 4090": GPU("RTX 4090", 1008, 128, 2520, 72, 48, 24, 0.92, 2.0, 0.35, r"GeForce RTX 4090"),
}

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
    "warps": ("warps an SM holds", "CUDA programming guide, compute capabilities 7.5, 8.0, 8.9, 9.0, 10.0"),
    "programs": ("programs an SM holds", "CUDA programming guide, as above"),
    "share": ("achievable share of bandwidth", "assumption, of what plain copies reach; T4's GDDR6 with ECC less"),
    "launch": ("launch, µs", "assumption: an empty kernel between two events, the host ahead"),
    "latency": ("trip to memory, µs", "assumption: an idle memory's, rounded"),
}
NEEDED, DEFAULTS = (
    ("name", "bandwidth", "sms", "clock"),
    {"l2": 0.0, "warps": 48.0, "programs": 16.0, "share": 0.9, "launch": 2.0, "latency": 0.4},
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


def of_device(name: str) -> GPU | None:
    """The GPU of the table that torch calls `name`; None for one not in it: a slice or a laptop's is another GPU."""
    return next((gpu for gpu in GPUS.values() if re.search(rf"\b{gpu.device}$", name)), None)


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
    return GPU(name, **values)


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
    if key in ("sms", "warps", "programs") and value != int(value):
        raise ValueError(f"{key} is {text}; it must be a whole number")
    return value
