"""Whole searches with real Ray on a tiny world: files, a teacher's folder, a front."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import worlds

import kdsearch
from kdsearch.errors import StateError
from kdsearch.io.files import read_log
from kdsearch.results.folder import StudyFolder
from kdsearch.study.verify import verify


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher and one csv file of texts with string labels."""
    return worlds.save_world(tmp_path_factory.mktemp("world"), ["angry", "calm", "sad"])


def study(world: Path, name: str, **search: Any) -> dict[str, Any]:
    return {
        "name": name,
        "data": {"files": {"train": str(world / "texts.csv")}, "max_length": 16},
        "teacher": {"model": str(world / "teacher")},
        "space": {"knobs": {"lr": {"min": 3e-3, "max": 2e-2}, "transformer.layers": 1}},
        "search": {"trials": 6, "epochs": 2, **search},
    }


def command(world: Path, name: str, *more: str, **search: Any) -> list[str]:
    path = world / f"{name}.yaml"
    path.write_text(json.dumps(study(world, name, **search)))
    return [sys.executable, "-m", "kdsearch.cli", "search", str(path), "--out", str(world / "studies"), *more]


def run(arguments: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False, **more)


def events(folder: Path) -> list[dict[str, Any]]:
    return read_log(folder / "ledger.jsonl")


def sound(folder: Path, trials: int) -> None:
    """What a finished study owes, whatever happened on the way."""
    records = events(folder)
    ends = Counter(record["trial"] for record in records if record["event"] in ("complete", "stopped", "failed"))
    assert sorted(ends) == list(range(trials))
    assert set(ends.values()) == {1}
    document = json.loads((folder / "front.json").read_text())
    assert sum(document["trials"].values()) == trials
    assert document == StudyFolder(folder).document()
    assert all(check.passed for check in verify(folder))


@pytest.fixture(scope="module")
def searched(world: Path) -> Path:
    done = kdsearch.search(out=world / "studies", **study(world, "first"))
    return done.folder


@pytest.mark.timeout(240)
def test_a_search_leaves_a_front_whose_students_give_their_scores_again(searched: Path) -> None:
    sound(searched, 6)
    document = json.loads((searched / "front.json").read_text())
    assert document["points"]
    assert {"study.yaml", "manifest.json", "study.db"} <= {path.name for path in searched.iterdir()}
    specs = [record["spec"] for record in events(searched) if record["event"] == "started"]
    assert {spec["strategy"] for spec in specs} == {"hard", "logit", "feature", "joint"}


def test_the_best_student_within_a_size_is_picked_and_labels_texts(searched: Path) -> None:
    picked = kdsearch.Study(searched).pick(max_params=10**9)
    assert set(picked(["w0 w3 w6 w9", "w1 w4 w7"])) <= {"angry", "calm", "sad"}


def test_going_on_with_a_finished_study_trains_nothing_and_changes_nothing(searched: Path, world: Path) -> None:
    before = (searched / "front.json").read_bytes()
    again = kdsearch.search(out=world / "studies", **study(world, "first"))
    assert (again.folder / "front.json").read_bytes() == before
    sound(searched, 6)


def test_more_trials_may_be_asked_for_and_the_teacher_is_not_run_again(searched: Path, world: Path) -> None:
    kdsearch.search(out=world / "studies", **study(world, "first", trials=7))
    sound(searched, 7)
    assert [record["teacher_forwards"] for record in events(searched) if record["event"] == "session"][-1] == 0


def test_another_study_in_the_same_folder_is_refused_with_the_difference(searched: Path, world: Path) -> None:
    with pytest.raises(StateError, match=r"search\.epochs: 2 -> 3"):
        kdsearch.search(out=world / "studies", **study(world, "first", epochs=3))


