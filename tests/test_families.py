"""The families that are no stock model: what they compute, what they start from, and that they train, save, load and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import worlds
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from transformers import BertForSequenceClassification, ElectraConfig, ElectraForSequenceClassification

from kdsearch import modules
from kdsearch.api import Batch, Family, Need, Signal
from kdsearch.registry import registry
from kdsearch.space.cost import counted_flops, price, safetensors_bytes
from kdsearch.space.spec import TrialSpec
from kdsearch.student.assets import Assets
from kdsearch.student.saved import files, load_student
from kdsearch.student.trial import run
from kdsearch.teacher import encoder
from kdsearch.teacher.encoder import Encoder
from kdsearch.testing import eight_sentences, tiny_info, tiny_teacher
from kdsearch.training.loop import Rows, layers_above
from kdsearch.training.predict import predict
from kdsearch.training.target_scaling import Unit, output_map
from kdsearch_plugins.bilstm import BiLstm
from kdsearch_plugins.cnn import Cnn
from kdsearch_plugins.mlp import STRIDE, Bag, Mlp
from kdsearch_plugins.on_teacher import OnTeacher, TeacherFeatures

LINEAR = Mlp(vocabulary=100, bigrams=40, depth=0, dimension=3, hidden=0, start="random")
SHAPES: dict[str, Family] = {
    "linear": LINEAR,
    "mlp": Mlp(vocabulary=100, bigrams=40, depth=1, dimension=8, hidden=16, start="embeddings"),
    "bilstm": BiLstm(vocabulary=100, dimension=16, layers=1, hidden=8, pooling="mean_max", start="embeddings"),
    "cnn": Cnn(vocabulary=100, dimension=16, layers=2, widest=3, filters=8, start="embeddings"),
    "on_teacher": TeacherFeatures(vocabulary=100, layers=1, tuned=False, mapping="mlp", width=16, target="bilstm"),
}


def rows(*texts: Sequence[int], answers: Sequence[float] = ()) -> tuple[Tensor, Tensor, Tensor]:
    """Texts end to end, with their offsets and the training target of each: the second class's probability, by default always the same."""
    ids = torch.tensor([piece for text in texts for piece in text])
    second = torch.tensor(answers or [0.5] * len(texts))
    return ids, torch.tensor([0, *np.cumsum([len(text) for text in texts])]), torch.stack([1 - second, second], 1)


def batch_of(*texts: Sequence[int]) -> Batch:
    ids = torch.zeros(len(texts), max(len(text) for text in texts), dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = True
    return Batch(ids, mask, torch.zeros(len(texts), dtype=torch.int64), torch.arange(len(texts)))


# Bigrams


def test_lower_bound_is_searchsorted() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 3, 7, 8, 9, 100):
        keys = torch.randint(0, 60, (count,), generator=generator).sort().values
        wanted = torch.arange(-2, 64).reshape(2, 33)
        assert torch.equal(modules.lower_bound(keys, wanted), torch.searchsorted(keys, wanted))


def test_the_pairs_that_tell_most_are_kept_sorted() -> None:
    table = modules.Bigrams(2, 10)
    # Inside: 4 5 · 4 5 · 7 8 · 4 5, 7 8 · 6 5. Across rows or with a first or last token (2 and 3): nothing.
    # The answers' mean is 0.5, their distance from it 0.4, -0.4, 0.4, 0, -0.4. So 4 5 tells |0.4 - 0.4 + 0| / sqrt(3 + 3) = 0,
    # 7 8 (0.4 + 0) / sqrt(2 + 3) = 0.18, 6 5 |-0.4| / sqrt(1 + 3) = 0.2.
    texts = ((2, 4, 5, 3), (2, 4, 5, 3), (2, 7, 8, 3), (2, 4, 5, 2, 7, 8, 3), (2, 6, 5, 3), (2, 3), ())
    table.observe(*rows(*texts, answers=(0.9, 0.1, 0.9, 0.5, 0.1, 0.5, 0.5)))
    assert table.keys.tolist() == [65, 78]


