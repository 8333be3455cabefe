"""A trial against the stock Trainer with a distillation loss, the teacher running at every step, batches grouped by length.

That is the recipe that people copy: a transformer of 2 layers, 128 wide, from the teacher's embeddings. First row: the same student, training
alone; where the trial runs in bfloat16, which the Trainer does not by itself, a second row has the Trainer told to (`bf16=True`). Target: 4 times
faster. The other rows: three epochs of `Trainer.train` alone against the whole trial (made, trained, scored, packed) of a
linear student, which should be no less accurate. Target: 8 times faster. `teacher_once_s` is the price of the cached logits that the trial reads:
paid once for all searches on these texts, and in none of the trial's seconds. Pairs are run in turn, each with a seed of its own; figures are
medians.
"""

from __future__ import annotations

import tempfile
import time
from statistics import median
from typing import Any

import numpy as np
import torch
import world
from datasets import Dataset
from torch.nn import functional as F
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast, PrinterCallback, Trainer, TrainingArguments

from kdsearch.api import Need, Signal
from kdsearch.data.tokens import Tokens
from kdsearch.space.spec import TrialSpec
from kdsearch.student import trial
from kdsearch.student.build import Parts
from kdsearch.study.prepare import Prepared
from kdsearch.teacher import signal_cache
from kdsearch.training import predict
from kdsearch.training.loop import Rows, fast_bfloat16

PAIRS = 3
SHARE = 0.25  # of an epoch, in the first row
EPOCHS = 3.0  # of the Trainer, in the others
TEXT = ("data.unlabelled=imdb", "data.max_unlabelled=40000")
SAMPLE = 1000  # rows whose teacher pass is timed

Pair = tuple[float, float, float, float]  # the trial's seconds, its accuracy, the Trainer's seconds, its accuracy


class Distilling(Trainer):  # type: ignore[misc]  # transformers leaves it untyped
    """alpha * T^2 KL + (1 - alpha) * CE, as it is written everywhere."""

    def __init__(self, *arguments: Any, teacher: torch.nn.Module, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.teacher = teacher.eval()

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        output = model(**inputs)
        with torch.no_grad():
            said = self.teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        heat, alpha = world.LOGIT["temperature"], world.LOGIT["alpha"]
        soft = F.kl_div(F.log_softmax(output.logits / heat, -1), F.softmax(said / heat, -1), reduction="batchmean") * heat**2
        loss = alpha * soft + (1 - alpha) * F.cross_entropy(output.logits, inputs["labels"])
        return (loss, output) if return_outputs else loss


def stock(found: Prepared, spec: TrialSpec, *, bf16: bool = False) -> tuple[float, float]:
    """Seconds of `Trainer.train`, and the student's accuracy on validation."""
    assets = found.assets
    own = Parts(spec, assets, torch.device("cpu"))
    if own.table is not None:
        own.table.restore()
    tokens = assets.train_set.tokens
    rows = [tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist() for row in range(len(tokens))]
    data = Dataset.from_dict({"input_ids": rows, "labels": assets.train_set.labels.tolist(), "length": tokens.lengths.tolist()})
    tokenizer = found.known.plan.tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    steps = max(1, round(len(rows) / own.recipe.batch_size * spec.epochs))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=own.recipe.batch_size,
            learning_rate=5e-4,
            train_sampling_strategy="group_by_length",
            use_cpu=True,
            bf16=bf16,
            seed=spec.seed,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Distilling(
            own.family.stock(own.module),
            arguments,
            train_dataset=data,
            data_collator=DataCollatorWithPadding(tokenizer),
            teacher=assets.teacher(),
        )
        trainer.remove_callback(PrinterCallback)
        taken = world.seconds(trainer.train)
    validation = Rows(assets.validation.tokens, assets.validation.labels, pad=assets.pad, device=torch.device("cpu"))
    logits = predict.predict(own.module, validation)
    return taken, float((logits.argmax(-1) == assets.validation.labels).mean())


def teacher_pass(found: Prepared, rows: int) -> float:
    """Seconds of the teacher over the first `rows` texts that students learn from, worked out from a random sample of them."""
    tokens = found.assets.train_set.tokens
    chosen = np.random.default_rng(0).permutation(rows)[:SAMPLE]
    spans = [np.asarray(tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]) for row in chosen]
    sample = Tokens(np.concatenate(spans), np.cumsum([0, *map(len, spans)]), None)
    logits = np.empty((len(sample), len(found.assets.labels)), np.float32)
    begun = time.perf_counter()
    signal_cache.forward(found.teacher, sample, {Need(Signal.LOGITS): logits}, fast=True)
    return (time.perf_counter() - begun) * int(tokens.offsets[rows]) / len(sample.ids)


def _row(what: str, pairs: list[Pair], teacher_once: float) -> dict[str, Any]:
    trial_s, ours, trainer_s, theirs = (median(column) for column in zip(*pairs, strict=True))
    return {
        "trial": what,
        "times_faster": round(median(pair[2] / pair[0] for pair in pairs), 2),
        "trial_s": trial_s,
        "trainer_s": trainer_s,
        "trial_validation": ours,
        "trainer_validation": theirs,
        "teacher_once_s": round(teacher_once, 1),
    }


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    alone, text = world.prepared(), world.prepared(*TEXT)
    labelled, everything = alone.assets.labelled, len(text.assets.train_set.tokens)
    trial.run(world.spec("transformer", epochs=SHARE), alone.assets)  # warm
    once = teacher_pass(alone, labelled)
    same: list[Pair] = []
    same_precision: list[Pair] = []
    teacher_only: list[Pair] = []
    with_text: list[Pair] = []
    for seed in range(PAIRS):
        spec = world.spec("transformer", epochs=SHARE, seed=seed)
        ours = trial.run(spec, alone.assets)
        mine = ours.seconds["training"], ours.scores["accuracy"]
        same.append((*mine, *stock(alone, spec)))
        if fast_bfloat16(torch.device("cpu")):
            same_precision.append((*mine, *stock(alone, spec, bf16=True)))
    for seed in range(PAIRS):
        theirs = stock(alone, world.spec("transformer", epochs=EPOCHS, seed=seed))
        for pairs, found, fields, training in (
            (teacher_only, alone, world.SOFT, {"lr": 3e-4}),
            (with_text, text, world.HALF, {"lr": 1e-4, "unlabelled": 1.0}),
        ):
            linear = TrialSpec("mlp", world.linear(8000, 14_700), "logit", fields, training, 5 * world.SMOKE, seed)
            ours = trial.run(linear, found.assets)
            pairs.append((ours.seconds["total"], ours.scores["accuracy"], *theirs))
    return [
        _row("same student, training alone", same, once),
        *([_row("the same, the Trainer in bfloat16 too", same_precision, once)] if same_precision else []),
        _row("linear 22.7k, teacher, whole", teacher_only, once),
        _row("linear 22.7k, teacher and text, whole", with_text, teacher_pass(text, everything)),
    ]
