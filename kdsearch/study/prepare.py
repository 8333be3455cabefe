"""From a study file to all that its trials need: plugins, data, space, teacher, signals. Cheap mistakes are found first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from kdsearch.api import LOGITS, ModelInfo, Need, TeacherRole
from kdsearch.config.schema import StudyConfig
from kdsearch.data import splits, vocabulary
from kdsearch.data.augment import augment, refuse_unspaced
from kdsearch.data.survey import survey
from kdsearch.data.tokens import Table, Tokens, joined, tokenise
from kdsearch.data.vocabulary import Vocabulary
from kdsearch.errors import InputError
from kdsearch.io.progress import Progress
from kdsearch.registry import registry
from kdsearch.registry.registry import Plugins
from kdsearch.space import cost
from kdsearch.space.candidates import Candidate
from kdsearch.space.explore import explore
from kdsearch.student.assets import Assets, Part, Several
from kdsearch.study.manifest import manifest
from kdsearch.study.prepared import Known, Prepared
from kdsearch.teacher import ensemble, resolve, signal_cache
from kdsearch.teacher.resolve import Teacher
from kdsearch.teacher.signal_cache import Stored
from kdsearch.teacher.trainable_copy import split_state


def inspect(study: StudyConfig) -> Known:
    """Check everything that needs no computing.

    Raises:
        InputError: the data, the teacher's files, a plugin or a hyperparameter is wrong.
        EnvironmentProblem: an extra is not installed.
    """
    loaded = registry.load(study.space.families, study.space.strategies, study.plugins)
    _refuse_without_several(study, loaded)
    rows = splits.load(study)
    if study.data.augment:
        refuse_unspaced(rows.train)
    plan = resolve.inspect(study, rows)
    length = study.data.max_length
    tables = {"train": rows.train}
    if rows.unlabelled is not None:
        tables["unlabelled"] = rows.unlabelled
    train_set = {name: tokenise(table, plan.tokenizer, length) for name, table in tables.items()}
    others = ensemble.inspect(study, rows, tables)
    subwords, minimum = vocabulary.order(plan.tokenizer, list(train_set.values()))
    info = replace(plan.info, vocabularies=vocabulary.sizes(subwords, minimum), teachers=len(study.teachers))
    explored = explore(study, loaded, info, price=lambda family: cost.price(family, info, length))
    validation = tokenise(rows.validation, plan.tokenizer, length)
    like = survey(rows, plan.tokenizer, train_set["train"], length)
    return Known(study, loaded, rows, like, plan, tables, train_set, validation, subwords, info, explored, others)


def _refuse_without_several(study: StudyConfig, loaded: Plugins) -> None:
    for name in study.space.strategies:
        if loaded.strategies[name].each_teacher and len(study.teachers) == 1:
            raise InputError(
                f"space.strategies: {name!r} learns from each of several teachers, and this study has one: leave it out, or give more, "
                "as in teacher: [{preset: minilm}, {model: PATH_OR_HUB_ID}]"
            )


def frozen_needs(candidates: Iterable[Candidate], teacher: ModelInfo) -> list[Need]:
    """The signals of a frozen teacher that strategies declare, the most often asked for first."""
    asked: Counter[Need] = Counter()
    for candidate in candidates:
        if candidate.strategy.teacher is TeacherRole.FROZEN:
            asked.update(candidate.strategy.teacher_needs(teacher, candidate.info))
    return [need for need, _ in asked.most_common()]


def joint_needs(candidates: Iterable[Candidate], teacher: ModelInfo) -> list[Need]:
    """The states below the layers that joint training tunes, the most often asked for first. They are read of rows with a label alone."""
    joint = [each.strategy for each in candidates if each.strategy.teacher is TeacherRole.JOINT]
    asked = Counter(split_state(teacher.layers, strategy.teacher_tuning()) for strategy in joint)
    return [need for need, _ in asked.most_common()]


def planned(known: Known, parts: Mapping[str, Tokens]) -> tuple[signal_cache.CachePlan, signal_cache.CachePlan]:
    """What the cache's budget is spent on: first what frozen strategies need of all parts, then what joint training needs of the training rows.

    parts: by name, as `Known.train_set`.
    """
    most, candidates = known.config.cache.max_bytes, known.exploration.candidates
    whole = signal_cache.plan(frozen_needs(candidates, known.info), list(parts.values()), known.info, most)
    logits = signal_cache.bytes_needed([], parts["train"], known.info)
    states = [need for need in joint_needs(candidates, known.info) if need not in whole.cached]
    return whole, signal_cache.plan(states, [parts["train"]], known.info, None if most is None else most - whole.bytes + logits)


def scored_needs(known: Known) -> list[Need]:
    """The signals of the validation rows, which are scored and never trained on: logits, and the states from which joint training's copy of the
    teacher can be scored by its tuned layers alone, where the cache has room for them of the training rows too."""
    whole, labelled = planned(known, known.train_set)
    states = joint_needs(known.exploration.candidates, known.info)
    return [LOGITS, *(need for need in states if need in {*whole.cached, *labelled.cached})]


def prepare(known: Known, progress: Progress | None = None) -> Prepared:
    """Get every teacher past the gate, run it where the cache lacks its signals, and put the assets together.

    Raises:
        InputError: the gate refuses a teacher.
        EnvironmentProblem: the cache cannot be written.
    """
    study, rows = known.config, known.data
    judged = scored_needs(known)
    teachers = ensemble.resolve_all(study, rows, [known.plan, *(other.plan for other in known.others)], progress, needs=judged)
    found, main = teachers[0], ensemble.numbered(progress, 0, len(teachers))
    length = study.data.max_length
    tables, texts = dict(known.tables), dict(known.train_set)
    if study.data.augment:
        words = found.model.get_input_embeddings().weight
        tables["augmented"] = augment(
            rows.train, study.data.augment, found.tokenizer, words, study.data.split_seed, rows.judged, study.task
        )
        texts["augmented"] = tokenise(tables["augmented"], found.tokenizer, length)
    whole, labelled = planned(known, texts)
    needs = {name: whole.cached + labelled.cached[1:] if name == "train" else whole.cached for name in texts}  # [0]: the logits
    train_set = {
        name: signal_cache.signals(found, tokens, needs[name], main, max_length=length, fast=True) for name, tokens in texts.items()
    }
    scored = signal_cache.signals(found, known.validation, judged, main, max_length=length)
    notes = [note for one in teachers for note in one.notes]
    if (made := len(texts.get("augmented", ()))) < (asked_for := study.data.augment * len(rows.train)) / 2:
        notes.append(f"data.augment made {made:,} of {asked_for:,} variants: short texts, and words without neighbours, vary little")
    if live := whole.live + labelled.live:
        asked = ", ".join(f"{need.signal} {need.layer}" for need in live)
        notes.append(f"not cached, the teacher runs in the trials that ask for them: {asked}")
    passes = [*train_set.values(), scored]
    parts = [Part(tokens, tables[name].labels, train_set[name].arrays) for name, tokens in texts.items()]
    assets = Assets(
        task=study.task,
        quality=study.search.objectives[0],
        labels=rows.labels,
        info=replace(found.info, vocabularies=known.info.vocabularies, teachers=len(teachers)),
        max_length=length,
        pad=found.tokenizer.pad_token_id or 0,
        train_set=_joined(parts),
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
    if known.others:
        assets, others, advice = _with_others(assets, known, teachers, tables, progress)
        passes += others
        notes += advice
    for each in passes:
        notes += each.notes
    forwards = sum(one.forwards for one in teachers) + sum(each.forwards for each in passes)
    seconds = sum(one.seconds for one in teachers) + sum(each.seconds for each in passes)
    stored = sum(each.bytes for each in passes)
    return Prepared(known, teachers, assets, manifest(known, teachers, assets, stored), forwards, seconds, tuple(notes))


def _with_others(
    assets: Assets, known: Known, teachers: tuple[Teacher, ...], tables: Mapping[str, Table], progress: Progress | None
) -> tuple[Assets, list[Stored], list[str]]:
    """Replace the main teacher's logits by the mean of all teachers.

    Returns:
        the assets; the other teachers' signals, part by part; and notes for the user.
    """
    study, length = known.config, known.config.data.max_length
    train_set, validation = [assets.train_set.signals[LOGITS]], [assets.validation.signals[LOGITS]]
    passes = []
    for index, (one, other) in enumerate(zip(teachers[1:], known.others, strict=True), start=1):
        texts = list(other.train_set.values())
        if "augmented" in tables:
            spelt = ensemble.respelt(tables["augmented"], teachers[0].tokenizer, one.tokenizer)
            texts.append(tokenise(spelt, one.tokenizer, length))
        own = ensemble.numbered(progress, index, len(teachers))
        made = [signal_cache.signals(one, tokens, [LOGITS], own, max_length=length, fast=True) for tokens in texts]
        made.append(signal_cache.signals(one, other.validation, [LOGITS], own, max_length=length))
        passes += made
        *of_train_set, of_validation = (each.logits for each in made)
        train_set.append(np.concatenate(of_train_set))
        validation.append(of_validation)
    asked = any(known.plugins.strategies[name].each_teacher for name in study.space.strategies)
    several = Several(np.stack(train_set) if asked else None, np.stack(validation))
    keys = [known.plan.key, *(other.plan.key for other in known.others)]
    advice = ensemble.advice(several.validation, assets.validation.labels, study.task, study.search.objectives[0], keys)
    found = replace(
        assets,
        train_set=_with_logits(assets.train_set, train_set, study.task),
        validation=_with_logits(assets.validation, validation, study.task),
        several=several,
    )
    return found, passes, [] if advice is None else [advice]


def _with_logits(part: Part, logits: list[np.ndarray], task: str) -> Part:
    """A part with the mean of several teachers' logits, (N, C) each."""
    return replace(part, signals={**part.signals, LOGITS: ensemble.mean(logits, task)})


