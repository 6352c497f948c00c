"""torch.compile takes the decode step whole, once for all steps, and leaves the cache where it lies.

Models are float64, where the compiled step must agree with plain torch to rounding, and every bug stands out.
"""

from contextlib import contextmanager

import pytest
import torch
from functorch.compile import make_boxed_func  # pyright: ignore[reportPrivateImportUsage]
from torch._dynamo.backends.common import aot_autograd
from torch._guards import detect_fake_mode
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.virtualized import V

from kvproof.gpt2 import Config, ContextFull
from kvproof.gpt2.graph import Step, compiled_step

from .._gpt2_models import random_prompts, torch_model


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def reinplaced(graphs: list):
    """A backend that runs the graph inductor would compile: torch's functional one after torch's reinplacing pass."""

    def compile_graph(graph, inputs):
        with V.set_fake_mode(detect_fake_mode(inputs)):
            post_grad_passes(graph, True)
        graphs.append(graph.graph)
        return make_boxed_func(graph.forward)

    return aot_autograd(
        fw_compiler=compile_graph, decompositions=select_decomp_table(), keep_inference_input_mutations=True
    )


def makes_memory(node, size: int) -> bool:
    """Whether this node of a graph allocates, or writes from elsewhere, a tensor of at least `size` elements."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, torch.Tensor) or value.numel() < size:
        return False
    if node.target is torch.ops.aten.copy_.default:
        return node.args[0] is not node.args[1]
    return not node.target._schema.is_mutable and not node.target.is_view


def filled(capacity, lengths, n_layer=2):
    """A one-headed model of impl triton, a cache of this capacity with prompts of these lengths, their next ids."""
    config = Config(n_vocab=61, n_ctx=160, n_embd=4, n_head=1, n_layer=n_layer, n_inner=8)
    model = torch_model(config, 0, impl="triton")
    cache = model.new_cache(len(lengths), capacity)
    return model, cache, model.prefill(random_prompts(61, lengths), cache).argmax(-1)


@contextmanager
def formula_for_kernel():
    """The op's launch replaced by the plain formula: without a GPU a launch takes 0.1 s and more."""
    names = [argument.name for argument in torch.ops.kvproof.append_attention.default._schema.arguments]

    def attend(*values, **more):
        given = dict(zip(names, values, strict=False)) | more
        for b, n in enumerate(given["lengths"].tolist()):
            rows = []
            for cache, new in ((given["k"], given["k_new"]), (given["v"], given["v_new"])):
                cache[b, :, n - 1] = new[b, 0]
                rows.append(cache[b, :, :n])
            o = torch.nn.functional.scaled_dot_product_attention(given["q"][b].transpose(0, 1), *rows)  # (H, 1, D)
            given["out"][b] = o.transpose(0, 1)

    with torch.library._scoped_library("kvproof", "IMPL") as library:
        library.impl("append_attention", attend, "CPU")
        yield


def follow(step: Step, ids, steps: int):
    """Run greedy steps beside plain torch, on the same tokens, and hold the logits of each to its rounding."""
    plain = step.model.with_impl("sdpa")
    beside = plain.new_cache(step.cache.batch, step.cache.capacity)
    for k, v, k_here, v_here in zip(beside.k, beside.v, step.cache.k, step.cache.v, strict=True):
        k.copy_(k_here)
        v.copy_(v_here)
    beside.set_lengths(step.cache.host_lengths)
    for _ in range(steps):
        want, got = plain.decode(ids, beside), step(ids)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11 * max(1, want.abs().max().item()))
        ids = got.argmax(-1)
    assert step.cache.host_lengths == step.cache.lengths.tolist() == beside.host_lengths


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.exhaustive)])
def test_64_steps_compile_once(backend):
    # One layer is enough to count graphs.
    model, cache, ids = filled(68, [3], n_layer=1)
    step = compiled_step(model, cache, backend)
    follow(step, ids, 1)
    with torch.compiler.set_stance("fail_on_recompile"):
        follow(step, torch.tensor([7]), 2)
        with formula_for_kernel():
            follow(step, torch.tensor([7]), 60)
        follow(step, torch.tensor([7]), 2)
    with pytest.raises(ContextFull):
        step(ids)


def test_no_copy_of_cache_size_is_left_in_the_graph_that_inductor_compiles():
    model, cache, ids = filled(160, [5, 2])
    graphs = []
    step = compiled_step(model, cache, reinplaced(graphs))
    lies = [x.data_ptr() for x in (*cache.k, *cache.v)]
    follow(step, ids, 1)
    with formula_for_kernel():
        follow(step, ids, 2)
    size = cache.k[0].numel()
    assert size > max(p.numel() for p in model.parameters())
    assert len(graphs) == 1
    assert [node.format_node() for node in graphs[0].nodes if makes_memory(node, size)] == []
    assert [x.data_ptr() for x in (*cache.k, *cache.v)] == lies
    calls = [node for node in graphs[0].nodes if "kvproof.append_attention" in str(node.target)]
    assert len(calls) == model.config.n_layer  # one launch writes the rows and attends
    inputs = [node.meta["val"].shape for node in graphs[0].nodes if node.op == "placeholder"]
    assert inputs.count(cache.k[0].shape) == 2 * model.config.n_layer


@pytest.mark.parametrize("fault", ["copied", "out of place", "shared"])
def test_a_copy_of_cache_size_would_be_seen(fault):
    both = torch.zeros(2, 2, 8, 4)
    k, v, row = both[0], both[1] if fault == "shared" else torch.zeros(2, 8, 4), torch.ones(2, 1, 4)
    graphs = []

    def step(k, v):
        if fault == "copied":
            torch.ops.kvproof_test.append(k, v.clone(), row)
        elif fault == "shared":  # torch's reinplacing pass clones an argument that shares another's storage
            torch.ops.kvproof_test.append(k, v, row)
        else:
            k = k.slice_scatter(row, 1, 3, 4)
        return k.sum() + v.sum()

    with torch.library._scoped_library("kvproof_test", "FRAGMENT") as library:
        library.define("append(Tensor(a!) k, Tensor(b!) v, Tensor row) -> ()")
        library.impl("append", lambda k, v, row: None, "CompositeExplicitAutograd")
        torch.compile(step, backend=reinplaced(graphs), fullgraph=True)(k, v)
    assert [node for node in graphs[0].nodes if makes_memory(node, k.numel())]


def test_a_step_that_read_the_hosts_lengths_would_be_seen_to_recompile():
    model, cache, ids = filled(9, [3])
    run = torch.compile(lambda ids: ids + max(cache.host_lengths), backend="aot_eager", fullgraph=True, dynamic=False)
    step = Step(model, cache, run)
    assert step(ids).item() == ids.item() + 4
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
        step(ids)
