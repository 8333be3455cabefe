"""Numbers formatted for people, and the first line of an error."""

from __future__ import annotations

import math
from collections.abc import Sequence


def compact(number: float) -> str:
    """1234567 -> '1.23M'."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:  # 999,999 is 1M, not 1e+03k
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def times(ratio: float) -> str:
    """7.912 -> '7.91x', 22713.9 -> '22,714x'."""
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def score(value: float | None) -> str:
    """Four digits; nothing for None and for what is no number."""
    return "" if value is None or not math.isfinite(value) else f"{value:.4f}"


def percent(fraction: float | None, digits: int = 1, *, gap: str = "") -> str:
    """0.987 -> '98.7%'; nothing for None. gap: what stands before the sign."""
    return "" if fraction is None else f"{100 * fraction:.{digits}f}{gap}%"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of cells that are safe already; the first `left` columns are left-aligned, the others right."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def clock(seconds: float) -> str:
    """75 -> '1:15'."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def first_line(problem: BaseException | str, most: int = 200) -> str:
    """Of a message that may run over many lines; a problem without a message has its class's name."""
    lines = str(problem).strip().splitlines()
    return (lines[0] if lines else type(problem).__name__ if isinstance(problem, BaseException) else "")[:most]
