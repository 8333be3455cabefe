"""The study file in, a frozen `StudyConfig` out. Every mistake is named by file, line and key, all of them at once."""

from __future__ import annotations

import copy
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kdsearch.config import yamlfile
from kdsearch.config.schema import (
    PACKAGED,
    CacheConfig,
    ConfirmConfig,
    DataConfig,
    FilesConfig,
    FineTune,
    KnobOverride,
    Limits,
    Resources,
    SearchConfig,
    SpaceConfig,
    StudyConfig,
    TeacherConfig,
    shown,
)
from kdsearch.errors import InputError, did_you_mean

_SHOWN = 8  # problems listed; with the line that counts the rest, a message stays under ten lines

# the keys that exist at each level, for did-you-mean
_LEVELS: dict[tuple[str, ...], type[BaseModel]] = {
    (): StudyConfig,
    ("data",): DataConfig,
    ("data", "files"): FilesConfig,
    ("teacher",): TeacherConfig,
    ("teacher", "finetune"): FineTune,
    ("space",): SpaceConfig,
    ("search",): SearchConfig,
    ("search", "limits"): Limits,
    ("search", "resources"): Resources,
    ("confirm",): ConfirmConfig,
    ("cache",): CacheConfig,
}
# levels and lists that a file may leave empty, everything under them commented out
_MAY_BE_EMPTY = ("space", "space.knobs", "search", "search.limits", "search.resources", "search.objectives", "confirm", "cache", "plugins")

_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "model_type": "a group of keys",
    "dict_type": "a group of keys",
    "tuple_type": "a list",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _key_name(path: tuple[str, ...]) -> str:
    """A key as messages name it; one of several teachers as teacher[1]."""
    if path[:1] == ("teacher",) and path[1:2] and path[1].isdigit():
        path = (f"teacher[{path[1]}]", *path[2:])
    return ".".join(path)


def _what(error: ErrorDetails, path: tuple[str, ...]) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        level = tuple(part for part in path[:-1] if not (path[0] == "teacher" and part.isdigit()))
        known = _LEVELS.get(level, KnobOverride).model_fields
        return f"unknown key.{did_you_mean(path[-1], known)}"
    if kind == "invalid_key" or error["loc"][-1:] == ("[key]",):
        return "this key is not text: put it in quotes"
    if kind == "missing":
        return "missing"
    if kind in _WANTED:
        advice = ": put it in quotes" if kind == "string_type" and isinstance(value, int | float) else ""
        return f"{shown(value)} is not {_WANTED[kind]}{advice}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{shown(value)} is out of range: it must be {words} {context[name]}"
    if kind == "literal_error":
        return f"{shown(value)} is not one of {context['expected']}"
    if kind in ("too_short", "string_too_short"):
        return "empty: it needs at least one entry" if kind == "too_short" else "empty"
    if kind == "value_error":
        return str(context["error"])
    return error["msg"]


def _message(problem: ValidationError, where: str, document: yamlfile.Parsed, sets: Mapping[tuple[str, ...], str]) -> str:
    ranked = []
    for error in problem.errors(include_url=False):
        path = tuple(str(part) for part in error["loc"] if part != "[key]")
        line = document.line(path)
        at = where if line is None else f"{where}, line {line}"
        for changed, text in sets.items():
            if path[: len(changed)] == changed:
                line, at = -1, f"--set {text}"
        ranked.append((line or math.inf, ": ".join(part for part in (at, _key_name(path), _what(error, path)) if part)))
    lines = [text.replace("\n", " ") for _, text in sorted(ranked, key=lambda entry: entry[0])]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"{where}: and {len(lines) - _SHOWN} more problems"]
    return "\n".join(lines)


def _set_path(key: str) -> tuple[str, ...]:
    """Knob names have dots of their own: `space.knobs.transformer.layers.min` is the key `min` of the knob `transformer.layers`."""
    parts = key.split(".")
    if one := re.fullmatch(r"teacher\[(\d+)\]", parts[0]):
        return ("teacher", one[1], *parts[1:])
    if parts[:2] != ["space", "knobs"] or len(parts) <= 3:
        return tuple(parts)
    ends = -1 if parts[-1] in KnobOverride.model_fields else len(parts)
    return ("space", "knobs", ".".join(parts[2:ends]), *parts[ends:])


