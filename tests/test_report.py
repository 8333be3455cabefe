"""The report: the right figures in the tables, nothing of the data taken for markup, nothing fetched, and every kind of study shown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reports

from kdsearch.cli import app
from kdsearch.errors import EnvironmentProblem, StateError
from kdsearch.hpo.importance import importances
from kdsearch.report import tables
from kdsearch.report.facts import Facts
from kdsearch.report.page import payload, size, write_page
from kdsearch.report.write import write
from kdsearch.results.folder import StudyFolder
from kdsearch.results.ledger import Ledger
from kdsearch.results.record import replay

Make = Callable[[Path], Path]


def page_of(folder: Path) -> str:
    return write_page(Facts.read(folder))


def text_of(page: str) -> str:
    """What a reader sees, without scripts and style, runs of white space as one space."""
    plain = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    plain = re.sub(r"<[^>]+>", " ", plain).replace("\u00a0", " ")
    return re.sub(r"\s+", " ", plain)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', page, re.DOTALL)
    assert found
    told: dict[str, Any] = json.loads(found.group(1))
    return told


def test_the_smallest_within_so_many_per_cent_of_the_teacher(tmp_path: Path) -> None:
    facts = Facts.read(reports.plain(tmp_path))
    found = {row["share"]: row["point"] and row["point"]["trial"] for row in tables.within(facts)}
    assert found == {0.99: None, 0.98: 3, 0.97: 3, 0.95: 1}  # of 0.8: 0.784 is 98 %, 0.76 is 95 %
    text = text_of(write_page(facts))
    assert "1 % none; 98.0 % is the most (trial 3)" in text
    assert "2 % 4M 98.0 % 5x 16 MB validation 3 transformer + feature" in text
    assert "5 % 1M 95.0 % 20x 4 MB validation 1 transformer + logit" in text


def test_every_finished_trial_is_counted_once(tmp_path: Path) -> None:
    facts = Facts.read(reports.plain(tmp_path))
    rows = {row["name"]: row for row in tables.tally(facts, "strategy")}
    assert list(rows) == ["feature", "logit", "hard"]  # by their best score
    logit, feature = rows["logit"], rows["feature"]
    assert (logit["complete"], logit["stopped"], logit["failed"], logit["on_front"], logit["best"]) == (3, 1, 0, 2, 0.76)
    assert (feature["complete"], feature["stopped"], feature["failed"], feature["best"]) == (1, 0, 2, 0.784)
    assert tables.pairs(facts)["hard", "transformer"] == 0.7
    (family,) = tables.tally(facts, "family")
    assert (family["complete"], family["stopped"], family["failed"], family["on_front"]) == (5, 1, 2, 3)


def test_failures_come_with_their_cause_and_message(tmp_path: Path) -> None:
    facts = Facts.read(reports.plain(tmp_path))
    assert tables.failures(facts) == [{"cause": "not_finite", "count": 2, "messages": [("the loss is NaN", [6, 7])], "more": 0}]
    assert "not_finite 2 trials the loss is NaN (trials 6, 7)" in text_of(write_page(facts))


def test_seconds_are_split_by_what_they_went_into(tmp_path: Path) -> None:
    reports.confirmed(tmp_path)
    assert dict(tables.seconds(Facts.read(tmp_path))) == {
        "training": 35.0,  # five trials of 10 seconds: 7 of training, 2 of validation, 1 of the rest
        "validation": 10.0,
        "building and saving": 5.0,
        "stopped trials": 1.0,
        "failed trials": 6.0,
        "teacher": 30.0,
        "confirmation": 12.0,
    }


def test_hypervolume_grows_to_the_study_s_own(tmp_path: Path) -> None:
    facts = Facts.read(reports.plain(tmp_path))
    steps = tables.growth(facts)
    assert [(count, trial) for count, _, trial in steps] == [(1, 0), (2, 1), (4, 3)]  # trials 2 and 4 are beaten
    # x = (5 - 3.5) / 4.5 = 1/3, y = (1 - 0.7) / 0.5 = 0.6
    assert steps[0][1] == pytest.approx((1 - 1 / 3) * (1 - 0.6))
    assert steps[-1][1] == pytest.approx(facts.document["hypervolume"])


def test_hypervolume_of_another_cost_ends_at_the_study_s_own_too(tmp_path: Path) -> None:
    reports.plain(tmp_path)
    reports.keep(tmp_path, {**reports.manifest(), "objectives": ["accuracy", "flops"]})
    facts = Facts.read(tmp_path)
    assert tables.growth(facts)[-1][1] == pytest.approx(facts.document["hypervolume"])
    assert data_of(write_page(facts))["trials"][0]["x"] == 1_000_000  # FLOPs


def test_elapsed_leaves_out_the_pause_between_two_sessions(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = [{"event": "study", "version": 1}]
    for number, begun in enumerate((100.0, 5000.0)):
        ids = {"trial": number, "attempt": 1}
        costs = {"params": 10, "bytes": 40, "flops": 1}
        events.append({"event": "session", "time": begun, "teacher_seconds": 0.0})
        events.append({"event": "started", **ids, "spec": reports.spec(), "hash": str(number), "knobs": {}, **costs, "time": begun + 1})
        events.append({"event": "complete", **ids, "scores": {"accuracy": 0.6}, **costs, "seconds": {"total": 9.0}, "time": begun + 60})
    (tmp_path / "ledger.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert tables.elapsed(Facts.read(reports.keep(tmp_path))) == 120.0


def test_the_page_draws_what_the_ledger_says(tmp_path: Path) -> None:
    told = data_of(page_of(reports.plain(tmp_path)))
    assert [(trial["trial"], trial["x"], trial["y"]) for trial in told["trials"] if trial["front"]] == [
        (0, 100_000.0, 0.7),
        (1, 1_000_000.0, 0.76),
        (3, 4_000_000.0, 0.784),
    ]
    assert (told["teacher"]["x"], told["teacher"]["validation"], told["teacher"]["test"]) == (20_000_000.0, 0.8, None)
    assert told["command"] == f"kdsearch pick {tmp_path} --trial TRIAL --onnx --int8"
    assert told["selected"] == 3
    assert ["logit", "temperature 4, alpha 0.7"] in [sorted_knobs(part) for part in told["trials"][0]["recipe"]]
    assert told["curves"][0]["terms"]["soft"][-1] == pytest.approx(0.8)


def sorted_knobs(part: list[str]) -> list[str]:
    return [part[0], ", ".join(sorted(part[1].split(", "), reverse=True))]


def test_confirmed_points_bring_intervals_controls_and_ties(tmp_path: Path) -> None:
    facts = Facts.read(reports.confirmed(tmp_path))
    page = write_page(facts)
    told = {each["trial"]: each for each in data_of(page)["confirmed"]}
    assert sorted(told) == [1, 2, 3]
    assert told[3] == {"trial": 3, "test": 0.77, "ci95": [0.75, 0.79], "seeds": 3, "control": 0.74, "retention": 0.77 / 0.79, "tied": [1]}
    text = text_of(page)
    assert "3 transformer + feature 4M 0.7700 ± 0.0040 0.750 to 0.790 97.5 % 0.7400 +3.0 (+1.5 to +4.5) 50 % 1" in text
    assert "2* transformer + logit" in text  # not on the front
    assert "majority class 0.5000" in text
    assert "The 1,250 test rows were used once in this study." in text
    assert "97.5 % of the teacher's accuracy on test" in text.replace("&#39;", "'")
    assert "same answer as the teacher on 91.0 % of 1,250 rows" in text
    assert "words: a word that training never saw 120 0.700 0.780 +8.0 (+1.0 to +15.0)" in text
    assert "112 rows on which the two disagree" in text


def test_a_report_says_how_well_the_seconds_of_trials_were_predicted(tmp_path: Path) -> None:
    """Nine trials of 10 seconds, of which 4, 5, 6, .. 12 were expected: the quartiles of 10 / expected are 1 and 10 / 6."""
    with Ledger(tmp_path) as ledger:
        ledger.begin(name="toy")
        for number in range(9):
            reports.complete(ledger, number, 1000 + number, 0.7, expected=4.0 + number)
    notes = tables.notes(Facts.read(reports.keep(tmp_path)))
    assert "Half of 9 trials took between 1 and 1.7 times the seconds that were expected of them." in notes


def test_a_study_that_is_not_confirmed_says_so(tmp_path: Path) -> None:
    facts = Facts.read(reports.plain(tmp_path))
    said = " ".join(tables.notes(facts))
    assert f"The 1,250 test rows are still sealed: nothing here has seen them. kdsearch confirm {tmp_path}" in said
    assert "5 complete students were compared" in said
    assert "Confirmed on test" not in write_page(facts)


@pytest.mark.parametrize("hostile", ["</script><img src=x onerror=alert(1)>", "<b>&amp;\"'", "{{ 7 * 7 }}"])
def test_text_that_comes_from_data_is_never_markup(tmp_path: Path, hostile: str) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin(name="toy")
        reports.complete(ledger, 0, 1000, 0.7, strategy=hostile, family=hostile, terms=(hostile,))
        reports.failed(ledger, 1, hostile, hostile)
        reports.confirm(ledger, [(0, 0.7, 0.6)])
    facts = reports.manifest(labels=(hostile, "other"))
    facts["plugins"][0]["origin"] = facts["teacher"]["source"] = facts["name"] = hostile
    reports.analysis(tmp_path, 0)
    study = {**reports.STUDY, "teacher": {"model": hostile, "preset": None}}
    page = page_of(reports.keep(tmp_path, facts, study))
    assert "<img src=x" not in page
    assert "<b>&amp;" not in page
    assert ">49<" not in page
    assert page.count("</script>") == 2  # the data and the script
    assert data_of(page)["trials"][0]["strategy"] == hostile
    for path in write(tmp_path):
        assert path.stat().st_size > 0
    readme = (tmp_path / "README.md").read_text()
    assert "<img" not in readme.replace("\\<img", "")


def test_a_student_that_learnt_nothing_is_named(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin(name="toy")
        reports.complete(ledger, 0, 1_000, 0.5)
        reports.complete(ledger, 1, 100_000, 0.7)
    facts = Facts.read(reports.keep(tmp_path))
    said = "Trial 0 on the front is no better than always predicting the most frequent label (0.5): only small, not useful."
    assert said in tables.notes(facts)
    assert "--min-retention" not in write_page(facts)  # no student keeps even 95 %


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    page = page_of(reports.confirmed(tmp_path))
    addresses = set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^\s"'<]*""", re.sub(r"^\s*//.*$", "", page, flags=re.MULTILINE)))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|script|img|iframe)[^>]+(src|href)=[\"'](?!data:)", page)
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#\w+\)", "", page)
    assert "fetch(" not in page


