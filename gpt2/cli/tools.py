"""The commands beside `generate`: logits, tokenize, perplexity, info, download."""

import argparse
import io
import json
import math
import re
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ...reference.config import Config
from ...reference.synthetic import SIZES, random_config
from ...reference.weights import expected_shapes, read_config
from ..checkpoint.generation_config import with_end_tokens
from ..checkpoint.hub_cache import CONFIG
from ..generate import Cached, forced_logits
from ..impls import AUTO, resolve_impl
from ..int8_weights import int8_bytes
from ..model import GPT2
from ..perplexity import sliding_nll
from ..tokenizer import Tokenizer, find_tokenizer, gpt2_tokenizer
from ..weights import as_dtype, checkpoint, load
from . import output_file
from .generate import emulated, load_model
from .origins import describe, describe_text
from .progress import Progress


def parse_ids(text: str) -> list[int]:
    """Ids separated by commas, spaces or line ends.  Raises ValueError for anything but whole numbers, or none."""
    words = [word for word in re.split(r"[,\s]+", text) if word]
    wrong = [word for word in words if not re.fullmatch(r"-?[0-9]+", word)]
    if wrong or not words:
        came = f"{wrong[0][:40]!r} came" if wrong else "none came"
        raise ValueError(f"token ids are whole numbers separated by commas or white space, like 1,2,3; {came}")
    return [int(word) for word in words]


def step_logits(model: GPT2, ids: list[int]) -> np.ndarray:
    """Logits (T, V) after each of T ids: the first prefilled, the others decoded; the impl "naive" takes all at once.

    returns  float64 for a float64 model, else float32
    """
    model.check_prompts([ids])
    if model.impl == "naive":
        with torch.no_grad():
            logits = model(torch.tensor([ids], device=model.device))[0]
    else:
        cache = model.new_cache(1, len(ids))
        source = Cached(model, cache, step=partial(model.decode, cache=cache))
        logits = forced_logits(source, [ids[:1]], torch.tensor([[*ids[1:], 0]]))[0]  # the last one is not fed
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).cpu().numpy()


def run_logits(args: argparse.Namespace):
    ids = parse_ids(args.ids)
    output_file.check_writable(args.out)
    with emulated(args):
        model = load_model(args)
        logits = step_logits(model, ids)
    npy = io.BytesIO()
    np.save(npy, logits)
    output_file.write(args.out, npy.getvalue())
    print(f"{args.out}: logits {logits.shape} {logits.dtype}, by {model.impl}", file=sys.stderr)


def read_bytes(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()


def find_config(name: str) -> tuple[Config, dict[str, str]]:
    """A model's config and the origin of its parts; reads no weights if it need not."""
    path = name if name in SIZES else checkpoint(name)
    if isinstance(path, Path):
        return describe(path)
    config, origin = random_config(path), {"config_from": "the published sizes", "weights_from": "random numbers"}
    if name in SIZES:  # as all the published config.json have it
        config = replace(config, eos_token_id=gpt2_tokenizer().eot)
        origin = {"config_from": "the published sizes; no file was read"}
    return config, origin | describe_text(config, gpt2_tokenizer())


def tokenizer_of(name: str) -> Tokenizer:
    """A model's tokenizer; reads no weights if it need not.  Raises ValueError if it has none."""
    if name.removeprefix("random:") in SIZES:
        return gpt2_tokenizer()
    path = Path(checkpoint(name))
    folder = path if path.is_dir() else path.parent
    if (folder / CONFIG).is_file():
        found = find_tokenizer(folder, with_end_tokens(read_config(folder / CONFIG), folder)[0])
    else:
        found = load(name, impl="naive").tokenizer
    if found is None:
        raise ValueError(f"model {name!r} has no tokenizer; put its merges.txt or vocab.bpe beside its weights")
    return found


def run_tokenize(args: argparse.Namespace):
    tokenizer = tokenizer_of(args.model)
    if args.decode:
        text = args.text if args.file is None else read_bytes(args.file).decode("ascii", errors="replace")
        sys.stdout.flush()
        sys.stdout.buffer.write(tokenizer.decode_bytes(parse_ids(text)))
        sys.stdout.buffer.flush()
    else:
        text = args.text if args.file is None else read_bytes(args.file)
        print(",".join(map(str, tokenizer.encode(text, special=args.allow_special))))


def run_perplexity(args: argparse.Namespace):
    data = read_bytes(args.file)
    model = load_model(args)
    if model.tokenizer is None:
        raise ValueError(f"model {args.model!r} has no tokenizer; put its merges.txt beside its weights")
    ids = model.tokenizer.encode(data)
    with emulated(args), Progress("tokens", len(ids)) as line:
        total, count = sliding_nll(model, ids, args.stride, args.window, line.update)
    mean = total / count
    perplexity = math.exp(mean) if mean < 700 else math.inf
    if args.json:
        print(json.dumps({"nats_per_token": mean, "perplexity": perplexity, "tokens_scored": count}))
    else:
        print(f"{mean:.6f} nats per token, perplexity {perplexity:.4f}, {count} of {len(ids)} tokens scored")


def run_info(args: argparse.Namespace):
    config, origin = find_config(args.model)
    dtype = as_dtype(args.dtype)
    width = dtype.itemsize
    parameters = sum(math.prod(shape) for shape in expected_shapes(config).values())
    cache = 2 * config.n_layer * config.n_embd * width  # K and V of every layer
    facts = asdict(config) | {"head_dim": config.head_dim, "parameters": parameters, "dtype": args.dtype}
    facts |= {"quantised": args.weights} if args.weights else {}
    held = int8_bytes(config, width) if args.weights else parameters * width
    facts |= {"weight_bytes": held, "cache_bytes_per_token": cache}
    facts["cache_bytes_full_context"] = cache * config.n_ctx
    facts["impl"] = resolve_impl(AUTO, torch.device("cpu"), dtype, args.weights)
    if args.json:
        print(json.dumps({"model": args.model} | facts | {"origin": origin}))
    else:
        for name, value in (facts | origin).items():
            print(f"{name:26}{value:,}" if type(value) is int else f"{name:26}{value}")


def run_download(args: argparse.Namespace):
    from ..hub import fetch

    print(fetch(args.name, Path(args.folder) if args.folder else None))
