"""CTranslate2's GPT-2 built from our weights, with its own greedy loop: it lends nobody its cache between two steps.

So it is timed in that loop, `generate_batch`, whose callback says when each token is there: the same prompts and number
of tokens, and the seconds include its own choice of tokens, a step's callback of some 40 microseconds too. Parity holds
the same loop to the oracle's tokens, by starting from texts of several lengths: the shortest prompt is prefilled in all
rows and the rest of each row is decoded from the cache under constraint, which returns the logits of every step.

It computes in float32: on a CPU its package has no bfloat16 and no float16. Int8 weights have a scale for each output
channel, the head and the embedding too, and meet activations in int8, a scale for each row. Its OpenMP has as many
threads as torch and is GNU's, which waits by spinning as torch's does, for no longer than the pause before a turn.
Source: ctranslate2.specs.TransformerDecoderModelSpec, as its converter of transformers' GPT-2 fills it.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ....reference.config import Config
from ..timing import Run
from .weights import float_weights, head_name

GREEDY = {"beam_size": 1, "sampling_topk": 1, "include_prompt_in_result": False, "end_token": []}  # none ends it
WHOLE = {"include_prompt_in_result": True}  # nothing is prefilled: each token of the prompt is a step


def specification(config: Config, tensors: dict[str, np.ndarray]) -> Any:
    """The model as ctranslate2 describes one, float32, each token called by its id."""
    from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

    activations = common_spec.Activation
    gelu = activations.GELUTanh if config.gelu == "tanh" else activations.GELU
    spec = TransformerDecoderModelSpec.from_config(config.n_layer, config.n_head, pre_norm=True, activation=gelu)

    def norm(place: Any, name: str):
        place.gamma, place.beta = tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def linear(place: Any, name: str):
        place.weight, place.bias = np.ascontiguousarray(tensors[f"{name}.weight"].T), tensors[f"{name}.bias"]

    decoder: Any = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = tensors["wte.weight"]
    decoder.position_encodings.encodings = tensors["wpe.weight"]
    decoder.projection.weight = tensors[head_name(config)]
    norm(decoder.layer_norm, "ln_f")
    for i, layer in enumerate(decoder.layer):
        norm(layer.self_attention.layer_norm, f"h.{i}.ln_1")
        linear(layer.self_attention.linear[0], f"h.{i}.attn.c_attn")
        linear(layer.self_attention.linear[1], f"h.{i}.attn.c_proj")
        norm(layer.ffn.layer_norm, f"h.{i}.ln_2")
        linear(layer.ffn.linear_0, f"h.{i}.mlp.c_fc")
        linear(layer.ffn.linear_1, f"h.{i}.mlp.c_proj")
    spec.register_vocabulary([str(i) for i in range(config.n_vocab)])
    named: Any = spec.config
    named.bos_token = named.eos_token = named.unk_token = "0"  # it wants some; none of them is looked for
    named.layer_norm_epsilon = config.layer_norm_epsilon
    return spec


@dataclass
class Model:
    generator: Any
    config: Config


@lru_cache(maxsize=1)
def generator(name: str | Path, int8: bool, threads: int) -> Model:
    """ctranslate2's Generator of the model of `load(name)`; a file of its weights stands in the temporary folder
    while it loads."""
    import ctranslate2

    config, tensors = float_weights(name)
    spec = specification(config, tensors)
    spec.validate()
    spec.optimize()
    kind = "int8_float32" if int8 else "float32"
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        made = ctranslate2.Generator(folder, "cpu", compute_type=kind, inter_threads=1, intra_threads=threads)
    if made.compute_type != kind:
        raise ValueError(f"ctranslate2 computes in {made.compute_type} on this CPU, not in {kind}; leave it out here")
    return Model(made, config)


class CTranslate2Source:
    """The model's own loop over `batch` sequences: an impls.OwnLoop."""

    note = "timed in its own loop, since it lends no single step"

    def __init__(self, model: Model, batch: int):
        self.generate, self.config, self.batch = model.generator.generate_batch, model.config, batch

    def forced_logits(self, prompts: Sequence[Sequence[int]], ids: torch.Tensor) -> torch.Tensor:
        """The logits of each of the new tokens ids (B, n), after the prompts and the ids before it -> (B, n, V)"""
        check_lengths(prompts)
        n, shortest = ids.shape[1], min(prompts, key=len)
        rows = [[*prompt, *new] for prompt, new in zip(prompts, ids.tolist(), strict=True)]
        if len(shortest) > 1:
            # One row more, which ends where the shortest prompt does: so far, and no farther, is prefilled.
            found = self.generate(words([*rows, shortest]), max_length=1, return_logits_vocab=True, **GREEDY)
        else:
            found = self.generate(words(rows), max_length=n, return_logits_vocab=True, **(GREEDY | WHOLE))
        logits = []
        for prompt, result in zip(prompts, found, strict=False):
            start = len(prompt) - len(shortest)
            logits.append([np.asarray(step) for step in result.logits[0][start : start + n]])
        return torch.from_numpy(np.array(logits))

    def timed_greedy(self, prompts: Sequence[Sequence[int]], steps: int) -> Run:
        """Decode `steps` tokens per sequence and time each, as it comes in the row of the longest prompt, which ends
        last."""
        check_lengths(prompts)
        laps: list[float] = []
        row = max(range(len(prompts)), key=lambda b: len(prompts[b]))

        def seen(result: Any) -> bool:
            if result.batch_id == row:
                laps.append(perf_counter())
            return False

        start = perf_counter()
        found = self.generate(words(prompts), max_length=steps, callback=seen, **GREEDY)
        stop = perf_counter()
        laps = [*laps[-steps:-1], stop]
        return Run(laps[0] - start, np.diff(laps).tolist(), [result.sequences_ids[0] for result in found])


def check_lengths(prompts: Sequence[Sequence[int]]):
    """Raises ValueError for a batch in which it would count tokens of the prompts among the new ones."""
    lengths = {len(prompt) for prompt in prompts}
    if min(lengths) == 1 < max(lengths):
        raise ValueError(
            f"prompts of {min(lengths)} to {max(lengths)} tokens came; beside one of a single token ctranslate2 counts "
            "the others' prompts, but for their first tokens, as new ones: leave it out here"
        )


def words(rows: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[str(i) for i in row] for row in rows]
