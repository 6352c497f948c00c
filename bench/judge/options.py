"""Which options of bench/judge go with which mode: one that would do nothing is refused by name."""

import argparse

MODES = ("impl", "hf", "callable", "faults", "exam")
# The modes that each option says something to.
GOES_WITH = {
    "against": ("impl", "callable"),
    "model": ("impl",),
    "dtype": ("impl", "hf", "callable"),
    "weights": ("impl",),
    "prompt": ("impl", "hf"),
    "context": ("impl", "hf"),
    "steps": ("impl", "hf"),
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
    "json": ("impl", "hf", "callable", "faults"),
    "html": ("impl", "hf", "callable"),
}
DEFAULTS = {
    "against": None, "model": "tiny", "dtype": "float32", "steps": 8, "device": "cpu", "cache": "auto",
    "scenario": "steps", "left_padded": 0, "module": (),
}  # fmt: skip


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
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
