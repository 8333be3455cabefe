"""Hyperparameters (`Knobs`): named ranges, narrowed by the study file, from which a search draws.

A `Knobs` belongs to a study: it has the study's overrides and every hyperparameter declared so far. `Knobs.space(draw, prefix)` is what a plugin's
`suggest` receives; `draw` decides the values (random, a corner of the space, Optuna).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from kdsearch.api import Space
from kdsearch.errors import InputError, PluginError, did_you_mean

TEMPERATURE = (1.0, 8.0)
ALPHA = (0.2, 1.0)
LR = (5e-5, 2e-3)  # at lr_scale 1: below, three epochs do not converge; above, deep students collapse to chance


@dataclass(frozen=True)
class Knob:
    """A hyperparameter as it can be drawn in this study: a range, or options."""

    name: str
    kind: str  # real | integer | choice | fixed
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    options: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.kind == "fixed":
            return f"{self.options[0]!r} (fixed)"
        if self.kind == "choice" and len(self.options) > 4 and all(isinstance(option, int | float) for option in self.options):
            return f"{min(self.options)} .. {max(self.options)} ({len(self.options)} choices)"
        if self.kind == "choice":
            return " | ".join(str(option) for option in self.options)
        return f"{self.low:g} .. {self.high:g}{' log' if self.log else ''} ({self.kind})"

    def number(self, value: float) -> float:
        """The value of a range that is nearest to this one; whole if the hyperparameter is."""
        nearest = min(self.high, max(self.low, value))
        return float(nearest) if self.kind == "real" else round(nearest)

    def at(self, fraction: float) -> float:
        """The value at this fraction of a range: 0 is the low end, 1 the high end."""
        return self.number(self.low * (self.high / self.low) ** fraction if self.log else self.low + (self.high - self.low) * fraction)


class Draw(Protocol):
    """Where values come from."""

    def value(self, knob: Knob) -> Any: ...


@dataclass
class RandomDraw:
    """Independent draws: the same generator state gives the same values."""

    rng: np.random.Generator

    def value(self, knob: Knob) -> Any:
        if knob.kind == "choice":
            return knob.options[int(self.rng.integers(len(knob.options)))]
        if knob.log:
            return knob.number(math.exp(self.rng.uniform(math.log(knob.low), math.log(knob.high))))
        if knob.kind == "integer":
            return int(self.rng.integers(int(knob.low), int(knob.high) + 1))
        return float(self.rng.uniform(knob.low, knob.high))


@dataclass
class CornerDraw:
    """The same point of every range: fraction 0 is the low end, 1 the high end; `preset` values win where they fit the range."""

    fraction: float
    preset: Mapping[str, Any] = field(default_factory=dict)

    def value(self, knob: Knob) -> Any:
        wanted = self.preset.get(knob.name)
        if knob.kind == "choice":
            wanted = self.preset.get(knob.name, knob.options[0])
            last = len(knob.options) - 1
            return wanted if wanted in knob.options else knob.options[min(last, int(self.fraction * len(knob.options)))]
        return knob.number(wanted) if isinstance(wanted, int | float) else knob.at(self.fraction)


class Knobs:
    """The hyperparameters of one study: overrides from the study file, and what plugins have declared so far."""

    def __init__(self, overrides: Mapping[str, Any] | None = None) -> None:
        self.overrides = dict(overrides or {})
        self.declared: dict[str, Knob] = {}
        self.notes: dict[str, str] = {}  # name -> why its range differs from the study file's

    def space(self, draw: Draw, prefix: str) -> Space:
        return _PrefixedSpace(self, draw, prefix)

    def refuse_unknown(self) -> None:
        """After enough draws: every override must belong to a hyperparameter that was drawn.

        Raises:
            InputError: one did not.
        """
        for name in self.overrides:
            if name not in self.declared:
                raise InputError(f"space.knobs.{name}: no knob of that name in this study.{did_you_mean(name, self.declared)}")

    def real(self, draw: Draw, name: str, low: float, high: float, log: bool) -> float:
        return float(self._numeric(draw, Knob(name, "real", low, high, log)))

    def integer(self, draw: Draw, name: str, low: int, high: int, log: bool) -> int:
        return int(self._numeric(draw, Knob(name, "integer", low, high, log)))

    def _numeric(self, draw: Draw, knob: Knob) -> float:
        name, low, high, kind, where = knob.name, knob.low, knob.high, knob.kind, f"space.knobs.{knob.name}"
        if not (math.isfinite(low) and math.isfinite(high) and low <= high) or (knob.log and low <= 0):
            raise PluginError(f"hyperparameter {name}: the range {low!r} .. {high!r}{' log' if knob.log else ''} is not one")
        override = self.overrides.get(name)

        def drawn(made: Knob) -> float:
            self.declared.setdefault(name, made)
            return float(draw.value(made))

        def checked(value: Any) -> float:
            if isinstance(value, bool) or not isinstance(value, int | float) or (kind == "integer" and value != int(value)):
                raise InputError(f"{where}: {value!r} is not {'a whole number' if kind == 'integer' else 'a number'}")
            if not low <= value <= high:
                raise InputError(f"{where}: {value!r} is outside {low:g} .. {high:g}")
            return value

        if override is None:
            return drawn(knob)
        if isinstance(override, Mapping) and "choices" in override:
            return drawn(Knob(name, "choice", options=tuple(checked(value) for value in override["choices"])))
        if isinstance(override, Mapping):
            wanted_low, wanted_high = override.get("min", low), override.get("max", high)
            new_low, new_high = max(low, wanted_low), min(high, wanted_high)
            if new_low > new_high:
                raise InputError(f"{where}: {wanted_low!r} .. {wanted_high!r} has nothing in common with {low:g} .. {high:g}")
            if (new_low, new_high) != (wanted_low, wanted_high):
                self.notes[name] = f"{where}: {wanted_low!r} .. {wanted_high!r} cut to {new_low:g} .. {new_high:g}, all that this study has"
            if kind == "integer":
                new_low, new_high = math.ceil(new_low), math.floor(new_high)
                if new_low > new_high:
                    raise InputError(f"{where}: no whole number in {wanted_low!r} .. {wanted_high!r}")
            return drawn(replace(knob, low=new_low, high=new_high))
        value = checked(override)
        self.declared.setdefault(name, Knob(name, "fixed", options=(value,)))
        return value

    def choice(self, draw: Draw, name: str, options: Sequence[Any]) -> Any:
        allowed = tuple(options)
        if not allowed:
            raise PluginError(f"hyperparameter {name}: no options")
        where = f"space.knobs.{name}"
        override = self.overrides.get(name)
        if isinstance(override, Mapping) and "choices" not in override:
            raise InputError(f"{where}: has options ({', '.join(map(str, allowed))}), not a range: give a value or choices")
        if override is not None:
            wanted = tuple(override["choices"]) if isinstance(override, Mapping) else (override,)
            for value in wanted:
                if value not in allowed:
                    raise InputError(f"{where}: {value!r} is not one of {', '.join(map(str, allowed))}")
            allowed = wanted
        knob = Knob(name, "fixed" if len(allowed) == 1 else "choice", options=allowed)
        before = self.declared.setdefault(name, knob)
        if before.options != allowed:
            raise PluginError(
                f"hyperparameter {name}: options changed from {list(before.options)} to {list(allowed)}: they may depend on the teacher, "
                "not on another hyperparameter; use two with names of their own"
            )
        return allowed[0] if len(allowed) == 1 else draw.value(knob)


class _PrefixedSpace(Space):
    def __init__(self, knobs: Knobs, draw: Draw, prefix: str) -> None:
        self._knobs, self._draw, self._prefix = knobs, draw, prefix

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._knobs.real(self._draw, f"{self._prefix}.{name}", low, high, log)

    def integer(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._knobs.integer(self._draw, f"{self._prefix}.{name}", low, high, log)

    def choice(self, name: str, options: Sequence[Any]) -> Any:
        return self._knobs.choice(self._draw, f"{self._prefix}.{name}", options)

    def temperature(self) -> float:
        return global_knob(self._knobs, self._draw, "temperature")

    def alpha(self) -> float:
        return global_knob(self._knobs, self._draw, "alpha")


# drawn only where the study file names them
OPT_IN = ("dropout", "label_smoothing", "weight_decay", "layer_decay", "patience", "batch_size", "warmup", "clip")
_WHOLE = ("batch_size",)

# name -> default range, log scale, and what an override may at most ask for
_GLOBAL = {
    "temperature": (TEMPERATURE, True, (0.1, 1000.0)),
    "alpha": (ALPHA, False, (0.0, 1.0)),
    "lr": (LR, True, (1e-7, 1.0)),
    "unlabelled": ((0.0, 1.0), False, (0.0, 1.0)),
    "augmented": ((0.0, 1.0), False, (0.0, 1.0)),
    "dropout": ((0.0, 0.3), False, (0.0, 0.9)),
    "label_smoothing": ((0.0, 0.2), False, (0.0, 0.9)),
    "weight_decay": ((0.0, 0.1), False, (0.0, 1.0)),
    "layer_decay": ((0.7, 1.0), False, (0.1, 1.0)),
    "patience": ((0.1, 0.5), False, (0.05, 1.0)),
    "batch_size": ((16, 64), True, (1, 4096)),
    "warmup": ((0.02, 0.3), False, (0.0, 0.9)),
    "clip": ((0.3, 3.0), True, (1e-3, 1e3)),
}


def global_knob(knobs: Knobs, draw: Draw, name: str) -> float:
    """A hyperparameter that means the same for every strategy and family. An override may leave the default range, but not the sensible one."""
    (low, high), log, (least, most) = _GLOBAL[name]
    if name in knobs.overrides:
        override = knobs.overrides[name]
        bounded = isinstance(override, Mapping) and "choices" not in override
        low, high = (min(low, override.get("min", low)), max(high, override.get("max", high))) if bounded else (least, most)
        low, high = max(low, least), min(high, most)
    if name in _WHOLE:
        return knobs.integer(draw, name, int(low), int(high), log)
    return knobs.real(draw, name, low, high, log)
