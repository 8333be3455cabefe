"""Every strategy and family that ships holds the contract that a plugin's author inherits."""

from __future__ import annotations

from typing import ClassVar

import pytest

from kdsearch import plugin_sources
from kdsearch.api import Family, Strategy
from kdsearch.plugins import load_one
from kdsearch.testing import FamilyContract, StrategyContract


def strategy(name: str) -> type[Strategy]:
    found = load_one(name)
    assert issubclass(found, Strategy)
    return found


def family(name: str) -> type[Family]:
    found = load_one(name)
    assert issubclass(found, Family)
    return found


class TestHard(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("hard")
    equal_student = "zero loss"


class TestLogit(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("logit")

    def expected_of_equal_student(self, strategy: Strategy) -> str:
        return "zero gradient" if vars(strategy)["form"] == "soft_ce" else "zero loss"


class TestFeature(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("feature")
    equal_student = "zero loss"


class TestJoint(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("joint")
    equal_student = "zero loss"


class TestTransformer(FamilyContract):
    family: ClassVar[type[Family]] = family("transformer")


BUILT_IN = [source.name for source in plugin_sources.built_ins()]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_has_its_contract_here(name: str) -> None:
    tested = {getattr(each, "strategy", None) or getattr(each, "family", None) for each in globals().values() if isinstance(each, type)}
    assert load_one(name) in tested


@pytest.mark.parametrize("name", BUILT_IN)
def test_source_names_a_paper_or_the_control(name: str) -> None:
    source = load_one(name).source
    assert source == "the control" or any(character.isdigit() for character in source)