def only_failed(folder: Path) -> Path:
    with Ledger(folder) as ledger:
        ledger.begin(name="toy")
        reports.failed(ledger, 0, "memory", "out of memory: 3 GB")
    return reports.keep(folder)


def untouched(folder: Path) -> Path:
    with Ledger(folder) as ledger:
        ledger.begin(name="toy")
    return reports.keep(folder)


def one_point(folder: Path) -> Path:
    with Ledger(folder) as ledger:
        ledger.begin(name="toy")
        reports.complete(ledger, 0, 100_000, 0.7, terms=())
    return reports.keep(folder)


def regression(folder: Path) -> Path:
    with Ledger(folder) as ledger:
        ledger.begin(name="toy")
        reports.complete(ledger, 0, 50_000, -0.05, quality="pearson", strategy="hard", terms=("hard",))
        reports.complete(ledger, 1, 100_000, 0.55, quality="pearson")
        reports.complete(ledger, 2, 1_000_000, 0.83, quality="pearson")
        reports.confirm(ledger, [(1, 0.5, 0.45), (2, 0.8, 0.7)], teacher=0.84, quality="pearson")
    data = {"preset": None, "hub": None, "files": {"train": "a/b.csv"}, "split_seed": 0, "max_length": 64}
    study = {**reports.STUDY, "task": "regression", "data": data}
    return reports.keep(folder, reports.manifest("pearson", 0.85, labels=()), study)


