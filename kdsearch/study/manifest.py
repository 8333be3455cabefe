"""manifest.json: versions, plugins, fingerprints of data, split and teacher, and the teacher's own figures."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import numpy as np

from kdsearch import tasks
from kdsearch.api import LOGITS
from kdsearch.io import files
from kdsearch.space import cost
from kdsearch.student.assets import Assets
from kdsearch.study.prepared import Known
from kdsearch.teacher.encoder import Encoder
from kdsearch.teacher.resolve import Teacher

VERSIONS = ("kdsearch", "torch", "transformers", "ray", "optuna", "numpy")


def _facts(found: Teacher, max_length: int) -> dict[str, Any]:
    """The manifest's record of a teacher."""
    return {
        "source": found.source,
        "fingerprint": found.fingerprint,
        "tokenizer": found.tokenizer_hash,
        "tuned": found.tuned,
        "params": sum(parameter.numel() for parameter in found.model.parameters()),
        "bytes": cost.safetensors_bytes(found.model.state_dict()),
        "flops": cost.counted_flops(Encoder(found.model), found.model, max_length),
        "validation": found.validation,
        "baseline": found.baseline,
    }


def _as_one(facts: list[dict[str, Any]], validation: dict[str, float]) -> dict[str, Any]:
    """The mean of several teachers as one teacher, with the sizes of all of them. validation: the mean's scores there."""
    return {
        **facts[0],
        "source": f"the mean of {', '.join(each['source'] for each in facts)}",
        "fingerprint": files.digest(*(each["fingerprint"] for each in facts)),
        "tuned": any(each["tuned"] for each in facts),
        **{size: sum(each[size] for each in facts) for size in ("params", "bytes", "flops")},
        "validation": validation,
    }


def manifest(known: Known, teachers: tuple[Teacher, ...], prepared: Assets, cached_bytes: int) -> dict[str, Any]:
    """manifest.json: what the study is made from.

    cached_bytes: what the teachers' signals take on disk.
    """
    study, rows = known.config, known.data
    facts = [_facts(one, study.data.max_length) for one in teachers]
    whole, several = facts[0], {}
    if len(facts) > 1:
        mean = tasks.of(study.task).scores(np.asarray(prepared.validation.signals[LOGITS]), prepared.validation.labels)
        whole, several = _as_one(facts, mean), {"teachers": facts}
    return {
        "name": study.name,
        "objectives": list(study.search.objectives),
        "seed": study.seed,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}},
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
            "bad_rows": dict(rows.bad_rows),
            "labels": list(rows.labels),
        },
        "teacher": {**whole, "test": None},
        **several,
        "cache": {"bytes": cached_bytes},
    }
