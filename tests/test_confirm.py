"""Confirming a study: what is trained again, when the test rows are opened, and what is written of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
import worlds
import yaml
from rich.console import Console
from typer.testing import CliRunner

import kdsearch
from kdsearch import tasks
from kdsearch.cli import confirm as confirm_command
from kdsearch.config import study_file
from kdsearch.data import splits
from kdsearch.errors import Interrupted, StateError, VerdictNo
from kdsearch.evaluation import evidence
from kdsearch.io import files
from kdsearch.io.files import read_log
from kdsearch.results import front
from kdsearch.results.folder import StudyFolder
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import State, StudyState, TrialRecord, replay
from kdsearch.results.table import front_table
from kdsearch.space import cost
from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.student.saved import load_student
from kdsearch.student.trial import TrialResult
from kdsearch.study import confirm, confirm_runs, finalists, prepare
from kdsearch.study.interrupts import interruptible
from kdsearch.study.verify import verify


def record(number: int, score: float, params: int, **spec: Any) -> TrialRecord:
    whole = {"family": "transformer", "family_config": {"layers": 1}, "strategy": "logit", "strategy_config": {"alpha": 0.5}}
    whole |= {"training": {"lr": 0.01}, "epochs": 2.0, "seed": 7} | spec
    return TrialRecord(number, f"h{number}", whole, {}, params, 4 * params, 9, state=State.COMPLETE, scores={"accuracy": score})


def state_of(*trials: TrialRecord) -> StudyState:
    return StudyState(trials={each.number: each for each in trials})


# --- which students, and what is trained for them


def chosen(state: StudyState, logits: dict[int, np.ndarray], rows: int, top: int) -> list[int]:
    labels = np.zeros(rows, np.int64)
    found = finalists.choose(state, ("accuracy", "params"), "classification", logits, labels, top)
    return [each.number for each in found]


def right(rows: int, wrong: Sequence[int]) -> np.ndarray:
    """Logits that are right on every row of label 0 but these."""
    logits = np.tile([1.0, 0.0], (rows, 1))
    logits[list(wrong)] = [0.0, 1.0]
    return logits


def test_finalists_are_the_front_and_what_noise_cannot_tell_from_it() -> None:
    rows = 400
    wrong = {0: range(100), 1: range(60), 2: range(61), 3: range(120), 4: range(61, 122)}
    logits = {number: right(rows, each) for number, each in wrong.items()}
    sizes = {0: 10, 1: 20, 2: 30, 3: 15, 4: 30}
    state = state_of(*(record(number, 1 - len(wrong[number]) / rows, sizes[number]) for number in wrong))
    assert [each.number for each in front.members(state, ("accuracy", "params"))] == [0, 1]
    # 2 is wrong on one row more than 1, which is noise, and so is 4, which errs elsewhere; 3 is wrong on twenty rows more than 0, on the same
    assert chosen(state, logits, rows, 5) == [0, 1, 2, 4]
    # bounded: the front first, then the closest
    assert chosen(state, logits, rows, 3) in ([0, 1, 2], [0, 1, 4])
    assert chosen(state, {}, rows, 5) == [0, 1]  # without predictions nobody beyond the front


def test_of_a_long_front_the_best_and_those_that_hold_it_up_are_chosen() -> None:
    scores = [0.60, 0.70, 0.705, 0.80, 0.802]
    state = state_of(*(record(number, score, 10 ** (4 + number)) for number, score in enumerate(scores)))
    assert chosen(state, {}, 10, 3) == [1, 3, 4]
    assert chosen(state, {}, 10, 1) == [4]


def test_more_seeds_begin_with_the_same_ones() -> None:
    assert finalists.fresh_seeds(0, 5)[:3] == finalists.fresh_seeds(0, 3)
    assert set(finalists.fresh_seeds(0, 5)).isdisjoint(finalists.fresh_seeds(1, 5))
    assert all(0 <= seed < 2**31 for seed in finalists.fresh_seeds(3, 50))


def test_a_control_differs_in_the_strategy_alone() -> None:
    spec = TrialSpec("transformer", {"layers": 2}, "joint", {"alpha": 0.3}, {"lr": 0.01, "dropout": 0.2}, 2.0, 5)
    control = finalists.control_of(spec, 100, 0, 0)
    assert control == TrialSpec("transformer", {"layers": 2}, "hard", {}, {"lr": 0.01, "dropout": 0.2}, 2.0, 5)
    # a student that also went through half of 400 unlabelled texts saw three times the rows: so does its control
    more = TrialSpec("transformer", {"layers": 2}, "logit", {}, {"lr": 0.01, "unlabelled": 0.5}, 2.0, 5)
    assert finalists.control_of(more, 100, 400, 0) == TrialSpec("transformer", {"layers": 2}, "hard", {}, {"lr": 0.01}, 6.0, 5)


def test_a_plan_trains_each_finalist_and_its_control_with_the_same_seeds_and_nothing_twice() -> None:
    trials = [record(0, 0.7, 10), record(1, 0.7, 20, strategy="hard", strategy_config={}), record(2, 0.8, 30, strategy="feature")]
    plan = finalists.plan(trials, [11, 12], (100, 0, 0))
    assert {number: sorted(roles) for number, roles in plan.items()} == {
        0: ["control", "student"],
        1: ["student"],
        2: ["control", "student"],
    }
    for roles in plan.values():
        for runs in roles.values():
            assert [run.spec.seed for run in runs] == [11, 12]
    # all three are of one shape: the control of 0 and 2 is the student 1
    keys = {run.key for roles in plan.values() for runs in roles.values() for run in runs}
    assert len(keys) == 6
    assert plan[0]["control"][0].key == plan[1]["student"][0].key == plan[2]["control"][0].key


def test_the_median_is_never_the_luckiest() -> None:
    assert evidence.median_of([0.7, 0.9, 0.8]) == 2
    assert evidence.median_of([0.7, 0.9, 0.8, 0.75]) == 3  # of four the lower middle one
    assert evidence.median_of([0.7, 0.9]) == 0
    assert evidence.median_of([0.5]) == 0


def test_a_finalists_figures_by_hand() -> None:
    """100 rows: student right on 80, its control on 70, the teacher on 90: half of the gap is recovered."""
    labels = np.zeros(100, np.int64)
    own, control, teacher = (right(100, range(count)) for count in (20, 30, 10))
    judged = evidence.judge("classification", "accuracy", labels, [[own, own], [control]])
    best = evidence.judge_one("classification", "accuracy", labels, teacher)
    student = evidence.Seeds((5, 6), ({"accuracy": 0.75}, {"accuracy": 0.77}), (own, own))
    block = evidence.finalist(3, "accuracy", student, judged[0], judged[1], best, judged[0])
    assert block["student"] == "students/3-confirmed"
    assert block["validation"] == {"accuracy": pytest.approx(0.76), "deviation": pytest.approx(0.01414, abs=1e-5)}
    assert (block["test"]["accuracy"], block["test"]["seeds"], block["test"]["deviation"]) == (0.8, 2, 0.0)
    assert block["test"]["ci95"] == pytest.approx([0.711, 0.867], abs=0.002)  # Wilson's of 80 in 100
    assert (block["control"]["accuracy"], block["control"]["deviation"]) == (0.7, None)
    assert block["gain"]["value"] == pytest.approx(0.1)
    assert block["gain"]["ci95"] == pytest.approx([0.05, 0.16], abs=0.011)  # ten rows of a hundred, drawn again
    assert block["retention"] == pytest.approx(0.8 / 0.9)
    assert block["recovered"] == pytest.approx(0.5)
    assert block["recovered_ci95"][0] < 0.5 < block["recovered_ci95"][1]
    assert block["deployed"]["seed"] == 5
    # a student that had no teacher is its own control; one whose control could not be trained has none
    alone = evidence.finalist(3, "accuracy", student, judged[0], judged[0], best, judged[0])
    assert (alone["control"], alone["gain"], alone["recovered"]) == (alone["test"], None, None)
    without = evidence.finalist(3, "accuracy", student, judged[0], None, best, judged[0])
    assert (without["control"], without["gain"], without["recovered"]) == (None, None, None)


# --- the ledger


STUDY = {"event": "study", "version": 1}
STARTED = {"event": "started", "trial": 0, "attempt": 1, "spec": {}, "hash": "a", "knobs": {}, "params": 1, "bytes": 4, "flops": 2}
COMPLETE = {"event": "complete", "trial": 0, "attempt": 1, "scores": {"accuracy": 0.7}, "params": 1, "bytes": 4, "flops": 2, "seconds": {}}
RUN = {"event": "confirmed_run", "trial": 0, "role": "student", "hash": "a", "seed": 5, "status": "complete", "scores": {"accuracy": 0.7}}
OPENED = {"event": "test_opened", "time": 1.0, "why": "confirm", "rows": 10, "runs": [["a", 5]]}
CONFIRMED = {"event": "confirmed", "opening": 1, "rows": 10, "runs": [], "teacher": {"accuracy": 0.9}, "majority": {}}
CONFIRMED |= {"share_asked": 0.95, "finalists": [{"trial": 0, "x": 1}]}


def test_the_ledger_knows_confirmation_runs_openings_and_results() -> None:
    state = replay([STUDY, STARTED, COMPLETE, RUN, OPENED, CONFIRMED, {**CONFIRMED, "finalists": [{"trial": 0, "x": 2}]}])
    assert state.runs["a", 5]["scores"] == {"accuracy": 0.7}
    assert [each["why"] for each in state.openings] == ["confirm"]
    assert state.confirmed == {0: {"trial": 0, "x": 2}}
    assert state.counts() == {"complete": 1, "stopped": 0, "failed": 0}


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([STUDY, STARTED, RUN], "confirmed_run for trial 0, which is not complete"),
        ([STUDY, RUN], "confirmed_run for trial 0, which is not there"),
        ([STUDY, STARTED, COMPLETE, RUN, RUN], "a second run of the spec a with seed 5"),
        ([STUDY, STARTED, COMPLETE, CONFIRMED], "the test rows were never opened"),
        ([STUDY, STARTED, COMPLETE, {"event": "test_opened", "why": "x"}], "lacks time, rows, runs"),
    ],
)
def test_what_cannot_follow_is_refused(records: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(StateError, match=says):
        replay(records)


def test_a_ledger_from_before_confirmations_reads_as_ever() -> None:
    state = replay([STUDY, STARTED, COMPLETE])
    assert (state.runs, state.openings, state.confirmations, state.confirmed) == ({}, [], [], {})


# --- whole confirmations on a tiny world, trained in this process


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.save_world(tmp_path_factory.mktemp("world"), ["angry", "calm", "sad"])


def study(world: Path, name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "data": {"files": {"train": str(world / "texts.csv")}, "max_length": 16},
        "teacher": {"model": str(world / "teacher")},
        "space": {"strategies": ["logit"], "knobs": {"lr": {"min": 3e-3, "max": 2e-2}, "transformer.layers": 1}},
        "search": {"trials": 3, "epochs": 1},
        "confirm": {"seeds": 2, "top": 3},
        **more,
    }


@pytest.fixture(scope="module")
def searched(world: Path) -> Path:
    """A study's folder as a search leaves it, of three students, without Ray."""
    wanted = study_file.from_mapping(study(world, "first"))
    prepared = prepare.prepare(prepare.inspect(wanted))
    ships = prepare.prepare(prepare.inspect(confirm._with_control(wanted))).assets
    folder = files.ensure_folder(world / "studies" / "first")
    files.replace_json(folder / "manifest.json", prepared.manifest)
    (folder / "study.yaml").write_text(yaml.safe_dump(study_file.resolved(wanted)))
    (folder / "predictions").mkdir()
    unique = {each.hash: each for each in prepared.known.exploration.candidates}
    small, *_, large = sorted(unique.values(), key=lambda each: each.params)
    with Ledger(folder) as ledger:
        ledger.begin(name="first")
        for number, (candidate, strategy, epochs) in enumerate([(small, "logit", 1.0), (large, "logit", 1.0), (large, "hard", 0.5)]):
            fields = {"temperature": 2.0, "alpha": 0.7} if strategy == "logit" else {}
            shape = candidate.spec
            spec = TrialSpec(shape.family, shape.family_config, strategy, fields, {"lr": 1e-2}, epochs, number)
            result = trial.run(spec, ships)
            assert result.status == "complete", result.message
            priced = cost.price(candidate.family, prepared.assets.info, 16)
            sizes = {"params": priced.params, "bytes": priced.bytes, "flops": priced.flops}
            attempt = ledger.started(number, spec.to_json(), spec.hash, {}, **sizes)
            np.save(folder / "predictions" / f"{number}.npy", result.logits)
            digests = files.write_folder(folder / "students" / str(number), result.files)
            ledger.complete(number, attempt, result.scores, seconds=result.seconds, digests=digests, history=result.history, **sizes)
    StudyFolder(folder).write_front()
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[TrialSpec]:
    """Trains in this process instead of Ray's; holds what was trained."""
    trained: list[TrialSpec] = []

    def here(specs: Sequence[TrialSpec], assets: Any, **_: Any) -> Iterator[tuple[int, TrialResult]]:
        for place, spec in enumerate(specs):
            trained.append(spec)
            yield place, trial.run(spec, assets)

    monkeypatch.setattr(confirm_runs, "train_all", here)
    return trained


