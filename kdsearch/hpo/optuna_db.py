"""study.db: the study as Optuna stores one, for optuna-dashboard and whoever likes Optuna's plots. Nothing of it is ever believed."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from kdsearch.errors import EnvironmentProblem
from kdsearch.hpo.sampler import distributions, objective_values, optuna_state, quiet
from kdsearch.io.files import disk_problems
from kdsearch.io.text import first_line
from kdsearch.results.record import StudyState, TrialRecord
from kdsearch.space.candidates import Candidates

_End = tuple[TrialState, list[float] | None]


def export(state: StudyState, space: Candidates, path: Path) -> int:
    """Write every trial that has ended, in place of what is there.

    A trial's user attributes are `trial` (its number in the study), hash, family, strategy, params, bytes, flops, `rung <share>` (scores on
    the way) and, where it failed, cause. Values are the quality and log10 of the cost; a trial that still runs, or will again, is left out.

    Optuna takes 10 to 20 ms to store a trial, so those that the file already holds are kept, if the ledger says the same of every one of
    them; a file that is broken or says anything else is made anew.

    Args:
        space: the study's candidates, for the ranges of the knobs: a sampler's `space`.
        path: study.db.

    Returns:
        how many trials it holds.

    Raises:
        StateError: the ledger's trials come from another space.
        EnvironmentProblem: the file cannot be written.
    """
    quality, cost = space.config.search.objectives
    ends: dict[str, _End] = {}
    for record in state.trials.values():
        values = objective_values(record, quality, cost)
        ended = optuna_state(record, values)
        if ended is not None:
            ends[record.hash] = (ended, values if ended is TrialState.COMPLETE else None)
    with disk_problems(path.parent), tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as work, quiet():
        fresh = Path(work) / "study.db"
        held = _copied(path, fresh, space.config.name)
        if not all(ends.get(address) == end for address, end in held.items()):
            fresh.unlink()
            held = {}
        missing = [record for _, record in sorted(state.trials.items()) if record.hash in ends and record.hash not in held]
        frozen = [_frozen(record, ends[record.hash], space) for record in missing]
        try:
            storage = _open(fresh)
            study = optuna.create_study(
                study_name=space.config.name, storage=storage, directions=["maximize", "minimize"], load_if_exists=True
            )
            study.set_metric_names([quality, f"log10 {cost}"])
            study.add_trials(frozen)
            _close(storage)
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as problem:
            raise EnvironmentProblem(
                f"{path}: cannot be written: free some space or mend its permissions: {first_line(problem)}"
            ) from problem
        os.replace(fresh, path)
    return len(ends)


def _open(path: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")


def _close(storage: optuna.storages.RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _copied(path: Path, fresh: Path, name: str) -> dict[str, _End]:
    """Copy the last export. Returns its trials' ends by hash; none, and no copy, where it is not to be used."""
    if not path.is_file():
        return {}
    shutil.copyfile(path, fresh)
    try:
        storage = _open(fresh)
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        _close(storage)
        return {trial.user_attrs["hash"]: (trial.state, trial.values) for trial in trials}
    except (optuna.exceptions.OptunaError, SQLAlchemyError, KeyError, RuntimeError):  # not a database, another version, another study
        fresh.unlink(missing_ok=True)
        return {}


def _frozen(record: TrialRecord, end: _End, space: Candidates) -> FrozenTrial:
    attributes: dict[str, Any] = {"trial": record.number, "hash": record.hash}
    attributes |= {"family": record.spec["family"], "strategy": record.spec["strategy"]}
    attributes |= {"params": record.params, "bytes": record.bytes, "flops": record.flops}
    attributes |= {f"rung {rung.share:g}": rung.score for rung in record.rungs if math.isfinite(rung.score)}
    if record.cause:
        attributes["cause"] = record.cause
    frozen = create_trial(
        state=end[0],
        values=end[1],
        params=dict(record.knobs),
        distributions=distributions(space, record.knobs, f"trial {record.number}"),
        user_attrs=attributes,
    )
    if record.begun is not None and record.ended is not None:
        frozen.datetime_start, frozen.datetime_complete = datetime.fromtimestamp(record.begun), datetime.fromtimestamp(record.ended)
    return frozen
