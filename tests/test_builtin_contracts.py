"""Every strategy and family that ships holds the contract that a plugin's author inherits."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from kdsearch.api import Family, Strategy
from kdsearch.registry import discover
from kdsearch.registry.registry import load_one
from kdsearch.space.knobs import Knobs, RandomDraw
from kdsearch.testing import FamilyContract, StrategyContract, tiny_info, tiny_teacher


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


class TestAttention(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("attention")
    equal_student = "zero loss"


class TestRelations(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("relations")

    def expected_of_equal_student(self, strategy: Strategy) -> str:
        top = vars(strategy)["teacher_layer"] == -1
        return (
            "zero loss"
            if top
            else "exempt: the student's top layer follows a lower one of the teacher, which is another layer in a copy too"
        )


class TestPkd(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("pkd")
    equal_student = "zero loss"


class TestRkd(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("rkd")
    equal_student = "zero loss"


class TestDkd(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("dkd")
    equal_student = "zero loss"


class TestDist(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("dist")
    equal_student = "zero loss"


class TestContrastive(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("contrastive")
    equal_student = "exempt: InfoNCE is not a divergence: the other rows are pushed away from a student that equals its teacher too"


class TestTwoStage(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("two_stage")
    equal_student = "zero loss"


class TestAssignment(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("assignment")
    equal_student = "exempt: a layer of a copy follows a mixture of the teacher's layers, not the one it is a copy of"


class TestAdaptive(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("adaptive")
    equal_student = "exempt: the log-variances are part of the loss, and fall without end where the terms are zero"


class TestAnnealed(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("annealed")
    equal_student = "zero loss"


class TestSeveral(StrategyContract):
    strategy: ClassVar[type[Strategy]] = strategy("several")
    equal_student = "exempt: a copy of one teacher is not the mixture of two"


class TestTransformer(FamilyContract):
    family: ClassVar[type[Family]] = family("transformer")


class TestMlp(FamilyContract):
    family: ClassVar[type[Family]] = family("mlp")


class TestBiLstm(FamilyContract):
    family: ClassVar[type[Family]] = family("bilstm")


class TestCnn(FamilyContract):
    family: ClassVar[type[Family]] = family("cnn")


class TestOnTeacher(FamilyContract):
    family: ClassVar[type[Family]] = family("on_teacher")


BUILT_IN = [source.name for source in discover.built_ins()]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_has_its_contract_here(name: str) -> None:
    tested = {getattr(each, "strategy", None) or getattr(each, "family", None) for each in globals().values() if isinstance(each, type)}
    assert load_one(name) in tested


@pytest.mark.parametrize("name", BUILT_IN)
def test_source_names_a_paper_or_the_control(name: str) -> None:
    source = load_one(name).source
    assert source == "the control" or any(character.isdigit() for character in source)


STRATEGIES = [name for name in BUILT_IN if issubclass(load_one(name), Strategy)]
REFERENCE = Path(__file__).parents[1] / "docs" / "strategies.md"


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_reference_page_has_every_strategy_with_its_knobs_and_paper(name: str) -> None:
    sections = {each.partition("\n")[0].strip(): each for each in REFERENCE.read_text().split("\n## ")}
    assert name in sections
    found, knobs = strategy(name), Knobs()
    teacher = replace(tiny_info(tiny_teacher()), layers=6)
    for seed in range(20):
        found.suggest(knobs.space(RandomDraw(np.random.default_rng(seed)), name), teacher, teacher)
    for knob in knobs.declared.values():
        if knob.name.startswith(f"{name}."):
            assert f"- `{knob.name}`: {knob}" in sections[name]
    for paper in re.findall(r"arXiv:[0-9.]+[0-9]", found.source)[:1]:
        assert paper in sections[name]