def many(folder: Path) -> Path:
    return reports.large(folder, 60)


KINDS: list[Make] = [untouched, only_failed, one_point, regression, reports.plain, reports.confirmed, many]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_every_kind_of_study_is_reported(make: Make, tmp_path: Path) -> None:
    page, picture, readme = write(make(tmp_path))
    assert "<h2>The front</h2>" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert readme.read_text().startswith("# toy")
    assert page.stat().st_size < 5_000_000


def test_a_study_without_a_student_says_why(tmp_path: Path) -> None:
    text = text_of(page_of(only_failed(tmp_path)))
    assert "No student yet: every trial that ended has failed" in text
    assert "memory 1 trial out of memory: 3 GB (trial 0)" in text
    assert "--min-retention" not in text


def test_a_regression_is_told_in_its_own_metric(tmp_path: Path) -> None:
    facts = Facts.read(regression(tmp_path))
    text = text_of(write_page(facts))
    assert "pearson 0.8500 on validation) for b.csv" in text
    assert "squared error of the mean value on validation: 0.5" in text
    assert "mean value 0.5000" in text
    assert facts.confirmed[1]["confirmed"]["retention"] == pytest.approx(0.8 / 0.84)


def test_of_ten_thousand_trials_some_are_drawn_and_all_of_the_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdsearch.report.page.DRAWN", 100)
    facts = Facts.read(reports.large(tmp_path, 400))
    told = payload(facts)
    assert told["complete"] > 200
    assert len(told["trials"]) == 100
    assert {trial["trial"] for trial in told["trials"] if trial["front"]} == {point["trial"] for point in facts.document["points"]}
    assert len(told["curves"]) == min(12, len(facts.document["points"]))
    assert payload(facts) == told


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = write(reports.confirmed(tmp_path))
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write(tmp_path)] == first


