"""Where plugins come from: found without importing them, imported one at a time, each mistake one PluginError."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.abc import InspectLoader
from pathlib import Path
from types import CodeType, ModuleType

from kdsearch.errors import KdsearchError, PluginError, did_you_mean
from kdsearch.io.files import digest
from kdsearch.registry.classes import HOOKS, check_name, kind_of
from kdsearch.registry.hookspecs import PROJECT

BUILT_IN = "kdsearch_plugins"


@dataclass(frozen=True)
class Source:
    """A plugin before it is imported."""

    name: str  # the file's stem, the module's last part or the entry point's name
    kind: str  # built-in | file | module | entry-point
    locator: str  # a file's path, or a module's dotted name, or an entry point's value (`package.module` or `package.module:object`)
    where: str  # how messages name it
    path: str | None = None  # the file, where there is one to be read without importing
    distribution: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class Imported:
    """A plugin after its import, before its hooks are called."""

    source: Source
    plugin: object  # the module, or the object that an entry point names
    text: str | None  # the source text that was executed; None where the importer cannot say
    hash: str | None  # of the text


def built_ins() -> list[Source]:
    """The files beside `plugins/__init__.py`, none of them imported."""
    spec = importlib.util.find_spec(BUILT_IN)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise PluginError(f"the package {BUILT_IN} is not installed: reinstall kdsearch (pip install -e . in its folder)")
    version = _version(PROJECT)
    found = []
    for module in pkgutil.iter_modules(folders):
        path = next((str(file) for folder in folders if (file := Path(folder, f"{module.name}.py")).is_file()), None)
        found.append(Source(module.name, "built-in", f"{BUILT_IN}.{module.name}", f"plugins/{module.name}.py", path, PROJECT, version))
    return sorted(found, key=lambda source: source.name)


def entry_points() -> list[Source]:
    """What installed packages announce, none of it imported."""
    found = []
    for point in metadata.entry_points(group=PROJECT):
        package = point.dist.name if point.dist else "an unnamed package"
        version = point.dist.version if point.dist else None
        where = f"entry point {point.name} = {point.value} of {package}{f' {version}' if version else ''}"
        found.append(Source(point.name, "entry-point", point.value, where, None, package, version))
    return sorted(found, key=lambda source: (source.name, source.where))


def named_in_study(entry: str) -> Source:
    """An entry of the study's `plugins:`: the path of a .py file, or the name of a module that can be imported.

    Raises:
        PluginError: the file is missing, or the name cannot be a plugin's.
    """
    if entry.endswith(".py") or "/" in entry or os.sep in entry:
        path = Path(entry).expanduser()
        if path.suffix != ".py" or not path.is_file():
            raise PluginError(f"{entry}: {_not_a_plugin_file(path)}")
        check_name(path.stem, entry)
        return Source(path.stem, "file", str(path.resolve()), entry, str(path.resolve()))
    if not all(part.isidentifier() for part in entry.split(".")):
        raise PluginError(f"{entry}: neither the path of a .py file nor the name of a module")
    return Source(entry.rpartition(".")[2], "module", entry, f"module {entry}")


def _not_a_plugin_file(path: Path) -> str:
    if path.is_dir():
        return "is a folder: give the path of one .py file, or the name of an importable module"
    if path.suffix != ".py":
        return "is not a .py file"
    near = did_you_mean(path.name, (file.name for file in path.parent.glob("*.py"))) if path.parent.is_dir() else ""
    return f"no such file (from the folder {Path.cwd()}).{near}"


def kind_without_import(source: Source) -> str | None:
    """strategy or family by the hook that the file defines; None where only an import could tell."""
    if source.path is None:
        return None
    try:
        tree = ast.parse(Path(source.path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return next((kind_of(base) for hook, base in HOOKS.items() if hook in defined), None)


def import_source(source: Source) -> Imported:
    """Run the plugin's module, once a process.

    Raises:
        PluginError: it cannot be read or imported; the cause is chained.
    """
    if source.kind == "file":
        return import_text(source, read_text(Path(source.locator), source.where))
    point = metadata.EntryPoint(source.name, source.locator, PROJECT)
    with _import_problems(source):
        text = _text_of(point.module)
        plugin = importlib.import_module(point.module) if source.kind != "entry-point" else point.load()
    return Imported(source, plugin, text, None if text is None else digest(text))


def import_text(source: Source, text: str) -> Imported:
    """Run a plugin's source text as a module of its own, once a process: the file need not be there.

    The module's name holds the text's hash, so that another text of the same stem is another module.
    """
    text_hash = digest(text)
    name = f"kdsearch_file_{source.name}_{text_hash}"
    module = sys.modules.get(name)
    if module is None:
        spec = importlib.util.spec_from_loader(name, _TextLoader(text, source.locator), origin=source.locator)
        assert spec is not None
        assert spec.loader is not None
        spec.has_location = True
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # before it runs: dataclasses look their module up there
        try:
            with _import_problems(source):
                spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
    return Imported(source, module, text, text_hash)


def read_text(path: Path, where: str) -> str:
    """A Python file's text, its encoding honoured and its line ends made \\n."""
    try:
        return importlib.util.decode_source(path.read_bytes())
    except OSError as problem:
        raise PluginError(f"{where}: cannot be read: {problem.strerror}") from problem
    except (SyntaxError, ValueError) as problem:
        raise PluginError(f"{where}: is not Python source text: {problem}") from problem


