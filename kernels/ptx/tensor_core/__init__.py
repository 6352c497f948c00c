"""Instructions of the tensor cores.

mma             mma.sync: a warp's product of matrices in registers
descriptors     where an operand of wgmma or tcgen05.mma lies in shared memory
wgmma           products of a warpgroup, sm_90
in_flight       registers of a wgmma that is under way: a dataflow analysis before the launch
tensor_memory   the memory of tcgen05, sm_100: what is allocated, written, and by whom
tcgen05         how it is allocated, loaded, stored and waited for; tcgen05_mma, the products in it
families        the instructions by name, for assemble.py
"""
