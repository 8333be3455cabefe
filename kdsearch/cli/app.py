"""The command line: thin. Each command reads its options, calls one function and prints what it returns."""

from __future__ import annotations

import csv
import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdsearch.cli.options import Format, FormatOption, FrontFormat, Moved, Sets, StudyDir, StudyFile
from kdsearch.errors import Interrupted, KdsearchError

app = typer.Typer(help="Search for small students of a fine-tuned text classifier.", no_args_is_help=True, pretty_exceptions_enable=False)


Out = Annotated[Path, typer.Option("--out", help="The parent of the study's folder.")]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show a traceback for errors.")] = False) -> None:
    """Read by `main` from the command line itself."""


@app.command()
def search(
    study: StudyFile,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials to start in all, earlier runs included.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="End after so many minutes; the same command goes on.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster, HOST:PORT of its head. Default: this machine alone.")] = None,
    out: Out = Path("studies"),
    sets: Sets = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the space, sizes, cache bytes and a time estimate; train nothing.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Refuse a folder that exists.")] = False,
) -> None:
    """Search for students; go on with the study when its folder exists."""
    from kdsearch.config import study_file

    changes = list(sets or [])
    changes += [f"search.trials={trials}"] * (trials is not None) + [f"search.minutes={minutes}"] * (minutes is not None)
    wanted = study_file.load(study, changes)
    if dry_run:
        from kdsearch.study.dry_run import show

        show(wanted, Console())
        return
    from kdsearch.results.table import front_table
    from kdsearch.study.search import search as run

    found = run(wanted, out=out, address=address, fresh=fresh)
    document = found.document
    console = Console()
    console.print(front_table(document, f"front of {found.folder}"))
    counts = document["trials"]
    console.print(
        f"{counts['complete']} complete, {counts['stopped']} stopped, {counts['failed']} failed; "
        f"hypervolume {document['hypervolume']:.4f}; {_best(document)}",
        highlight=False,
    )
    console.print(f"results: {found.folder}/ (front.json, students/, ledger.jsonl, study.db)", highlight=False, soft_wrap=True)


def _best(document: dict[str, Any]) -> str:
    from kdsearch.results import front

    rows = [row for row in front.rows(document) if row["retention"] is not None]
    if not rows:
        return "no student yet"
    best = max(rows, key=lambda row: row["retention"])
    return f"best retention {best['retention']:.1%} with {best['params']:,} params (trial {best['trial']})"


@app.command()
def front(
    study_dir: StudyDir,
    format: Annotated[FrontFormat, typer.Option("--format", help="table, json or csv.")] = FrontFormat.table,
) -> None:
    """The Pareto front, recomputed from the ledger."""
    from kdsearch.results import front as fronts
    from kdsearch.results.folder import StudyFolder

    document = StudyFolder(study_dir).document()
    if format is FrontFormat.json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return
    if format is FrontFormat.csv:
        rows = fronts.rows(document)
        writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else ["trial"])
        writer.writeheader()
        writer.writerows(rows)
        return
    from kdsearch.results.table import front_table

    Console().print(front_table(document, f"{document['study']}: score on validation"))


@app.command()
def verify(study_dir: StudyDir, sets: Moved = None, format: FormatOption = Format.table) -> None:
    """Check that the front equals its recomputation and that every student on it loads, has its size and gives its score again."""
    from dataclasses import asdict

    from kdsearch.study.verify import verify as checks

    console, found = Console(), []
    for check in checks(study_dir, sets or ()):
        found.append(check)
        if format is Format.table:
            console.print(
                "[green]PASS[/]" if check.passed else "[red]FAIL[/]", f"{check.what}: {check.detail}", highlight=False, soft_wrap=True
            )
    if format is Format.json:
        print(json.dumps([asdict(check) for check in found], indent=2))
    if not all(check.passed for check in found):
        raise typer.Exit(1)


@app.command()
def report(study_dir: StudyDir, sets: Moved = None) -> None:
    """Write report.html, front.png and README.md into the study's folder, from its ledger."""
    from kdsearch.report.write import write

    for path in write(study_dir, sets or ()):
        Console().print(f"written: {path}", highlight=False, soft_wrap=True)


@app.command()
def teacher(study: StudyFile, sets: Sets = None) -> None:
    """Fine-tune or load the study's teacher, let it pass the gate, and fill the cache."""
    from kdsearch.config import study_file

    wanted = study_file.load(study, sets or [])
    from kdsearch.io.progress import teacher_progress
    from kdsearch.study import prepare

    console = Console(stderr=True)
    known = prepare.inspect(wanted)
    for note in known.survey.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    with teacher_progress(console) as progress:
        prepared = prepare.prepare(known, progress)
    facts = prepared.manifest["teacher"]
    table = Table(show_header=False)
    table.add_row("teacher", facts["source"])
    for index, one in enumerate(prepared.manifest.get("teachers", ())):
        scores = ", ".join(f"{name} {score:.4f}" for name, score in one["validation"].items())
        table.add_row(f"teacher[{index}]", f"{one['params']:,} params; {scores}")
    table.add_row("params", f"{facts['params']:,}")
    for name, score in facts["validation"].items():
        table.add_row(f"validation {name}", f"{score:.4f}")
    table.add_row("simplest guess", f"{facts['baseline']:.4f}")
    table.add_row("cache", f"{prepared.manifest['cache']['bytes']:,} bytes")
    table.add_row("texts run now", f"{prepared.forwards:,}")
    table.add_row("seconds", f"{prepared.seconds:.1f}")
    Console().print(table)
    for note in prepared.notes:
        console.print(f"note: {note}", highlight=False)


def _mount() -> None:
    from kdsearch.cli.confirm import confirm
    from kdsearch.cli.pick import pick
    from kdsearch.cli.plugins import app as plugin_commands

    app.command()(confirm)
    app.command()(pick)
    app.add_typer(plugin_commands, name="plugins", help="List, check and write plugins.")


def main() -> None:
    """The entry point: errors become one message and an exit code; a traceback only with --debug."""
    _mount()
    debug = "--debug" in sys.argv[1:]
    if debug:
        sys.argv.remove("--debug")
    try:
        app(standalone_mode=True)
    except KdsearchError as problem:
        if debug:
            raise
        sys.stderr.write("\n".join(str(problem).splitlines()[:10]) + "\n")
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(Interrupted(signal.SIGINT).exit_code)
