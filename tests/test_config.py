"""A study file is read whole or refused with every problem named by file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdsearch.config import schema, study_file, yamlfile
from kdsearch.errors import InputError

BASE = """\
name: q
data:
  preset: rotten_tomatoes
teacher:
  preset: minilm
"""


def read(folder: Path, text: str, *sets: str) -> schema.StudyConfig:
    path = folder / "study.yaml"
    path.write_text(text)
    return study_file.load(path, sets)


def complaint(folder: Path, text: str, *sets: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(folder, text, *sets)
    return str(caught.value).replace(f"{folder}/", "").split("\n")


def test_defaults_are_those_of_the_study_file_s_documentation(tmp_path: Path) -> None:
    assert study_file.resolved(read(tmp_path, BASE)) == {
        "name": "q",
        "seed": 0,
        "task": "classification",
        "data": {
            "preset": "rotten_tomatoes",
            "hub": None,
            "files": None,
            "text": "text",
            "text_pair": None,
            "label": "label",
            "bad_rows": "refuse",
            "unlabelled": None,
            "max_unlabelled": None,
            "augment": 0,
            "split_seed": 0,
            "max_length": 64,
            "max_train": None,
        },
        "teacher": {"model": None, "preset": "minilm", "finetune": "auto", "labels": None},
        "space": {"families": ["transformer"], "strategies": ["hard", "logit", "feature", "joint"], "knobs": {}},
        "search": {
            "trials": 40,
            "minutes": None,
            "objectives": ["accuracy", "params"],
            "limits": {},
            "sampler": "auto",
            "early_stopping": True,
            "epochs": 3,
            "resources": {"cpu": 1, "gpu": 0.0},
            "trial_timeout": 1800.0,
        },
        "confirm": {"seeds": 3, "top": 5},
        "cache": {"max_bytes": 2_000_000_000},
        "plugins": [],
    }


FULL = """\
name: full-1.0
seed: 7
task: regression
data:
  files: {train: a.csv, validation: b.csv}
  text: premise
  text_pair: hypothesis
  label: score
  max_train: 100
teacher:
  model: some/model
  finetune: {epochs: 2, lr: 5e-5}
space:
  families: [transformer]
  strategies: [hard]
  knobs:
    transformer.layers: {min: 1, max: 4}
    lr: {min: 5e-5, max: 1e-3}
    logit.form: {choices: [kl, soft_ce]}
    temperature: 4
search:
  minutes: 1.5
  limits: {params: 10M, bytes: 4MB, flops: 500k}
  resources: {cpu: 2, gpu: 0.5}
  trial_timeout: 90s
