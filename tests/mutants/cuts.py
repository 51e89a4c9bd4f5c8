"""
Which mutants a module has: mutmut's operators, applied to all of it.

mutmut 3 itself changes what stands inside of functions that have no decorator but ``classmethod``.
Here the tables of a module, the defaults of its classes and its properties count as well: half of
what the modules of the core say stands there. Left out is what no test can see: annotations, doc
strings, imports, decorators, names and aliases of types and what runs for type checkers only.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, takewhile
from typing import Final

import attrs
import libcst as cst
from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators

_ALIAS: Final = re.compile("_?[A-Z][A-Za-z]*[a-z][A-Za-z_]*")
"""What a type is called, at the top of a module."""


@attrs.frozen
class Cut:
    """
    A module with one thing changed.

    Attributes:
        function: The outermost function that has changed, as ``__qualname__`` has it; None where
            the module has to be imported anew.
        name: The place and the change, whatever line it is on.
        text: The module.
    """

    function: str | None
    name: str
    text: str


def cuts(text: str) -> Sequence[Cut]:
    """Return every mutant of the module that *text* is."""
    wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
    spans = wrapper.resolve(WhitespaceInclusivePositionProvider)
    starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]
    found: dict[str, Cut] = {}
    for place, function, node in _nodes(wrapper.module, (), None):
        for other in _others(node, is_top=not place):
            if isinstance(node, cst.Match):  # which alone has lines of its own
                changed = cst.ensure_type(wrapper.module.deep_replace(node, other), cst.Module).code
            else:
                first, last = spans[node].start, spans[node].end
                begin = starts[first.line - 1] + first.column
                end = starts[last.line - 1] + last.column
                changed = text[:begin] + wrapper.module.code_for_node(other) + text[end:]
            name = f"{'.'.join(place) or 'module'}: {change(text, changed)}"
            if changed != text and _compiles(changed):
                found.setdefault(name, Cut(function, name, changed))
    return tuple(found.values())


def change(before: str, after: str) -> str:
    """Return the lines of *before* that differ, and what they became."""
    old, new = ([line.strip() for line in text.splitlines()] for text in (before, after))
    same = _alike(old, new)
    gone, come = old[same:], new[same:]
    tail = _alike(gone[::-1], come[::-1])
    return f"{' '.join(gone[: len(gone) - tail])} => {' '.join(come[: len(come) - tail])}"


def _alike(old: Sequence[str], new: Sequence[str]) -> int:
    """Return how many lines are the same at the beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))


def _others(node: cst.CSTNode, *, is_top: bool) -> Iterator[cst.CSTNode]:
    if is_top and isinstance(node, cst.Assign) and _names_a_type(node):
        return
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from operator(node)


def _nodes(
    node: cst.CSTNode, place: tuple[str, ...], function: str | None
) -> Iterator[tuple[tuple[str, ...], str | None, cst.CSTNode]]:
    """Return the nodes below *node*, each with its place and the function that it is part of."""
    if isinstance(node, cst.FunctionDef):
        inner = (*place, node.name.value)
        yield from _nodes(node.params, inner, function)
        yield from _nodes(node.body, inner, function or ".".join(inner))
        return
    if isinstance(node, cst.ClassDef):
        yield from _nodes(node.body, (*place, node.name.value), function)
        return
    if isinstance(node, cst.If) and cst.Module([]).code_for_node(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, cst.Import | cst.ImportFrom | cst.Annotation | cst.Decorator):
        return
    if isinstance(node, cst.Expr) and isinstance(
        node.value, cst.SimpleString | cst.ConcatenatedString
    ):
        return
    if isinstance(node, cst.Call) and _is_for_type_checkers(node):
        for argument in node.args[1:]:
            yield from _nodes(argument.value, place, function)
        return
    yield place, function, node
    for child in node.children:
        yield from _nodes(child, place, function)


def _is_for_type_checkers(node: cst.Call) -> bool:
    return isinstance(node.func, cst.Name) and node.func.value in {"TypeVar", "cast"}


def _names_a_type(node: cst.Assign) -> bool:
    target = node.targets[0].target
    if isinstance(node.value, cst.Call) and _is_for_type_checkers(node.value):
        return True
    return isinstance(target, cst.Name) and _ALIAS.fullmatch(target.value) is not None


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True
