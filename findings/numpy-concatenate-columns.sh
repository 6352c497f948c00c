#!/usr/bin/env bash
# What: numpy.concatenate of rows that broadcast_to repeats gives an array in columns, Fortran's order, where the same
# rows copied one by one would give one in rows.
# Surprise: the values are the same, and the stride of 0 alone decides in which order the result lies. In columns, its
# reshape(-1) is a copy, and what is written through that is lost without a word; in rows it is a view.
# With a KV cache: a batch made of one repeated row and others, written through a flat view, keeps its old numbers.
# Wrap it in np.ascontiguousarray, or concatenate into out=.
# Seen 2026-11-30, Python 3.11.7, CPU:
#   numpy 2.4.6: 3 + 2 repeated rows of 4: F_CONTIGUOUS, a write through reshape(-1) lost; copied rows: C_CONTIGUOUS, kept
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile numpy==2.4.6
cat > "$dir/find.py" <<'EOF'
import sys

import numpy as np


def written(parts: list[np.ndarray]) -> tuple[str, bool]:
    """The order of what concatenate makes of rows, and whether a write through its flat form arrives."""
    whole = np.concatenate(parts)
    flat = whole.reshape(-1)
    flat[0] = 7
    order = "C_CONTIGUOUS" if whole.flags.c_contiguous else "F_CONTIGUOUS" if whole.flags.f_contiguous else "neither"
    return order, whole[0, 0] == 7


row = np.arange(4)
repeated = [np.broadcast_to(row, (n, 4)) for n in (3, 2)]
found, usual = written(repeated), written([x.copy() for x in repeated])
if found != ("F_CONTIGUOUS", False) or usual != ("C_CONTIGUOUS", True):
    sys.exit(f"changed: repeated rows {found}, copied ones {usual}")
print(
    f"numpy {np.__version__}: 3 + 2 repeated rows of 4: {found[0]}, a write through reshape(-1) lost; "
    f"copied rows: {usual[0]}, kept"
)
EOF
cd "$dir" && "$dir/venv/bin/python" -I find.py
