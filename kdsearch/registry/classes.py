"""What a plugin's class must be, and how its instances become JSON and come back. Every mistake is one PluginError."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import keyword
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, TypeVar, get_args

from annotated_types import Predicate
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from kdsearch.api import Family, Signal, Strategy, TeacherRole
from kdsearch.errors import PluginError, did_you_mean
from kdsearch.io.text import first_line

Plugin = type[Strategy | Family]
AnyPlugin = TypeVar("AnyPlugin", Strategy, Family)
HOOKS: dict[str, Plugin] = {"kdsearch_strategies": Strategy, "kdsearch_families": Family}
_MEANING = {"name": "the name that studies use", "source": "the paper and equation, or where the idea comes from"}
# By the declared type of a class attribute: what its value has to be, and the error for another one.
_RULES: dict[Any, tuple[Any, str]] = {
    str: (Annotated[str, Field(pattern=r"\S")], ' lacks {name!r}: add `{name} = "..."`, {meaning}'),
    bool: (bool, ": {name} = {value} is neither True nor False"),
    float: (Annotated[float, Field(gt=0, allow_inf_nan=False)], ": {name} = {value} is not a number above 0"),
    frozenset[Signal]: (
        Annotated[frozenset[Signal], Predicate(lambda signals: Signal.LOGITS in signals)],
        ": `{name}` has to be a frozenset of kdsearch.Signal with at least Signal.LOGITS",
    ),
    **{
        kind: (kind, ": {name} = {value} is none of " + ", ".join(f"{kind.__name__}.{each.name}" for each in kind))
        for kind in (TeacherRole, Signal)
    },
}


def kind_of(cls: type) -> str:
    return "strategy" if issubclass(cls, Strategy) else "family"


def check_name(name: str, where: str) -> None:
    """A name becomes part of hyperparameter names and file names, so it has to be an identifier."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise PluginError(
            f"{where}: {name!r} cannot be the name of a plugin: use letters, digits and underscores, not starting with a digit"
        )


def check_yielded(yielded: object, hook: str, where: str) -> Plugin:
    """What a hook yielded, if it is a usable class.

    Raises:
        PluginError: the first mistake found, with its fix; `where` is the plugin as the message names it.
    """
    base = HOOKS[hook]
    if isinstance(yielded, Strategy | Family):
        name = type(yielded).__name__
        raise PluginError(f"{where}: {hook} yields an instance: write `yield {name}`, not `yield {name}(...)`")
    if not isinstance(yielded, type):
        raise PluginError(f"{where}: {hook} yields {_short(yielded)}, which is not a class: yield a subclass of kdsearch.{base.__name__}")
    name = yielded.__name__
    if not issubclass(yielded, base):
        if other := next((other for other, its_base in HOOKS.items() if issubclass(yielded, its_base)), None):
            raise PluginError(f"{where}: {name} is a {kind_of(yielded)}, not a {kind_of(base)}: yield it from {other}")
        raise PluginError(f"{where}: {name} is not a subclass of kdsearch.{base.__name__}: derive it from kdsearch.{base.__name__}")
    where = f"{where}: class {name}"
    if missing := sorted(yielded.__abstractmethods__):
        raise PluginError(f"{where} lacks {', '.join(f'{name}()' for name in missing)}: a {kind_of(base)} has to have it, see kdsearch.api")
    if not getattr(vars(yielded).get("__dataclass_params__"), "frozen", False):  # its own, not those that it inherits
        raise PluginError(f"{where} is not a frozen dataclass: put @dataclass(frozen=True) above it")
    _check_attributes(yielded, base, where)
    _check_methods(yielded, base, where)
    _adapter(yielded, where)
    return yielded


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_attributes(cls: Plugin, base: Plugin, where: str) -> None:
    """Those that the base class declares, each a ClassVar[its type]."""
    of_instances = {each.name for each in fields(cls)}
    for name, declared in inspect.get_annotations(base, eval_str=True).items():
        if name in of_instances:
            raise PluginError(
                f"{where}: {name!r} is a field, but belongs to the class: write `{name} = ...` without a type, or `{name}: ClassVar[...] = ...`"
            )
        value = getattr(cls, name, None)
        rule, message = _RULES[get_args(declared)[0]]
        try:
            TypeAdapter(rule).validate_python(value, strict=True)
        except ValidationError as problem:
            raise PluginError(where + message.format(name=name, value=_short(value), meaning=_MEANING.get(name))) from problem
    if issubclass(cls, Strategy) and cls.each_teacher and cls.teacher is not TeacherRole.FROZEN:
        raise PluginError(f"{where}: each_teacher is for frozen teachers: leave it out, or set teacher = TeacherRole.FROZEN")