@pytest.fixture
def folder(searched: Path, tmp_path: Path) -> Path:
    """A copy to confirm."""
    copied = tmp_path / "first"
    subprocess.run(["cp", "-r", str(searched), str(copied)], check=True)
    return copied


def run(folder: Path, **more: Any) -> tuple[dict[str, Any], str]:
    console = Console(file=StringIO(), width=200)
    document = confirm.confirm(folder, console=console, **more)
    return document, console.file.getvalue()  # type: ignore[attr-defined]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [each for each in read_log(folder / "ledger.jsonl") if each["event"] == name]


def test_a_confirmation_end_to_end(folder: Path, in_process: list[TrialSpec]) -> None:
    before = json.loads((folder / "front.json").read_text())
    document, told = run(folder)

    # the nominal front is as it was, and front.json is what ledger and manifest give, to the byte
    for key in ("study", "objectives", "hypervolume", "trials"):
        assert document[key] == before[key]
    assert [point | {"confirmed": None} for point in document["points"]] == before["points"]
    written = (folder / "front.json").read_bytes()
    StudyFolder(folder).write_front()
    assert (folder / "front.json").read_bytes() == written

    # runs: seeds are fresh and the same for student and control; nothing was trained twice
    runs = events(folder, "confirmed_run")
    assert len(runs) == len(in_process) == len({(each["hash"], each["seed"]) for each in runs})
    assert {each["seed"] for each in runs} == set(finalists.fresh_seeds(0, 2))
    confirmed = {point["trial"]: point["confirmed"] for point in front.confirmed_points(document)}
    assert any(block["control"] and block["gain"] for block in confirmed.values())
    names = [each["event"] for each in read_log(folder / "ledger.jsonl")]
    assert names.index("test_opened") > max(place for place, name in enumerate(names) if name == "confirmed_run")
    assert names.count("test_opened") == 1
    assert document["confirmation"]["test_used"] == 1
    assert "test rows opened (105): used 1 time in this study" in told

    table = splits.open_test(study_file.from_mapping(yaml.safe_load((folder / "study.yaml").read_text())))
    majority = np.bincount(table.labels).max() / len(table)
    assert document["confirmation"]["majority"]["accuracy"] <= majority
    teacher = document["teacher"]["test"]
    assert teacher["ci95"][0] < teacher["accuracy"] < teacher["ci95"][1]
    for number, block in confirmed.items():
        own = [each for each in runs if each["trial"] == number and each["role"] == "student"]
        test = block["test"]
        assert test["seeds"] == 2
        assert test["accuracy"] == pytest.approx(np.mean(test["by_seed"]))
        assert test["ci95"][0] < test["accuracy"] < test["ci95"][1]
        assert block["retention"] == pytest.approx(test["accuracy"] / teacher["accuracy"])
        if own:  # a hard student may be another's control, recorded under that one
            assert block["validation"]["accuracy"] == pytest.approx(np.mean([each["scores"]["accuracy"] for each in own]))
        # the deployed run: the median by validation (of two the lower), loaded and run again
        student = load_student(folder / block["student"])
        scores = tasks.of("classification").scores(student.logits(table.texts), table.labels)
        assert scores["accuracy"] == pytest.approx(block["deployed"]["test"]["accuracy"], abs=1.01 / len(table))
        assert student.record["confirmed"]["seed"] == block["deployed"]["seed"]
        assert (
            block["deployed"]["validation"]["accuracy"] == pytest.approx(min(each["scores"]["accuracy"] for each in own)) if own else True
        )
        kept = json.loads((folder / "analysis" / f"{number}.json").read_text())
        assert kept["on"] == "test"
        assert kept["rows"] == len(table)
        assert all("text" not in line for line in kept["disagreements"])
        assert kept["training"]["terms"]
    # nothing is left of the runs' weights
    assert not (folder / "confirmation").exists()


