"""A GPU that is not there: code that insists on one runs on CPU tensors, in one thread, while a route is open.

    with ptx.route("sm_90", pretend=True):
        out = launcher(x)  # x may have been made outside, on the CPU; the launcher may ask x.is_cuda

    properties       what is known of each GPU, as torch and Triton report it
    places           which tensors play on the GPU: all but those that were put on the host
    tensors          functions that make tensors, and devices, before torch's dispatcher is asked
    moves            .to(), .cuda(), .cpu() and what else moves a tensor or says where it is
    dispatch         what the dispatcher is asked: creation, kernels of custom operators
    storages         where copies are, and what was saved, loaded, or sent by another process
    cuda, streams    torch.cuda and torch.accelerator
    random, autocast generators of random numbers, and torch.autocast("cuda")
    triton_driver    triton.runtime.driver.active and do_bench
    replaced         how names are replaced while a route is open, and only in threads that have one

A tensor from outside the route, and one that is made inside for "cuda", plays on the GPU. One that is made inside
without a device says so too, since a launch takes it, but .cuda() copies it as a GPU would. One that is made with
device="cpu", .cpu() or .to("cpu") is on the host and says so; a kernel does not get it. Memory is the CPU's own in
every case.

What a GPU tells apart and a pretence does not:
    - A tensor from outside may be one of the host, so torch's own operators take tensors of both devices together, and
      .numpy() and a generator of the other device, where a GPU raises.
    - torch.from_numpy, and a sparse tensor that is made dense, say cuda:0, though their source may be on the host.
    - torch.jit.trace fails, as it does within any TorchDispatchMode.
A torch operator takes 7 to 25 us longer, torch.empty 25 to 50 us: a step of a small model, 5 to 8 times as long.
"""

from .places import check_places, pretending
from .session import pretend

__all__ = ["check_places", "pretend", "pretending"]
