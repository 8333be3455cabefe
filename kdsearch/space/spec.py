"""What a trial is given: everything that determines a student, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdsearch.io import files

RUNGS = (0.25, 0.5, 0.75)  # fractions of the planned examples after which a trial reports its validation scores


@dataclass(frozen=True)
class TrialSpec:
    """Everything that decides a student, as plain data."""

    family: str
    family_config: Mapping[str, Any]
    strategy: str
    strategy_config: Mapping[str, Any]
    training: Mapping[str, Any]  # fields of training.loop.Recipe, apart from epochs; lr before the family's lr_scale
    epochs: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family,
            "family_config": dict(self.family_config),
            "strategy": self.strategy,
            "strategy_config": dict(self.strategy_config),
            "training": dict(self.training),
            "epochs": self.epochs,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrialSpec:
        return cls(**values)

    @property
    def hash(self) -> str:
        """The same for two specs that differ in nothing but the seed."""
        values = self.to_json()
        del values["seed"]
        return files.digest(files.canonical(values))
