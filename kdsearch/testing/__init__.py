"""What a plugin's author tests with: inherit a contract, and each of its checks is a test::

    from pathlib import Path

    from kdsearch.testing import StrategyContract, load_one


    class TestMine(StrategyContract):
        strategy = load_one(Path(__file__).with_name("mine.py"))

Nothing comes in here that only this project's own tests need.
"""

from __future__ import annotations

from kdsearch.api import Family, Strategy
from kdsearch.registry.registry import load_one
from kdsearch.testing.checks import Check, run_contract
from kdsearch.testing.families import FamilyContract
from kdsearch.testing.strategies import StrategyContract
from kdsearch.testing.tiny import eight_sentences, tiny_info, tiny_teacher

__all__ = [
    "Check",
    "FamilyContract",
    "StrategyContract",
    "check",
    "contract_for",
    "eight_sentences",
    "load_one",
    "run_contract",
    "tiny_info",
    "tiny_teacher",
]


def contract_for(cls: type[Strategy | Family], equal_student: str = "zero") -> type[StrategyContract | FamilyContract]:
    """The contract of a class, as its author would write it.

    Args:
        equal_student: see StrategyContract; a family has none.
    """
    if issubclass(cls, Strategy):
        return type(f"Test{cls.__name__}", (StrategyContract,), {"strategy": cls, "equal_student": equal_student})
    return type(f"Test{cls.__name__}", (FamilyContract,), {"family": cls})


def check(cls: type[Strategy | Family], equal_student: str = "zero") -> list[Check]:
    """The checks of the contract that a strategy or family fails; empty when it holds. Needs no pytest."""
    return [each for each in run_contract(contract_for(cls, equal_student)) if each.outcome == "failed"]
