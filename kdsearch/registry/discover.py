"""Where plugins come from: found without importing them, imported one at a time, each mistake one PluginError."""

from __future__ import annotations

import functools
import importlib.util
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from importlib.abc import InspectLoader
from pathlib import Path
from types import ModuleType

from kdsearch.errors import KdsearchError, PluginError, did_you_mean, near
from kdsearch.io.files import digest
from kdsearch.registry.classes import HOOKS, kind_of
from kdsearch.registry.hookspecs import PROJECT

BUILT_IN = "kdsearch_plugins"


@dataclass(frozen=True)
class Source:
    """A plugin before it is imported."""

    name: str  # the file's stem, the module's last part or the entry point's name
    form: str  # built-in | file | module | entry-point
    locator: str  # a file's path, or a module's dotted name, or an entry point's value (`package.module` or `package.module:object`)
    where: str = field(compare=False)  # how messages name it
    path: str | None = None  # the file, where there is one to be read without importing
    distribution: str | None = None
    version: str | None = None

    @property
    def kind(self) -> str | None:
        """strategy or family by the hook that its file defines; None where only an import could show it."""
        try:
            text = Path(self.path).read_text(errors="replace") if self.path else ""
        except OSError:
            return None
        hook = re.search(rf"^def ({'|'.join(HOOKS)})\(", text, re.MULTILINE)
        return kind_of(HOOKS[hook[1]]) if hook else None

    @property
    def origin(self) -> str:
        """How a manifest and a list name it."""
        return self.locator if self.form == "file" else f"{self.where} (built in)" if self.form == "built-in" else self.where

    @property
    def point(self) -> metadata.EntryPoint:
        """Of a plugin that is imported by name; one of a dotted name alone stands for the module."""
        return metadata.EntryPoint(self.name, self.locator, PROJECT)


def built_ins() -> list[Source]:
    """The files beside `plugins/__init__.py`, none of them imported, sorted by name."""
    spec = importlib.util.find_spec(BUILT_IN)
    if spec is None or spec.origin is None:
        raise PluginError(f"the package {BUILT_IN} is not installed: reinstall kdsearch (pip install -e . in its folder)")
    version = next((found.version for found in metadata.distributions(name=PROJECT)), None)
    files = sorted(Path(spec.origin).parent.glob("*.py"), key=lambda file: file.stem)
    return [
        Source(file.stem, "built-in", f"{BUILT_IN}.{file.stem}", f"plugins/{file.name}", str(file), PROJECT, version)
        for file in files
        if file.stem != "__init__"
    ]


def entry_points() -> list[Source]:
    """What installed packages announce, none of it imported."""
    found = []
    for point in sorted(metadata.entry_points(group=PROJECT)):
        assert point.dist is not None  # installed packages alone announce any
        where = f"entry point {point.name} = {point.value} of {point.dist.name} {point.dist.version}"
        found.append(Source(point.name, "entry-point", point.value, where, None, point.dist.name, point.dist.version))
    return found


def listed(extra: Iterable[str]) -> list[Source]:
    """The entries of a study's `plugins:`, paths of .py files or names of modules; a built-in's is the built-in that it is.

    Raises:
        PluginError: a file is missing, or a name cannot be a plugin's.
    """
    own = {key: source for source in built_ins() for key in (source.locator, os.path.realpath(source.path or ""))}
    return [own.get(source.locator, source) for source in map(_named, extra)]


def candidates(more: Iterable[Source] = ()) -> list[Source]:
    """Every plugin within reach, each once: built in, `more`, installed."""
    return list(dict.fromkeys([*built_ins(), *more, *entry_points()]))


def _named(entry: str) -> Source:
    if entry.endswith(".py") or "/" in entry or os.sep in entry:
        path = Path(entry).expanduser()
        if path.is_dir():
            raise PluginError(f"{entry}: is a folder: give the path of one .py file, or the name of an importable module")
        if path.suffix != ".py":
            raise PluginError(f"{entry}: is not a .py file")
        if not path.is_file():
            near = did_you_mean(path.name, (file.name for file in path.parent.glob("*.py")))
            raise PluginError(f"{entry}: no such file (from the folder {Path.cwd()}).{near}")
        return Source(path.stem, "file", str(path.resolve()), entry, str(path.resolve()))
    if not all(part.isidentifier() for part in entry.split(".")):
        raise PluginError(f"{entry}: neither the path of a .py file nor the name of a module")
    return Source(entry.rpartition(".")[2], "module", entry, f"module {entry}")


