"""Which instruction goes to which file."""

import pytest

from kvproof.kernels.ptx.tensor_core import families

EMITTED = """mma.sync wgmma.mma_async wgmma.fence wgmma.commit_group wgmma.wait_group tcgen05.alloc tcgen05.dealloc
tcgen05.relinquish_alloc_permit tcgen05.ld tcgen05.st tcgen05.wait::ld tcgen05.wait::st tcgen05.mma tcgen05.commit
tcgen05.cp tcgen05.fence::before_thread_sync tcgen05.fence::after_thread_sync"""


@pytest.mark.parametrize("name", EMITTED.split())
def test_what_tensor_cores_do_has_its_place(name):
    assert callable(families.FAMILIES[name])


def test_nothing_else_is_there():
    assert set(families.FAMILIES) == set(EMITTED.split())
