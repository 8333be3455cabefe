"""YAML text in, plain values out, with the line of every key. Numbers are decimal (`5e-5` is one); dates, times and codes such as 0110 stay text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from kdsearch.errors import InputError


class _Loader(yaml.SafeLoader):
    pass


_NUMBERS = {  # in the order in which they are tried; not YAML 1.1's, where 0110 is 72 and 1:30 is 90
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?((0|[1-9][0-9_]*)(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag.rpartition(":")[2] not in ("timestamp", *_NUMBERS)]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Quotes what either these rules or those of YAML 1.1 would read as no text."""


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in yaml.SafeDumper.yaml_implicit_resolvers | _Loader.yaml_implicit_resolvers
}
_MOST = 10_000  # values of a document whose aliases are written out


@dataclass
class Parsed:
    """A document: its value, and where its keys stand."""

    value: Any
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)  # path of keys and list positions -> line, counted from 1

    def line(self, path: tuple[str, ...]) -> int | None:
        """The line of the path, or of the nearest part above it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None


def parse(text: str, where: str) -> Parsed:
    """Read one document.

    Args:
        text: the document.
        where: its name in messages.

    Raises:
        InputError: not YAML, more than one document, a key given twice, or aliases that stand for more than 10,000 values.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Parsed(None)
        parsed = Parsed(None)
        _walk(node, (), parsed.lines, where, set())
        _values(node, {}, where)
        parsed.value = loader.construct_document(node)
        return parsed
    except yaml.MarkedYAMLError as problem:
        line = f", line {problem.problem_mark.line + 1}" if problem.problem_mark else ""
        reason = " ".join(part for part in (problem.context, problem.problem) if part)
        raise InputError(f"{where}{line}: not valid YAML: {reason}") from problem
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(f"{where}: not valid YAML: {reason}") from problem


def dump(value: Any) -> str:
    """A document that `parse` reads as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _walk(node: yaml.Node, path: tuple[str, ...], lines: dict[tuple[str, ...], int], where: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias: walking each node once also ends on cycles
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            below = (*path, key.value)
            line = key.start_mark.line + 1
            if below in lines and key.tag != "tag:yaml.org,2002:merge":
                raise InputError(f"{where}, line {line}: {'.'.join(below)}: given twice, first in line {lines[below]}: keep one")
            lines[below] = line
            _walk(value, below, lines, where, seen)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            below = (*path, str(position))
            lines[below] = item.start_mark.line + 1
            _walk(item, below, lines, where, seen)


def _values(node: yaml.Node, known: dict[int, int], where: str) -> int:
    """How many values a node stands for with its aliases written out, which those who read it go through one by one."""
    if id(node) not in known:
        known[id(node)] = 1  # of an alias that holds itself, while it is counted
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        count = 1 + sum(_values(part, known, where) for part in parts if isinstance(part, yaml.Node))
        if count > _MOST:
            raise InputError(
                f"{where}, line {node.start_mark.line + 1}: more than {_MOST:,} values, its aliases written out: use fewer (*name)"
            )
        known[id(node)] = count
    return known[id(node)]
