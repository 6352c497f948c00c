"""The tensor memory accelerator: tensor maps, and the bulk copies that they steer.

host         tensor descriptors as arguments of a launch
tensor_map   what a map holds: its fields, their 128 bytes, and the rules for them
maps         instructions that make and change maps; reading one
opcodes      opcodes and operands of bulk copies
requests     an instruction of one thread, for all programs in lockstep
boxes        which element of a tensor lies where in shared memory
reductions   what they compute
tensor       copies and reductions of boxes of tensors
plain        copies and reductions of plain bytes, and groups of copies
global_side  global memory as bulk copies read and change it, and what races.py is to know of that

Source: PTX ISA 8.8, sections 5.5 (tensors) and 9.7.9.27 (bulk copies).
"""