def test_latencies_that_pick_has_measured_are_shown(tmp_path: Path) -> None:
    from kdsearch.io import files

    reports.plain(tmp_path)
    (tmp_path / "students" / "1").mkdir(parents=True)
    weights = tmp_path / "students" / "1" / "model.safetensors"
    weights.write_bytes(b"weights")
    (tmp_path / "latency.json").write_text(
        json.dumps({"machine": {}, "threads": 1, "students": {files.file_digest(weights): {"ms_p50": 0.417}}})
    )
    facts = Facts.read(tmp_path)
    assert facts.latencies == {1: 0.417}
    assert "1 transformer + logit 1M 20x 4 MB 10M 0.42 0.7600 95.0 %" in text_of(write_page(facts))


def test_a_command_is_typed_as_the_folder_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "my studies"
    folder.mkdir()
    facts = Facts.read(reports.plain(folder))
    assert facts.export_command(3) == f"kdsearch pick '{folder}' --trial 3 --onnx --int8"


def test_importances_name_the_knob_that_decides(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.begin(name="toy")
        for number in range(40):
            good, idle = number % 4 == 0, number % 3
            knobs = {"strategy": "hard", "feature.layers": 1 if good else 2, "lr": 1e-4 * (1 + idle)}
            reports.complete(ledger, number, 1000 + number, 0.8 if good else 0.6, knobs=knobs)
        state = replay([*(json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines())])
    found = importances(state, ("accuracy", "params"))
    assert found is not None
    assert next(iter(found["quality"])) == "feature.layers"
    assert sum(found["quality"].values()) == pytest.approx(1.0)
    assert "strategy" not in found["quality"]  # never varied
    few = importances(state, ("accuracy", "params"), most=20)
    assert few is not None
    assert few["quality"].keys() == found["quality"].keys()


def test_importances_wait_for_enough_trials(tmp_path: Path) -> None:
    facts = Facts.read(reports.plain(tmp_path))
    assert importances(facts.state, ("accuracy", "params")) is None
    assert "this needs 10 complete trials" in text_of(write_page(facts))


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="not a study's folder"):
        write(tmp_path)
    reports.plain(tmp_path)
    kept = json.loads((tmp_path / "manifest.json").read_text())
    del kept["versions"]
    (tmp_path / "manifest.json").write_text(json.dumps(kept))
    with pytest.raises(StateError, match=r"manifest\.json: lacks versions"):
        write(tmp_path)


