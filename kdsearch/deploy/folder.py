"""The exported folder: what is in it, its MANIFEST, and how it is put in place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdsearch import tasks
from kdsearch.data.tokens import Table
from kdsearch.errors import InputError, StateError
from kdsearch.io.files import disk_problems, ensure_folder, is_name
from kdsearch.student.saved import RECORD, WEIGHTS, Student

MANIFEST = "MANIFEST"  # as sha256sum writes it: `sha256sum -c MANIFEST` checks the folder
CARD = "README.md"
VERDICT = "verdict.json"
SCRIPT = "predict.py"
_WORK = ".kdsearch-export-"
# of a student's folder, beside the files of its tokenizer's class
_KNOWN = {RECORD, WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
_KNOWN |= {"chat_template.jinja"}  # transformers writes it beside a tokenizer that has one


def lay_out(source: Path, student: Student, rows: Table, target: Path, provenance: dict[str, Any]) -> None:
    """Copy a student's folder, and add what whoever serves it must know: how texts become tokens, and logits answers.

    Args:
        rows: any rows of the study; they show whether its texts are pairs.
        provenance: where the student came from, for kdsearch.json.

    Raises:
        StateError: one of its files is a link or a folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted(_KNOWN | set(student.tokenizer.vocab_files_names.values())):
        path = source / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise StateError(f"{path}: a link or a folder, not a student's file: restore the folder from a copy")
        if path.exists():
            shutil.copyfile(path, target / name)
    record = json.loads((target / RECORD).read_text())
    tokenizer = student.tokenizer
    record["deployed"] = {
        **provenance,
        "pairs": rows.pairs is not None,
        "pad": tokenizer.pad_token_id or 0,
        "truncation_side": tokenizer.truncation_side,
        "activation": tasks.of(record["task"]).activation,
    }
    _write_json(target / RECORD, record)
    settings = target / "tokenizer_config.json"
    if settings.exists():
        # So that truncation=True alone, as in a stock pipeline, cuts a text where training cut it.
        _write_json(settings, {**json.loads(settings.read_text()), "model_max_length": record["max_length"]})


def add_script(target: Path) -> None:
    shutil.copyfile(Path(__file__).with_name(SCRIPT), target / SCRIPT)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_verdict(target: Path, verdict: dict[str, Any]) -> dict[str, Any]:
    """Returns what was written: a number that is not finite, which only a failed check gives, is null, for JSON has no word for it."""
    plain: dict[str, Any] = _finite(verdict)
    _write_json(target / VERDICT, plain)
    return plain


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def files(folder: Path) -> list[Path]:
    """Every file in the folder, relative to it, sorted; leftovers of a killed export are not part of it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.parts[0].startswith(_WORK) and path != Path(MANIFEST))


def write_manifest(folder: Path) -> None:
    lines = []
    for name in files(folder):
        with (folder / name).open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {name.as_posix()}\n")
    (folder / MANIFEST).write_text("".join(lines))


def refuse_foreign(folder: Path) -> None:
    """
    Raises:
        InputError: the folder holds anything that an earlier export did not write, a link among it, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out: {folder}: a file, not a folder: choose another")
    if not folder.is_dir():
        return
    listed = _listed(folder)
    links = [path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink()]
    strange = links + [name for name in files(folder) if name not in listed]
    if strange:
        why = "no MANIFEST of an earlier export lists it" if listed else "it is no earlier export"
        raise InputError(f"--out: {folder} holds {strange[0]} and {why}: choose an empty or new folder")


def _listed(folder: Path) -> set[Path]:
    path = folder / MANIFEST
    if not path.exists():
        return set()
    names = [line.partition("  ")[2] for line in path.read_text(errors="replace").splitlines()]
    outside = [name for name in names if not all(map(is_name, name.split("/")))]
    if outside:
        raise InputError(f"--out: {path} names {outside[0]!r}, which is no file of the folder: choose an empty or new folder")
    return set(map(Path, names))


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A work folder inside `folder` whose files replace what is there when the block ends well.

    Inside, not beside: the folder itself may be the current one or a mounted volume, which cannot be renamed. When the block fails, what
    was there stays as it was.
    """
    folder = folder.absolute()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    ensure_folder(folder)
    with disk_problems(folder):
        for leftover in folder.glob(f"{_WORK}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(dir=folder, prefix=_WORK))
        try:
            yield work
            fresh = [*files(work), Path(MANIFEST)]
            before = _listed(folder)
            for name in fresh:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(work / name, folder / name)
            for name in before - set(fresh):
                with contextlib.suppress(FileNotFoundError):
                    (folder / name).unlink()
            made = []
        finally:
            shutil.rmtree(work, ignore_errors=True)
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
    _drop_empty(folder)


def _drop_empty(folder: Path) -> None:
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