def test_running_it_again_trains_nothing_and_leaves_the_test_closed(folder: Path, in_process: list[TrialSpec], monkeypatch: Any) -> None:
    first, _ = run(folder, top=1)
    count, size = len(in_process), (folder / "ledger.jsonl").stat().st_size
    monkeypatch.setattr(splits, "open_test", lambda _: pytest.fail("the test rows were opened"))
    again, told = run(folder, top=1)
    assert "confirmed already" in told
    assert (len(in_process), (folder / "ledger.jsonl").stat().st_size) == (count, size)
    assert again == first


def test_a_student_that_is_not_as_the_ledger_says_is_refused_and_a_run_under_way_is_trained_again(
    folder: Path, in_process: list[TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(folder, top=1)
    count = len(in_process)
    for damaged in (folder / "confirmation").glob("*/model.safetensors"):
        intact = damaged.read_bytes()
        damaged.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    document, _ = run(folder, top=1)
    assert len(in_process) == count + 1  # the one to deploy; of the others all that is needed is known
    point = front.confirmed_points(document)[0]
    assert all(check.passed for check in verify(folder))
    for name in (point["confirmed"]["student"], point["student"]):
        with (folder / name / "kdsearch.json").open("a") as stream:
            stream.write(" ")
        with pytest.raises(StateError, match=f"{name}/kdsearch.json: not as the ledger says"):
            run(folder, top=1)
        shutil.rmtree(folder / name)  # what is not there certifies nothing


def test_a_run_that_was_cut_off_goes_on(folder: Path, in_process: list[TrialSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    """First in the middle of training, then with the test rows open."""
    whole = confirm_runs.train_all

    def two(specs: Sequence[TrialSpec], assets: Any, **more: Any) -> Iterator[tuple[int, TrialResult]]:
        for place, (number, result) in enumerate(whole(specs, assets, **more)):
            if place == 2:
                raise KeyboardInterrupt
            yield number, result

    with monkeypatch.context() as patch:
        patch.setattr(confirm_runs, "train_all", two)
        with pytest.raises(KeyboardInterrupt):
            run(folder, top=1)
    done = events(folder, "confirmed_run")
    assert len(done) == 2
    assert not events(folder, "test_opened")
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(folder, top=1)
    trained = len(events(folder, "confirmed_run"))
    document, _ = run(folder, top=1)
    assert events(folder, "confirmed_run")[:2] == done
    assert len(events(folder, "confirmed_run")) == trained
    # the opening that was cut off gave nothing: it is the same use
    assert document["confirmation"]["test_used"] == 1
    assert len({(spec.hash, spec.seed) for spec in in_process}) == trained


def test_more_seeds_train_only_what_is_new_and_count_as_another_use(folder: Path, in_process: list[TrialSpec]) -> None:
    run(folder, top=1, seeds=1)
    before = {(each["hash"], each["seed"]) for each in events(folder, "confirmed_run")}
    document, told = run(folder, top=1, seeds=3)
    after = {(each["hash"], each["seed"]) for each in events(folder, "confirmed_run")}
    assert len(after) == 3 * len(before)
    assert before < after
    assert document["confirmation"]["test_used"] == 2
    assert "used 2 times in this study" in told
    (point,) = front.confirmed_points(document)
    assert point["confirmed"]["test"]["seeds"] == 3
    # the median run's folder is there, whichever seed it is, though the first use had cleared its files away
    assert load_student(folder / point["confirmed"]["student"]).record["confirmed"]["seed"] == point["confirmed"]["deployed"]["seed"]


def test_texts_are_written_only_when_asked_and_that_is_a_use_of_the_test(folder: Path, in_process: list[TrialSpec]) -> None:
    run(folder, top=1, seeds=1)
    document, _ = run(folder, top=1, seeds=1, texts=True)
    (point,) = front.confirmed_points(document)
    lines = json.loads((folder / "analysis" / f"{point['trial']}.json").read_text())["disagreements"]
    assert all(line["text"].startswith("w") for line in lines)
    assert document["confirmation"]["test_used"] == 2


def test_a_seed_that_fails_is_told_and_one_that_always_fails_is_no_finalist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = finalists.fresh_seeds(0, 2)

    def failing(specs: Sequence[TrialSpec], assets: Any, **_: Any) -> Iterator[tuple[int, TrialResult]]:
        for place, spec in enumerate(specs):
            bad = spec.seed == seeds[1] and spec.strategy != "hard"
            yield place, TrialResult("failed", "not_finite", "the loss is NaN") if bad else trial.run(spec, assets)

    monkeypatch.setattr(confirm_runs, "train_all", failing)
    document, told = run(folder)
    points = [point for point in front.confirmed_points(document) if point["strategy"] == "logit"]
    assert points
    for point in points:
        assert point["confirmed"]["test"]["seeds"] == 1
        assert [each["cause"] for each in point["confirmed"]["failed"]] == ["not_finite"]
    assert "failed, the loss is NaN" in told
    assert any("failed: the loss is NaN" in line for line in confirm_command.notes(document))


def test_when_every_run_fails_the_reason_is_told_and_the_test_stays_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = TrialResult("failed", "error", "logit: boom")
    monkeypatch.setattr(confirm_runs, "train_all", lambda specs, assets, **_: ((place, bad) for place in range(len(specs))))
    with pytest.raises(VerdictNo, match="every run of every finalist failed; the first reason: logit: boom"):
        run(folder)
    assert not events(folder, "test_opened")


def test_tables_show_test_control_and_the_recovered_gap(folder: Path, in_process: list[TrialSpec]) -> None:
    document, _ = run(folder)
    console = Console(file=StringIO(), width=220)
    console.print(front_table(document), confirm_command.table(document, tasks.of("classification")))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for name in ("test, 95 %", "control", "recovered", "tied with", "majority class", "of teacher"):
        assert name in shown
    points = front.confirmed_points(document)
    assert f"{points[0]['confirmed']['test']['accuracy']:.4f}" in shown
    assert "test used 1 time;" in confirm_command.notes(document)[0]
    told = confirm_command.summary(document)
    assert [each["trial"] for each in told["finalists"]] == [each["trial"] for each in points]
    json.dumps(told, allow_nan=False)


def test_what_changed_since_the_search_is_refused_with_the_difference(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    for path, value, says in (
        (("data", "fingerprint"), "other", "its data changed since it was begun"),
        (("data", "split"), "other", "its split changed"),
        (("plugins", 0, "hash"), "other", "its plugin .* changed"),
        (("teacher", "fingerprint"), "other", "its teacher changed"),
    ):
        changed = json.loads(json.dumps(manifest))
        level = changed
        for part in path[:-1]:
            level = level[part]
        level[path[-1]] = value
        (folder / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(StateError, match=says):
            run(folder)
    assert not events(folder, "test_opened")


def test_a_folder_that_is_no_study_or_has_nothing_to_confirm(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(StateError, match="not a study's folder"):
        run(tmp_path)
    lines = (folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    (folder / "ledger.jsonl").write_text(lines[0])
    with pytest.raises(StateError, match="knows less than"):  # cut under students that are there
        run(folder)
    (folder / "front.json").unlink()
    shutil.rmtree(folder / "students")
    with pytest.raises(VerdictNo, match="no trial is complete"):
        run(folder)


def test_a_study_that_another_run_owns_is_left_alone(folder: Path) -> None:
    with files.owned(folder), pytest.raises(StateError, match="owned by another run"):
        run(folder)


def test_the_simplest_guess_is_trainings_majority_or_mean() -> None:
    assert tasks.of("classification").guess(np.array([0, 1, 1, -100]), (2, 3)).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert tasks.of("regression").guess(np.array([1.0, 2.0, np.nan], np.float32), (2, 1)).tolist() == [[1.5], [1.5]]


def test_a_signal_waits_while_ray_runs_and_a_second_one_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible() as signals:
        with signals.handing_to():
            os.kill(os.getpid(), signal.SIGINT)  # noted, not raised: inside Ray's calls it would become a SystemError
        with pytest.raises(Interrupted) as caught:
            signals.check()
        assert caught.value.exit_code == 130
        with signals.handing_to(), pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) == before
    with interruptible(), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)


# --- with Ray, as a person runs it


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "kdsearch.cli", "confirm", str(folder), *more]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_confirms_on_ray_and_ctrl_c_loses_nothing(folder: Path) -> None:
    process = subprocess.Popen(command(folder, "--top", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    end = time.monotonic() + 120
    while not events(folder, "confirmed_run"):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    done = events(folder, "confirmed_run")
    again = subprocess.run(command(folder, "--top", "2", "--format", "json"), capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert told["test_used"] == 1
    assert told["finalists"]
    assert events(folder, "confirmed_run")[: len(done)] == done
    assert len(kdsearch.Study(folder).front()) >= 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_regression_is_confirmed_too(tmp_path: Path, in_process: list[TrialSpec]) -> None:
    lines, labels = worlds.texts(600, 2)
    backbone = worlds.good_teacher(2).bert
    backbone.config.problem_type = None
    backbone.save_pretrained(tmp_path / "teacher")
    worlds.tokenizer().save_pretrained(tmp_path / "teacher")
    rng = np.random.default_rng(0)
    pd.DataFrame({"text": lines, "label": labels + 0.1 * rng.normal(size=600)}).to_csv(tmp_path / "texts.csv", index=False)
    wanted = study(tmp_path, "values") | {
        "task": "regression",
        "teacher": {"model": str(tmp_path / "teacher"), "finetune": {"epochs": 8, "lr": 3e-3}},
    }
    done = kdsearch.search(out=tmp_path / "studies", **wanted)
    document, _ = run(done.folder, top=1)
    (point,) = front.confirmed_points(document)
    test = point["confirmed"]["test"]
    assert test["ci95"][0] <= test["pearson"] <= test["ci95"][1]
    assert document["confirmation"]["majority"]["pearson"] == 0.0
    assert "classes" not in json.loads((done.folder / "analysis" / f"{point['trial']}.json").read_text())


def test_bad_numbers_are_refused_by_the_command_line() -> None:
    app = typer.Typer()
    app.command()(confirm_command.confirm)
    found = CliRunner().invoke(app, ["nowhere", "--seeds", "0"])
    assert found.exit_code == 2
