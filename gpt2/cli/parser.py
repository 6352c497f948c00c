"""What the command line takes: every command, its options and its help."""

import argparse
from functools import partial
from importlib.metadata import entry_points, version

# As gpt2/attention.py and gpt2/weights.py have them, whose import would bring torch; a test compares.
IMPLS = ("naive", "eager", "sdpa", "triton")
DTYPES = ("float64", "float32", "float16", "bfloat16")

EXIT_CODES = """\
exit codes:
  0    done; also when whoever reads the output has enough and closes the pipe
  1    the work failed under way: disk full, out of memory, NaN in the logits
  2    a mistake in the call: an option, a file, a model's name; one line on standard error says what to do
  130  Ctrl-C

`kvproof verify` judges whether two paths differ by rounding or by a bug; its exit codes are its own.

Run `kvproof COMMAND --help` for the options and an example of each."""

MODEL = (
    '"tiny" (trained, in the package), "gpt2" or "owner/name" (fetched from the hub once), "random:gpt2" (that size, '
    "random weights), a folder or a file (default %(default)s)"
)


BROUGHT = {"verify": "whether two paths to the same logits differ by rounding or by a bug"}


class Parser(argparse.ArgumentParser):
    """A parser whose help keeps its line breaks, and which tells a mistake in one line."""

    def __init__(self, *args, **options):
        layout = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        super().__init__(*args, allow_abbrev=False, formatter_class=layout, **options)

    def error(self, message):
        if "expected one argument" in message:
            message += ' (a value that begins with "-" is written --option=-value)'
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line; args.command names the command."""
    top = Parser(
        prog="kvproof",
        description="GPT-2 with a KV cache that is proved and measured: text, logits and numbers from any checkpoint.",
        epilog=EXIT_CODES,
    )
    top.add_argument("--version", action="version", version=f"kvproof {version('kvproof')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (add_generate, add_logits, add_tokenize, add_perplexity, add_info, add_download):
        add(commands)
    for brought in entry_points(group="kvproof.commands"):  # by another part, which answers before this parser is asked
        commands.add_parser(brought.name, help=BROUGHT.get(brought.name), add_help=False)
    return top


def add_model(command: argparse.ArgumentParser):
    """--model and how to run it."""
    command.add_argument("--model", default="tiny", help=MODEL)
    command.add_argument(
        "--impl", choices=IMPLS, default="sdpa", help="the decode step's attention (default %(default)s)"
    )
    command.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default %(default)s)")
    command.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of weights and cache (default %(default)s)"
    )


def add_sampling(gen: argparse.ArgumentParser):
    """How the next token is chosen, and what ends a text."""
    gen.add_argument("--temperature", type=float, metavar="T", default=0.0, help="0 is greedy (default %(default)s)")
    gen.add_argument("--top-k", type=int, metavar="K", help="sample among the k likeliest tokens")
    gen.add_argument(
        "--top-p", type=float, metavar="P", help="sample among the likeliest tokens that together have probability p"
    )
    gen.add_argument(
        "--seed", type=int, metavar="N", help="the same seed gives the same text (default: another each time)"
    )
    gen.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="a string that ends the text, which is cut before it; repeatable",
    )


def add_generate(commands):
    gen = commands.add_parser(
        "generate",
        help="continue a prompt, several, or a file of them",
        description="Continue prompts: the text on standard output as it is decoded, the times on standard error.",
        epilog="""\
examples:
  kvproof generate --prompt "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 1
  kvproof generate --prompt "ROMEO:" --prompt "JULIET:" --batch 2 --json | jq .text
  kvproof generate --prompt-file prompts.txt --batch 16 --output texts.jsonl
  kvproof generate --unconditional --temperature 1 --max-tokens 50

