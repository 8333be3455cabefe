"""What a label is, one file a task: how labels are read and checked, learnt, predicted, scored and told.

Nothing comes in here that trains, loads a model or opens a file, and nothing that imports torch before a loss is asked for. Outside this folder
nobody asks which task it is: the task is asked.
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
    """The task that labels suggest where nobody says whose they are: whole numbers are classes, others values."""
    return Classification.name if whole_numbers else Regression.name


def suiting_outputs(count: int) -> str:
    """The task that logits suggest where nobody says whose they are: one output is a value, several are classes."""
    return suiting(count > 1)
