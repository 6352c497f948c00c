"""Opcodes of bulk copies, who executes which, and the table of reductions."""

import numpy as np
import pytest

from kvproof.kernels.ptx import UnknownOpcode
from kvproof.kernels.ptx.assemble import FAMILIES, builder
from kvproof.kernels.ptx.syntax import Instruction
from kvproof.kernels.ptx.tma import maps, plain
from kvproof.kernels.ptx.tma.opcodes import Form, form
from kvproof.kernels.ptx.tma.reductions import TYPES, reduction


def instruction(opcode: str) -> Instruction:
    return Instruction(opcode, (), None, 1, ())


DONE = "mbarrier::complete_tx::bytes"
FORMS = {
    f"cp.async.bulk.tensor.3d.shared::cluster.global.tile.{DONE}.multicast::cluster.L2::cache_hint": (
        Form(True, 3, "tile", "", "", True, True)
    ),
    f"cp.async.bulk.tensor.2d.tile::gather4.shared::cta.global.{DONE}.cta_group::1": (
        Form(True, 2, "tile::gather4", "", "", False, False)
    ),
    "cp.async.bulk.tensor.1d.global.shared::cta.bulk_group": Form(False, 1, "tile", "", "", False, False),
    "cp.reduce.async.bulk.tensor.5d.global.shared::cta.min.tile.bulk_group": (
        Form(False, 5, "tile", "min", "", False, False)
    ),
    f"cp.async.bulk.shared::cta.global.{DONE}": Form(True, 0, "tile", "", "", False, False),
    "cp.reduce.async.bulk.global.shared::cta.bulk_group.L2::cache_hint.add.noftz.bf16": (
        Form(False, 0, "tile", "add", "bf16", False, True)
    ),
}


@pytest.mark.parametrize("opcode", FORMS)
def test_parts_are_read_in_any_order(opcode):
    assert form(instruction(opcode)) == FORMS[opcode]


@pytest.mark.parametrize(
    "opcode",
    [
        "cp.async.bulk.tensor.global.shared::cta.bulk_group",  # no dimensions
        "cp.async.bulk.2d.global.shared::cta.bulk_group",
        "cp.async.bulk.tensor.2d.global.shared::cta",  # no end
        f"cp.async.bulk.tensor.2d.global.shared::cta.{DONE}",
        "cp.async.bulk.tensor.2d.add.global.shared::cta.bulk_group",
        "cp.async.bulk.tensor.2d.3d.global.shared::cta.bulk_group",
        f"cp.async.bulk.tensor.4d.shared::cta.global.im2col::w.{DONE}",
    ],
)
def test_other_opcodes_are_not_guessed(opcode):
    with pytest.raises(UnknownOpcode):
        form(instruction(opcode))


def test_each_instruction_finds_who_executes_it():
    ours = {
        "cp.async.bulk.commit_group": plain.copy, "cp.reduce.async.bulk.tensor.2d": plain.copy,
        "tensormap.replace.tile.rank": maps.replace, "fence.proxy.tensormap::generic.acquire.gpu": maps.fence,
    }  # fmt: skip
    others = ("cp.async.ca.shared.global", "cp.async.commit_group", "fence.proxy.async", "fence.acq_rel.gpu")

    def finds(opcode: str):
        return next(found for table in FAMILIES if (found := builder(opcode, table)))

    assert {opcode: finds(opcode) for opcode in ours} == ours
    assert all(finds(opcode).__module__.rpartition(".")[0].rpartition(".")[2] != "tma" for opcode in others)


def test_reductions_are_those_that_hardware_has():
    whole = {"u32", "s32", "u64", "s64"}
    assert {name for name, kinds in TYPES.items() if whole - set(kinds)} == {"add", "inc", "dec"}
    assert (
        reduction("add", "s64") is reduction("min", "f32") is reduction("inc", "s32") is reduction("or", "f16") is None
    )
    old, new = np.array([0x80000000, 3], np.uint32), np.array([1, 5], np.uint32)
    smallest = {"u32": [1, 3], "s32": [0x80000000, 3]}
    for kind, expected in smallest.items():
        assert list(reduction("min", kind)(old, new)) == expected  # pyright: ignore[reportOptionalCall]
