"""What a person sees of a choice and of a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kdsearch.results.choose import Choice, retained


def point_line(point: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """One point in one line: size, score, and what it keeps of the teacher."""
    quality = document["objectives"][0]
    kept, on = retained(document, point)
    score = (point["confirmed"]["test"] if on == "test" else point["validation"])[quality]
    words = "" if kept is None else f", {kept:.1%} of the teacher on {on}"
    size = f"{point['params']:,} params, {point['bytes']:,} bytes"
    return f"trial {point['trial']}: {point['family']} + {point['strategy']}, {size}, {quality} {score:.4f}{words}"


def tell_choice(console: Console, choice: Choice, document: Mapping[str, Any]) -> None:
    console.print(f"picked {point_line(choice.point, document)}", highlight=False, style="bold")
    console.print(f"  why: {choice.reason}", highlight=False)
    for name, other in (("next smaller", choice.smaller), ("next larger", choice.larger)):
        console.print(f"  {name}: {point_line(other, document) if other else 'none on the front'}", highlight=False)
    confirmed = choice.point["confirmed"]
    if confirmed and confirmed.get("tied_with"):
        console.print(f"  within chance of trial {', '.join(str(trial) for trial in confirmed['tied_with'])}", highlight=False)


def tell_verdict(console: Console, verdict: Mapping[str, Any]) -> None:
    table = Table(title="verdict", title_justify="left", header_style="bold", box=box.SIMPLE, pad_edge=False)
    table.add_column("check")
    table.add_column("")
    table.add_column("found", overflow="fold")
    for check in verdict["checks"]:
        table.add_row(check["what"], "[green]PASS[/]" if check["passed"] else "[red]FAIL[/]", check["detail"])
    console.print(table)
    timing = verdict["latency"]
    machine = timing["machine"]
    console.print(
        f"\nmilliseconds for one text, {timing['threads']} thread, {machine['cpu']}, load {machine['load']}\n"
        "total: p50 with tokenisation; texts/s: in batches of 32",
        highlight=False,
    )
    table = Table(header_style="bold", box=box.SIMPLE, pad_edge=False)
    for name in ("", "p50", "p90", "p95", "faster", "total", "faster", "texts/s"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for name, figures in timing["engines"].items():
        faster = [f"{figures[key]:.1f}x" if key in figures else "" for key in ("times_faster", "total_times_faster")]
        cells = [f"{figures[key]:.2f}" for key in ("ms_p50", "ms_p90", "ms_p95")]
        table.add_row(name, *cells, faster[0], f"{figures['total_ms_p50']:.2f}", faster[1], f"{figures['texts_per_second']:,.0f}")
    console.print(table)
    table = Table(
        title="on disk; smaller than the teacher's weights", title_justify="left", header_style="bold", box=box.SIMPLE, pad_edge=False
    )
    for name in ("file", "bytes", "smaller", "with tokenizer"):
        table.add_column(name, justify="left" if name == "file" else "right", no_wrap=True)
    for name, size in verdict["sizes"].items():
        table.add_row(name, f"{size['bytes']:,}", f"{size['smaller']:.1f}x", f"{size['with_tokenizer']:,}")
    console.print(table)
    for note in verdict["notes"]:
        console.print(f"note: {note}", highlight=False)
