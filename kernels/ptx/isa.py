"""The instruction table: every instruction that touches neither memory nor another thread.

A row holds a section of the PTX ISA (8.8), spellings, whose braces expand as in a shell, and a builder: spelling ->
semantics. An instruction or modifier in no row is an unknown opcode; none is ignored.
"""

import itertools
import re
from functools import cache

import numpy as np

from . import arithmetic as ar
from . import integers as it
from .errors import UnknownOpcode
from .floats import Approximation
from .opcode import BITS, Opcode, Semantics, typed

REFUSED = {
    "clusterlaunchcontrol": "programs that take over those not yet launched are not modelled",
    "multimem": "memory of several GPUs is not modelled",
}

IDLE = re.compile(
    r"nanosleep|pmevent|setmaxnreg\.(inc|dec)\.sync\.aligned\.u32$|griddepcontrol\.|(applypriority|discard|prefetchu?)\."
    r"|barrier\.cluster\.arrive"
)  # what changes no value: time, registers lent to other warps, caches, the start of the next launch, a cluster of one

INT = "{u16,u32,u64,s16,s32,s64}"
PACKED = "{u16,u32,u64,s16,s32,s64,u16x2,s16x2}"
BYTES = "{u8,u16,u32,u64,s8,s16,s32,s64}"
ANY = "{b16,b32,b64,u16,u32,u64,s16,s32,s64,f32,f64}"
R, TO, FTZ = "{,.rn,.rz,.rm,.rp}", ".{rn,rz,rm,rp}", "{,.ftz}"
WHOLE = ".{rni,rzi,rmi,rpi}"
RELATION = "{eq,ne,lt,le,gt,ge}"
ORDER = "{eq,ne,lt,le,gt,ge,equ,neu,ltu,leu,gtu,geu,num,nan}"

