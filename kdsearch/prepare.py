"""From a study file to all that its trials need: plugins, data, space, teacher, signals. Cheap mistakes are found first."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from kdsearch import cache, cost, data, plugins, teacher
from kdsearch.api import Family, ModelInfo, Need, Signal, TeacherRole
from kdsearch.assets import Assets, Part
from kdsearch.cache import Progress
from kdsearch.config import StudyConfig
from kdsearch.data import Data, Table, Tokens
from kdsearch.encoder import Encoder
from kdsearch.plugins import Plugins
from kdsearch.private_teacher import split_state
from kdsearch.searching.candidates import Candidate
from kdsearch.searching.explore import Exploration, explore
from kdsearch.teacher import Teacher

_VERSIONS = ("kdsearch", "torch", "transformers", "ray", "optuna", "numpy")


@dataclass(frozen=True)
class Known:
    """What files alone tell; nothing has been computed yet."""

    config: StudyConfig
    plugins: Plugins
    data: Data
    plan: teacher.Plan
    exploration: Exploration

    def price(self, family: Family) -> cost.Cost:
        """Exact costs of a student; FLOPs of one text of data.max_length tokens."""
        return cost.price(family, self.plan.info, self.config.data.max_length)

    def tokens(self, table: Table) -> Tokens:
        return data.tokenise(table, self.plan.tokenizer, self.config.data.max_length)


@dataclass(frozen=True)
class Prepared:
    """All that trials need, and what is told of where it came from."""

    known: Known
    teacher: Teacher
    assets: Assets
    manifest: dict[str, Any]
    forwards: int  # rows that the teacher was run on now; 0 when the cache had everything
    seconds: float  # that the teacher took: fine-tuning, gate and signals
    notes: tuple[str, ...]

    @property
    def object_bytes(self) -> int:
        """What the assets take in an object store."""
        total = sum(array.nbytes for array in self.assets.teacher_weights.values())
        for part in (self.assets.train, self.assets.validation, self.assets.unlabelled):
            if part is not None:
                total += part.tokens.ids.nbytes + part.tokens.offsets.nbytes + sum(column.nbytes for column in part.signals.values())
        return total


def inspect(study: StudyConfig) -> Known:
    """Check everything that needs no computing.

    Raises:
        InputError: the data, the teacher's files, a plugin or a knob is wrong.
        EnvironmentProblem: an extra is not installed.
    """
    loaded = plugins.load(study.space.families, study.space.strategies, study.plugins)
    rows = data.load(study)
    plan = teacher.inspect(study, rows)
    price = _price(plan.info, study.data.max_length)
    return Known(study, loaded, rows, plan, explore(study, loaded, plan.info, price=price))


def _price(info: ModelInfo, length: int) -> Any:
    return lambda family: cost.price(family, info, length)


def frozen_needs(candidates: Iterable[Candidate], layers: int) -> list[Need]:
    """The signals of a frozen teacher, the most often asked for first: the cache's budget goes to them in this order.

    Those that frozen strategies declare, and the states below the layers that joint ones tune.
    """
    asked: Counter[Need] = Counter()
    for candidate in candidates:
        if candidate.strategy.teacher is TeacherRole.FROZEN:
            asked.update(candidate.strategy.teacher_needs())
        elif candidate.strategy.teacher is TeacherRole.JOINT:
            asked[split_state(layers, candidate.strategy.teacher_tuning())] += 1
    return [need for need, _ in asked.most_common()]


def prepare(known: Known, progress: Progress | None = None) -> Prepared:
    """Get the teacher past the gate, run it where the cache lacks its signals, and put the assets together.

    Raises:
        InputError: the gate refuses the teacher.
        EnvironmentProblem: the cache cannot be written.
    """
    study, rows = known.config, known.data
    found = teacher.resolve(study, rows, progress, plan=known.plan)
    tables = {"train": rows.train, "validation": rows.validation, "unlabelled": rows.unlabelled}
    tokens = {name: known.tokens(table) for name, table in tables.items() if table is not None}
    learnt_from = [tokens[name] for name in ("train", "unlabelled") if name in tokens]
    plan = cache.plan(frozen_needs(known.exploration.candidates, found.info.layers), learnt_from, found.info, study.cache.max_bytes)
    parts: dict[str, Part] = {}
    forwards, seconds, notes = found.forwards, found.seconds, list(found.notes)
    first = stored = 0
    for name, pieces in tokens.items():
        # Validation is scored, never learnt from: its logits are all that is asked of the teacher there.
        wanted = [Need(Signal.LOGITS)] if name == "validation" else plan.cached
        signals = cache.signals(found, pieces, wanted, None, progress, max_length=study.data.max_length)
        table = tables[name]
        assert table is not None
        parts[name] = Part(pieces, table.labels, first, signals.arrays)
        first += len(pieces)
        forwards, seconds, stored = forwards + signals.forwards, seconds + signals.seconds, stored + signals.bytes
        notes += signals.notes
    if plan.live:
        asked = ", ".join(f"{need.signal} {need.layer}" for need in plan.live)
        notes.append(f"not cached, the teacher runs in the trials that ask for them: {asked}")
    pad = found.tokenizer.pad_token_id
    assets = Assets(
        task=study.task,
        labels=rows.labels,
        info=found.info,
        max_length=study.data.max_length,
        pad=0 if pad is None else pad,
        train=parts["train"],
        validation=parts["validation"],
        unlabelled=parts.get("unlabelled"),
        teacher_config=found.model.config.to_json_string(use_diff=False),
        teacher_weights={name: tensor.numpy() for name, tensor in found.model.state_dict().items()},
        teacher_fingerprint=found.fingerprint,
        tokenizer=found.tokenizer_files,
        plugins=known.plugins.shipped(),
    )
    return Prepared(known, found, assets, _manifest(known, found, stored), forwards, seconds, tuple(notes))


def _manifest(known: Known, found: Teacher, cached_bytes: int) -> dict[str, Any]:
    study, rows = known.config, known.data
    return {
        "name": study.name,
        "objectives": list(study.search.objectives),
        "seed": study.seed,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in _VERSIONS}},
        "plugins": known.plugins.describe(),
        "data": {
            "fingerprint": rows.fingerprint,
            "split": rows.split_fingerprint,
            "rows": {
                "train": len(rows.train.texts),
                "validation": len(rows.validation.texts),
                "test": rows.test_rows,
                "unlabelled": 0 if rows.unlabelled is None else len(rows.unlabelled.texts),
            },
            "carved": list(rows.carved),
            "dropped": dict(rows.dropped),
            "labels": list(rows.labels),
        },
        "teacher": {
            "source": found.source,
            "fingerprint": found.fingerprint,
            "tokenizer": found.tokenizer_hash,
            "tuned": found.tuned,
            "params": sum(parameter.numel() for parameter in found.model.parameters()),
            "bytes": cost.safetensors_bytes(found.model.state_dict()),
            "flops": cost.counted_flops(Encoder(found.model), found.model, study.data.max_length),
            "validation": found.validation,
            "baseline": found.baseline,
            "test": None,
        },
        "cache": {"bytes": cached_bytes},
    }
