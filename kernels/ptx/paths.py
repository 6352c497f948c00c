"""The ways that control may take between a program's instructions, and what is still to be read on them."""

from .decode import Step


def follows(steps: list[Step], n: int) -> list[int]:
    """Where control may go after an instruction; len(steps) is the end."""
    s = steps[n]
    if s.control == "branch":
        return [s.target, n + 1] if s.guard else [s.target]
    if s.control in ("leave", "trap"):
        return [n + 1] if s.guard else []
    return [n + 1]


def reachable(steps: list[Step], starts: list[int]) -> set[int]:
    found, todo = set(), list(starts)
    while todo:
        n = todo.pop()
        while n < len(steps) and n not in found:
            found.add(n)
            if steps[n].control:
                todo += follows(steps, n)
                break
            n += 1
    return found


def liveness(steps: list[Step], reads: list[int]) -> list[int]:
    """For each instruction, and for the end, the slots that may be read before they are written: backward dataflow.

    reads  by instruction, slots as bits; what one with a guard writes may still be read
    """
    live = [0] * (len(steps) + 1)
    changed = True
    while changed:
        changed = False
        for n in range(len(steps) - 1, -1, -1):
            s = steps[n]
            out = 0 if s.control in ("leave", "trap") and not s.guard else live[n + 1]
            if s.control == "branch":
                out = live[s.target] | (live[n + 1] if s.guard else 0)
            now = (out if s.instruction.guard else out & ~s.writes) | reads[n]
            if now != live[n]:
                live[n], changed = now, True
    return live
