"""Scenes of sequences side by side: alone, in company, with a prefix in common, from a fork."""

from collections.abc import Iterator
from functools import partial

from .scene import Scene, Tokens

# A scene is played on a fresh pool; it starts, extends and frees sequences, and each answer is held to the lone run's.


def borders(page: int) -> tuple[int, ...]:
    """Lengths beside and at the borders of the first two blocks."""
    return tuple(sorted({max(1, n) for n in (page - 1, page, page + 1, 2 * page, 2 * page + 1)}))


def growing(page: int) -> Iterator:
    def pieces(cut: int, s: Scene):
        text = s.trial.text(3 * page + 2)
        owner = s.start(text[:cut])
        s.extend(owner, text[cut : 2 * page + 1])
        for token in text[2 * page + 1 :]:
            s.extend(owner, (token,))

    def one_by_one(s: Scene):
        text = s.trial.text(2 * page + 2)
        owner = s.start(text[:1])
        for token in text[1:]:
            s.extend(owner, (token,))

    yield one_by_one
    yield from (partial(pieces, cut) for cut in borders(page)[:-1])


def together(page: int) -> Iterator:
    def in_turn(s: Scene):
        owners = [s.start(s.trial.text(n, i)) for i, n in enumerate((page - 1 or 1, 2 * page, 2 * page + 1))]
        for size in (1, 2, 1):
            for i, owner in enumerate(owners):
                s.extend(owner, tail(s, owner.ids, size, i))
        if s.has("free"):
            s.free(owners[1])
        owners[1] = s.start(s.trial.text(page + 1, 3))
        for size in (1, page):
            for i, owner in ((0, owners[0]), (3, owners[1]), (2, owners[2])):
                s.extend(owner, tail(s, owner.ids, size, i))

    def in_one_pass(s: Scene):
        s.needs("extend_all")
        owners = [s.start(s.trial.text(n, i)) for i, n in enumerate((page, 2 * page + 1, 1))]
        for sizes in ((1, 1, 1), (2, 1, page + 1), (1, page, 1)):
            s.extend_all(
                owners, [tail(s, o.ids, size, i) for i, (o, size) in enumerate(zip(owners, sizes, strict=True))]
            )
        s.extend_all(owners[1:2], [tail(s, owners[1].ids, 1, 1)])
        s.extend_all(owners[::-1], [tail(s, o.ids, 1, 2 - i) for i, o in enumerate(owners[::-1])])

    yield in_turn
    yield in_one_pass


def tail(s: Scene, ids: Tokens, size: int, which: int = 0) -> Tokens:
    """The next tokens of a text at that length."""
    return s.trial.text(len(ids) + size, which)[len(ids) :]


def prefix(page: int) -> Iterator:
    """Another sequence with the same beginning comes while the first is there; both go on."""

    def parts_at(n: int, s: Scene):
        first = s.start(s.trial.text(2 * page + 2))
        second = s.start(first.ids[:n] + s.trial.text(n + 2, 1)[n:])
        s.extend(first, tail(s, first.ids, 1))
        s.extend(second, tail(s, second.ids, page, 2))
        s.extend(first, tail(s, first.ids, page))
        third = s.start(second.ids[: n + 1] + s.trial.text(n + 3, 3)[n + 1 :])
        for i, owner in enumerate((third, second, first)):
            s.extend(owner, tail(s, owner.ids, 1, i + 4))

    def begins_with_all(n: int, s: Scene):
        first = s.start(s.trial.text(n))
        second = s.start(first.ids + s.trial.text(n + 1, 1)[n:])
        third = s.start(first.ids + s.trial.text(n + page, 2)[n:])
        for size in (1, page):
            for i, owner in enumerate((first, third, second)):
                s.extend(owner, tail(s, owner.ids, size, i + 3))

    def the_same_again(n: int, s: Scene):
        owners = [s.start(s.trial.text(n)) for _ in range(3)]
        for size in (1, page):
            for i, owner in enumerate(owners):
                s.extend(owner, tail(s, owner.ids, size, i))

    def of_new_tokens(s: Scene):
        first = s.start(s.trial.text(2))
        for _ in range(2 * page):
            s.extend(first, tail(s, first.ids, 1))
        second = s.start(first.ids[: 2 * page + 1] + s.trial.text(2, 1))
        for owner in (second, first, second):
            s.extend(owner, tail(s, owner.ids, 2, 3))

    yield from (partial(play, n) for play in (the_same_again, begins_with_all) for n in borders(page))
    yield from (partial(parts_at, n) for n in (1, *borders(page)))
    yield of_new_tokens


