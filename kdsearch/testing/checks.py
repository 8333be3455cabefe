"""What the two contracts share: recorded draws, failures that explain themselves, and running a contract without pytest."""

from __future__ import annotations

import hashlib
import math
import unittest
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdsearch.api import Signal
from kdsearch.errors import KdsearchError
from kdsearch.space.knobs import Knob, RandomDraw


def require(condition: bool, message: str) -> None:
    """An assertion with a message of its own, for outside pytest nothing rewrites `assert`."""
    if not condition:
        raise AssertionError(message)


def skip(reason: str) -> None:
    """End a check that has nothing to check; pytest and `run_contract` both report it as skipped."""
    raise unittest.SkipTest(reason)


def close(one: float, other: float, tolerance: float = 1e-5) -> bool:
    return math.isclose(one, other, rel_tol=10 * tolerance, abs_tol=tolerance)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator at this seed inside the block, as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def others(knob: Knob, value: Any) -> list[Any]:
    """Values to try instead of this one."""
    candidates = list(knob.options) if knob.kind == "choice" else [knob.at(fraction) for fraction in (0.0, 0.4, 1.0)]
    return [each for each in dict.fromkeys(candidates) if each != value]


@dataclass
class GivenDraw:
    """Draws the given values, and for any other knob a value that depends on its name and the seed alone.

    So one knob can be varied with all else equal, even where another value of it brings further knobs.
    """

    seed: int
    given: Mapping[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)  # knob -> value that was drawn
    met: dict[str, Knob] = field(default_factory=dict)

    def value(self, knob: Knob) -> Any:
        self.met[knob.name] = knob
        if knob.name in self.given:
            self.values[knob.name] = self.given[knob.name]
        else:
            number = int.from_bytes(hashlib.blake2b(knob.name.encode(), digest_size=8).digest(), "little")
            self.values[knob.name] = RandomDraw(np.random.default_rng((self.seed, number))).value(knob)
        return self.values[knob.name]


def options_left(draws: Iterable[GivenDraw]) -> list[tuple[str, Any]]:
    """(knob, option) of every option that none of these draws took."""
    options: dict[str, list[Any]] = {}
    taken: dict[str, list[Any]] = {}
    for draw in draws:
        for name, knob in draw.met.items():
            if knob.kind == "choice":
                options[name] = list(knob.options)
                taken.setdefault(name, []).append(draw.values[name])
    return [(name, option) for name, known in options.items() for option in known if option not in taken[name]]


def real_part(signal: Signal, tensor: Tensor, mask: Tensor) -> Tensor:
    """Zero where a token is padding: what stands there is nobody's business."""
    if signal is Signal.HIDDEN:
        return tensor * mask[:, :, None]
    if signal is Signal.VALUES:
        return tensor * mask[:, None, :, None]
    if signal is Signal.ATTENTION:
        return tensor * mask[:, None, :, None] * mask[:, None, None, :]
    return tensor


@dataclass(frozen=True)
class Check:
    """What became of one check of a contract."""

    name: str
    outcome: str  # passed | failed | skipped
    reason: str = ""


def run_contract(contract: type) -> list[Check]:
    """Every check of a contract class, in the order they are written; an error inside a plugin is a failure, not a crash."""
    names = [name for base in reversed(contract.__mro__) for name in vars(base) if name.startswith("test_")]
    done = []
    for name in dict.fromkeys(names):
        label = name.removeprefix("test_").replace("_", " ")
        try:
            getattr(contract(), name)()
        except unittest.SkipTest as reason:
            done.append(Check(label, "skipped", str(reason)))
        except (AssertionError, KdsearchError) as problem:
            done.append(Check(label, "failed", str(problem)))
        except Exception as problem:  # whatever a plugin raises is the verdict on it
            done.append(Check(label, "failed", f"{type(problem).__name__}: {problem}"))
        else:
            done.append(Check(label, "passed"))
    return done