def import_plugin(source: Source, text: str | None = None) -> tuple[object, str | None]:
    """Run a plugin's module, once a process.

    Args:
        text: the source text to run instead of what is found; the file need not be there.

    Returns:
        The module, or the object that an entry point names; the text that was run, None where the importer does not have it.

    Raises:
        PluginError: it cannot be read or imported; the cause is chained.
    """
    if source.form == "file" and text is None:
        text = read_text(Path(source.locator), source.where)
    try:
        if text is not None:
            return _run(source, text), text
        return source.point.load(), _text_of(sys.modules[source.point.module])
    except KdsearchError:
        raise
    except (Exception, SystemExit) as problem:
        raise PluginError(_why(problem, source)) from problem


def read_text(path: Path, where: str) -> str:
    """A Python file's text, its encoding honoured and its line ends made \\n."""
    try:
        return importlib.util.decode_source(path.read_bytes())
    except OSError as problem:
        raise PluginError(f"{where}: cannot be read: {problem.strerror}") from problem
    except (SyntaxError, ValueError) as problem:
        raise PluginError(f"{where}: is not Python source text: {problem}") from problem


def _run(source: Source, text: str) -> ModuleType:
    """The text as a module of its own, whose name holds the text's hash: another text of the same stem is another module."""
    name = f"kdsearch_file_{source.name}_{digest(text)}"
    if name not in sys.modules:
        module = sys.modules[name] = ModuleType(name)  # before it runs: dataclasses look their module up there
        module.__file__ = source.locator
        lines = text.splitlines(keepends=True)
        linecache.cache[source.locator] = len(text), None, lines, source.locator  # tracebacks show them without the file too
        try:
            exec(compile(text, source.locator, "exec", dont_inherit=True), vars(module))
        except BaseException:
            sys.modules.pop(name, None)
            raise
    return sys.modules[name]


@functools.cache
def _text_of(module: ModuleType) -> str | None:
    """As it was when this process first loaded the plugin: a later edit does not change what is already imported."""
    loader = module.__spec__.loader if module.__spec__ else None
    return loader.get_source(module.__name__) if isinstance(loader, InspectLoader) else None


def _why(problem: BaseException, source: Source) -> str:
    """What went wrong in an import, with the line of the plugin's own file, the deepest on the way to the problem."""
    where, own = source.where, (source.path, source.locator)
    if isinstance(problem, ModuleNotFoundError):
        return f"{where}: {_missing_module(source, problem.name or str(problem))}"
    if isinstance(problem, ImportError):
        wanted, module = re.match(r"cannot import name '(\w+)'", problem.msg), sys.modules.get(problem.name or "")
        hint = near(wanted[1], getattr(module, "__all__", dir(module))) if wanted and module else ""
        return f"{where}: cannot be imported: {problem}.{hint}"
    if isinstance(problem, SyntaxError):
        at = where if problem.filename in (None, *own) else problem.filename
        code = (problem.text or "").strip()
        return f"{at}, line {problem.lineno}: {problem.msg}{f': {code}' if code else ''}"
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename in own]
    at = f"{where}, line {lines[-1]}" if lines else where
    if "non-frozen dataclass from a frozen one" in str(problem):
        return f"{at}: not a frozen dataclass: write @dataclass(frozen=True)"
    return f"{at}: fails while it is imported: {type(problem).__name__}: {problem}"


def _missing_module(source: Source, missing: str) -> str:
    if source.form != "file" and f"{source.point.module}.".startswith(f"{missing}."):
        if source.form != "module":
            return f"its package has no module {missing!r} on this machine: install it again, on every node"
        file = Path(f"{missing.replace('.', '/')}.py")
        hint = f" There is a file {file}: write its path, {file}, under plugins:." if file.is_file() else ""
        return f"no module named {missing!r} can be imported here: install its package.{hint}"
    if missing.split(".")[0] == PROJECT:
        return f"kdsearch has no module {missing!r}: correct the import, or install the version of kdsearch that the plugin was written for"
    return f"imports {missing!r}, which is not installed: install it (on every node), or take the import out"
