"""`kdsearch plugins new`: a strategy that works as written, and its test."""

from __future__ import annotations

from pathlib import Path
from string import Template

from kdsearch.errors import PluginError
from kdsearch.io.files import replace_file
from kdsearch.registry.classes import check_name
from kdsearch.registry.registry import available

_STRATEGY = Template('''\
"""$name: the student follows the teacher's logits; differences above delta weigh less, so that outliers do not lead."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn import functional as F

from kdsearch import Strategy, hookimpl


@dataclass(frozen=True)
class $cls(Strategy):
    name = "$name"
    source = "Huber 1964, Robust Estimation of a Location Parameter; write your paper and equation here"

    alpha: float  # 0..1, the weight of the teacher's soft loss
    delta: float  # above this difference the loss grows linearly, not quadratically

    @classmethod
    def suggest(cls, space, teacher, student):
        return {"alpha": space.alpha(), "delta": space.real("delta", 0.1, 2.0, log=True)}

    def loss(self, student, teacher, batch, extra, progress):
        soft = F.huber_loss(student.logits, teacher.logits, delta=self.delta)
        return {"soft": self.alpha * soft, "hard": (1 - self.alpha) * batch.hard_loss(student.logits)}


@hookimpl
def kdsearch_strategies():
    yield $cls
''')

_TEST = Template('''\
"""Every check of the contract, run on $name.py."""

from pathlib import Path

from kdsearch.testing import StrategyContract, load_one


class Test$cls(StrategyContract):
    strategy = load_one(Path(__file__).with_name("$name.py"))
    equal_student = "zero loss"
''')


def class_name(name: str) -> str:
    """soft_labels -> SoftLabels"""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) or "Plugin"


def write_plugin(name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.py and test_NAME.py.

    Raises:
        PluginError: the name is no identifier, another plugin has it, or a file is there already.
    """
    check_name(name, "plugins new")
    if claims := [source.origin for source in available() if source.name == name]:
        raise PluginError(f"plugins new: the name {name!r} is taken by {claims[0]}: choose another")
    paths = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in paths:
        if path.exists():
            raise PluginError(f"{path}: is there already, and stays as it is: choose another name, or move it away")
    for path, template in zip(paths, (_STRATEGY, _TEST), strict=True):
        replace_file(path, template.substitute(name=name, cls=class_name(name)))
    return paths
