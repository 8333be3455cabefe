"""Every write of the project: an fsynced append-only log, atomic replacement, an exclusive lock on a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from kdsearch.errors import EnvironmentProblem, StateError

LOCK = ".lock"


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, so it can be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(*parts: bytes | str) -> str:
    """Content address of the parts, 32 hexadecimal digits; each part's length is hashed too, so parts cannot run together."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def differing(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Names in a folder that are not as these digests of its files say: changed, missing, or not among them; hidden files aside."""
    there = {path.name for path in (folder.iterdir() if folder.is_dir() else ()) if not path.name.startswith(".")}
    paths = [folder / name for name in sorted({*there, *digests})]
    return [path.name for path in paths if path.is_symlink() or not path.is_file() or file_digest(path) != digests.get(path.name)]


@contextlib.contextmanager
def disk_problems(path: Path) -> Iterator[None]:
    """Turn what an operating system says of a folder or disk into one clear line."""
    try:
        yield
    except OSError as problem:
        advice = {
            errno.EACCES: "the folder is not writable: choose another with --out or mend its permissions",
            errno.EPERM: "the folder is not writable: choose another with --out or mend its permissions",
            errno.EROFS: "the file system is read-only: choose another folder with --out",
            errno.ENOSPC: "the disk is full: free some space, then run the same command again",
            errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
            errno.ENOTDIR: "a part of this path is a file, not a folder: choose another with --out",
            errno.EEXIST: "a part of this path is a file, not a folder: choose another with --out",
        }.get(problem.errno or 0)
        if advice is None:
            raise
        raise EnvironmentProblem(f"{path}: {advice}") from problem


def ensure_folder(path: Path) -> Path:
    """Make the folder and prove that a file can be written in it.

    Raises:
        EnvironmentProblem: it cannot.
    """
    with disk_problems(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes | str) -> None:
    """Write the whole file or leave the old one: never a half."""
    raw = data.encode() if isinstance(data, str) else data
    with disk_problems(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(raw)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)


def write_array(path: Path, array: np.ndarray) -> None:
    """Replace path, in a folder that is made where it lacks, by the array as np.save writes it."""
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    ensure_folder(path.parent)
    replace_file(path, stream.getvalue())


def replace_json(path: Path, value: Any) -> None:
    replace_file(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends well, and vanishes otherwise."""
    with disk_problems(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        os.chmod(work, 0o755)
        try:
            yield work
            for name in work.rglob("*"):
                if name.is_file():
                    with name.open("rb") as stream:
                        os.fsync(stream.fileno())
            if path.exists():
                shutil.rmtree(path)
            os.replace(work, path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def write_folder(path: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Replace a folder by these files (relative name -> content); returns the digest of each, as `file_digest` gives it."""
    with new_folder(path) as work:
        for name, content in files.items():
            target = work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return {name: hashlib.blake2b(content, digest_size=16).hexdigest() for name, content in files.items()}


class AppendLog:
    """A file of JSON lines that only grows; a line is on the disk before `append` returns.

    A torn last line (a crash while writing it) was never acknowledged: opening for writing cuts it off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_problems(path.parent):
            self._stream: IO[bytes] = path.open("ab+")
            self._stream.seek(0)
            content = self._stream.read()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                self._stream.truncate(whole)
            self._stream.seek(0, os.SEEK_END)

    def append(self, record: Mapping[str, Any]) -> None:
        with disk_problems(self.path.parent):
            self._stream.write((canonical(dict(record)) + "\n").encode())
            self._stream.flush()
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The acknowledged lines of an AppendLog; a torn last line is not one of them.

    Raises:
        StateError: a line before the last is not JSON, which no crash of ours can leave.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    records = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as problem:
            raise StateError(f"{path}, line {number}: not a JSON object: the file was changed by hand; restore it from a copy") from problem
    return records


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a folder, made where it lacks, for the length of the block; the operating system gives it back even after kill -9.

    A folder that holds nothing but its lock when the block ends is removed.

    Raises:
        StateError: another process owns it.
        EnvironmentProblem: it cannot be written.
    """
    lock = ensure_folder(folder) / LOCK
    with disk_problems(folder):
        stream = lock.open("a+")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not lock.exists() or not os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                raise BlockingIOError  # its owner of a moment ago has just removed it: this lock guards nothing
        except BlockingIOError:
            stream.seek(0)
            owner = stream.read().strip()
            raise StateError(
                f"{folder}: owned by another run{f' (process {owner})' if owner else ''}: wait for it, or stop it first"
            ) from None
        stream.seek(0)
        stream.truncate()
        stream.write(str(os.getpid()))
        stream.flush()
        try:
            yield
        finally:
            if os.listdir(folder) == [LOCK]:
                lock.unlink()
                folder.rmdir()
