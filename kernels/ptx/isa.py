"""The instruction table: what every instruction computes that touches neither memory nor another thread.

A row holds the section of the PTX ISA (8.8) that defines it, its spellings, braces expanded as the shell does, and a
builder, which is given one spelling and returns its semantics. What no row spells is not executed: a modifier that the
table does not know makes an unknown opcode and is never ignored.
"""

import itertools
import re
from functools import cache, partial

import numpy as np

from . import arithmetic as ar
from . import integers as it
from .errors import UnknownOpcode
from .floats import Approximation
from .opcode import BITS, Opcode, Semantics, halves, typed

REFUSED = {
    "wgmma": "warp-group matrix products are not modelled; compile for sm_80",
    "tcgen05": "tensor memory of sm_100 is not modelled; compile for sm_80 or sm_90 with mma",
    "mbarrier": "barriers in shared memory are not modelled",
    "cp.async.bulk": "the tensor memory accelerator is not modelled",
    "cp.reduce.async.bulk": "the tensor memory accelerator is not modelled",
    "tensormap": "the tensor memory accelerator is not modelled",
    "multimem": "memory of several GPUs is not modelled",
    "barrier.cluster": "clusters of programs are not modelled",
}

INT = "{u16,u32,u64,s16,s32,s64}"
ANY = "{b16,b32,b64,u16,u32,u64,s16,s32,s64,f32,f64}"
R, FTZ, SAT = "{,.rn,.rz,.rm,.rp}", "{,.ftz}", "{,.sat}"
RELATION = "{eq,ne,lt,le,gt,ge}"
ORDER = "{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}"
COMBINED = "{,.and,.or,.xor}"
SPACE = "{global,shared,local,const,param,shared::cta}"
BYTES = "{u8,u16,u32,u64,s8,s16,s32,s64}"
WHOLE = ".rni,.rzi,.rmi,.rpi"

