"""What the families that are no stock model are made of: tables started from the teacher, bigrams, recurrent and convolutional layers that padding
does not touch, and `shown`, which answers with the signals that were asked for.

All of it runs on whole batches, exports with torch.onnx.export(dynamo=True), and expects the real tokens of a row before its padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from kdsearch import initialise
from kdsearch.api import ModelInfo, Need, Outputs, Signal, needs_of

__all__ = [
    "Bigrams",
    "BothWays",
    "Head",
    "StateMaps",
    "Windows",
    "described",
    "fresh_table",
    "largest",
    "lookup",
    "lower_bound",
    "max_over_tokens",
    "mean_over_tokens",
    "needs_of",
    "shown",
    "start_table",
    "vocabularies",
]

WIDTH = 0.3  # standard deviation of a fresh or started table: near that of published word vectors, so that a few hundred steps can move it


def vocabularies(teacher: ModelInfo) -> tuple[int, ...]:
    """The options of the hyperparameter `vocabulary`: the study's pruned vocabularies, ascending, and the teacher's own."""
    return (*teacher.vocabularies, teacher.vocab)


def largest(teacher: ModelInfo) -> int:
    """The largest pruned vocabulary, or the teacher's own where there is none: what one adds that is larger still, the texts never use."""
    return teacher.vocabularies[-1] if teacher.vocabularies else teacher.vocab


def described(teacher: ModelInfo, *, vocabulary: int, layers: int, hidden: int, provides: frozenset[Signal]) -> ModelInfo:
    """The `info` of a student with a vocabulary of its own and no attention: other subwords give other sequences, so that token by token there is
    nothing to compare with the teacher any more, and of the family's signals LOGITS and POOLED remain."""
    shown = provides if vocabulary == teacher.vocab else provides & {Signal.LOGITS, Signal.POOLED}
    return replace(teacher, vocab=vocabulary, vocabularies=(), layers=layers, hidden=hidden, heads=1, intermediate=0, provides=shown)


def fresh_table(vocabulary: int, width: int) -> nn.Embedding:
    """Embeddings of subwords (V, H) with a standard deviation of WIDTH, for `lookup`; `start_table` starts them from the teacher."""
    table = nn.Embedding(vocabulary, width)
    nn.init.normal_(table.weight, std=WIDTH)
    return table


def lookup(table: nn.Embedding, ids: Tensor) -> Tensor:
    """Rows of a table: ids (...) -> (..., H).

    The same values as `table(ids)`; the backward of index_select on a CPU takes half the time of that of embedding.
    """
    return table.weight.index_select(0, ids.flatten()).unflatten(0, ids.shape)


def start_table(table: nn.Embedding, teacher: nn.Module, vocabulary: int) -> None:
    """The teacher's word table about its mean, projected on its top singular directions, scaled to the standard deviation WIDTH.

    Args:
        table: (V or more, H) its first V rows are changed in place. Columns beyond the width of the teacher's table are unchanged.
        teacher: a classifier of a type in teacher.encoder.ANATOMY.
        vocabulary: V, the student's subwords.

    Raises:
        ValueError: the teacher's word table has other rows than the student's.
    """
    words = initialise.bert_names(teacher)["embeddings.word_embeddings.weight"]
    if len(words) != vocabulary:
        raise ValueError(f"a student of {vocabulary} subwords cannot start from a table of {len(words)}")
    centred = words - words.mean(0)
    started = centred @ initialise.top_directions(centred, table.embedding_dim)  # (V, H), or narrower where the teacher's table is
    with torch.no_grad():
        table.weight[:vocabulary, : started.shape[1]] = started * (WIDTH / started.std().clamp_min(1e-12))


def mean_over_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """(B, S, H) and (B, S) bool -> (B, H), padding left out."""
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1.0)


def max_over_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """(B, S, H) and (B, S) bool -> (B, H), padding left out."""
    return states.masked_fill(~mask.unsqueeze(-1), torch.finfo(states.dtype).min).amax(1)


