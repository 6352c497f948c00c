"""The contract's checks that only call the cache: other ways to the same tokens must give the same logits."""

import numpy as np

from .buffers import as_float64, capability
from .report import BROKEN, Finding, NotChecked, first_broken
from .trial import Trial


def unless_lossy(trial: Trial, got, want, held: str, broken: str, step=0) -> Finding:
    """`trial.compare` of two ways on which tokens are prefilled and stepped in other places.

    Raises NotChecked where they differ and the cache is lossy: a prefill reads its own tokens before they are rounded.
    """
    finding = trial.compare(got, want, held, broken, step=step)
    if finding.outcome == BROKEN and getattr(trial.make(), "lossy", False) and np.isfinite(finding.numbers["error"]):
        error = finding.numbers["error"]
        raise NotChecked(
            f"differs by {error:.1e}; the cache rounds what it keeps, a prefill reads what is not yet rounded"
        )
    return finding


def rows_apart(trial: Trial) -> Finding:
    bits = not getattr(trial.make(), "experts", False)

    def changed_in(b: int) -> Finding:
        ids = trial.ids.copy()
        ids[b] = trial.other[b]
        got, rest = trial.run(ids), [row for row in range(len(ids)) if row != b]
        if np.array_equal(got[:, b], trial.plain[:, b]):
            return Finding(BROKEN, f"other tokens in row {b} change none of its logits: its tokens are not read")
        broken = f"other tokens in row {b} change the others' logits: rows see each other"
        return trial.compare(got[:, rest], trial.plain[:, rest], "no row sees another's tokens", broken, bits)

    return first_broken(map(changed_in, range(len(trial.ids))))


def rows_permuted(trial: Trial) -> Finding:
    order = np.roll(np.arange(len(trial.ids)), 1)
    promised = bool(getattr(trial.make(), "batch_invariant", False))
    broken = "a row's logits depend on its place in the batch"
    got = trial.run(trial.ids[order])
    return trial.compare(got, trial.plain[:, order], "any order of the rows", broken, bits=promised)


def rows_reordered(trial: Trial) -> Finding:
    """Rows that change places between prefill and decode, as in a beam search, go on as they were."""
    cache, order = trial.make(), np.roll(np.arange(len(trial.ids)), 1)
    reorder = capability(cache, "reorder_rows")
    cache.prefill(trial.ids[:, : trial.prompt])
    reorder(order)
    steps = [cache.step(ids[order]) for ids in trial.ids.T[trial.prompt :]]
    got = np.stack([as_float64(logits, len(order)) for logits in steps])
    broken = "after reorder_rows() rows go on from another's past"
    return trial.compare(got, trial.plain[1:, order], "rows change places and go on", broken, step=1)


def pages_permuted(trial: Trial) -> Finding:
    cache, rng = trial.make(), np.random.default_rng(0)
    permute = capability(cache, "permute_pages")
    got = [as_float64(cache.prefill(trial.ids[:, : trial.prompt]), len(trial.ids))]
    for ids in trial.ids.T[trial.prompt :]:
        permute(rng)
        got.append(as_float64(cache.step(ids), len(ids)))
    broken = "after permute_pages() logits change: a page is read where it no longer lies"
    return trial.compare(np.stack(got), trial.plain, "pages may lie anywhere", broken, bits=True)


def reset(trial: Trial) -> Finding:
    cache = trial.make()
    forget = capability(cache, "reset")
    trial.run(trial.other, cache)
    forget()
    broken = "after reset() logits are not a fresh cache's: something of the run before is left"
    return trial.compare(trial.run(cache=cache), trial.plain, "reset() gives what a fresh cache gives", broken)


def chunks(trial: Trial) -> Finding:
    P = trial.prompt

    def prefilled(sizes: list[int]) -> Finding:
        pieces = " + ".join(map(str, sizes)) if len(sizes) < 4 else f"{P} times 1"
        broken = (
            f"a prompt prefilled as {pieces} tokens gives other logits: positions restart, or the mask is misaligned"
        )
        got = trial.run(chunks=sizes)
        return unless_lossy(trial, got, trial.plain, "prompts in pieces give what they give whole", broken)

    return first_broken(map(prefilled, ([1] * P, [P // 2, P - P // 2], [P - 1, 1])))


def growing(trial: Trial) -> Finding:
    P, T = trial.prompt, trial.ids.shape[1]
    how = "recompute()" if callable(getattr(trial.make(), "recompute", None)) else "a fresh prefill"

    def anew(n: int) -> np.ndarray:
        cache = trial.make()
        logits = cache.recompute(trial.ids[:, :n]) if how == "recompute()" else cache.prefill(trial.ids[:, :n])
        return as_float64(logits, len(trial.ids))

    want = np.stack([anew(n) for n in range(P, T + 1)])
    broken = f"growing by one token is not {how} of all: look at positions, lengths and the slot that is written"
    return unless_lossy(trial, trial.plain, want, f"growing by one token is {how} of all", broken)


def crop(trial: Trial) -> Finding:
    """After crop(n) the cache goes on as one that has read n tokens and no more."""
    P = trial.prompt

    def cropped(n: int) -> Finding:
        cache, fresh = trial.make(), trial.make()
        cut = capability(cache, "crop")
        getattr(cache, "keep_past", lambda: None)()
        trial.run(cache=cache)
        cut(n)
        fresh.prefill(trial.ids[:, : min(n, P)])
        for ids in trial.ids.T[P:n]:
            fresh.step(ids)
        steps = trial.other.T[n : n + 3]
        got, want = (np.stack([as_float64(c.step(ids), len(ids)) for ids in steps]) for c in (cache, fresh))
        broken = f"after crop({n}) logits are not those of a cache that read {n} tokens"
        return unless_lossy(trial, got, want, "crop(n) leaves a cache that read n tokens", broken, step=1)

    return first_broken(map(cropped, (P - 2, P + 1)))


def ragged(trial: Trial) -> Finding:
    B, P = len(trial.ids), trial.prompt
    lengths = [P if b == 0 else max(1, P - 1 - 2 * b) for b in range(B)]
    cache = trial.make()
    prefill = capability(cache, "prefill_ragged")
    steps = trial.ids.T[P:]
    got = [prefill([trial.ids[b, :n].tolist() for b, n in enumerate(lengths)]), *(cache.step(ids) for ids in steps)]
    alone = []
    for b, n in enumerate(lengths):
        one = trial.make()
        logits = [one.prefill(trial.ids[b : b + 1, :n]), *(one.step(ids[b : b + 1]) for ids in steps)]
        alone.append(np.stack([as_float64(row, 1)[0] for row in logits]))
    broken = f"in a batch of lengths {lengths} a row is not what it is alone: look at padding, positions and masks"
    got = np.stack([as_float64(logits, B) for logits in got])
    return unless_lossy(trial, got, np.stack(alone, 1), "rows of different lengths are what each is alone", broken)