def test_of_pairs_that_tell_as_much_the_lower_keys_are_kept() -> None:
    table = modules.Bigrams(2, 10)
    table.observe(*rows((2, 7, 8, 3), (2, 5, 4, 3), (2, 4, 5, 3)))
    assert table.keys.tolist() == [45, 54]


def test_a_pair_that_stands_more_often_with_one_answer_tells_more() -> None:
    table = modules.Bigrams(1, 10)
    # Distances 0.4, 0.4, -0.4, -0.4: 4 5 tells 0.8 / sqrt(5) = 0.36, 6 7 tells 0.4 / sqrt(4) = 0.2.
    table.observe(*rows((2, 4, 5, 3), (2, 4, 5, 3), (2, 6, 7, 3), (2, 3), answers=(0.9, 0.9, 0.1, 0.1)))
    assert table.keys.tolist() == [45]


def test_keys_that_the_text_does_not_fill_are_never_found() -> None:
    table = modules.Bigrams(5, 10)
    table.observe(*rows((2, 4, 5, 6, 3)))
    assert table.keys.tolist() == [45, 56, 100, 100, 100]
    batch = batch_of((2, 4, 5, 6, 9, 9), (4, 5))
    number, known = table(batch.ids, batch.mask)
    assert known.tolist() == [[False, True, True, False, False, False], [True, False, False, False, False, False]]
    assert number[known].tolist() == [0, 1, 0]


def test_a_pair_with_padding_is_no_pair() -> None:
    table = modules.Bigrams(1, 10)
    table.observe(*rows((2, 4, 0, 3)))  # the pair (4, 0), and 0 is the padding id
    batch = batch_of((4,), (4, 0, 5))
    assert table(batch.ids, batch.mask)[1].tolist() == [[False, False, False], [True, False, False]]


# mlp


def test_the_linear_model_on_11000_pieces_and_11000_bigrams_has_22001_parameters() -> None:
    teacher = replace(tiny_info(tiny_teacher(labels=2)), vocab=30_522, vocabularies=(11_000,), hidden=384)
    family = Mlp(vocabulary=11_000, bigrams=11_000, depth=0, dimension=1, hidden=0, start="random")
    assert family.size(teacher) == 22_001
    assert price(family, teacher, 64).bytes == safetensors_bytes(family.build(teacher).state_dict())
    assert 22_001 * 4 + 11_000 * 8 < price(family, teacher, 64).bytes < 22_001 * 4 + 11_000 * 8 + 500  # the keys are bytes, not parameters


def test_the_linear_model_adds_one_weight_a_feature() -> None:
    teacher = tiny_info(tiny_teacher(labels=2))
    family = Mlp(vocabulary=100, bigrams=2, depth=0, dimension=1, hidden=0, start="random")
    student = family.build(teacher)
    assert isinstance(student, Bag)
    family.observe(student, *rows((2, 4, 5, 3)))
    with torch.no_grad():
        student.table.weight.zero_()
        student.table.weight[4], student.table.weight[5], student.table.weight[100] = 0.1, 0.2, 0.5  # row 100: the bigram 4 5
        student.head.bias.fill_(1.0)
    outputs = student.eval()(batch_of((4, 5), (5, 4, 7, 7)), [Need(Signal.LOGITS), Need(Signal.POOLED, 0)])
    # Three features: (0.1 + 0.2 + 0.5) / sqrt(3); four: (0.2 + 0.1) / sqrt(4), for the pair 5 4 was not observed.
    scores = [STRIDE * 0.8 / 3**0.5 + 1.0, STRIDE * 0.3 / 2 + 1.0]
    torch.testing.assert_close(outputs.logits, torch.tensor([[-scores[0] / 2, scores[0] / 2], [-scores[1] / 2, scores[1] / 2]]))
    torch.testing.assert_close(outputs.layered[Signal.POOLED, 0], torch.tensor([[0.8 / 3], [0.3 / 4]]))


