"""`search --dry-run`: what a study would try and what it would cost, before anything is paid for."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForSequenceClassification

from kdsearch.api import LOGITS, Batch, Family, ModelInfo, TeacherRole
from kdsearch.config.schema import StudyConfig
from kdsearch.data.tokens import Tokens
from kdsearch.io.text import clock
from kdsearch.space.candidates import Candidate
from kdsearch.study import prepare
from kdsearch.study.prepared import Known
from kdsearch.teacher import signal_cache
from kdsearch.teacher.encoder import Encoder
from kdsearch.teacher.resolve import Plan
from kdsearch.training.loop import Recipe, Rows, groups, mixed, steps_per_epoch

SAMPLES = 6  # students that are really built and stepped, spread over the sizes
STEPS = 2
WIDTH = 240  # characters where there is no terminal: one hyperparameter a line


@dataclass(frozen=True)
class Estimate:
    """Seconds, from a few real steps on this machine, one thread a trial."""

    teacher: float  # fine-tuning and the pass over all texts, if nothing of it is cached; of all teachers
    trial: float  # the mean trial over its full budget
    search: float  # all trials, as many at once as this machine can run


def show(study: StudyConfig, console: Console) -> None:
    """Print the whole plan of a study. Trains nothing, writes nothing."""
    known = prepare.inspect(study)
    found = known.exploration
    knobs = _table("knobs", "knob", "range", "drawn when")
    for line in found.knobs:
        knobs.add_row(line.name, line.values, line.when)
    pairs = _table("families", "family", "strategies that fit", "that do not")
    for family in study.space.families:
        own = [pair for pair in found.pairs if pair.family == family]
        refused = [f"{pair.strategy} ({pair.why})" for pair in own if not pair.fits]
        pairs.add_row(family, ", ".join(pair.strategy for pair in own if pair.fits), ", ".join(refused))
    limits = ", ".join(f"{name} <= {limit:,}" for name, limit in study.search.limits.items()) or "none"
    rows = known.data
    train, validation = known.train_set["train"], known.validation
    # augmented text is about as long as what it is made of
    parts = {**known.train_set, **{f"augmented {index}": train for index in range(study.data.augment)}}
    whole, labelled = prepare.planned(known, parts)
    states = signal_cache.bytes_needed(labelled.cached, train, known.info) - signal_cache.bytes_needed([], train, known.info)
    stored = whole.bytes + states + signal_cache.bytes_needed(prepare.scored_needs(known), validation, known.plan.info)
    cached, live = len({*whole.cached, *labelled.cached}), len(whole.live + labelled.live)
    for other in known.others:
        theirs = [*other.train_set.values(), *[other.train_set["train"]] * study.data.augment, other.validation]
        stored += signal_cache.bytes_needed([LOGITS], theirs, other.plan.info)
    guess = estimate(known, train, list(parts.values()))
    facts = _table(f"study {study.name}", "", "")
    facts.add_row("rows", f"{len(train):,} train, {len(validation):,} validation, {rows.test_rows:,} test (sealed)")
    if "unlabelled" in known.train_set:
        facts.add_row("unlabelled", f"{len(known.train_set['unlabelled']):,}")
    for what, how in known.survey.lines:
        facts.add_row(what, how)
    facts.add_row("students", f"{found.smallest:,} to {found.largest:,} params")
    facts.add_row("limits", f"{limits}; {found.over_limit:.0%} of random proposals are over one")
    facts.add_row("cache", f"{stored:,} bytes for {cached} signals" + (f"; {live} run live in the trials" if live else ""))
    if known.others:
        facts.add_row(
            "teachers", f"{1 + len(known.others)}: students learn from the mean of their predictions, and start from the first one"
        )
    facts.add_row("teacher", f"about {clock(guess.teacher)}, nothing when it is in the cache")
    facts.add_row("a trial", f"about {clock(guess.trial)}")
    uncut, most = f"about {clock(guess.search)} for {study.search.trials:,} trials, without early stopping", study.search.minutes
    cut = most is not None and 60 * most < guess.search
    facts.add_row("the search", f"{clock(60 * (most or 0))}, as search.minutes says; {uncut}" if cut else uncut)
    if not console.is_terminal:
        console.width = max(WIDTH, console.width)
    for table in (knobs, pairs, facts):
        console.print(table)
        console.print()
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    console.print(
        "Time is estimated from a few steps on this machine as it is now; nothing was trained or written.", highlight=False, soft_wrap=True
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns), header_style="bold", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name)
    return table


def estimate(known: Known, train: Tokens, parts: list[Tokens]) -> Estimate:
    """Time a few training steps of students over the range of sizes, and of the teacher, with random weights."""
    study = known.config
    info = known.plan.info
    recipe = Recipe(lr=1e-4, epochs=study.search.epochs)
    threads = torch.get_num_threads()
    torch.set_num_threads(study.search.resources.cpu)
    try:
        rng = np.random.default_rng(0)
        labels = np.zeros_like(known.data.train.labels)
        rows = Rows(train, labels, pad=0, device=torch.device("cpu"))
        batch = rows.batch(rng.choice(len(train), min(recipe.batch_size, len(train)), replace=False))
        with torch.random.fork_rng(devices=[]):
            forward = _teacher_step(known.plan, batch)
            spent = _teacher_seconds(known.plan, parts, forward, recipe.batch_size)
            for other in known.others:
                own = [*other.train_set.values(), *[other.train_set["train"]] * study.data.augment]
                theirs = Rows(own[0], labels, pad=0, device=torch.device("cpu")).batch(batch.example.numpy())
                spent += _teacher_seconds(other.plan, own, _teacher_step(other.plan, theirs), recipe.batch_size)
            by_size = sorted(known.exploration.candidates, key=lambda each: each.params)
            chosen = [by_size[round(at)] for at in np.linspace(0, len(by_size) - 1, min(SAMPLES, len(by_size)))]
            seconds = []
            for candidate in chosen:
                step = _student_step(candidate.family, info, batch)
                if candidate.strategy.teacher is TeacherRole.JOINT:
                    step += 1.3 * forward
                seconds.append(
                    step
                    * steps_per_epoch(_rows(candidate, known), candidate.spec.training.get("batch_size", recipe.batch_size))
                    * study.search.epochs
                )
            trial = float(np.mean(seconds))
    finally:
        torch.set_num_threads(threads)
    cores = len(os.sched_getaffinity(0))
    workers = max(1, cores // study.search.resources.cpu)
    speed_up = cores / study.search.resources.cpu  # the teacher has all cores
    return Estimate(spent / speed_up, trial, trial * -(-study.search.trials // workers))


def _teacher_step(plan: Plan, batch: Batch) -> float:
    """Seconds of a teacher's pass over a batch, with random weights."""
    config = copy.deepcopy(plan.checkpoint.config)  # transformers writes into the configuration that it builds from
    config.num_labels = plan.info.labels
    teacher = Encoder(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)).eval()
    return _seconds(lambda: _forward(teacher, batch))


