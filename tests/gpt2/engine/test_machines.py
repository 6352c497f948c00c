"""Random lives of the block manager and of the scheduler, and whether these and the cases by hand kill mutants."""

import ast
import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from kvproof.gpt2.engine import blocks, scheduler

from . import _block_machine, _scheduler_machine, test_blocks, test_scheduler
from ._mutants import Endless, build, mutants


@dataclass
class Subject:
    """A module, random lives of it, cases by hand, and the mutants that are not seen, each with the reason."""

    module: ModuleType
    machine: Callable[[ModuleType], type[RuleBasedStateMachine]]
    cases: ModuleType
    settings: settings
    unseen: dict[str, str]


def fixed(examples: int, steps: int) -> settings:
    """The same lives each time; what fails is not made smaller, which a run by hand does."""
    return settings(
        max_examples=examples, stateful_step_count=steps, derandomize=True, database=None, deadline=None,
        phases=[Phase.generate], report_multiple_bugs=False, verbosity=Verbosity.quiet,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )  # fmt: skip


SUBJECTS = {
    "blocks": Subject(
        blocks, _block_machine.machine, test_blocks, fixed(120, 30),
        {
            "-1 -> 1 in `self.root = Node(-1)`": "nobody reads the root's number",
            "1 -> 2 in `self.root = Node(-1)`": "nobody reads the root's number",
            "1 -> 0 in `self.root = Node(-1)`": "nobody reads the root's number",
            "common(rest, node.tokens) -> common(node.tokens, rest) in `best = max(last.children.values(), "
            "key=lambda node: common(rest, node.tokens), default=None)`": "as many are alike",
            "common(rest, best.tokens) -> common(best.tokens, rest) in "
            "`if best and (alike := common(rest, best.tokens)) and self.free:`": "as many are alike",
            "map(eq, a, b) -> map(eq, b, a) in `return sum(takewhile(bool, map(eq, a, b)))`": "as many are alike",
        },
    ),
    "scheduler": Subject(
        scheduler, _scheduler_machine.machine, test_scheduler, fixed(100, 20),
        {
            "list(self.running) -> self.running in `for sequence in list(self.running):`":
                "who is preempted goes from its end, so nobody is passed over",
            "return False -> return in `return False`": "None is as false, in both places",
        },
    ),
}  # fmt: skip


def cases(subject: Subject, module: ModuleType) -> Iterator[tuple[str, Callable]]:
    """(name, call) of each case by hand that takes the module and nothing else."""
    for name, function in vars(subject.cases).items():
        if name.startswith("test_"):
            yield name, partial(function, module)


def killed(subject: Subject, make: Callable[[], ModuleType]) -> str:
    """By what: "build" if there is no such module, "lives", the name of a case; "" for a survivor."""
    try:
        module = make()
    except Exception:
        return "build"
    try:
        run_state_machine_as_test(subject.machine(module), settings=subject.settings)
    except Exception:
        return "lives"
    for name, case in cases(subject, module):
        try:
            case()
        except (Exception, pytest.fail.Exception):  # the second, where nothing was raised that should have been
            return name
    return ""


@pytest.mark.parametrize("name", SUBJECTS)
def test_random_lives_keep_what_is_promised(name):
    subject = SUBJECTS[name]
    run_state_machine_as_test(subject.machine(subject.module), settings=subject.settings)


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_source_itself_survives_as_a_mutant(name):
    subject = SUBJECTS[name]
    assert len(list(cases(subject, subject.module))) >= 15
    same = partial(build, ast.parse(inspect.getsource(subject.module)), subject.module)
    for _, case in cases(subject, same()):
        case()


def test_a_loop_without_end_is_an_error():
    tree = ast.parse("def f():\n    while True:\n        pass\n")
    with pytest.raises(Endless):
        build(tree, blocks).f()


@pytest.mark.parametrize("name", SUBJECTS)
def test_mutants_are_killed(name):
    """Ten of them, drawn once; all of them in the exhaustive test below."""
    subject = SUBJECTS[name]
    seen = [mutant for mutant in mutants(subject.module) if mutant.what not in subject.unseen]
    for mutant in random.Random(0).sample(seen, 10):
        assert killed(subject, partial(mutant.build, subject.module)), f"{mutant} survives"


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SUBJECTS)
def test_all_mutants_are_killed_but_those_that_were_read(name, capsys):
    subject = SUBJECTS[name]
    found = {str(mutant): killed(subject, partial(mutant.build, subject.module)) for mutant in mutants(subject.module)}
    survivors = [mutant for mutant, by in found.items() if not by]
    lives = sum(by == "lives" for by in found.values())
    with capsys.disabled():
        print(f"\n{name}: {len(found)} mutants, {len(found) - len(survivors)} killed, {lives} of them by random lives")
        print("\n".join(survivors))
    assert len(found) - len(survivors) >= 0.95 * len(found)
    assert {survivor.partition(": ")[2] for survivor in survivors} == {*subject.unseen}
