"""The model card of an exported student: what it is, how good, how to use it, and where not to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from kdsearch import tasks
from kdsearch.io.text import markdown_table, score

_METRICS = {"macro_f1": "f1", "mcc": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}


def card(
    *,
    point: Mapping[str, Any],
    document: Mapping[str, Any],
    manifest: Mapping[str, Any],
    study: Mapping[str, Any],
    record: Mapping[str, Any],
    verdict: Mapping[str, Any],
    analysis: Mapping[str, Any] | None = None,
) -> ModelCard:
    """
    Args:
        point: of the front; document: front.json; manifest: the study's; study: study.yaml; record: the student's kdsearch.json;
        verdict: verdict.json; analysis: what `kdsearch confirm` found besides the mean, None where the point is not confirmed.
    """
    quality, task = document["objectives"][0], tasks.of(record["task"])
    name = f"{document['study']}-{point['trial']}"
    data = ModelCardData(
        model_name=name,
        pipeline_tag=task.pipeline,
        library_name="transformers" if record["family"]["stock"] else "onnx",
        base_model=_base_model(study),
        datasets=[study["data"]["hub"]] if study["data"]["hub"] else None,
        metrics=[_METRICS.get(quality, quality)],
        tags=["knowledge-distillation", "kdsearch"],
        eval_results=_results(point, quality, study, document["study"], task.pipeline),
    )
    parts = [
        f"# {name}",
        f"A student of {_teacher_name(study, manifest)}, found by kdsearch: {point['params']:,} parameters, "
        f"{document['teacher']['params'] / point['params']:.1f} times fewer than its teacher{'s together' if _several(study) else ''}.",
        *_scores(point, document, quality),
        *_changes(analysis),
        *_use(record, verdict),
        *_data(study, manifest, record),
        *_recipe(point, record),
        *_proof(verdict),
        *_limits(point, record, manifest, quality, analysis),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _hub_id(model: str | None) -> str | None:
    return model if model and model.count("/") == 1 and not model.startswith((".", "/", "~")) else None


def _several(study: Mapping[str, Any]) -> bool:
    return isinstance(study["teacher"], list)


def _base_model(study: Mapping[str, Any]) -> str | list[str] | None:
    if not _several(study):
        return _hub_id(study["teacher"]["model"])
    return [name for name in (_hub_id(each["model"]) for each in study["teacher"]) if name] or None


def _teacher_name(study: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    if _several(study):
        return f"the mean of {' and '.join(_short(each['preset'] or each['model']) for each in study['teacher'])}"
    return _short(study["teacher"]["preset"] or study["teacher"]["model"] or manifest["teacher"]["source"])


def _short(named: str) -> str:
    return f"`{str(named).rstrip('/').rsplit('/', 1)[-1]}`" if not _hub_id(named) else f"`{named}`"


def _results(point: Mapping[str, Any], quality: str, study: Mapping[str, Any], name: str, pipeline: str) -> list[EvalResult]:
    source = study["data"]["hub"] or study["data"]["preset"] or name
    confirmed = point["confirmed"]
    split, value = ("test", confirmed["test"][quality]) if confirmed else ("validation", point["validation"][quality])
    return [
        EvalResult(
            task_type=pipeline,
            dataset_type=source,
            dataset_name=source,
            dataset_split=split,
            metric_type=_METRICS.get(quality, quality),
            metric_value=value,
            metric_name=quality,
        )
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """The first column is left-aligned, the others right, or left too where they hold words."""
    return markdown_table(header, [[cell.replace("|", "\\|") for cell in row] for row in rows], len(header) if words else 1)


def _scores(point: Mapping[str, Any], document: Mapping[str, Any], quality: str) -> list[str]:
    teacher, confirmed = document["teacher"], point["confirmed"]
    metrics = list(point["validation"])
    own = confirmed["validation"] if confirmed else point["validation"]
    rows = [
        ["student, validation", *(score(own.get(metric)) for metric in metrics)],
        ["teacher, validation", *(score(teacher["validation"].get(metric)) for metric in metrics)],
    ]
    if not confirmed:
        note = (
            "The validation rows also chose this student among others, so its score there is a little too good. The test rows are still "
            "sealed: `kdsearch confirm` gives figures on them, with intervals."
        )
        return ["## How good", table(["", *metrics], rows), note]
    test = confirmed["test"]
    rows.insert(0, ["**student, test**", *(score(test.get(metric)) for metric in metrics)])
    if teacher["test"]:
        rows.insert(1, ["teacher, test", *(score(teacher["test"].get(metric)) for metric in metrics)])
    low, high = test["ci95"]
    text = f"On the test rows, which nothing was chosen by: {quality} {test[quality]:.4f}, "
    text += f"95 % interval {low:.4f} to {high:.4f}, mean of {test['seeds']} seeds."
    if confirmed["control"] is not None:
        text += f" The same student trained on the labels alone, without a teacher: {confirmed['control'][quality]:.4f}."
    if confirmed["recovered"] is not None:
        text += f" Fraction of the gap to the teacher that distillation closed: {confirmed['recovered']:.0%}."
    if confirmed["tied_with"]:
        text += f" The difference to trial {', '.join(str(trial) for trial in confirmed['tied_with'])} of the same study is within chance."
    deployed = confirmed["deployed"]["test"][quality]
    text += f" This folder holds the run that was in the middle on validation; it scores {deployed:.4f} on test."
    return ["## How good", table(["", *metrics], rows), text]


def _changes(analysis: Mapping[str, Any] | None) -> list[str]:
    """What changes for a user who replaces the teacher by the student, on the test rows."""
    if analysis is None:
        return []
    parts = ["## What changes beside the teacher"]
    agreement = analysis["agreement"]
    if "labels" in agreement:
        parts.append(f"On {analysis['rows']:,} test rows it gives the teacher's label to {agreement['labels']:.1%}.")
    else:
        parts.append(f"On {analysis['rows']:,} test rows its numbers correlate with the teacher's by {agreement['pearson']:.4f}.")
    if "classes" in analysis:
        both = zip(analysis["classes"]["student"], analysis["classes"]["teacher"], strict=True)
        rows = [
            [f"`{own['label']}`", str(own["rows"]), *(f"{each[key]:.3f}" for key in ("precision", "recall") for each in (own, other))]
            for own, other in both
        ]
        parts.append(table(["label", "rows", "precision", "teacher's", "recall", "teacher's"], rows))
        own, other = analysis["calibration"]["student"], analysis["calibration"]["teacher"]
        parts.append(
            f"Expected calibration error {own['ece']:.3f} (the teacher's {other['ece']:.3f}); with the logits divided by "
            f"{own['temperature']:.3g}, fitted on validation, {own['ece_fitted']:.3f}."
        )
    worst = [each for each in analysis["slices"] if each["lost"] > 0][:3]
    if worst:
        rows = [[each["slice"], f"{each['rows']:,}", f"{each['student']:.3f}", f"{each['teacher']:.3f}"] for each in worst]
        parts += ["Where it loses most:", table(["rows", "how many", "student", "teacher"], rows)]
    return parts


def _use(record: Mapping[str, Any], verdict: Mapping[str, Any]) -> list[str]:
    pairs, labels, task = record["deployed"]["pairs"], record["labels"], tasks.of(record["task"])
    parts = [
        "## Use",
        f"Labels, in the order of the logits: {', '.join(f'`{label}`' for label in labels)}." if labels else "It gives one number.",
    ]
    if record["family"]["stock"]:
        example = '{"text": "one text", "text_pair": "the other"}' if pairs else '"a text"'
        parts.append(
            "```python\nfrom transformers import pipeline\n\n"
            f'classify = pipeline("{task.pipeline}", model="this/folder")\nclassify({example}, truncation=True)\n```'
        )
    else:
        second = ', ["the other"]' if pairs else ""
        parts.append(
            f'```python\nimport kdsearch\n\nstudent = kdsearch.load_student("this/folder")\nstudent(["a text"]{second})\n```\n\n'
            "Its architecture is kdsearch's own; without kdsearch it runs as ONNX."
        )
    if verdict["onnx"]:
        what = "One text a line, a tab between the two of a pair" if pairs else "One text a line"
        parts.append(
            "As ONNX, with onnxruntime, tokenizers and numpy alone:\n\n"
            f"```sh\npython predict.py{' --scores' if task.probabilities else ''} < texts.txt\n```\n\n"
            f"{what}. It takes `onnx/model_quantized.onnx` where that is there, else `onnx/model.onnx`; `--model fp32` asks for the latter."
        )
    return parts


def _data(study: Mapping[str, Any], manifest: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    facts, source = manifest["data"], study["data"]
    where = source["preset"] or source["hub"] or "files of its maker"
    rows = ", ".join(f"{count:,} {role}" for role, count in facts["rows"].items() if count)
    text = f"Data: {where}; rows: {rows}; split seed {source['split_seed']}; texts cut at {record['max_length']} tokens."
    if facts["carved"]:
        text += f" {' and '.join(facts['carved']).capitalize()} were carved out of train."
    dropped = sum(facts["dropped"].values())
    if dropped:
        text += f" {dropped:,} rows that also stood in validation or test were dropped."
    return ["## Data", text, f"Fingerprint of the data `{facts['fingerprint']}`, of the split `{facts['split']}`."]


def _recipe(point: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    spec, config = record["spec"], point["config"]
    rows = [["family", f"{point['family']}: {_fields(config['family'])}"]]
    rows.append(["strategy", f"{point['strategy']}: {_fields(config['strategy'])}" if config["strategy"] else point["strategy"]])
    rows.append(["training", f"{_fields(config['training'])}, epochs {spec['epochs']:g}, seed {spec['seed']}"])
    return ["## Recipe", table(["", ""], rows, words=True)]


def _fields(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items() if value is not None
    )


def _proof(verdict: Mapping[str, Any]) -> list[str]:
    checks = table(
        ["check", "verdict", "found"], [[c["what"], "PASS" if c["passed"] else "FAIL", c["detail"]] for c in verdict["checks"]], words=True
    )
    rows = []
    for name, figures in verdict["latency"]["engines"].items():
        rows.append(
            [
                name,
                *(f"{figures[key]:.2f}" for key in ("ms_p50", "ms_p90", "ms_p95", "total_ms_p50")),
                f"{figures['texts_per_second']:,.0f}",
            ]
        )
    facts = verdict["latency"]
    machine = facts["machine"]
    where = f"{machine['cpu']}, {facts['threads']} thread, load {machine['load']}; milliseconds for one text of the validation rows."
    header = ["", "p50", "p90", "p95", "p50 with tokenisation", "texts/s at batch 32"]
    sizes = [
        [name, f"{size['bytes']:,}", f"{size['with_tokenizer']:,}", f"{size['smaller']:.1f}x"] for name, size in verdict["sizes"].items()
    ]
    return [
        "## Checked",
        checks,
        "## Speed and size",
        table(header, rows),
        where,
        table(["file", "bytes", "with tokenizer", "smaller than the teacher"], sizes),
    ]


def _limits(
    point: Mapping[str, Any], record: Mapping[str, Any], manifest: Mapping[str, Any], quality: str, analysis: Mapping[str, Any] | None
) -> list[str]:
    rows = manifest["data"]["rows"]["validation"]
    lines = [
        f"- It reads at most {record['max_length']} tokens of a text; the rest is cut off unread.",
        "- It was trained on texts of one kind; in another domain or language its answers mean little, however high its scores are.",
        "- It was trained on its teacher's predictions and its labels, and has their errors and biases.",
    ]
    if tasks.of(record["task"]).probabilities and analysis is None:
        lines.append("- Its probabilities are not calibrated: set thresholds on data of your own.")
    if not point["confirmed"]:
        lines.append(f"- Its {quality} was measured on {rows:,} validation rows only, and on one seed.")
    return ["## Limits", "\n".join(lines)]
