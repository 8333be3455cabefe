"""README.md of a study's folder: the table, how to deploy, the commands."""

from __future__ import annotations

import re

from kdsearch.io.text import compact, markdown_table, score, times
from kdsearch.report import tables
from kdsearch.report.facts import Facts
from kdsearch.report.page import between, commands, percent, size


def write_readme(facts: Facts) -> str:
    """The text, Markdown as GitHub reads it."""
    parts = [f"# {_safe(facts.document['study'])}", _lead(facts), "![The front](front.png)", *_choice(facts), *_front(facts)]
    parts += [*_confirmed(facts), *_trust(facts), *_deploy(facts), *_files(facts)]
    return "\n\n".join(parts) + "\n"


def _safe(text: object) -> str:
    """What comes from data, as text: no markup of Markdown or HTML has a meaning in it."""
    plain = re.sub(r"([\\`*_\[\]|<>#~])", r"\\\1", str(text))
    return plain.replace("\n", " ")


def _lead(facts: Facts) -> str:
    teacher, counts = facts.document["teacher"], facts.document["trials"]
    text = (
        f"Students of {_safe(facts.teacher_name)} ({teacher['params']:,} parameters, {facts.quality} {score(facts.teacher_score)} on "
        f"validation) for {_safe(facts.data_name)}. {counts['complete']:,} trials complete, {counts['stopped']:,} stopped early, "
        f"{counts['failed']:,} failed."
    )
    best = tables.best_kept(facts)
    if best is not None:
        point, fraction, on = best
        text += f" The best student keeps {percent(fraction)} of the teacher's {facts.quality} on {on} with {compact(point['params'])} parameters."
    return text + " [report.html](report.html) shows all of it."


def _choice(facts: Facts) -> list[str]:
    if not facts.document["points"]:
        return ["No student yet."]
    teacher = facts.document["teacher"]
    rows = []
    for row in tables.within(facts):
        point = row["point"]
        name = f"{100 - 100 * row['share']:.0f} %"
        if point is None:
            rows.append([name, "none", "", "", "", "", ""])
            continue
        smaller = times(teacher["params"] / point["params"])
        cells = [name, compact(point["params"]), smaller, percent(row["kept"]), row["on"], str(point["trial"])]
        rows.append([*cells, _safe(f"{point['family']} + {point['strategy']}")])
    header = ["within", "parameters", "smaller", "keeps", "on", "trial", "student"]
    return [f"## The smallest student within a given distance of the teacher's {facts.quality}", markdown_table(header, rows)]


def _front(facts: Facts) -> list[str]:
    rows = [
        [
            _safe(row["family"]),
            _safe(row["strategy"]),
            str(row["trial"]),
            f"{row['params']:,}",
            times(row["ratio"]),
            size(row["bytes"]),
            score(row["score"]),
            percent(row["retention"]),
        ]
        for row in tables.front_rows(facts)
    ]
    if not rows:
        return []
    header = ["family", "strategy", "trial", "parameters", "smaller", "file", facts.quality, "of teacher"]
    return ["## The front, on validation", markdown_table(header, rows, left=2)]


def _confirmed(facts: Facts) -> list[str]:
    confirmation = facts.confirmation
    if confirmation is None:
        return []
    rows = []
    for point in facts.confirmed:
        each = point["confirmed"]
        test = each["test"]
        name = f"{point['trial']}: {point['family']} + {point['strategy']}"
        interval = between(test["ci95"])
        control = "" if each["control"] is None else score(each["control"][facts.quality])
        kept = percent(each["retention"])
        tied = ", ".join(map(str, each["tied_with"]))
        rows.append([_safe(name), compact(point["params"]), score(test[facts.quality]), interval, kept, control, tied])
    own = facts.document["teacher"]["test"]
    rows.append(["teacher", compact(facts.document["teacher"]["params"]), score(own[facts.quality]), between(own["ci95"]), *[""] * 3])
    header = ["trial", "parameters", facts.quality, "95 %", "of teacher", "without a teacher", "tied with"]
    return [f"## Confirmed on {confirmation['rows']:,} test rows", markdown_table(header, rows)]


def _trust(facts: Facts) -> list[str]:
    notes = tables.notes(facts)
    return ["## How far to trust it", "\n".join(f"- {_safe(note)}" for note in notes)] if notes else []


def _deploy(facts: Facts) -> list[str]:
    listed = "\n".join(f"# {what}\n{command}\n" for what, command in commands(facts)).rstrip()
    parts = ["## Commands", f"```sh\n{listed}\n```"]
    if facts.document["points"]:
        parts.append(
            "`pick` writes a folder that stock `transformers` loads where the family is a stock one, and that `predict.py` in it runs anywhere "
            "with onnxruntime, tokenizers and numpy; `verdict.json` says what was checked. A student as it was trained:"
        )
        first = facts.document["points"][-1]
        folder = facts.folder / (first["confirmed"] or first)["student"]
        parts.append(f'```python\nimport kdsearch\n\nstudent = kdsearch.load_student("{folder}")\nstudent(["a text", "another"])\n```')
    return parts


def _files(facts: Facts) -> list[str]:
    rows = [
        ["`report.html`", "everything, interactive, one file without network"],
        ["`front.json`", "the front, for programs"],
        ["`students/`", "the trained students, one folder a trial"],
        ["`ledger.jsonl`", "the truth: every trial and what became of it; everything else here is made from it"],
        ["`study.db`", "the same for optuna-dashboard"],
        ["`study.yaml`, `manifest.json`", "the study with every default; versions, seeds and fingerprints"],
    ]
    there = [
        row
        for row in rows
        if any((facts.folder / name.rstrip("/")).exists() for name in re.findall(r"`([^`]+)`", row[0])) or "report" in row[0]
    ]
    return ["## Files", markdown_table(["file", "what"], there, left=2)]
