"""The subject of `kvproof verify --url`: its servers, of the command's options."""

import argparse
import os

from .client import Client, ServerError
from .server import Server
from .subject import ServedSubject

PROMPTS = ("Once upon a time there was a king", "ROMEO:")
STEPS = 32  # past a page of 16 slots, vLLM's
DTYPE = "bfloat16"  # what servers compute in unless told otherwise
KEY = "OPENAI_API_KEY"


def served(args: argparse.Namespace) -> ServedSubject:
    """The subject of --url and --against.  Raises ServerError for what the servers do not give."""
    variable = args.api_key_env or KEY
    key = os.environ.get(variable) or None
    if args.api_key_env and key is None:
        raise ServerError(f"--api-key-env names {variable}, which is not set; put the key in it")
    steps = STEPS if args.steps is None else args.steps
    if steps < 1:
        raise ServerError(f"--steps is {steps}; at least 1 position must be compared")
    texts = args.prompt or list(PROMPTS)
    if not all(texts):
        raise ServerError("an empty --prompt came; a server's prompt has at least one token")
    asked = ((args.url, args.model), (args.against, args.against_model))
    servers = [Server(Client(url, key, args.timeout), model, texts[0]) for url, model in asked if url is not None]
    subject = ServedSubject(servers[0], servers[1] if len(servers) > 1 else None, texts, steps, args.dtype or DTYPE)
    if args.dtype is None:
        subject.notes.insert(0, f"no --dtype came, so {DTYPE} is assumed, which can accuse and cannot clear")
    return subject
