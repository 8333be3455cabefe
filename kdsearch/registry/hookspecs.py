"""The two hooks of a plugin. A hook only yields classes; everything else is in the class (see `kdsearch.api`).

A plugin is one Python file dropped into `plugins/` or listed under `plugins:` in a study, or a module of an installed package with an entry
point in the group `kdsearch`. The file's stem, or the entry point's name, is the `name` of the class that the hook yields.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from kdsearch.api import Family, Strategy

__all__ = ["PROJECT", "hookimpl", "hookspec", "kdsearch_families", "kdsearch_strategies"]

PROJECT = "kdsearch"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def kdsearch_strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
    """Yield the strategy that this plugin brings: the class, not an instance.

    The whole of a working plugin, as the file `centred.py`::

        from dataclasses import dataclass

        from torch.nn import functional as F

        from kdsearch import Strategy, hookimpl


        @dataclass(frozen=True)
        class Centred(Strategy):
            name = "centred"
            source = "Ba and Caruana 2014, arXiv:1312.6184, eq. 1"
            alpha: float

            @classmethod
            def suggest(cls, space, teacher, student):
                return {"alpha": space.alpha()}

            def loss(self, student, teacher, batch, extra, progress):
                soft = F.mse_loss(student.logits, teacher.logits)
                return {"soft": self.alpha * soft, "hard": (1 - self.alpha) * batch.hard_loss(student.logits)}


        @hookimpl
        def kdsearch_strategies():
            yield Centred
    """


@hookspec
def kdsearch_families() -> Iterable[type[Family]]:  # type: ignore[empty-body]
    """Yield the family of students that this plugin brings: the class, not an instance.

    The whole of a working plugin, as the file `wordbag.py`::

        from dataclasses import dataclass, replace

        from torch import nn

        from kdsearch import Family, Outputs, Signal, hookimpl


        class Bag(nn.Module):
            def __init__(self, vocab, width, labels):
                super().__init__()
                self.words = nn.Embedding(vocab, width)
                self.head = nn.Linear(width, labels)

            def forward(self, batch, needs=()):
                for need in needs:
                    if need.signal is not Signal.LOGITS:
                        raise LookupError(f"family wordbag does not provide {need.signal}")
                real = batch.mask.float().unsqueeze(-1)
                mean = (self.words(batch.ids) * real).sum(1) / real.sum(1).clamp_min(1)
                return Outputs(self.head(mean))


        @dataclass(frozen=True)
        class Wordbag(Family):
            name = "wordbag"
            source = "Joulin et al. 2016, arXiv:1607.01759, section 2"
            provides = frozenset({Signal.LOGITS})
            hidden: int

            @classmethod
            def suggest(cls, space, teacher):
                return {"hidden": space.integer("hidden", 8, teacher.hidden, log=True)}

            def info(self, teacher):
                return replace(teacher, layers=0, hidden=self.hidden, heads=0, intermediate=0, provides=self.provides)

            def size(self, teacher):
                return teacher.vocab * self.hidden + (self.hidden + 1) * teacher.labels

            def build(self, teacher):
                return Bag(teacher.vocab, self.hidden, teacher.labels)


        @hookimpl
        def kdsearch_families():
            yield Wordbag
    """