def test_rows_of_bigrams_that_do_not_exist_stay_zero() -> None:
    teacher = tiny_teacher()
    family = SHAPES["mlp"]
    student = family.build(tiny_info(teacher))
    assert isinstance(student, Bag)
    family.observe(student, *rows((2, 4, 5, 6, 3)))
    family.start_from(student, teacher)
    optimiser = torch.optim.AdamW(student.parameters(), lr=0.1)
    batch = batch_of((2, 4, 5, 6, 3), (2, 6, 4, 3))
    for _ in range(3):
        optimiser.zero_grad()
        batch.hard_loss(student(batch).logits).backward()
        optimiser.step()
    assert student.table.weight[100:102].abs().min() > 0
    assert not student.table.weight[102:].any()


def test_bigrams_start_as_the_mean_of_their_pieces() -> None:
    teacher = tiny_teacher()
    family = SHAPES["mlp"]
    student = family.build(tiny_info(teacher))
    assert isinstance(student, Bag)
    family.observe(student, *rows((2, 4, 5, 3)))
    family.start_from(student, teacher)
    table = student.table.weight
    torch.testing.assert_close(table[100], (table[4] + table[5]) / 2)


def test_a_full_width_start_keeps_the_distances_of_the_teachers_words() -> None:
    teacher = tiny_teacher()
    table = nn.Embedding(100, 32)
    modules.start_table(table, teacher, 100)
    words = teacher.get_input_embeddings().weight
    mine, theirs = torch.pdist(table.weight), torch.pdist(words)
    torch.testing.assert_close(mine / mine.mean(), theirs / theirs.mean(), atol=1e-4, rtol=1e-4)
    assert table.weight.std().item() == pytest.approx(modules.WIDTH, rel=1e-3)


def test_a_start_from_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="60 subwords cannot start from a table of 100"):
        modules.start_table(nn.Embedding(100, 8), tiny_teacher(), 60)


# bilstm and cnn


def test_both_ways_is_a_bidirectional_lstm_on_each_row_alone() -> None:
    torch.manual_seed(0)
    layer = modules.BothWays(4, 3)
    stock = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    stock.load_state_dict(
        {
            **layer.ahead.state_dict(),
            **{f"{name}_reverse": value for name, value in layer.back.state_dict().items()},
        }
    )
    states = torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = layer(states, mask)
    torch.testing.assert_close(found[0], stock(states[:1])[0][0])
    torch.testing.assert_close(found[1, :3], stock(states[1:, :3])[0][0])


def test_recurrent_layers_stay_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    layer, mask = modules.BothWays(4, 3), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    states = torch.randn(2, 5, 4)
    plain = layer(states, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(states, mask), plain)
        from_below = layer(states.bfloat16(), mask)  # what a linear map beneath gives
    assert torch.equal(from_below, layer(states.bfloat16().float(), mask))


def test_windows_see_zeros_beyond_the_end_of_a_row() -> None:
    layer = modules.Windows(1, 1, 3)
    with torch.no_grad():
        layer.filters.weight.copy_(torch.tensor([[[1.0, 10.0, 100.0]]]))
        layer.filters.bias.zero_()
    states = torch.tensor([[[1.0], [2.0], [9.0]]])  # the third is padding
    assert layer(states, torch.tensor([[True, True, False]]))[0, :2, 0].tolist() == [21.0, 2.0]


def test_each_row_alone_gives_what_it_gives_in_a_batch_with_longer_ones() -> None:
    teacher = tiny_teacher()
    texts = [(2, 3), (5,), (2, 7, 9, 11, 13, 15, 17, 3)]
    for name, family in SHAPES.items():
        torch.manual_seed(0)
        student = family.build(tiny_info(teacher)).eval()
        together = student(batch_of(*texts)).logits
        alone = torch.cat([student(batch_of(text)).logits for text in texts])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_the_layers_of_a_cnn_are_those_below_one_another_not_its_filters() -> None:
    student = Cnn(vocabulary=100, dimension=8, layers=3, widest=4, filters=2, start="random").build(tiny_info(tiny_teacher()))
    above = layers_above(student)
    names = {name: above.get(id(parameter), 0) for name, parameter in student.named_parameters()}
    assert {names[f"below.{at}.filters.weight"] for at in (0, 1)} == {2, 1}
    assert names["table.weight"] == 3
    assert names["windows.4.filters.weight"] == names["head.weight"] == 0


