"""PTX as machine code of this CPU: a warp's lanes as vectors, a program at a time, programs over threads.

Compiled code holds every check of the NumPy form, but only as one bit: something is suspicious. Then the launch is
undone and the NumPy form runs it, which finds the words, or finds that all is well. So a check here may be coarser than
the NumPy form's, never finer: it may suspect what is right, and lets nothing pass that the NumPy form would raise.

    tiers                    when a launch is compiled, and what runs until then
    engine, arrays           one launch: its memory and its threads; undone on suspicion
    kernel, brief            a kernel's machine code, and what a launch needs of it beside that
    records, pieces, counted what a launch keeps beside the arrays, what is known of a stretch of memory, and its counts
    events                   the order of atomics
    schedule, replay         the same in a random schedule
    order                    whether happens-before orders what two programs did in one place
    plan                     what all lanes share, where they part, what outlives a stop
    flow, steering           a program -> the code of one warp, and how lanes part and meet in it
    frames, writer           what a stopped warp keeps; registers and operands
    ir, values               LLVM IR as text
    programs                 from warp to warp and program to program
    table                    which file writes an instruction: floats, conversions, formats, integers, warp, matrices,
                             memory, shared, others
    accesses, gathers        the rules of global memory, as routines
    shared_cells             those of shared memory; shared_lines: for lanes side by side; banks: bank conflicts
    twins, twin_moves        a shadow: float64 beside each number, in registers and on its way through memory
    twin_cells, carried      twins in memory, as routines; the shadow of one launch
    traced                   NumPy's functions of numbers, written as code
    asynchronous             what works beside the threads: wgmma, mbarriers, bulk (with tensor_maps), proxy; their
                             rules: clocks, ordered_cells; turns: which warp comes to an mbarrier before which
    routine                  routines: a small part of Python -> LLVM IR
    numpy_loops              exp2 and its like, NumPy's own
    lanes, context           LLVM IR for the lanes of a warp; the record of a launch
    code, disk               LLVM IR -> machine code, kept in the process and on the disk
"""
