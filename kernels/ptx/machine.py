"""The scheduler: programs run in lockstep where they can and apart where they must, until each has returned.

A Block holds programs that execute together, with one register file whose values are (programs, threads) arrays. Where
a branch sends whole programs two ways the block splits; where it parts the threads of one program the block gets two
Fragments, each with a mask. The fragment at the lowest instruction runs next, so that those apart meet again at the
first one they share. With a seed, chance decides instead: which programs share a block, which of their warps go
apart, and which fragment runs after every access to global memory.
"""

import numpy as np

from .arrays import first_of
from .asynchronous.barriers import arrive, pass_together
from .asynchronous.proxy import ended
from .block import Block, Fragment, Round, World
from .deadlock import deadlock
from .decode import Step
from .drawn import ahead, teams
from .errors import DivergentBarrier, NotConverged, Trap, Unfinished, Uninitialised
from .progress import Progress, Stop
from .termination import Budget, Kept, equal

NEVER = 1 << 62  # instructions


class Machine:
    """The schedule of one launch.

    limit  instructions, each counted once for all programs in lockstep, that it may execute; None stops endless loops
    stop   asked often; once it says so, `run` returns with programs left in `blocks`
    """

    def __init__(self, world: World, *, limit: int | None = None, stop: Stop = lambda: False):
        self.stop = stop
        self.world, self.decoded, self.memory, self.random = world, world.decoded, world.memory, world.random
        self.most = self.limit = NEVER if limit is None else limit  # `limit` is how many are left
        self.budget = Budget(self.decoded) if limit is None else None
        self.blocks = [Block(world, programs) for programs in self.teams(np.arange(np.prod(world.grid)))]
        for block in self.blocks:
            parts = ahead(self.random, world.T // 32) if self.random else [None]
            block.fragments = [Fragment(0, None if x is None else np.repeat(x, 32)[None]) for x in parts]

    def teams(self, programs: np.ndarray) -> list[np.ndarray]:
        return teams(self.random, programs) if self.random else [programs]

    def run(self) -> None:
        """Execute until every program has returned. Raises what it finds, see errors.py."""
        # Having freed one large piece, glibc's malloc keeps smaller ones for reuse instead of returning each to the
        # system: the arrays of a launch come and go by the thousand, and this makes them four times as fast.
        np.empty(31 << 20, np.uint8)
        with np.errstate(all="ignore"), Progress(lambda: f"{self.most - self.limit:,} instructions") as progress:
            while self.blocks and not self.stop():
                progress.tick()
                block, fragment = self.choose()
                self.advance(block, fragment)
                if not block.fragments:
                    self.blocks.remove(block)

    def choose(self) -> tuple[Block, Fragment]:
        """The next fragment to run: the one at the lowest instruction, joined by others there; with a seed, any."""
        waits = lambda f: f.barrier is not None or (f.asleep and f.asleep())  # noqa: E731
        awake = [(f.pc, i, b, f) for i, b in enumerate(self.blocks) for f in b.fragments if not waits(f)]
        if not awake:
            return self.stuck()
        if self.random is None:
            pc, _, block, fragment = min(awake, key=lambda x: x[:2])
            for other_pc, _, other, _ in awake:
                if other_pc == pc and other is not block and self.joinable(block) and self.joinable(other):
                    block.join(len(block.programs), other, len(other.programs))
                    self.blocks.remove(other)
        else:
            _, _, block, fragment = awake[self.random.integers(len(awake))]
        self.gather(block, fragment)
        fragment.asleep = None
        return block, fragment

    @staticmethod
    def joinable(block: Block) -> bool:
        idle = not block.copies and not block.arrivals
        return idle and len(block.fragments) == 1 and block.fragments[0].active is None

    def gather(self, block: Block, fragment: Fragment) -> None:
        """Take in the block's other fragments that are at the same instruction; with a seed, those of its warps."""
        for other in [f for f in block.fragments if f is not fragment and f.pc == fragment.pc and f.barrier is None]:
            a, b = block.mask(fragment), block.mask(other)
            if self.random is None or self.related(block, fragment.pc, a, b):
                fragment.active = None if (a | b).all() else a | b
                fragment.looped = None
                block.fragments.remove(other)

    def related(self, block: Block, pc: int, a: np.ndarray, b: np.ndarray) -> bool:
        """Whether threads a and b have a warp in common or, where an instruction wants four of them, a warpgroup."""
        both = block.warps(a), block.warps(b)
        if self.decoded.steps[pc].instruction.opcode.startswith("wgmma.") and both[0].shape[1] % 4 == 0:
            both = [np.logical_or.reduce(x.reshape(len(x), -1, 4), axis=2) for x in both]
        return bool((both[0] & both[1]).any())

    def advance(self, block: Block, fragment: Fragment) -> None:
        """Run one fragment through straight code and one jump, barrier or return."""
        decoded, pc, active = self.decoded, fragment.pc, fragment.active
        block.running = active
        warps = len(block.programs) * (self.world.T // 32)
        if active is not None:
            warps = int(block.warps(active).sum()) * (len(block.programs) // len(active))
        end = decoded.end[pc]
        self.limit -= end - pc + 1
        if self.budget:
            self.budget.work += self.budget.cost(pc, end, len(block.programs) * self.world.T)
        if self.limit < 0 or (self.budget and self.budget.work > self.budget.allowed):
            self.interrupt(block, fragment)
        try:
            for step in decoded.steps[pc:end]:
                step.run(block, active)
        except NotConverged:
            end = block.number
            block.moves += end > pc
            fragment.asleep = lambda moves=block.moves: block.moves == moves
        except (AttributeError, TypeError):
            self.unwritten(block, decoded.steps[pc:end])
            raise
        self.world.counters.issued[pc:end] += warps
        fragment.pc = end
        if fragment.asleep:
            return None
        block.moves += 1
        if end == len(decoded.steps):
            return self.gone(block, fragment)
        step = decoded.steps[end]
        if step.control is None or (pc < end and sum(f.pc == end for f in block.fragments) > 1):
            return None  # a place where others may come in, or wait
        self.world.counters.issued[end] += warps
        block.instruction = step.instruction
        return getattr(self, step.control)(block, fragment, step)

    def gone(self, block: Block, fragment: Fragment) -> None:
        """The threads of a fragment have returned."""
        block.fragments.remove(fragment)
        if not block.fragments:
            ended(block, np.ones(1, bool))
        self.release(block)  # its other programs may have waited for a barrier that these threads did not reach

    def interrupt(self, block: Block, fragment: Fragment) -> None:
        """Raise Unfinished if the launch may not go on, having done as much as it may."""
        if self.limit >= 0 and self.budget and not self.budget.shows_no_end(block, fragment.pc):
            return
        done = self.most - max(self.limit, 0)
        block.instruction = self.decoded.steps[fragment.pc].instruction
        more = f"more than max_steps={self.most}" if self.most != NEVER else f"more by max_steps={100 * done}"
        what = f"the launch did not end within {done:,} instructions; if it is only long, allow {more}"
        raise block.error(Unfinished, what, *first_of(block.mask(fragment)))

    @staticmethod
    def unwritten(block: Block, steps: list[Step]) -> None:
        """Raise if a step reads a register that nothing has written, which is why it failed."""
        blank = {name: slot for name, slot in block.world.decoded.slots.items() if block.R[slot] is None}
        for step in steps:
            if found := [name for name, slot in blank.items() if step.reads >> slot & 1]:
                block.instruction = step.instruction
                raise block.error(Uninitialised, f"register {found[0]} is read, and nothing has written it", 0, 0)

    def chosen(self, block: Block, fragment: Fragment, step: Step) -> tuple[np.ndarray, np.ndarray]:
        """Of a fragment's threads, masks of those that an instruction's guard selects and of the others."""
        active = block.mask(fragment)
        if step.guard is None:
            return active, np.zeros((1, 1), bool)
        slot, negated = step.guard
        holds = block.R[slot] != negated
        return active & holds, active & ~holds

    def branch(self, block: Block, fragment: Fragment, step: Step) -> None:
        jumps, stays = self.chosen(block, fragment, step)
        source = fragment.pc
        fragment.pc += 1
        if not stays.any():
            fragment.pc = step.target
            if step.target <= source:
                self.looped(block, fragment, source)
        elif jumps.any():
            self.part(block, fragment, jumps, stays, step.target)

    def leave(self, block: Block, fragment: Fragment, step: Step) -> None:
        leaves, stays = self.chosen(block, fragment, step)
        fragment.pc += 1
        if not stays.any():
            self.gone(block, fragment)
        elif leaves.any():
            self.part(block, fragment, leaves, stays, None)

    def trap(self, block: Block, fragment: Fragment, step: Step) -> None:
        stops, _ = self.chosen(block, fragment, step)
        fragment.pc += 1
        if stops.any():
            raise block.error(Trap, "the kernel stops itself", *first_of(stops))

    def part(self, block: Block, fragment: Fragment, goes: np.ndarray, stays: np.ndarray, target: int | None) -> None:
        """Send some threads to `target`, or nowhere if it is None; the others go on."""
        if fragment.active is None and (goes == goes[:, :1]).all():  # whole programs
            rows = np.broadcast_to(goes[:, 0], len(block.programs))
            if target is None and len(block.fragments) == 1:
                ended(block, rows)
            self.blocks[self.blocks.index(block)] = block.take(~rows)
            if target is not None:
                fragment.pc = target
                self.blocks.append(block.take(rows))
            return
        if target is not None:
            block.fragments.append(Fragment(target, goes))
        fragment.active = stays

    def looped(self, block: Block, fragment: Fragment, jump: int) -> None:
        """After a jump back: a loop that has changed nothing waits for someone else to change memory."""
        if self.budget:
            self.budget.look(block, fragment.pc, jump)
        live = self.decoded.live[fragment.pc]
        now = sorted((x for i, x in enumerate(block.R) if x is not None and live >> i & 1), key=lambda x: x.size)
        before, fragment.looped = fragment.looped, Round(fragment.pc, jump, self.memory.version, now)
        still = before and before[:3] == fragment.looped[:3] and equal(before.registers, now)
        kept = fragment.kept if fragment.kept and fragment.kept.pc == fragment.pc else None
        found = "still" if still else kept.again(block, now) if kept else ""
        if found:
            fragment.looped = fragment.looped._replace(found=found)
            fragment.asleep = lambda m=self.memory, version=self.memory.version: m.version == version
        fragment.jumps += 1
        if found or fragment.jumps & (fragment.jumps - 1) == 0:
            fragment.kept = None if found else Kept(fragment.pc, self.memory.version, now)

    def barrier(self, block: Block, fragment: Fragment, step: Step) -> None:
        waits, passes = self.chosen(block, fragment, step)
        fragment.pc += 1
        mixed = waits.any(1, keepdims=True) & passes
        if mixed.any() and not step.threads:
            raise block.error(DivergentBarrier, "a barrier that this thread skips and others wait at", *first_of(mixed))
        if fragment.active is None and not mixed.any() and step.threads in (0, self.world.T):
            block.barrier_passed(waits[:, 0])
        elif waits.any():
            if passes.any():
                block.fragments.append(Fragment(fragment.pc, passes))
            fragment.active, fragment.barrier, fragment.threads = waits, step.target, step.threads
            self.release(block)

    def arrival(self, block: Block, fragment: Fragment, step: Step) -> None:
        """bar.arrive: the threads count at a barrier, and go on."""
        comes, _ = self.chosen(block, fragment, step)
        fragment.pc += 1
        if comes.any():
            arrive(block, step.target, step.threads, comes)
            self.release(block)

    def release(self, block: Block) -> None:
        """Let a block's threads pass a barrier once all of them wait at it."""
        waiting = [f for f in block.fragments if f.barrier is not None]
        if not waiting:
            return
        warps = np.broadcast_arrays(*(block.warps(f.active) for f in waiting))
        first, last = (
            function.reduce([np.where(w, f.pc, none) for f, w in zip(waiting, warps, strict=True)])
            for function, none in ((np.minimum, NEVER), (np.maximum, -1))
        )
        if (first < last).any():
            row, warp = first_of(first < last)
            raise block.error(DivergentBarrier, "lanes of one warp wait at different barriers", row, 32 * warp)
        for number in sorted({f.barrier for f in waiting if f.barrier is not None}):
            pass_together(block, [f for f in waiting if f.barrier == number], number)

    def stuck(self) -> tuple[Block, Fragment]:
        """No thread can go on: part the programs of each block, if that may set some free, or raise the diagnosis."""
        parted = [b for b in self.blocks if len(b.programs) > 1 and len(b.fragments) > 1]
        if not parted:
            raise deadlock(self)
        for block in parted:
            self.blocks.remove(block)
            parts = [block.take(np.arange(len(block.programs)) == row) for row in range(len(block.programs))]
            self.blocks += [part for part in parts if part.fragments]
        for block in self.blocks:
            self.release(block)
        return self.choose()
