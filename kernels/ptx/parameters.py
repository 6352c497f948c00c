"""Addresses of a kernel's parameters, moved into registers and chosen between before what they lead to is loaded.

LLVM writes a choice between two pointers of a kernel as a choice between their parameters:

    mov.b64 %rd1, k_param_0; mov.b64 %rd2, k_param_1; selp.b64 %rd3, %rd1, %rd2, %p1; ld.param.b64 %rd4, [%rd3];

Source: PTX ISA 5.1.6.1 (the address of a kernel's parameter, by mov, in the .param space), 9.7.9.8 (ld).
"""

from collections import defaultdict

from .syntax import Address, Immediate, Instruction, Register, Symbol

APART = 1 << 16  # bytes from one parameter to the next; none is larger
CHOICES = ("mov", "selp", "add", "sub", "cvt")  # through which an address of a parameter stays one


def places(parameters: list[tuple[str, str]]) -> dict[str, int]:
    """The address of each parameter in the .param space, where no kernel may count on any."""
    return {name: APART * n for n, (name, _) in enumerate(parameters, start=1)}


def loads(i: Instruction) -> bool:
    """Whether an instruction loads a parameter by an address in a register."""
    return i.opcode.startswith("ld.param") and any(
        isinstance(x, Address) and isinstance(x.base, Register) for x in i.operands
    )


def addressed(instructions: list[Instruction], parameters: list[tuple[str, str]]) -> list[Instruction]:
    """Instructions with numbers for the addresses of parameters that reach an ld.param through registers."""
    wanted = [i.operands[1].base.name for i in instructions if loads(i)]
    at = places(parameters)
    setters = defaultdict(list)
    for n, i in enumerate(instructions if wanted else ()):
        if i.operands and isinstance(i.operands[0], Register) and i.opcode.split(".")[0] in CHOICES:
            setters[i.operands[0].name].append(n)
    seen, out = set(), list(instructions)
    while wanted:
        name = wanted.pop()
        for n in setters[name] if name not in seen else ():
            operands = tuple(Immediate(at.get(x.name, 0), 0) if isinstance(x, Symbol) else x for x in out[n].operands)
            out[n] = out[n]._replace(operands=operands)
            wanted += [x.name for x in operands if isinstance(x, Register)]
        seen.add(name)
    return out
