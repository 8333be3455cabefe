"""What `search --dry-run` says of a study before anything is paid for."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import worlds

from kdsearch.config import study_file
from kdsearch.study import dry_run, prepare


def test_an_estimate_leaves_what_is_known_as_it_is(tmp_path: Path) -> None:
    backbone = worlds.good_teacher(5).bert  # its config speaks of 5 labels, the data have 3
    backbone.half().save_pretrained(tmp_path / "backbone")
    worlds.tokenizer().save_pretrained(tmp_path / "backbone")
    lines, labels = worlds.texts(300)
    pd.DataFrame({"text": lines, "label": [("angry", "calm", "sad")[label] for label in labels]}).to_csv(tmp_path / "texts.csv")
    data = {"files": {"train": str(tmp_path / "texts.csv")}, "max_length": 16}
    known = prepare.inspect(study_file.from_mapping({"name": "dry", "data": data, "teacher": {"model": str(tmp_path / "backbone")}}))
    before = known.plan.checkpoint.config.to_dict()
    assert (known.plan.info.labels, len(before["id2label"])) == (3, 5)
    guess = dry_run.estimate(known, known.train_set["train"], [known.train_set["train"]])
    assert known.plan.checkpoint.config.to_dict() == before
    assert min(guess.teacher, guess.trial, guess.search) > 0
