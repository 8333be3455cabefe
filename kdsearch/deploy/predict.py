#!/usr/bin/env python3
"""Labels for texts, from the ONNX files beside this script. Needs onnxruntime, tokenizers and numpy, nothing else.

    python predict.py < texts.txt          one text a line, a tab between the two of a pair; one label a line comes back, as it is ready
    python predict.py --file texts.txt --scores

With --scores, tab-separated probabilities follow the label, in the order of "labels" in kdsearch.json. A regression prints its number; of a
student that gives a text several labels they are joined by "|".
In a program: Predictor(folder).labels(["a text"]).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnxruntime
import tokenizers

MODELS = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}


class Predictor:
    """A deployed student. Safe to share between threads."""

    def __init__(self, folder: str | os.PathLike[str], model: str | None = None, threads: int = 1) -> None:
        """
        Args:
            folder: what `kdsearch pick --onnx` wrote.
            model: fp32 | int8; default int8 where it is there, since it is only there when it passed its check.
            threads: of one forward pass.

        Raises:
            FileNotFoundError: that model is not in the folder.
        """
        root = Path(folder)
        record: dict[str, Any] = json.loads((root / "kdsearch.json").read_text(encoding="utf-8"))
        reads = record["deployed"]
        self.names: list[str] = record["labels"]
        self.pairs: bool = reads["pairs"]
        self.activation: str | None = reads["activation"]  # softmax: one label a text; sigmoid: any number of them; None: a value
        self._pad: int = reads["pad"]
        self.model = model or ("int8" if (root / MODELS["int8"]).exists() else "fp32")
        path = root / MODELS[self.model]
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there: export again with {'--onnx --int8' if self.model == 'int8' else '--onnx'}")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(root / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(record["max_length"], strategy="longest_first", direction=reads["truncation_side"])
        options = onnxruntime.SessionOptions()
        # onnxruntime would take a thread for each core of the machine, whatever share of it is ours
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [each.name for each in self._session.get_inputs()]

    def tokenise(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The model's inputs, (B, S) int64 each, padded to the longest text."""
        rows = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        encoded = self._tokenizer.encode_batch(rows)
        shape = len(encoded), max(1, *(len(row.ids) for row in encoded))
        ids, mask, types = np.full(shape, self._pad, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for number, row in enumerate(encoded):
            length = len(row.ids)
            ids[number, :length] = row.ids
            mask[number, :length] = 1
            types[number, :length] = row.type_ids
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: feeds[name] for name in self.inputs}

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """(B, C) float32 logits."""
        logits: np.ndarray = self._session.run(["logits"], inputs)[0]
        return logits

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """(B, C) float32; all texts in one batch."""
        return self.run(self.tokenise(texts, pairs))

    def labels(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        """A label for each text; a list of them where it may have several; for a regression a number."""
        return self.named(self.logits(texts, pairs))

    def named(self, logits: np.ndarray) -> list[Any]:
        """Logits (B, C) as labels, or as numbers for a regression."""
        if self.activation is None:
            return [float(value) for value in logits[:, 0]]
        if self.activation == "sigmoid":
            return [[self.names[index] for index in np.flatnonzero(row > 0)] for row in logits]
        return [self.names[index] for index in logits.argmax(-1)]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Of the same shape; for labels alone."""
        if self.activation == "sigmoid":
            return 1 / (1 + np.exp(-logits))
        raised = np.exp(logits - logits.max(-1, keepdims=True))
        shares: np.ndarray = raised / raised.sum(-1, keepdims=True)
        return shares


def _cell(answer: Any) -> str:
    if isinstance(answer, float):
        return f"{answer:.6g}"
    return "|".join(answer) if isinstance(answer, list) else str(answer)


def _lines(stream: BinaryIO, count: int, pairs: bool) -> Iterator[tuple[list[str], list[str] | None]]:
    """(texts, second texts) of `count` lines at a time."""
    texts: list[str] = []
    seconds: list[str] = []
    for number, raw in enumerate(stream, start=1):
        try:
            line = raw.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"line {number}: not UTF-8") from None
        if pairs:
            parts = line.split("\t")
            if len(parts) != 2:
                raise ValueError(
                    f"line {number}: a pair needs its two texts with one tab between them, this line has {len(parts) - 1} tabs"
                )
            seconds.append(parts[1])
            line = parts[0]
        texts.append(line)
        if len(texts) == count:
            yield texts, seconds if pairs else None
            texts, seconds = [], []
    if texts:
        yield texts, seconds if pairs else None


def main() -> int:
    folder = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Labels for texts: one text a line in, one label a line out.")
    parser.add_argument("--file", type=Path, help="read the texts from this file instead of standard input")
    parser.add_argument("--scores", action="store_true", help="add the probabilities, tab-separated, in the order of the labels")
    parser.add_argument("--model", choices=sorted(MODELS), help="default: int8 where it is there (it passed its check), else fp32")
    parser.add_argument("--threads", type=int, default=1, help="threads of one forward pass (default 1)")
    parser.add_argument(
        "--batch", type=int, default=1, help="texts at a time (default 1: an int8 answer then never depends on the text's company)"
    )
    asked = parser.parse_args()
    if asked.threads < 1 or asked.batch < 1:
        parser.error("--threads and --batch are at least 1")
    try:
        predictor = Predictor(folder, asked.model, asked.threads)
        if asked.scores and predictor.activation is None:
            parser.error("--scores: this is a regression, it has no probabilities")
        with asked.file.open("rb") if asked.file else sys.stdin.buffer as stream:
            for texts, pairs in _lines(stream, asked.batch, predictor.pairs):
                logits = predictor.logits(texts, pairs)
                scores = predictor.probabilities(logits) if asked.scores else logits[:, :0]
                for answer, shares in zip(predictor.named(logits), scores, strict=True):
                    columns = [_cell(answer), *(f"{share:.6f}" for share in shares)]
                    sys.stdout.buffer.write(("\t".join(columns) + "\n").encode())
                sys.stdout.buffer.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