def _teacher_seconds(plan: Plan, parts: list[Tokens], step: float, batch_size: int) -> float:
    """Of fine-tuning a teacher and of its pass over all texts. parts: the training rows first."""
    passes = sum(steps_per_epoch(len(part), batch_size) for part in parts)
    tuned = 0.0 if plan.tuning is None else 3.0 * steps_per_epoch(len(parts[0]), batch_size) * plan.tuning.epochs
    return step * (tuned + passes)


def _rows(candidate: Candidate, known: Known) -> int:
    """That one epoch of a candidate goes through."""
    train, training = len(known.train_set["train"]), candidate.spec.training
    unlabelled, augmented = len(known.train_set.get("unlabelled", ())), train * known.config.data.augment
    return round(train + training.get("unlabelled", 0.0) * unlabelled + training.get("augmented", 0.0) * augmented)


def _forward(model: nn.Module, batch: Batch) -> None:
    with torch.inference_mode(), mixed(torch.device("cpu")):
        model(batch, (LOGITS,))


def _student_step(family: Family, info: ModelInfo, batch: Batch) -> float:
    """Seconds of a training step of a student, with random weights."""
    student = family.build(info)
    batch = replace(batch, ids=batch.ids % family.info(info).vocab)  # any subwords that a pruned vocabulary has: the time is the same
    optimiser = torch.optim.AdamW(groups(student, 1e-4, 0.01), fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with mixed(torch.device("cpu"), family.bfloat16):
            loss = batch.hard_loss(student(batch, (LOGITS,)).logits)
        loss.backward()
        optimiser.step()

    return _seconds(step)


def _seconds(work: Callable[[], None]) -> float:
    """Of one call, the first one left out."""
    work()
    begun = time.perf_counter()
    for _ in range(STEPS):
        work()
    return (time.perf_counter() - begun) / STEPS
