"""A study as a notebook has it: its front, its students, and picking one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.config import study_file
from kdsearch.results import front
from kdsearch.results.choose import Rule
from kdsearch.results.folder import StudyFolder

if TYPE_CHECKING:
    import pandas as pd

    from kdsearch.student.saved import Student


@dataclass(frozen=True, repr=False)
class Study:
    """A study's folder."""

    folder: Path

    @property
    def document(self) -> dict[str, Any]:
        """front.json, recomputed from the ledger."""
        return StudyFolder(self.folder).document()

    def front(self) -> list[dict[str, Any]]:
        """The points of the front, smallest first, as in front.json."""
        points: list[dict[str, Any]] = self.document["points"]
        return points

    def to_pandas(self) -> pd.DataFrame:
        """The front, a row a student: trial, family, strategy, params, bytes, flops, score (the study's quality on validation), retention (of the
        teacher's score) and ratio (the teacher's parameters / the student's)."""
        import pandas as pd

        columns = ["trial", "family", "strategy", "params", "bytes", "flops", "score", "retention", "ratio"]
        return pd.DataFrame(front.rows(self.document), columns=columns)

    def __repr__(self) -> str:
        document = self.document
        quality, scores = document["objectives"][0], [row["score"] for row in front.rows(document)]
        found = f"{len(scores)} students on the front, {quality} {min(scores):.4f} to {max(scores):.4f}" if scores else "no student yet"
        return f"<Study {self.folder}: {found}>"

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html(index=False, float_format="{:.4g}".format)

    def student(self, trial: int) -> Student:
        """A trained student by its trial's number.

        Raises:
            InputError: that trial left no student.
        """
        return StudyFolder(self.folder).student(trial)

    def config(self) -> dict[str, Any]:
        """study.yaml, the resolved study."""
        return study_file.resolved(StudyFolder(self.folder).config())

    def pick(
        self,
        *,
        trial: int | None = None,
        max_params: int | None = None,
        max_bytes: int | None = None,
        max_latency_ms: float | None = None,
        min_retention: float | None = None,
        knee: bool = False,
    ) -> Student:
        """One student of the front, by the rule of `kdsearch pick`: at most one of these, see results.choose.Rule; without any, the best score.

        Raises:
            InputError: more than one rule, or a trial that left no student.
            VerdictNo: nothing fits.
            EnvironmentProblem: a rule on latency needs the extra kdsearch[deploy].
        """
        from kdsearch.deploy.pick import FinishedStudy, choice

        rule = Rule(trial, max_params, max_bytes, max_latency_ms, min_retention, knee)
        source = FinishedStudy.open(self.folder)
        return source.student(choice(source, rule, lambda *_: None).point)
