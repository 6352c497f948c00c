"""What runs beside a program's threads, and what they know of it: mbarriers, the async proxy, named barriers.

clocks      happens-before in one program's shared memory: vector clocks of its warps
ordering    who wrote and read each byte of shared memory, held against those clocks
barriers    barriers by number, of all threads or of a part
mbarrier    barriers that are objects in shared memory; instructions, those on them
proxy       shared memory as the async proxy reads and writes it: bulk copies, wgmma, tcgen05

Only programs with such instructions have clocks; in all others a barrier is one for the whole program, and shared.py
needs no more than to count it.
"""
