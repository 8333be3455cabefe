"""The copy of the teacher that joint training tunes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from kdsearch.api import Need, Signal, TeacherTuning
from kdsearch.teacher.encoder import ANATOMY, Encoder
from kdsearch.teacher.trainable_copy import PrivateTeacher, split_state
from kdsearch.testing import eight_sentences, tiny_teacher


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_top_from_a_cached_state_is_the_whole(layers: int) -> None:
    shared = tiny_teacher()
    tuning = TeacherTuning(layers)
    private, batch = PrivateTeacher(shared, tuning), eight_sentences()
    need = split_state(2, tuning)
    state = Encoder(shared)(batch, (need,)).layered[need.signal, need.layer]
    torch.testing.assert_close(private.from_state(batch, state).logits, private(batch).logits, atol=1e-6, rtol=0)


def test_only_the_top_and_the_head_learn_and_the_shared_teacher_stays() -> None:
    shared = tiny_teacher().requires_grad_(False)
    private, batch = PrivateTeacher(shared, TeacherTuning(1)), eight_sentences()
    batch.hard_loss(private(batch).logits).backward()
    learning = {name for name, weight in private.full.model.named_parameters() if weight.grad is not None}
    assert learning
    assert all(name.startswith(("bert.encoder.layer.1.", "bert.pooler.", "classifier.")) for name in learning)
    assert all(weight.grad is None for weight in shared.parameters())


@pytest.mark.parametrize("kind", sorted(ANATOMY))
def test_every_supported_type_of_teacher_can_be_split(kind: str) -> None:
    small = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    small |= {"max_position_embeddings": 40, "num_labels": 3, "embedding_size": 8} if kind == "electra" else {"max_position_embeddings": 40}
    if kind == "distilbert":
        small = {"vocab_size": 100, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40}
    torch.manual_seed(0)
    shared = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **small)).eval()
    tuning, batch = TeacherTuning(1), eight_sentences()
    private, need = PrivateTeacher(shared, tuning), Need(Signal.HIDDEN, 1)
    state = Encoder(shared)(batch, (need,)).layered[Signal.HIDDEN, 1]
    torch.testing.assert_close(private.from_state(batch, state).logits, private(batch).logits, atol=1e-6, rtol=0)