def test_the_command_names_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reports.plain(tmp_path)
    monkeypatch.setattr("sys.argv", ["kdsearch", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert not ended.value.code
    written = [f"written: {tmp_path}/{name}" for name in ("report.html", "front.png", "README.md")]
    assert capsys.readouterr().out.splitlines() == written


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports.plain(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentProblem, match=r"jinja2, matplotlib, not installed here: pip install 'kdsearch\[report\]'"):
        write(tmp_path)


def test_nothing_but_the_three_files_is_written(tmp_path: Path) -> None:
    reports.plain(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    write(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert after.keys() - before.keys() == {"report.html", "front.png", "README.md"}
    assert all(after[name] == content for name, content in before.items())


def test_the_readme_has_the_table_and_the_commands(tmp_path: Path) -> None:
    write(reports.confirmed(tmp_path))
    readme = (tmp_path / "README.md").read_text().replace("\u00a0", " ")
    assert "| 3 % | 4M | 5x | 97.5 % | test | 3 | transformer + feature |" in readme
    assert "| transformer | logit | 1 | 1,000,000 | 20x | 4 MB | 0.7600 | 95.0 % |" in readme
    assert "| 3: transformer + feature | 4M | 0.7700 | 0.750 to 0.790 | 97.5 % | 0.7400 | 1 |" in readme
    assert f"kdsearch pick {tmp_path} --min-retention 0.97 --onnx --int8" in readme
    assert f"kdsearch pick {tmp_path} --max-params 1M --onnx --int8" in readme
    assert f'kdsearch.load_student("{tmp_path}/students/3-confirmed")' in readme
    assert len(StudyFolder(tmp_path).document()["points"]) == 3


def test_sizes_are_told_in_three_digits() -> None:
    told = [size(count).replace("\u00a0", " ") for count in (999, 1000, 4_005_880, 999_999, 2_500_000_000)]
    assert told == ["999 bytes", "1 kB", "4.01 MB", "1 MB", "2.5 GB"]


# ---- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# The page in a frame of the asked width, narrower than a window can be, and what a person would trip over, found from inside.
PROBE = """<!doctype html><meta charset="utf-8"><title>probe</title><body style="margin:0">
<iframe id="frame" style="border:0;width:WIDTHpx;height:900px"></iframe><pre id="found"></pre>
<script type="application/json" id="page">PAGE</script>
<script>
const frame = document.getElementById("frame");
const apart = (low, high, other, end) => high - 1 <= other || end - 1 <= low;
const touching = (one, other) => !apart(one.left, one.right, other.left, other.right) && !apart(one.top, one.bottom, other.top, other.bottom);
frame.addEventListener("load", () => {
  const inside = frame.contentDocument, root = inside.documentElement, found = {};
  found.width = root.clientWidth;
  found.scrollWidth = root.scrollWidth;
  found.outside = [...inside.body.querySelectorAll("*")].filter((node) => {
    if (node.closest("svg") && node.tagName !== "svg") return false;
    if (node.closest(".scroll") !== null && !node.matches(".scroll")) return false;
    if (node.closest("pre, code")) return false;
    return node.getBoundingClientRect().right > root.clientWidth + 0.5;
  }).map((node) => node.outerHTML.slice(0, 120));
  found.overlapping = [];
  for (const svg of inside.querySelectorAll("svg")) {
    const texts = [...svg.querySelectorAll("text")], frame = svg.getBoundingClientRect();
    texts.forEach((one, place) => {
      const box = one.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1) found.overlapping.push(one.textContent + " leaves its picture");
      for (const other of texts.slice(place + 1)) {
        if (touching(box, other.getBoundingClientRect())) found.overlapping.push(one.textContent + " / " + other.textContent);
      }
    });
  }
  const spot = [...inside.querySelectorAll("circle[data-trial]")].pop();
  if (spot) {
    const at = spot.getBoundingClientRect();
    const where = { bubbles: true, clientX: at.left + at.width / 2, clientY: at.top + at.height / 2 };
    spot.dispatchEvent(new frame.contentWindow.PointerEvent("pointermove", where));
    const tip = inside.getElementById("tip"), box = tip.getBoundingClientRect();
    found.tip = { text: tip.textContent, trial: spot.dataset.trial, left: box.left, right: box.right };
    spot.dispatchEvent(new frame.contentWindow.MouseEvent("click", where));
    found.detail = inside.getElementById("detail").textContent;
    found.scrollWidthWithTip = root.scrollWidth;
  }
  for (const button of inside.querySelectorAll("#controls button")) button.click();
  for (const select of inside.querySelectorAll("select")) {
    select.selectedIndex = select.options.length - 1;
    select.dispatchEvent(new frame.contentWindow.Event("change"));
  }
  found.charts = inside.querySelectorAll("#front-chart svg, #growth-chart svg, #loss-charts svg").length;
  document.getElementById("found").textContent = JSON.stringify(found);
});
frame.srcdoc = JSON.parse(document.getElementById("page").textContent);
</script>"""


def browse(page: str, width: int, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What the probe found in the page at that width, and what the browser's console said."""
    assert CHROMIUM
    quoted = json.dumps(page).replace("<", "\\u003c")
    probe = folder / f"probe-{width}.html"
    probe.write_text(PROBE.replace("WIDTH", str(width)).replace("PAGE", quoted), encoding="utf-8")
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        *quiet,
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += [
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
        f"--window-size={max(width, 600)},1000",
        "--dump-dom",
        probe.as_uri(),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', ran.stdout, re.DOTALL)
    assert found, ran.stderr[-2000:]
    assert found.group(1), ran.stderr[-2000:]
    told = found.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(told), [line for line in ran.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_in_a_browser_nothing_overflows_overlaps_or_fails(make: Make, width: int, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    facts = Facts.read(make(folder))
    found, console = browse(write_page(facts), width, tmp_path)
    assert console == []
    assert found["width"] == width
    assert found["scrollWidth"] <= width
    assert found["outside"] == []
    assert found["overlapping"] == []
    points = facts.document["points"]
    assert found["charts"] == (0 if not points else 2 + len(payload(facts)["curves"]))
    if points:
        tip = found["tip"]
        assert f"kdsearch pick {folder} --trial {tip['trial']} --onnx --int8" in tip["text"]
        assert tip["left"] >= 0
        assert tip["right"] <= width
        assert found["scrollWidthWithTip"] <= width
        assert f"Trial {tip['trial']}: " in found["detail"]
