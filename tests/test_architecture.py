"""The house: one folder for each thing that a person may want to change, and imports that run one way, from the top floor to the ground."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kdsearch"

# From the top down. A file imports its own folder and the floors below it; folders of one floor do not know each other.
FLOORS = [
    {"cli"},
    {"study", "report"},
    {"hpo", "deploy"},
    {"results"},
    {"student", "testing"},
    {"teacher"},
    {"space", "training", "evaluation"},
    {"data", "registry"},
    {"config"},
    {"io"},
    {"losses", "modules", "initialise", "api"},  # what a plugin author imports, beside testing and errors; these alone know each other
    {"tasks"},
    {"errors"},
]
FILES_OF_THE_TOP = {"losses", "modules", "initialise", "api", "errors"}

FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """kdsearch/io/files.py -> kdsearch.io.files"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def floor_of(module: str) -> int:
    """0 is the top floor, the highest number the ground."""
    room = module.split(".")[1]
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in it, but for annotations alone."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for_annotations = {
        id(node)
        for part in ast.walk(tree)
        if isinstance(part, ast.If) and "TYPE_CHECKING" in ast.dump(part.test)
        for node in ast.walk(part)
    }
    for node in ast.walk(tree):
        if id(node) in for_annotations:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def arrows(module: str) -> frozenset[str]:
    """The modules of kdsearch that a module of it imports; the package's own face, which loads names when asked, left out."""
    named = {name if name in MODULES else name.rpartition(".")[0] for name in imported(MODULES[module])}
    return frozenset((named & MODULES.keys()) - {"kdsearch", module})


def test_the_top_level_holds_only_what_a_plugin_author_imports() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set().union(*FLOORS) - FILES_OF_THE_TOP
    assert {path.stem for path in PACKAGE.glob("*.py")} == FILES_OF_THE_TOP | {"__init__"}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"kdsearch"}))
def test_imports_run_downwards(module: str) -> None:
    room = module.split(".")[1]
    for other in arrows(module):
        own = other.split(".")[1] == room or {other.split(".")[1], room} <= FLOORS[-3]
        assert own or floor_of(other) > floor_of(module), f"{module} imports {other}, which does not stand below it"


def test_imports_make_no_circle() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module not in done:
            for other in sorted(arrows(module)):
                visit(other, (*above, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
    rooms = {(module.split(".")[1], other.split(".")[1]) for module in MODULES.keys() - {"kdsearch"} for other in arrows(module)}
    between = sorted((one, other) for one, other in rooms if one != other)
    largest = max(FILES, key=lambda path: len(path.read_text().splitlines()))
    print(
        f"{len(FILES)} files in {len(set().union(*FLOORS) - FILES_OF_THE_TOP)} folders on {len(FLOORS)} floors, no circle; "
        f"{sum(len(arrows(module)) for module in MODULES)} imports between files, {len(between)} between folders; "
        f"{sum(len(path.read_text().splitlines()) for path in FILES):,} lines, at most "
        f"{len(largest.read_text().splitlines())} ({largest.relative_to(ROOT)})"
    )


@pytest.mark.parametrize("folder", sorted(set().union(*FLOORS) - FILES_OF_THE_TOP))
def test_every_folder_says_what_it_is_for_and_what_may_not_come_in(folder: str) -> None:
    told = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text())) or ""
    assert "Nothing" in told, f"kdsearch/{folder}/__init__.py does not say what may not come in"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_hpo_knows_ray_and_optuna(module: str) -> None:
    if module.split(".")[1:2] != ["hpo"]:
        assert not {name.split(".")[0] for name in imported(MODULES[module])} & {"ray", "optuna"}


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*.py")), ids=lambda path: path.name)
def test_plugins_know_the_public_names_alone(path: Path) -> None:
    public = set(__import__("kdsearch").__all__)
    beside = {"torch", "transformers", "__future__", "dataclasses", "typing", "collections", "math", "itertools", "functools"}
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] in {"kdsearch", *beside}
        if parts[0] == "kdsearch":
            assert parts[1] in public, f"{path.name} imports {name}"


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    declared = {re.split(r"[^\w.-]", each)[0].lower().replace("_", "-") for each in listed}
    tops = {name.partition(".")[0] for path in [*FILES, *(ROOT / "plugins").glob("*.py")] for name in imported(path)}
    known = metadata.packages_distributions()
    foreign = {top: known.get(top, [top]) for top in tops - sys.stdlib_module_names - {"kdsearch", "kdsearch_plugins"}}
    assert {"torch", "yaml"} <= foreign.keys()
    assert [top for top, names in sorted(foreign.items()) if not {name.lower().replace("_", "-") for name in names} & declared] == []
