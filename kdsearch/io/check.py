"""The result of one check of verify or pick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    what: str
    passed: bool
    detail: str
