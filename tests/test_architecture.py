"""The house: imports run one way, only one room knows Ray and Optuna, and plugins know the public names alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kdsearch"

# from the foundation upwards; a module imports its own floor and those below
FLOORS = [
    {"errors", "io", "api"},
    {"config", "data", "evaluation", "losses", "registry"},
    {
        "training",
        "teacher",
        "initialise",
        "modules",
    },
    {"space"},
    {"student", "results"},
    {"hpo", "testing", "verify"},
    {"prepare", "dryrun", "finalists", "confirm", "deploy", "report", "study"},
    {"plugin_commands", "pick_command", "confirm_command", "report_command", "cli"},
]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
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
    return names


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_room_has_a_floor() -> None:
    rooms = {room(path) for path in FILES}
    assert rooms == set().union(*FLOORS) & rooms
    assert sum(map(len, FLOORS)) == len(set().union(*FLOORS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    own = next(number for number, floor in enumerate(FLOORS) if room(path) in floor)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "kdsearch" and len(parts) > 1:
            other = next((number for number, floor in enumerate(FLOORS) if parts[1] in floor), None)
            assert other is None or other <= own, f"{path.name} imports {name}, which stands above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_hpo_knows_ray_and_optuna(path: Path) -> None:
    known = {name.split(".")[0] for name in imported(path)}
    if room(path) not in ("hpo", "report"):  # the report draws Optuna's importances
        assert not known & {"ray", "optuna"}


@pytest.mark.parametrize("path", sorted((ROOT / "plugins").glob("*.py")), ids=lambda path: path.name)
def test_plugins_know_the_public_names_alone(path: Path) -> None:
    public = set(__import__("kdsearch").__all__)
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] in {
            "kdsearch",
            "torch",
            "transformers",
            "__future__",
            "dataclasses",
            "typing",
            "collections",
            "math",
            "itertools",
            "functools",
        }
        if parts[0] == "kdsearch":
            assert parts[1] in public, f"{path.name} imports {name}"
