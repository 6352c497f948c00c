"""Results on disk: one JSON line per finished cell, held to the schema, never half a line.

python bench/records.py RESULTS      says whether every record is valid
"""

import argparse
import json
import os
import sys
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

SCHEMA = Path(__file__).with_name("decode.schema.json")


class BadRecord(ValueError):
    """A results file, or a record for one, is not what the schema says."""


@cache
def schema() -> dict:
    """What a record must be."""
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def check(record: dict, where: str):
    """Raises BadRecord, naming the place, unless the record fits the schema."""
    error = best_match(Draft202012Validator(schema()).iter_errors(record))
    if error:
        raise BadRecord(f"{where}: {error.json_path}: {error.message[:200]}; this kvproof writes {record_kind()}")


def record_kind() -> str:
    """The schema's name and version."""
    return schema()["properties"]["schema"]["const"]


def read(path: str | Path) -> list[dict]:
    """Every record of a results file, oldest first.  Raises BadRecord naming the line, OSError if there is no file."""
    records = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadRecord(f"{path}:{number}: no JSON: {error}") from None
        check(record, f"{path}:{number}")
        records.append(record)
    return records


def append(path: str | Path, record: dict):
    """Add a record to a results file, which holds either all of it or nothing of it, whenever the run is killed.

    Raises BadRecord for a record that breaks the schema; the file is then as it was.
    """
    check(record, "the new record")
    path = Path(path)
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    # A write may be cut short by a kill, a rename may not: so the file is replaced, not grown.
    whole = path.with_name(path.name + ".part")
    with open(whole, "wb") as file:
        file.write((path.read_bytes() if path.exists() else b"") + line)
        file.flush()
        os.fsync(file.fileno())
    os.replace(whole, path)


def main(argv: list[str] | None = None) -> int:
    """Validate a file.  Returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench/records.py", description="Hold a results file to its schema.")
    parser.add_argument("results", help="JSONL written by bench/decode.py --results")
    args = parser.parse_args(argv)
    try:
        records = read(args.results)
    except (OSError, ValueError) as error:
        print(f"bench/records.py: {error}", file=sys.stderr)
        return 1 if isinstance(error, BadRecord) else 2
    print(f"{args.results}: {len(records)} records, all {record_kind()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
