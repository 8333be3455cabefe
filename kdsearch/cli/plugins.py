"""`kdsearch plugins list | new | check`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kdsearch.cli.options import Format, FormatOption
from kdsearch.errors import InputError, VerdictNo

EQUAL = "zero"  # what most strategies give for a student that is equal to the teacher

app = typer.Typer(help="List, write and check strategies and families.", no_args_is_help=True)


@app.command("list")
def list_plugins(
    output: FormatOption = Format.table,
    plugin: Annotated[list[str] | None, typer.Option(help="A further plugin, as under plugins: of a study. May be repeated.")] = None,
) -> None:
    """Every plugin within reach: built in, installed, and those given with --plugin. None is imported."""
    from kdsearch.registry import registry

    found = registry.available(plugin or ())
    if output is Format.json:
        typer.echo(json.dumps([{"name": each.name, "kind": each.kind, "origin": each.origin} for each in found], indent=2))
        return
    _print("name", "kind", "from", rows=[(each.name, each.kind or "known once loaded", each.origin) for each in found])


@app.command()
def new(name: Annotated[str, typer.Argument(help="The name of the strategy: letters, digits, underscores.")]) -> None:
    """Write NAME.py, a strategy that works, and test_NAME.py into this folder."""
    from kdsearch.registry import scaffold

    strategy, test = scaffold.write_plugin(name, Path())
    typer.echo(f"{strategy}  the strategy: change its loss()\n{test}  its test: pytest {test}, or kdsearch plugins check {strategy}")
    typer.echo(f"In a study: plugins: [{strategy}] and, under space, strategies: [{name}, hard]")


@app.command()
def check(
    name_or_path: Annotated[str, typer.Argument(help="A plugin's name, or the path of its .py file.")],
    output: FormatOption = Format.table,
    equal_student: Annotated[
        str,
        typer.Option(help='What a student equal to the teacher gives: "zero", "zero loss", "zero gradient" or "exempt: REASON".'),
    ] = EQUAL,
) -> None:
    """Run the contract of one plugin. Exit code 1: a check fails; 2: the plugin cannot be loaded."""
    from kdsearch.registry import registry  # here and below: torch takes seconds to import, and no other command waits for this one

    cls = registry.load_one(name_or_path)
    import torch

    from kdsearch import Family, testing

    if equal_student != EQUAL and issubclass(cls, Family):
        raise InputError(f"--equal-student: it is about strategies, and {cls.name} is a family: leave it out")

    torch.set_num_threads(1)  # the tiny models are slower on more
    checks = testing.run_contract(testing.contract_for(cls, equal_student))
    failed = [each for each in checks if each.outcome == "failed"]
    if output is Format.json:
        typer.echo(json.dumps({"name": cls.name, "checks": [dataclasses.asdict(each) for each in checks]}, indent=2))
    else:
        _print("check", "outcome", "reason", rows=[(each.name, each.outcome, each.reason) for each in checks])
    if failed:
        raise VerdictNo(f"{name_or_path}: {len(failed)} of {len(checks)} checks failed: {', '.join(each.name for each in failed)}")


def _print(*columns: str, rows: list[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)