TABLE = (
    # integers
    ("9.7.1.1 add", f"add.{INT}", typed(np.add, 2)),
    ("9.7.1.1 add", "add.{u16x2,s16x2}", halves(np.add, 2)),
    ("9.7.1.2 sub", f"sub.{INT}", typed(np.subtract, 2)),
    ("9.7.1.3 mul", f"mul.lo.{INT}", typed(np.multiply, 2)),
    ("9.7.1.3 mul", f"mul.hi.{INT}", typed(it.high, 2)),
    ("9.7.1.3 mul", "mul.wide.{u16,u32,s16,s32}", it.wide),
    ("9.7.1.4 mad", f"mad.lo.{INT}", typed(lambda a, b, c: a * b + c, 3)),
    ("9.7.1.4 mad", f"mad.hi.{INT}", typed(lambda a, b, c: it.high(a, b) + c, 3)),
    ("9.7.1.4 mad", "mad.wide.{u16,u32,s16,s32}", it.wide),
    ("9.7.1.7 sad", f"sad.{INT}", typed(lambda a, b, c: c + np.where(a < b, b - a, a - b), 3)),
    ("9.7.1.8 div", f"div.{INT}", typed(it.divide, 2)),
    ("9.7.1.9 rem", f"rem.{INT}", typed(it.remainder, 2)),
    ("9.7.1.10 abs", "abs.{s16,s32,s64}", typed(np.abs, 1)),
    ("9.7.1.11 neg", "neg.{s16,s32,s64}", typed(np.negative, 1)),
    ("9.7.1.12 min", f"min.{INT}", typed(np.minimum, 2)),
    ("9.7.1.12 min", "min.{u16x2,s16x2}", halves(np.minimum, 2)),
    ("9.7.1.13 max", f"max.{INT}", typed(np.maximum, 2)),
    ("9.7.1.13 max", "max.{u16x2,s16x2}", halves(np.maximum, 2)),
    ("9.7.1.14 popc", "popc.{b32,b64}", typed(it.count, 1, "u32")),
    ("9.7.1.15 clz", "clz.b32", typed(lambda x: np.uint32(32) - it.length(x), 1, "u32")),
    ("9.7.1.15 clz", "clz.b64", typed(lambda x: np.uint32(64) - it.length(x), 1, "u32")),
    ("9.7.1.16 bfind", "bfind.{u32,u64,s32,s64}", typed(it.find, 1, "u32")),
    ("9.7.1.16 bfind", "bfind.shiftamt.{u32,u64,s32,s64}", typed(partial(it.find, shift_amount=True), 1, "u32")),
    ("9.7.1.18 brev", "brev.{b32,b64}", typed(it.reverse, 1)),
    ("9.7.1.19 bfe", "bfe.{u32,u64,s32,s64}", typed(it.extract, types=("", "u32", "u32"))),
    ("9.7.1.20 bfi", "bfi.{b32,b64}", typed(it.insert, types=("", "", "u32", "u32"))),
    ("9.7.1.21 szext", "szext.{clamp,wrap}.{u32,s32}", it.extension),
    ("9.7.1.22 bmsk", "bmsk.clamp.b32", typed(it.mask, 2)),
    ("9.7.1.22 bmsk", "bmsk.wrap.b32", typed(lambda a, b: it.mask(a & np.uint32(31), b & np.uint32(31)), 2)),
    ("9.7.1.23 dp4a", "dp4a.{u32,s32}.{u32,s32}", it.dot_of),
    ("9.7.2 extended precision", "{add,sub}{.cc,c,c.cc}.{u32,s32,u64,s64}", it.extended),
    ("9.7.2 extended precision", "mad{.lo.cc,.hi.cc}.{u32,s32,u64,s64}", it.extended),
    ("9.7.2 extended precision", "madc.{lo,hi}{,.cc}.{u32,s32,u64,s64}", it.extended),
    # floating point
    ("9.7.3.1 testp", "testp.{finite,infinite,number,notanumber,normal,subnormal}.{f32,f64}", ar.testp),
    ("9.7.3.2 copysign", "copysign.{f32,f64}", ar.copysign),
    ("9.7.3 add, sub, mul", f"{{add,sub,mul}}{R}{FTZ}{SAT}.f32", ar.arithmetic),
    ("9.7.3 add, sub, mul", f"{{add,sub,mul}}{R}{FTZ}.f32x2", ar.arithmetic),
    ("9.7.3 add, sub, mul", f"{{add,sub,mul}}{R}.f64", ar.arithmetic),
    ("9.7.3.6 fma, mad", f"{{fma,mad}}.{{rn,rz,rm,rp}}{FTZ}{SAT}.f32", ar.arithmetic),
    ("9.7.3.6 fma", f"fma.{{rn,rz,rm,rp}}{FTZ}.f32x2", ar.arithmetic),
    ("9.7.3.6 fma, mad", "{fma,mad}.{rn,rz,rm,rp}.f64", ar.arithmetic),
    ("9.7.3.8 div", f"div.{{approx,full}}{FTZ}.f32", ar.approximate),
    ("9.7.3.8 div, 9.7.3.13 rcp", f"{{div,rcp}}.{{rn,rz,rm,rp}}{FTZ}.f32", ar.quotient),
    ("9.7.3.8 div, 9.7.3.13 rcp", "{div,rcp}.{rn,rz,rm,rp}.f64", ar.quotient),
    ("9.7.3.15 sqrt", f"sqrt.{{rn,rz,rm,rp}}{FTZ}.f32", ar.root),
    ("9.7.3.15 sqrt", "sqrt.{rn,rz,rm,rp}.f64", ar.root),
    ("9.7.3.9 abs, 9.7.3.10 neg", f"{{abs,neg}}{FTZ}.f32", ar.sign),
    ("9.7.3.9 abs, 9.7.3.10 neg", "{abs,neg}.f64", ar.sign),
    ("9.7.3.11 min, 9.7.3.12 max", f"{{min,max}}{FTZ}{{,.NaN}}{{,.xorsign.abs}}.f32", ar.extreme),
    ("9.7.3.11 min, 9.7.3.12 max", "{min,max}.f64", ar.extreme),
    ("9.7.3 approximations", f"{{rcp,sqrt,rsqrt,sin,cos,lg2,ex2}}.approx{FTZ}.f32", ar.approximate),
    ("9.7.3.16 rsqrt", "rsqrt.approx.f64", ar.approximate),
    ("9.7.3.14 rcp, 9.7.3.17 rsqrt", "{rcp,rsqrt}.approx.ftz.f64", ar.coarse),
    ("9.7.3.22 tanh", "tanh.approx.f32", ar.approximate),
    # half precision, and single with an operand of half
    ("9.7.4 add, sub, mul", f"{{add,sub,mul}}{{,.rn}}{FTZ}{SAT}.{{f16,f16x2}}", ar.arithmetic),
    ("9.7.4 add, sub, mul", "{add,sub,mul}{,.rn}.{bf16,bf16x2}", ar.arithmetic),
    ("9.7.4.4 fma", f"fma.rn{FTZ}{{,.sat,.relu}}.{{f16,f16x2}}", ar.arithmetic),
    ("9.7.4.4 fma", "fma.rn{,.relu}.{bf16,bf16x2}", ar.arithmetic),
    ("9.7.4 neg, abs", f"{{neg,abs}}{FTZ}.{{f16,f16x2}}", ar.sign),
    ("9.7.4 neg, abs", "{neg,abs}.{bf16,bf16x2}", ar.sign),
    ("9.7.4 min, max", f"{{min,max}}{FTZ}{{,.NaN}}{{,.xorsign.abs}}.{{f16,f16x2}}", ar.extreme),
    ("9.7.4 min, max", "{min,max}{,.NaN}{,.xorsign.abs}.{bf16,bf16x2}", ar.extreme),
    ("9.7.4 tanh", "tanh.approx.{f16,f16x2,bf16,bf16x2}", ar.approximate),
    ("9.7.4 ex2", f"ex2.approx{FTZ}.{{f16,f16x2}}", ar.approximate),
    ("9.7.4 ex2", "ex2.approx.ftz.{bf16,bf16x2}", ar.approximate),
    ("9.7.5 mixed precision", f"{{add,sub}}{R}{SAT}.f32.{{f16,bf16}}", ar.arithmetic),
    ("9.7.5 mixed precision", f"fma.{{rn,rz,rm,rp}}{SAT}.f32.{{f16,bf16}}", ar.arithmetic),
    # comparison and selection
    ("setp", f"setp.{RELATION}{COMBINED}.{{b16,b32,b64,u16,u32,u64,s16,s32,s64}}", ar.compare),
    ("setp", f"setp.{{lo,ls,hi,hs}}{COMBINED}.{{u16,u32,u64}}", ar.compare),
    ("setp", f"setp.{ORDER}{COMBINED}{FTZ}.{{f32,f16}}", ar.compare),
    ("setp", f"setp.{ORDER}{COMBINED}.{{f64,bf16}}", ar.compare),
    ("setp", f"setp.{ORDER}{COMBINED}{FTZ}.f16x2", ar.compare_pair),
    ("setp", f"setp.{ORDER}{COMBINED}.bf16x2", ar.compare_pair),
    ("set", f"set.{RELATION}{COMBINED}.{{u32,s32,f32}}.{{b16,b32,b64,u16,u32,u64,s16,s32,s64}}", ar.indicate),
    ("set", f"set.{{lo,ls,hi,hs}}{COMBINED}.{{u32,s32,f32}}.{{u16,u32,u64}}", ar.indicate),
    ("set", f"set.{ORDER}{COMBINED}{FTZ}.{{u32,s32,f32}}.{{f32,f16}}", ar.indicate),
    ("set", f"set.{ORDER}{COMBINED}.{{u32,s32,f32}}.{{f64,bf16}}", ar.indicate),
    ("slct", f"slct.{ANY}.s32", ar.choose),
    ("slct", f"slct{FTZ}.{ANY}.f32", ar.choose),
    ("selp", f"selp.{ANY}", typed(lambda a, b, p: np.where(p, a, b), types=("", "", "pred"))),
    # logic and shift
    ("and", "and.{pred,b16,b32,b64}", typed(np.bitwise_and, 2)),
    ("or", "or.{pred,b16,b32,b64}", typed(np.bitwise_or, 2)),
    ("xor", "xor.{pred,b16,b32,b64}", typed(np.bitwise_xor, 2)),
    ("not", "not.{pred,b16,b32,b64}", typed(np.invert, 1)),
    ("cnot", "cnot.{b16,b32,b64}", typed(lambda x: (x == 0).astype(x.dtype), 1)),
    ("lop3", "lop3.b32", typed(it.lookup, 4)),
    ("shf", "shf.l.wrap.b32", typed(partial(it.funnel, to_left=True, clamp=False), 3)),
    ("shf", "shf.l.clamp.b32", typed(partial(it.funnel, to_left=True, clamp=True), 3)),
    ("shf", "shf.r.wrap.b32", typed(partial(it.funnel, to_left=False, clamp=False), 3)),
    ("shf", "shf.r.clamp.b32", typed(partial(it.funnel, to_left=False, clamp=True), 3)),
    ("shl", "shl.{b16,b32,b64}", typed(it.left, types=("", "u32"))),
    ("shr", "shr.{b16,b32,b64,u16,u32,u64,s16,s32,s64}", typed(it.right, types=("", "u32"))),
    # data movement and conversion
    ("mov", f"mov.{{pred,f16,bf16,f16x2,bf16x2,{ANY[1:]}", typed(lambda x: x, 1)),
    ("cvta", f"cvta{{,.to}}.{SPACE}.u64", typed(lambda x: x, 1)),
    ("prmt", "prmt.b32", typed(it.permute, 3)),
    *(("prmt", f"prmt.b32.{mode}", typed(partial(it.permute, mode=mode), 3)) for mode in it.SELECTORS),
    ("cvt", f"cvt{SAT}.{BYTES}.{BYTES}", ar.convert),
    ("cvt", f"cvt{{{WHOLE}}}{FTZ}{SAT}.{BYTES}.f32", ar.convert),
    ("cvt", f"cvt{{{WHOLE}}}{SAT}.{BYTES}.{{f64,f16,bf16}}", ar.convert),
    ("cvt", f"cvt.{{rn,rz,rm,rp}}{SAT}.{{f16,bf16,f32,f64}}.{BYTES}", ar.convert),
    ("cvt", f"cvt{FTZ}{SAT}.f32.{{f16,bf16}}", ar.convert),
    ("cvt", f"cvt{FTZ}{SAT}.f64.f32", ar.convert),
    ("cvt", f"cvt{SAT}.f64.{{f16,bf16}}", ar.convert),
    ("cvt", f"cvt.{{rn,rz,rm,rp}}{FTZ}{SAT}.f32.f64", ar.convert),
    ("cvt", f"cvt.{{rn,rz,rm,rp}}{FTZ}{SAT}.{{f16,bf16}}.f32", ar.convert),
    ("cvt", f"cvt.{{rn,rz,rm,rp}}{SAT}.{{f16,bf16}}.f64", ar.convert),
    ("cvt", f"cvt.{{rn,rz,rm,rp}}{SAT}.{{f16.bf16,bf16.f16}}", ar.convert),
    ("cvt", "cvt.bf16.f16", ar.convert),  # Triton writes no direction where any is exact: for a float of 8 bits
    ("cvt", "cvt.{rn,rz}.relu.{f16,bf16}.f32", ar.convert),
    ("cvt", f"cvt{{,{WHOLE}}}{FTZ}{SAT}.f32.f32", ar.convert),
    ("cvt", f"cvt{{,{WHOLE}}}{SAT}.{{f16.f16,f64.f64}}", ar.convert),
    ("cvt", "cvt.{rn,rz,rna}.tf32.f32", ar.convert),
    ("cvt", "cvt.{rn,rz}{,.relu}.{f16x2,bf16x2}.f32", ar.convert),
    ("cvt", "cvt.rn.satfinite{,.relu}.{e4m3x2,e5m2x2}.{f32,f16x2}", ar.convert),
    ("cvt", "cvt.rn{,.relu}.f16x2.{e4m3x2,e5m2x2}", ar.convert),
)


