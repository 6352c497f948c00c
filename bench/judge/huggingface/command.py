"""`kvproof verify --hf FOLDER`: the subject that the options ask for, and the table of --all."""

import argparse
import json
import textwrap
from typing import Any

from .checkpoint import read_prompts
from .subject import HuggingFaceSubject
from .survey import Survey, judged_model

PROMPT_IDS = ((7, 8, 9, 10, 11, 12, 13, 14, 15), (3, 4, 5, 6))  # the tokenizer may be absent


def given(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of model, prompts and attention."""
    prompts = (args.context or PROMPT_IDS) if args.prompt is None else read_prompts(args.hf, args.prompt)
    return {"model": args.hf, "prompts": prompts, "steps": args.steps, "device": args.device,
        "attn_implementation": args.attn_implementation}  # fmt: skip


def subject(args: argparse.Namespace) -> HuggingFaceSubject:
    """What --hf compares.  Raises ValueError, ImportError or OSError where it cannot be had."""
    found = HuggingFaceSubject(
        cache=args.cache, scenario=args.scenario, left_padded=args.left_padded, position_ids=not args.no_position_ids,
        **given(args),
    )  # fmt: skip
    if args.no_position_ids and (not found.padded or found.lm.counting.start is None):
        why = f"the model {found.lm.counting.why}" if found.padded else "no row is padded; add --left-padded N"
        raise ValueError(f"--no-position-ids does nothing here: {why}")
    return found


def judge_all(args: argparse.Namespace) -> Survey:
    """Every cache and scenario of the model, or those that --cache and --scenario name."""
    how = given(args)
    return judged_model(
        how.pop("model"), args.dtype, scenarios=args.scenario or "all", caches=args.cache or "all", **how
    )


def say_all(found: Survey, args: argparse.Namespace):
    """Print the table, with the bugs explained below it, or the records as JSON."""
    if args.json:
        print(json.dumps({"model": args.hf, **found.record()}))
        return
    what = f"{args.cache or 'every cache'}, {args.scenario or 'every scenario'}"
    print(f"{found.word}: {args.hf}, {args.dtype}, {what}\n")
    print("\n".join(found.table()))
    for cell in found.cells:
        if cell.found is not None and cell.found.start:
            print("\n" + textwrap.fill(f"{cell.cache}, {cell.scenario}: {cell.reason}", 118))
            if cell.found.origin:
                print(f"seen: {cell.found.origin.seen}")
                if cell.found.origin.explanation:
                    print(f"explains it: {cell.found.origin.explanation}")
