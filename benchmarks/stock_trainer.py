"""The same trial against the stock Trainer with a distillation loss, the teacher running at every step, batches grouped by length.

The recipe that people copy. Pairs are run in turn; the figure is the median of the pairs' ratios. Target: 4 times faster.
"""

from __future__ import annotations

import tempfile
from statistics import median
from typing import Any

import torch
import world
from datasets import Dataset
from torch.nn import functional as F
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast, Trainer, TrainingArguments

from kdsearch import prepare, trial
from kdsearch.trial import _Trial

PAIRS = 3
SHARE = 0.25  # of an epoch


class Distilling(Trainer):
    """alpha * T^2 KL + (1 - alpha) * CE, as it is written everywhere."""

    def __init__(self, *arguments: Any, teacher: torch.nn.Module, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.teacher = teacher.eval()

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        output = model(**inputs)
        with torch.no_grad():
            said = self.teacher(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        heat = world.LOGIT["temperature"]
        soft = F.kl_div(F.log_softmax(output.logits / heat, -1), F.softmax(said / heat, -1), reduction="batchmean") * heat**2
        loss = 0.7 * soft + 0.3 * F.cross_entropy(output.logits, inputs["labels"])
        return (loss, output) if return_outputs else loss


def stock(known: prepare.Known, spec: trial.TrialSpec) -> float:
    """Seconds of `Trainer.train`."""
    assets = world.prepared().assets
    own = _Trial(spec, assets, torch.device("cpu"))
    if own.table is not None:
        own.table.restore()
    tokens = assets.learnt.tokens
    rows = [tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist() for row in range(len(tokens))]
    data = Dataset.from_dict({"input_ids": rows, "labels": assets.learnt.labels.tolist(), "length": tokens.lengths.tolist()})
    tokenizer = known.plan.tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    steps = round(len(rows) / own.recipe.batch_size * spec.epochs)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=own.recipe.batch_size,
            learning_rate=5e-4,
            train_sampling_strategy="group_by_length",
            use_cpu=True,
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
        return world.seconds(trainer.train)


def run() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    assets = world.prepared().assets
    known = world.prepared().known
    spec = world.spec("transformer", epochs=SHARE)
    trial.run(spec, assets)
    pairs = [(trial.run(spec, assets).seconds["training"], stock(known, spec)) for _ in range(PAIRS)]
    ratio = median(other / one for one, other in pairs)
    return [{"times_faster": round(ratio, 2), "trial_s": median(p[0] for p in pairs), "trainer_s": median(p[1] for p in pairs)}]
