"""What a plugin's class must be, and how its instances become JSON and come back. Every mistake is one PluginError."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import keyword
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticSerializationError

from kdsearch.api import Family, Signal, Strategy, TeacherRole
from kdsearch.errors import PluginError, did_you_mean
from kdsearch.io.text import first_line

Plugin = type[Strategy | Family]
HOOKS: dict[str, type[Strategy | Family]] = {"kdsearch_strategies": Strategy, "kdsearch_families": Family}
_CLASS_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    Strategy: ("name", "source", "teacher", "reads", "each_teacher", "staged"),
    Family: ("name", "source", "provides", "lr_scale", "bfloat16"),
}


def kind_of(base: type) -> str:
    return "strategy" if base is Strategy else "family"


def check_name(name: str, where: str) -> None:
    """A name becomes part of knob names and file names, so it has to be an identifier."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise PluginError(
            f"{where}: {name!r} cannot be the name of a plugin: use letters, digits and underscores, not starting with a digit"
        )


def check_yielded(yielded: object, hook: str, where: str) -> Plugin:
    """Whether a hook's value is a usable class.

    Args:
        yielded: what the hook yielded.
        hook: the hook's name, which says which contract applies.
        where: the plugin as the message names it.

    Raises:
        PluginError: the first mistake found, with its fix.
    """
    base = HOOKS[hook]
    if not isinstance(yielded, type):
        if isinstance(yielded, Strategy | Family):
            name = type(yielded).__name__
            raise PluginError(f"{where}: {hook} yields an instance: write `yield {name}`, not `yield {name}(...)`")
        raise PluginError(f"{where}: {hook} yields {_short(yielded)}, which is not a class: yield a subclass of kdsearch.{base.__name__}")
    if not issubclass(yielded, base):
        for other_hook, other in HOOKS.items():
            if issubclass(yielded, other):
                raise PluginError(f"{where}: {yielded.__name__} is a {kind_of(other)}, not a {kind_of(base)}: yield it from {other_hook}")
        raise PluginError(
            f"{where}: {yielded.__name__} is not a subclass of kdsearch.{base.__name__}: derive it from kdsearch.{base.__name__}"
        )
    where = f"{where}: class {yielded.__name__}"
    if missing := sorted(getattr(yielded, "__abstractmethods__", ())):
        raise PluginError(f"{where} lacks {', '.join(f'{name}()' for name in missing)}: a {kind_of(base)} has to have it, see kdsearch.api")
    _check_dataclass(yielded, base, where)
    _check_attributes(yielded, where)
    for name, contract in vars(base).items():
        if not name.startswith("_") and (inspect.isfunction(contract) or isinstance(contract, classmethod)):
            _check_method(yielded, name, contract, where)
    _check_near_misses(yielded, base, where)
    _adapter(yielded, where)
    return yielded


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_dataclass(cls: type, base: type, where: str) -> None:
    parameters = cls.__dict__.get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise PluginError(f"{where} is not a frozen dataclass: put @dataclass(frozen=True) above it")
    names = {each.name for each in fields(cls)}
    for attribute in _CLASS_ATTRIBUTES[base]:
        if attribute in names:
            raise PluginError(
                f"{where}: {attribute!r} is a field, but belongs to the class: write `{attribute} = ...` without a type, "
                f"or `{attribute}: ClassVar[...] = ...`"
            )


def _check_attributes(cls: Plugin, where: str) -> None:
    for attribute in ("name", "source"):
        value = getattr(cls, attribute, None)
        if not isinstance(value, str) or not value.strip():
            meaning = "the name that studies use" if attribute == "name" else "the paper and equation, or where the idea comes from"
            raise PluginError(f'{where} lacks {attribute!r}: add `{attribute} = "..."`, {meaning}')
    check_name(cls.name, where)
    if issubclass(cls, Strategy):
        if not isinstance(cls.teacher, TeacherRole):
            roles = ", ".join(f"TeacherRole.{role.name}" for role in TeacherRole)
            raise PluginError(f"{where}: teacher = {_short(cls.teacher)} is none of {roles}")
        if not isinstance(cls.reads, Signal):
            raise PluginError(f"{where}: reads = {_short(cls.reads)} is none of {', '.join(f'Signal.{signal.name}' for signal in Signal)}")
        if cls.each_teacher and cls.teacher is not TeacherRole.FROZEN:
            raise PluginError(f"{where}: each_teacher is for frozen teachers: leave it out, or set teacher = TeacherRole.FROZEN")
        if not isinstance(cls.staged, bool):
            raise PluginError(f"{where}: staged = {_short(cls.staged)} is neither True nor False")
        return
    provides = getattr(cls, "provides", None)
    if not isinstance(provides, frozenset) or not all(isinstance(signal, Signal) for signal in provides) or Signal.LOGITS not in provides:
        raise PluginError(f"{where}: `provides` has to be a frozenset of kdsearch.Signal with at least Signal.LOGITS")
    if isinstance(cls.lr_scale, bool) or not isinstance(cls.lr_scale, int | float) or not 0 < cls.lr_scale < float("inf"):
        raise PluginError(f"{where}: lr_scale = {_short(cls.lr_scale)} is not a number above 0")


