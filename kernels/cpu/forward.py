"""The layers of a step and of a prefill, as reference/model.py has them, for any tokens of any sequences.

A row is one new token: its id, its sequence and its slot. All rows are computed alike, whatever the others are. Each
function here is one phase, which all threads run at once: they take shares of it, and meet at its end.
"""

from typing import Any, NamedTuple

from numba import from_dtype, njit, types

from .attention import append, attention, row_at
from .functions import OPTIONS, gelu, layer_norm
from .job import BLOCK, JOB, LAYER, PHASES
from .linear import linear
from .phases import Crew, all_here, count_up, meet, share
from .pointers import at, pointer, read, write
from .vectors import like, operation

LN_1, C_ATTN, ATTN_PROJ, LN_2, C_FC, MLP_PROJ = (
    LAYER.index(name + ".weight") for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
)
FIELDS = len(LAYER)  # of a layer
CHANNELS = 32  # of a linear layer, in one share


class Kinds(NamedTuple):
    """A Pointer of each dtype that a job has."""

    weight: Any
    param: Any  # of LayerNorms, biases and positions
    cache: Any
    sum: Any
    scale: Any
    index: Any
    page: Any


class Scratch(NamedTuple):
    """A thread's own memory, in the dtype of sums; rows are int64."""

    rows: Any  # (BLOCK,) the numbers of the rows of a block
    s: Any  # (BLOCK,) scores, then weights
    scales: Any  # (BLOCK,)
    q: Any  # (head_dim,) the scaled query
    part_m: Any  # (splits,)
    part_l: Any  # (splits,)
    part_acc: Any  # (splits, head_dim)


@operation
def job_at(context, address):
    """The job at an address."""
    kind = from_dtype(JOB)

    def generate(ctx, builder, signature, args):
        return builder.inttoptr(args[0], ctx.get_value_type(kind))

    return kind(types.int64), generate


@njit(**OPTIONS)
def scratch_of(job, kinds, thread):
    base = job.scratch + thread * job.scratch_size
    s = at(kinds.sum, base + 8 * BLOCK)
    q = s + 2 * BLOCK
    part_m = q + job.head_dim
    part_l = part_m + job.splits
    return Scratch(at(kinds.index, base), s, s + BLOCK, q, part_m, part_l, part_l + job.splits)


@njit(**OPTIONS)
def embed(job, kinds, crew, phase, x):
    """x = wte[ids] + wpe[slots]"""
    E = job.n_embd
    r = share(crew, phase, job.rows)
    while r < job.rows:
        token, slot = read(at(kinds.index, job.ids), r), read(at(kinds.index, job.slots), r)
        te, pe = at(kinds.weight, job.wte) + token * E, at(kinds.param, job.wpe) + slot * E
        scale = like(read(te, 0), 1.0)
        if job.int8_weights:
            scale = like(scale, read(at(kinds.scale, job.wte_scale), token))
        for i in range(E):
            write(x, r * E + i, read(te, i) * scale + read(pe, i))
        r = share(crew, phase, job.rows)
    meet(crew, phase)


@njit(**OPTIONS)
def norm(job, kinds, crew, phase, y, x, p, name):
    """y = layer_norm(x, p[name])"""
    E = job.n_embd
    weight, bias = at(kinds.param, read(p, name)), at(kinds.param, read(p, name + 1))
    r = share(crew, phase, job.rows)
    while r < job.rows:
        layer_norm(y + r * E, x + r * E, weight, bias, E, job.eps)
        r = share(crew, phase, job.rows)
    meet(crew, phase)


@njit(**OPTIONS)
def product(job, kinds, crew, phase, y, n_out, x, n_in, rows, p, name, residual, activate):
    """y = linear(x, p[name]); with residual it is added to y, with activate a GELU follows."""
    quantised, shares = job.int8_weights, (n_out + CHANNELS - 1) // CHANNELS
    w, scale = at(kinds.weight, read(p, name)), at(kinds.scale, read(p, name + 1))
    bias, biased = at(kinds.param, read(p, name + 2)), read(p, name + 2) != 0
    i = share(crew, phase, shares)
    while i < shares:
        lo, hi = i * CHANNELS, min((i + 1) * CHANNELS, n_out)
        linear(y, n_out, x, rows, w, scale, bias, n_in, quantised, biased, residual, lo, hi)
        if activate:
            for r in range(rows):
                gelu(y + r * n_out + lo, hi - lo, job.exact_gelu)
        i = share(crew, phase, shares)
    meet(crew, phase)


@njit(**OPTIONS)
def append_rows(job, kinds, crew, phase, qkv, layer):
    """Write the keys and values of all new tokens to the cache."""
    E, D = job.n_embd, job.head_dim
    table, cache = at(kinds.page, job.table), at(kinds.index, job.cache) + 4 * layer
    k, v = at(kinds.cache, read(cache, 0)), at(kinds.cache, read(cache, 1))
    k_scale, v_scale = at(kinds.scale, read(cache, 2)), at(kinds.scale, read(cache, 3))
    r = share(crew, phase, job.rows)
    while r < job.rows:
        b, slot = read(at(kinds.index, job.sequences), r), read(at(kinds.index, job.slots), r)
        for h in range(job.n_head):
            new = qkv + r * 3 * E + h * D
            row = row_at(job, table, b, h, slot)
            append(job, k, k_scale, new + E, row)
            append(job, v, v_scale, new + 2 * E, row)
        r = share(crew, phase, job.rows)
    meet(crew, phase)