def _of_one_teacher(teachers: Any, path: tuple[str, ...], text: str) -> tuple[str, ...]:
    """The path to a teacher's key, in a list or not: `teacher.model` is the only one's, `teacher[1].model` the second's of several."""
    count = len(teachers) if isinstance(teachers, list) else 1
    named = int(path[1]) if path[1].isdigit() else None
    if count < 1 or (named is None and count > 1) or (named is not None and named >= count):
        raise InputError(
            f"--set {text}: the study has {count} teachers: write teacher[0] to teacher[{count - 1}], or teacher=[...] for all"
        )
    below = path[1:] if named is None else path[2:]
    if isinstance(teachers, list):
        return ("teacher", str(named or 0), *below)
    return ("teacher", *below)


def _with_sets(values: dict[str, Any], sets: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Change values in place; returns which path which option changed."""
    changed: dict[tuple[str, ...], str] = {}
    for text in sets:
        key, equals, raw = text.partition("=")
        path = _set_path(key.strip())
        if not equals or not all(path):
            raise InputError(f"--set {text}: write key.sub=value, such as search.trials=10")
        level, teachers = values, values.get("teacher")
        one_of_several = path[0] == "teacher" and len(path) > 1 and isinstance(teachers, list)
        if path[0] == "teacher" and len(path) > 1:
            path = _of_one_teacher(teachers, path, text)
        if one_of_several:
            level = {"teacher": {str(index): one for index, one in enumerate(teachers or ())}}
        root = level
        for depth, part in enumerate(path[:-1], start=1):
            if not isinstance(level.get(part), dict):
                level[part] = {}
                changed[path[:depth]] = text
            level = level[part]
        level[path[-1]] = yamlfile.parse(raw, f"--set {text}").value
        if one_of_several:
            values["teacher"] = list(root["teacher"].values())
        changed[path] = text
    return changed


def _absolute(text: str, folder: Path) -> str:
    path = os.path.expanduser(text)
    beside = os.path.join(folder, path)
    return os.path.abspath(beside if os.path.exists(beside) else path)


def _folder_or_id(text: str, folder: Path) -> str:
    local = text.startswith((".", "/", "~")) or os.path.isdir(os.path.join(folder, text)) or os.path.isdir(text)
    return _absolute(text, folder) if local else text


def _with_paths(config: StudyConfig, folder: Path) -> StudyConfig:
    """The study with absolute paths, knowing them as they were written."""
    written: dict[tuple[str, ...], Any] = {}

    def resolved(find: Callable[[str, Path], str], text: str | None, *key: str) -> str | None:
        if text is None:
            return None
        path = find(text, folder)
        if path != text:
            written[key] = text
        return path

    data, several = config.data, len(config.teachers) > 1
    teachers = tuple(
        one.model_copy(update={"model": resolved(_folder_or_id, one.model, "teacher", *([str(index)] if several else []), "model")})
        for index, one in enumerate(config.teachers)
    )
    roles = data.files.model_dump().items() if data.files else ()
    packaged = data.unlabelled in PACKAGED
    there = config.model_copy(
        update={
            "data": data.model_copy(
                update={
                    "files": data.files
                    and data.files.model_copy(update={role: resolved(_absolute, path, "data", "files", role) for role, path in roles}),
                    "hub": resolved(_folder_or_id, data.hub, "data", "hub"),
                    "unlabelled": data.unlabelled if packaged else resolved(_absolute, data.unlabelled, "data", "unlabelled"),
                }
            ),
            "teacher": teachers if several else teachers[0],
            "plugins": tuple(
                resolved(_absolute, entry, "plugins", str(index)) if entry.endswith(".py") else entry
                for index, entry in enumerate(config.plugins)
            ),
        }
    )
    there._written, there._base = written, folder.absolute()
    return there


def _validated(
    values: dict[str, Any], where: str, folder: Path, document: yamlfile.Parsed, sets: Mapping[tuple[str, ...], str]
) -> StudyConfig:
    for key in _MAY_BE_EMPTY:
        *above, last = key.split(".")
        level: Any = values
        for part in above:
            level = level.get(part) if isinstance(level, dict) else None
        if isinstance(level, dict) and last in level and level[last] is None:
            del level[last]
    try:
        config = StudyConfig.model_validate(values)
    except ValidationError as problem:
        raise InputError(_message(problem, where, document, sets)) from problem
    return _with_paths(config, folder)


def load(path: Path, sets: Sequence[str] = (), beside: Path | None = None) -> StudyConfig:
    """Read a study file.

    Args:
        path: the YAML file.
        sets: changes as 'key.sub=value', the value read as YAML.
        beside: where relative paths in it are looked up first, before the working directory; default the file's own folder.

    Raises:
        InputError: the file cannot be read or is not a study; all problems, at most ten lines.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = sorted(other.name for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise InputError(f"{path}: no such study file.{did_you_mean(path.name, near)}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file: a study file is YAML in UTF-8") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not a study file") from None
    except OSError as problem:
        raise InputError(f"{path}: cannot be read: {problem.strerror}") from problem
    document = yamlfile.parse(text, str(path))
    if document.value is None:
        raise InputError(f"{path}: empty: a study file needs at least name, data and teacher")
    if not isinstance(document.value, dict):
        raise InputError(f"{path}, line 1: not a study: keys such as name, data and teacher are needed, this is {shown(document.value)}")
    values = copy.deepcopy(document.value)
    changed = _with_sets(values, sets)
    return _validated(values, str(path), path.parent if beside is None else beside, document, changed)


def from_mapping(mapping: Mapping[str, Any], where: str = "study") -> StudyConfig:
    """A study from Python values, with the keys of the study file; relative paths start at the working directory.

    Raises:
        InputError: not a study; all problems, at most ten lines.
    """
    return _validated(_plain(mapping), where, Path(), yamlfile.Parsed(None), {})


def _plain(value: Any) -> Any:
    """Mappings as dicts and sequences as lists, copied."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def resolved(config: StudyConfig) -> dict[str, Any]:
    """The study as plain JSON values, every default written out and paths as they were written; `from_mapping` of it gives the same study."""
    values = config.model_dump(mode="json")
    for (*above, last), text in config.written.items():
        level: Any = values
        for part in above:
            level = level[int(part) if isinstance(level, list) else part]
        level[int(last) if isinstance(level, list) else last] = text
    return values


_FREE_ON_RESUME = ("search.trials", "search.minutes", "search.resources", "search.trial_timeout", "confirm")
# where something lies: what is in it is compared instead, by its fingerprint
_FILES = re.compile(r"data\.(files\.\w+|unlabelled)|plugins")
_FOLDERS_OR_IDS = re.compile(r"data\.hub|teacher(\[\d+\])?\.model")


def _by_content(key: str, *sides: Any) -> bool:
    if None in sides:
        return False
    return bool(_FILES.fullmatch(key)) or (
        bool(_FOLDERS_OR_IDS.fullmatch(key)) and any(str(side).startswith((".", "/", "~")) for side in sides)
    )


def _teachers(study: Mapping[str, Any]) -> list[Any]:
    found = study.get("teacher")
    return found if isinstance(found, list) else [found]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(below, Mapping) for below in value):
        for index, below in enumerate(value):
            yield from _leaves(below, f"{path}[{index}]")
    else:
        yield path, value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps a study from being resumed: one line 'key: old -> new' for each key that differs and may not."""
    several = max(len(_teachers(old)), len(_teachers(new))) > 1
    before, after = (dict(_leaves({**study, "teacher": _teachers(study)} if several else study)) for study in (old, new))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if any(key == free or key.startswith(f"{free}.") for free in _FREE_ON_RESUME):
            continue
        if _by_content(key, before.get(key), after.get(key)):
            continue
        if several and key.startswith("teacher[") and before.get(key) is after.get(key) is None:
            continue  # a default of a teacher that only one side has is no difference
        if key not in before or key not in after or before[key] != after[key]:
            sides = [json.dumps(side[key], ensure_ascii=False, default=str) if key in side else "(not there)" for side in (before, after)]
            lines.append(f"{key}: {sides[0]} -> {sides[1]}")
    return lines
