"""Makes mutants of Python code. Each operator changes one place and leaves the code valid.

The operators:

- ``compare``: ``<`` ↔ ``<=``, ``>`` ↔ ``>=``, ``==`` ↔ ``!=``, ``is`` ↔ ``is not``, ``in`` ↔ ``not in``
- ``arithmetic``: ``+`` ↔ ``-``, ``*`` ↔ ``/``, ``//`` → ``*``, ``%`` → ``*``, ``**`` → ``*``, and the same for ``+=``;
  ``&`` ↔ ``|``
- ``sign``: ``-x`` → ``x``, ``~x`` → ``x``
- ``boolean``: ``and`` ↔ ``or``, ``not x`` → ``x``
- ``condition``: the test of an ``if``, a ``while`` or a conditional expression is negated
- ``number``: an integer + 1, a float doubled (0.0 → 1.0), ``True`` ↔ ``False``
- ``call``: ``min`` ↔ ``max``, ``any`` ↔ ``all``, ``floor`` ↔ ``ceil``, ``sum`` → ``len``
- ``argument``: a keyword argument is removed
- ``statement``: a call whose value is not used, an augmented assignment, or an assignment to an attribute or an item is
  removed; ``break`` ↔ ``continue``
- ``return``: ``return x`` → ``return None``

Not mutated: docstrings, annotations, decorators, default values of parameters, module level, ``raise`` and ``assert``
statements, texts, and arguments that only assert or only change the speed (``strict`` of ``zip``, ``fused``,
``non_blocking``, ``threads``, ``pin_memory``, ``set_to_none``).
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["Mutant", "mutants_of"]

_COMPARE = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
    ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&",
}  # fmt: skip
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor", "sum": "len"}


_UNCHANGED = frozenset({"strict", "fused", "non_blocking", "threads", "pin_memory", "set_to_none"})


@dataclass(frozen=True)
class Mutant:
    """One change of a file.

    Attributes:
        path: The file, relative to the repository.
        line: First changed line, from 1.
        operator: Name of the operator.
        start: Byte offset of the changed part.
        stop: Byte offset after it.
        text: The new part.
        before: The old part.
        place: Name of the function around it, and how many equal changes it has before this one.
    """

    path: str
    line: int
    operator: str
    start: int
    stop: int
    text: str
    before: str
    place: str = ""

    @property
    def identity(self) -> str:
        """A name that stays the same while the function around the change stays the same before it."""
        key = f"{self.path} {self.place} {self.operator} {self.before} {self.text}"
        return hashlib.sha256(key.encode()).hexdigest()[:12]

    def apply(self, source: bytes) -> bytes:
        """Return the changed file."""
        return source[: self.start] + self.text.encode() + source[self.stop :]

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.operator}: {self.before!r} → {self.text!r}"


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """Return all mutants of a file, in the order of the file."""
    source = (root / path).read_bytes()
    tree = ast.parse(source)
    offsets = [0]
    for line in source.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))

    def span(node: ast.AST) -> tuple[int, int]:
        return (
            offsets[node.lineno - 1] + node.col_offset,  # type: ignore[attr-defined]
            offsets[node.end_lineno - 1] + node.end_col_offset,  # type: ignore[attr-defined]
        )

    found: list[Mutant] = []

    def add(operator: str, start: int, stop: int, text: str) -> None:
        before = source[start:stop].decode()
        if before == text:
            return
        line = source[:start].count(b"\n") + 1
        mutant = Mutant(path, line, operator, start, stop, text, before)
        try:
            compile(mutant.apply(source), path, "exec")
        except (SyntaxError, ValueError):
            return
        found.append(mutant)

    def code(node: ast.AST) -> str:
        start, stop = span(node)
        return source[start:stop].decode()

    for function in _functions(tree):
        for node in _bodies(function):
            if isinstance(node, ast.Compare):
                left: ast.expr = node.left
                for operator, right in zip(node.ops, node.comparators, strict=True):
                    start, stop = span(left)[1], span(right)[0]
                    add("compare", start, stop, f" {_COMPARE[type(operator)]} ")
                    left = right
            elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_text(node):
                start, stop = span(node.left)[1], span(node.right)[0]
                between = source[start:stop].decode()
                if "(" not in between and ")" not in between and "\n" not in between:
                    add("arithmetic", start, stop, f" {_ARITHMETIC[type(node.op)]} ")
            elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
                name = "boolean" if isinstance(node.op, ast.Not) else "sign"
                add(name, *span(node), code(node.operand))
            elif isinstance(node, ast.BoolOp):
                word = "or" if isinstance(node.op, ast.And) else "and"
                for first, second in zip(node.values, node.values[1:], strict=False):
                    start, stop = span(first)[1], span(second)[0]
                    between = source[start:stop].decode()
                    add("boolean", start, stop, between.replace("or" if word == "and" else "and", word))
            elif isinstance(node, ast.If | ast.While | ast.IfExp):
                add("condition", *span(node.test), f"not ({code(node.test)})")
            elif isinstance(node, ast.Constant):
                if isinstance(node.value, bool):
                    add("number", *span(node), str(not node.value))
                elif isinstance(node.value, int):
                    add("number", *span(node), f"{node.value + 1}")
                elif isinstance(node.value, float):
                    add("number", *span(node), repr(2 * node.value if node.value else 1.0))
            elif isinstance(node, ast.Call):
                name_node = node.func
                called = name_node.id if isinstance(name_node, ast.Name) else getattr(name_node, "attr", "")
                if called in _CALLS and len(node.args) + len(node.keywords) > (1 if called in ("min", "max") else 0):
                    start, stop = span(name_node)
                    add("call", stop - len(called), stop, _CALLS[called])
                for keyword in node.keywords:
                    if keyword.arg is not None and keyword.arg not in _UNCHANGED:
                        start, stop = span(keyword)
                        rest = source[stop:]
                        blank = len(rest) - len(rest.lstrip())
                        if rest.lstrip().startswith(b","):
                            stop += blank + 1
                        add("argument", start, stop, "")
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                add("statement", *span(node), "pass")
            elif isinstance(node, ast.AugAssign):
                add("statement", *span(node), "pass")
                if type(node.op) in _ARITHMETIC:
                    start, stop = span(node.target)[1], span(node.value)[0]
                    add("arithmetic", start, stop, f" {_ARITHMETIC[type(node.op)]}= ")
            elif isinstance(node, ast.Assign) and all(
                isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets
            ):
                add("statement", *span(node), "pass")
            elif isinstance(node, ast.Break | ast.Continue):
                add("statement", *span(node), "continue" if isinstance(node, ast.Break) else "break")
            elif isinstance(node, ast.Return) and node.value is not None and code(node.value) != "None":
                add("return", *span(node), "return None")
    return _placed(tree, sorted(set(found), key=lambda mutant: (mutant.start, mutant.operator)))


def _placed(tree: ast.Module, mutants: list[Mutant]) -> list[Mutant]:
    """Return mutants that know their places."""
    owners = [
        (node.lineno, node.end_lineno or node.lineno, node.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    seen: Counter[tuple[str, ...]] = Counter()
    placed = []
    for mutant in mutants:
        names = [name for first, last, name in sorted(owners) if first <= mutant.line <= last]
        key = (".".join(names), mutant.operator, mutant.before, mutant.text)
        placed.append(replace(mutant, place=f"{key[0]} {seen[key]}"))
        seen[key] += 1
    return placed


def _functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the outermost functions and the methods of classes."""
    found: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        found += [member for member in members if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)]
    return found


def _bodies(function: ast.AST) -> Iterator[ast.AST]:
    """Walk through the statements of a function, without what is never mutated."""
    waiting: list[ast.AST] = list(reversed(function.body))  # type: ignore[attr-defined]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.keyword) and node.arg in _UNCHANGED:
            continue
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += reversed(node.body)
        elif isinstance(node, ast.AnnAssign):
            waiting += [] if node.value is None else [node.value]
        else:
            waiting += reversed(list(ast.iter_child_nodes(node)))


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )
