"""Prediction beside measurement, for who has the GPU."""

import statistics
from collections.abc import Iterator, Sequence

from .gpus import find, of_device
from .model import SPREAD, UNCERTAINTY, predict
from .work import Shape


def compare(measured: Sequence[dict]) -> list[dict]:
    """The modelled time of measured shapes, beside the measured one.

    measured  {"gpu": the table's or torch's name, "shape": {"B", "T", "H", "D", "dtype", maybe "H_kv" and "M"},
              "seconds"} each, every sequence T long
    returns   each with "predicted", seconds, "ratio", predicted / measured, and "within", whether the measurement lies
              within ±30 % of the prediction; where the GPU or the dtype is not the model's, with "skipped" instead

    Raises ValueError for a time that is not above 0.
    """
    rows = []
    for one in measured:
        if not one["seconds"] > 0:
            raise ValueError(f"{one['gpu']}, {one['shape']} took {one['seconds']} s; a time must be above 0")
        try:
            predicted = predict(of_device(one["gpu"]) or find(one["gpu"]), shape_of(**one["shape"])).seconds
        except ValueError as error:
            rows.append(one | {"skipped": str(error)})
            continue
        within = abs(one["seconds"] - predicted) <= UNCERTAINTY * predicted
        rows.append(one | {"predicted": predicted, "ratio": predicted / one["seconds"], "within": within})
    return rows


def shape_of(B: int, T: int, H: int, D: int, dtype: str, H_kv: int | None = None, M: int = 1) -> Shape:
    return Shape((T,) * B, H, H_kv, D, dtype, M)


def measured_on_gpu(records: Sequence[dict], gpu: str, peer: str = "kernel") -> list[dict]:
    """The times of one peer, ours by default, in bench/gpu/attention.py's records, where its figure stands."""
    rows = [(record["shape"], record["peers"].get(peer, {})) for record in records]
    return [
        {"gpu": gpu, "shape": shape, "seconds": row["median_us"] * 1e-6}
        for shape, row in rows
        if "median_us" in row and not row["refused"]
    ]


def in_words(rows: Sequence[dict]) -> Iterator[str]:
    held = [row for row in rows if "ratio" in row]
    if held:
        ratios, inside = [row["ratio"] for row in held], sum(row["within"] for row in held)
        yield (
            f"The model of bench/roofline is within {SPREAD} of its prediction in {inside} of {len(held)} "
            f"shapes; predicted over measured: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to "
            f"{max(ratios):.2f}."
        )
    for reason in dict.fromkeys(row["skipped"] for row in rows if "skipped" in row):
        yield f"The model has no prediction: {reason}."