confirm: {seeds: 5}
cache: {max_bytes: 1.5GB}
plugins: [mine.py, a_module]
"""


def test_every_key_is_read_and_the_resolved_study_reads_as_the_same_one(tmp_path: Path) -> None:
    study = read(tmp_path, FULL)
    assert study.search.objectives == ("pearson", "params")
    assert study.search.limits == {"params": 10_000_000, "bytes": 4_000_000, "flops": 500_000}
    assert study.search.trial_timeout == 90.0
    assert study.cache.max_bytes == 1_500_000_000
    assert study.teacher.finetune == schema.FineTune(epochs=2, lr=5e-5)
    assert study.space.knobs == {
        "transformer.layers": {"min": 1, "max": 4},
        "lr": {"min": 5e-5, "max": 1e-3},
        "logit.form": {"choices": ["kl", "soft_ce"]},
        "temperature": 4,
    }
    assert study_file.from_mapping(study_file.resolved(study)) == study


def test_a_study_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read(tmp_path, BASE).search.trials = 3


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("serach: {}", "study.yaml, line 6: serach: unknown key. Did you mean 'search'?"),
        ("search:\n  trails: 3", "study.yaml, line 7: search.trails: unknown key. Did you mean 'trials'?"),
        ("search:\n  limits: {parms: 3}", "study.yaml, line 7: search.limits.parms: unknown key. Did you mean 'params'?"),
        ("search:\n  resources: {gpus: 3}", "study.yaml, line 7: search.resources.gpus: unknown key. Did you mean 'gpu'?"),
        ("space:\n  knobs:\n    a.b:\n      mn: 1", "study.yaml, line 9: space.knobs.a.b.mn: unknown key. Did you mean 'min'?"),
        ("space: {strategy: [hard]}", "study.yaml, line 6: space.strategy: unknown key. Did you mean 'strategies'?"),
        ("confirm: {trials: 1}", "study.yaml, line 6: confirm.trials: unknown key. Known: seeds, top."),
        ("cache: {max_byte: 1}", "study.yaml, line 6: cache.max_byte: unknown key. Did you mean 'max_bytes'?"),
    ],
)
def test_an_unknown_key_is_refused_at_every_level_with_its_line(tmp_path: Path, added: str, message: str) -> None:
    assert complaint(tmp_path, BASE + added) == [message]


def test_unknown_keys_of_data_and_teacher_are_refused_too(tmp_path: Path) -> None:
    text = "name: q\ndata:\n  files: {trian: a.csv, train: a.csv}\n  txt: a\nteacher:\n  model: m\n  finetune: {epoch: 3}\n"
    assert complaint(tmp_path, text) == [
        "study.yaml, line 3: data.files.trian: unknown key. Did you mean 'train'?",
        "study.yaml, line 4: data.txt: unknown key. Did you mean 'text'?",
        "study.yaml, line 7: teacher.finetune.epoch: unknown key. Did you mean 'epochs'?",
    ]


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("search: {trials: many}", "search.trials: 'many' is not a whole number"),
        ("search: {trials: yes}", "search.trials: True is not a whole number"),
        ("search: {trials: 4.0}", "search.trials: 4.0 is not a whole number"),
        ("search: {trials: 0}", "search.trials: 0 is out of range: it must be at least 1"),
        ("search: {trials: null}", "search.trials: nothing (null) is not a whole number"),
        ("search: {early_stopping: 1}", "search.early_stopping: 1 is not true or false"),
        ("search: {minutes: soon}", "search.minutes: 'soon' is not a number"),
        ("search: {minutes: .nan}", "search.minutes: nan is not a finite number"),
        ("search: {sampler: best}", "search.sampler: 'best' is not one of 'auto', 'value', 'tpe', 'nsga2' or 'random'"),
        ("search: {limits: 3}", "search.limits: 3 is not a group of keys"),
        (
            "search: {resources: {gpu: 1.5}}",
            "search.resources.gpu: 1.5 is more than a trial uses: it trains on one GPU, so write 1, or a fraction such as 0.25",
        ),
        ("space: {families: []}", "space.families: empty: it needs at least one entry"),
        ("space: {strategies: hard}", "space.strategies: 'hard' is not a list"),
        ("space: {strategies: [hard, hard]}", "space.strategies: 'hard' stands there twice"),
        ("space: {knobs: {t: {min: 8, max: 1}}}", "space.knobs.t: range reversed: min 8 is greater than max 1"),
        ("space: {knobs: {t: {min: one}}}", "space.knobs.t.min: 'one' is not a number"),
        ("space: {knobs: {t: {}}}", "space.knobs.t: give a value, {min, max} or {choices: [...]}"),
        ("space: {knobs: {t: {min: 1, choices: [2]}}}", "space.knobs.t: give a value, {min, max} or {choices: [...]}"),
        ("space: {knobs: {t: {choices: []}}}", "space.knobs.t.choices: empty: it needs at least one entry"),
        ("space: {knobs: {t: {choices: [1, 1]}}}", "space.knobs.t.choices: 1 stands there twice"),
        ("space: {knobs: {t: [1, 2]}}", "space.knobs.t: [1, 2] is not a single value (a number, text, true or false)"),
        ("space: {knobs: {1: 2}}", "space.knobs.1: this key is not text: put it in quotes"),
        ("seed: -1", "seed: -1 is out of range: it must be at least 0"),
        ("task: tagging", "task: 'tagging' is not one of 'classification' or 'regression'"),
        ("plugins: [3]", "plugins.0: 3 is not text: put it in quotes"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_wanted(tmp_path: Path, added: str, message: str) -> None:
    assert complaint(tmp_path, BASE + added) == [f"study.yaml, line 6: {message}"]


def test_sizes_and_durations_must_be_such(tmp_path: Path) -> None:
    lines = complaint(tmp_path, BASE + "search:\n  trial_timeout: soon\n  limits: {params: 10X}\ncache: {max_bytes: -1}\n")
    assert [line.split(":")[1].strip() + line.split(":")[2] for line in lines] == [
        "search.trial_timeout 'soon' is not a duration",
        "search.limits.params '10X' is not a size",
        "cache.max_bytes -1 is not a size",
    ]


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden", "-dash", "", "a b", "x" * 101, '"a\\n"'])
def test_a_name_that_is_a_path_or_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    quoted = name if name.startswith('"') else f'"{name}"'
    (line,) = complaint(tmp_path, BASE.replace("name: q", f"name: {quoted}"))
    assert "line 1: name: " in line
    assert "cannot name a study" in line


def test_dates_stay_text_and_numbers_need_quotes_where_text_is_wanted(tmp_path: Path) -> None:
    assert read(tmp_path, BASE.replace("name: q", "name: 2024-01-31")).name == "2024-01-31"
    assert complaint(tmp_path, BASE.replace("name: q", "name: 12")) == ["study.yaml, line 1: name: 12 is not text: put it in quotes"]


@pytest.mark.parametrize(
    ("data", "there"),
    [("{}", "there is none"), ("{preset: rotten_tomatoes, hub: x}", "there are preset, hub")],
)
def test_exactly_one_source_of_data(tmp_path: Path, data: str, there: str) -> None:
    lines = complaint(tmp_path, f"name: q\ndata: {data}\nteacher: {{preset: minilm}}")
    assert lines == [f"study.yaml, line 2: data: exactly one of preset, hub, files is needed; {there}"]


def test_two_columns_cannot_be_the_same_one(tmp_path: Path) -> None:
    lines = complaint(tmp_path, "name: q\ndata:\n  hub: x\n  text: label\nteacher: {preset: minilm}")
    assert lines == ["study.yaml, line 4: data.text: the same column as data.label: 'label'"]


@pytest.mark.parametrize(("teacher", "there"), [("{}", "there is none"), ("{model: a, preset: minilm}", "there are both")])
def test_exactly_one_teacher(tmp_path: Path, teacher: str, there: str) -> None:
    lines = complaint(tmp_path, f"name: q\ndata: {{preset: rotten_tomatoes}}\nteacher: {teacher}")
    assert lines == [f"study.yaml, line 3: teacher: exactly one of model, preset is needed; {there}"]


def test_what_must_be_there_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path, "name: q") == ["study.yaml: data: missing", "study.yaml: teacher: missing"]


def test_teacher_labels_may_be_numbers_but_yes_and_no_need_quotes(tmp_path: Path) -> None:
    assert read(tmp_path, BASE + "  labels: [1, 0]").teacher.labels == ("1", "0")
    assert complaint(tmp_path, BASE + "  labels: [yes, sure]") == [
        "study.yaml, line 6: teacher.labels.0: True is not text: put it in quotes"
    ]


@pytest.mark.parametrize("objectives", ["[params, accuracy]", "[accuracy]", "[accuracy, params, flops]", "[accurcy, params]"])
def test_objectives_are_a_quality_and_a_cost_in_this_order(tmp_path: Path, objectives: str) -> None:
    (line,) = complaint(tmp_path, BASE + f"search:\n  objectives: {objectives}")
    assert line.startswith("study.yaml, line 7: search.objectives: ")
    assert "is not [quality, cost] in this order: quality accuracy | macro_f1 | mcc" in line


def test_the_quality_fits_the_task(tmp_path: Path) -> None:
    hub = BASE.replace("preset: rotten_tomatoes", "hub: some/set")
    assert read(tmp_path, hub + "task: regression").search.objectives == ("pearson", "params")
    assert read(tmp_path, hub + "task: regression\nsearch: {objectives: [spearman, flops]}").search.objectives == ("spearman", "flops")
    assert complaint(tmp_path, hub + "task: regression\nsearch: {objectives: [accuracy, bytes]}") == [
        "study.yaml, line 7: search.objectives: 'accuracy' does not fit task: regression: write [pearson | spearman, bytes]"
    ]
    assert complaint(tmp_path, hub + "search: {objectives: [pearson, bytes]}") == [
        "study.yaml, line 6: search.objectives: 'pearson' does not fit task: classification: write [accuracy | macro_f1 | mcc, bytes]"
    ]
    assert "rotten_tomatoes is a classification" in complaint(tmp_path, BASE + "task: regression")[0]
    smoothing = "task: regression\nspace:\n  knobs: {label_smoothing: 0.1}"
    assert "space.knobs.label_smoothing: a regression has no classes to spread a label over" in complaint(tmp_path, hub + smoothing)[0]
    assert "a regression has no label names" in complaint(tmp_path, hub + "  labels: [a, b]\ntask: regression")[0]


def test_all_problems_are_told_in_the_file_s_order_and_at_most_nine_lines(tmp_path: Path) -> None:
    lines = complaint(tmp_path, BASE + "search:\n" + "".join(f"  x{number}: 1\n" for number in range(12)) + "seed: no\n")
    assert len(lines) == 9
    assert lines[0].startswith("study.yaml, line 7: search.x0: unknown key.")
    assert lines[7].startswith("study.yaml, line 14: search.x7: unknown key.")
    assert lines[8] == "study.yaml: and 5 more problems"


def test_sections_whose_keys_are_all_commented_out_have_their_defaults(tmp_path: Path) -> None:
    text = BASE + "search:\n  # trials: 3\nspace:\n  knobs:\nconfirm:\ncache:\nplugins:\n"
    assert read(tmp_path, text) == read(tmp_path, BASE)


def test_set_changes_the_study_and_reads_its_value_as_yaml(tmp_path: Path) -> None:
    study = read(
        tmp_path,
        BASE + "space: {knobs: {temperature: 3}}",
        "search.trials=7",
        "teacher.finetune.lr=5e-5",
        "space.knobs.transformer.layers={min: 1, max: 2}",
        "space.knobs.transformer.heads.max=4",
        "space.knobs.temperature.min=2",
        "search.limits.params=2M",
        "data.preset=",
        "data.hub=a/b",
        "search.objectives=[macro_f1, bytes]",
    )
    assert study.search.trials == 7
    assert study.teacher.finetune == schema.FineTune(lr=5e-5)
    assert study.space.knobs == {"transformer.layers": {"min": 1, "max": 2}, "transformer.heads": {"max": 4}, "temperature": {"min": 2}}
    assert study.search.limits == {"params": 2_000_000}
    assert (study.data.preset, study.data.hub) == (None, "a/b")
    assert study.search.objectives == ("macro_f1", "bytes")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("search.trials=many", "--set search.trials=many: search.trials: 'many' is not a whole number"),
        ("search.trails=3", "--set search.trails=3: search.trails: unknown key. Did you mean 'trials'?"),
        ("name.x=1", "--set name.x=1: name: {'x': 1} is not text"),
        ("search.trials", "--set search.trials: write key.sub=value, such as search.trials=10"),
        ("search..trials=1", "--set search..trials=1: write key.sub=value, such as search.trials=10"),
    ],
)
def test_a_wrong_set_is_told_as_such(tmp_path: Path, option: str, message: str) -> None:
    assert complaint(tmp_path, BASE, option) == [message]


def test_a_set_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    (line,) = complaint(tmp_path, BASE, "search.objectives=[accuracy")
    assert line.startswith("--set search.objectives=[accuracy, line 1: not valid YAML: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "study.yaml: empty: "),
        ("# nothing\n", "study.yaml: empty: "),
        ("- a\n", "study.yaml, line 1: not a study: "),
        ("a: [1\nb: 2\n", "study.yaml, line 2: not valid YAML: "),
        ("a: b: c\n", "study.yaml, line 1: not valid YAML: mapping values are not allowed here"),
        ("a: 1\n--- \nb: 1\n", "study.yaml, line 2: not valid YAML: expected a single document"),
        ("a: !!python/object:os.system x\n", "study.yaml, line 1: not valid YAML: could not determine a constructor"),
        ("a: " + "[" * 5000, "study.yaml: not valid YAML: "),
        (BASE + "seed: 1\nseed: 2\n", "study.yaml, line 7: seed: given twice, first in line 6: keep one"),
        (BASE + "search:\n  trials: 1\n  trials: 2\n", "study.yaml, line 8: search.trials: given twice, first in line 7: keep one"),
    ],
)
def test_what_is_not_a_study_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (line,) = complaint(tmp_path, text)
    assert line.startswith(message)


def test_an_alias_that_holds_itself_ends_in_a_message(tmp_path: Path) -> None:
    assert complaint(tmp_path, BASE + "cache: &a {max_bytes: *a}")[0].startswith("study.yaml, line 6: cache.max_bytes: ")


def test_aliases_that_stand_for_too_much_are_refused_at_once(tmp_path: Path) -> None:
    bomb = "x0: &x0 [a, a]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 40))
    (line,) = complaint(tmp_path, bomb)
    assert line.endswith("line 13: more than 10,000 values, its aliases written out: use fewer (*name)")
    shared = BASE + "space:\n  knobs: {transformer.layers: &few {min: 1, max: 2}, transformer.heads: *few}"
    assert read(tmp_path, shared).space.knobs == {f"transformer.{part}": {"min": 1, "max": 2} for part in ("layers", "heads")}


def test_codes_and_times_are_no_numbers_and_are_written_so_that_they_stay_as_they_are(tmp_path: Path) -> None:
    codes = ("0110", "1:30", "0x1f", "08", "1e5", "-.5", "2024-01-31", "yes")
    study = read(tmp_path, BASE + "  labels: [0110, 1:30, 0x1f, 08, '1e5', '-.5', 2024-01-31, 'yes']")
    assert study.teacher.labels == codes
    document = yamlfile.dump(study_file.resolved(study))
    assert study_file.from_mapping(yamlfile.parse(document, "study.yaml").value) == study
    assert yaml.safe_load(document)["teacher"]["labels"] == list(codes)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(BASE)
    with pytest.raises(InputError, match=r"quickstat.yaml: no such study file. Did you mean 'quickstart.yaml'\?"):
        study_file.load(tmp_path / "quickstat.yaml")
    with pytest.raises(InputError, match="no such study file"):
        study_file.load(tmp_path / "no" / "x.yaml")
    with pytest.raises(InputError, match="a folder, not a study file"):
        study_file.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(InputError, match=r"binary\.yaml: not a text file"):
        study_file.load(tmp_path / "binary.yaml")
    (tmp_path / "zero.yaml").write_bytes(b"name: \0")
    with pytest.raises(InputError, match=r"zero\.yaml: not valid YAML"):
        study_file.load(tmp_path / "zero.yaml")


def test_relative_paths_are_looked_up_beside_the_study_then_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there / "local_model"):
        folder.mkdir(parents=True)
    (there / "a.csv").touch()
    (there / "mine.py").touch()
    monkeypatch.chdir(here)
    text = (
        "name: q\ndata:\n  files: {train: a.csv, test: b.csv}\n  unlabelled: /abs/c.csv\n"
        "teacher: {model: local_model}\nplugins: [mine.py, package.mine]\n"
    )
    study = read(there, text)
    assert study.data.files == schema.FilesConfig(train=str(there / "a.csv"), test=str(here / "b.csv"))
    assert study.data.unlabelled == "/abs/c.csv"
    assert study.teacher.model == str(there / "local_model")
    assert study.plugins == (str(there / "mine.py"), "package.mine")
    assert read(there, text, "teacher.model=hub/id").teacher.model == "hub/id"
    assert read(there, text, "teacher.model=./not_there").teacher.model == str(here / "not_there")


def test_from_mapping_takes_python_values_and_leaves_them_as_they_were() -> None:
    given: dict[str, Any] = {
        "name": "q",
        "data": {"files": {"train": Path("/x/a.csv")}},
        "teacher": {"model": "a/b"},
        "space": {"strategies": ("hard",)},
        "search": None,
    }
    study = study_file.from_mapping(given)
    assert study.data.files == schema.FilesConfig(train="/x/a.csv")
    assert study.space.strategies == ("hard",)
    assert given["search"] is None
    with pytest.raises(InputError, match=r"^search\(\): serach: unknown key. Did you mean 'search'\?$"):
        study_file.from_mapping({**given, "serach": 1}, where="search()")


@pytest.mark.parametrize(
    ("text", "size"), [("2M", 2_000_000), ("500k", 500_000), ("4MB", 4_000_000), ("2GB", 2_000_000_000), ("1.5k", 1500), ("7", 7), (7, 7)]
)
def test_sizes_are_decimal(text: str | int, size: int) -> None:
    assert schema.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "2X", "2MiB", "-1", "1.2345k", True, 1.5])
def test_what_is_not_a_size_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match="is not a size"):
        schema.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800.0), ("90s", 90.0), ("2h", 7200.0), ("1.5h", 5400.0), (45, 45.0), ("1d", 86400.0)]
)
def test_durations_are_seconds(text: str | int, seconds: float) -> None:
    study = study_file.from_mapping(yaml.safe_load(BASE) | {"search": {"trial_timeout": text}})
    assert study.search.trial_timeout == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", 0, -1, "5 weeks", True, float("inf")])
def test_what_is_not_a_duration_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match=r"search\.trial_timeout: .* is not a duration"):
        study_file.from_mapping(yaml.safe_load(BASE) | {"search": {"trial_timeout": text}})


def test_only_budgets_may_differ_on_resume(tmp_path: Path) -> None:
    old = study_file.resolved(read(tmp_path, BASE))
    allowed = [
        "search.trials=9",
        "search.minutes=3",
        "search.resources.cpu=2",
        "search.trial_timeout=1h",
        "confirm.seeds=9",
        "confirm.top=1",
    ]
    assert study_file.differences(old, study_file.resolved(read(tmp_path, BASE, *allowed))) == []
    new = study_file.resolved(read(tmp_path, BASE, "seed=1", "space.knobs.temperature.min=2", "space.strategies=[hard]", "search.epochs=2"))
    assert study_file.differences(old, new) == [
        "search.epochs: 3 -> 2",
        "seed: 0 -> 1",
        "space.knobs.temperature.min: (not there) -> 2",
        'space.strategies: ["hard", "logit", "feature", "joint"] -> ["hard"]',
    ]
