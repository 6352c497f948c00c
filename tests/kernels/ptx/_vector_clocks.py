"""Logs of accesses, by hand and at random, and what races in them by the book: by vector clocks and all pairs."""

from types import SimpleNamespace

import numpy as np

from kvproof.kernels.ptx.races import Access, find_races

T = 64  # threads of a program


def access(
    name, kind, address, *, size=4, order="", scope="", programs=(0,), epoch=0, threads=(0,), warp_epoch=None, **more
):
    """An access by these threads of these programs; address is one number, or an array (P or 1, T or 1)."""
    active = None if threads is None else np.isin(np.arange(T), threads)[None]
    passed = np.broadcast_to(epoch, len(programs))
    address = None if address is None else np.array(address, np.int64, ndmin=2)
    if isinstance(more.get("value"), int):
        more["value"] = np.full((1, 1, size), more["value"], np.uint8)
    return Access(name, kind, order, scope, np.array(programs), address, size, active, T, passed, warp_epoch, **more)


def load(name, address, **more):
    return access(name, "load", address, **more)


def store(name, address, **more):
    return access(name, "store", address, **more)


def atomic(name, address, order="acq_rel", scope="gpu", **more):
    return access(name, "atomic", address, order=order, scope=scope, **more)


def fence(name="fence", scope="gpu", **more):
    return access(name, "fence", None, size=0, order="acq_rel", scope=scope, **more)


def pairs(log):
    return {(r.first.instruction, r.second.instruction, "within" if r.within else "between") for r in find_races(log)}


def clocks(log):
    """Races by vector clocks of every thread and every pair of accesses: nothing shared with what is tested."""
    now, last, seen, fenced, offered, held, found, past = {}, {}, {}, {}, {}, {}, [], []
    N = 3 * T

    def clock(table, key):
        return table.setdefault(key, np.zeros(N, int))

    def merge(threads):
        together = np.max([clock(now, t) for t in threads], 0)
        now.update({t: together.copy() for t in threads})

    for a in log:
        turn = range(len(a.programs) * T) if a.sequence is None else a.sequence
        for i in [i for i in turn if a.active is None or np.broadcast_to(a.active, (len(a.programs), T)).flat[i]]:
            p, t = int(a.programs[i // T]), i % T
            w, me = p * 2 + t // 32, p * T + t
            warp = 0 if a.warp_epoch is None else a.warp_epoch[i // T, t // 32]
            groups = (p, a.epoch[i // T], range(p * T, p * T + T)), (("w", w), warp, range(w * 32, w * 32 + 32))
            for key, epoch, lanes in groups:
                if epoch > last.get(key, 0):
                    last[key] = epoch
                    merge(lanes)
            mine = clock(now, me)
            mine[me] += 1
            wide = a.scope in ("gpu", "sys")
            if a.kind == "fence":
                if wide:
                    mine[:] = np.maximum(mine, clock(seen, me))
                    fenced[me] = mine.copy()
                continue
            first = int(np.broadcast_to(a.address, (len(a.programs), T)).flat[i])
            if wide and a.kind != "store":
                into = mine if a.order in ("acquire", "acq_rel") else clock(seen, me)
                into[:] = np.maximum(into, clock(held, first))
            values = None if a.value is None else np.broadcast_to(a.value, (len(a.programs), T, a.size))
            value = None if values is None else bytes(values.reshape(-1, a.size)[i])
            b = SimpleNamespace(a=a, p=p, me=me, at=mine[me], value=value, low=first, epoch=a.epoch[i // T], wide=wide)
            found += [(o, b) for o in past if races(o, b, mine)]
            past.append(b)
            if a.kind != "load":
                if wide and a.order in ("release", "acq_rel"):
                    offered[me, first] = mine.copy()
                out = np.maximum(clock(offered, (me, first)), clock(fenced, me))
                keep = clock(held, first) if a.kind == "atomic" else 0
                if wide or a.kind == "store":
                    held[first] = np.maximum(keep, out if wide else 0) + np.zeros(N, int)
    return {
        (*sorted((x.a.instruction, y.a.instruction)), "within" if x.p == y.p else "between")
        for x, y in found
        if x.p != y.p or not (copied(x, past) or copied(y, past))
    }


def races(x, y, clock):
    overlap = x.low < y.low + y.a.size and y.low < x.low + x.a.size
    if x.me == y.me or not overlap or (x.a.kind == y.a.kind == "load") or clock[x.me] >= x.at:
        return False
    if x.a.order and y.a.order and (x.p == y.p or (x.wide and y.wide)):
        return False
    same = x.a.instruction == y.a.instruction and x.p == y.p and x.epoch == y.epoch
    return not (same and x.a.kind == "store" and x.value == y.value)


def copied(x, past):
    """Whether x is a weak load by a thread that leaves to others, who have loaded likewise, to write that place."""
    if x.a.kind != "load" or x.a.order:
        return False
    near = [y for y in past if (y.p, y.epoch, y.low) == (x.p, x.epoch, x.low)]
    if any(y.a.kind == "atomic" or y.a.order for y in near if y.a.kind != "load"):
        return False
    for writer in {y.me for y in near if y.a.kind != "load"}:
        mine = [y for y in near if y.me == writer]
        write = next(i for i, y in enumerate(mine) if y.a.kind != "load")
        if writer == x.me or x.a.instruction not in {y.a.instruction for y in mine[:write]}:
            return False
    return True


def random_log(rng):
    """A legal log: barriers passed only grow, each instruction is one kind of access, few places and threads."""
    codes = []
    for n in range(rng.integers(4, 9)):
        kind = rng.choice(["load", "store", "atomic", "fence"], p=[0.35, 0.3, 0.25, 0.1])
        orders = {"load": ["", "", "relaxed", "acquire"], "store": ["", "", "relaxed", "release"], "fence": ["acq_rel"]}
        order = str(rng.choice(orders.get(str(kind), ["relaxed", "acquire", "release", "acq_rel", "acq_rel"])))
        scope = str(rng.choice(["gpu", "gpu", "sys", "cta"])) if order else ""
        codes.append((f"i{n}", str(kind), order, scope))
    epochs, warps, log = np.zeros(3, int), np.zeros((3, 2), int), []
    for _ in range(rng.integers(3, 25)):
        epochs[rng.integers(3)] += rng.random() < 0.5
        warps[rng.integers(3), rng.integers(2)] += rng.random() < 0.2
        name, kind, order, scope = codes[rng.integers(len(codes))]
        programs = rng.permutation(3)[: rng.integers(1, 3)]
        active = np.zeros((len(programs), T), bool)
        active[:, rng.choice([0, 1, 2, 32, 33], rng.integers(1, 4), replace=False)] = True
        active &= rng.random((len(programs), 1)) < 0.9
        address = None
        if kind != "fence":
            address = rng.integers(3, size=(len(programs), T) if rng.random() < 0.5 else (1, 1)) * 4
        sequence = rng.permutation(np.flatnonzero(active)) if kind == "atomic" else None
        value = rng.integers(2, size=(1, T, 1)).astype(np.uint8) if kind == "store" else None
        value = None if value is None else np.broadcast_to(value, (1, T, 4))
        now = epochs[programs], warps[programs]
        log.append(Access(name, kind, order, scope, programs, address, 4, active, T, *now, value, sequence))
    return log