def shown(
    logits: Tensor,
    needs: Sequence[Need],
    *,
    states: Sequence[Tensor],
    mask: Tensor,
    width: int,
    provides: frozenset[Signal],
) -> Outputs:
    """The answer of a student that shows states.

    Args:
        logits: (B, C).
        states: state 0 first; each (B, S, h), or (B, h) where it is pooled already. h may be less than width: zeros are added at the end,
            which no linear map or distance notices.
        mask: (B, S) bool.
        width: what the student's info() calls hidden.
        provides: the family's.

    Raises:
        LookupError: a need for a signal that is not in provides, or for a state that there is not.
    """
    layered: dict[tuple[Signal, int], Tensor] = {}
    for need in needs:
        if need.layer is None:
            continue
        if need.signal not in provides or need.signal not in (Signal.POOLED, Signal.HIDDEN):
            raise LookupError(f"this student shows {' and '.join(sorted(provides))}, not {need.signal}")
        state = states[need.index(len(states) - 1)]
        if need.signal is Signal.POOLED and state.ndim == 3:
            state = mean_over_tokens(state, mask)
        layered[need.signal, need.layer] = F.pad(state, (0, width - state.shape[-1])).float()
    return Outputs(logits.float(), layered)


def lower_bound(keys: Tensor, wanted: Tensor) -> Tensor:
    """How many of the ascending keys (K,) lie below each of wanted (...): torch.searchsorted, of operators that ONNX has."""
    count = len(keys)
    found = torch.zeros_like(wanted)
    for bit in reversed(range(count.bit_length())):
        probe = found + (1 << bit)
        below = keys[(probe - 1).clamp_max(count - 1)] < wanted
        found = torch.where((probe <= count) & below, probe, found)
    return found


