"""What a label is, one file a task: how labels are read, checked, trained on, predicted, scored and printed.

Nothing here trains, loads a model or opens a file, and torch is imported only when a loss is computed. Code outside this folder calls the task's
methods and never compares its name.
"""

from __future__ import annotations

from kdsearch.tasks.classification import Classification
from kdsearch.tasks.regression import Regression
from kdsearch.tasks.task import Gain, Task

__all__ = ["TASKS", "Gain", "Task", "of", "suiting", "suiting_outputs"]

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Regression())}  # the first is a study's default


def of(name: str) -> Task:
    """The task that a study, a teacher's ModelInfo or a student's folder names."""
    return TASKS[name]


def suiting(whole_numbers: bool) -> str:
    """The task that labels suggest where none is given: whole numbers are classes, others values."""
    return Classification.name if whole_numbers else Regression.name


def suiting_outputs(count: int) -> str:
    """The task that logits suggest where none is given: one output is a value, several are classes."""
    return suiting(count > 1)
