"""Calls that go past torch's dispatcher: only where nothing in torch would see the operator."""

from contextlib import nullcontext

import pytest
import torch
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from kvproof.kernels.attention import decode_attention, make_workspace, op


class Through(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    """One that asks for nothing."""


def drawn(device):
    q, k = torch.ones(2, 2, 16, device=device), torch.ones(2, 2, 140, 16, device=device)
    return q, k, k.clone(), torch.tensor([140, 3], dtype=torch.int32, device=device)


WATCHED = {  # what sees operators, the query that it sees, and how many of them it sees on a CPU
    "nothing": (nullcontext, lambda q: q, 0),
    "a mode": (Through, lambda q: q, 1),
    "a mode of functions": (BaseTorchFunctionMode, lambda q: q, 1),
    "a profiler": (torch.autograd.profiler.profile, lambda q: q, 1),
    "inference": (torch.inference_mode, lambda q: q, 1),
    "a gradient": (nullcontext, lambda q: q.clone().requires_grad_(), 1),
    "a gradient that nobody asks for": (torch.no_grad, lambda q: q.clone().requires_grad_(), 0),
    "a subclass": (nullcontext, lambda q: q.as_subclass(Subclass), 1),
    "a negated view": (nullcontext, lambda q: torch._neg_view(-q), 1),
}


@pytest.mark.parametrize("who", WATCHED)
def test_only_where_nothing_sees_operators_the_body_runs_without_the_dispatcher(who, device, monkeypatch):
    context, changed, times = WATCHED[who]
    q, k, v, lengths = drawn(device)
    calls, usual, want = [], op._attend, decode_attention(q, k, v, lengths)
    monkeypatch.setattr(op, "_attend", lambda *arguments: calls.append(usual(*arguments)))
    with context():
        o = decode_attention(changed(q), k, v, lengths)
    assert len(calls) == (times if device == "cpu" else 1)
    assert torch.equal(o, want)


def test_transforms_are_refused_by_torch_as_ever(device):
    q, k, v, lengths = drawn(device)
    with pytest.raises(RuntimeError, match="Batching rule not implemented for kvproof::decode_attention"):
        torch.vmap(lambda q: decode_attention(q, k, v, lengths))(torch.stack([q, q]))


def test_what_is_written_has_another_version(device):
    q, k, v, lengths = drawn(device)
    partials, new = make_workspace(2, 2, 140, 16, torch.float32, device), torch.ones(2, 2, 16, device=device)
    for appended in ({}, {"k_new": new, "v_new": new}):
        tensors = [q, lengths, k, v, *partials]
        before = [x._version for x in tensors]
        decode_attention(q, k, v, lengths, workspace=partials, **appended)
        changed = [x._version > n for x, n in zip(tensors, before, strict=True)]
        assert changed == [False, False, *[bool(appended)] * 2, *[True] * 7]
