"""What a terminal shows of a running search."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from rich.console import Console
from test_sampler import PLUGINS, TEACHER, price, study

from kdsearch.hpo.early_stopping import Rungs
from kdsearch.hpo.live_view import View
from kdsearch.hpo.sampler import Sampler
from kdsearch.hpo.study_run import StudyRun
from kdsearch.results.folder import StudyFolder
from kdsearch.results.ledger import Ledger
from kdsearch.student.trial import TrialResult


def test_running_trials_are_shown_with_their_last_rung_and_ended_ones_in_a_line_each(tmp_path: Path) -> None:
    config = study(families=["block"])
    console = Console(file=StringIO(), force_terminal=True, width=120)
    with Ledger(tmp_path) as ledger, View(console) as view:
        ledger.begin()
        sampler = Sampler(config, PLUGINS, TEACHER, ledger, price)
        run = StudyRun(
            config, StudyFolder(tmp_path), {}, ledger, sampler, Rungs(lambda _: 0.0, "params"), places=lambda: 2, changed=view.changed
        )
        for key in ("a", "b"):
            assert run.next_trial(key)
        assert run.next_trial("c") is None  # both places are taken
        assert not run.reported("b", {"share": 0.25, "score": 0.625, "trial_seconds": 1.0})
        run.ended("a", TrialResult("failed", "memory", "none left"))
        panel = Console(file=StringIO(), width=120)
        panel.print(view._panel(run))
    shown = panel.file.getvalue()  # type: ignore[attr-defined]
    assert "1/20 trials" in shown
    assert "25%" in shown
    assert "0.6250" in shown
    assert "memory: none left" in console.file.getvalue()  # type: ignore[attr-defined]
