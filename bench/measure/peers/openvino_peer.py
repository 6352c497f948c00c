"""GPT-2 as an OpenVINO graph built from our weights and run by its CPU plugin, as a Source.

One stateful graph is both prefill and step: ids, positions and a mask of M new tokens in, logits of each row's last
token out; K and V stay in the request's own state. The plugin joins ReadValue, Gather, Concat, attention and Assign of
a layer into one operation that grows the state in place, which `fused_attentions` counts: without it every step would
copy the whole cache.

Its threads are TBB's, as many as torch has and not pinned; idle ones sleep, so that nothing spins after its turn.
Source: OpenVINO's operation set 13; the graph follows reference/model.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....reference.config import Config
from .weights import float_weights, head_name, int8_rows

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
CAPABILITIES = {"bfloat16": "BF16", "float16": "FP16"}  # what the plugin calls arithmetic it has
MASKED = np.float32(-1e9)  # finite: a row of padding alone must not become NaN, which its V would carry on
ATTENTION = "ScaledDotProductAttention"  # with q, k, v and mask in, or fused with rows and the two states too


@lru_cache(maxsize=1)
def capabilities() -> tuple[str, ...]:
    """Arithmetic that the CPU plugin has on this machine, in its own words."""
    import openvino

    return tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def computes(dtype: str) -> bool:
    return dtype == "float32" or CAPABILITIES.get(dtype) in capabilities()


@dataclass
class Compiled:
    """A graph ready to run, and the sizes its inputs need."""

    model: Any
    config: Config


class Graph:
    """The operations of the graph, written as calls.

    B sequences, M new tokens, T cache slots, H heads, D head_dim, E n_embd, V vocabulary.
    """

    def __init__(self, config: Config, tensors: dict[str, np.ndarray], int8: bool):
        import openvino
        import openvino.opset13 as op

        self.config, self.tensors, self.int8, self.op = config, tensors, int8, op
        names = ("ids", "positions", "last", "rows", "mask")
        shapes = ([-1, -1], [-1, -1], [-1], [-1], [-1, 1, -1, -1])
        kinds = (np.int64, np.int64, np.int64, np.int32, np.float32)
        self.inputs = {
            name: op.parameter(openvino.PartialShape(shape), kind, name=name)
            for name, shape, kind in zip(names, shapes, kinds, strict=True)
        }
        for name, node in self.inputs.items():
            node.output(0).set_names({name})
        self.assigns = []

    def constant(self, name: str) -> Any:
        return self.op.constant(self.tensors[name], shared_memory=True)

    def matrix(self, weight: np.ndarray) -> Any:
        """A weight (n_out, n_in); in int8 as what it is dequantised by, which the plugin's products take as it is."""
        if not self.int8:
            return self.op.constant(np.ascontiguousarray(weight), shared_memory=True)
        q, scale = int8_rows(weight)
        return self.op.multiply(self.op.convert(self.op.constant(q), "f32"), self.op.constant(scale))

    def linear(self, x: Any, name: str) -> Any:
        product = self.op.matmul(x, self.matrix(self.tensors[f"{name}.weight"].T), False, True)
        return self.op.add(product, self.constant(f"{name}.bias"))

    def norm(self, x: Any, name: str) -> Any:
        axes, eps = self.op.constant(np.array([-1], np.int64)), self.config.layer_norm_epsilon
        x = self.op.mvn(x, axes, True, eps, "INSIDE_SQRT")
        return self.op.add(self.op.multiply(x, self.constant(f"{name}.weight")), self.constant(f"{name}.bias"))

    def past(self, name: str) -> tuple[Any, Any]:
        """What the state of this name holds, (B, H, T, D), empty at first; and the state, to assign to."""
        from openvino import PartialShape, Type
        from openvino.op.util import Variable, VariableInfo

        H, D = self.config.n_head, self.config.head_dim
        info = VariableInfo()
        info.data_shape, info.data_type, info.variable_id = PartialShape([-1, H, -1, D]), Type.f32, name
        variable = Variable(info)
        batch = self.op.shape_of(self.inputs["last"])
        shape = self.op.concat([batch, self.op.constant(np.array([H, 0, D], np.int64))], 0)
        empty = self.op.broadcast(self.op.constant(np.float32(0)), shape)
        # `rows` reorders the sequences, as a beam search does; it is part of the pattern that the plugin fuses.
        held = self.op.read_value(empty, variable)
        return self.op.gather(held, self.inputs["rows"], self.op.constant(np.int64(0))), variable

    def attend(self, x: Any, layer: int) -> Any:
        """x (B, M, E); appends its K and V to the layer's state."""
        op, H, D = self.op, self.config.n_head, self.config.head_dim
        qkv = self.linear(x, f"h.{layer}.attn.c_attn")
        split = op.constant(np.array([0, 0, H, D], np.int64))
        order = op.constant(np.array([0, 2, 1, 3], np.int64))
        parts = op.split(qkv, op.constant(np.int64(2)), 3)
        q, k, v = (op.transpose(op.reshape(parts.output(i), split, True), order) for i in range(3))
        whole = []
        for name, new in (("k", k), ("v", v)):
            past, variable = self.past(f"{name}.{layer}")
            whole.append(op.concat([past, new], 2))
            self.assigns.append(op.assign(whole[-1], variable))
        o = op.scaled_dot_product_attention(q, *whole, self.inputs["mask"])
        joined = op.constant(np.array([0, 0, self.config.n_embd], np.int64))
        return self.linear(op.reshape(op.transpose(o, order), joined, True), f"h.{layer}.attn.c_proj")

    def logits(self) -> Any:
        """The whole model, from ids (B, M) to logits (B, V) of the token that `last` (B,) names of each row."""
        op, axis = self.op, self.op.constant(np.int64(0))
        head = self.tensors[head_name(self.config)]
        wte = self.matrix(self.tensors["wte.weight"]) if self.int8 else self.constant("wte.weight")
        x = op.add(op.gather(wte, self.inputs["ids"], axis),
                   op.gather(self.constant("wpe.weight"), self.inputs["positions"], axis))  # fmt: skip
        gelu = "tanh" if self.config.gelu == "tanh" else "erf"
        for layer in range(self.config.n_layer):
            x = op.add(x, self.attend(self.norm(x, f"h.{layer}.ln_1"), layer))
            h = op.gelu(self.linear(self.norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc"), gelu)
            x = op.add(x, self.linear(h, f"h.{layer}.mlp.c_proj"))
        x = op.gather(x, self.inputs["last"], op.constant(np.int64(1)), 1)  # (B, E)
        tied = self.config.tie_word_embeddings
        return op.matmul(self.norm(x, "ln_f"), wte if tied else self.matrix(head), False, True)


@lru_cache(maxsize=2)  # one cell needs two at most: half precision is held to float32 as well
def compiled(name: str | Path, dtype: str, int8: bool, threads: int) -> Compiled:
    """The model of `load(name)`, compiled for the CPU.

    dtype    float32 | bfloat16 | float16: of products and of the cache, whose default would be 8 bits
    int8     weights are symmetric int8 with a scale for each output channel, the head and the embedding too
    threads  of its pool

    Raises RuntimeError if the plugin does not keep the cache in place.
    """
    import openvino

    config, tensors = float_weights(name)
    graph = Graph(config, tensors, int8)
    kind: Any = openvino.Model
    model = kind([graph.op.result(graph.logits())], graph.assigns, list(graph.inputs.values()), "gpt2")
    precision = PRECISIONS[dtype]
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
    }
    made = openvino.Core().compile_model(model, "CPU", settings)
    found = fused_attentions(made)
    if found != config.n_layer:
        raise RuntimeError(
            f"openvino joined {found} of {config.n_layer} layers' caches; steps of the others would copy"
        )
    return Compiled(made, config)


def fused_attentions(made: Any) -> int:
    """How many layers the plugin runs with their cache in place."""
    ops = made.get_runtime_model().get_ops()
    return sum(op.get_rt_info()["layerType"].value == ATTENTION and op.get_input_size() == 7 for op in ops)


class OpenVinoSource:
    """The graph with a state of its own, for `batch` sequences. Prompts of several lengths are padded on the left."""

    def __init__(self, compiled: Compiled, batch: int):
        self.config, self.batch = compiled.config, batch
        self.request = compiled.model.create_infer_request()
        self.rows = np.arange(batch, dtype=np.int32)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """B prompts, from an empty state -> logits (B, V)"""
        self.request.reset_state()
        lengths = np.array([len(prompt) for prompt in prompts])
        self.filled = int(lengths.max())
        self.padding = self.filled - lengths  # (B,)
        ids = np.zeros((self.batch, self.filled), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[self.filled - len(prompt) :] = prompt
        return self._run(ids)

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """The newest token of each row, (B,) -> logits (B, V)"""
        self.filled += 1
        return self._run(np.ascontiguousarray(ids.numpy()[:, None]))

    def _run(self, ids: np.ndarray) -> torch.Tensor:
        """Pass on the newest tokens of each row, (B, M) -> logits (B, V)"""
        M = ids.shape[1]
        slots, newest = np.arange(self.filled), np.arange(self.filled - M, self.filled)
        seen = (slots >= self.padding[:, None, None]) & (slots <= newest[:, None])  # (B, M, T)
        feeds = {
            "ids": ids,
            "positions": np.maximum(newest - self.padding[:, None], 0),
            "last": np.full(self.batch, M - 1),
            "rows": self.rows,
            "mask": np.where(seen, np.float32(0), MASKED)[:, None],
        }
        self.request.infer(feeds, share_inputs=True)
        return torch.from_numpy(self.request.get_output_tensor(0).data.copy())
