"""The investigation of a stub of a server, alone or against a trusted one."""

from functools import cache

from kvproof.bench.judge.contract.adapters import small_model
from kvproof.bench.judge.investigation import investigate
from kvproof.bench.judge.served.client import Client
from kvproof.bench.judge.served.server import Server
from kvproof.bench.judge.served.subject import ServedSubject

from ._stub import Oracle, served, text_of

TEXTS = [text_of([7, 8, 9, 10, 11]), text_of([3, 4, 5])]
STEPS = 8


@cache
def oracle(dtype="float32"):
    return Oracle(*small_model(dtype))


def judged(model, manner=None, trusted=None, dtype="float32", texts=TEXTS, steps=STEPS):
    """The investigation of a stub of that model, alone or against a trusted one."""
    with served(model, manner) as first, served(trusted or model) as second:
        servers = [Server(Client(url, timeout=30), None, texts[0]) for url in (first, second)]
        subject = ServedSubject(servers[0], servers[1] if trusted else None, texts, steps, dtype)
        return investigate(subject, dtype)
