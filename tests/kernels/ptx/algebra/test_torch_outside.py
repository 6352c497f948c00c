"""Torch's arithmetic between kernels is named, moves of one dtype are not."""

import pytest
import torch

from kvproof.kernels.ptx.algebra.torch_outside import watching_torch

HALF, INDEX = torch.float16, torch.arange(3)
CASES = {
    "mul_": (lambda x: x.mul_(2), ["torch.mul_"]),
    "copy of one dtype": (lambda x: x.copy_(torch.ones(3)), []),
    "copy_ to float16": (lambda x: x.to(HALF).copy_(x), ["torch._to_copy", "torch.copy_"]),
    "assigned": (lambda x: torch.empty(3, dtype=HALF).__setitem__(slice(None), x), ["torch.copy_"]),
    "copy_ of ints": (lambda x: x.copy_(INDEX), ["torch.copy_"]),
    "cat": (lambda x: torch.cat([x, x]), []),
    "cat of two": (lambda x: torch.cat([x, x.half()]), ["torch._to_copy", "torch.cat"]),
    "where": (lambda x: torch.where(torch.ones(3, dtype=torch.bool), x, -x), ["torch.neg"]),
    "where of two": (lambda x: torch.where(torch.ones(3, dtype=torch.bool), x, INDEX), ["torch.where"]),
    "index": (lambda x: x[INDEX], []),
    "item": (lambda x: x[0].item(), ["torch.Tensor.item"]),
    "item of an int": (lambda x: INDEX[0].item(), []),
    "bits": (lambda x: x.view(torch.int32), []),
}


@pytest.mark.parametrize("name", CASES)
def test_what_computes_and_what_moves(name):
    run, expected = CASES[name]
    found, x = [], torch.ones(3)
    with watching_torch(found):
        run(x)
    assert sorted(each.operation for each in found) == expected
    assert all(each.effect == "parts and hides" for each in found)
