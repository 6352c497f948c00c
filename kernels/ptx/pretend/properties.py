"""What torch and Triton say of a GPU, for one model of each compute capability.

Sources: NVIDIA's data sheets and architecture white papers of these models (multiprocessors, memory, L2 cache, clocks,
width of the memory bus); limits of a multiprocessor: limits.py.
"""

from typing import Any, NamedTuple

from ..limits import LIMITS, REGISTERS, THREADS, WARP, shared_limit

GB, MB = 10**9, 2**20


class Model(NamedTuple):
    """A GPU that is sold."""

    name: str
    multiprocessors: int
    memory: int  # bytes
    l2: int  # bytes
    clock: int  # kHz
    memory_clock: int  # kHz
    bus: int  # bits


MODELS = {
    75: Model("Tesla T4", 40, 16 * GB, 4 * MB, 1590000, 5001000, 256),
    80: Model("NVIDIA A100-SXM4-80GB", 108, 80 * GB, 40 * MB, 1410000, 1593000, 5120),
    86: Model("NVIDIA A10", 72, 24 * GB, 6 * MB, 1695000, 6251000, 384),
    89: Model("NVIDIA L40S", 142, 48 * GB, 96 * MB, 2520000, 9001000, 384),
    90: Model("NVIDIA H100 80GB HBM3", 132, 80 * GB, 50 * MB, 1980000, 2619000, 5120),
    100: Model("NVIDIA B200", 148, 180 * GB, 126 * MB, 1965000, 3996000, 8192),
    120: Model("NVIDIA GeForce RTX 5090", 170, 32 * GB, 96 * MB, 2407000, 14001000, 512),
}


class Properties(NamedTuple):
    """As torch.cuda.get_device_properties gives them, under torch's names."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    L2_cache_size: int
    clock_rate: int
    memory_clock_rate: int
    memory_bus_width: int
    max_threads_per_multi_processor: int
    shared_memory_per_multiprocessor: int
    shared_memory_per_block_optin: int
    shared_memory_per_block: int = 49152
    regs_per_multiprocessor: int = REGISTERS
    max_threads_per_block: int = THREADS
    warp_size: int = WARP
    is_integrated: int = 0
    is_multi_gpu_board: int = 0
    gcnArchName: str = ""  # which AMD's have
    pci_bus_id: int = 0
    pci_device_id: int = 0
    pci_domain_id: int = 0
    uuid: str = "00000000-0000-0000-0000-000000000000"

    @property
    def sm(self) -> int:
        return 10 * self.major + self.minor

    def triton(self) -> dict[str, Any]:
        """As triton.runtime.driver.active.utils.get_device_properties gives them."""
        return {
            "max_shared_mem": self.shared_memory_per_block_optin,
            "max_num_regs": self.regs_per_multiprocessor,
            "multiprocessor_count": self.multi_processor_count,
            "warpSize": self.warp_size,
            "sm_clock_rate": self.clock_rate,
            "mem_clock_rate": self.memory_clock_rate,
            "mem_bus_width": self.memory_bus_width,
        }


def properties(sm: int) -> Properties:
    """Those of a compute capability that the machine compiles for, 75 to 120."""
    model, limits = MODELS[sm], LIMITS[sm]
    return Properties(
        model.name, sm // 10, sm % 10, model.memory, model.multiprocessors, model.l2, model.clock, model.memory_clock,
        model.bus, limits.warps * WARP, limits.shared, shared_limit(sm),
    )  # fmt: skip
