"""Rounding or bug? A verdict on two paths to the same logits, and the place where they part.

    kvproof verify --impl sdpa                           our cached decode against recomputing everything
    kvproof verify --impl triton --against numpy --dtype bfloat16
    kvproof verify --impl numba --page 16                the engine compiled for this CPU, over a paged cache
    kvproof verify --hf FOLDER --cache static            a Hugging Face causal LM: cached against uncached
    kvproof verify --hf FOLDER --all                     the same over every cache and in every scenario
    kvproof verify --callable mine:cached --against mine:plain
    kvproof verify --quantised mine:fn --format int8-row what a format must lose, or what the code loses beside
    kvproof verify --logits a.npy b.npy                  saved logits; more pairs, of wider dtypes, decide more
    kvproof verify --url http://127.0.0.1:8000/v1        a server: its decode against its prefill, or --against another
    kvproof verify --faults                              the corpus of KV-cache bugs, with where each happened
    kvproof verify --impl eager --inject NAME            what one of them looks like
    kvproof verify --exam FILE.jsonl                     all of them, and clean runs, before the judge

Exit codes: 0 ROUNDING or FORMAT, 1 BUG, 2 INCONCLUSIVE, 3 the command or machine does not allow it, 4 an error of ours.
Also `python -m kvproof.bench.judge …`.
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import argparse
import difflib
import json
import shlex
import sys
import textwrap
import traceback
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from kvproof.bench.judge import exam
from kvproof.bench.judge.faults.catalogue import TORCH_FAULTS, TorchFault
from kvproof.bench.judge.formats import command as formats
from kvproof.bench.judge.huggingface import command as huggingface
from kvproof.bench.judge.huggingface.caches import AUTO, CACHES
from kvproof.bench.judge.huggingface.scenarios import SCENARIOS
from kvproof.bench.judge.investigation import Investigation, investigate
from kvproof.bench.judge.options import apply_defaults
from kvproof.bench.judge.served.command import served
from kvproof.bench.judge.subjects.callables import CallableSubject
from kvproof.bench.judge.subjects.logits import LogitsSubject
from kvproof.bench.judge.subjects.ours import OurSubject
from kvproof.bench.measure.environment import environment
from kvproof.bench.measure.interleaved import IMPLS
from kvproof.bench.program import abandon_output, ends, words
from kvproof.gpt2.arguments import WEIGHTS
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.cli.output_file import check_writable
from kvproof.gpt2.cli.progress import Progress
from kvproof.gpt2.generate import to_ids
from kvproof.gpt2.weights import DTYPES, as_device, load
from kvproof.kernels.backend import without_gpu
from kvproof.kernels.cpu import CompilerFailed
from kvproof.reference.judge.faults import FAULTS, describe
from kvproof.reference.judge.verdict import BUG, INCONCLUSIVE, ROUNDING

CODES = {ROUNDING: 0, BUG: 1, INCONCLUSIVE: 2}
USAGE, OURS = 3, 4
GPUS = tuple(f"sm_{n}" for n in (80, 86, 89, 90, 100, 120))
PROMPTS = ("Once upon a time there was a king", "ROMEO:")  # ragged on purpose


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong option is exit code 3: 2 says INCONCLUSIVE here."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def options() -> Parser:
    parser = Parser(prog="kvproof verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--impl", choices=IMPLS, help="of ours, under test")
    which.add_argument("--hf", metavar="FOLDER", help="a causal LM that transformers loads from a local folder")
    which.add_argument("--callable", metavar="MODULE:FUNCTION", help="f(dtype, shift) -> logits (B, n, V), under test")
    which.add_argument("--logits", nargs=2, action="append", metavar=("A", "B"), help="files of logits (n, V) or "
        "(B, n, V), the second trusted; repeatable, a pair per dtype")  # fmt: skip
    which.add_argument("--url", metavar="URL", help="a server of OpenAI's API, such as http://127.0.0.1:8000/v1")
    which.add_argument("--faults", action="store_true", help="list the corpus of bugs")
    which.add_argument("--exam", type=Path, metavar="FILE", help="put the corpus and clean runs before the judge")
    formats.add_options(which, add)
    add("--against", metavar="WHAT", help="the trusted path: an impl (default naive; numpy: the oracle), function, URL")
    add("--model", help="for --impl, as kvproof generate takes it (default tiny); for --url, the name that it serves")
    add("--against-model", metavar="NAME", help="for --url: the name that the server of --against serves")
    add("--dtype", choices=DTYPES, help="the dtype in question (default float32; of --url bfloat16)")
    add("--dtypes", nargs="+", choices=DTYPES, help="for --logits: what each pair was computed in")
    add("--weights", choices=WEIGHTS, help="for --impl: quantise the model; the oracle computes with its values")
    add("--prompt", action="append", help="for --impl, --hf, --url; repeatable (default: two of different length)")
    add("--context", type=int, metavar="N", help="instead: two prompts of N and half as many tokens, drawn at random")
    add("--steps", type=int, metavar="N", help="for --impl, --hf: positions compared, the prefill's, then decodes' "
        "(default 8); for --url: tokens generated (default 32)")  # fmt: skip
    add("--device", help="for --impl, --hf (default cpu)")
    add("--page", type=int, metavar="N", help="for --impl: slots per page of its cache (default: a static one)")
    add("--inject", metavar="NAME", help="for --impl: plant this fault of --faults in the path under test")
    add("--cache", choices=(AUTO, *CACHES), help="for --hf (default auto: dynamic, or the model's own)")
    add("--scenario", choices=SCENARIOS, help="for --hf: how the cached path is fed (default steps)")
    add("--all", action="store_true", help="for --hf: every cache and scenario, in one table")
    add("--left-padded", type=int, metavar="N", help="for --hf: N more columns of padding on the left")
    add("--no-position-ids", action="store_true", help="for --hf: leave positions to the model, the classical bug")
    add("--attn-implementation", metavar="NAME", help="for --hf: what the cached path attends with, as transformers "
        "names it, or your own attention function as module:function")  # fmt: skip
    add("--module", action="append", metavar="MODULE:OBJECT", help="for --callable, repeatable: a torch model whose "
        "parts the functions run by themselves; where they call a model as a whole it is found without")  # fmt: skip
    add("--shadow", choices=GPUS, metavar="GPU", help="for --callable: run its kernels' code for sm_90, ... in float64")
    add("--api-key-env", metavar="NAME", help="for --url: the variable that holds the key (default OPENAI_API_KEY)")
    add("--timeout", type=float, metavar="S", help="for --url: seconds to wait for an answer (default 120)")
    add("--json", action="store_true", help="print one JSON record")
    add("--html", type=Path, metavar="FILE", help="write a page as well")
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options()
    args = parser.parse_args(argv)
    try:
        apply_defaults(args)
    except ValueError as error:
        parser.error(str(error))
    args.command = shlex.join(["kvproof", "verify", *(sys.argv[1:] if argv is None else argv)])
    return args


def fault_named(name: str) -> TorchFault:
    """The torch fault of that name.  Raises ValueError with the nearest names."""
    for fault in TORCH_FAULTS:
        if fault.name == name:
            return fault
    known = [fault.name for fault in TORCH_FAULTS]
    near = difflib.get_close_matches(name, known, 3, 0.4) or known
    raise ValueError(f"no fault {name!r} can be planted in torch; there are {', '.join(near)}: see --faults")


def emulation(args: argparse.Namespace) -> AbstractContextManager:
    ours = args.impl is not None and "triton" in (args.impl, args.against)
    return without_gpu() if ours and as_device(args.device).type == "cpu" else nullcontext()


def subject_of(args: argparse.Namespace) -> Any:
    """What the command compares.  Raises ValueError, ImportError or OSError where it cannot be had."""
    if args.callable is not None:
        return CallableSubject(args.callable, args.against, args.dtype, args.module, args.shadow)
    if args.logits is not None:
        return LogitsSubject(args.logits, args.dtypes, args.dtype)
    if args.url is not None:
        return served(args)
    if args.hf is not None:
        return huggingface.subject(args)
    device = as_device(args.device)
    model = load(args.model, device=device, impl="sdpa")  # for its tokenizer and sizes
    if args.context is not None:
        n_vocab = model.tokenizer.n_vocab if model.tokenizer else model.config.n_vocab
        ids = [i * 7919 % n_vocab for i in range(1, args.context + 1)]
        prompts = [ids, ids[: max(1, args.context // 2)]]
    else:
        prompts = to_ids(model, args.prompt or list(PROMPTS))
    inject = fault_named(args.inject).inject if args.inject else None
    how = {"prompts": prompts, "steps": args.steps, "device": args.device, "inject": inject, "weights": args.weights,
        "page": args.page}  # fmt: skip
    return OurSubject(args.model, args.impl, args.against or "naive", **how)


def catalogue(args: argparse.Namespace):
    faults = [describe(fault) for fault in (*FAULTS, *TORCH_FAULTS)]
    if args.json:
        print(json.dumps(faults, indent=1))
        return
    for fault in faults:
        print(f"{fault['name']:32} {fault['kind']:10} {fault['imitates']}")
        print(f"{'':32} {fault['link'] or 'no report found'}")
    print(f"\n{len(faults)} faults; --impl eager --inject NAME plants one of the kind torch in a model")


def examine(path: Path) -> int:
    """Hold the exam, print the table, keep each sitting as a JSON line.  Returns 0 if the judge made no mistake."""
    check_writable(path)
    with Progress("sittings") as line:
        sittings = []
        for sitting in exam.exam():
            sittings.append(sitting)
            line.what = f"{len(sittings)} sittings, the last {sitting.name}"
    print("\n".join(exam.table(sittings)))
    wrong = [sitting.name for sitting in sittings if sitting.called == (sitting.kind == "clean")]
    print(f"\nmistakes: {', '.join(wrong) or 'none'}", flush=True)
    exam.write(path, sittings)
    return 1 if wrong else 0


def say(found: Investigation, as_json: bool):
    """Print what was found, as text or as a JSON record."""
    if as_json:
        print(json.dumps(found.record()))
        return
    print(f"{found.verdict.verdict}: {found.name_a} against {found.name_b}, {found.numbers}\n")
    print(textwrap.fill(found.verdict.reason, 118) + "\n")
    for rung in found.verdict.rungs:
        mark = {"green": "ok ", "RED": "RED", "aside": "-- "}[rung.word]
        print(f"  {rung.dtype:9} {mark} differ by {rung.error:.2e}, gate {rung.gate:.2e}  {rung.note}".rstrip())
    if found.verdict.op is not None:
        mark = "ok " if found.verdict.op <= 1 else "RED"
        print(f"  attention {mark} {found.verdict.op:.2f} times its gate, on inputs of its own in {found.dtype}")
    d = found.verdict.difference
    if d:
        flips = f"{d.agree}/{d.of} tokens agree" + ("" if found.margins is None else
                 f", {int(found.margins.at_risk.sum())} decided narrowly enough to flip")  # fmt: skip
        print(f"\n{d.dtype}: {d.ulps:.1f} ulps, {d.relative:.1e} of the rms, KL {d.kl_max:.1e} nats at most, {flips}")
    if found.start:
        print(f"\nstarts at {found.start}")
    if found.origin:
        print(f"seen: {found.origin.seen}")
    if found.origin and found.origin.explanation:
        print(f"explains it: {found.origin.explanation}")
    for reason in found.unknown:
        print(f"not known: {reason}")
    for note in found.notes:
        print(textwrap.fill(f"note: {note}", 118, subsequent_indent="      "))
    if found.slots:
        print(f"slots: {found.slots.unread} live ones not read, {found.slots.trespassed} dead ones read")


def judged(args: argparse.Namespace) -> Investigation:
    subject = subject_of(args)
    return investigate(subject, getattr(subject, "dtype", args.dtype))  # saved logits have a dtype of their own


def main(argv: list[str] | None = None) -> int:
    """Judge.  Returns the exit code; whatever goes wrong, it is that of no verdict."""
    try:
        args = parse(argv)
        if args.faults:
            catalogue(args)
            return 0
        if args.formats or args.quantised is not None:
            return formats.run(args)
        if args.exam:
            return examine(args.exam)
        if args.html:
            check_writable(args.html)
        sys.path.insert(0, "")  # the user's own modules, as `python -m` would find them
        # What the user's own code prints stands beside the report, not in it.
        with emulation(args), Progress("judging"), redirect_stdout(sys.stderr):
            found = huggingface.judge_all(args) if args.all else judged(args)
        code = CODES.get(found.verdict.verdict if isinstance(found, Investigation) else found.word, OURS)
        try:
            say(found, args.json) if isinstance(found, Investigation) else huggingface.say_all(found, args)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough; the verdict stands
            abandon_output()
        if args.html and isinstance(found, Investigation):
            write_page(found, args)
        return code
    except BrokenPipeError:
        abandon_output()
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    except (ValueError, ImportError, OSError, CompilerFailed) as error:
        what = words(error) if isinstance(error, OSError) else str(error)
        print("kvproof verify:", " ".join(what.split()), file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        print("kvproof verify: this is an error of ours, and no verdict", file=sys.stderr)
        return OURS


def write_page(found: Investigation, args: argparse.Namespace):
    from kvproof.bench.judge.page import report  # needs matplotlib

    place = environment(as_device(args.device), kept=False)
    facts = {"Device": place["device"], "Commit": f"{place['commit']}{' with changes' * bool(place['dirty'])}"}
    facts["Packages"] = ", ".join(f"{name} {got}" for name, got in place["versions"].items() if got)
    output_file.write(args.html, report(found, args.command, facts))


if __name__ == "__main__":
    ends(main, USAGE)
