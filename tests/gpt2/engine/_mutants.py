"""Mutants of a module, one changed place each, built in memory.

What is left alone: docstrings, annotations, messages of errors, assertions, fields of dataclasses, and names of locals
that are set (without them nothing runs). A mutant's loops raise Endless after a million turns.
"""

import ast
import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

TURNS = 1_000_000  # 100 times what the original needs

COMPARISONS: dict[type, tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
ARITHMETIC: dict[type, type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mod, ast.Mod: ast.FloorDiv,
}  # fmt: skip
METHODS = {"append": "appendleft", "appendleft": "append", "popleft": "pop", "max": "min", "min": "max", "any": "all",
           "all": "any", "extend": "clear"}  # fmt: skip
UNWRAPPED = {"reversed", "sorted", "list", "max", "min"}  # calls that their first argument can stand for


class Endless(Exception):
    """A mutant's loop has taken too many turns."""


@dataclass
class Mutant:
    """A changed place.

    line  of the source
    what  "old -> new in `the source's line`"
    tree  of the whole module, changed
    """

    line: int
    what: str
    tree: ast.Module

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"

    def build(self, module: ModuleType) -> ModuleType:
        """The mutant of this module, which stays as it is."""
        return build(self.tree, module)


def build(tree: ast.Module, module: ModuleType) -> ModuleType:
    """A module of another tree in the place of this one."""
    made = ModuleType(module.__name__)
    made.__package__ = module.__package__
    turns = iter(range(TURNS))

    def turn():
        if next(turns, None) is None:
            raise Endless(f"{TURNS} turns of loops")

    vars(made)["_turn"] = turn
    tree = copy.deepcopy(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.While | ast.For):
            node.body.insert(0, ast.parse("_turn()").body[0])
    exec(compile(ast.fix_missing_locations(tree), f"<mutant of {module.__name__}>", "exec"), vars(made))
    return made


def mutants(module: ModuleType) -> list[Mutant]:
    """All mutants of a module's source, in its order."""
    source = inspect.getsource(module)
    tree, lines, found = ast.parse(source), source.splitlines(), []
    for path, node in places(tree, ()):
        for other in changed(node, path[-1][0]):
            mutant = copy.deepcopy(tree)
            put(mutant, path, copy.deepcopy(other))
            old, new = (" ".join(ast.unparse(n).split()) for n in (node, other))
            found.append(Mutant(node.lineno, f"{old} -> {new} in `{lines[node.lineno - 1].strip()}`", mutant))
    return found


def places(node: ast.AST, path: tuple) -> Iterator[tuple[tuple, ast.expr | ast.stmt]]:
    """(path, node) of every statement and expression that may be changed."""
    if isinstance(node, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.expr | ast.stmt):
        yield path, node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "ctx"):
            continue
        if isinstance(node, ast.ClassDef) and name != "body":
            continue
        for i, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            is_field = isinstance(node, ast.ClassDef) and isinstance(child, ast.AnnAssign)
            if isinstance(child, ast.AST) and not is_field and not is_docstring(child):
                yield from places(child, (*path, (name, i)))


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def put(tree: ast.AST, path: tuple, new: ast.AST):
    """Replace the node that a path leads to."""
    for name, i in path[:-1]:
        tree = getattr(tree, name) if i is None else getattr(tree, name)[i]
    name, i = path[-1]
    if i is None:
        setattr(tree, name, new)
    else:
        getattr(tree, name)[i] = new


def changed(node: ast.expr | ast.stmt, role: str) -> Iterator[ast.expr | ast.stmt]:
    """What may stand in a node's place; role is the name of its parent's field."""
    if role == "test" and isinstance(node, ast.expr):
        yield ast.UnaryOp(ast.Not(), node)
    match node:
        case ast.Expr() | ast.AugAssign() | ast.Delete() | ast.Break() | ast.Raise():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.AnnAssign(target=ast.Attribute()):
            yield ast.Pass()
        case ast.Return(value=value) if value:
            yield ast.Return(None)
        case ast.Compare(ops=[op]):
            for kind in COMPARISONS[type(op)]:
                yield with_field(node, "ops", [kind()])
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield with_field(node, "op", ARITHMETIC[type(op)]())
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.BoolOp(op=op, values=values):
            yield with_field(node, "op", ast.Or() if isinstance(op, ast.And) else ast.And())
            if len(values) > 2:
                yield from (with_field(node, "values", [*values[:i], *values[i + 1 :]]) for i in range(len(values)))
            else:
                yield from values
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Slice():
            yield from (with_field(node, name, None) for name in ("lower", "upper") if getattr(node, name))
        case ast.Call():
            yield from changed_call(node)


def changed_call(node: ast.Call) -> Iterator[ast.expr]:
    """Another function, two arguments swapped, one given by name left out, the first one uncalled."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in METHODS:
        if isinstance(node.func, ast.Attribute):
            yield with_field(node, "func", with_field(node.func, "attr", METHODS[name]))
        else:
            yield with_field(node, "func", ast.Name(METHODS[name], ast.Load()))
    if name in UNWRAPPED:
        yield node.args[0]
    for i in range(len(node.args) - 1 if name not in ("min", "max") else 0):
        yield with_field(node, "args", [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]])
    for i in range(len(node.keywords)):
        yield with_field(node, "keywords", node.keywords[:i] + node.keywords[i + 1 :])


def with_field(node, name: str, value):
    """A copy of a node with another value of one field."""
    other = copy.copy(node)
    setattr(other, name, value)
    return other
