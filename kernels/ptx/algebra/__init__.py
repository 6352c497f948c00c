"""The same algebra, bit for bit: what two kernels compute, apart from the order in which they round.

    ptx.same_algebra(split, unsplit, q, k, v, out)     # two launchers of the same arrays
    ptx.same_algebra(launcher, ring.formula(f), x, out)  # a kernel and the formula, in Python

Floats do not add up alike in two orders, so that kernels of one algebra differ in their last bits, and a tolerance that
allows this allows faults. Triton's instrumentation "fpsan" (3.8 and later) makes floats a ring: each is an integer
modulo 2**w, its payload, sums and products are those of integers, and exp turns sums into products. There every order
is exact: equal algebra gives equal bits in any dtype, and almost any fault gives others. Triton wants a GPU for it;
here the PTX machine runs the instrumented code.

What the ring is not. An answer names the operations that it cannot judge, those that

    part what is equal                           since in the ring
    softmax with its max and without             max is that of payloads, and no rounding or overflow is there; both are
                                                 exp(x) / sum, yet the sum is even or odd, and the even have no inverse
    masks by -inf, of tiles of different sizes   exp(-inf) is not 0: dead slots weigh; tl.expect_zero(p, dead) mends it
    2 * x and x + x, x / 2 and 0.5 * x           only 0, 1 and -1 are themselves; other constants are any numbers
    x / x and 1, (x / y) * y and x               even payloads have no inverse
    sqrt(x)**2 and x, log(exp(x)) and x          roots, logarithms, erf, floor and ceil have no theorems
    tl.where(x > y, x, y) and tl.maximum(x, y)   comparisons are those of the scrambled bits
    atomic sums in two orders                    tl.atomic_add adds scrambled bits as floats
    |x| and max(x, -x); int to float             left as they are, as is a bitcast

    hide what is different                       since in the ring
    terms lost to a narrower dtype (3.8)         narrowing drops high bits, where exp has nearly all that it knows
    float16 and bfloat16 between two kernels     conversions of one width keep the payload
    exp of what differs by 2**(3w/4)             exp has a period
    overflow, NaN, rounding, accuracy            none is there

tests/kernels/ptx/algebra/pairs.md lists pairs and what came of each. In files: embedding (the ring's operations),
ring (arrays of it), same (the check), outside and torch_outside (what it cannot judge), verdict.
"""