def test_fresh_refuses_a_folder_that_exists(searched: Path, world: Path) -> None:
    with pytest.raises(StateError, match="exists already"):
        kdsearch.search(out=world / "studies", fresh=True, **study(world, "first"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_seed_runs_the_teacher_on_nothing(searched: Path, world: Path) -> None:
    other = study(world, "second") | {"seed": 1}
    other["space"]["strategies"] = ["hard", "logit", "feature"]
    done = kdsearch.search(out=world / "studies", **other)
    assert [record["teacher_forwards"] for record in events(done.folder) if record["event"] == "session"] == [0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(world: Path) -> None:
    arguments = command(world, "interrupted", trials=8)
    folder = world / "studies" / "interrupted"
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(record["event"] == "complete" for record in events(folder)))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    running = Counter(record["event"] for record in events(folder))
    assert running["started"] == running["complete"] + running["stopped"] + running["failed"] + running["returned"]
    assert run(arguments).returncode == 0
    sound(folder, 8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_kills_lose_nothing_and_run_nothing_twice(world: Path) -> None:
    arguments = command(world, "killed", trials=12)
    folder = world / "studies" / "killed"
    acknowledged: dict[int, dict[str, Any]] = {}
    for turn in range(10):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Spread over start-up, teacher, Ray, training and settling.
        time.sleep(4 + 2.3 * turn)
        process.kill()
        process.wait()
        now = {record["trial"]: record for record in events(folder) if record["event"] == "complete"}
        assert acknowledged.items() <= now.items()
        acknowledged = now
    last = run(arguments)
    assert last.returncode == 0, last.stderr
    sound(folder, 12)
    kept = {record["trial"]: record for record in events(folder) if record["event"] == "complete"}
    assert acknowledged.items() <= kept.items()


def wait_for(true: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


CLUSTER = """
import sys
from pathlib import Path
from ray.cluster_utils import Cluster

cluster = Cluster()
for name in ("head", "other"):
    home = Path(sys.argv[1]) / name
    home.mkdir()
    own = {"HF_HOME": str(home / "hf"), "HOME": str(home), "KDSEARCH_CACHE": str(home / "cache")}
    cluster.add_node(num_cpus=1, env_vars=own, include_dashboard=False)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[str]:
    """A cluster of two nodes on this machine, each with a home, a cache and a working folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("", timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_runs_on_two_nodes_that_share_nothing(world: Path, two_nodes: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "driver"
    elsewhere.mkdir()
    done = run([*command(world, "two", trials=6), "--address", two_nodes], cwd=elsewhere, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    sound(world / "studies" / "two", 6)


DROPPED = '''
"""direction: the student's top state points where the teacher's does."""

from dataclasses import dataclass

from torch import nn
from torch.nn import functional as F

from kdsearch import Need, Signal, Strategy, hookimpl


@dataclass(frozen=True)
class Direction(Strategy):
    name = "direction"
    source = "Sun et al. 2019, eq. 7, on the top state alone"

    weight: float

    @classmethod
    def suggest(cls, space, teacher, student):
        return {"weight": space.real("weight", 0.1, 10.0, log=True)}

    def teacher_needs(self, teacher, student):
        return (Need(Signal.LOGITS), Need(Signal.POOLED, -1))

    student_needs = teacher_needs

    def build(self, teacher, student):
        return nn.Linear(student.hidden, teacher.hidden)

    def loss(self, student, teacher, batch, extra, progress):
        alike = F.cosine_similarity(extra(student.layered[Signal.POOLED, -1]), teacher.layered[Signal.POOLED, -1])
        return {"hard": batch.hard_loss(student.logits), "direction": self.weight * (1 - alike).mean()}


@hookimpl
def kdsearch_strategies():
    yield Direction
'''


def strategies_tried(folder: Path) -> set[str]:
    """Of the trials that did not fail."""
    failed = {record["trial"] for record in events(folder) if record["event"] == "failed"}
    started = [record for record in events(folder) if record["event"] == "started"]
    return {record["spec"]["strategy"] for record in started if record["trial"] not in failed}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dropped_file_is_searched_beside_the_built_in_strategies(world: Path) -> None:
    (world / "direction.py").write_text(DROPPED)
    wanted = study(world, "dropped", trials=4) | {"plugins": [str(world / "direction.py")]}
    wanted["space"]["strategies"] = ["logit", "direction"]
    done = kdsearch.search(out=world / "studies", **wanted)
    assert strategies_tried(done.folder) == {"logit", "direction"}
    sound(done.folder, 4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_package_is_searched_beside_the_built_in_strategies(world: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "pointing-1.0.dist-info").mkdir(parents=True)
    (site / "pointing.py").write_text(DROPPED)
    (site / "pointing-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pointing\nVersion: 1.0\n")
    (site / "pointing-1.0.dist-info" / "entry_points.txt").write_text("[kdsearch]\ndirection = pointing\n")
    wanted = study(world, "installed", trials=4)
    wanted["space"]["strategies"] = ["logit", "direction"]
    (world / "installed.yaml").write_text(json.dumps(wanted))
    arguments = [sys.executable, "-m", "kdsearch.cli", "search", str(world / "installed.yaml"), "--out", str(world / "studies")]
    done = run(arguments, env=os.environ | {"PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr
    assert strategies_tried(world / "studies" / "installed") == {"logit", "direction"}


def three_files(world: Path, folder: Path) -> dict[str, Any]:
    names = ["angry", "calm", "sad"]
    for role, seed in (("train", 1), ("validation", 2), ("test", 3)):
        lines, labels = worlds.texts(300, seed=seed)
        pd.DataFrame({"body": lines, "mood": [names[label] for label in labels]}).to_csv(folder / f"{role}.csv", index=False)
    files = {role: str(folder / f"{role}.csv") for role in ("train", "validation", "test")}
    return {"data": {"files": files, "text": "body", "label": "mood", "max_length": 16}}


def pairs(world: Path, folder: Path) -> dict[str, Any]:
    lines, labels = worlds.texts(400)
    halves = [line.split() for line in lines]
    first, second = ([" ".join(words[at::2]) for words in halves] for at in (0, 1))
    pd.DataFrame({"one": first, "two": second, "label": labels}).to_csv(folder / "pairs.tsv", index=False, sep="\t")
    data = {"files": {"train": str(folder / "pairs.tsv")}, "text": "one", "text_pair": "two", "max_length": 16}
    return {"data": data, "teacher": {"model": str(world / "teacher"), "finetune": {"epochs": 2, "lr": 1e-3}}}


def regression(world: Path, folder: Path) -> dict[str, Any]:
    lines, labels = worlds.texts(400)
    pd.DataFrame({"text": lines, "label": labels * 1.5 - 1.0}).to_parquet(folder / "values.parquet")
    data = {"files": {"train": str(folder / "values.parquet")}, "max_length": 16}
    return {"task": "regression", "data": data, "teacher": {"model": str(world / "teacher"), "finetune": {"epochs": 20, "lr": 2e-3}}}


def json_lines(world: Path, folder: Path) -> dict[str, Any]:
    lines, labels = worlds.texts(400)
    names = ["angry", "calm", "sad"]
    records = [json.dumps({"text": line, "label": names[label]}) for line, label in zip(lines, labels, strict=True)]
    (folder / "texts.jsonl").write_text("\n".join(records))
    return {"data": {"files": {"train": str(folder / "texts.jsonl")}, "max_length": 16}}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("own", [three_files, pairs, regression, json_lines], ids=lambda own: own.__name__)
def test_your_own_data_gives_a_front(world: Path, tmp_path: Path, own: Any) -> None:
    wanted = study(world, own.__name__, trials=4) | own(world, tmp_path)
    wanted["search"].pop("objectives", None)
    done = kdsearch.search(out=world / "studies", **wanted)
    sound(done.folder, 4)
    assert done.front()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_that_hangs_is_ended_and_counted_as_failed(world: Path) -> None:
    hung = DROPPED.replace('name = "direction"', 'name = "hung"').replace(
        "        alike =", "        import time\n\n        time.sleep(3600)\n        alike ="
    )
    (world / "hung.py").write_text(hung)
    wanted = study(world, "hung", trials=4, trial_timeout=5) | {"plugins": [str(world / "hung.py")]}
    wanted["space"]["strategies"] = ["logit", "hung"]
    done = kdsearch.search(out=world / "studies", **wanted)
    causes = [record["cause"] for record in events(done.folder) if record["event"] == "failed"]
    assert causes
    assert set(causes) == {"timeout"}
    sound(done.folder, 4)