def _parameters(function: Any) -> list[str]:
    # str(parameter) would add annotations and defaults: only * and ** count as part of a name here
    return [str(each.replace(annotation=each.empty, default=each.empty)) for each in inspect.signature(function).parameters.values()]


def _check_method(cls: type, name: str, contract: Any, where: str) -> None:
    own = inspect.getattr_static(cls, name)
    if own is contract:
        return
    if isinstance(contract, classmethod):
        wanted = _parameters(contract.__func__)
        if not isinstance(own, classmethod):
            raise PluginError(f"{where}: {name}({', '.join(wanted)}) has to be a class method: put @classmethod above it")
        found = _parameters(own.__func__)
    else:
        wanted = _parameters(contract)
        if not inspect.isroutine(own) or isinstance(own, classmethod | staticmethod):
            raise PluginError(f"{where}: {name} has to be a method, {name}({', '.join(wanted)})")
        found = _parameters(own)
    if found[1:] != wanted[1:]:
        raise PluginError(f"{where}: {name}({', '.join(found)}) has the wrong parameters: write {name}({', '.join(wanted)})")


def _check_near_misses(cls: type, base: type, where: str) -> None:
    """A misspelt optional method would be ignored in silence: `fit` instead of `fits`."""
    known = {name for name in vars(base) if not name.startswith("_")}
    for ancestor in cls.__mro__:
        if ancestor is base:
            return
        for name, own in vars(ancestor).items():
            if name.startswith("_") or name in known or not (inspect.isfunction(own) or isinstance(own, classmethod)):
                continue
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            contract = vars(base)[near[0]] if near else None
            if not (inspect.isfunction(contract) or isinstance(contract, classmethod)):
                continue
            if _parameters(getattr(own, "__func__", own))[1:] == _parameters(getattr(contract, "__func__", contract))[1:]:
                raise PluginError(
                    f"{where}: nothing calls a method {name!r}. Did you mean {near[0]!r}? Otherwise give it a name of its own"
                )


@functools.cache
def _adapter(cls: Plugin, where: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(cls)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError, NameError, TypeError) as problem:
        reason = first_line(problem)
        raise PluginError(
            f"{where}: its fields have to be JSON (numbers, strings, booleans, None, enums, tuples of these): {reason}"
        ) from problem


def _named(cls: type) -> str:
    return f"{getattr(cls, 'name', cls.__name__)} (class {cls.__name__})"


def dump(instance: Strategy | Family) -> dict[str, Any]:
    """The fields of a strategy or family as JSON values: what the ledger keeps and a worker receives.

    Raises:
        PluginError: a field holds something that JSON cannot.
    """
    where = _named(type(instance))
    try:
        value = _adapter(type(instance), where).dump_python(instance, mode="json", warnings="error")
        json.dumps(value, allow_nan=False)
    except (PydanticSerializationError, ValueError, TypeError) as problem:
        first = first_line(problem)
        raise PluginError(
            f"{where}: suggest() gave a field that does not fit its type or JSON: {first}; values: {_short(instance)}"
        ) from problem
    return dict(value)


def construct(cls: Plugin, values: Mapping[str, Any]) -> Any:
    """An instance from JSON values; lists become tuples and strings become enums where the field says so.

    Raises:
        PluginError: a field is unknown, missing or of another type.
    """
    where = _named(cls)
    known = [each.name for each in fields(cls) if each.init]
    for name in values:
        if name not in known:
            raise PluginError(f"{where}: no field {name!r}.{did_you_mean(name, known) or ' It has no fields.'}")
    try:
        return _adapter(cls, where).validate_json(json.dumps(dict(values), allow_nan=False), strict=True)
    except ValidationError as problem:
        raise PluginError(f"{where}: {'; '.join(_complaints(problem.errors(), values))}") from problem
    except (TypeError, ValueError) as problem:
        raise PluginError(f"{where}: fields {_short(dict(values))} do not make an instance: {problem}") from problem


def _complaints(errors: Iterable[Any], values: Mapping[str, Any]) -> Iterable[str]:
    for error in errors:
        field = ".".join(map(str, error["loc"]))
        if error["type"] == "missing":
            yield f"field {field!r} is missing"
        elif field:
            yield f"field {field!r} is {_short(values.get(str(error['loc'][0])))}: {error['msg'].lower()}"
        else:
            yield str(error["msg"])
