"""Load and ship plugins. Only what is named is imported; every mistake is one PluginError that names the plugin and the fix."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import socket
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pluggy

from kdsearch.api import Family, Strategy
from kdsearch.errors import PluginError, did_you_mean, near
from kdsearch.io.files import canonical, digest
from kdsearch.registry import discover, hookspecs
from kdsearch.registry.classes import HOOKS, AnyPlugin, Plugin, check_name, check_yielded, construct, dump, kind_of
from kdsearch.registry.discover import Source

__all__ = ["Plugins", "available", "dump", "families", "load", "load_one", "strategies"]


def available(extra: Sequence[str] = ()) -> list[Source]:
    """Every plugin within reach, sorted by name; a broken one is listed too, for nothing is imported.

    Args:
        extra: the study's `plugins:`, paths of .py files or names of modules.
    """
    return sorted(discover.candidates(discover.listed(extra)), key=lambda source: (source.name, source.where))


def load(families: Sequence[str], strategies: Sequence[str], extra: Sequence[str] = ()) -> Plugins:
    """Import the families and strategies that a study names, and every plugin under its `plugins:`.

    Args:
        families: names under `space.families`.
        strategies: names under `space.strategies`.
        extra: the study's `plugins:`; relative paths start from the working folder.

    Raises:
        PluginError: one of them is unknown, ambiguous or broken.
    """
    listed = discover.listed(extra)
    found = discover.candidates(listed)
    wanted = [*((name, "strategy") for name in strategies), *((name, "family") for name in families)]
    sources = {name: _the_one(name, kind, found) for name, kind in [*((source.name, None) for source in listed), *wanted]}
    plugins = Plugins()
    kinds = {name: kind_of(plugins.add(source)) for name, source in sources.items()}
    for name, kind in wanted:
        if (other := kinds[name]) != kind:
            raise PluginError(f"{sources[name].where}: {name!r} is a {other}, not a {kind}: move it to space.{other[:-1]}ies")
    return plugins


def load_one(name_or_path: str | Path) -> Plugin:
    """The class of one plugin: the path of a .py file, the name of a built-in or installed one, or of a module.

    Raises:
        PluginError: there is none, or it is broken.
    """
    entry, found = str(name_or_path), discover.candidates()
    if not any(source.name == entry for source in found) and (
        isinstance(name_or_path, Path) or not entry.isidentifier() or importlib.util.find_spec(entry)
    ):
        found = discover.listed([entry])
        entry = found[0].name
    return Plugins().add(_the_one(entry, None, found))


def strategies() -> dict[str, type[Strategy]]:
    """Every built-in and installed strategy by name, sorted. A broken plugin is left out with a warning."""
    return _installed().strategies


def families() -> dict[str, type[Family]]:
    """Every built-in and installed family by name, sorted. A broken plugin is left out with a warning."""
    return _installed().families


def _installed() -> Plugins:
    plugins = Plugins()
    for source in discover.candidates():
        try:
            plugins.add(source)
        except PluginError as problem:
            warnings.warn(f"plugin left out: {problem}", UserWarning, stacklevel=3)
    return plugins


def _the_one(name: str, kind: str | None, found: Sequence[Source]) -> Source:
    """The source of this name, which is to be a plugin of this kind."""
    claims = [source for source in found if source.name == name]
    if len(claims) > 1:
        origins = " and ".join(source.origin for source in claims)
        raise PluginError(f"the name {name!r} belongs to two plugins: {origins}: rename one (its file or entry point, and its `name`)")
    if claims:
        return claims[0]
    known = sorted({source.name for source in found if kind is None or source.kind in (kind, None)})
    advice = f"add {name}.py under plugins:" if kind else f"give its path, ./{name}.py"
    file = f" There is a file {name}.py here: {advice}." if Path(f"{name}.py").is_file() else ""
    raise PluginError(f"no {kind or 'plugin'} {name!r}.{near(name, known)} There is: {', '.join(known)}.{file}")


class _Hooks(pluggy.PluginManager):
    """Takes any function named kdsearch_... for a hook, marked with @hookimpl or not, so that none is overlooked in silence."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        unmarked = name.startswith(f"{hookspecs.PROJECT}_") and inspect.isroutine(getattr(plugin, name))
        return super().parse_hookimpl_opts(plugin, name) or ({} if unmarked else None)


class Loaded(NamedTuple):
    """A plugin that was imported and checked."""

    cls: Plugin
    source: Source
    text: str | None  # the source text that was executed; None where the importer does not have it

    @property
    def hash(self) -> str | None:
        return None if self.text is None else digest(self.text)


