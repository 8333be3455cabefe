"""The front as the table that a person chooses from."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from kdsearch.io.text import compact, percent, score, times
from kdsearch.results import front


def front_table(document: dict[str, Any], title: str | None = None) -> Table:
    """The front as the table that a person chooses from; once confirmed, figures on test replace those on validation."""
    quality = document["objectives"][0]
    confirmed = any(point["confirmed"] for point in document["points"])
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    several = len({point["family"] for point in document["points"]}) > 1
    names: tuple[str, ...] = ("trial", "student", "params", quality, "test, 95 %", "control", "recovered")
    if not confirmed:
        names = ("trial", "family", "strategy", "params", "smaller", "FLOPs", quality, "kept")
    for name in names:
        table.add_column(name, justify="left" if name in ("family", "strategy", "student") else "right", no_wrap=name != "student")
    for row, point in zip(front.rows(document), document["points"], strict=True):
        own, size = score(row["score"]), compact(row["params"])
        if confirmed:
            student = f"{row['family']} {row['strategy']}" if several else row["strategy"]
            table.add_row(str(row["trial"]), student, size, own, *_test_cells(point["confirmed"], quality))
        else:
            sizes = size, times(row["ratio"]), compact(row["flops"])
            table.add_row(str(row["trial"]), row["family"], row["strategy"], *sizes, own, percent(row["retention"]))
    teacher = document["teacher"]
    own, size = score(teacher["validation"].get(quality)), compact(teacher["params"])
    if confirmed:
        table.add_row("", "teacher", size, own, _with_interval(teacher["test"], quality), style="dim")
    else:
        table.add_row("", "teacher", "", size, "", compact(teacher["flops"]), own, style="dim")
    return table


def _test_cells(confirmed: dict[str, Any] | None, quality: str) -> list[str]:
    """Test score, the control's, the recovered gap; empty where there is none."""
    if not confirmed:
        return ["", "", ""]
    control = confirmed["control"]
    return [
        _with_interval(confirmed["test"], quality),
        "" if control is None else f"{control[quality]:.4f}",
        percent(confirmed["recovered"], 0),
    ]


def _with_interval(scores: dict[str, Any], quality: str) -> str:
    low, high = scores["ci95"]
    return f"{scores[quality]:.4f} ({low:.3f}-{high:.3f})"
