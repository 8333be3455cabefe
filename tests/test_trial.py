"""A whole trial, without Ray: spec and assets in, a student out."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import worlds
from safetensors.torch import load as load_tensors

from kdsearch.api import Batch, Need, Signal
from kdsearch.hpo import ray_worker
from kdsearch.registry import registry
from kdsearch.registry.registry import Plugins
from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.student.assets import Assets, Part
from kdsearch.student.build import Parts
from kdsearch.student.saved import load_student
from kdsearch.student.teaching import Teaching
from kdsearch.student.trial import Report, TrialResult, run
from kdsearch.testing import tiny_info, tiny_teacher
from kdsearch.training import loop, predict
from kdsearch.training.target_scaling import OWN, Unit

STRATEGIES: dict[str, dict[str, object]] = {
    "hard": {},
    "logit": {"temperature": 2.0, "alpha": 0.7, "form": "kl", "direction": None},
    "feature": {"states": "tokens", "mapping": "linear", "weight": 1.0},
    "attention": {"weight": 1.0, "temperature": 2.0, "alpha": 0.5},
    "joint": {"temperature": 2.0, "alpha": 0.5, "teacher_weight": 0.5, "mutual": 0.2, "teacher_layers": 1, "lr_factor": 0.1},
}


@pytest.fixture(scope="module")
def assets() -> Assets:
    loaded = registry.load(["transformer"], list(STRATEGIES))
    return worlds.assets(worlds.good_teacher(), unlabelled=200, plugins=loaded.shipped())


def spec(strategy: str = "logit", *, lr: float = 1e-2, epochs: float = 8.0, seed: int = 1, **fields: object) -> TrialSpec:
    family = {"layers": 1, "hidden": 16, "head_size": 16, "ff_ratio": 2, "start": "embeddings"}
    return TrialSpec("transformer", family, strategy, STRATEGIES[strategy] | fields, {"lr": lr}, epochs, seed)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_each_strategy_trains_a_student_better_than_a_guess(assets: Assets, strategy: str) -> None:
    result = run(spec(strategy), assets)
    assert result.status == "complete", result.message
    assert result.scores["accuracy"] > 0.5  # three classes
    assert (result.teacher_drift is not None) == (strategy == "joint")


def test_the_same_spec_gives_the_same_student_and_leaves_the_global_generator_alone(assets: Assets) -> None:
    before = torch.get_rng_state()
    one, other = run(spec(), assets), run(spec(), assets)
    assert torch.equal(before, torch.get_rng_state())
    assert one.logits is not None
    assert other.logits is not None
    np.testing.assert_array_equal(one.logits, other.logits)


def test_the_recorded_score_is_that_of_the_saved_student(assets: Assets, tmp_path: Path) -> None:
    result = run(spec(), assets)
    for name, content in result.files.items():
        (tmp_path / name).write_bytes(content)
    lines, labels = worlds.texts(256 + 128 + 200)
    lines, labels = lines[: 256 + 128], labels[: 256 + 128]
    student = load_student(tmp_path)
    logits = student.logits(lines[256:])
    assert result.logits is not None
    np.testing.assert_allclose(logits, result.logits, atol=1e-5)
    assert (logits.argmax(-1) == labels[256:]).mean() == pytest.approx(result.scores["accuracy"])
    assert student(lines[256:258]) == [f"class {index}" for index in logits[:2].argmax(-1)]


def saved(result: TrialResult, lines: list[str]) -> np.ndarray:
    """What the saved student says."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in result.files.items():
            (Path(folder) / name).write_bytes(content)
        return load_student(folder).logits(lines)


def test_rungs_are_shown_and_a_yes_stops_there(assets: Assets) -> None:
    seen: list[float] = []

    def stop_second(report: Report) -> bool:
        seen.append(report.share)
        return len(seen) == 2

    result = run(spec(), assets, stop_second)
    assert seen == [0.25, 0.5]
    assert result.status == "stopped"
    assert not result.files


