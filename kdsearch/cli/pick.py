"""`kdsearch pick`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from kdsearch.cli.options import Format, FormatOption, Moved, StudyDir


def pick(
    study_dir: StudyDir,
    trial: Annotated[int | None, typer.Option(help="This trial, on the front or not.")] = None,
    max_params: Annotated[str | None, typer.Option(metavar="SIZE", help="The best with at most so many parameters: 2M, 500k.")] = None,
    max_bytes: Annotated[str | None, typer.Option(metavar="SIZE", help="The best with at most so large a model.safetensors: 4MB.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="The best that answers one text within so many milliseconds: ONNX fp32, one thread, p50.")
    ] = None,
    min_retention: Annotated[
        float | None,
        typer.Option(help="The smallest that keeps this fraction of the teacher's score, 0.97: on test if confirmed, else on validation."),
    ] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The most score for its size.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The folder to write into. [default: deployed/STUDY-TRIAL]")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write onnx/model.onnx and predict.py too.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Write onnx/model_quantized.onnx too; includes --onnx.")] = False,
    max_drop: Annotated[float, typer.Option(help="Points of the study's metric that int8 may lose against fp32.")] = 1.0,
    push_to_hub: Annotated[str | None, typer.Option(metavar="REPO", help="Push the folder there when all checks pass; private.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Push it as a public repository.")] = False,
    sets: Moved = None,
    format: FormatOption = Format.table,
) -> None:
    """Choose one student, export it, and prove the export. Without a rule: the best score on validation. Exit 1: nothing fits, or a FAIL."""
    from kdsearch.config.schema import parse_size
    from kdsearch.results.choose import Rule

    rule = Rule(
        trial=trial,
        max_params=None if max_params is None else parse_size(max_params),
        max_bytes=None if max_bytes is None else parse_size(max_bytes),
        max_latency_ms=max_latency_ms,
        min_retention=min_retention,
        knee=knee,
    )
    from kdsearch.deploy.pick import Export
    from kdsearch.deploy.pick import pick as run
    from kdsearch.deploy.show import tell_verdict

    console = Console(stderr=format is Format.json)
    done = run(study_dir, rule, Export(out, onnx, int8, max_drop, push_to_hub, public), console, sets or ())
    if format is Format.json:
        typer.echo(json.dumps({"folder": str(done.folder), **done.verdict}, indent=2, ensure_ascii=False))
    else:
        tell_verdict(console, done.verdict)
    console.print(f"written: {done.folder}/ (README.md, verdict.json, MANIFEST)", highlight=False, soft_wrap=True)
    if done.pushed is not None:
        console.print(f"pushed: {done.pushed}", highlight=False, soft_wrap=True)
    if not done.passed:
        failed = [check["what"] for check in done.verdict["checks"] if not check["passed"]]
        console.print(f"FAIL: {', '.join(failed)}" + ("; nothing was pushed" if push_to_hub else ""), style="red", highlight=False)
        raise typer.Exit(1)
