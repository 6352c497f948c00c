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
    "shadow": ("callable",),
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
DAY = 24 * 60 * 60  # seconds
# What a mode finds out or chooses itself.
UNSAID = {"logits": ("dtype",), "url": ("dtype", "model", "steps"), "all": ("cache", "scenario")}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def came(value: object) -> bool:
    """Whether an option was given: 0 and "" are, though they equal False or are as good as nothing."""
    return value is not None and value is not False


def apply_defaults(args: argparse.Namespace) -> None:
    """Put the defaults where no option came.

    Raises ValueError for an option that the mode has no use for, and for options that contradict each other.
    """
    mode = next(mode for mode in MODES if came(getattr(args, mode)))
    if empty := [name for name in (mode, *GOES_WITH) if getattr(args, name) == ""]:
        raise ValueError(f"{flag(empty[0])} is empty; give it a value or leave it out")
    for name, modes in GOES_WITH.items():
        if came(getattr(args, name)) and mode not in modes:
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
    if args.against_model is not None and args.against is None:
        raise ValueError("--against-model names a model of the server of --against; name that server by --against URL")
    if mode == "quantised" and args.format is None:
        raise ValueError("--quantised needs the format it is meant to have: --format NAME, of --formats")
    if args.dtype is not None and args.dtypes and args.dtype not in args.dtypes:
        raise ValueError(f"--dtype is {args.dtype}, which is none of --dtypes {' '.join(args.dtypes)}")
    if args.timeout is not None and not 0 < args.timeout <= DAY:
        raise ValueError(f"--timeout is {args.timeout:g}; it is a number of seconds above 0, and a day ({DAY}) at most")
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None and name not in UNSAID.get("all" if args.all else mode, ()):
            setattr(args, name, value)
