"""One of several classes a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from kdsearch.errors import InputError
from kdsearch.tasks import resampling
from kdsearch.tasks.columns import Columns
from kdsearch.tasks.columns import labels as cells_of
from kdsearch.tasks.task import Gain, Resampled, Task

if TYPE_CHECKING:
    from torch import Tensor

UNLABELLED = -100
_DECIMAL = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_CODE = re.compile(r"[-+]?0[0-9].*|.*[eE].*")  # nobody numbers classes '007' or '1e3': these are names, kept as written


class Classification(Task):
    """Labels (N,) int64, -100 where unlabelled; logits (N, C) before softmax."""

    name: ClassVar[str] = "classification"
    qualities: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "mcc")
    exact: ClassVar[str] = "accuracy"
    resampled: ClassVar[Resampled] = {"accuracy": resampling.accuracy, "macro_f1": resampling.macro_f1, "mcc": resampling.mcc}
    problem_type: ClassVar[str] = "single_label_classification"
    activation: ClassVar[Literal["softmax"]] = "softmax"
    exclusive: ClassVar[bool] = True
    named: ClassVar[bool] = True
    simplest: ClassVar[str] = "majority class"
    always: ClassVar[str] = "the most frequent label"
    baseline: ClassVar[str] = "accuracy"

    def read(self, found: Mapping[str, Columns], column: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
        """The order of names is the table's own where it has them, else numbers in their order, else names in the alphabet's."""
        return classes(dict(found), column)

    def unlabelled(self, rows: int) -> np.ndarray:
        return np.full(rows, UNLABELLED, np.int64)

    def known(self, labels: Any) -> Any:
        return labels >= 0

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def outputs(self, names: Sequence[str]) -> int:
        return len(names)

    def align(self, outputs: Sequence[str], names: Sequence[str], given: Sequence[str] | None, where: str, key: str) -> tuple[int, ...]:
        return align(outputs, names, given, where, key)

    def hard_loss(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy."""
        from torch.nn import functional as F

        if not bool((labels != UNLABELLED).any()):
            return logits.sum() * 0.0
        return F.cross_entropy(logits, labels, ignore_index=UNLABELLED, label_smoothing=label_smoothing)

    def targets_of_labels(self, labels: Tensor, outputs: int) -> Tensor:
        from torch.nn import functional as F

        return F.one_hot(labels, outputs).float()

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        return logits.argmax(-1)

    def readable(self, labels: np.ndarray, names: Sequence[str]) -> list[str]:
        return [names[index] for index in labels]

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        from sklearn import metrics as sk

        predicted = self.predictions(logits)
        return {
            "accuracy": float(sk.accuracy_score(labels, predicted)),
            "macro_f1": float(sk.f1_score(labels, predicted, average="macro", zero_division=0.0)),
            "mcc": float(sk.matthews_corrcoef(labels, predicted)),
        }

    def guess(self, labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        found = np.zeros(shape, np.float32)
        found[:, np.bincount(labels[labels >= 0], minlength=shape[1]).argmax()] = 1.0
        return found

    def gain(self, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Gain:
        correct = self.predictions(logits) == labels
        counts = np.bincount(labels, minlength=len(names))
        commonest, baseline = int(counts.argmax()), float(counts.max() / len(labels))
        figure = f"accuracy {correct.mean():.3f}"
        return Gain(
            correct * 1.0 - (labels == commonest), baseline, figure, f"always predicting {names[commonest]!r} ({baseline:.3f})", "mcc"
        )

    def row_errors(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return (self.predictions(logits) != labels).astype(np.float64)

    def of_errors(self, mean: float) -> float:
        return 1 - mean


def align(outputs: Sequence[str], labels: Sequence[str], given: Sequence[str] | None, where: str, key: str = "teacher") -> tuple[int, ...]:
    """Which of the teacher's outputs is which label of the data: label i is output order[i].

    Args:
        outputs: the names that the teacher's own configuration has, in its order.
        labels: the data's names, in the study's order.
        given: `teacher.labels`, which wins over outputs.
        key: where the study file has the teacher: teacher, or teacher[1].

    Raises:
        InputError: another number of labels, or names that do not match.
    """
    if given is not None and len(given) != len(outputs):
        raise InputError(f"{key}.labels: {len(given)} names ({_listed(given)}), but the teacher has {len(outputs)} outputs")
    if len(outputs) != len(labels):
        raise InputError(
            f"{where}: the teacher has {len(outputs)} labels ({_listed(outputs)}), the data {len(labels)} ({_listed(labels)}): "
            f"give a teacher for these labels, or {key}.finetune: {{epochs: 3, lr: 5.0e-5}} to tune it for them"
        )
    numbered = list(labels) == [str(index) for index in range(len(labels))]
    if given is None and all(re.fullmatch(r"LABEL_\d+", name) for name in outputs):
        return tuple(range(len(labels)))
    names = list(outputs if given is None else given)
    for plain in (str, _folded):
        places = {plain(name): place for place, name in enumerate(names)}
        wanted = [plain(label) for label in labels]
        if len(places) == len(names) == len(set(wanted)) and set(wanted) == set(places):
            return tuple(places[label] for label in wanted)
    if given is None and numbered:
        return tuple(range(len(labels)))
    place = where if given is None else f"{key}.labels"
    raise InputError(
        f"{place}: label names do not match: the teacher has {_listed(names)}; the data has {_listed(labels)}: "
        f"write the data's names, in the teacher's order, under {key}.labels"
    )


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(str, names[:12]))
    return shown if len(names) <= 12 else f"{shown}, and {len(names) - 12} more"


def classes(found: dict[str, Columns], column: str) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Class names in label order, and for each role the labels as numbers.

    The order is the source's own where it names its classes, else numbers in their order, else names in the alphabet's.
    """
    written = {role: _class_names(source, column) for role, source in found.items()}
    train = found["train"]
    numeric = train.names is None and all(_DECIMAL.fullmatch(name) for name in written["train"])
    if numeric:
        broken = [row for row, name in enumerate(written["train"]) if _whole(name) is None]
        if broken:
            what = f"{written['train'][broken[0]]} is not a class: whole numbers or names are; for decimal labels set task: regression"
            raise train.problem(broken, column, what)
        numeric = not any(_CODE.fullmatch(name) for name in written["train"])
    if numeric:
        written = {role: [name if (whole := _whole(name)) is None else whole for name in column_] for role, column_ in written.items()}
    there = set(written["train"])
    if len(there) < 2:
        raise InputError(f"{train.where}: column {column!r}: only one class, {written['train'][0]!r}: two or more are needed")
    names = train.names or tuple(sorted(there, key=int) if numeric else sorted(there))
    number = {name: position for position, name in enumerate(names)}
    for role, source in found.items():
        strange = [row for row, name in enumerate(written[role]) if name not in there]
        if strange:
            known = ", ".join(map(repr, sorted(there)[:10])) + (", …" if len(there) > 10 else "")
            raise source.problem(strange, column, f"the label {written[role][strange[0]]!r} is not in train, which has {known}")
    return names, {role: np.array([number[name] for name in column_], np.int64) for role, column_ in written.items()}


def _class_names(source: Columns, column: str) -> list[str]:
    cells = cells_of(source, column)
    if source.names is None:
        odd = [row for row, cell in enumerate(cells) if not isinstance(cell, str | bool | int | float)]
        if odd:
            raise source.problem(odd, column, f"{cells[odd[0]]!r} is not a label: text, whole numbers, true or false are")
        return [str(cell).strip() for cell in cells]
    odd = [row for row, cell in enumerate(cells) if not 0 <= cell < len(source.names)]
    if odd:
        what = f"the label is missing ({cells[odd[0]]}, where 0 to {len(source.names) - 1} are classes)"
        raise source.problem(odd, column, what)
    return [source.names[cell] for cell in cells]


def _whole(name: str) -> str | None:
    """'1.0' and '+1' as '1'; None for what is not a whole number."""
    if whole := re.fullmatch(r"([-+]?[0-9]+)(\.0*)?", name):
        return str(int(whole[1]))
    if _DECIMAL.fullmatch(name) and float(name).is_integer():
        return str(int(float(name)))
    return None
