"""The same algebra, bit for bit: what two kernels compute, apart from the order in which they round.

    ptx.same_algebra(split, unsplit, q, k, v, out)  # two launchers of the same arrays
    ptx.same_algebra(split, attention, q, k, v, out)  # a launcher, and the formula in Python under @ring.formula

Floats do not add up alike in two orders, so that kernels of one algebra differ in their last bits, and a tolerance that
allows this allows faults. Triton's instrumentation "fpsan" (3.8 and later) makes floats a ring: each is an integer
modulo 2**w, its payload, sums and products are those of integers, and exp turns sums into products. There every order
is exact: equal algebra gives equal bits in any dtype, and almost any fault gives others. Triton wants a GPU for it;
here the PTX machine runs the instrumented code.

What the ring is not. A verdict names the operations that it cannot judge: of those that

    part what is equal                            in the ring
    softmax without its max, of 2n terms          each exp is odd, their sum even, and the even have no inverse
    masks by -inf, in tiles of different sizes    exp(-inf) is not 0: dead slots weigh. tl.expect_zero(p, dead) mends it
    2 * x and x + x, x / 2 and 0.5 * x            only 0, 1 and -1 are themselves; other constants are any numbers
    x / x and 1, x / y * y and x, x / (y * z)     even payloads have no inverse
    sqrt(x)**2 and x, log(exp(x)) and x           roots, logarithms, erf, floor and ceil have no theorems
    tl.where(x > y, x, y) and tl.maximum(x, y)    one goes by scrambled floats, the other by payloads
    max(x, y) + z and max(x + z, y + z)           payloads wrap around
    atomic sums in two orders                     tl.atomic_add adds scrambled bits as floats
    f16 sums and products, and those of widened   16 bits wrap around sooner than 32; so does tl.dot with
    terms                                         out_dtype=tl.float16
    s * x and x + x, s = 2.0 an argument          it is any number, as constants are
    desc.atomic_add twice, and load + v + v       descriptors add scrambled bits as floats, as atomics do
    narrowed sums and sums of narrowed terms      3.9 folds the bits that it drops into the others; in 3.8 they agree

    hide what is different                        in the ring
    x * 2.0 * 2.0 * 2.0 * 2.0 * 2.0               2.0 is divisible by 2**7 (float16: 2**4): products with it vanish
    what a conversion to 16 bits drops (3.8)      weights differ from bit 8 on, and a softmax of 2**n terms multiplies
                                                  by 2**n: two rows of V swapped among 256 leave a float16 output as it
                                                  was, and float32 shows them
    float16 and bfloat16 between two kernels      conversions of one width keep the payload
    exp2 of what differs by 2**24 (float32)       exp2 has a period
    0 / 0                                         is 0
    overflow, NaN, rounding, accuracy             there is none

What torch computes between kernels is real arithmetic, and named; what NumPy does there is not watched.

tests/kernels/ptx/algebra/pairs.md lists pairs and what comes of each. In files: embedding (the ring's operations), ring
(arrays of it), same (the check), sides (what it runs), outside and torch_outside (what it cannot judge), verdict.
"""
