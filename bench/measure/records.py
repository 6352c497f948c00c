"""Results on disk: one JSON line per finished cell, held to the schema, never half a line.

python bench/measure/records.py RESULTS      checks every record
"""

if __name__ == "__main__":
    from kvproof.bench.program import starts

    starts()

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from kvproof.bench.program import ends, parser_for
from kvproof.gpt2.cli import output_file
from kvproof.gpt2.cli.lock import locked

DECODE, REQUESTS = "kvproof/decode/1", "kvproof/requests/1"  # kinds of records, as their "schema" names them
SCHEMAS = {DECODE: "decode.schema.json", REQUESTS: "requests.schema.json"}


class BadRecord(ValueError):
    """A results file, or a record for one, is not what the schema says."""


@cache
def schema(kind: str = DECODE) -> dict:
    return json.loads(Path(__file__).with_name(SCHEMAS[kind]).read_text(encoding="utf-8"))


def check(record: dict, where: str, kind: str = DECODE):
    """Raises BadRecord, naming the place, unless the record fits the schema of its kind."""
    from jsonschema import Draft202012Validator  # a tenth of a second, for runs that keep no record
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema(kind)).iter_errors(record))
    if error:
        raise BadRecord(f"{where}: {error.json_path}: {error.message[:200]}; this kvproof writes {kind}")


def kind_of(path: str | Path) -> str:
    """The kind of a file's records, by its first line; DECODE where that is no record.  Raises OSError."""
    try:
        named = json.loads((lines(path) or [""])[0])["schema"]
        return named if named in SCHEMAS else DECODE
    except (ValueError, RecursionError, TypeError, KeyError):
        return DECODE


def read(path: str | Path, kind: str = DECODE) -> list[dict]:
    """Every record of a results file, oldest first.  Raises BadRecord naming the line, OSError if there is no file."""
    records = []
    for number, line in enumerate(lines(path), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"{path}:{number}: no JSON: {error}") from None
        check(record, f"{path}:{number}", kind)
        records.append(record)
    return records


def lines(path: str | Path) -> list[str]:
    """The lines of a file in the form that `append` gives it, whatever an editor has made of its line ends."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRecord(f"{path}: no UTF-8 text: {error}; convert it") from None
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def append(path: str | Path, record: dict, kind: str = DECODE):
    """Add a record to a results file, which holds either all of it or nothing of it, whenever the run is killed.

    Runs that append to one file wait for each other. What is no regular file takes the line and is not read.
    Raises BadRecord for a record that breaks the schema, OSError if it cannot be written; the file is then as it was.
    """
    line = to_line(record, kind)
    path = Path(path)
    if not output_file.is_plain(path):
        output_file.write(path, line)
        return
    with locked(path, wait=True):
        # A write may be cut short by a kill, a rename may not: so the file is replaced, not grown.
        held = lines(path) if path.exists() else []
        output_file.write(path, "".join(f"{old}\n" for old in held) + line)


def to_line(record: dict, kind: str = DECODE) -> str:
    """A record as its line.  Raises BadRecord if it breaks the schema, ValueError for NaN."""
    check(record, "the new record", kind)
    return json.dumps(record, allow_nan=False) + "\n"


@contextmanager
def sink(path: Path | None, kind: str = DECODE) -> Iterator[Callable[[dict], object]]:
    """A function that keeps a record; what is no regular file is opened once, so that a pipe has one reader."""
    if path is None:
        yield lambda record: None
    elif output_file.is_plain(path):
        yield partial(append, path, kind=kind)
    else:
        with output_file.open_special(path) as file:

            def keep(record: dict):
                with output_file.naming(path):
                    output_file.pour(file, to_line(record, kind).encode())

            yield keep


def main(argv: list[str] | None = None) -> int:
    parser = parser_for("bench/measure/records.py", __doc__)
    parser.add_argument("results", help="file of bench/decode.py or bench/requests --results")
    args = parser.parse_args(argv)
    try:
        kind = kind_of(args.results)
        records = read(args.results, kind)
    except (OSError, ValueError) as error:
        print(f"bench/measure/records.py: {error}", file=sys.stderr)
        return 1 if isinstance(error, BadRecord) else 2
    print(f"{args.results}: {len(records)} records, all {kind}")
    return 0


if __name__ == "__main__":
    ends(main)
