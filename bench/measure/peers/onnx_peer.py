"""GPT-2 as an ONNX graph built from our weights and run by onnxruntime on the CPU, as a Source.

One graph is both prefill and step: ids and positions of M new tokens in, K and V appended in place, logits of each
row's last token out. Attention is onnxruntime's own GroupQueryAttention, which its onnxruntime-genai decodes with: it
takes c_attn's output as it is, and rows of any length without a mask.

Int8 weights go to DynamicQuantizeMatMul, what `quantize_dynamic` makes of a graph for this CPU: symmetric, a scale for
each output channel, and activations in 8 bits, a scale and a zero point for each call. Of what onnxruntime has it is
the quickest: MatMulNBits with 8 bits took 1.1 (blocks of 256) to 1.7 times (of 32) as long a step in 124M, batch 1 and
8. The embedding is int8 too, and has the head's rows where the head is tied.
Source: onnxruntime's ContribOperators.md; the graph follows reference/model.py.
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

OPSET = 20  # the first with Gelu
DOMAIN = "com.microsoft"


@dataclass
class Session:
    """A graph ready to run: onnxruntime's session, and the sizes its inputs need."""

    run: Any
    config: Config


class Graph:
    """Nodes of an ONNX graph, written as calls; every tensor goes by its name.

    tensors  the weights by canonical name, float32; with int8 the graph puts what it uses in place of the matrices

    B sequences, M new tokens, T cache slots, H heads, D head_dim, E n_embd, V vocabulary; R = B·M.
    """

    def __init__(self, config: Config, tensors: dict[str, np.ndarray], int8: bool):
        from onnx import helper

        self.config, self.tensors, self.int8, self.make, self.nodes = config, tensors, int8, helper, []

    def op(self, kind: str, *inputs: str, outputs: Sequence[str] = (), domain: str = "", **attributes) -> str:
        """Add a node; returns its first output's name."""
        outputs = list(outputs) or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(self.make.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def linear(self, x: str, name: str) -> str:
        if not self.int8:
            return self.op("Add", self.op("MatMul", x, f"{name}.weight"), f"{name}.bias")
        rows, scale = int8_rows(self.tensors.pop(f"{name}.weight").T)
        self.tensors |= {f"{name}.q": np.ascontiguousarray(rows.T), f"{name}.scale": scale[:, 0]}
        return self.quantised(x, name, f"{name}.bias")

    def quantised(self, x: str, name: str, *bias: str, outputs: Sequence[str] = ()) -> str:
        """x times the (n_in, n_out) that `name`.q and `name`.scale stand for; no zero point."""
        inputs = (x, f"{name}.q", f"{name}.scale", "", *bias)
        return self.op("DynamicQuantizeMatMul", *inputs, outputs=outputs, domain=DOMAIN)

    def embed(self) -> str:
        """ids (B, M) -> (B, M, E), their rows of wte"""
        if not self.int8:
            return self.op("Gather", "wte.weight", "ids")
        self.tensors["wte.rows"], self.tensors["wte.scales"] = int8_rows(self.tensors["wte.weight"])
        rows = self.op("Cast", self.op("Gather", "wte.rows", "ids"), to=1)  # float32
        return self.op("Mul", rows, self.op("Gather", "wte.scales", "ids"))

    def head(self, x: str):
        """x (B, E) -> the output "logits" (B, V)"""
        head = head_name(self.config)
        if not self.int8:
            self.op("Gemm", x, head, outputs=["logits"], transB=1)
            return
        rows, scale = int8_rows(self.tensors[head])
        self.tensors |= {"head.q": np.ascontiguousarray(rows.T), "head.scale": scale[:, 0]}
        self.quantised(x, "head", outputs=["logits"])
        for name in {head, "wte.weight"}:
            del self.tensors[name]

    def norm(self, x: str, name: str) -> str:
        epsilon = self.config.layer_norm_epsilon
        return self.op("LayerNormalization", x, f"{name}.weight", f"{name}.bias", axis=-1, epsilon=epsilon)

    def attend(self, x: str, layer: int) -> str:
        """x (B, M, E); appends its K and V to the layer's cache, which is input and output in one."""
        qkv = self.linear(x, f"h.{layer}.attn.c_attn")  # (B, M, 3E)
        H = self.config.n_head
        o = self.op(
            "GroupQueryAttention", qkv, "", "", f"past_k.{layer}", f"past_v.{layer}", "seqlens", "longest",
            outputs=[f"o.{layer}", f"k.{layer}", f"v.{layer}"], domain=DOMAIN, num_heads=H, kv_num_heads=H,
        )  # fmt: skip
        return self.linear(o, f"h.{layer}.attn.c_proj")

    def logits(self):
        """The whole model, from ids (B, M) and positions (B, M) to logits (B, V) of the rows that `last` names."""
        config = self.config
        x = self.op("Add", self.embed(), self.op("Gather", "wpe.weight", "positions"))
        for layer in range(config.n_layer):
            x = self.op("Add", x, self.attend(self.norm(x, f"h.{layer}.ln_1"), layer))
            h = self.linear(self.norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
            h = self.op("Gelu", h, approximate="tanh" if config.gelu == "tanh" else "none")
            x = self.op("Add", x, self.linear(h, f"h.{layer}.mlp.c_proj"))
        self.head(self.norm(self.op("Gather", self.op("Reshape", x, "rows"), "last"), "ln_f"))


def onnx_model(config: Config, tensors: dict[str, np.ndarray], int8: bool) -> Any:
    """The graph with its weights named and shaped but left out: a file could not hold 2 GB of them.

    tensors  float32 by canonical name; holds afterwards what the graph wants
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = Graph(config, tensors, int8)
    graph.logits()
    F, I = TensorProto.FLOAT, TensorProto.INT64
    cache = ["B", config.n_head, "T", config.head_dim]
    inputs = [
        helper.make_tensor_value_info("ids", I, ["B", "M"]),
        helper.make_tensor_value_info("positions", I, ["B", "M"]),
        helper.make_tensor_value_info("last", I, ["B"]),
        helper.make_tensor_value_info("seqlens", TensorProto.INT32, ["B"]),
        helper.make_tensor_value_info("longest", TensorProto.INT32, []),
    ]
    outputs = [helper.make_tensor_value_info("logits", F, ["B", config.n_vocab])]
    for layer in range(config.n_layer):
        inputs += [helper.make_tensor_value_info(f"past_{x}.{layer}", F, cache) for x in "kv"]
        outputs += [helper.make_tensor_value_info(f"{x}.{layer}", F, cache) for x in "kv"]
    weights = [numpy_helper.from_array(np.array([-1, config.n_embd]), "rows")]
    for name, array in tensors.items():
        kind = TensorProto.INT8 if array.dtype == np.int8 else F
        weight = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
        weight.external_data.add(key="location", value="in memory")
        weights.append(weight)
    return helper.make_model(
        helper.make_graph(graph.nodes, "gpt2", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=9,
    )


@lru_cache(maxsize=1)
def onnx_session(name: str | Path, int8: bool, threads: int) -> Session:
    """A session of the model of `load(name)` in float32, all of onnxruntime's graph optimizations on.

    threads  of onnxruntime's own pool

    onnxruntime keeps copies of its own, of the linear layers in its packed form: while it loads there are two.
    Raises ValueError for heads of a width that its attention does not take.
    """
    import onnxruntime

    config, tensors = float_weights(name)
    if config.head_dim % 8:
        raise ValueError(f"head_dim is {config.head_dim}; onnx takes multiples of 8: leave it out for this model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would spin on after each run and take the time of whichever impl runs next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors
    model = onnx_model(config, tensors, int8)
    weights = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in tensors.values()]
    options.add_external_initializers(list(tensors), weights)
    run = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Session(run, config)


class OnnxSource:
    """The graph with a cache of its own, for `batch` sequences of up to `capacity` tokens.

    Rows of several lengths are padded on the right, where causal attention does not see it and the next token writes.
    """

    def __init__(self, session: Session, batch: int, capacity: int):
        from onnxruntime import OrtValue

        config = session.config
        self.session, self.batch, self.n_vocab = session.run, batch, config.n_vocab
        shape = (batch, config.n_head, capacity, config.head_dim)
        self.binding = session.run.io_binding()
        for layer in range(config.n_layer):
            for x in "kv":
                value = OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
                # The same memory in and out: the new rows are written in place, nothing is copied.
                self.binding.bind_ortvalue_input(f"past_{x}.{layer}", value)
                self.binding.bind_ortvalue_output(f"{x}.{layer}", value)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """B prompts -> logits (B, V)"""
        lengths = np.array([len(prompt) for prompt in prompts])
        longest = int(lengths.max())
        ids = np.zeros((self.batch, longest), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.lengths = lengths
        positions = np.tile(np.arange(longest), (self.batch, 1))
        return self._run(ids, positions, np.arange(self.batch) * longest + lengths - 1)

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """The newest token of each row, (B,) -> logits (B, V)"""
        positions = self.lengths[:, None]
        self.lengths = self.lengths + 1
        return self._run(np.ascontiguousarray(ids.numpy()[:, None]), positions, np.arange(self.batch))

    def _run(self, ids, positions, last) -> torch.Tensor:
        """Pass on ids (B, M) at positions (B, M), contiguous -> logits (B, V) of the rows `last` (B,) of all B·M."""
        feeds = {
            "ids": ids,
            "positions": positions,
            "last": last,
            "seqlens": (self.lengths - 1).astype(np.int32),
            "longest": np.array(self.lengths.max(), np.int32),
        }
        for name, value in feeds.items():
            self.binding.bind_cpu_input(name, value)
        logits = torch.empty(self.batch, self.n_vocab)
        self.binding.bind_output("logits", "cpu", 0, np.float32, tuple(logits.shape), logits.data_ptr())
        self.session.run_with_iobinding(self.binding)
        return logits