def without(part: Part, signal: Signal) -> Part:
    return Part(part.tokens, part.labels, {need: column for need, column in part.signals.items() if need.signal is not signal})


def test_cached_and_live_teacher_give_the_same_student(assets: Assets) -> None:
    live = Assets(**{**assets.__dict__, "train_set": without(assets.train_set, Signal.HIDDEN)})
    one, other = run(spec("feature"), assets), run(spec("feature"), live)
    assert one.logits is not None
    assert other.logits is not None
    assert Need(Signal.HIDDEN, 0) in assets.train_set.signals
    np.testing.assert_allclose(one.logits, other.logits, atol=2e-3)


def test_alpha_zero_is_the_control_to_the_last_bit(assets: Assets) -> None:
    control, soft = run(spec("hard"), assets), run(spec("logit", alpha=0.0), assets)
    assert control.logits is not None
    assert soft.logits is not None
    np.testing.assert_array_equal(control.logits, soft.logits)


def test_numbers_that_explode_are_a_status(assets: Assets) -> None:
    result = run(spec(lr=1e30), assets)
    assert (result.status, result.cause) == ("failed", "not_finite")
    assert result.message is not None
    assert "lr" in result.message


def test_a_passed_deadline_is_a_status(assets: Assets) -> None:
    assert run(spec(), assets, deadline=time.monotonic() - 1).cause == "timeout"


def test_a_plugins_mistake_is_a_status_that_names_it(assets: Assets) -> None:
    broken = spec("feature", layer_map="sideways")  # no map of that name
    result = run(broken, assets)
    assert (result.status, result.cause) == ("failed", "error")
    assert result.message is not None
    assert "feature" in result.message


