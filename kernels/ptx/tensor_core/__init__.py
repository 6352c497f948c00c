"""Instructions of the tensor cores.

mma             mma.sync: a warp's product of matrices in registers; mma_scaled, with scaled blocks, sm_120
numbers         what the bits of a matrix, and of scales, mean
descriptors     where an operand of wgmma or tcgen05.mma lies in shared memory
wgmma           products of a warpgroup, sm_90
in_flight       registers of a wgmma or tcgen05.ld under way: a dataflow analysis before the launch
tensor_memory   the memory of tcgen05, sm_100: what is allocated, written, and by whom
tcgen05         how it is allocated and waited for; tcgen05_move, how warps load and store
tcgen05_mma     products in it; tcgen05_scaled, with scaled blocks; tcgen05_copy, what brings matrices there
families        the instructions by name, for assemble.py
"""
