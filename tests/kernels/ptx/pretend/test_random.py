"""Generators of "cuda": seeds and states as a GPU's, numbers the CPU's."""

import pytest
import torch

from kvproof.kernels import ptx


@pytest.fixture(autouse=True)
def pretended():
    with ptx.route(pretend=True):
        yield


def test_a_generator_draws_again_what_its_seed_and_its_state_say():
    g = torch.Generator(device="cuda").manual_seed(7)
    assert g.device == torch.device("cuda", 0)
    assert isinstance(g, torch.Generator)
    first = torch.rand(5, device="cuda", generator=g)
    state = g.get_state()
    second, third = torch.rand(5, device="cuda", generator=g), torch.rand(5, generator=g, device="cuda")
    g.set_state(state)
    assert torch.equal(torch.rand(5, device="cuda", generator=g), second)
    assert torch.equal(torch.rand(5, device="cuda", generator=g), third)
    assert torch.equal(torch.rand(5, device="cuda", generator=g.manual_seed(7)), first)
    assert torch.Generator().device.type == "cpu"


def test_a_state_is_a_seed_and_an_offset_which_launchers_advance():
    g = torch.cuda.default_generators[torch.cuda.current_device()]
    g.manual_seed(5)
    state = g.get_state()
    assert (state.shape, state.dtype, state.device.type) == ((16,), torch.uint8, "cpu")
    seed, offset = state.view(torch.int64).tolist()
    assert (seed, offset) == (5, 0)
    state.view(torch.int64)[1] += 8
    g.set_state(state)
    assert g.get_state().view(torch.int64).tolist() == [5, 8]
    assert g.initial_seed() == 5
    drawn = torch.rand(3, generator=g, device="cuda")
    assert g.get_state().view(torch.int64).tolist() == [5, 12]
    g.set_state(state)
    assert torch.equal(torch.rand(3, generator=g, device="cuda"), drawn)


def test_the_seed_of_torch_is_the_gpu_s_too():
    torch.manual_seed(11)
    assert torch.cuda.initial_seed() == 11
    torch.cuda.manual_seed_all(12)
    assert torch.cuda.get_rng_state().view(torch.int64)[0] == 12
    torch.cuda.set_rng_state(torch.cuda.get_rng_state())
    torch.manual_seed(3)
    x = torch.randn(4, device="cuda")
    torch.manual_seed(3)
    assert torch.equal(torch.randn(4, device="cuda"), x)
    with torch.random.fork_rng():
        torch.manual_seed(4)
    assert torch.cuda.initial_seed() == 3
