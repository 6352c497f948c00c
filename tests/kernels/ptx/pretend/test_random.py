"""Generators of "cuda": seeds and states as a GPU's, numbers the CPU's."""

import threading

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
    torch.manual_seed(3)
    x = torch.randn(4, device="cuda")
    torch.manual_seed(3)
    assert torch.equal(torch.randn(4, device="cuda"), x)
    with torch.random.fork_rng():
        torch.manual_seed(4)
    assert torch.cuda.initial_seed() == 3


def drawn(x: torch.Tensor) -> list[torch.Tensor]:
    """Numbers by functions of every kind that torch has: from a size, like a tensor, in place, within C++."""
    return [torch.randn(3, device="cuda"), torch.rand_like(x), x.clone().normal_(), torch.bernoulli(x / 2),
            torch.nn.functional.dropout(x), torch.randperm(50, device="cuda"), torch.multinomial(x, 20)]  # fmt: skip


def test_torch_cuda_s_seed_and_state_are_what_is_drawn_from_on_the_gpu():
    x = torch.ones(64, device="cuda")
    torch.cuda.manual_seed_all(12)
    first = drawn(x)
    torch.cuda.manual_seed(12)
    torch.rand(5, device="cpu")
    again, state = drawn(x), torch.cuda.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    later = drawn(x)
    assert not any(torch.equal(a, b) for a, b in zip(first, later, strict=True))
    torch.cuda.set_rng_state(state)
    assert all(torch.equal(a, b) for a, b in zip(later, drawn(x), strict=True))


def test_what_is_drawn_on_the_gpu_is_not_missed_on_the_host():
    torch.manual_seed(1)
    host = torch.randn(6, device="cpu")
    torch.manual_seed(1)
    first = torch.randn(3, device="cpu")
    gpu = torch.randn(3, device="cuda")
    assert torch.equal(torch.cat([first, torch.randn(3, device="cpu")]), host)
    assert not torch.equal(gpu.cpu(), first)
    torch.cuda.manual_seed(2)
    assert torch.equal(torch.normal(0.0, 1.0, (3,), generator=torch.Generator().manual_seed(1)).cpu(), first)


def test_a_nested_route_goes_on_with_the_seed_and_leaves_it_drawn_from():
    torch.cuda.manual_seed(4)
    both = torch.randn(2, 16, device="cuda")
    torch.cuda.manual_seed(4)
    with ptx.route("sm_80", pretend=True):
        assert torch.cuda.initial_seed() == 4
        first = torch.randn(16, device="cuda")
    assert torch.equal(torch.stack([first, torch.randn(16, device="cuda")]), both)


def later(route: int, seed: int | None) -> torch.Tensor:
    """What a route draws that is opened in a thread, which has no pretence yet."""
    drawn: list[torch.Tensor] = []

    def draw() -> None:
        if seed is not None:
            torch.manual_seed(seed)
        for _ in range(route + 1):
            with ptx.route(pretend=True):
                last = torch.randn(4, device="cuda")
        drawn.append(last)

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    return drawn[0]


def test_routes_after_one_seed_draw_different_numbers_and_after_it_again_the_same():
    first, second = later(0, 5), later(1, 5)
    assert not torch.equal(first, second)
    assert torch.equal(later(0, 5), first)
    assert torch.equal(later(1, 5), second)
    assert not torch.equal(later(0, None), second)
    assert not torch.equal(later(0, 6), first)
