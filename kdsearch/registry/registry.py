"""Discover, load and ship plugins. Only what is named is imported; every mistake is one PluginError that names the plugin and the fix."""

from __future__ import annotations

import importlib.util
import socket
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdsearch.api import Family, Strategy
from kdsearch.errors import PluginError, did_you_mean
from kdsearch.io.files import canonical, digest
from kdsearch.registry import discover
from kdsearch.registry.classes import Plugin, construct, dump, kind_of
from kdsearch.registry.discover import Imported, Source
from kdsearch.registry.hooks import Loaded, register

__all__ = ["Listing", "Plugins", "available", "dump", "families", "load", "load_one", "strategies"]


@dataclass(frozen=True)
class Listing:
    """A plugin that could be loaded, told without importing it."""

    name: str
    kind: str | None  # strategy | family; None where only an import could tell
    origin: str


def available(extra: Sequence[str] = ()) -> list[Listing]:
    """Every plugin within reach, sorted by name; a broken one is listed too, for nothing is imported.

    Args:
        extra: the study's `plugins:`, paths of .py files or names of modules.
    """
    found = _candidates(extra)
    return [
        Listing(source.name, discover.kind_without_import(source), _origin(source))
        for source in sorted(found, key=lambda source: (source.name, source.where))
    ]


def load(families: Sequence[str], strategies: Sequence[str], extra: Sequence[str] = ()) -> Plugins:
    """Import the families and strategies that a study names, and every plugin under its `plugins:`.

    Args:
        families: names under `space.families`.
        strategies: names under `space.strategies`.
        extra: the study's `plugins:`; relative paths start from the working folder.

    Raises:
        PluginError: one of them is unknown, ambiguous or broken.
    """
    listed = _listed(extra)
    found = _candidates(extra)
    wanted = {source.name: source for source in listed}
    for name in [*families, *strategies]:
        if name not in {source.name for source in found}:
            raise PluginError(_unknown(name, "strategy" if name in strategies else "family", found))
        wanted.setdefault(name, next(source for source in found if source.name == name))
    for name, claims in discover.duplicates(found).items():
        if name in wanted:
            places = " and ".join(_origin(source) for source in claims)
            raise PluginError(f"the name {name!r} belongs to two plugins: {places}: rename one (its file or entry point, and its `name`)")
    plugins = Plugins(register([discover.import_source(source) for source in wanted.values()]))
    for names, kind, classes in (
        (strategies, "strategy", plugins.strategies),
        (families, "family", plugins.families),
    ):
        for name in names:
            if name not in classes:
                other = "family" if kind == "strategy" else "strategy"
                where = wanted[name].where
                raise PluginError(f"{where}: {name!r} is a {other}, not a {kind}: move it to space.{_plural(other)}")
    return plugins


def load_one(name_or_path: str | Path) -> Plugin:
    """The class of one plugin: the path of a .py file, the name of a built-in or installed one, or of a module.

    Raises:
        PluginError: there is none, or it is broken.
    """
    entry = str(name_or_path)
    sources = [source for source in _candidates() if source.name == entry]
    if len(sources) > 1:
        places = " and ".join(_origin(source) for source in sources)
        raise PluginError(f"the name {entry!r} belongs to two plugins: {places}: rename one (its file or entry point, and its `name`)")
    if not sources:
        if isinstance(name_or_path, Path) or not entry.isidentifier() or importlib.util.find_spec(entry):
            sources = [discover.named_in_study(entry)]
        else:
            raise PluginError(_unknown(entry, None, _candidates()))
    (loaded,) = register([discover.import_source(sources[0])])
    return loaded.plugin


def strategies() -> dict[str, type[Strategy]]:
    """Every built-in and installed strategy by name, sorted. A broken plugin is left out with a warning."""
    return _installed().strategies


def families() -> dict[str, type[Family]]:
    """Every built-in and installed family by name, sorted. A broken plugin is left out with a warning."""
    return _installed().families


def _installed() -> Plugins:
    loaded: dict[str, Loaded] = {}
    for source in _candidates():
        try:
            if source.name in loaded:
                raise PluginError(f"the name {source.name!r} belongs to {_origin(loaded[source.name].source)} already")
            loaded[source.name] = register([discover.import_source(source)])[0]
        except PluginError as problem:
            warnings.warn(f"plugin left out: {problem}", UserWarning, stacklevel=3)
    return Plugins(tuple(loaded.values()))