def _joined(parts: list[Part]) -> Part:
    """Parts end to end, the labelled rows first. Signals that only those have are kept unchanged, so that their columns stay on disk."""
    if len(parts) == 1:
        return parts[0]
    first, *others = parts
    signals = {
        need: np.concatenate([values, *(part.signals[need] for part in others)]) if all(need in part.signals for part in others) else values
        for need, values in first.signals.items()
    }
    return Part(joined([part.tokens for part in parts]), np.concatenate([part.labels for part in parts]), signals)


def _vocabularies(known: Known, found: Teacher, tables: Mapping[str, Table]) -> dict[int, Vocabulary]:
    """The pruned vocabularies that candidates have, with the study's texts in each."""
    asked = known.exploration.vocabularies & set(known.info.vocabularies)
    if len(asked) > 1:  # the size is searched, and the search may propose one that few draws have
        asked = frozenset(known.info.vocabularies)
    length = known.config.data.max_length
    made = {}
    for size in sorted(asked):
        subwords = vocabulary.numbered(found.tokenizer_files, known.subwords[:size])
        files = vocabulary.pruned_files(found.tokenizer_files, subwords)
        tokenizer = vocabulary.load(files, found.tokenizer)
        train_set = joined([tokenise(table, tokenizer, length) for table in tables.values()])
        validation = tokenise(known.data.validation, tokenizer, length)
        made[size] = Vocabulary(subwords, files, tokenizer.pad_token_id or 0, train_set, validation)
    return made