@njit(**OPTIONS)
def attend_rows(job, kinds, crew, phase, o, qkv, layer, scratch):
    """Every head of every new token attends to its sequence, up to its own slot."""
    H, E, D = job.n_head, job.n_embd, job.head_dim
    table, cache = at(kinds.page, job.table), at(kinds.index, job.cache) + 4 * layer
    k, v = at(kinds.cache, read(cache, 0)), at(kinds.cache, read(cache, 1))
    k_scale, v_scale = at(kinds.scale, read(cache, 2)), at(kinds.scale, read(cache, 3))
    i = share(crew, phase, job.rows * H)
    while i < job.rows * H:
        r, h = i % job.rows, i // job.rows  # one head after another: its rows are near for all tokens of a prompt
        b, slot = read(at(kinds.index, job.sequences), r), read(at(kinds.index, job.slots), r)
        q, out = qkv + r * 3 * E + h * D, o + r * E + h * D
        attention(job, out, q, k, v, k_scale, v_scale, table, b, h, slot + 1, scratch)
        i = share(crew, phase, job.rows * H)
    meet(crew, phase)


@njit(**OPTIONS)
def block(job, kinds, crew, layer, x, normed, wide, scratch):
    """One transformer block on x (rows, n_embd), in place."""
    E, rows, phase = job.n_embd, job.rows, 2 + layer * PHASES
    p = at(kinds.index, job.layers) + layer * FIELDS
    norm(job, kinds, crew, phase, normed, x, p, LN_1)
    product(job, kinds, crew, phase + 1, wide, 3 * E, normed, E, rows, p, C_ATTN, False, False)
    append_rows(job, kinds, crew, phase + 2, wide, layer)
    attend_rows(job, kinds, crew, phase + 3, normed, wide, layer, scratch)
    product(job, kinds, crew, phase + 4, x, E, normed, E, rows, p, ATTN_PROJ, True, False)
    norm(job, kinds, crew, phase + 5, normed, x, p, LN_2)
    product(job, kinds, crew, phase + 6, wide, job.n_inner, normed, E, rows, p, C_FC, False, True)
    product(job, kinds, crew, phase + 7, x, E, wide, job.n_inner, rows, p, MLP_PROJ, True, False)


@njit(**OPTIONS)
def last_norm(job, kinds, crew, phase, y, x):
    """y = layer_norm(x, ln_f) of the rows whose logits are wanted"""
    E = job.n_embd
    weight, bias = at(kinds.param, job.ln_f), at(kinds.param, job.ln_f_bias)
    i = share(crew, phase, job.outputs)
    while i < job.outputs:
        r = read(at(kinds.index, job.output_rows), i)
        layer_norm(y + i * E, x + r * E, weight, bias, E, job.eps)
        i = share(crew, phase, job.outputs)
    meet(crew, phase)


@njit(**OPTIONS)
def forward(job, kinds, thread):
    """One thread's part in a job: new tokens in, logits of those asked for out."""
    phases = at(kinds.index, job.phases)
    if thread == 0:
        count_up(phases, 0)
    elif not all_here(phases):
        return
    x, normed, wide = at(kinds.sum, job.x), at(kinds.sum, job.normed), at(kinds.sum, job.wide)
    crew, scratch = Crew(phases, thread, job.threads), scratch_of(job, kinds, thread)
    if job.only_attention:
        if job.only_attention > 1:
            append_rows(job, kinds, crew, 1, wide, 0)
        attend_rows(job, kinds, crew, 2, normed, wide, 0, scratch)
        return
    embed(job, kinds, crew, 1, x)
    for layer in range(job.n_layer):
        block(job, kinds, crew, layer, x, normed, wide, scratch)
    phase = 2 + job.n_layer * PHASES
    last_norm(job, kinds, crew, phase, normed, x)
    head = at(kinds.index, job.head)  # the addresses of its weight, scale and bias
    logits, E = at(kinds.sum, job.logits), job.n_embd
    product(job, kinds, crew, phase + 1, logits, job.n_vocab, normed, E, job.outputs, head, 0, False, False)


def entry(weight: str, param: str, cache: str, total: str):
    """The engine for a combination of dtypes: of weights, other parameters, cache and sums.

    returns  a function of int64 (the address of a job, the number of the thread), to be compiled
    """

    def run(address, thread):
        kinds = Kinds(
            pointer(weight, total, 0), pointer(param, total, 0), pointer(cache, total, 0), pointer(total, total, 0),
            pointer("float32", total, 0), pointer("int64", total, 0), pointer("int32", total, 0),
        )  # fmt: skip
        forward(job_at(address), kinds, thread)
        return 0

    return run
