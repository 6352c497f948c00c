"""From scenes to findings: each scene on a fresh pool, the first that departs breaks the promise."""

from collections.abc import Callable, Iterable

from ..report import BROKEN, HELD, NOT_CHECKED, Finding, NotChecked
from .counting import comes_back, out_of_blocks
from .scene import Departure, PoolTrial, Scene

Play = Callable[[Scene], None]


def played(
    trial: PoolTrial, plays: Iterable[Play], held: str, broken: str, *, claims=False, shares=False, poison=None
) -> Finding:
    """Play the scenes and say how the promise was kept.

    held, broken  what is said then; to `broken` the calls and the difference are added
    claims        True: what kept() says must not be more than what the pool has seen since its last reset
    shares        True: the promise is about tokens taken from the cache; NotChecked where kept() says none ever was
    poison        what dead places are filled with before each call; None: left alone. A scene that departs where they
                  are filled with 0, too, is left to the other promises

    Scenes that need a method which the pool lacks are left out; NotChecked if none could be played.
    """
    done: list[Scene] = []
    missing = None
    for play in plays:
        s = Scene(trial, claims=claims, poison=poison)
        try:
            play(s)
        except NotImplementedError as lack:
            missing = missing or lack
            continue
        except (Departure, MemoryError) as departure:
            if poison is not None and departs(trial, play):
                missing = NotChecked("where dead places hold zeros a sequence is wrong, too; see the other promises")
                continue
            words = out_of_blocks(s) if isinstance(departure, MemoryError) else departure
            return Finding(BROKEN, f"{broken}: {words}", {"error": s.error})
        done.append(s)
    if not done:
        raise missing or NotChecked("there is nothing to play")
    if poison is not None and not any(s.poisoned for s in done):
        raise NotChecked("buffers() shows no dead place")
    kept = [s.kept for s in done if s.kept is not None]
    if shares and kept and not any(kept):
        raise NotChecked("kept() says that no token was taken from the cache")
    return summed_up(trial, done, held, sum(kept) if shares and kept else None)


def departs(trial: PoolTrial, play: Play) -> bool:
    """Whether a scene departs where dead places hold zeros."""
    try:
        play(Scene(trial, poison=0.0))
    except (Departure, MemoryError):
        return True
    return False


def summed_up(trial: PoolTrial, done: list[Scene], held: str, kept: int | None) -> Finding:
    """The finding of scenes of which none departed."""
    numbers: dict[str, float] = {"error": max(s.error for s in done), "scenes": len(done)}
    numbers |= {} if trial.bar is None else {"bar": trial.bar}
    numbers |= {} if kept is None else {"kept": kept}
    if any(s.open for s in done):
        reason = f"differs by {numbers['error']:.1e}, and {trial.dtype} logits cannot tell rounding from a bug"
        return Finding(NOT_CHECKED, f"{reason}; run it in float32 or float64 as well", numbers)
    how = (
        "bit for bit" if all(s.bits for s in done) else f"within rounding ({numbers['error']:.1e}, bar {trial.bar:.0e})"
    )
    more = "" if kept is None else f", {kept} tokens taken from the cache"
    return Finding(HELD, f"{held}, {how} ({scenes(len(done))}{more})", numbers)


def scenes(count: int) -> str:
    return f"{count} scene{'s' if count > 1 else ''}"


def counted(trial: PoolTrial, promises: dict[str, Iterable[Play]]) -> Finding:
    """After every scene of every promise, once all is freed, as many blocks are free as at the start."""
    probe = Scene(trial, judged=False)
    probe.needs("free_blocks", "free")
    count = 0
    for promise, plays in promises.items():
        for play in plays:
            try:
                lost = comes_back(play, trial)
            except (MemoryError, Departure):
                continue  # that promise's own check says it
            if lost:
                return Finding(BROKEN, f"blocks are lost or freed twice ({promise}): {lost}")
            count += 1
    return Finding(HELD, f"every block comes back ({scenes(count)})", {"scenes": count})