A prompt file has one prompt per line, or is JSONL with a "prompt" field; blank lines are skipped. Its results are JSONL
in input order. With --output every batch is on the disk before the next one begins: after a kill the same command goes
on where the file ends; other weights or options than it was begun with are refused. With --seed, prompt i draws from
its own stream (seed, i), whatever the batch.""",
    )
    source = gen.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", metavar="TEXT", help="the text to continue; repeatable")
    source.add_argument("--prompt-file", metavar="FILE", help='prompts from a file; "-" is standard input')
    source.add_argument(
        "--unconditional", action="store_true", help="no prompt: start from the end-of-text token alone"
    )
    add_special(gen)
    add_model(gen)
    gen.add_argument(
        "--max-tokens", type=int, metavar="N", default=100, help="at most this many new tokens (default %(default)s)"
    )
    add_sampling(gen)
    switch = argparse.BooleanOptionalAction
    gen.add_argument("--kv-cache", action=switch, default=True, help="without, everything is recomputed per token")
    gen.add_argument(
        "--batch", type=int, metavar="N", default=8, help="prompts computed together (default %(default)s)"
    )
    gen.add_argument("--stream", action=switch, default=True, help="without, a text is printed once it is whole")
    gen.add_argument("--json", action="store_true", help="one JSON object per prompt instead of text")
    gen.add_argument("--output", metavar="FILE", help="where --prompt-file's results go (default standard output)")


def add_special(command: argparse.ArgumentParser):
    """Whether a text may hold the token that ends one."""
    command.add_argument(
        "--allow-special", action="store_true", help="<|endoftext|> in a text is that token, not its letters"
    )


def add_logits(commands):
    logits = commands.add_parser(
        "logits",
        help="the logits after each token, as a NumPy file",
        description="Logits (T, V) after each of T tokens: the first one prefilled, the others by the decode step;\n"
        "with --impl naive all at once, without a cache. float32, or float64 with --dtype float64.",
        epilog="example:\n  kvproof logits --ids \"$(kvproof tokenize 'Once upon a time')\" --impl triton --out x.npy",
    )
    logits.add_argument("--ids", required=True, help="token ids, separated by commas or white space")
    logits.add_argument("--out", required=True, metavar="FILE", help="the .npy file to write")
    add_model(logits)


def add_tokenize(commands):
    tokenize = commands.add_parser(
        "tokenize",
        help="text to token ids, and back",
        description="The token ids of a text, separated by commas, on one line; with --decode the text of ids.",
        epilog="examples:\n  kvproof tokenize 'Once upon a time' --model random:gpt2\n"
        "  kvproof tokenize --file a.txt | kvproof tokenize --decode --file -",
    )
    source = tokenize.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="the text, or the ids with --decode")
    source.add_argument("--file", help='read it from a file; "-" is standard input')
    tokenize.add_argument(
        "--decode",
        action="store_true",
        help="ids, separated by commas or white space, to text: byte for byte, no line end added",
    )
    add_special(tokenize)
    tokenize.add_argument("--model", default="tiny", help="whose tokenizer: " + MODEL)


def add_perplexity(commands):
    perplexity = commands.add_parser(
        "perplexity",
        help="how well a model foretells a text",
        description="Nats per token and perplexity of a text, by a window as long as the context that slides over it.",
        epilog="example:\n  kvproof perplexity --file tale.txt --stride 512\n\n"
        "Each token is scored once, with at least window - stride tokens before it (fewer at the start of the text).",
    )
    perplexity.add_argument("--file", required=True, help='the text, UTF-8; "-" is standard input')
    perplexity.add_argument(
        "--stride", type=int, metavar="N", help="tokens the window moves on (default half a window)"
    )
    perplexity.add_argument("--window", type=int, metavar="N", help="tokens seen at once (default the model's context)")
    perplexity.add_argument("--json", action="store_true", help="one JSON object instead of a line")
    add_model(perplexity)


def add_info(commands):
    info = commands.add_parser(
        "info",
        help="a model's sizes and memory",
        description="A model's config, parameters, bytes of weights and of cache per token, and which of its files\n"
        "the weights, the head, the end tokens and the vocabulary are taken from.",
        epilog="example:\n  kvproof info random:gpt2-xl --dtype bfloat16",
    )
    info.add_argument("model", metavar="MODEL", help=MODEL.removesuffix(" (default %(default)s)"))
    info.add_argument("--dtype", choices=DTYPES, default="float32", help="of weights and cache (default %(default)s)")
    info.add_argument("--json", action="store_true", help="one JSON object instead of lines")


def add_download(commands):
    download = commands.add_parser(
        "download",
        help="fetch a model from the hub once",
        description="Fetch a model's files from the hub, into its cache or into a folder, and print where they are.",
        epilog="example:\n"
        "  kvproof download gpt2 ./gpt2-124m && kvproof generate --model ./gpt2-124m --prompt 'Hello'\n\n"
        "HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured; no token is needed.",
    )
    download.add_argument("name", metavar="NAME", help='"gpt2", "distilgpt2", "owner/name"; each may end in @REVISION')
    download.add_argument("folder", metavar="FOLDER", nargs="?", help="where to put it (default the hub's cache)")
