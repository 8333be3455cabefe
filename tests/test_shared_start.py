"""The super-student that a study's students start from: slices, the ranked copy of the teacher, what it learns, and that it is made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from torch import nn
from torch.func import functional_call

from kdsearch import cache, initialise, plugins, shared_start
from kdsearch.api import Family, Need, Signal
from kdsearch.assets import Assets
from kdsearch.encoder import Encoder
from kdsearch.errors import InputError
from kdsearch.train import Rows
from kdsearch.trial import TrialSpec, run

LOADED = plugins.load(["transformer", "mlp"], ["hard", "logit"])
TRANSFORMER = LOADED.families["transformer"]


@pytest.fixture(scope="module")
def assets() -> Assets:
    found = worlds.assets(worlds.good_teacher(), unlabelled=400, plugins=LOADED.shipped())
    return replace(found, info=replace(found.info, shared=True))


def shape(assets: Assets, **fields: object) -> Family:
    info = assets.info
    size = info.hidden // info.heads
    common = {"layers": 1, "hidden": info.hidden, "head_size": size, "ff_ratio": info.intermediate // info.hidden, "start": "ranked"}
    return TRANSFORMER(**(common | fields))


def answers(module: nn.Module, assets: Assets) -> torch.Tensor:
    rows = Rows(assets.validation.tokens, assets.validation.labels, pad=assets.pad, device=torch.device("cpu"))
    with torch.no_grad():
        logits: torch.Tensor = module.eval()(rows.batch(np.arange(16)), (Need(Signal.LOGITS),)).logits
    return logits


def test_a_corner_is_the_leading_rows_and_columns_and_only_they_get_a_gradient() -> None:
    largest, smaller = nn.Linear(3, 3), nn.Linear(2, 1)
    cut = shared_start.corner(dict(largest.named_parameters()), shared_start.sizes(smaller))
    torch.testing.assert_close(cut["weight"], largest.weight[:1, :2])
    torch.testing.assert_close(cut["bias"], largest.bias[:1])
    functional_call(smaller, cut, (torch.tensor([[2.0, 5.0]]),)).sum().backward()
    torch.testing.assert_close(largest.weight.grad, torch.tensor([[2.0, 5.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


def test_the_shapes_are_corners_of_the_largest_and_the_largest_comes_first(assets: Assets) -> None:
    shapes = TRANSFORMER.shared_shapes(assets.info)
    weights = dict(shapes[0].build(assets.info).named_parameters())
    assert len(shapes) > 1
    for each in shapes:
        cut = shared_start.corner(weights, shared_start.sizes(each.build(assets.info)))
        assert sum(part.numel() for part in cut.values()) == each.size(assets.info)


def test_putting_the_important_dimensions_in_front_changes_no_answer(assets: Assets) -> None:
    plain, ranked = (shape(assets, layers=assets.info.layers, start=start) for start in ("first", "ranked"))
    modules = [plain.build(assets.info), ranked.build(assets.info)]
    for family, module in zip((plain, ranked), modules, strict=True):
        family.start_from(module, assets.teacher())
    torch.testing.assert_close(answers(modules[1], assets), answers(modules[0], assets), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(answers(modules[1], assets), answers(Encoder(assets.teacher()), assets), atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def made(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> tuple[Assets, Path]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("cache")
        patch.setenv("KDSEARCH_CACHE", str(root))
        first = shared_start.make(assets, TRANSFORMER, 6.0)
        assert not first.reused
        again = shared_start.make(assets, TRANSFORMER, 6.0)
        assert again.reused
        assert again.seconds == first.seconds
        for name, array in first.model.weights.items():
            np.testing.assert_array_equal(again.model.weights[name], array)
    return replace(assets, shared={"transformer": first.model}), root


def test_a_student_that_starts_shared_is_that_corner_of_the_super_student(made: tuple[Assets, Path]) -> None:
    assets, _ = made
    size = assets.info.hidden // assets.info.heads
    family = shape(assets, hidden=size, start="shared")
    module = family.build(assets.info)
    source = assets.super_student("transformer")
    family.start_from(module, source)
    expected = shared_start.corner(dict(Encoder(source).named_parameters()), shared_start.sizes(module))
    torch.testing.assert_close(answers(module, assets), answers(_Called(family.build(assets.info), expected), assets), atol=1e-5, rtol=1e-4)


class _Called(nn.Module):
    def __init__(self, module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.module, self.weights = module.eval(), weights

    def forward(self, *arguments: object) -> object:
        return functional_call(self.module, self.weights, arguments)


def test_every_shape_knows_the_task_before_its_trial_begins(made: tuple[Assets, Path]) -> None:
    assets, _ = made
    for each in TRANSFORMER.shared_shapes(assets.info):
        family = replace(each, start="shared")  # type: ignore[type-var]
        module = family.build(assets.info)
        family.start_from(module, assets.super_student("transformer"))
        right = answers(module, assets).argmax(-1).numpy() == assets.validation.labels[:16]
        assert right.mean() > 0.5, each  # three classes


def test_a_trial_starts_from_it_in_a_pruned_vocabulary_too(made: tuple[Assets, Path]) -> None:
    assets, _ = made
    fields = {
        "layers": 1,
        "hidden": assets.info.hidden,
        "head_size": assets.info.hidden // assets.info.heads,
        "ff_ratio": 2,
        "start": "shared",
    }
    logit = {"temperature": 2.0, "alpha": 0.7, "form": "kl", "direction": None}
    for vocabulary in (None, 60):
        spec = TrialSpec("transformer", fields | {"vocabulary": vocabulary}, "logit", logit, {"lr": 1e-3}, 1.0, 0)
        result = run(spec, assets)
        assert result.status == "complete", result.message
        assert result.scores["accuracy"] > 0.5


def test_a_damaged_one_is_made_again_and_said_so(made: tuple[Assets, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assets, root = made
    monkeypatch.setenv("KDSEARCH_CACHE", str(root))
    assert cache.cache_root() == root
    (weights,) = root.glob("starts/*/model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    again = shared_start.make(assets, TRANSFORMER, 6.0)
    assert not again.reused
    assert "damaged, made again" in again.notes[0]
    assert weights.read_bytes() == whole


def test_other_text_another_teacher_or_another_length_makes_another_one(made: tuple[Assets, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assets, root = made
    monkeypatch.setenv("KDSEARCH_CACHE", str(root))
    monkeypatch.setattr(shared_start, "_distilled", lambda *_: assets.teacher())
    learnt, logits = assets.learnt, Need(Signal.LOGITS)
    read, said = learnt.tokens.ids.copy(), np.asarray(learnt.signals[logits]).copy()
    read[1] = read[1] % 90 + 5
    said[0, 0] += 0.25
    # The same tokens in other rows: the first row's last one begins the second row.
    cut = learnt.tokens.offsets.copy()
    cut[1] -= 1
    of_text, of_rows, of_answers = (
        replace(assets, learnt=part)
        for part in (
            replace(learnt, tokens=replace(learnt.tokens, ids=read)),
            replace(learnt, tokens=replace(learnt.tokens, offsets=cut)),
            replace(learnt, signals={**learnt.signals, logits: said}),
        )
    )
    assert (read != learnt.tokens.ids).sum() == (said != learnt.signals[logits]).sum() == 1
    of_teacher = replace(assets, teacher_fingerprint="another")
    found = [
        shared_start.make(each, TRANSFORMER, epochs)
        for each, epochs in ((assets, 6.0), (assets, 1.0), (of_teacher, 6.0), (of_text, 6.0), (of_rows, 6.0), (of_answers, 6.0))
    ]
    assert len({each.model.fingerprint for each in found}) == 6
    assert [each.reused for each in found] == [True] + [False] * 5


@pytest.mark.parametrize("teacher_heads", [1, 2])
def test_with_smaller_heads_a_student_has_the_rows_of_its_corner_and_no_others(made: tuple[Assets, Path], teacher_heads: int) -> None:
    assets, _ = made
    size = assets.info.hidden // assets.info.heads
    width = teacher_heads * size
    source = assets.super_student("transformer")
    whole = initialise.bert_names(source)
    for smaller in (size // 2, size // 4):
        family = shape(assets, hidden=width, head_size=smaller, start="shared")
        module = family.build(assets.info)
        family.start_from(module, source)
        assert isinstance(module, Encoder)
        own = initialise.bert_names(module.model)
        for name in ("self.query", "self.key", "self.value"):
            at = f"encoder.layer.0.attention.{name}.weight"
            assert rows(own[at]) == rows(whole[at][:width, :width])
        at = "encoder.layer.0.attention.output.dense.weight"
        assert rows(own[at].T) == rows(whole[at][:width, :width].T)
        for head in range(width // smaller):  # and each of its heads comes out of one of theirs
            begin = head * smaller // size * size
            for name in ("self.query", "self.value"):
                at = f"encoder.layer.0.attention.{name}.weight"
                mine = own[at][head * smaller : (head + 1) * smaller]
                assert rows(mine) <= rows(whole[at][begin : begin + size, :width])


def rows(matrix: torch.Tensor) -> set[tuple[float, ...]]:
    found = {tuple(row) for row in matrix.tolist()}
    assert len(found) == len(matrix)
    return found


def test_a_study_whose_families_have_none_is_refused_with_what_to_do(assets: Assets) -> None:
    with pytest.raises(InputError, match=r"space.shared_start: no family of mlp has one: add transformer to space.families"):
        shared_start.asking({"mlp": LOADED.families["mlp"]}, assets.info)
