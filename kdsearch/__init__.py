"""kdsearch: search for small students of a fine-tuned text classifier.

The names here are all that a plugin or a notebook imports; each is loaded when it is first used, so that `import kdsearch` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdsearch import initialise, losses, modules, testing
    from kdsearch.api import (
        Batch,
        Family,
        ModelInfo,
        Need,
        Outputs,
        Signal,
        Space,
        Strategy,
        TeacherRole,
        TeacherTuning,
        UndeclaredSignal,
    )
    from kdsearch.registry.hookspecs import hookimpl
    from kdsearch.registry.registry import families, strategies
    from kdsearch.student.saved import Student, load_student
    from kdsearch.study.search import search
    from kdsearch.study.study import Study
    from kdsearch.teacher.encoder import Encoder

_HOME = {
    **dict.fromkeys(
        (
            "Batch",
            "Family",
            "ModelInfo",
            "Need",
            "Outputs",
            "Signal",
            "Space",
            "Strategy",
            "TeacherRole",
            "TeacherTuning",
            "UndeclaredSignal",
        ),
        "kdsearch.api",
    ),
    "Encoder": "kdsearch.teacher.encoder",
    "hookimpl": "kdsearch.registry.hookspecs",
    "families": "kdsearch.registry.registry",
    "strategies": "kdsearch.registry.registry",
    "Student": "kdsearch.student.saved",
    "load_student": "kdsearch.student.saved",
    "Study": "kdsearch.study.study",
    "search": "kdsearch.study.search",
}
_MODULES = ("initialise", "losses", "modules", "testing")

__all__ = [
    "Batch",
    "Encoder",
    "Family",
    "ModelInfo",
    "Need",
    "Outputs",
    "Signal",
    "Space",
    "Strategy",
    "Student",
    "Study",
    "TeacherRole",
    "TeacherTuning",
    "UndeclaredSignal",
    "families",
    "hookimpl",
    "initialise",
    "load_student",
    "losses",
    "modules",
    "search",
    "strategies",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"kdsearch.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kdsearch' has no attribute {name!r}")
