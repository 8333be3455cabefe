"""A study whose students may start from a super-student, all the way: prepared, searched, gone on with, confirmed; and refused where none can."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import worlds
from rich.console import Console

import kdsearch.searching
from kdsearch import cache, config, confirm, dryrun, prepare, shared_start, study, trial
from kdsearch.assets import Assets
from kdsearch.errors import InputError, StateError
from kdsearch.io import read_log
from kdsearch.searching.run import StudyRun
from kdsearch.trial import TrialResult, TrialSpec

NAMES = ["angry", "calm", "sad"]
SECONDS = 1000.0  # that making one takes by the clock of these tests, which no other part of a run comes near to


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("world")
    worlds.save_teacher(folder / "teacher", names=NAMES)
    lines, labels = worlds.texts(500)
    pd.DataFrame({"text": lines, "label": [NAMES[label] for label in labels]}).to_csv(folder / "texts.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDSEARCH_CACHE", str(folder / "cache"))
        yield folder


def keys(world: Path, *, families: Sequence[str] = ("transformer",), start: object = "shared", **space: Any) -> dict[str, Any]:
    knobs = {"lr": {"min": 3e-3, "max": 2e-2}} | ({"transformer.start": start} if start else {})
    return {
        "name": "shared",
        "data": {"files": {"train": str(world / "texts.csv")}, "max_length": 16},
        "teacher": {"model": str(world / "teacher")},
        "space": {"families": list(families), "strategies": ["logit"], "knobs": knobs, "shared_start": 2.0, **space},
        "search": {"trials": 2, "epochs": 1, "early_stopping": False},
        "confirm": {"seeds": 1, "top": 1},
    }


def inspected(values: dict[str, Any]) -> prepare.Known:
    return prepare.inspect(config.from_mapping(values))


# --- a whole search, and what is made of it


@dataclass(frozen=True)
class Searched:
    folder: Path
    told: str

    @property
    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return found


def search(world: Path) -> Searched:
    """In this process, without Ray."""

    def drive(run: StudyRun, assets: Assets, **_: Any) -> None:
        while (given := run.next_trial("here")) is not None:
            result = trial.run(TrialSpec.from_json(json.loads(given["spec"])), assets)
            run.fetch = lambda _, result=result: result  # type: ignore[misc]
            run.ended("here", None, False)

    console = Console(file=StringIO(), width=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.cluster, "session", lambda *_: nullcontext())
        patch.setattr(study.cluster, "places", lambda *_: 1)
        bridge = SimpleNamespace(drive=drive)
        patch.setitem(sys.modules, "kdsearch.searching.tune", bridge)
        patch.setattr(kdsearch.searching, "tune", bridge, raising=False)
        folder = study.search(out=world / "studies", console=console, **keys(world)).folder
    return Searched(folder, console.file.getvalue())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def searched(world: Path) -> Searched:
    with pytest.MonkeyPatch.context() as patch:
        ticks = itertools.count(0.0, SECONDS)
        patch.setattr(shared_start, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
        return search(world)


@pytest.fixture
def kept(searched: Searched, world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only super-student in the cache; from here on no other is made."""
    monkeypatch.setattr(shared_start, "_distilled", lambda *_: pytest.fail("a super-student was made again"))
    (folder,) = (world / "cache" / "starts").glob("*/")
    return folder


@pytest.fixture
def teacher_rests(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "forward", lambda *_: pytest.fail("the teacher was run again"))


def test_every_trial_starts_from_it_and_completes(searched: Searched) -> None:
    document = json.loads((searched.folder / "front.json").read_text())
    assert document["trials"] == {"complete": 2, "stopped": 0, "failed": 0}
    specs = [record["spec"] for record in read_log(searched.folder / "ledger.jsonl") if record["event"] == "started"]
    assert [spec["family_config"]["start"] for spec in specs] == ["shared"] * 2


def test_the_run_that_makes_it_says_so_with_its_size_and_seconds(searched: Searched) -> None:
    facts = searched.manifest["shared_start"]["transformer"]
    assert facts["seconds"] == SECONDS
    shapes = facts["shapes"]
    assert shapes > 1
    assert f"note: shared start of transformer, {shapes} shapes, {facts['params']:,} params: made in 1000 s\n" in searched.told


