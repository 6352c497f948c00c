"""The subject of `kvproof verify --url`: its servers, of the command's options."""

import argparse
import os
import re
import urllib.parse

from .client import KEY, Client, ServerError
from .server import Server
from .subject import ServedSubject

PROMPTS = ("Once upon a time there was a king", "ROMEO:")
STEPS = 32  # past a page of 16 slots, vLLM's
DTYPE = "bfloat16"  # what servers compute in unless told otherwise


def key_of(named: str | None) -> tuple[str, str | None]:
    """(the variable of the API key, the key); None where no variable was named and the usual one is not set.

    Raises ServerError for a named one that is not set, and for what is no variable's name: it may be the key itself.
    """
    variable = KEY if named is None else named
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise ServerError("--api-key-env takes the name of the variable that holds the key, such as OPENAI_API_KEY")
    key = os.environ.get(variable) or None
    if key is None and named is not None:
        raise ServerError(f"--api-key-env names {variable}, which is not set; put the key in it")
    return variable, key


def place(url: str) -> tuple[str, int, str]:
    """(host, port, path) of a server's address, one for all ways of writing it."""
    parts = urllib.parse.urlsplit(url)
    host, usual = parts.hostname or "", {"http": 80, "https": 443}[parts.scheme]
    return "127.0.0.1" if host == "localhost" else host, parts.port or usual, parts.path.rstrip("/")


def served(args: argparse.Namespace) -> ServedSubject:
    """The subject of --url and --against.  Raises ServerError for what the servers do not give."""
    variable, key = key_of(args.api_key_env)
    steps = STEPS if args.steps is None else args.steps
    if steps < 1:
        raise ServerError(f"--steps is {steps}; at least 1 position must be compared")
    texts = args.prompt or list(PROMPTS)
    if not all(texts):
        raise ServerError("an empty --prompt came; a server's prompt has at least one token")
    asked = ((args.url, args.model), (args.against, args.against_model))
    clients = [(Client(url, key, args.timeout, variable), model) for url, model in asked if url is not None]
    servers = [Server(client, model, texts[0]) for client, model in clients]
    if len({(place(server.client.url), server.model) for server in servers}) < len(servers):
        raise ServerError(
            f"--url and --against are one server of one model ({servers[0].client.url}, {servers[0].model}), so that "
            "they can but agree; name another, or leave --against out to hold its decode to its prefill"
        )
    subject = ServedSubject(servers[0], servers[1] if len(servers) > 1 else None, texts, steps, args.dtype or DTYPE)
    if args.dtype is None:
        subject.notes.insert(0, f"no --dtype came, so {DTYPE} is assumed, which can accuse and cannot clear")
    return subject
