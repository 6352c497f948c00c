"""Positions of tokens, read off what positions add to the embedding, or off their rotations."""

from typing import Any

import numpy as np

from ....reference.config import Config
from ....reference.weights import nest
from .explanation import Candidate, Explanation, choose

BEYOND = 64  # positions past the last that a token may stand at


def weights_of(subject: Any) -> tuple[dict, Config] | None:
    """(params, config) of the trusted GPT-2 in float64, under the checkpoint's names; None of another model."""
    if hasattr(subject, "models"):
        return subject.models.numpy("float64")
    if hasattr(subject, "params_of"):
        return subject.params_of("float64"), subject.config
    owner = getattr(subject, "lm", subject)
    model: Any = owner.model("float64") if hasattr(owner, "model") else None
    if getattr(getattr(model, "config", None), "model_type", None) != "gpt2":
        return None
    state = {name.removeprefix("transformer."): x.double().cpu().numpy() for name, x in model.state_dict().items()}
    return nest(state), Config.from_dict(model.config.to_dict())


def explain_positions(came, right, subject: Any, parted, operation: str) -> Explanation | None:
    """At which positions tokens stand, from what positions add to the embedding, or from their rotations."""
    positions = subject.positions
    table, base = (rotations if operation == "positions" else embeddings)(right, positions, subject)
    if table is None:
        return None
    places = np.argwhere(parted)
    wanted = np.array([came[tuple(place)] - base[tuple(place)] for place in places])  # (m, E)
    far = np.array([np.abs(table - x).max(1) for x in wanted])  # (m, P)
    size = max(np.abs(came - right)[parted].max(), 1e-300)
    stand, nearest = far.argmin(1), np.sort(far, 1)
    should = positions[parted]
    words = position_words(stand, should, places[:, 0], len(positions))
    tried = [
        Candidate("positions", words, float(nearest[:, 0].max() / size)),
        Candidate("positions", "another position", float(nearest[:, 1].max() / size)),
    ]
    rms = float(np.sqrt(np.mean(np.square(right))))
    return choose(tried, float(size / (rms or 1.0)))


def embeddings(right, positions, subject: Any):
    """(P, E) what each position adds, and (B, n, E) the rest of the trusted embedding."""
    known = weights_of(subject)
    if known is None:
        return None, right
    table = np.asarray(known[0]["wpe"]["weight"], np.float64)
    return table, right - table[positions]


def rotations(right, positions, subject: Any):
    """(P, 2 D) cosines and sines of each position, going on from those that the trusted path has; and zeros."""
    if right.shape[1] < 2 or not (np.diff(positions, axis=1) == 1).all():
        return None, right
    cos, sin = np.split(right, 2, axis=-1)
    angle = np.unwrap(np.arctan2(sin[0], cos[0]), axis=0)
    step, length = (angle[-1] - angle[0]) / (len(angle) - 1), np.hypot(cos[0, 0], sin[0, 0])
    far = np.arange(int(positions.max()) + BEYOND)[:, None] - positions[0, 0]
    turned = angle[0] + far * step
    return np.concatenate([length * np.cos(turned), length * np.sin(turned)], 1), np.zeros_like(right)


def position_words(stand: np.ndarray, should: np.ndarray, rows: np.ndarray, batch: int) -> str:
    by = stand - should
    many = sorted(set(rows.tolist()))
    where = "" if len(many) == batch else f" in sequence {', '.join(map(str, many[:4]))}"
    if (by == by[0]).all():
        return f"positions are {abs(by[0])} too {'large' if by[0] > 0 else 'small'}{where}"
    if (stand == stand[0]).all():
        return f"every such token{where} stands at position {stand[0]}"
    constant = {row: set(by[rows == row].tolist()) for row in many}
    if all(len(x) == 1 for x in constant.values()):
        each = (f"by {next(iter(x)):+d} in sequence {row}" for row, x in list(constant.items())[:4])
        return f"positions are wrong {', '.join(each)}"
    pairs = ", ".join(f"{x} for {y}" for x, y in list(zip(stand.tolist(), should.tolist(), strict=True))[:4])
    return f"tokens stand at other positions: {pairs}{', …' * (len(stand) > 4)}"
