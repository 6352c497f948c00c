"""Saved logits as a subject (see __init__.py): pairs of files, each pair a rung of the judge's ladder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ....reference.judge.ladder import GATE, UNSHIFTED
from ....reference.judge.parity import DTYPES
from ....reference.judge.rounding import roundoff
from ....reference.judge.verdict import BUG, INCONCLUSIVE, ROUNDING, Verdict, decide

SUFFIXES = (".npy", ".npz", ".safetensors")
NARROW_FIRST = ("bfloat16", "float16", "float32", "float64")
OWN = "float64's own, assumed since saved logits take no shift"
RAW_BFLOAT16 = np.dtype("V2")  # as np.load gives what ml_dtypes' bfloat16 was saved as


class LogitsSubject:
    """Logits that two paths left in files, (n, V) or (B, n, V): a under test, b trusted.

    pairs   (file of a, file of b), a pair per dtype
    dtypes  what each pair was computed in; where it is empty, the narrowest dtype that holds all of its numbers
    dtype   the one in question, in the end the narrowest pair's where None came

    Raises ValueError for what holds no logits and what does not fit together, OSError for what cannot be read.
    """

    question = "the first logits against the second"

    def __init__(self, pairs: Sequence[Sequence[str]], dtypes: Sequence[str] = (), dtype: str | None = None):
        if dtypes and len(dtypes) != len(pairs):
            raise ValueError(
                f"--dtypes names {len(dtypes)} for {len(pairs)} pairs of logits; name one for each --logits"
            )
        if not dtypes and dtype is not None and len(pairs) == 1:
            dtypes = (dtype,)
        self.said = bool(dtypes)
        self.rungs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.names: dict[str, Sequence[str]] = {}
        self.notes: list[str] = []
        for i, pair in enumerate(pairs):
            self._add(pair, dtypes[i] if dtypes else None)
        self.dtype = dtype or next(name for name in NARROW_FIRST if name in self.rungs)
        if self.dtype not in self.rungs:
            raise ValueError(f"--dtype is {self.dtype}, and logits came in {', '.join(self.rungs)}; add that pair")
        self.name_a, self.name_b = self.names[self.dtype]

    def _add(self, pair: Sequence[str], said: str | None) -> None:
        if Path(pair[0]).resolve() == Path(pair[1]).resolve():
            raise ValueError(f"{pair[0]} came twice in one --logits; name the file of either path")
        read = [read_logits(Path(name)) for name in pair]
        shapes = [x.shape for x, _ in read]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{pair[0]} holds logits {shapes[0]} and {pair[1]} {shapes[1]}; both need the same positions"
            )
        wider = next(iter(self.rungs.values()), (read[0][0],))[0]
        if wider.shape != shapes[0]:
            raise ValueError(
                f"{pair[0]} holds logits {shapes[0]}, another pair {wider.shape}; pairs are of the same ones"
            )
        held = min((kind for _, kind in read), key=NARROW_FIRST.index)
        dtype = said or held
        if NARROW_FIRST.index(held) < NARROW_FIRST.index(dtype):
            raise ValueError(
                f"{' or '.join(pair)} holds numbers of {held} alone, so it was not computed in {dtype}; "
                f"say {held}, or save it before it is rounded"
            )
        if dtype in self.rungs:
            raise ValueError(f"two pairs came in {dtype}; each --logits is a rung of its own dtype")
        if said is None:
            self.notes.append(f"{pair[0]} and {pair[1]} are taken for {dtype}, by the numbers they hold")
        self.rungs[dtype], self.names[dtype] = (read[0][0], read[1][0]), pair

    def paths(self, dtype: str, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """The pair in that dtype, float64.  NotImplementedError where none came, and for a shift."""
        if dtype not in self.rungs:
            raise NotImplementedError(f"no logits came in {dtype}; add --logits A B of both paths run in {dtype}")
        if shift:
            raise NotImplementedError("saved logits take no shift")
        return self.rungs[dtype]

    def qualify(self, verdict: Verdict) -> Verdict:
        """The verdict, INCONCLUSIVE where it hangs on a dtype that nobody has said, or on what float64 has inside."""
        if verdict.verdict == ROUNDING:
            return self._in_float64(verdict)
        rung = verdict.rungs[-1]
        narrow = GATE * UNSHIFTED * roundoff("bfloat16") * rung.size
        unsaid = not self.said and len(self.rungs) == 1
        if verdict.verdict != BUG or not unsaid or not rung.error <= narrow:
            return verdict
        reason = (
            f"They differ by {rung.error:.2g}. If they were computed in {rung.dtype} it is a bug, since rounding "
            f"explains {rung.gate:.1e} there; computed in bfloat16 and saved in {rung.dtype}, it may be rounding. To "
            f"settle it say --dtypes {rung.dtype} or --dtypes bfloat16, and give a wider pair, both paths in float64."
        )
        return replace(verdict, verdict=INCONCLUSIVE, reason=f"{reason} Asked: {self.question}.")

    def _in_float64(self, verdict: Verdict) -> Verdict:
        """ROUNDING, where float64's own explains what differs in float64; the ladder's gate assumes float32 inside."""
        rungs = []
        for rung in verdict.rungs:
            own = GATE * UNSHIFTED * roundoff("float64") * rung.size
            if rung.dtype == "float64" and not rung.excluded and rung.error > own:
                reason = (
                    f"They differ by {rung.error:.2g}; float64's own rounding explains up to {own:.1e}: a bug, "
                    f"if nothing in either path is float32 inside. With float32 inside {rung.gate:.1e} is "
                    "rounding. To settle it compute in float64 throughout and save both anew; if they do not, that "
                    f"pair is --dtypes float32. Asked: {self.question}."
                )
                return replace(verdict, verdict=INCONCLUSIVE, reason=reason)
            fine = rung.dtype == "float64" and not rung.excluded
            rungs.append(replace(rung, gate=own, noise=own / GATE, note=OWN) if fine else rung)
        word, reason = decide(self.dtype, rungs)
        return replace(verdict, verdict=word, reason=f"{reason} Asked: {self.question}.", rungs=rungs)


def read_logits(path: Path) -> tuple[np.ndarray, str]:
    """(logits (B, n, V) float64, the narrowest dtype that holds them all) of a .npy, .npz or .safetensors file.

    Raises ValueError, in one line, for what is no array of floats, OSError for what is not there.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file; save logits as one")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file in it")
    x = from_safetensors(path) if path.suffix == ".safetensors" else from_numpy(path)
    if x.dtype == RAW_BFLOAT16:
        x = x.view(ml_dtypes.bfloat16)
    if x.dtype.kind == "f":
        x = x.astype(x.dtype.newbyteorder("="), copy=False)  # of another machine's byte order
    stored = str(x.dtype)
    if stored not in DTYPES:
        kind = "whole numbers, such as token ids" if x.dtype.kind in "iub" else stored
        if x.dtype.kind == "V":
            kind = f"raw bytes ({stored}), as numpy.save leaves a dtype that NumPy lacks"
        raise ValueError(
            f"{path} holds {kind}; logits are {', '.join(DTYPES[:-1])} or {DTYPES[-1]}: save them as one of these"
        )
    if x.ndim not in (2, 3) or not x.size:
        raise ValueError(f"{path} holds an array {x.shape}; logits are (n, V) or (B, n, V), of one position or more")
    wide = x.astype(np.float64)
    return wide.reshape((1,) * (3 - wide.ndim) + wide.shape), narrowest(wide, stored)


