"""SplitMix64: a random number is a hash of its place, so any one can be drawn alone, in any order, on any machine.

Output i of the generator with state s is mix(s + (i + 1)·GAMMA), all modulo 2⁶⁴.
Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
"""

import numpy as np

GAMMA = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio
MIX = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix(z):
    """The hash of uint64 numbers, an array of any shape, made in place."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(MIX[0])
    z ^= z >> np.uint64(27)
    z *= np.uint64(MIX[1])
    z ^= z >> np.uint64(31)
    return z