def _methods(cls: type) -> dict[str, Any]:
    found = {name: inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")}
    return {name: value for name, value in found.items() if inspect.isroutine(value)}


def _parameters(method: Any) -> list[str]:
    # str(parameter) would add annotations and defaults: only * and ** count as part of a name here
    parameters = inspect.signature(getattr(method, "__func__", method)).parameters.values()
    return [str(each.replace(annotation=each.empty, default=each.empty)) for each in parameters]


def _check_methods(cls: type, base: type, where: str) -> None:
    contracts, own = _methods(base), _methods(cls)
    for name, contract in contracts.items():
        found, wanted = own.get(name), _parameters(contract)
        written = f"{name}({', '.join(wanted)})"
        if isinstance(contract, classmethod) and not isinstance(found, classmethod):
            raise PluginError(f"{where}: {written} has to be a class method: put @classmethod above it")
        if found is None or isinstance(found, staticmethod) or isinstance(found, classmethod) != isinstance(contract, classmethod):
            raise PluginError(f"{where}: {name} has to be a method, {written}")
        if _parameters(found)[1:] != wanted[1:]:
            raise PluginError(f"{where}: {name}({', '.join(_parameters(found))}) has the wrong parameters: write {written}")
    for name in sorted(own.keys() - contracts.keys()):  # a misspelt optional method would be ignored in silence: `fit` instead of `fits`
        near = difflib.get_close_matches(name, contracts, n=1, cutoff=0.75)
        if near and _parameters(own[name])[1:] == _parameters(contracts[near[0]])[1:]:
            raise PluginError(f"{where}: nothing calls a method {name!r}. Did you mean {near[0]!r}? Otherwise give it a name of its own")


@functools.cache
def _adapter(cls: Plugin, where: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(cls)
    except (PydanticUserError, NameError, TypeError) as problem:
        raise PluginError(
            f"{where}: its fields have to be JSON (numbers, strings, booleans, None, enums, tuples of these): {first_line(problem)}"
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
        value: dict[str, Any] = _adapter(type(instance), where).dump_python(instance, mode="json", warnings="error")
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError) as problem:
        raise PluginError(
            f"{where}: suggest() gave a field that does not fit its type or JSON: {first_line(problem)}; values: {_short(instance)}"
        ) from problem
    return value


def construct(cls: type[AnyPlugin], values: Mapping[str, Any]) -> AnyPlugin:
    """An instance from JSON values; lists become tuples and strings become enums where the field's type is one.

    Raises:
        PluginError: a field is unknown, missing or of another type.
    """
    where = _named(cls)
    known = [each.name for each in fields(cls) if each.init]
    for name in values:
        if name not in known:
            raise PluginError(f"{where}: no field {name!r}.{did_you_mean(name, known) or ' It has no fields.'}")
    try:
        instance: AnyPlugin = _adapter(cls, where).validate_json(json.dumps(dict(values), allow_nan=False), strict=True)
    except ValidationError as problem:
        raise PluginError(f"{where}: {'; '.join(map(_complaint, problem.errors()))}") from problem
    except (TypeError, ValueError) as problem:
        raise PluginError(f"{where}: fields {_short(dict(values))} do not make an instance: {problem}") from problem
    return instance


def _complaint(error: Any) -> str:
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"field {field!r} is missing"
    return f"field {field!r} is {_short(error['input'])}: {error['msg'].lower()}" if field else str(error["msg"])