class _TextLoader(InspectLoader):
    """Runs a module from its text; tracebacks show its lines on a machine without the file too."""

    def __init__(self, text: str, path: str) -> None:
        self._text, self._path = text, path

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._text, self._path)


_texts: dict[str, str | None] = {}


def _text_of(module: str) -> str | None:
    """The text of an importable module, as it was when this process imported it: a later edit does not change what is already imported."""
    if module not in _texts or module not in sys.modules:
        spec = importlib.util.find_spec(module)
        if spec is None:
            return None
        _texts[module] = spec.loader.get_source(module) if isinstance(spec.loader, InspectLoader) else None
    return _texts[module]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def _import_problems(source: Source) -> Iterator[None]:
    where = source.where
    try:
        yield
    except KdsearchError:
        raise
    except ModuleNotFoundError as problem:
        raise PluginError(f"{where}: {_missing_module(source, problem.name or str(problem))}") from problem
    except ImportError as problem:
        raise PluginError(f"{where}: cannot be imported: {problem}.{_near_export(problem)}") from problem
    except SyntaxError as problem:
        line = (problem.text or "").strip()
        place = where if _is_own(problem.filename, source) else problem.filename
        raise PluginError(f"{place}, line {problem.lineno}: {problem.msg}{f': {line}' if line else ''}") from problem
    except (Exception, SystemExit) as problem:
        if "non-frozen dataclass from a frozen one" in str(problem):
            raise PluginError(f"{where}{_line(problem, source)}: not a frozen dataclass: write @dataclass(frozen=True)") from problem
        raise PluginError(f"{where}{_line(problem, source)}: fails while it is imported: {type(problem).__name__}: {problem}") from problem


def _missing_module(source: Source, missing: str) -> str:
    own = metadata.EntryPoint(source.name, source.locator, PROJECT).module if source.kind != "file" else None
    if own is not None and (own == missing or own.startswith(f"{missing}.")):
        if source.kind == "module":
            file = Path(f"{missing.replace('.', '/')}.py")
            hint = f" There is a file {file}: write its path, {file}, under plugins:." if file.is_file() else ""
            return f"no module named {missing!r} can be imported here: install its package.{hint}"
        return f"its package has no module {missing!r} on this machine: install it again, on every node"
    if missing.split(".")[0] == PROJECT:
        return f"kdsearch has no module {missing!r}: mend the import, or install the version of kdsearch that the plugin was written for"
    return f"imports {missing!r}, which is not installed: install it (on every node), or take the import out"


def _near_export(problem: ImportError) -> str:
    module, wanted = sys.modules.get(problem.name or ""), re.match(r"cannot import name '(\w+)'", str(problem))
    if not isinstance(module, ModuleType) or not wanted:
        return ""
    hint = did_you_mean(wanted[1], getattr(module, "__all__", None) or dir(module))
    return hint if hint.startswith(" Did you mean") else ""


def _is_own(filename: str | None, source: Source) -> bool:
    return filename is None or filename in (source.path, source.locator)


def _line(problem: BaseException, source: Source) -> str:
    """', line N' of the plugin's file, the deepest of it on the way to the problem."""
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename in (source.path, source.locator)]
    return f", line {lines[-1]}" if lines else ""


def duplicates(sources: Iterable[Source]) -> dict[str, list[Source]]:
    """Names that more than one source claims."""
    by_name: dict[str, list[Source]] = {}
    for source in sources:
        by_name.setdefault(source.name, []).append(source)
    return {name: claims for name, claims in by_name.items() if len(claims) > 1}