TABLE = (
    # integers
    ("9.7.1.1 add", f"add.{PACKED}", typed(np.add, 2)),
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
    ("9.7.1.12 min", f"min.{PACKED}", typed(np.minimum, 2)),
    ("9.7.1.13 max", f"max.{PACKED}", typed(np.maximum, 2)),
    ("9.7.1.14 popc", "popc.{b32,b64}", typed(it.count, 1, "u32")),
    ("9.7.1.15 clz", "clz.{b32,b64}", typed(it.leading, 1, "u32")),
    ("9.7.1.16 bfind", "bfind.shiftamt.{u32,u64}", typed(it.shift_amount, 1, "u32")),
    ("9.7.1.18 brev", "brev.{b32,b64}", typed(it.reverse, 1)),
    ("9.7.1.19 bfe", "bfe.{u32,u64,s32,s64}", typed(it.extract, ("", "u32", "u32"))),
    ("9.7.1.20 bfi", "bfi.{b32,b64}", typed(it.insert, ("", "", "u32", "u32"))),
    ("9.7.2 extended precision", "{add,sub,mad.lo,mad.hi}.cc.{u32,s32,u64,s64}", it.extended),
    ("9.7.2 extended precision", "{addc,subc,madc.lo,madc.hi}{,.cc}.{u32,s32,u64,s64}", it.extended),
    # floating point
    ("9.7.3.2 copysign", "copysign.{f32,f64}", typed(it.copysign, 2)),
    ("9.7.3 add, sub, mul", f"{{add,sub,mul}}{R}{FTZ}.{{f32,f32x2}}", ar.arithmetic),
    ("9.7.3 add, sub, mul", f"{{add,sub,mul}}{R}.f64", ar.arithmetic),
    ("9.7.3.6 fma", f"fma{TO}{FTZ}.{{f32,f32x2}}", ar.arithmetic),
    ("9.7.3.6 fma", f"fma{TO}.f64", ar.arithmetic),
    ("9.7.3.8 div, 9.7.3.13 rcp, 9.7.3.15 sqrt", f"{{div,rcp,sqrt}}{TO}{FTZ}.f32", ar.rounded),
    ("9.7.3.8 div, 9.7.3.13 rcp, 9.7.3.15 sqrt", f"{{div,rcp,sqrt}}{TO}.f64", ar.rounded),
    ("9.7.3.9 abs, 9.7.3.10 neg", f"{{abs,neg}}{FTZ}.f32", ar.sign),
    ("9.7.3.9 abs, 9.7.3.10 neg", "{abs,neg}.f64", ar.sign),
    ("9.7.3.11 min, 9.7.3.12 max", f"{{min,max}}{FTZ}{{,.NaN}}{{,.xorsign.abs}}.f32", ar.extreme),
    ("9.7.3.11 min, 9.7.3.12 max", "{min,max}.f64", ar.extreme),
    ("9.7.3 approximations", f"{{rcp,sqrt,rsqrt,sin,cos,lg2,ex2}}.approx{FTZ}.f32", ar.approximate),
    ("9.7.3.8 div", f"div.{{approx,full}}{FTZ}.f32", ar.approximate),
    ("9.7.3.16 rsqrt", "rsqrt.approx.f64", ar.approximate),
    ("9.7.3.14 rcp, 9.7.3.17 rsqrt", "{rcp,rsqrt}.approx.ftz.f64", ar.coarse),
    ("9.7.3.22 tanh", "tanh.approx.f32", ar.approximate),
    # half precision, and single with an operand of half
    ("9.7.4 add, sub, mul", "{add,sub,mul}{,.rn}.{f16,f16x2,bf16,bf16x2}", ar.arithmetic),
    ("9.7.4.4 fma", "fma.rn.{f16,f16x2,bf16,bf16x2}", ar.arithmetic),
    ("9.7.4 neg, abs", "{neg,abs}.{f16,f16x2,bf16,bf16x2}", ar.sign),
    ("9.7.4 min, max", "{min,max}{,.NaN}{,.xorsign.abs}.{f16,f16x2,bf16,bf16x2}", ar.extreme),
    ("9.7.5 mixed precision", "{add,sub}{,.rn}.f32.{f16,bf16}", ar.arithmetic),
    ("9.7.5 mixed precision", "fma.rn.f32.{f16,bf16}", ar.arithmetic),
    # comparison and selection
    ("9.7.6 setp", f"setp.{RELATION}.{{b16,b32,b64,u16,u32,u64,s16,s32,s64}}", ar.compare),
    ("9.7.6 setp", f"setp.{ORDER}{FTZ}.f32", ar.compare),
    ("9.7.6 setp, 9.7.7 setp", f"setp.{ORDER}.{{f64,f16,f16x2,bf16,bf16x2}}", ar.compare),
    ("9.7.7 set", f"set.{ORDER}.f16x2.f16x2", ar.compare_pair),
    ("9.7.6 selp", f"selp.{ANY}", typed(lambda a, b, p: np.where(p, a, b), ("", "", "pred"))),
    # logic and shift
    ("9.7.8 and", "and.{pred,b16,b32,b64}", typed(np.bitwise_and, 2)),
    ("9.7.8 or", "or.{pred,b16,b32,b64}", typed(np.bitwise_or, 2)),
    ("9.7.8 xor", "xor.{pred,b16,b32,b64}", typed(np.bitwise_xor, 2)),
    ("9.7.8 not", "not.{pred,b16,b32,b64}", typed(np.invert, 1)),
    ("9.7.8 lop3", "lop3.b32", typed(it.lookup, 4)),
    ("9.7.8 shf", "shf.l.wrap.b32", typed(it.funnel_left, 3)),
    ("9.7.8 shf", "shf.r.wrap.b32", typed(it.funnel_right, 3)),
    ("9.7.8 shl", "shl.{b16,b32,b64}", typed(it.left, ("", "u32"))),
    ("9.7.8 shr", "shr.{b16,b32,b64,u16,u32,u64,s16,s32,s64}", typed(it.right, ("", "u32"))),
    # data movement and conversion
    ("9.7.9 mov", f"mov.{{pred,{ANY[1:]}", typed(lambda x: x, 1)),
    (
        "9.7.9 cvta",
        "cvta{,.to}.{global,shared,local,const,param,shared::cta,shared::cluster}.u64",
        typed(lambda x: x, 1),
    ),
    ("9.7.9 mapa", "mapa{,.shared::cluster}.{u32,u64}", typed(lambda a, rank: a, ("", "u32"))),  # of a cluster of one
    ("9.7.9 prmt", "prmt.b32", typed(it.permute, 3)),
    ("9.7.9 cvt", f"cvt.{BYTES}.{BYTES}", ar.convert),
    ("9.7.9 cvt", f"cvt{WHOLE}{FTZ}.{BYTES}.f32", ar.convert),
    ("9.7.9 cvt", f"cvt{WHOLE}.{BYTES}.{{f64,f16,bf16}}", ar.convert),
    ("9.7.9 cvt", f"cvt{TO}.{{f16,bf16,f32,f64}}.{BYTES}", ar.convert),
    ("9.7.9 cvt", f"cvt{FTZ}.{{f32.f16,f32.bf16,f64.f32}}", ar.convert),
    ("9.7.9 cvt", "cvt.f64.{f16,bf16}", ar.convert),
    ("9.7.9 cvt", f"cvt{TO}{FTZ}.f32.f64", ar.convert),
    ("9.7.9 cvt", f"cvt{TO}.{{f16,bf16}}.{{f32,f64}}", ar.convert),
    ("9.7.9 cvt", "cvt.bf16.f16", ar.convert),  # Triton writes no direction where any is exact: for a float of 8 bits
    ("9.7.9 cvt", f"cvt{WHOLE}{FTZ}.f32.f32", ar.convert),
    ("9.7.9 cvt", f"cvt{WHOLE}.f64.f64", ar.convert),
    ("9.7.9 cvt", f"cvt{FTZ}.sat.f32.f32", ar.convert),
    ("9.7.9 cvt", "cvt.rna.tf32.f32", ar.convert),
    ("9.7.9 cvt", "cvt.{rn,rz}.{f16x2,bf16x2}.f32", ar.convert_pair),
    ("9.7.9 cvt", "cvt.rn.satfinite.{e4m3x2,e5m2x2}.{f32,f16x2}", ar.convert_pair),
    ("9.7.9 cvt", "cvt.rn.f16x2.{e4m3x2,e5m2x2}", ar.convert_pair),
    ("9.7.9 cvt", "cvt.rn.satfinite.{e2m3x2,e3m2x2,e2m1x2}.f32", ar.convert_pair),
    ("9.7.9 cvt", "cvt.rn.f16x2.{e2m3x2,e3m2x2}", ar.convert_pair),
    ("9.7.9 cvt", "cvt.rn.f16x2.e2m1x2", ar.convert_nibbles),
    ("9.7.9 cvt", "cvt.{rz,rp}{,.satfinite}.ue8m0x2.f32", ar.convert_power),
    ("9.7.9 cvt", "cvt.rn.bf16x2.ue8m0x2", ar.convert_from_power),
)


def expand(spelling: str) -> list[str]:
    """Every word that braces spell: "a{,.b}.{c,d}" is a.c, a.d, a.b.c, a.b.d."""
    parts = [part[1:-1].split(",") if part[0] == "{" else [part] for part in re.findall(r"\{.*?\}|[^{}]+", spelling)]
    return ["".join(word) for word in itertools.product(*parts)]


OPCODES = {opcode: (section, build) for section, spelling, build in TABLE for opcode in expand(spelling)}


@cache
def semantics(opcode: str, approximation: Approximation | None = None, operands: int = 0) -> Semantics:
    """What an instruction computes, from its spelling.

    approximation  moves the results of approximate functions; None leaves them at the nearest number
    operands       number of sources as written; min and max.f32 take a third

    Raises UnknownOpcode for a spelling that is not in the table, with the reason if its family is refused.
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