def test_running_out_of_memory_is_a_status(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(trial, "fit", full)
    assert run(spec(), assets).cause == "memory"


def test_the_hash_is_that_of_everything_but_the_seed() -> None:
    assert spec(seed=1).hash == spec(seed=2).hash
    assert spec(lr=1e-3).hash != spec().hash
    assert TrialSpec.from_json(spec().to_json()) == spec()


def test_joint_training_from_cached_states_is_joint_training(assets: Assets) -> None:
    live = Assets(**{**assets.__dict__, "train_set": without(assets.train_set, Signal.HIDDEN)})
    one, other = run(spec("joint"), assets), run(spec("joint"), live)
    assert one.logits is not None
    assert other.logits is not None
    np.testing.assert_allclose(one.logits, other.logits, atol=2e-3)
    assert one.teacher_drift == pytest.approx(other.teacher_drift, abs=0.02)


def test_the_copy_of_joint_training_runs_on_rows_with_a_label_alone(assets: Assets) -> None:
    """The states of unlabelled text may be missing, and its logits are the frozen teacher's to the digit."""
    tokens = int(assets.train_set.tokens.offsets[assets.labelled])
    kept = {need: values[:tokens] if need.signal is Signal.HIDDEN else values for need, values in assets.train_set.signals.items()}
    lean = replace(assets, train_set=replace(assets.train_set, signals=kept))
    whole = TrialSpec(**{**spec("joint").to_json(), "training": {"lr": 1e-2, "unlabelled": 1.0}})
    one, other = run(whole, assets), run(whole, lean)
    assert one.status == "complete", one.message
    np.testing.assert_array_equal(one.logits, other.logits)

    rows = np.array([assets.labelled + 5, 3, assets.labelled, 0])
    places = torch.from_numpy(rows)
    batch = Batch(torch.zeros(4, 16, dtype=torch.int64), torch.ones(4, 16, dtype=torch.bool), places, places)
    strategy = Plugins.receive(lean.plugins).strategy("joint", spec("joint").strategy_config)
    shown = Teaching(strategy, lean, lean.info, torch.device("cpu")).outputs(rows, batch)
    assert shown is not None
    cached = lean.train_set.signals[Need(Signal.LOGITS)][rows]
    np.testing.assert_array_equal(shown.logits[[0, 2]].detach().numpy(), cached[[0, 2]])
    np.testing.assert_allclose(shown.logits[[1, 3]].detach().numpy(), cached[[1, 3]], atol=1e-5)


def test_a_pruned_vocabulary_trains_saves_and_loads(assets: Assets, tmp_path: Path) -> None:
    pruned = spec("logit", epochs=4.0)
    pruned = TrialSpec(**{**pruned.to_json(), "family_config": {**pruned.family_config, "vocabulary": 60, "embedding_rank": 8}})
    result = run(pruned, assets)
    assert result.status == "complete", result.message
    for name, content in result.files.items():
        (tmp_path / name).write_bytes(content)
    lines, _ = worlds.texts(256 + 128 + 200)
    logits = load_student(tmp_path).logits(lines[256 : 256 + 128])
    assert result.logits is not None
    np.testing.assert_allclose(logits, result.logits, atol=1e-5)


def test_unlabelled_text_is_learnt_from_through_the_teacher(assets: Assets) -> None:
    with_text = TrialSpec(**{**spec("logit").to_json(), "training": {"lr": 1e-2, "unlabelled": 1.0}})
    chosen = [len(Parts(each, assets, torch.device("cpu")).chosen) for each in (spec("logit"), with_text)]
    assert chosen == [256, 456]
    assert run(with_text, assets).status == "complete"
    control = TrialSpec(**{**spec("hard").to_json(), "training": {"lr": 1e-2, "unlabelled": 1.0}})
    assert len(Parts(control, assets, torch.device("cpu")).chosen) == 256


def test_patience_ends_training_after_that_share_without_a_better_score_and_keeps_the_best_weights(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = spec()
    patient = TrialSpec(**{**whole.__dict__, "training": {"lr": 1e-2, "patience": 0.1}})
    seen: list[tuple[float, np.ndarray]] = []
    # of the looks after 1/20, 2/20, ... of the budget, of the last weights, and of look 2 once more
    scores = iter([0.4, 0.9, 0.8, 0.7, 0.6, 0.9])

    def judged(trial_: trial._Trial) -> tuple[np.ndarray, dict[str, float]]:
        logits = predict.predict(trial_.parts.module, trial_.parts.validation)
        seen.append((len(seen) + 1, logits))
        return logits, {"accuracy": next(scores)}

    monkeypatch.setattr(trial._Trial, "_scores", judged)
    result = run(patient, assets)
    assert result.status == "complete", result.message
    # Best at look 2; looks 3 and 4 bring nothing better for 2/20 of the budget: it ends, is judged, and so is look 2 again, which is better.
    assert len(seen) == 6
    np.testing.assert_allclose(seen[5][1], seen[1][1], atol=1e-6)
    assert result.logits is not None
    np.testing.assert_allclose(result.logits, seen[1][1], atol=1e-6)
    assert max(row["share"] for row in result.history) < 0.3


def test_the_best_look_is_scored_again_in_full_precision_before_it_is_preferred_to_the_last_weights(
    assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = TrialSpec(**{**spec("joint").__dict__, "training": {"lr": 1e-2, "patience": 0.1}})
    said: list[np.ndarray] = []
    scores = iter([0.4, 0.9, 0.8, 0.7, 0.6, 0.5])  # look 2 had 0.9 in bfloat16, and has 0.5, less than the last weights' 0.6

    def judged(trial_: trial._Trial) -> tuple[np.ndarray, dict[str, float]]:
        said.append(predict.predict(trial_.parts.module, trial_.parts.validation))
        return said[-1], {"accuracy": next(scores)}

    monkeypatch.setattr(trial._Trial, "_scores", judged)
    result = run(patient, assets)
    assert result.scores == {"accuracy": 0.6}
    assert result.logits is not None
    np.testing.assert_array_equal(result.logits, said[4])
    np.testing.assert_allclose(saved(result, [worlds.texts(584)[0][256]]), said[4][:1], atol=1e-5)


def test_patience_that_never_runs_out_changes_nothing_but_that_the_best_look_is_kept(assets: Assets) -> None:
    plain = run(spec(), assets)
    patient = run(TrialSpec(**{**spec().__dict__, "training": {"lr": 1e-2, "patience": 1.0}}), assets)
    assert patient.status == "complete", patient.message
    assert patient.scores["accuracy"] >= plain.scores["accuracy"]
    assert patient.history[-1]["share"] == 1.0


def test_mixed_precision_trains_as_well_and_saves_full_precision(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    full = run(spec("feature"), assets)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    mixed = run(spec("feature"), assets)
    assert full.logits is not None
    assert mixed.logits is not None
    assert not np.array_equal(full.logits, mixed.logits)
    assert mixed.scores["accuracy"] == pytest.approx(full.scores["accuracy"], abs=0.03)
    assert {tensor.dtype for tensor in load_tensors(mixed.files["model.safetensors"]).values()} == {torch.float32}


def test_two_studies_in_one_process_keep_their_own_pieces(assets: Assets) -> None:
    vocabulary = assets.vocabularies[60]
    other = replace(vocabulary, subwords=vocabulary.subwords[::-1].copy())
    one, reversed_ = (assets.teacher(each).get_input_embeddings().weight for each in (vocabulary, other))
    assert torch.equal(one, reversed_.flip(0))


def test_a_trial_that_reads_attention_leaves_the_teacher_as_it_is_for_later_ones(assets: Assets) -> None:
    before = run(spec("joint", epochs=1.0), assets)
    assert run(spec("attention", epochs=1.0), assets).status == "complete"
    assert assets.teacher().config._attn_implementation == "sdpa"
    after = run(spec("joint", epochs=1.0), assets)
    assert before.logits is not None
    assert after.logits is not None
    np.testing.assert_array_equal(before.logits, after.logits)


def values(unit: Unit = OWN) -> Assets:
    """A regression: the two groups of words as -1 and 1, in the given unit.

    As many training rows have the one as the other, the rest have no label: mean and standard deviation are those of the unit, exactly.
    """
    names = ["hard", "logit", "joint"]
    made = worlds.assets(tiny_teacher(labels=2, vocab=len(worlds.WORDS)), plugins=registry.load(["transformer"], names).shipped())
    teacher = tiny_teacher(labels=1, vocab=len(worlds.WORDS))  # the same but for its head
    weights = {name: tensor.numpy() for name, tensor in teacher.state_dict().items()}
    weights["classifier.weight"] = weights["classifier.weight"] * np.float32(unit.sd)
    weights["classifier.bias"] = weights["classifier.bias"] * np.float32(unit.sd) + np.float32(unit.mean)

    def part(old: Part) -> Part:
        labels = ((2.0 * old.labels - 1) * unit.sd + unit.mean).astype(np.float32)
        return Part(old.tokens, labels, {**old.signals, Need(Signal.LOGITS): labels[:, None].copy()})

    train_set, validation = part(made.train_set), part(made.validation)
    low, high = (np.flatnonzero(made.train_set.labels == side) for side in (0, 1))
    each = min(len(low), len(high))
    train_set.labels[np.r_[low[each:], high[each:]]] = np.nan
    return replace(
        made,
        task="regression",
        quality="pearson",
        labels=(),
        info=replace(tiny_info(teacher), vocabularies=(60,)),
        train_set=train_set,
        validation=validation,
        teacher_config=teacher.config.to_json_string(use_diff=False),
        teacher_weights=weights,
        teacher_fingerprint=f"values {unit}",
    )


SCHOOL = Unit(mean=89.0, sd=31.0)
EXACT = Unit(mean=64.0, sd=32.0)  # powers of two: nothing is rounded on the way into the standardised unit and back


@pytest.mark.parametrize(
    ("strategy", "start", "unit"),
    [
        ("hard", "embeddings", SCHOOL),
        ("logit", "embeddings", SCHOOL),
        ("logit", "last", EXACT),  # the head is a copy of the teacher's, and speaks in its unit
        ("joint", "embeddings", EXACT),
    ],
)
def test_a_regression_learns_the_same_in_any_unit_and_answers_in_the_labels_own(strategy: str, start: str, unit: Unit) -> None:
    family = {"layers": 1, "hidden": 32, "head_size": 16, "ff_ratio": 2, "start": start}
    asked = TrialSpec(**{**spec(strategy, lr=3e-3).to_json(), "family_config": family})
    seen: list[dict[str, float]] = []
    plain, scaled = run(asked, values()), run(asked, values(unit), lambda report: seen.append(report.scores))
    assert plain.status == scaled.status == "complete", scaled.message
    assert plain.logits is not None
    assert scaled.logits is not None
    assert plain.scores["pearson"] > 0.6
    assert scaled.scores["pearson"] == pytest.approx(plain.scores["pearson"], abs=1e-5)
    assert scaled.scores["mse"] == pytest.approx(unit.sd**2 * plain.scores["mse"], rel=1e-4)
    np.testing.assert_allclose(scaled.logits, unit.mean + unit.sd * plain.logits, rtol=1e-4)
    np.testing.assert_allclose(saved(scaled, worlds.texts(256 + 128, 2)[0][256:]), scaled.logits, rtol=1e-5)
    assert [scores["mse"] / unit.sd**2 for scores in seen][-1] == pytest.approx(plain.scores["mse"], rel=0.5)
    if plain.teacher_drift is not None:
        assert scaled.teacher_drift is not None
        assert scaled.teacher_drift["pearson"] == pytest.approx(plain.teacher_drift["pearson"], abs=1e-4)
        assert scaled.teacher_drift["mse"] == pytest.approx(unit.sd**2 * plain.teacher_drift["mse"], rel=1e-3)


def test_patience_of_a_regression_goes_back_to_its_best_look_in_the_labels_unit() -> None:
    patient = TrialSpec(**{**spec("logit", epochs=4.0).__dict__, "training": {"lr": 3e-3, "patience": 1.0}})
    result = run(patient, values(SCHOOL))
    assert result.logits is not None
    assert result.logits.mean() == pytest.approx(89.0, abs=15.0)
    np.testing.assert_allclose(saved(result, worlds.texts(256 + 128, 2)[0][256:]), result.logits, rtol=1e-5)


def test_answers_that_are_not_finite_fail_as_such_at_the_first_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def broken(_module: object, rows: loop.Rows) -> np.ndarray:
        looked.append(len(rows))
        return np.full((len(rows), 1), np.nan, np.float32)

    monkeypatch.setattr(predict, "predict", broken)
    result = run(spec("logit"), values())
    assert (result.status, result.cause) == ("failed", "not_finite")
    assert result.message is not None
    assert "logits on validation are not finite" in result.message
    assert len(looked) == 1


def test_a_regression_refuses_label_smoothing() -> None:
    result = run(TrialSpec(**{**spec("logit").__dict__, "training": {"lr": 1e-3, "label_smoothing": 0.1}}), values())
    assert result.status == "failed"
    assert result.message is not None
    assert "label_smoothing: a regression has no classes" in result.message


@pytest.mark.parametrize(("gpu", "device"), [(0.0, torch.device("cpu")), (0.25, None)])
def test_a_trial_that_asked_for_no_gpu_trains_on_cpus_whatever_its_worker_sees(
    gpu: float, device: torch.device | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(ray_worker.trial, "run", lambda *_, **options: given.append(options["device"]))
    spec = TrialSpec("mlp", {}, "hard", {}, {}, 1.0, 0)
    ray_worker.train(json.dumps(spec.to_json()), None, 60.0, torch.get_num_threads(), gpu)  # type: ignore[arg-type]  # nothing reads the assets
    assert given == [device]
