"""Students started from a teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    DistilBertConfig,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from kdsearch import initialise
from kdsearch.api import Batch, Need, Signal
from kdsearch.student.saved import info_from_json, info_to_json
from kdsearch.teacher import encoder
from kdsearch.teacher.encoder import Encoder
from kdsearch.testing import eight_sentences, tiny_info, tiny_teacher
from kdsearch_plugins.transformer import Transformer


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "expected"),
    [
        (2, 6, "uniform", [3, 6]),
        (3, 6, "uniform", [2, 4, 6]),
        (4, 6, "uniform", [2, 3, 4, 6]),
        (2, 6, "first", [1, 2]),
        (2, 6, "last", [5, 6]),
        (4, 2, "first", [1, 2, 2, 2]),
        (4, 2, "last", [1, 1, 1, 2]),
        (1, 12, "uniform", [12]),
    ],
)
def test_layer_maps_exist_for_any_two_depths(student: int, teacher: int, kind: str, expected: list[int]) -> None:
    assert initialise.layer_map(student, teacher, kind) == expected


@pytest.mark.parametrize("kind", ["first", "uniform", "last"])
def test_a_student_of_the_teachers_shape_is_the_teacher(kind: str) -> None:
    teacher = tiny_teacher()
    info = tiny_info(teacher)
    family = Transformer(info.layers, info.hidden, info.hidden // info.heads, info.intermediate // info.hidden, kind)
    student = family.build(info).eval()
    family.start_from(student, teacher)
    batch = eight_sentences()
    expected = teacher(input_ids=batch.ids, attention_mask=batch.mask).logits
    torch.testing.assert_close(student(batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_the_first_layers_are_copied_at_full_width() -> None:
    teacher = tiny_teacher(layers=3)
    info = tiny_info(teacher)
    family = Transformer(1, info.hidden, info.hidden // info.heads, info.intermediate // info.hidden, "last")
    student = family.build(info)
    family.start_from(student, teacher)
    mine, theirs = initialise.bert_names(student.model), initialise.bert_names(teacher)
    name = "attention.self.query.bias"
    torch.testing.assert_close(mine[f"encoder.layer.0.{name}"], theirs[f"encoder.layer.2.{name}"])


def test_a_narrower_student_keeps_the_dimensions_that_layers_read_most() -> None:
    teacher = tiny_teacher(layers=1, hidden=16, heads=2)
    for name, weight in teacher.bert.encoder.layer[0].named_parameters():
        if name.endswith(("query.weight", "key.weight", "value.weight", "intermediate.dense.weight")):
            with torch.no_grad():
                weight[:, [3, 5, 8, 9, 10, 11, 12, 15]] *= 10
    kept = initialise.Slice.by_importance(initialise.bert_names(teacher), 1, 8).keep
    assert kept.tolist() == [3, 5, 8, 9, 10, 11, 12, 15]


def test_projected_embeddings_keep_inner_products_as_well_as_any_of_that_width() -> None:
    teacher = tiny_teacher(hidden=32)
    words = initialise.bert_names(teacher)["embeddings.word_embeddings.weight"]
    basis = initialise.top_directions(words, 8)
    torch.testing.assert_close(basis.T @ basis, torch.eye(8), atol=1e-4, rtol=0)
    singular = torch.linalg.svdvals(words)
    lost = (words - words @ basis @ basis.T).square().sum()
    assert lost.item() == pytest.approx(singular[8:].square().sum().item(), rel=1e-3)  # Eckart and Young


def test_heads_smaller_than_the_teachers_share_one_among_them() -> None:
    teacher = tiny_teacher(hidden=32, heads=2)
    family = Transformer(2, 32, 8, 2, "first")
    student = family.build(tiny_info(teacher))
    family.start_from(student, teacher)
    mine, theirs = initialise.bert_names(student.model), initialise.bert_names(teacher)
    name = "encoder.layer.0.attention.self.query.bias"
    torch.testing.assert_close(mine[name].sort().values, theirs[name].sort().values)  # each of the teacher's 32 rows once


# Teachers that are not quite BERT


def narrow_electra() -> ElectraForSequenceClassification:
    """Tables 16 wide, layers 32 wide, a projection between them: the proportions of electra-small."""
    config = ElectraConfig(
        vocab_size=100,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=3,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = ElectraForSequenceClassification(config)
        for name, parameter in teacher.named_parameters():
            if "LayerNorm" in name or name.endswith("embeddings_project.bias"):
                parameter.data.add_(0.2 * torch.randn_like(parameter))
    return teacher.eval().requires_grad_(False)


@pytest.mark.parametrize("start", ["embeddings", "first", "uniform", "last"])
@pytest.mark.parametrize(("hidden", "rank"), [(16, None), (24, None), (32, None), (32, 8), (32, 16), (32, 24)])
def test_a_teacher_with_narrow_tables_starts_students_of_every_width(start: str, hidden: int, rank: int | None) -> None:
    teacher = narrow_electra()
    family = Transformer(1, hidden, 8, 2, start, None, rank)
    student = family.build(encoder.info(teacher.config, "classification"))
    before = family.word_table(student).weight.detach().clone()
    family.start_from(student, teacher)
    assert student(eight_sentences()).logits.isfinite().all()
    assert not torch.equal(family.word_table(student).weight, before)


def test_its_full_copy_is_the_teacher_and_its_first_state_without_a_projection_is_near() -> None:
    teacher = narrow_electra()
    info = encoder.info(teacher.config, "classification")
    assert (info.embedding, info.hidden) == (16, 32)
    batch, needs = eight_sentences(), (Need(Signal.LOGITS), Need(Signal.HIDDEN, 0))
    expected = Encoder(teacher)(batch, needs)
    copy, plain = (Transformer(2, 32, 16, 2, "first", None, rank) for rank in (16, None))
    states = []
    for family in (copy, plain):
        student = family.build(info).eval()
        family.start_from(student, teacher)
        shown = student(batch, needs)
        states.append(shown.layered[Signal.HIDDEN, 0][batch.mask])
        if family is copy:
            torch.testing.assert_close(shown.logits, expected.logits, atol=1e-5, rtol=1e-5)
    theirs = expected.layered[Signal.HIDDEN, 0][batch.mask]
    torch.testing.assert_close(states[0], theirs)
    assert torch.cosine_similarity(states[1], theirs, dim=-1).min() > 0.97
    assert states[1].norm().item() == pytest.approx(theirs.norm().item(), rel=0.2)


def test_widened_tables_are_the_first_state_but_for_its_spread() -> None:
    # One word, (3, 1): less its mean (1, -1). P (g c) with g = (1, 2) is ((1 - 2), (1 + 2), 0) = (-1, 3, 0); P b + p = (1 + 2, 1 - 2, 5).
    weights = {
        "embeddings.word_embeddings.weight": torch.tensor([[3.0, 1.0]]),
        "embeddings.position_embeddings.weight": torch.zeros(1, 2),
        "embeddings.token_type_embeddings.weight": torch.zeros(1, 2),
        "embeddings.LayerNorm.weight": torch.tensor([1.0, 2.0]),
        "embeddings.LayerNorm.bias": torch.tensor([1.0, 2.0]),
        "embeddings_project.weight": torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]]),
        "embeddings_project.bias": torch.tensor([0.0, 0.0, 5.0]),
    }
    wide = initialise.widened(weights)
    assert wide["embeddings.word_embeddings.weight"].tolist() == [[-1.0, 3.0, 0.0]]
    assert wide["embeddings.LayerNorm.bias"].tolist() == [3.0, -1.0, 5.0]
    spread = (26 / 9) ** 0.5  # of (-1, 3, 0) about 2/3; that of (1, -1) is 1
    torch.testing.assert_close(wide["embeddings.LayerNorm.weight"], torch.full((3,), spread))
    assert "embeddings_project.weight" not in wide
    assert initialise.widened(wide) is wide


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"layer_norm_eps": 0.1}])
@pytest.mark.parametrize("rank", [None, 16])
def test_a_student_has_the_teachers_activation_and_layer_norm(change: dict[str, object], rank: int | None) -> None:
    config = tiny_teacher().config
    for name, value in change.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(config).eval()
    info = tiny_info(teacher)
    built = Transformer(2, 32, 16, 2, "first", None, rank).build(info)
    assert all(getattr(built.model.config, name) == value for name, value in change.items())
    if rank is None:
        family = Transformer(2, 32, 16, 2, "first")
        student = family.build(info).eval()
        family.start_from(student, teacher)
        torch.testing.assert_close(student(eight_sentences()).logits, Encoder(teacher)(eight_sentences()).logits, atol=1e-5, rtol=1e-5)


def test_activation_and_layer_norm_are_known_of_every_type_and_absent_from_older_students() -> None:
    info = encoder.info(DistilBertConfig(activation="relu"), "classification")
    assert (info.activation, info.eps, info.embedding) == ("relu", 1e-12, 0)
    roberta = encoder.info(RobertaConfig(layer_norm_eps=1e-5), "classification")
    assert (roberta.activation, roberta.eps) == ("gelu", 1e-5)
    older = {name: value for name, value in info_to_json(roberta).items() if name not in ("activation", "eps", "embedding")}
    assert info_from_json(older) == replace(roberta, eps=1e-12)


@pytest.mark.parametrize("rank", [None, 16])
def test_no_piece_is_taken_for_padding(rank: int | None, tmp_path: Path) -> None:
    settings = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 66}
    config = RobertaConfig(vocab_size=100, hidden_size=32, type_vocab_size=1, num_labels=3, **settings)
    assert (config.bos_token_id, config.pad_token_id) == (0, 1)
    teacher = RobertaForSequenceClassification(config).eval()
    family = Transformer(1, 32, 16, 2, "embeddings", None, rank)
    student = family.build(encoder.info(config, "classification"))
    family.start_from(student, teacher)
    ids = torch.tensor([[0, 5, 6, 2, 1], [0, 7, 8, 9, 2]])
    batch = Batch(ids, ids != 1, torch.tensor([0, 1]), torch.arange(2))
    batch.hard_loss(student(batch).logits).backward()
    gradient = family.word_table(student).weight.grad
    assert gradient is not None
    assert gradient[[0, 2, 5]].abs().amax(1).min() > 0  # <s>, </s>, a piece
    assert not gradient[1].any()  # <pad>, which the mask hides
    student.model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, local_files_only=True).eval()
    student.eval()
    torch.testing.assert_close(again(input_ids=ids, attention_mask=(ids != 1).long()).logits, student(batch).logits)