def gone(page: int) -> Iterator:
    """The same beginning comes when its first owner is gone, before and after its blocks were used by others."""

    def comes_later(between: str, n: int, s: Scene):
        s.needs("free")
        text = s.trial.text(3 * page + 2)
        first = s.start(text[: 2 * page + 2])
        s.extend(first, tail(s, first.ids, 1))
        s.free(first)
        if between == "one other":
            s.free(s.start(s.trial.text(page + 1, 7)))
        elif between == "many others":
            s.flood()
        second = s.start(text[:n] + s.trial.text(n + 2, 1)[n:])
        third = s.start(text[: 2 * page + 3])
        s.flood()
        for owner in (second, third, second):
            s.extend(owner, tail(s, owner.ids, 2, 2))

    def leaves_early(n: int, s: Scene):
        s.needs("free")
        first = s.start(s.trial.text(2 * page + 2))
        second = s.start(first.ids[:n] + s.trial.text(n + 2, 1)[n:])
        s.free(first)
        s.flood()
        s.extend(second, tail(s, second.ids, 1, 2))
        s.start(s.trial.text(2 * page + 2))
        s.extend(second, tail(s, second.ids, page, 2))

    for n in borders(page):
        yield from (partial(comes_later, between, n) for between in ("nobody", "one other", "many others"))
        yield partial(leaves_early, n)


def past(page: int) -> Iterator:
    """The same block of tokens behind other tokens, or elsewhere, is another block."""

    def behind(other: str, s: Scene):
        block, end = s.trial.text(page, 2), s.trial.text(2, 3)
        head, strange = s.trial.text(page), s.trial.text(page, 1)
        heads = {
            "other tokens": strange,
            "the same tokens in another order": head[::-1],
            "another last token": (*head[:-1], strange[-1]),
            "another first token": (strange[0], *head[1:]),
            "nothing": (),
            "itself": block,
        }
        first = s.start(head + block + block + end)
        second = s.start(heads[other] + block + block + end)
        third = s.start(heads[other] + block + end)
        for owner in (first, second, third):
            s.extend(owner, tail(s, owner.ids, 2, 4))

    for other in ("other tokens", "the same tokens in another order", "another last token", "another first token"):
        yield partial(behind, other)
    yield partial(behind, "nothing")
    yield partial(behind, "itself")


def owners(page: int) -> Iterator:
    """A fork goes its own way, and so does what it was forked from."""

    def part(n: int, first_to_write: int, s: Scene):
        s.needs("fork")
        pair = [s.start(s.trial.text(n))]
        pair.append(s.fork(pair[0]))
        for size in (1, 2, page):
            for i in (first_to_write, 1 - first_to_write):
                s.extend(pair[i], tail(s, pair[i].ids, size, i))

    def of_a_fork(n: int, s: Scene):
        s.needs("fork")
        first = s.start(s.trial.text(n))
        second = s.fork(first)
        third = s.fork(second)
        for i, owner in enumerate((third, first, second)):
            s.extend(owner, tail(s, owner.ids, 1, i))
        fourth = s.fork(third)
        for i, owner in enumerate((fourth, third, second, first)):
            s.extend(owner, tail(s, owner.ids, 2, i))

    def outlives(which: int, n: int, s: Scene):
        s.needs("fork", "free")
        pair = [s.start(s.trial.text(n))]
        pair.append(s.fork(pair[0]))
        s.extend(pair[which], tail(s, pair[which].ids, 1, 1))
        s.free(pair.pop(which))
        s.flood()
        s.extend(pair[0], tail(s, pair[0].ids, 1, 2))
        s.start(s.trial.text(n + 2))
        s.extend(pair[0], tail(s, pair[0].ids, page, 2))

    for n in borders(page):
        yield from (partial(part, n, i) for i in (0, 1))
        yield partial(of_a_fork, n)
        yield from (partial(outlives, i, n) for i in (0, 1))