def expand(spelling: str) -> list[str]:
    """Every word that braces spell: "a{,.b}.{c,d}" is a.c, a.d, a.b.c, a.b.d."""
    parts = [part[1:-1].split(",") if part[0] == "{" else [part] for part in re.findall(r"\{.*?\}|[^{}]+", spelling)]
    return ["".join(word) for word in itertools.product(*parts)]


OPCODES = {opcode: (section, build) for section, spelling, build in TABLE for opcode in expand(spelling)}


@cache
def semantics(opcode: str, approximation: Approximation | None = None, operands: int = 0) -> Semantics:
    """What an instruction computes, from its spelling alone.

    approximation  moves the results of approximate functions; None leaves them at the nearest number
    operands       how many sources the instruction is written with; min and max.f32 take a third, others the one number

    Raises UnknownOpcode, with the reason where a whole family is refused, for whatever the table does not spell.
    """
    if opcode not in OPCODES:
        raise UnknownOpcode(opcode, next((why for family, why in REFUSED.items() if opcode.startswith(family)), ""))
    section, build = OPCODES[opcode]
    name, *parts = opcode.split(".")
    types = tuple(part for part in parts if part in BITS)
    modifiers = tuple(part for part in parts if part not in BITS)
    meaning = build(Opcode(opcode, name, types, modifiers, approximation, operands))
    if operands and operands != len(meaning.sources):
        raise UnknownOpcode(opcode, f"it takes {len(meaning.sources)} sources and is written with {operands}")
    return meaning._replace(section=section)