class Plugins:
    """Loaded plugins: their classes, their provenance, and what a worker needs to have the same ones."""

    def __init__(self) -> None:
        self._hooks = _Hooks(hookspecs.PROJECT)  # its own, so that loads never meet each other's plugins
        self._hooks.add_hookspecs(hookspecs)
        self.loaded: dict[str, Loaded] = {}

    def add(self, source: Source, text: str | None = None) -> Plugin:
        """Import one more plugin, from its text where that is given, and check it; a broken one is not kept.

        Raises:
            PluginError: it is broken, or another one has its name.
        """
        if source.name in self.loaded:
            raise PluginError(f"the name {source.name!r} belongs to {self.loaded[source.name].source.origin} already")
        check_name(source.name, source.where)
        module, text = discover.import_plugin(source, text)
        try:
            cls = self._only_class(module, source)
        except PluginError:
            self._hooks.unregister(name=source.name)
            raise
        self.loaded[source.name] = Loaded(cls, source, text)
        return cls

    def _only_class(self, module: object, source: Source) -> Plugin:
        where, hooks = source.where, self._hooks
        try:
            hooks.register(module, name=source.name)
            hooks.check_pending()
        except pluggy.PluginValidationError as problem:
            unknown = [caller.name for caller in hooks.get_hookcallers(module) or () if not caller.has_spec()]
            parameters = f"a hook takes no parameters: write `def kdsearch_strategies():` ({str(problem).splitlines()[-1]})"
            message = f"no hook named {unknown[0]!r}.{did_you_mean(unknown[0], HOOKS)}" if unknown else parameters
            raise PluginError(f"{where}: {message}") from problem
        except ValueError as problem:
            raise PluginError(f"{where}: yields what another plugin yields too: give each name a module of its own") from problem
        functions = [(hook, each.function) for hook in HOOKS for each in getattr(hooks.hook, hook).get_hookimpls() if each.plugin is module]
        if not functions:
            names = (name for name, _ in inspect.getmembers(module, inspect.isfunction))
            near = next((name for name in names if "strateg" in name.lower() or "famil" in name.lower()), None)
            hint = f" {near!r} is not one." if near else ""
            raise PluginError(
                f"{where}: has no hook.{hint} Add `def kdsearch_strategies():` or `def kdsearch_families():` that yields its class"
            )
        classes = [check_yielded(value, hook, where) for hook, function in functions for value in _yielded(function, hook, where)]
        if not classes:
            raise PluginError(f"{where}: {functions[0][0]} yields nothing: yield the class")
        for cls in classes:
            if cls.name != source.name:
                form = "file" if source.form == "built-in" else source.form.replace("-", " ")
                raise PluginError(
                    f"{where}: class {cls.__name__} is named {cls.name!r}, its {form} {source.name!r}: make them the same "
                    "(one plugin, one file: the name is how it is found)"
                )
        if len(classes) > 1:
            all_of_them = " and ".join(cls.__name__ for cls in classes)
            raise PluginError(
                f"{where}: yields the name {source.name!r} more than once ({all_of_them}): one plugin, one file; move the other out"
            )
        return classes[0]

    @property
    def strategies(self) -> dict[str, type[Strategy]]:
        return {name: each.cls for name, each in sorted(self.loaded.items()) if issubclass(each.cls, Strategy)}

    @property
    def families(self) -> dict[str, type[Family]]:
        return {name: each.cls for name, each in sorted(self.loaded.items()) if issubclass(each.cls, Family)}

    def strategy(self, name: str, fields: Mapping[str, Any]) -> Strategy:
        """An instance from its JSON fields.

        Raises:
            PluginError: no such strategy is loaded, or the fields do not fit.
        """
        return _instance("strategy", self.strategies, name, fields)

    def family(self, name: str, fields: Mapping[str, Any]) -> Family:
        """As `strategy`."""
        return _instance("family", self.families, name, fields)

    def describe(self) -> list[dict[str, Any]]:
        """For a manifest: name, kind, origin, version (of the package; None for a file) and hash of the source text of each plugin."""
        return [
            {"name": name, "kind": kind_of(each.cls), "origin": each.source.origin, "version": each.source.version, "hash": each.hash}
            for name, each in sorted(self.loaded.items())
        ]

    def shipped(self) -> list[dict[str, Any]]:
        """JSON from which `receive` has the same plugins in another process or on another machine.

        Files travel as text, those in `plugins/` too: a worker's kdsearch may lack a file that was dropped there. Modules and entry points
        travel as names, for a package's other files cannot be guessed.
        """
        return [
            {**asdict(each.source), "hash": each.hash, "text": each.text if each.source.form in ("file", "built-in") else None}
            for _, each in sorted(self.loaded.items())
        ]

    @staticmethod
    def receive(shipped: Sequence[Mapping[str, Any]]) -> Plugins:
        """The plugins that another process shipped; no file, working folder or entry point of this machine is needed for file plugins.

        Raises:
            PluginError: a package is not installed on this machine, or has another source text.
        """
        return _received(canonical(list(shipped)))


@functools.cache
def _received(shipped: str) -> Plugins:
    plugins, built_ins = Plugins(), {source.name: source for source in discover.built_ins()}
    for record in json.loads(shipped):
        text, text_hash = record.pop("text"), record.pop("hash")
        source = Source(**record)
        try:
            here = built_ins.get(source.name) if source.form == "built-in" else None
            if here and here.path and discover.read_text(Path(here.path), here.where) == text:
                text = None  # this machine's own is the same: imported as what it is
            plugins.add(source, text)
            if plugins.loaded[source.name].hash != text_hash:
                package = source.distribution or source.locator.split(".")[0]
                exact = f"{package}=={source.version}" if source.version else package
                raise PluginError(f"{source.where}: its source is not the driver's: install the same {exact} on every node")
        except PluginError as problem:
            raise PluginError(f"node {socket.gethostname()}: {problem}") from problem
    return plugins


def _yielded(function: Any, hook: str, where: str) -> list[object]:
    try:
        answer = function()
        if answer is None or isinstance(answer, Iterable):
            return [] if answer is None else list(answer)
    except Exception as problem:
        raise PluginError(f"{where}: {hook} fails: {type(problem).__name__}: {problem}") from problem
    raise PluginError(f"{where}: {hook} returns {answer!r}: write `yield`, not `return`")


def _instance(kind: str, classes: Mapping[str, type[AnyPlugin]], name: str, fields: Mapping[str, Any]) -> AnyPlugin:
    if name not in classes:
        raise PluginError(f"no {kind} {name!r} is loaded.{did_you_mean(name, classes)}")
    return construct(classes[name], fields)