# on_teacher


def test_its_lower_states_are_the_teachers_own_to_the_bit_that_padding_allows() -> None:
    teacher = tiny_teacher(layers=3)
    family = TeacherFeatures(vocabulary=100, layers=2, tuned=True, mapping="linear", width=8, target="bag")
    student = family.build(tiny_info(teacher)).eval()
    family.start_from(student, teacher)
    batch = eight_sentences()
    needs = [Need(Signal.POOLED, state) for state in (0, 1, 2)]
    mine, theirs = student(batch, needs), Encoder(teacher)(batch, needs)
    for state in (0, 1, 2):
        torch.testing.assert_close(mine.layered[Signal.POOLED, state], theirs.layered[Signal.POOLED, state], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_teacher_with_narrow_tables_gives_its_projection_too(layers: int) -> None:
    settings: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    config = ElectraConfig(vocab_size=100, embedding_size=16, hidden_size=32, num_labels=3, initializer_range=0.2, **settings)
    torch.manual_seed(0)
    teacher = ElectraForSequenceClassification(config).eval()
    info = encoder.info(config, "classification")
    family = TeacherFeatures(vocabulary=100, layers=layers, tuned=False, mapping="linear", width=8, target="bag")
    student = family.build(info).eval()
    family.start_from(student, teacher)
    needs = [Need(Signal.POOLED, state) for state in range(layers + 1)]
    mine, theirs = student(eight_sentences(), needs), Encoder(teacher)(eight_sentences(), needs)
    for need in needs:
        torch.testing.assert_close(mine.layered[need.signal, need.layer], theirs.layered[need.signal, need.layer], atol=1e-5, rtol=1e-5)
    assert family.size(info) == sum(parameter.numel() for parameter in student.parameters())
    assert family.flops(info, 16) == counted_flops(student, None, 16)


def test_its_layers_have_the_teachers_activation_and_layer_norm() -> None:
    config = tiny_teacher().config
    config.hidden_act, config.layer_norm_eps = "relu", 0.1
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(config).eval()
    family = TeacherFeatures(vocabulary=100, layers=2, tuned=True, mapping="linear", width=8, target="bag")
    student = family.build(tiny_info(teacher)).eval()
    family.start_from(student, teacher)
    need = Need(Signal.POOLED, 2)
    mine, theirs = student(eight_sentences(), [need]), Encoder(teacher)(eight_sentences(), [need])
    torch.testing.assert_close(mine.layered[Signal.POOLED, 2], theirs.layered[Signal.POOLED, 2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tuned", [True, False])
def test_what_is_frozen_is_counted_but_does_not_move(tuned: bool) -> None:
    teacher = tiny_teacher()
    family = TeacherFeatures(vocabulary=100, layers=1, tuned=tuned, mapping="linear", width=8, target="cnn")
    student = family.build(tiny_info(teacher))
    assert isinstance(student, OnTeacher)
    family.start_from(student, teacher)
    student.train()
    before = {name: parameter.clone() for name, parameter in student.named_parameters()}
    optimiser = torch.optim.AdamW(student.parameters(), lr=0.01)
    batch = eight_sentences()
    batch.hard_loss(student(batch).logits).backward()
    optimiser.step()
    moved = {name for name, parameter in student.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name for name in before if not name.startswith("teacher.")} <= moved
    assert any(name.startswith("teacher.") for name in moved) == tuned
    assert family.size(tiny_info(teacher)) == sum(parameter.numel() for parameter in student.parameters())
    first, second = student(batch).logits, student(batch).logits
    assert torch.equal(first, second) != tuned  # dropout touches only what is tuned


# All of them


@pytest.mark.parametrize("name", list(SHAPES))
def test_signals_they_do_not_show_are_refused_by_name(name: str) -> None:
    student = SHAPES[name].build(tiny_info(tiny_teacher()))
    with pytest.raises(LookupError, match=r"this student shows .*logits.*, not attention"):
        student(eight_sentences(), [Need(Signal.ATTENTION)])
    with pytest.raises(LookupError, match=r"Need\(Signal.POOLED, 9\): this model has"):
        student(eight_sentences(), [Need(Signal.POOLED, 9)])


def test_a_pruned_vocabulary_leaves_no_token_states_to_compare() -> None:
    teacher = replace(tiny_info(tiny_teacher()), vocabularies=(60,))
    own, pruned = SHAPES["bilstm"], replace(SHAPES["bilstm"], vocabulary=60)  # type: ignore[type-var]
    assert own.info(teacher).provides == frozenset({Signal.LOGITS, Signal.POOLED, Signal.HIDDEN})
    assert pruned.info(teacher).provides == frozenset({Signal.LOGITS, Signal.POOLED})
    assert pruned.info(teacher).vocab == 60


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_regression_has_one_output(name: str) -> None:
    teacher = tiny_teacher(labels=1)
    family = replace(LINEAR, dimension=1) if name == "linear" else SHAPES[name]
    student = family.build(tiny_info(teacher))
    batch = eight_sentences(labels=1)
    assert student(batch).logits.shape == (8, 1)
    assert family.size(tiny_info(teacher)) == sum(parameter.numel() for parameter in student.parameters())
    batch.hard_loss(student(batch).logits).backward()


@pytest.mark.parametrize("name", list(SHAPES))
def test_the_answer_of_a_regression_can_be_brought_into_any_unit(name: str) -> None:
    family = replace(LINEAR, dimension=1) if name == "linear" else SHAPES[name]
    student, batch = family.build(tiny_info(tiny_teacher(labels=1))).eval(), eight_sentences(labels=1)
    before = student(batch).logits
    output = output_map(student, batch)
    assert output is not None
    Unit(mean=89.0, sd=31.0).fold(output)
    torch.testing.assert_close(student(batch).logits, 89 + 31 * before, atol=1e-4, rtol=1e-5)


# In a trial

STRATEGIES: dict[str, dict[str, Any]] = {
    "logit": {"temperature": 2.0, "alpha": 0.7, "form": "kl", "direction": None},
    "feature": {"states": "pooled", "mapping": "linear", "weight": 1.0},
}


@pytest.fixture(scope="module")
def assets() -> Assets:
    loaded = registry.load(["mlp", "bilstm", "cnn", "on_teacher"], list(STRATEGIES))
    return worlds.assets(worlds.good_teacher(), plugins=loaded.shipped())


def spec(assets: Assets, name: str, strategy: str, vocabulary: int = 100) -> TrialSpec:
    family: Family = replace(SHAPES[name], vocabulary=vocabulary)  # type: ignore[type-var]
    lr = {"linear": 3e-3, "on_teacher": 1e-2}.get(name, 1e-3)
    return TrialSpec(family.name, asdict(family), strategy, STRATEGIES[strategy], {"lr": lr}, 6.0, 1)


def saved(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_trial_trains_it_on_features(assets: Assets, name: str) -> None:
    result = run(spec(assets, name, "feature"), assets)
    assert result.status == "complete", result.message
    assert result.scores["accuracy"] > 0.6  # three classes


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_trial_trains_it_on_logits_and_the_saved_student_gives_the_same(assets: Assets, name: str, tmp_path: Path) -> None:
    result = run(spec(assets, name, "logit"), assets)
    assert result.status == "complete", result.message
    assert result.scores["accuracy"] > 0.6
    lines, _ = worlds.texts(256 + 128)
    student = load_student(saved(result.files, tmp_path))
    assert result.logits is not None
    np.testing.assert_allclose(student.logits(lines[256:]), result.logits, atol=1e-5)
    assert student.params == result.params == SHAPES[name].size(assets.info)
    if isinstance(student.module, Bag) and student.module.bigrams is not None:
        expected = modules.Bigrams(40, 100)
        answers = torch.from_numpy(assets.train_set.signals[Need(Signal.LOGITS)]).softmax(-1)
        expected.observe(torch.from_numpy(assets.train_set.tokens.ids).long(), torch.from_numpy(assets.train_set.tokens.offsets), answers)
        assert torch.equal(student.module.bigrams.keys, expected.keys)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_student_of_a_pruned_vocabulary_gives_the_same_logits_once_loaded(assets: Assets, name: str, tmp_path: Path) -> None:
    result = run(spec(assets, name, "logit", vocabulary=60), assets)
    assert result.status == "complete", result.message
    lines, _ = worlds.texts(256 + 128)
    assert result.logits is not None
    np.testing.assert_allclose(load_student(saved(result.files, tmp_path)).logits(lines[256:]), result.logits, atol=1e-5)


def test_keys_beyond_what_a_float_can_hold_are_saved_whole(assets: Assets) -> None:
    family = Mlp(vocabulary=30_000, bigrams=1, depth=0, dimension=3, hidden=0, start="random")
    module = family.build(replace(assets.info, vocab=30_000))
    family.observe(module, *rows((2, 29_999, 29_998, 3)))  # the key 899,999,998 is no float32
    tensors = load_tensors(files(family, module, assets, assets.tokenizer, {})["model.safetensors"])
    assert tensors["bigrams.keys"].tolist() == [29_999 * 30_000 + 29_998]


# As ONNX


class _Bare(nn.Module):
    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        nothing = torch.zeros(1, dtype=torch.int64)
        logits: Tensor = self.student(Batch(ids, mask.bool(), nothing, nothing), (Need(Signal.LOGITS),)).logits
        return logits


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHAPES))
def test_onnx_gives_the_same_logits_at_any_shape(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    teacher = tiny_teacher()
    family = SHAPES[name]
    torch.manual_seed(0)
    student = family.build(tiny_info(teacher)).eval()
    family.observe(student, *rows(*torch.randint(0, 100, (20, 12), generator=torch.Generator().manual_seed(3)).tolist()))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # bigrams start at zero: give them something to say
    bare = _Bare(student)
    axes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    example = (torch.randint(0, 100, (2, 5)), torch.ones(2, 5, dtype=torch.int64))
    program = torch.onnx.export(
        bare, example, dynamo=True, opset_version=18, external_data=False, dynamic_shapes=(axes, axes), verbose=False
    )
    program.save(str(tmp_path / "student.onnx"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"), options)
    first, second = (each.name for each in session.get_inputs())
    source = torch.randint(0, 100, (20, 12), generator=torch.Generator().manual_seed(3))
    for count, length in ((1, 1), (1, 9), (5, 33), (32, 64)):
        ids = source.repeat(2, 6)[:count, :length]
        mask = (torch.arange(length) < torch.randint(1, length + 1, (count, 1))).long()
        got = session.run(None, {first: ids.numpy(), second: mask.numpy()})[0]
        np.testing.assert_allclose(got, bare(ids, mask).detach().numpy(), atol=1e-5)


def test_scores_are_in_full_precision_on_any_device_and_what_was_set_is_put_back(assets: Assets) -> None:
    cudnn: Any = torch.backends.cudnn
    set_before = (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision)
    seen = []
    student = SHAPES["cnn"].build(assets.info)
    student.register_forward_hook(lambda *_: seen.append((cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision)))
    part = assets.validation
    predict(student, Rows(part.tokens, part.labels, pad=0, device=torch.device("cpu")))
    assert set(seen) == {("ieee", "ieee")}
    assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == set_before
