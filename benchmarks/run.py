"""`make bench`: every benchmark, or those named, as a table; rows are kept as JSON lines in benchmarks/results/."""

from __future__ import annotations

import importlib
import sys

import world
from rich.console import Console
from rich.table import Table

SHORT = ("loop", "cache", "stock_trainer", "threads", "search_share")
RESUMABLE = ("retention", "ablation", "few_shot")  # they keep each run as it is done; their table is made of those


def main() -> None:
    console = Console()
    for name in sys.argv[1:] or SHORT:
        module = importlib.import_module(name)
        rows = module.run()
        if not rows:
            console.print(f"{name}: no runs yet")
            continue
        if name not in RESUMABLE:
            world.keep(name, rows)
        table = Table(title=f"{name}: {(module.__doc__ or '').splitlines()[0]}", title_justify="left")
        for column in rows[0]:
            table.add_column(column)
        for row in rows:
            table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
        console.print(table)


if __name__ == "__main__":
    main()
