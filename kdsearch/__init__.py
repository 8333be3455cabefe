"""kdsearch: search for small students of a fine-tuned text classifier.

The names here are all that a plugin or a notebook imports; each is loaded when it is first used, so that `import kdsearch` is quick.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

# The names stand in the stub beside this file, where type checkers read them: name -> the module that has it.
_HOME = {
    alias.name: line.module
    for line in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(line, ast.ImportFrom)
    for alias in line.names
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdsearch' has no attribute {name!r}")
    if _HOME[name] == "kdsearch":
        return importlib.import_module(f"kdsearch.{name}")
    return getattr(importlib.import_module(str(_HOME[name])), name)
