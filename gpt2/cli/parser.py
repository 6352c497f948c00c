"""The command line's parser: every command, its options and its help."""

import argparse
from functools import partial
from importlib.metadata import entry_points, version

from ..arguments import IMPLS, KV_DTYPES, WEIGHTS
from ..impls import AUTO
from ..weights import DTYPES

EXIT_CODES = """\
exit codes:
  0    done, or the reader of the output closed the pipe
  1    failed while running: disk full, out of memory, NaN in the logits
  2    wrong call: an option, a file or a model's name; one line on standard error gives the fix
  130  Ctrl-C

`kvproof verify` has exit codes of its own. `kvproof COMMAND --help` lists a command's options, with examples."""

MODEL = (
    '"tiny" (trained, in the package), "gpt2" or "owner/name" (downloaded once from the hub), "random:gpt2" (that size '
    "with random weights), a folder or a file (default %(default)s)"
)
# Commands of other parts, which gpt2/ must not import.
BROUGHT = {"verify": "find out whether two paths to the same logits differ by rounding or by a bug"}


class Parser(argparse.ArgumentParser):
    """A parser whose help keeps its line breaks and whose errors are one line."""

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
        description="GPT-2 with a tested and measured KV cache: text, logits and perplexity from any checkpoint.",
        epilog=EXIT_CODES,
    )
    top.add_argument("--version", action="version", version=f"kvproof {version('kvproof')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add_command in (add_generate, add_batch, add_logits, add_tokenize, add_perplexity, add_info, add_download):
        add_command(commands)
    for brought in entry_points(group="kvproof.commands"):  # __main__ runs these before it asks this parser
        commands.add_parser(brought.name, help=BROUGHT.get(brought.name), add_help=False)
    return top


def add_model(command: argparse.ArgumentParser):
    """--model, --impl, --device, --dtype and --weights."""
    add = command.add_argument
    add("--model", default="tiny", help=MODEL)
    text = "how it decodes (default %(default)s: numba on a CPU where it can run, else sdpa)"
    add("--impl", choices=(AUTO, *IMPLS), default=AUTO, help=text)
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default %(default)s)")
    add("--dtype", choices=DTYPES, default="float32", help="dtype of weights and cache (default %(default)s)")
    add_weights(command)


def add_weights(command: argparse.ArgumentParser):
    """--weights."""
    text = "int8: hold the matrices in 8 bits, a scale per output channel (default: in --dtype)"
    command.add_argument("--weights", choices=WEIGHTS, help=text)


def add_sampling(gen: argparse.ArgumentParser):
    """The choice of the next token, and the end of a text."""
    add = gen.add_argument
    add("--temperature", type=float, metavar="T", default=0.0, help="0 is greedy (default %(default)s)")
    add("--top-k", type=int, metavar="K", help="sample from the K most probable tokens")
    add("--top-p", type=float, metavar="P", help="sample from the most probable tokens whose probabilities add up to P")
    add("--seed", type=int, metavar="N", help="the same seed gives the same text (default: a new seed each time)")
    add("--stop", action="append", default=[], metavar="TEXT", help="end the text before this string; repeatable")


def add_generate(commands):
    gen = commands.add_parser(
        "generate",
        help="continue prompts",
        description="Continue prompts. The text goes to standard output as it is decoded, the times to standard error.",
        epilog="""\
examples:
  kvproof generate --prompt "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 1
  kvproof generate --prompt "ROMEO:" --prompt "JULIET:" --batch 2 --json | jq .text
  kvproof generate --prompt-file prompts.txt --batch 16 --output texts.jsonl
  kvproof generate --unconditional --temperature 1 --max-tokens 50

A prompt file has one prompt per line, or is JSONL with a "prompt" field; blank lines are skipped. The results are JSONL
in input order. With --output they are on the disk as they are done: after a kill the same command resumes where the
file ends, and refuses other weights or options. With --seed, prompt i draws from its own stream (seed, i), whatever the
batch.""",
    )
    source = gen.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", metavar="TEXT", help="text to continue; repeatable")
    source.add_argument("--prompt-file", metavar="FILE", help='file of prompts; "-" is standard input')
    source.add_argument("--unconditional", action="store_true", help="start from the end-of-text token alone")
    add_special(gen)
    add_model(gen)
    add = gen.add_argument
    add("--max-tokens", type=int, metavar="N", default=100, help="new tokens, at most (default %(default)s)")
    add_sampling(gen)
    switch = argparse.BooleanOptionalAction
    add("--kv-cache", action=switch, default=True, help="--no-kv-cache recomputes the text for each token")
    add("--batch", type=int, metavar="N", default=8, help="prompts at once (default %(default)s)")
    add("--stream", action=switch, default=True, help="--no-stream prints each text when it is complete")
    add("--json", action="store_true", help="one JSON object per prompt instead of text")
    add("--output", metavar="FILE", help="file for the results of --prompt-file (default standard output)")


