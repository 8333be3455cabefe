"""From a study file to all that its trials need: plugins, data, space, teacher, signals. Cheap mistakes are found first."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np

from kdsearch import cache, cost, data, plugins, teacher, vocabulary
from kdsearch.api import Family, ModelInfo, Need, Signal, TeacherRole
from kdsearch.assets import Assets, Part
from kdsearch.augment import augment
from kdsearch.cache import Progress
from kdsearch.config import StudyConfig
from kdsearch.data import Data, Table, Tokens
from kdsearch.encoder import Encoder
from kdsearch.plugins import Plugins
from kdsearch.private_teacher import split_state
from kdsearch.searching.candidates import Candidate
from kdsearch.searching.explore import Exploration, explore
from kdsearch.teacher import Teacher
from kdsearch.vocabulary import Vocabulary

_VERSIONS = ("kdsearch", "torch", "transformers", "ray", "optuna", "numpy")


@dataclass(frozen=True)
class Known:
    """What files alone tell; nothing has been computed yet."""

    config: StudyConfig
    plugins: Plugins
    data: Data
    plan: teacher.Plan
    tables: dict[str, Table]  # what students learn from, by name: train, unlabelled, augmented
    learnt: dict[str, Tokens]  # the same in the teacher's pieces
    validation: Tokens
    pieces: np.ndarray  # the teacher's ids in the order in which pruned vocabularies keep them
    info: ModelInfo  # the teacher's, with the vocabularies that students may have
    exploration: Exploration

    def price(self, family: Family) -> cost.Cost:
        """Exact costs of a student; FLOPs of one text of data.max_length tokens."""
        return cost.price(family, self.info, self.config.data.max_length)


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
        tokens = [self.assets.learnt.tokens, self.assets.validation.tokens]
        for pruned in self.assets.vocabularies.values():
            tokens += [pruned.learnt, pruned.validation]
        total += sum(each.ids.nbytes + each.offsets.nbytes for each in tokens)
        return total + sum(column.nbytes for part in (self.assets.learnt, self.assets.validation) for column in part.signals.values())


def inspect(study: StudyConfig) -> Known:
    """Check everything that needs no computing.

    Raises:
        InputError: the data, the teacher's files, a plugin or a knob is wrong.
        EnvironmentProblem: an extra is not installed.
    """
    loaded = plugins.load(study.space.families, study.space.strategies, study.plugins)
    rows = data.load(study)
    plan = teacher.inspect(study, rows)
    length = study.data.max_length
    tables = {"train": rows.train}
    if rows.unlabelled is not None:
        tables["unlabelled"] = rows.unlabelled
    learnt = {name: data.tokenise(table, plan.tokenizer, length) for name, table in tables.items()}
    pieces, minimum = vocabulary.order(plan.tokenizer, list(learnt.values()))
    info = replace(plan.info, vocabularies=vocabulary.sizes(pieces, minimum))
    explored = explore(study, loaded, info, price=lambda family: cost.price(family, info, length))
    validation = data.tokenise(rows.validation, plan.tokenizer, length)
    return Known(study, loaded, rows, plan, tables, learnt, validation, pieces, info, explored)


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
    length = study.data.max_length
    tables, texts = dict(known.tables), dict(known.learnt)
    if study.data.augment:
        words = found.model.get_input_embeddings().weight
        tables["augmented"] = augment(rows.train, study.data.augment, found.tokenizer, words, study.data.split_seed)
        texts["augmented"] = data.tokenise(tables["augmented"], found.tokenizer, length)
    wanted = cache.plan(
        frozen_needs(known.exploration.candidates, found.info.layers), list(texts.values()), found.info, study.cache.max_bytes
    )
    learnt = {name: cache.signals(found, tokens, wanted.cached, None, progress, max_length=length) for name, tokens in texts.items()}
    # Validation is scored, never learnt from: its logits are all that is asked of the teacher there.
    scored = cache.signals(found, known.validation, [Need(Signal.LOGITS)], None, progress, max_length=length)
    notes = list(found.notes)
    if wanted.live:
        asked = ", ".join(f"{need.signal} {need.layer}" for need in wanted.live)
        notes.append(f"not cached, the teacher runs in the trials that ask for them: {asked}")
    passes = [*learnt.values(), scored]
    for each in passes:
        notes += each.notes
    parts = [Part(tokens, tables[name].labels, learnt[name].arrays) for name, tokens in texts.items()]
    assets = Assets(
        task=study.task,
        labels=rows.labels,
        info=replace(found.info, vocabularies=known.info.vocabularies),
        max_length=length,
        pad=found.tokenizer.pad_token_id or 0,
        learnt=_joined(parts),
        labelled=len(rows.train),
        unlabelled=len(texts.get("unlabelled", ())),
        augmented=len(texts.get("augmented", ())),
        validation=Part(known.validation, rows.validation.labels, scored.arrays),
        teacher_config=found.model.config.to_json_string(use_diff=False),
        teacher_weights={name: tensor.numpy() for name, tensor in found.model.state_dict().items()},
        teacher_fingerprint=found.fingerprint,
        tokenizer=found.tokenizer_files,
        vocabularies=_vocabularies(known, found, tables),
        plugins=known.plugins.shipped(),
    )
    forwards = found.forwards + sum(each.forwards for each in passes)
    seconds = found.seconds + sum(each.seconds for each in passes)
    stored = sum(each.bytes for each in passes)
    return Prepared(known, found, assets, _manifest(known, found, assets, stored), forwards, seconds, tuple(notes))


def _joined(parts: list[Part]) -> Part:
    """Parts end to end; a single one as it is, so that its columns stay on the disk."""
    if len(parts) == 1:
        return parts[0]
    signals = {need: np.concatenate([part.signals[need] for part in parts]) for need in parts[0].signals}
    return Part(data.joined([part.tokens for part in parts]), np.concatenate([part.labels for part in parts]), signals)


def _vocabularies(known: Known, found: Teacher, tables: Mapping[str, Table]) -> dict[int, Vocabulary]:
    """The pruned vocabularies that candidates have, with the study's texts in each."""
    asked = {candidate.family.info(known.info).vocab for candidate in known.exploration.candidates} & set(known.info.vocabularies)
    if len(asked) > 1:  # the knob is free: the search may ask for a size that few draws have
        asked = set(known.info.vocabularies)
    length = known.config.data.max_length
    made = {}
    for size in sorted(asked):
        pieces = known.pieces[:size]
        files = vocabulary.pruned_files(found.tokenizer_files, pieces)
        tokenizer = vocabulary.load(files, found.tokenizer)
        learnt = data.joined([data.tokenise(table, tokenizer, length) for table in tables.values()])
        validation = data.tokenise(known.data.validation, tokenizer, length)
        made[size] = Vocabulary(pieces, files, tokenizer.pad_token_id or 0, learnt, validation)
    return made


def _manifest(known: Known, found: Teacher, prepared: Assets, cached_bytes: int) -> dict[str, Any]:
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
                "unlabelled": prepared.unlabelled,
                "augmented": prepared.augmented,
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
