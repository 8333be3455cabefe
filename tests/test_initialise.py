"""Students started from a teacher."""

from __future__ import annotations

import pytest
import torch

from kdsearch import initialise
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
