"""The keys of a study file, their types and defaults. study_file.py reads one."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from kdsearch.errors import InputError
from kdsearch.tasks import TASKS

COSTS = ("params", "bytes", "flops")
PRESETS = {"rotten_tomatoes": "classification"}  # a packaged set -> its task
PACKAGED = ("imdb",)  # unlabelled text that comes in the extra kdsearch[quickstart]

_SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_DURATION_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _size(value: Any) -> int:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", value, re.IGNORECASE)
        exact = Decimal(match[1]) * _SIZE_UNITS[match[2].lower()] if match else None
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        exact = Decimal(value)
    else:
        exact = None
    if exact is None or exact < 0 or exact != exact.to_integral_value():
        raise ValueError(f"{shown(value)} is not a size: write a whole number, or 500k, 2M, 4MB, 2GB (k is 1,000)")
    return int(exact)


def _duration(value: Any) -> float:
    seconds = None
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", value)
        seconds = float(match[1]) * _DURATION_UNITS[match[2]] if match else None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    if seconds is None or not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"{shown(value)} is not a duration: write 90s, 30m, 2h, or seconds greater than 0")
    return seconds


def parse_size(value: str | int) -> int:
    """'2M', '500k', '4MB' or a whole number -> number of parameters, bytes or FLOPs; units are decimal.

    Raises:
        InputError: not a size.
    """
    try:
        return _size(value)
    except ValueError as problem:
        raise InputError(str(problem)) from None


def shown(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{shown(value)} is not a number")
    return value


def _scalar(value: Any) -> Any:
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        return _number(value)
    raise ValueError(f"{shown(value)} is not a single value (a number, text, true or false)")


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ValueError(
            f"{shown(value)} cannot name a study: letters, digits, '.', '_' and '-' only, a letter or digit first, at most 100, no path"
        )
    return value


def _task(value: str) -> str:
    if value not in TASKS:
        raise ValueError(f"{shown(value)} is not one of {' or '.join(map(repr, TASKS))}")
    return value


def _plain_path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _label_name(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{shown(value)} stands there twice")
    return values


def _problem(message: str, *path: str) -> ValidationError:
    """A problem of several keys together, reported at one of them."""
    error = PydanticCustomError("study", "{message}", {"message": message})
    return ValidationError.from_exception_data("study", [{"type": error, "loc": path, "input": None}])


Size = Annotated[int, BeforeValidator(_size)]
Duration = Annotated[float, BeforeValidator(_duration)]
Text = Annotated[str, Field(min_length=1)]
PathText = Annotated[str, BeforeValidator(_plain_path), Field(min_length=1)]
Names = Annotated[tuple[Text, ...], Field(strict=False, min_length=1), AfterValidator(_unique)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FilesConfig(_Section):
    """csv, tsv, json, jsonl or parquet; a missing validation or test is carved out of train."""

    train: PathText
    validation: PathText | None = None
    test: PathText | None = None


class DataConfig(_Section):
    """Where the rows come from: exactly one of preset, hub, files."""

    preset: Literal["rotten_tomatoes"] | None = None
    hub: PathText | None = None  # an id, id:configuration, or a folder written by `datasets`
    files: FilesConfig | None = None
    text: Text = "text"
    text_pair: Text | None = None
    label: Text = "label"
    bad_rows: Literal["refuse", "drop"] = "refuse"  # those without a text or a usable label, and lines that are no rows
    unlabelled: PathText | None = None  # a file, or imdb: sentences of the packaged reviews
    max_unlabelled: Annotated[int, Field(ge=1)] | None = None
    augment: Annotated[int, Field(ge=0, le=50)] = 0  # variants of each training text, labelled by the teacher alone
    split_seed: Seed = 0
    max_length: Annotated[int, Field(ge=4)] = 64  # tokens, special ones included
    max_train: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("preset", "hub", "files") if getattr(self, key) is not None]
        if len(given) != 1:
            there = f"are {', '.join(given)}" if given else "is none"
            raise ValueError(f"exactly one of preset, hub, files is needed; there {there}")
        columns = {"text": self.text, "text_pair": self.text_pair, "label": self.label}
        for key, column in columns.items():
            for other, same in columns.items():
                if other < key and column is not None and column == same:
                    raise _problem(f"the same column as data.{other}: {column!r}", key)
        return self


class FineTune(_Section):
    """How a backbone becomes a teacher."""

    epochs: Count = 3
    lr: Annotated[float, Field(gt=0)] = 5e-5


def _finetune(value: Any) -> Any:
    if isinstance(value, FineTune) or value in ("auto", "never"):
        return value
    if isinstance(value, Mapping):
        return FineTune.model_validate(dict(value))
    raise ValueError(f"{shown(value)} is not auto, never or {{epochs: 3, lr: 5.0e-5}}")


class TeacherConfig(_Section):
    """Exactly one of model (a folder or Hub id) and preset."""

    model: PathText | None = None
    preset: Literal["minilm"] | None = None
    finetune: Annotated[Literal["auto", "never"] | FineTune, BeforeValidator(_finetune)] = "auto"
    labels: Annotated[tuple[Annotated[Text, BeforeValidator(_label_name)], ...], Field(strict=False), AfterValidator(_unique)] | None = None

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.preset is None):
            raise ValueError(f"exactly one of model, preset is needed; there {'is none' if self.model is None else 'are both'}")
        return self


_TEACHERS = TypeAdapter(Annotated[tuple[TeacherConfig, ...], Field(strict=False)])


def _teachers(value: Any) -> Any:
    """One teacher or a list of them; a list of one is that one, so that both write the same study."""
    if isinstance(value, TeacherConfig):
        return value
    if isinstance(value, Mapping):
        return TeacherConfig.model_validate(dict(value))
    if not isinstance(value, list | tuple):
        raise ValueError(f"{shown(value)} is not a group of keys, nor a list of such groups")
    if not value:
        raise ValueError("empty: it needs at least one entry")
    found = _TEACHERS.validate_python(value)
    for index, one in enumerate(found):
        if one in found[:index]:
            raise _problem(f"the same as teacher[{found.index(one)}]: leave one of them out", str(index))
    return found[0] if len(found) == 1 else found


class KnobOverride(_Section):
    """How a study may restrict a hyperparameter other than by a single value: a range, open at either end, or choices."""

    min: Annotated[Any, AfterValidator(_number)] = None
    max: Annotated[Any, AfterValidator(_number)] = None
    choices: Annotated[tuple[Annotated[Any, AfterValidator(_scalar)], ...], Field(strict=False, min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = self.model_fields_set
        if not given or ("choices" in given and len(given) > 1):
            raise ValueError("give a value, {min, max} or {choices: [...]}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"range reversed: min {self.min!r} is greater than max {self.max!r}")
        if self.choices is not None:
            for position, choice in enumerate(self.choices):
                if choice in self.choices[:position]:
                    raise _problem(f"{shown(choice)} stands there twice", "choices")
        return self


def _knob(value: Any) -> Any:
    """The override as plain data, the form that `kdsearch.space.knobs.Knobs` takes."""
    if isinstance(value, Mapping):
        return KnobOverride.model_validate(dict(value)).model_dump(mode="json", exclude_unset=True)
    return _scalar(value)


class SpaceConfig(_Section):
    families: Names = ("transformer",)  # whether there are such plugins is checked in kdsearch.registry
    strategies: Names = ("hard", "logit", "feature", "joint")
    knobs: dict[str, Annotated[Any, AfterValidator(_knob)]] = {}


class Limits(_Section):
    params: Annotated[Size, Field(gt=0)] | None = None
    bytes: Annotated[Size, Field(gt=0)] | None = None
    flops: Annotated[Size, Field(gt=0)] | None = None


def _limits(value: Any) -> Any:
    return Limits.model_validate(dict(value)).model_dump(exclude_none=True) if isinstance(value, Mapping) else value


def _objectives(value: tuple[str, ...]) -> tuple[str, ...]:
    qualities = [quality for task in TASKS.values() for quality in task.qualities]
    if len(value) != 2 or value[0] not in qualities or value[1] not in COSTS:
        raise ValueError(
            f"{shown(list(value))} is not [quality, cost] in this order: quality {' | '.join(qualities)}; cost {' | '.join(COSTS)}"
        )
    return value


class Resources(_Section):
    """What one trial takes."""

    cpu: Count = 1
    gpu: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        if self.gpu > 1:
            raise _problem(f"{self.gpu:g} is more than a trial uses: it trains on one GPU, so write 1, or a fraction such as 0.25", "gpu")
        return self


class SearchConfig(_Section):
    trials: Count = 40
    minutes: Annotated[float, Field(gt=0)] | None = None
    objectives: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_objectives)] = ("accuracy", "params")
    limits: Annotated[dict[str, int], BeforeValidator(_limits)] = {}  # cost -> the most that a student may have
    sampler: Literal["auto", "value", "tpe", "nsga2", "random"] = "auto"
    early_stopping: bool = True
    epochs: Count = 3
    resources: Resources = Resources()
    trial_timeout: Duration = 1800.0  # seconds


class ConfirmConfig(_Section):
    seeds: Count = 3
    top: Count = 5


class CacheConfig(_Section):
    max_bytes: Size = 2 * 10**9


class StudyConfig(_Section):
    """A study, complete: what the file leaves out has its default. Paths are absolute once it was loaded; `written` has them as they stood."""

    name: Annotated[str, AfterValidator(_name)]
    seed: Seed = 0
    task: Annotated[str, AfterValidator(_task)] = next(iter(TASKS))
    data: DataConfig
    teacher: Annotated[TeacherConfig | tuple[TeacherConfig, ...], BeforeValidator(_teachers)]  # the first of several is the main one
    space: SpaceConfig = SpaceConfig()
    search: SearchConfig = SearchConfig()
    confirm: ConfirmConfig = ConfirmConfig()
    cache: CacheConfig = CacheConfig()
    plugins: Annotated[tuple[PathText, ...], Field(strict=False), AfterValidator(_unique)] = ()

    _written: dict[tuple[str, ...], Any] = PrivateAttr(default_factory=dict)
    _base: Path = PrivateAttr(default_factory=Path.cwd)

    @property
    def written(self) -> Mapping[tuple[str, ...], Any]:
        """Key -> the paths of this study as they were written, those alone that loading made absolute."""
        return self._written

    @property
    def base(self) -> Path:
        """The folder in which its relative paths are looked up first."""
        return self._base

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StudyConfig) and self.model_dump() == other.model_dump()

    @property
    def teachers(self) -> tuple[TeacherConfig, ...]:
        """All of them, the main one first."""
        return self.teacher if isinstance(self.teacher, tuple) else (self.teacher,)

    @model_validator(mode="before")
    @classmethod
    def _objectives_follow_the_task(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("task", next(iter(TASKS))) not in TASKS:
            return values
        search = values.get("search", {})
        if isinstance(search, Mapping) and search.get("objectives") is None:
            return {**values, "search": {**search, "objectives": [TASKS[values.get("task", next(iter(TASKS)))].qualities[0], "params"]}}
        return values

    @model_validator(mode="after")
    def _fits_the_task(self) -> Self:
        quality, cost = self.search.objectives
        task = TASKS[self.task]
        if quality not in task.qualities:
            raise _problem(
                f"{quality!r} does not fit task: {self.task}: write [{' | '.join(task.qualities)}, {cost}]", "search", "objectives"
            )
        for index, one in enumerate(self.teachers):
            if not task.named and one.labels is not None:
                where = ("teacher", str(index)) if len(self.teachers) > 1 else ("teacher",)
                raise _problem(f"a {self.task} has no label names: leave it out", *where, "labels")
        if not task.probabilities and "label_smoothing" in self.space.knobs:
            raise _problem(f"a {self.task} has no classes to spread a label over: leave it out", "space", "knobs", "label_smoothing")
        if self.data.preset is not None and self.task != PRESETS[self.data.preset]:
            raise _problem(f"{self.data.preset} is a {PRESETS[self.data.preset]}: set task: {PRESETS[self.data.preset]}", "data", "preset")
        return self