@dataclass(frozen=True)
class Plugins:
    """Loaded plugins: their classes, their provenance, and what a worker needs to have the same ones."""

    _loaded: tuple[Loaded, ...]

    @cached_property
    def strategies(self) -> dict[str, type[Strategy]]:
        return {each.plugin.name: each.plugin for each in self._sorted() if issubclass(each.plugin, Strategy)}

    @cached_property
    def families(self) -> dict[str, type[Family]]:
        return {each.plugin.name: each.plugin for each in self._sorted() if issubclass(each.plugin, Family)}

    def _sorted(self) -> list[Loaded]:
        return sorted(self._loaded, key=lambda each: each.plugin.name)

    def strategy(self, name: str, fields: Mapping[str, Any]) -> Strategy:
        """An instance from its JSON fields.

        Raises:
            PluginError: no such strategy is loaded, or the fields do not fit.
        """
        if name not in self.strategies:
            raise PluginError(f"no strategy {name!r} is loaded.{did_you_mean(name, self.strategies)}")
        instance: Strategy = construct(self.strategies[name], fields)
        return instance

    def family(self, name: str, fields: Mapping[str, Any]) -> Family:
        """An instance from its JSON fields.

        Raises:
            PluginError: no such family is loaded, or the fields do not fit.
        """
        if name not in self.families:
            raise PluginError(f"no family {name!r} is loaded.{did_you_mean(name, self.families)}")
        instance: Family = construct(self.families[name], fields)
        return instance

    def describe(self) -> list[dict[str, Any]]:
        """For a manifest: name, kind, origin, version (of the package; None for a file) and hash of the source text of each plugin."""
        return [
            {
                "name": each.plugin.name,
                "kind": kind_of(Strategy if issubclass(each.plugin, Strategy) else Family),
                "origin": _origin(each.source),
                "version": each.source.version,
                "hash": each.imported.hash,
            }
            for each in self._sorted()
        ]

    def shipped(self) -> list[dict[str, Any]]:
        """JSON from which `receive` has the same plugins in another process or on another machine.

        Files travel as text, those in `plugins/` too: a worker's kdsearch may lack a file that was dropped there. Modules and entry points
        travel as names, for a package's other files cannot be guessed.
        """
        return [
            {
                "name": each.source.name,
                "kind": each.source.kind,
                "locator": each.source.locator,
                "where": each.source.where,
                "distribution": each.source.distribution,
                "version": each.source.version,
                "hash": each.imported.hash,
                "text": each.imported.text if each.source.kind in ("file", "built-in") else None,
            }
            for each in self._sorted()
        ]

    @staticmethod
    def receive(shipped: Sequence[Mapping[str, Any]]) -> Plugins:
        """The plugins that another process shipped; no file, working folder or entry point of this machine is needed for file plugins.

        Raises:
            PluginError: a package is not installed on this machine, or has another source text.
        """
        key = digest(canonical(list(shipped)))
        if key not in _received:
            _received[key] = Plugins(register([_receive(record) for record in shipped]))
        return _received[key]


_received: dict[str, Plugins] = {}


def _receive(record: Mapping[str, Any]) -> Imported:
    source = Source(
        record["name"],
        record["kind"],
        record["locator"],
        record["where"],
        distribution=record["distribution"],
        version=record["version"],
    )
    if source.kind == "built-in":
        for here in discover.built_ins():
            if here.name == source.name and here.path and _same_text(here.path, here.where, record["hash"]):
                return discover.import_source(here)
    if record["text"] is not None:
        return discover.import_text(source, record["text"])
    try:
        imported = discover.import_source(source)
    except PluginError as problem:
        raise PluginError(f"node {socket.gethostname()}: {problem}") from problem
    if imported.hash != record["hash"]:
        package = source.distribution or source.locator.split(".")[0]
        raise PluginError(
            f"node {socket.gethostname()}: {source.where}: its source is not the driver's: install the same {package}"
            f"{f'=={source.version}' if source.version else ''} on every node"
        )
    return imported


def _same_text(path: str, where: str, text_hash: str) -> bool:
    return digest(discover.read_text(Path(path), where)) == text_hash


def _listed(extra: Sequence[str]) -> list[Source]:
    """The study's own plugins, a built-in's file as the built-in that it is, and each only once."""
    own = {source.locator: source for source in discover.built_ins()}
    own |= {str(Path(source.path).resolve()): source for source in own.values() if source.path}
    listed: dict[tuple[str, str], Source] = {}
    for entry in extra:
        source = discover.named_in_study(entry)
        source = own.get(source.locator, source)
        listed.setdefault((source.kind, source.locator), source)
    return list(listed.values())


def _candidates(extra: Sequence[str] = ()) -> list[Source]:
    built_in, listed = discover.built_ins(), _listed(extra)
    return [*built_in, *(source for source in listed if source.kind != "built-in"), *discover.entry_points()]


def _origin(source: Source) -> str:
    if source.kind == "built-in":
        return f"{source.where} (built in)"
    return source.locator if source.kind == "file" else source.where


def _plural(kind: str) -> str:
    return {"strategy": "strategies", "family": "families"}[kind]


def _unknown(name: str, kind: str | None, found: Iterable[Source]) -> str:
    kinds = {source.name: discover.kind_without_import(source) for source in found}
    known = sorted(each for each, its_kind in kinds.items() if kind is None or its_kind in (kind, None))
    near = did_you_mean(name, known)
    listing = f" There is: {', '.join(known)}." if known else ""
    hint = near if near.startswith(" Did you mean") else ""
    advice = f"add {name}.py under plugins:" if kind else f"give its path, ./{name}.py"
    file = f" There is a file {name}.py here: {advice}." if Path(f"{name}.py").is_file() else ""
    return f"no {kind or 'plugin'} {name!r}.{hint}{listing}{file}"
