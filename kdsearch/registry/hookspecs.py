"""The two hooks of a plugin. A hook only yields classes; everything else is in the class (see `kdsearch.api`).

A plugin is one Python file dropped into `plugins/` or listed under `plugins:` in a study, or a module of an installed package with an entry
point in the group `kdsearch`. The file's stem, or the entry point's name, is the `name` of the class that the hook yields.
docs/plugins.md has a whole plugin of each kind.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from kdsearch.api import Family, Strategy

PROJECT = "kdsearch"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def kdsearch_strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
    """Yield the strategy that this plugin brings, the class and not an instance: `yield Centred`."""


@hookspec
def kdsearch_families() -> Iterable[type[Family]]:  # type: ignore[empty-body]
    """Yield the family of students that this plugin brings, the class and not an instance: `yield Wordbag`."""
