"""YAML text in, plain values out, with the line of every key. Numbers as YAML 1.2 reads them (`5e-5` is one), dates stay text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from kdsearch.errors import InputError


class _Loader(yaml.SafeLoader):
    pass


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


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
        InputError: not YAML, more than one document, or a key given twice.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Parsed(None)
        parsed = Parsed(None)
        _walk(node, (), parsed.lines, where, set())
        parsed.value = loader.construct_document(node)
        return parsed
    except yaml.MarkedYAMLError as problem:
        line = f", line {problem.problem_mark.line + 1}" if problem.problem_mark else ""
        said = " ".join(part for part in (problem.context, problem.problem) if part)
        raise InputError(f"{where}{line}: not valid YAML: {said}") from problem
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        said = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(f"{where}: not valid YAML: {said}") from problem


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
