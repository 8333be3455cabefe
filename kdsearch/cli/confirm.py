"""`kdsearch confirm`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from kdsearch import tasks
from kdsearch.cli.options import Format, FormatOption, Moved, StudyDir

WIDTH = 150  # columns where there is no terminal: nothing wraps


def confirm(
    study_dir: StudyDir,
    seeds: Annotated[int | None, typer.Option(min=1, help="Fresh seeds for each finalist. Default: the study's confirm.seeds.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Finalists at most. Default: the study's confirm.top.")] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Write the texts of the rows on which student and teacher disagree; opens the test rows again.")
    ] = False,
    sets: Moved = None,
    format: FormatOption = Format.table,
) -> None:
    """Train the finalists again with fresh seeds, beside the same students without a teacher, and measure them on the sealed test rows."""
    from kdsearch.results.folder import StudyFolder
    from kdsearch.study.confirm import confirm as run

    document = run(study_dir, seeds=seeds, top=top, texts=texts, sets=sets or ())
    if format is Format.json:
        typer.echo(json.dumps(summary(document), indent=2, ensure_ascii=False))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table(document, tasks.of(StudyFolder(study_dir).config(sets or ()).task)))
    for line in notes(document):
        console.print(line, highlight=False, soft_wrap=True)


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """What `--format json` prints."""
    from kdsearch.results.front import confirmed_points

    confirmation = document["confirmation"]
    return {
        "study": document["study"],
        "objectives": document["objectives"],
        **{key: confirmation[key] for key in ("test_used", "rows", "majority", "share_asked")},
        "teacher": document["teacher"],
        "finalists": confirmed_points(document),
    }


def table(document: dict[str, Any], task: tasks.Task) -> Table:
    """The finalists on test, with the teacher and the simplest guess beside them."""
    quality = document["objectives"][0]
    confirmation, teacher = document["confirmation"], document["teacher"]
    on_front = {point["trial"] for point in document["points"]}
    from kdsearch.io.text import compact, percent
    from kdsearch.results.front import confirmed_points

    title = f"{document['study']}: {quality} on {confirmation['rows']:,} test rows"
    found = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trial", "student", "params", "validation", "test", "95 %", "of teacher", "control", "gain", "recovered", "tied with"):
        found.add_column(name, justify="left" if name == "student" else "right")
    for point in confirmed_points(document):
        confirmed = point["confirmed"]
        test, control = confirmed["test"], confirmed["control"]
        found.add_row(
            f"{point['trial']}{'' if point['trial'] in on_front else '*'}",
            f"{point['family']} + {point['strategy']}",
            compact(point["params"]),
            f"{confirmed['validation'][quality]:.4f}",
            f"{test[quality]:.4f}" + ("" if test["deviation"] is None else f" ± {test['deviation']:.4f}"),
            f"{test['ci95'][0]:.3f}-{test['ci95'][1]:.3f}",
            percent(confirmed["retention"]),
            "" if control is None else f"{control[quality]:.4f}",
            gain_cell(confirmed),
            recovered_cell(confirmed),
            ", ".join(map(str, confirmed["tied_with"])) or "-",
        )
    own = teacher["test"]
    cells = [compact(teacher["params"]), f"{teacher['validation'][quality]:.4f}", f"{own[quality]:.4f}"]
    found.add_row("", "teacher", *cells, f"{own['ci95'][0]:.3f}-{own['ci95'][1]:.3f}", style="dim")
    found.add_row("", task.simplest, "", "", f"{confirmation['majority'][quality]:.4f}", style="dim")
    return found


def gain_cell(confirmed: dict[str, Any]) -> str:
    """'+0.021 (+0.004..+0.038)' over the control, or nothing."""
    if confirmed["gain"] is None:
        return ""
    low, high = confirmed["gain"]["ci95"]
    return f"{confirmed['gain']['value']:+.3f} ({low:+.3f}..{high:+.3f})"


def recovered_cell(confirmed: dict[str, Any]) -> str:
    """'62% (31%..95%)', or nothing."""
    if confirmed["recovered"] is None:
        return ""
    low, high = confirmed["recovered_ci95"]
    return f"{confirmed['recovered']:.0%} ({low:.0%}..{high:.0%})"


def notes(document: dict[str, Any]) -> list[str]:
    """What the table's columns mean, and what a reader must know."""
    from kdsearch.results.front import confirmed_points

    confirmation = document["confirmation"]
    points = confirmed_points(document)
    used = f"test used {confirmation['test_used']} time{'s' * (confirmation['test_used'] > 1)}"
    lines = [
        f"{used}; ± is the deviation over seeds; deployed is the median run by validation: students/<trial>-confirmed",
        "control: the same student without a teacher; recovered: (student - control) / (teacher - control), blank without a clear gap",
    ]
    if len(points) > 1:
        asked = f"{confirmation['share_asked']:.1%}"
        lines.append(f"tied with: no larger, and the student is better in fewer than {asked} of paired bootstraps of rows and seeds")
    if confirmation["others"]:
        lines.append("*: not on the front of validation scores, but worse only within noise")
    failed = [(point["trial"], each) for point in points for each in point["confirmed"]["failed"]]
    lines += [f"trial {trial}, {each['role']}, seed {each['seed']} failed: {each['message']}" for trial, each in failed[:3]]
    if len(failed) > 3:
        lines.append(f"and {len(failed) - 3} more runs failed: see ledger.jsonl")
    return lines
