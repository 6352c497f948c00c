"""What a quantised format must lose, and what code loses beside: see verdict.py.

grids, groups, packing    the parts of a format; format, fields, catalogue: the formats, and what fits none
scales, bounds, ties      every number that a format permits, in exact bounds; ties that a rounding moves
computation               a format step by step; hypotheses/: the same with one step wrong
cases, verdict            what is asked of a quantiser, and the answer; explanation, guard: what was done instead
faults/                   quantisers with the bugs that real projects have had
"""