def add_batch(commands):
    batch = commands.add_parser(
        "batch",
        help="complete a file of OpenAI batch requests",
        description="Complete the requests of a JSONL file, in the form of OpenAI's batch API, and write a line for\n"
        "each, in input order. A line that cannot be answered becomes an error row, and the job goes on.",
        epilog="""\
examples:
  kvproof batch in.jsonl out.jsonl --model gpt2
  kvproof batch in.jsonl out.jsonl --model gpt2 --ray --workers 2

A line of in.jsonl:
  {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "ROMEO:", "max_tokens": 20}}

After a kill the same command goes on where out.jsonl ends. Lines may be appended to in.jsonl; another job's results
are refused. The bytes of out.jsonl depend on the requests, the model and the options down to --allow-special, not on
--running, --blocks, --page, --draft or --ray. Error rows do not change the exit code; the last line on standard error
counts them. For the fields of a request see gpt2/jobs/README.md in kvproof's repository.""",
    )
    add = batch.add_argument
    add("input", metavar="IN", help='requests, one JSON object per line; "-" is standard input, read to its end first')
    add("output", metavar="OUT", nargs="?", help='results, resumed if there; "-" is standard output (the default)')
    add_model(batch)
    add("--kv-dtype", choices=KV_DTYPES, help="int8: hold keys and values in 8 bits (default: in --dtype)")
    add("--seed", type=int, metavar="N", default=0, help="for requests without a seed (default %(default)s)")
    add_special(batch)
    add("--running", type=int, metavar="N", default=32, help="sequences at once (default %(default)s)")
    add("--blocks", type=int, metavar="N", help="blocks of the KV cache (default: up to 1 GiB of them)")
    add("--page", type=int, metavar="N", default=16, help="tokens per block (default %(default)s)")
    add("--draft", type=int, metavar="N", default=0, help="tokens to draft by prompt lookup (default 0: none)")
    text = "where drafts are looked up: the request itself, or all (default %(default)s)"
    add("--draft-from", choices=("request", "all"), default="request", help=text)
    text = 'run on Ray: a cluster at "auto" or HOST:PORT, or without ADDRESS a Ray of this machine, stopped at the end'
    add("--ray", nargs="?", const="", metavar="ADDRESS", help=text)
    add("--workers", type=int, metavar="N", help="with --ray: models and engines side by side (default 1)")
    add("--threads", type=int, metavar="N", help="with --ray: cores of each (default: 1; its share without ADDRESS)")


def add_special(command: argparse.ArgumentParser):
    """--allow-special."""
    command.add_argument(
        "--allow-special", action="store_true", help="read <|endoftext|> in a text as that token, not as letters"
    )


def add_logits(commands):
    logits = commands.add_parser(
        "logits",
        help="write the logits after each token to a NumPy file",
        description="Write the logits (T, V) after each of T tokens: float64 with --dtype float64, else float32.\n"
        "The first token is prefilled and the others decoded; --impl naive computes all at once, without a cache.",
        epilog="example:\n  kvproof logits --ids \"$(kvproof tokenize 'Once upon a time')\" --impl triton --out x.npy",
    )
    add = logits.add_argument
    add("--ids", required=True, help="token ids, separated by commas or white space")
    add("--out", required=True, metavar="FILE", help=".npy file to write")
    add_model(logits)


def add_tokenize(commands):
    tokenize = commands.add_parser(
        "tokenize",
        help="convert text to token ids and back",
        description="Print the token ids of a text on one line, separated by commas; with --decode the text of ids.",
        epilog="examples:\n  kvproof tokenize 'Once upon a time' --model random:gpt2\n"
        "  kvproof tokenize --file a.txt | kvproof tokenize --decode --file -",
    )
    source = tokenize.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="the text; with --decode the ids")
    source.add_argument("--file", help='read the text from a file; "-" is standard input')
    add = tokenize.add_argument
    add("--decode", action="store_true", help="convert ids, separated by commas or white space, to text, byte for byte")
    add_special(tokenize)
    add("--model", default="tiny", help="model whose tokenizer is used: " + MODEL)


def add_perplexity(commands):
    perplexity = commands.add_parser(
        "perplexity",
        help="measure the perplexity of a text",
        description="Cross-entropy of a text in nats per token, and its perplexity. A window slides over the text.",
        epilog="example:\n  kvproof perplexity --file tale.txt --stride 512\n\n"
        "Each token is scored once, with at least window - stride tokens before it (fewer at the start of the text).",
    )
    add = perplexity.add_argument
    add("--file", required=True, help='the text, in UTF-8; "-" is standard input')
    add("--stride", type=int, metavar="N", help="tokens from one window to the next (default half a window)")
    add("--window", type=int, metavar="N", help="tokens in a window (default the model's context)")
    add("--json", action="store_true", help="one JSON object instead of a line")
    add_model(perplexity)


def add_info(commands):
    info = commands.add_parser(
        "info",
        help="show a model's sizes and memory",
        description="Show a model's config, parameters, bytes of weights and of cache per token, and the files that\n"
        "its weights, head, end tokens and vocabulary come from; and the impl that decodes it by default on this CPU.",
        epilog="example:\n  kvproof info random:gpt2-xl --dtype bfloat16",
    )
    add = info.add_argument
    add("model", metavar="MODEL", help=MODEL.removesuffix(" (default %(default)s)"))
    add("--dtype", choices=DTYPES, default="float32", help="of weights and cache (default %(default)s)")
    add_weights(info)
    add("--json", action="store_true", help="one JSON object instead of lines")


def add_download(commands):
    download = commands.add_parser(
        "download",
        help="download a model from the hub",
        description="Download a model's files from the hub into its cache or into a folder, and print where they are.",
        epilog="example:\n"
        "  kvproof download gpt2 ./gpt2-124m && kvproof generate --model ./gpt2-124m --prompt 'Hello'\n\n"
        "Reads HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE; needs no token.",
    )
    add = download.add_argument
    add("name", metavar="NAME", help='"gpt2", "distilgpt2", "owner/name"; each may end in @REVISION')
    add("folder", metavar="FOLDER", nargs="?", help="folder to write (default the hub's cache)")
