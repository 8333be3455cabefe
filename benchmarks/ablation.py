"""What each choice is worth: one thing of a reference student changed, on two data sets, three seeds, each row against its own reference.

R: transformer, 2 layers, 128 wide, 8,000 pieces, started from the teacher's embeddings; 3 epochs of the teacher's logits, T 2, alpha 0.7,
lr 5e-4, no unlabelled text. L: linear mlp, 8,000 pieces and 14,700 bigrams; 5 epochs, T 2, alpha 0.9, lr 3e-4. `R, text` and `L` are in a study
that has unlabelled text: they do not train on it, but their pieces are counted there, and L's bigrams are chosen there. Strategies with token states
run with the teacher's own vocabulary, beside R with that one. A strategy's knobs are at the middle of their ranges: its row says what it gives
untuned. Seconds are the trial's: the teacher's pass over the texts is paid once and not in them.

A cell is a mean difference over the seeds in points of accuracy, with its standard error over rows: of each row's mean difference over seeds
(right or not), sd / sqrt(rows). Test rows are answered once by each student, and nothing is chosen by them.

Resumable: what stands in results/ablation.jsonl is not run again; each run's right and wrong answers lie in results/ablation/. Environment:
SEEDS=0,1,2 (empty: the table alone), SETS=rotten,rated, VARIANTS=start (names that begin so, and their references), WORKERS=2 (processes of one
thread each).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import runs
import second
import world
from runs import Bench

from kdsearch.config.schema import StudyConfig
from kdsearch.registry import registry
from kdsearch.space.knobs import CornerDraw, Knobs
from kdsearch.space.spec import TrialSpec

PIECES, BIGRAMS = 8000, 14_700
R = world.STUDENTS["transformer"] | {"vocabulary": PIECES, "embedding_rank": None}
TEXT = 20_000  # unlabelled sentences
LOGITS = ("hard", "logit")
# The study offers what the variants take, and no more: so that the teacher's token states are kept for these layers alone.
KNOBS = {
    "transformer.layers": R["layers"],
    "transformer.hidden": R["hidden"],
    "feature.layer_map": "uniform",
    "two_stage.layer_map": "uniform",
    "relations.below": 1,
    "joint.teacher_layers": 1,
}
LEFT_OUT = (*LOGITS, "dkd", "several")  # the control and the reference itself; one for three classes or more, one for several teachers
STRATEGIES = tuple(
    each.name
    for each in registry.available()
    if each.kind == "strategy" and each.origin.endswith("(built in)") and each.name not in LEFT_OUT
)
OF_TOKENS = ("attention", "relations")
POOLED = ("feature", "two_stage")  # whose states are also learnt from unlabelled text


@dataclass(frozen=True)
class Variant:
    """One change of a reference."""

    reference: str  # the variant that it is compared with; a reference: itself
    where: str = "alone"  # a study of the training rows alone, or of `text` beside them (unlabelled, augmented)
    linear: bool = False
    shape: Mapping[str, Any] = field(default_factory=dict)  # changed fields of the family
    strategy: str = "logit"
    fields: Mapping[str, Any] = field(default_factory=dict)  # changed fields of `logit`; for other strategies, fixed knobs
    training: Mapping[str, Any] = field(default_factory=dict)
    as_long: bool = False  # as many steps as with all of the unlabelled text

    def spec(self, bench: Bench, seed: int) -> TrialSpec:
        assets = bench.assets
        family = "mlp" if self.linear else "transformer"
        shape = {**(world.linear(PIECES, BIGRAMS) if self.linear else R), **self.shape}
        if shape["vocabulary"] == "all":
            shape["vocabulary"] = assets.info.vocabularies[-1]
        elif shape["vocabulary"] == "as many features":
            shape["vocabulary"] = min(assets.info.vocabularies, key=lambda size: abs(size - PIECES - BIGRAMS))
        epochs = 5.0 if self.linear else 3.0
        if self.as_long:
            epochs *= (assets.labelled + assets.unlabelled) / assets.labelled
        training = {"lr": 3e-4 if self.linear else 5e-4, **self.training}
        return TrialSpec(family, shape, self.strategy, self._fields(bench, family, shape), training, epochs * world.SMOKE, seed)

    def _fields(self, bench: Bench, family: str, shape: Mapping[str, Any]) -> dict[str, Any]:
        if self.strategy == "hard":
            return {}
        if self.strategy == "logit":
            return {**(world.SOFT if self.linear else world.LOGIT), **self.fields}
        loaded, teacher = bench.prepared.known.plugins, bench.assets.info
        fixed = {"temperature": world.LOGIT["temperature"], "alpha": world.LOGIT["alpha"], **KNOBS}
        fixed |= {f"{self.strategy}.{name}": value for name, value in self.fields.items()}
        space = Knobs(fixed).space(CornerDraw(0.5), self.strategy)
        return loaded.strategies[self.strategy].suggest(space, teacher, loaded.family(family, shape).info(teacher))


def variants() -> dict[str, Variant]:
    """By name, each reference before those that are compared with it."""
    found = {"R": Variant("R"), "hard": Variant("R", strategy="hard")}
    found |= {f"start {kind}": Variant("R", shape={"start": kind}) for kind in ("random", "first", "uniform", "last")}
    vocabularies = {"own": None, "all": "all", "4000": 4000, "2000": 2000}
    found |= {f"vocabulary {name}": Variant("R", shape={"vocabulary": size}) for name, size in vocabularies.items()}
    found |= {f"rank {rank}": Variant("R", shape={"embedding_rank": rank}) for rank in (64, 32)}
    found |= {f"strategy {name}": Variant("R", strategy=name) for name in STRATEGIES if name not in OF_TOKENS}
    # 0.1 is BERT's own dropout
    knobs = {"dropout": (0.0, 0.2), "label_smoothing": (0.1,), "weight_decay": (0.05,), "layer_decay": (0.85,), "patience": (0.25,)}
    found |= {f"{name} {value}": Variant("R", training={name: value}) for name, values in knobs.items() for value in values}
    own: dict[str, Any] = {"reference": "vocabulary own", "shape": {"vocabulary": None}}
    found |= {f"strategy {name}": Variant(strategy=name, **own) for name in STRATEGIES if name in OF_TOKENS}
    for name in ("feature", "two_stage"):
        found[f"strategy {name}, tokens"] = Variant(strategy=name, fields={"states": "tokens"}, **own)

    text: dict[str, Any] = {"reference": "R, text", "where": "text"}
    found["R, text"] = Variant(**text)
    found |= {f"text unlabelled {share}": Variant(training={"unlabelled": share}, **text) for share in (0.25, 1.0)}
    found["text augmented"] = Variant(training={"augmented": 1.0}, **text)
    found["text none, as many steps as with unlabelled 1.0"] = Variant(as_long=True, **text)
    more: dict[str, Any] = {"reference": "text unlabelled 1.0", "training": {"unlabelled": 1.0}}
    found |= {f"text unlabelled 1.0, {name}": Variant(where="text", strategy=name, **more) for name in POOLED}

    linear: dict[str, Any] = {"reference": "L", "where": "text", "linear": True}
    found["L"] = Variant(**linear)
    found["L in a study of the training rows alone"] = Variant("L", linear=True)
    found["L hard"] = Variant(strategy="hard", **linear)
    found["L mse_logits"] = Variant(fields={"form": "mse_logits", "temperature": None}, **linear)
    found["L augmented"] = Variant(training={"augmented": 1.0}, **linear)
    found["L unlabelled"] = Variant(training={"unlabelled": 1.0}, **linear)
    found["L none, as many steps as with unlabelled"] = Variant(as_long=True, **linear)
    bare = {"vocabulary": "as many features", "bigrams": 0}
    found["L unlabelled, no bigrams"] = Variant("L unlabelled", "text", True, bare, training={"unlabelled": 1.0})
    return found


VARIANTS = variants()
SETS = {"rotten": world.quickstart, "rated": second.study}


def study(name: str, where: str) -> StudyConfig:
    families, strategies, knobs = ["transformer", "mlp"], [*LOGITS], dict(KNOBS)
    if where == "text":
        sets = ["data.unlabelled=imdb", f"data.max_unlabelled={TEXT}", "data.augment=2"]
        strategies += POOLED
        knobs |= {f"{each}.states": "pooled" for each in POOLED}
    else:
        sets = ["cache.max_bytes=3GB"]
        strategies += STRATEGIES
    knobs = {knob: value for knob, value in knobs.items() if knob.split(".")[0] in (*families, *strategies)}
    space = {"families": families, "strategies": strategies, "knobs": knobs}
    sets += [f"space.{key}={json.dumps(value)}" for key, value in space.items()]
    return SETS[name](*sets)


@lru_cache(1)
def bench(name: str, where: str) -> Bench:
    return Bench(study(name, where))


Job = tuple[str, str, int]  # set, variant, seed


def work(job: Job) -> tuple[dict[str, Any], np.ndarray] | str:
    """The row to keep and what was right: (V + T,) bool, validation rows first. Or why there is none."""
    name, variant, seed = job
    here = bench(name, VARIANTS[variant].where)
    spec = VARIANTS[variant].spec(here, seed)
    try:
        run = here.run(spec)
    except runs.TrialFailed as problem:
        return str(problem)
    row = {"set": name, "variant": variant, "seed": seed, "spec": spec.hash, **here.row(run), "validation_rows": len(run.validation)}
    return row, np.concatenate([run.validation, run.test])


def _path(name: str, variant: str, seed: int) -> Any:
    return world.RESULTS / "ablation" / f"{name}-{variant.replace(', ', '-').replace(' ', '_')}-{seed}.npy"


def _jobs(done: set[Job]) -> list[Job]:
    """What is asked for and not done, study by study, since preparing one takes a while."""
    prefix = os.environ.get("VARIANTS", "")
    asked = [name for name in VARIANTS if name.startswith(prefix)]
    asked = [name for name in VARIANTS if name in asked or any(VARIANTS[each].reference == name for each in asked)]
    names = [name for name in os.environ.get("SETS", ",".join(SETS)).split(",") if name]
    if unknown := set(names) - SETS.keys():
        raise SystemExit(f"SETS: {', '.join(unknown)}: there is {', '.join(SETS)}")
    jobs = [
        (name, variant, seed)
        for name in names
        for where in ("alone", "text")
        for seed in world.numbers("SEEDS", "0,1,2")
        for variant in asked
        if VARIANTS[variant].where == where
    ]
    return [job for job in jobs if job not in done]


def run() -> list[dict[str, Any]]:
    rows = world.kept("ablation")
    jobs = _jobs({(row["set"], row["variant"], row["seed"]) for row in rows})
    for job, answer in runs.spread(work, jobs, world.numbers("WORKERS", "1")[0]):
        if isinstance(answer, str):
            print(f"{job}: {answer}")
            continue
        row, right = answer
        _path(*job).parent.mkdir(parents=True, exist_ok=True)
        np.save(_path(*job), right)
        world.keep("ablation", [row])
        rows.append(row)
    return summary(rows)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """References with their accuracies, the other variants with their differences; a teacher's line on top."""
    names = [name for name in SETS if any(row["set"] == name for row in rows)]
    order: dict[str, list[str]] = {}
    for variant in VARIANTS:
        order.setdefault(VARIANTS[variant].reference, []).append(variant)
    table = []
    for reference, group in order.items():
        for variant in [reference, *(name for name in group if name != reference)]:
            own = [row for row in rows if row["variant"] == variant]
            if not own:
                continue
            line: dict[str, Any] = {"reference": reference, "variant": "" if variant == reference else variant}
            line["params"] = ", ".join(f"{params:,}" for params in dict.fromkeys(row["params"] for row in own))
            for name in names:
                seeds = {row["seed"]: row for row in own if row["set"] == name}
                base = {row["seed"] for row in rows if (row["set"], row["variant"]) == (name, reference)}
                cells = _cells(name, variant, reference, seeds, base)
                line |= {f"{name} {key}": cell for key, cell in zip(("validation", "test", "seeds"), cells, strict=True)}
            line["seconds"] = float(np.median([row["seconds"] for row in own]))
            table.append(line)
    if table:
        teachers = {name: next(row for row in rows if row["set"] == name) for name in names}
        top: dict[str, Any] = dict.fromkeys(table[0], "") | {"reference": "the teacher"}
        for name, row in teachers.items():
            top |= {f"{name} {role}": f"{row[f'teacher_{role}']:.2%}" for role in ("validation", "test")}
        table.insert(0, top)
    return table


def _cells(name: str, variant: str, reference: str, own: Mapping[int, Mapping[str, Any]], base: set[int]) -> tuple[str, str, str]:
    """(validation, test, seeds) of a data set."""
    if variant == reference:
        both = [f"{np.mean([row[role] for row in own.values()]):.2%}" for role in ("validation", "test")] if own else ["", ""]
        return both[0], both[1], str(len(own))
    seeds = sorted(base & own.keys())
    if not seeds:
        return "", "", "0"
    right = {each: np.stack([np.load(_path(name, each, seed)) for seed in seeds]).mean(0) for each in (variant, reference)}
    gaps = 100 * (right[variant] - right[reference])
    after = own[seeds[0]]["validation_rows"]
    validation, test = (f"{part.mean():+.2f} ± {part.std(ddof=1) / len(part) ** 0.5:.2f}" for part in (gaps[:after], gaps[after:]))
    return validation, test, str(len(seeds))
