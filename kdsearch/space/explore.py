"""What a study may try, before it tries anything: every hyperparameter with its range and condition, the pairs, the sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from kdsearch.api import Family, ModelInfo
from kdsearch.config.schema import StudyConfig
from kdsearch.errors import InputError
from kdsearch.registry.registry import Plugins
from kdsearch.space.candidates import FAMILY, STRATEGY, Candidate, Candidates, Paired, Sized
from kdsearch.space.cost import Cost
from kdsearch.space.knobs import Knob

_FEW = 8  # values of a whole number that a condition lists at most


@dataclass(frozen=True)
class KnobLine:
    """A hyperparameter, ready to print."""

    name: str
    values: str  # its range or options, as drawn in this study
    when: str  # "always", or the condition under which it is drawn


@dataclass(frozen=True)
class PairLine:
    """A family and a strategy."""

    family: str
    strategy: str
    fits: bool
    why: str  # empty where they fit


@dataclass(frozen=True)
class Exploration:
    """What random draws of the space show."""

    knobs: tuple[KnobLine, ...]  # by name
    pairs: tuple[PairLine, ...]
    smallest: int  # parameters, of what was drawn, corners included
    largest: int
    over_limit: float  # fraction of the random draws that a limit refuses
    notes: tuple[str, ...]  # about ranges that differ from the study file's
    candidates: tuple[Candidate, ...]  # the random draws within the limits, or the corners where there are none; never empty
    vocabularies: frozenset[int]  # sizes that any draw has, over a limit or not: the search may find one of them in a smaller student


def explore(
    config: StudyConfig, plugins: Plugins, teacher: ModelInfo, draws: int = 400, price: Callable[[Family], Cost] | None = None
) -> Exploration:
    """Draw all over the space, with the study's seed; nothing is trained.

    Args:
        draws: random draws, dealt evenly to the pairs that fit.
        price: exact costs of a student, asked only where the study limits bytes or FLOPs; without it, those limits are ignored.

    Raises:
        InputError: an override that no knob has or that does not fit its knob; no pair that fits, or none with a student that can be drawn;
            limits that no student keeps.
        PluginError: a plugin's `suggest` gives what its class does not take.
    """
    space = Candidates(config, plugins, teacher)
    rng = np.random.default_rng(config.seed)
    tried = {pair: space.fitting(*pair) for pair in space.pairs}
    some = {pair: found for pair, found in tried.items() if isinstance(found, Candidate)}
    pairs = list(some)
    corners = _fitting(space.draw(Sized(*pair, fraction)) for pair in pairs for fraction in (0.0, 0.5, 1.0))
    drawn = _fitting(space.draw(Paired(rng, *pairs[turn % len(pairs)])) for turn in range(max(draws, len(pairs)) if pairs else 0))
    met = {(each.spec.family, each.spec.strategy) for each in drawn}
    drawn += [found for pair, found in some.items() if pair not in met]  # rare: a few random draws may miss it
    space.knobs.refuse_unknown()
    if not some:
        raise InputError(_nothing_fits(space, {pair: str(reason) for pair, reason in tried.items()}))
    if not {"bytes", "flops"} & config.search.limits.keys():
        price = None
    broken = [space.over(asdict(price(each.family)) if price else {"params": each.params}) for each in drawn + corners]
    smallest, smallest_broken = min(zip([each.params for each in drawn + corners], broken, strict=True), key=lambda pair: pair[0])
    if all(broken):
        raise InputError(
            f"search.limits: no student of this space keeps them; the smallest breaks {smallest_broken}: raise it or narrow the space"
        )
    refused = [limit is not None for limit in broken]
    kept = [each for each, out in zip(drawn + corners, refused, strict=True) if not out]
    within = refused[: len(drawn)].count(False)
    return Exploration(
        knobs=tuple(
            KnobLine(name, str(knob), _when(name, knob, drawn + corners, space))
            for name, knob in sorted(space.knobs.declared.items())
            if knob.kind == "fixed" or any(name in each.knobs for each in drawn + corners)
        ),
        pairs=tuple(
            PairLine(family, strategy, (family, strategy) in some, _why_not(family, strategy, space, drawn, tried))
            for family in space.families
            for strategy in space.strategies
        ),
        smallest=smallest,
        largest=max(each.params for each in drawn + corners),
        over_limit=1 - within / len(drawn),
        notes=tuple(space.knobs.notes[name] for name in sorted(space.knobs.notes)),
        candidates=tuple(kept[:within] or kept),
        vocabularies=frozenset(each.info.vocab for each in drawn + corners),
    )


def _fitting(drawn: Iterable[Candidate | str]) -> list[Candidate]:
    """Without the students that do not show what the strategy drawn with them needs."""
    return [each for each in drawn if isinstance(each, Candidate)]


def _nothing_fits(space: Candidates, reasons: Mapping[tuple[str, str], str]) -> str:
    """What to change where families and strategies fit by their classes, but no student that the hyperparameters allow does."""
    narrowed = [name for name in space.config.space.knobs if any(name.startswith(f"{family}.") for family, _ in reasons)]
    widen = f"widen {' or '.join(f'space.knobs.{name}' for name in narrowed)}, or " if narrowed else ""
    first = "; ".join(list(dict.fromkeys(reasons.values()))[:3])
    return f"space: no student that can be drawn fits its strategy ({first}): {widen}add a strategy such as hard, which fits every family"


def _why_not(
    family: str, strategy: str, space: Candidates, drawn: Sequence[Candidate], tried: Mapping[tuple[str, str], Candidate | str]
) -> str:
    if (family, strategy) in tried:
        found = tried[family, strategy]
        return "" if isinstance(found, Candidate) else found
    needed = {
        need.signal for each in drawn if each.spec.strategy == strategy for need in each.strategy.student_needs(space.teacher, each.info)
    }
    lacking = sorted(needed - space.families[family].provides)
    return f"{family} does not show {', '.join(lacking)}" if lacking else f"{strategy}.fits() refuses {family}"


def _when(name: str, knob: Knob, drawn: Sequence[Candidate], space: Candidates) -> str:
    """The condition under which a hyperparameter is drawn, as far as the draws show."""
    prefix = name.split(".")[0]
    kind, several = (FAMILY, len(space.families) > 1) if prefix in space.families else (STRATEGY, len(space.strategies) > 1)
    if knob.kind == "fixed":  # it is never drawn, so the draws do not show where it is used
        own = prefix in space.families or prefix in space.strategies
        return f"{kind} = {prefix}" if own and several else "wherever it is asked for"
    reasons: dict[str, list[str]] = {}  # condition within a family or strategy -> the ones that have it
    members = list(space.families if kind == FAMILY else space.strategies)
    for member in members:
        own_draws = [each for each in drawn if getattr(each.spec, kind) == member]
        having = [each for each in own_draws if name in each.knobs]
        if having:
            reasons.setdefault(_tell_apart(having, [each for each in own_draws if name not in each.knobs]), []).append(member)
    texts = []
    for reason, holders in reasons.items():
        where = f"{kind} = {' | '.join(holders)}" if several and len(holders) < len(members) else ""
        texts.append(" and ".join(part for part in (where, reason) if part))
    return ", or ".join(text for text in texts if text) or "always"


def _tell_apart(having: Sequence[Candidate], lacking: Sequence[Candidate]) -> str:
    """The one drawn hyperparameter whose value decides, if there is one; empty where nothing lacks it."""
    if not lacking:
        return ""
    for name in having[0].knobs:
        if not all(name in each.knobs for each in (*having, *lacking)):
            continue
        with_it, without = [each.knobs[name] for each in having], [each.knobs[name] for each in lacking]
        if not set(map(repr, with_it)) & set(map(repr, without)) and not any(isinstance(value, float) for value in with_it):
            if isinstance(with_it[0], int) and not isinstance(with_it[0], bool):
                if min(with_it) > max(without):
                    return f"{name} >= {min(with_it)}"
                if max(with_it) < min(without):
                    return f"{name} <= {max(with_it)}"
                if len(set(with_it)) > _FEW:
                    continue  # hardly a value was drawn twice: they differ by chance
            return f"{name} = {' | '.join(sorted(set(map(str, with_it))))}"
    return "sometimes"
