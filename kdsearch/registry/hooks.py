"""From an imported plugin to its one class: its hooks are called, and what they yield is checked."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pluggy

from kdsearch.api import Family, Strategy
from kdsearch.errors import KdsearchError, PluginError, did_you_mean
from kdsearch.registry import hookspecs
from kdsearch.registry.classes import HOOKS, Plugin, check_yielded
from kdsearch.registry.discover import Imported, Source


@dataclass(frozen=True)
class Loaded:
    """A plugin and the class that it yields."""

    imported: Imported
    plugin: Plugin

    @property
    def source(self) -> Source:
        return self.imported.source


class _Hooks(pluggy.PluginManager):
    """Takes any function named kdsearch_... for a hook, marked with @hookimpl or not, so that none is overlooked in silence."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and name.startswith(f"{hookspecs.PROJECT}_") and inspect.isroutine(getattr(plugin, name)):
            return {}
        return options


def register(imports: Sequence[Imported]) -> tuple[Loaded, ...]:
    """The one class of each plugin, checked; a private manager, so that loads never meet each other's plugins."""
    manager = _Hooks(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    loaded = []
    for imported in imports:
        where = imported.source.where
        try:
            manager.register(imported.plugin, name=imported.source.name)
            manager.check_pending()
        except pluggy.PluginValidationError as problem:
            raise PluginError(f"{where}: {_hook_problem(manager, imported.plugin, problem)}") from problem
        except ValueError as problem:
            raise PluginError(f"{where}: yields what another plugin yields too: give each name a module of its own") from problem
        loaded.append(Loaded(imported, _only_class(manager, imported)))
    return tuple(loaded)


def _hook_problem(manager: pluggy.PluginManager, plugin: object, problem: pluggy.PluginValidationError) -> str:
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            return f"no hook named {caller.name!r}.{did_you_mean(caller.name, HOOKS)}"
    return f"a hook takes no parameters: write `def kdsearch_strategies():` ({str(problem).splitlines()[-1]})"


def _only_class(manager: pluggy.PluginManager, imported: Imported) -> Plugin:
    source, where = imported.source, imported.source.where
    implementations = [
        (caller.name, implementation.function)
        for caller in manager.get_hookcallers(imported.plugin) or ()
        for implementation in caller.get_hookimpls()
        if implementation.plugin is imported.plugin
    ]
    if not implementations:
        functions = (name for name, _ in inspect.getmembers(imported.plugin, inspect.isfunction))
        near = next((name for name in functions if "strateg" in name.lower() or "famil" in name.lower()), None)
        hint = f" {near!r} is not one." if near else ""
        raise PluginError(
            f"{where}: has no hook.{hint} Add `def kdsearch_strategies():` or `def kdsearch_families():` that yields its class"
        )
    classes: list[Plugin] = []
    for hook, function in implementations:
        classes.extend(check_yielded(value, hook, where) for value in _values(function, hook, where))
    if not classes:
        raise PluginError(f"{where}: {implementations[0][0]} yields nothing: yield the class")
    for cls in classes:
        if cls.name != source.name:
            said = "entry point" if source.kind == "entry-point" else "module" if source.kind == "module" else "file"
            raise PluginError(
                f"{where}: class {cls.__name__} is named {cls.name!r}, its {said} {source.name!r}: make them the same "
                "(one plugin, one file: the name is how it is found)"
            )
    if len(classes) > 1:
        names = " and ".join(cls.__name__ for cls in classes)
        raise PluginError(f"{where}: yields the name {source.name!r} more than once ({names}): one plugin, one file; move the other out")
    return classes[0]


def _values(function: Any, hook: str, where: str) -> list[object]:
    try:
        answer = function()
        if answer is None:
            return []
        if isinstance(answer, type | Strategy | Family) or not isinstance(answer, Iterable):
            raise PluginError(f"{where}: {hook} returns {answer!r}: write `yield`, not `return`")
        return list(answer)
    except KdsearchError:
        raise
    except Exception as problem:
        raise PluginError(f"{where}: {hook} fails: {type(problem).__name__}: {problem}") from problem