@pytest.mark.usefixtures("teacher_rests")
def test_a_second_study_finds_it_in_the_cache(searched: Searched, world: Path, kept: Path) -> None:
    known = inspected({**keys(world), "name": "another", "seed": 5})
    again = prepare.prepare(known)
    assert again.forwards == 0
    assert again.manifest["shared_start"] == searched.manifest["shared_start"]
    assert set(again.manifest["shared_start"]["transformer"]) == {"params", "shapes", "seconds", "fingerprint"}
    assert again.assets.info.shared
    assert set(again.assets.shared) == {"transformer"}
    model, facts = again.assets.super_student("transformer"), again.manifest["shared_start"]["transformer"]
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["params"]
    assert hashlib.blake2b((kept / "model.safetensors").read_bytes(), digest_size=16).hexdigest() == facts["fingerprint"]
    shipped = sum(array.nbytes for array in again.assets.shared["transformer"].weights.values())
    assert again.object_bytes > shipped >= 4 * facts["params"]
    assert len(known.plugins.families["transformer"].shared_shapes(known.info)) == facts["shapes"]
    (note,) = (each for each in again.notes if each.startswith("shared start"))
    assert note.endswith(": found in the cache; making it took 1000 s")
    assert again.seconds < SECONDS


@pytest.mark.usefixtures("teacher_rests")
def test_its_seconds_are_charged_to_the_run_that_made_it_alone(searched: Searched, world: Path) -> None:
    again = search(world)
    assert "found in the cache; making it took 1000 s" in again.told
    first, second = (record for record in read_log(searched.folder / "ledger.jsonl") if record["event"] == "session")
    assert SECONDS <= first["teacher_seconds"] < 2 * SECONDS
    assert second["teacher_seconds"] < SECONDS
    assert first["teacher_forwards"] > 0
    assert second["teacher_forwards"] == 0


def test_it_may_not_change_on_resume(searched: Searched, world: Path) -> None:
    for other, told in ((3.0, "3.0"), (0.0, "0.0")):
        with pytest.raises(StateError, match=rf"space\.shared_start: 2\.0 -> {told}"):
            kdsearch.search(out=world / "studies", **keys(world, shared_start=other))


def test_a_finalist_is_confirmed_from_the_same_one(searched: Searched, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, str, str]] = []

    def here(specs: Sequence[TrialSpec], assets: Assets, **_: Any) -> Iterator[tuple[int, TrialResult]]:
        for place, spec in enumerate(specs):
            given.append((spec.strategy, str(spec.family_config["start"]), assets.shared["transformer"].fingerprint))
            yield place, trial.run(spec, assets)

    monkeypatch.setattr(confirm, "train_all", here)
    copied = Path(shutil.copytree(searched.folder, tmp_path / "shared"))
    told = confirm.confirm(copied, console=Console(file=StringIO()))
    assert sorted(given) == [("hard", "shared", kept.name), ("logit", "shared", kept.name)]
    (confirmed,) = (point["confirmed"] for point in told["points"] if point["confirmed"])
    assert confirmed["test"]["accuracy"] > 0.5  # three classes


@pytest.mark.usefixtures("kept")
def test_with_another_one_in_its_place_the_study_neither_goes_on_nor_is_confirmed(searched: Searched, world: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(searched.folder, tmp_path / "shared"))
    manifest = searched.manifest
    manifest["shared_start"]["transformer"]["fingerprint"] = "another"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StateError, match="its shared start changed since it was begun"):
        kdsearch.search(out=tmp_path, **keys(world))
    with pytest.raises(StateError, match="its shared start changed since it was searched"):
        confirm.confirm(copied, console=Console(file=StringIO()))


# --- before anything is computed


def test_a_dry_run_has_a_row_for_it(world: Path) -> None:
    path = world / "study.yaml"
    shown = []
    for epochs in (2.0, 0.0):
        path.write_text(json.dumps(keys(world, start=None, shared_start=epochs)))
        console = Console(file=StringIO(), width=200)
        dryrun.show(config.load(path), console)
        shown.append(console.file.getvalue())  # type: ignore[attr-defined]
    (row,) = (line for line in shown[0].splitlines() if "shared start" in line)
    assert "about" in row
    assert "nothing when it is in the cache" in row
    assert "shared | embeddings" in shown[0]
    assert "shared start" not in shown[1]
    assert "shared |" not in shown[1]


@pytest.mark.parametrize(
    ("families", "start", "epochs", "message"),
    [
        (["mlp"], None, 2.0, r"^space\.shared_start: no family of mlp has one: add transformer to space\.families"),
        (["transformer"], "first", 2.0, r"^space\.shared_start: no student"),
        (["transformer", "mlp"], {"choices": ["first", "random"]}, 2.0, r"^space\.shared_start: no student"),
        (["transformer"], "shared", 0.0, r"space\.shared_start"),
        (["transformer"], {"choices": ["first", "shared"]}, 0.0, r"space\.shared_start"),
    ],
)
def test_a_study_in_which_none_can_start_from_it_or_there_is_none_is_refused(
    world: Path, families: list[str], start: object, epochs: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        inspected(keys(world, families=families, start=start, shared_start=epochs))


def test_families_without_one_may_stand_beside_it(world: Path) -> None:
    known = inspected(keys(world, families=["transformer", "mlp"], start=None))
    assert known.info.shared
