"""Which knobs mattered, by Optuna's PED-ANOVA on a study rebuilt from the ledger."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from kdsearch.hpo.sampler import objective_values, quiet
from kdsearch.io.files import canonical
from kdsearch.results.record import State, StudyState, TrialRecord

LEAST = 10  # complete trials; of fewer, Optuna's figures are noise
MOST = 2000  # trials looked at: ranking them takes time that grows with their square
TOP = 5  # trials that count as good, at least: what Optuna's documentation asks for
_FEW = 8  # different numbers that are taken for options rather than for a range
_WIDE = 30.0  # a range whose ends differ by more than this factor is taken as logarithmic


def importances(state: StudyState, objectives: Sequence[str], *, most: int = MOST) -> dict[str, dict[str, float]] | None:
    """How much each hyperparameter matters for reaching the front, and for a good score whatever the size.

    Source: Watanabe et al. 2023, PED-ANOVA, arXiv:2304.10255, and its conditional form, arXiv:2601.20800, as Optuna has them. A knob that
    only some trials have counts by how many have it. Ranges are those of the values that were tried: the study's own need its plugins.

    Args:
        objectives: (quality, cost).
        most: of more complete trials, so many drawn by chance, always the same ones.

    Returns:
        {"front": {knob: share}, "quality": {knob: share}}, each summing to 1, largest first; None with fewer than LEAST complete trials, or
        where no knob was varied.
    """
    quality, cost = objectives
    valued = [(trial, objective_values(trial, quality, cost)) for trial in state.having(State.COMPLETE)]
    scored = [(trial, values) for trial, values in valued if values is not None]
    if len(scored) < LEAST:
        return None
    if len(scored) > most:
        kept = np.sort(np.random.default_rng(0).choice(len(scored), most, replace=False))
        scored = [scored[place] for place in kept]
    ranges = _ranges([trial for trial, _ in scored])
    if not ranges:
        return None
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on rare knobs, and that low targets are the good ones
        study = optuna.create_study(directions=["maximize", "minimize"])
        study.add_trials([_frozen(trial, values, ranges) for trial, values in scored])
        evaluator = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, TOP / len(scored))))
        found = {
            "front": get_param_importances(study, evaluator=evaluator),
            "quality": get_param_importances(study, evaluator=evaluator, target=lambda trial: -trial.values[0]),
        }
    return {name: {knob: share for knob, share in shares.items() if math.isfinite(share)} for name, shares in found.items()}


def _frozen(record: TrialRecord, values: list[float], ranges: Mapping[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    knobs = {name: value for name, value in record.knobs.items() if name in ranges}
    options = {name: canonical(value) if isinstance(ranges[name], CategoricalDistribution) else value for name, value in knobs.items()}
    return create_trial(state=TrialState.COMPLETE, values=values, params=options, distributions={name: ranges[name] for name in knobs})


def _ranges(trials: Sequence[TrialRecord]) -> dict[str, BaseDistribution]:
    """Knob -> the range that its values span; knobs with a single value left out."""
    values: dict[str, list[Any]] = {}
    for trial in trials:
        for name, value in trial.knobs.items():
            values.setdefault(name, []).append(value)
    found: dict[str, BaseDistribution] = {}
    for name, tried in sorted(values.items()):
        different = {canonical(value): value for value in tried}
        if len(different) < 2:
            continue
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in tried)
        if not numbers or (len(different) <= _FEW and len(tried) >= 2 * len(different)):
            found[name] = CategoricalDistribution(sorted(different))
        else:
            found[name] = _range(tried)
    return found


def _range(tried: Sequence[int | float]) -> BaseDistribution:
    low, high = min(tried), max(tried)
    log = low > 0 and high / low > _WIDE
    if all(isinstance(value, int) for value in tried):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)
