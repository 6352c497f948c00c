"""Who touched a byte of shared memory last, and when, in one number.

A tag is the last access to a byte: barriers of the program passed << 40 | of the warp << 20 | who, where who
is a thread, several threads of one warp (SEVERAL + warp), several warps (ALL), or an atomic (ATOMIC). -1: none yet.
"""

PROGRAM, WARP = 40, 20
SEVERAL, ALL, ATOMIC = 1 << 16, 1 << 17, 1 << 18
WHO = (1 << WARP) - 1