class Bigrams(nn.Module):
    """The most informative pairs of neighbouring subwords of a text, each with a number of its own: an exact table, so no two share a row.

    The keys (K,) int64, first * vocabulary + second, ascending, are a buffer: saved with the student, not among its parameters. Those that the
    text did not fill hold vocabulary ** 2, which no pair has.
    """

    keys: Tensor

    def __init__(self, count: int, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.register_buffer("keys", torch.full((count,), vocabulary**2, dtype=torch.int64))

    def observe(self, ids: Tensor, offsets: Tensor, answers: Tensor) -> None:
        """Take the pairs that are most informative about the answers, ties broken by key; a row's first and last token are special and ignored.

        A pair's score: the sum, over its n occurrences, of the answers' distance from their mean, divided by sqrt(n + 3). This is a t statistic
        without the answers' standard deviation, which is the same for all pairs, and shrunk towards zero for rare pairs. Of several classes, the
        one with the largest score counts.

        Args:
            ids: (T,) int64 rows end to end; offsets: (N + 1,) int64, row n is ids[offsets[n]:offsets[n + 1]].
            answers: (N, C) float32, as Family.observe gives them.
        """
        inside = torch.ones(len(ids), dtype=torch.bool)
        filled = offsets[1:] > offsets[:-1]
        inside[offsets[:-1][filled]] = False
        inside[offsets[1:][filled] - 1] = False
        both = inside[:-1] & inside[1:]
        pairs = (ids[:-1] * self.vocabulary + ids[1:])[both]
        row = torch.repeat_interleave(torch.arange(len(answers)), offsets.diff())[:-1][both]
        known, index, counts = pairs.unique(return_inverse=True, return_counts=True)
        apart = answers - answers.mean(0)
        lift = torch.stack([torch.zeros(len(known)).index_add_(0, index, each[row]) for each in apart.unbind(1)]).abs().amax(0)
        kept = known[(lift / (counts + 3).sqrt()).argsort(descending=True, stable=True)[: len(self.keys)]]
        self.keys.fill_(self.vocabulary**2)
        self.keys[: len(kept)] = kept.sort().values

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The pair that begins at each token.

        Args:
            ids: (B, S) int64; mask: (B, S) bool.

        Returns:
            (number (B, S) int64 of the pair, 0 .. K - 1; whether (B, S) it is in the table at all).
        """
        following = F.pad(ids.masked_fill(~mask, -1)[:, 1:], (0, 1), value=-1)
        wanted = ids * self.vocabulary + following
        search = lower_bound if torch.compiler.is_exporting() else torch.searchsorted  # the same numbers in a thirtieth of the time
        number = search(self.keys, wanted).clamp_max(len(self.keys) - 1)
        return number, (following >= 0) & (self.keys[number] == wanted)

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        """(numbers, first subwords, second subwords), (N,) int64 each, of the keys that the text filled."""
        numbers = (self.keys < self.vocabulary**2).nonzero().flatten()
        return numbers, self.keys[numbers] // self.vocabulary, self.keys[numbers] % self.vocabulary


class StateMaps(nn.Module):
    """Which states of a student and its teacher go together, and for each pair a map from the student's width into the teacher's.

    What a strategy's `build` returns: `loss` then has the pairs, whatever the depths of the two models.

    Args:
        pairs: (student's state or layer, teacher's), as `initialise.state_pairs` gives them.
        student, teacher: the widths.
        kind: linear | mlp (a hidden layer of the teacher's width) | identity.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], student: int = 0, teacher: int = 0, kind: str = "linear") -> None:
        super().__init__()
        self.pairs = tuple(pairs)
        self.maps = nn.ModuleList(self._map(kind, student, teacher) for _ in self.pairs)

    @staticmethod
    def _map(kind: str, student: int, teacher: int) -> nn.Module:
        if kind == "identity":
            return nn.Identity()
        if kind == "mlp":
            return nn.Sequential(nn.Linear(student, teacher), nn.GELU(), nn.Linear(teacher, teacher))
        return nn.Linear(student, teacher)

    def both(self, student: Outputs, teacher: Outputs, signal: Signal) -> Iterator[tuple[Tensor, Tensor]]:
        """(the student's, mapped; the teacher's) of each pair."""
        for mapped, (mine, theirs) in zip(self.maps, self.pairs, strict=True):
            yield mapped(student.layered[signal, mine]), teacher.layered[signal, theirs]


class Head(nn.Linear):
    """The linear map to the logits, in full precision under autocast too: in bfloat16, values with a large mean would have a few left."""

    def forward(self, state: Tensor) -> Tensor:
        with torch.autocast(state.device.type, enabled=False):
            return super().forward(state.float())


class BothWays(nn.Module):
    """A bidirectional LSTM layer that padding does not touch: (B, S, I) -> (B, S, 2 H).

    Its backward half reads each row reversed within its own length. So the padding comes last for both halves, after everything that counts, and
    no packing is needed, which is slow and has no ONNX. In full precision under autocast too: on CUDA, autocast runs it in float16 whatever it was
    asked for, and float16 would need its loss scaled.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(inputs, hidden, batch_first=True)
        self.back = nn.LSTM(inputs, hidden, batch_first=True)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        steps = torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)
        lengths = mask.sum(1, keepdim=True)
        mirror = torch.where(steps < lengths, lengths - 1 - steps, steps).unsqueeze(-1)
        with torch.autocast(states.device.type, enabled=False):
            states = states.float()
            ahead, _ = self.ahead(states)
            back, _ = self.back(states.gather(1, mirror.expand(-1, -1, states.shape[-1])))
        return torch.cat((ahead, back.gather(1, mirror.expand(-1, -1, back.shape[-1]))), -1)

    @staticmethod
    def size(inputs: int, hidden: int) -> int:
        """Parameters: four gates, two bias vectors, two directions."""
        return 2 * 4 * hidden * (inputs + hidden + 2)

    @staticmethod
    def products(inputs: int, hidden: int) -> int:
        """Multiply-adds of one token."""
        return 2 * 4 * hidden * (inputs + hidden)


@register_flop_formula(torch.ops.aten.mkldnn_rnn_layer)  # torch has none, and would count an LSTM on a CPU as nothing
def _lstm_flops(inputs: Sequence[int], into: Sequence[int], across: Sequence[int], *_arguments: object, **_options: object) -> int:
    """Shapes: inputs (S, B, I), into (4 H, I), across (4 H, H)."""
    steps, rows, _ = inputs
    return 2 * steps * rows * into[0] * (into[1] + across[1])


class Windows(nn.Module):
    """Filters over the `span` tokens that begin at each token: (B, S, I) -> (B, S, F). Beyond a row's end they see zeros, so that a row shorter than
    a filter is read too, and padding changes nothing."""

    def __init__(self, inputs: int, filters: int, span: int) -> None:
        super().__init__()
        self.span = span
        self.filters = nn.Conv1d(inputs, filters, span)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        real = (states * mask.unsqueeze(-1)).transpose(1, 2)
        return self.filters(F.pad(real, (0, self.span - 1))).transpose(1, 2)

    @staticmethod
    def size(inputs: int, filters: int, span: int) -> int:
        return filters * (inputs * span + 1)