def narrowest(x: np.ndarray, stored: str) -> str:
    """The narrowest of `stored` and the dtypes below it that holds every number of x: what it was computed in, at most.

    Whole numbers and a handful of others fit any dtype and say nothing.
    """
    fine = x[np.isfinite(x)]
    telling = fine[fine != np.round(fine)]
    if stored in NARROW_FIRST[:2] or len(np.unique(telling[:4096])) < 16:
        return stored
    for name in NARROW_FIRST[: NARROW_FIRST.index(stored)]:
        with np.errstate(over="ignore"):
            if (fine.astype(name).astype(np.float64) == fine).all():
                return name
    return stored


def from_numpy(path: Path) -> np.ndarray:
    """The array of a .npy file, or the only one of a .npz; pickles are never loaded."""
    try:
        with path.open("rb") as file:
            if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
                raise ValueError(f"{path} does not begin as a {path.suffix} file does; save logits by numpy.save")
            file.seek(0)
            found = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else found[only(path, list(found.files))]
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} cannot be read ({one_line(error)}); is it whole?") from None
    except Exception as error:  # ValueError and zipfile's, zlib's and the header parser's own
        text = one_line(error)
        if "allow_pickle" in text or "Object arrays" in text:
            raise ValueError(f"{path} holds Python objects, which are never loaded; save a plain array") from None
        if text.startswith(str(path)):  # said above, or by `only`
            raise
        raise ValueError(f"{path} cannot be read ({text}); is it whole, and saved by numpy.save?") from None


def from_safetensors(path: Path) -> np.ndarray:
    """The only tensor of a .safetensors file."""
    try:
        with safe_open(path, "np") as found:
            return found.get_tensor(only(path, list(found.keys())))
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({one_line(error)}); is it whole?") from None
    except TypeError as error:  # of a dtype that NumPy lacks
        raise ValueError(f"{path} holds a dtype that NumPy lacks ({one_line(error)})") from None


def only(path: Path, names: Sequence[str]) -> str:
    if len(names) != 1:
        what = ", ".join(names[:5]) or "nothing"
        raise ValueError(f"{path} holds {len(names)} arrays ({what}); save one array of logits per file")
    return names[0]


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
