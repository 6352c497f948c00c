#!/usr/bin/env bash
# What: map_batches over an actor pool starts a worker that died again, and its batch with it, without end: Ray Data sets
# max_restarts and max_task_retries to -1. max_task_retries, the keyword that bounds it, is deprecated without successor.
# Surprise: a row that kills its worker (out of memory, say) never fails the job; it holds it up for ever. The guard
# against 30 minutes without progress does not see it while other batches finish, and cannot say which row it is.
# With a decoding job: count the tries outside of the worker, and give up the row, not the job.
# Seen 2026-11-29, Python 3.11.7, CPU:
#   ray 2.60.0: the batch was begun 5 times and then let through; max_task_retries=1: ActorUnavailableError after 2
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${PYTHON:-python3}" -m venv "$dir/venv"
"$dir/venv/bin/pip" install -qq --no-compile 'ray[data]==2.60.0'
cat > "$dir/find.py" <<'EOF'
import logging
import os
import sys
import warnings
from pathlib import Path

import ray

warnings.simplefilter("ignore")
TIMES = 5  # the worker dies at the batch, but not for ever, so that this ends


class Dies:
    def __init__(self, file):
        self.file = Path(file)

    def __call__(self, batch):
        with open(self.file, "a") as file:
            file.write("begun\n")
        if len(self.file.read_text().splitlines()) < TIMES:
            os._exit(1)
        return batch


def run(name, **options):
    pool = ray.data.ActorPoolStrategy(size=1)
    rows = ray.data.range(1).map_batches(Dies, fn_constructor_args=(f"{sys.argv[1]}/{name}",), compute=pool, **options)
    try:
        rows.materialize()
        end = "done"
    except Exception as error:
        end = type(error).__name__
    return len(Path(sys.argv[1], name).read_text().splitlines()), end


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
logging.getLogger("ray.data").setLevel(logging.CRITICAL)
default, bounded = run("default"), run("bounded", max_task_retries=1)
ray.shutdown()
if default != (TIMES, "done") or bounded[0] != 2 or bounded[1] == "done":
    sys.exit(f"changed: (times begun, end) are {default} by default, {bounded} with max_task_retries=1")
print(
    f"ray {ray.__version__}: the batch was begun {default[0]} times and then let through; max_task_retries=1: "
    f"{bounded[1]} after {bounded[0]}"
)
EOF
cd "$dir" && RAY_USAGE_STATS_ENABLED=0 "$dir/venv/bin/python" -I find.py "$dir" \
    2> "$dir/errors" | grep "^ray " || { tail -n 1 "$dir/errors" >&2; exit 1; }
