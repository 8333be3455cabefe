"""The exported folder where nothing of ours is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import deploying
import pytest
from rich.console import Console

from kdsearch.deploy.pick import Export, pick
from kdsearch.results.choose import Rule

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
STOCK = """
import sys, transformers
texts = sys.stdin.read().split("\\n")
classify = transformers.pipeline("text-classification", model=sys.argv[1], device="cpu")
print("\\n".join(answer["label"] for answer in classify(texts, truncation=True)))
"""


def clean(folder: Path, *packages: str) -> str:
    """A new environment with these packages alone; returns its Python."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    for package in packages:  # torch first and alone: a plain requirement would take the CUDA build
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS), *package.split()], check=True)
    return python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_folder_serves_in_clean_environments(tmp_path: Path) -> None:
    study = deploying.make(tmp_path / "world")
    done = pick(study, Rule(), Export(tmp_path / "out", onnx=True), Console(file=sys.stderr))
    assert done.passed
    texts, _, said = deploying.labels_of(study)
    plain = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    runtime = clean(tmp_path / "runtime", "onnxruntime tokenizers numpy")
    stock = clean(tmp_path / "stock", "torch==2.13.0", "transformers")
    for command in ([runtime, str(done.folder / "predict.py")], [stock, "-c", STOCK, str(done.folder)]):
        missing = subprocess.run([command[0], "-c", "import kdsearch"], capture_output=True, check=False, cwd=tmp_path, env=plain)
        assert missing.returncode == 1
        run = subprocess.run(command, input="\n".join(texts), capture_output=True, text=True, check=False, cwd=tmp_path, env=plain)
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines() == said.tolist()
