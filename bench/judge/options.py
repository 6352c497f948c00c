"""Which options of bench/judge go with which mode: one that would do nothing is refused by name."""

import argparse

MODES = ("impl", "hf", "callable", "logits", "url", "quantised", "formats", "faults", "exam")
# The modes that each option says something to.
GOES_WITH = {
    "against": ("impl", "callable", "url"),
    "model": ("impl", "url"),
    "against_model": ("url",),
    "dtype": ("impl", "hf", "callable", "logits", "url", "quantised"),
    "dtypes": ("logits",),
    "weights": ("impl",),
    "prompt": ("impl", "hf", "url"),
    "context": ("impl", "hf"),
    "steps": ("impl", "hf", "url"),
    "device": ("impl", "hf"),
    "page": ("impl",),
    "inject": ("impl",),
    "cache": ("hf",),
    "scenario": ("hf",),
    "all": ("hf",),
    "left_padded": ("hf",),
    "no_position_ids": ("hf",),
    "attn_implementation": ("hf",),
    "module": ("callable",),
    "api_key_env": ("url",),
    "timeout": ("url",),
    "format": ("quantised",),
    "arrays": ("quantised",),
    "head_dim": ("quantised",),
    "json": ("impl", "hf", "callable", "logits", "url", "quantised", "formats", "faults"),
    "html": ("impl", "hf", "callable", "logits", "url"),
}
DEFAULTS = {
    "against": None, "model": "tiny", "dtype": "float32", "steps": 8, "device": "cpu", "cache": "auto",
    "scenario": "steps", "left_padded": 0, "module": (), "arrays": "torch", "dtypes": (), "timeout": 120.0,
    "head_dim": 128,
}  # fmt: skip
UNSAID = {"logits": ("dtype",), "url": ("dtype", "model", "steps")}  # what a mode finds out or chooses itself


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def apply_defaults(args: argparse.Namespace) -> None:
    """Put the defaults where no option came.

    Raises ValueError for an option that the mode has no use for, and for options that contradict each other.
    """
    mode = next(mode for mode in MODES if getattr(args, mode) not in (None, False))
    for name, modes in GOES_WITH.items():
        if getattr(args, name) not in (None, False) and mode not in modes:
            fits = ", ".join(flag(other) for other, its in GOES_WITH.items() if mode in its) or "no other option"
            its = " or ".join(map(flag, modes))
            raise ValueError(
                f"{flag(name)} does nothing beside {flag(mode)}; it goes with {its}. {flag(mode)} takes {fits}"
            )
    if args.prompt is not None and args.context is not None:
        raise ValueError("--context and --prompt came; prompts have the length they have, so leave one out")
    if args.context is not None and args.context < 1:
        raise ValueError(f"--context is {args.context}; prompts have at least 1 token")
    if args.all and (args.left_padded is not None or args.no_position_ids or args.html is not None):
        raise ValueError("--all has padding and positions among its scenarios and prints a table: leave --left-padded, "
            "--no-position-ids and --html out")  # fmt: skip
    if mode == "callable" and args.against is None:
        raise ValueError("--callable needs a trusted function: --against MODULE:FUNCTION")
    if mode == "quantised" and args.format is None:
        raise ValueError("--quantised needs the format it is meant to have: --format NAME, of --formats")
    if args.dtype is not None and args.dtypes and args.dtype not in args.dtypes:
        raise ValueError(f"--dtype is {args.dtype}, which is none of --dtypes {' '.join(args.dtypes)}")
    if args.timeout is not None and not 0 < args.timeout < float("inf"):
        raise ValueError(f"--timeout is {args.timeout:g}; it is a number of seconds above 0")
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None and name not in UNSAID.get(mode, ()):
            setattr(args, name, value)
