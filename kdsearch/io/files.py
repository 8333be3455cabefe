"""Every write of the project: an fsynced append-only log, atomic replacement, an exclusive lock on a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import zlib
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
    """Names in a folder that differ from these digests of its files: changed, missing, or extra; hidden files are ignored."""
    there = {path.name for path in (folder.iterdir() if folder.is_dir() else ()) if not path.name.startswith(".")}

    def same(name: str) -> bool:
        path = folder / name
        return is_name(name) and path.is_file() and not path.is_symlink() and file_digest(path) == digests.get(name)

    return [name for name in sorted({*there, *digests}) if not same(name)]


def is_name(name: str) -> bool:
    """Whether this names a file of a folder, and nothing outside of it or deeper in it."""
    return name not in ("", ".", "..") and not {"/", "\0"} & set(name)


def open_own(path: Path, flags: int) -> IO[bytes]:
    """A file of ours, unbuffered, made where flags say so; no link is followed, for its end may lie anywhere.

    Args:
        flags: as os.open takes them.

    Raises:
        StateError: what stands there is a link, a folder or a device.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as problem:
        if problem.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        handle = -1
    if handle < 0 or not stat.S_ISREG(os.fstat(handle).st_mode):
        if handle >= 0:
            os.close(handle)
        raise StateError(f"{path}: a link, a folder or a device, not a file of a study: put the file itself there")
    return os.fdopen(handle, "rb" if flags == os.O_RDONLY else "r+b", buffering=0)


@contextlib.contextmanager
def disk_problems(path: Path) -> Iterator[None]:
    """Turn the operating system's error about a folder or disk into one clear line."""
    try:
        yield
    except OSError as problem:
        advice = {
            errno.EACCES: "the folder is not writable: choose another with --out or change its permissions",
            errno.EPERM: "the folder is not writable: choose another with --out or change its permissions",
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
        made = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for each in made:
            _sync_folder(each.parent)
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(stream: IO[bytes], data: bytes) -> None:
    """All of it to an unbuffered stream, which may take less at a time, and which has nothing left to say when it is closed."""
    left = memoryview(data)
    while left:
        left = left[stream.write(left) :]


def replace_file(path: Path, data: bytes | str) -> None:
    """Write the whole file or leave the old one: never a half."""
    raw = data.encode() if isinstance(data, str) else data
    with disk_problems(path.parent):
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # not tempfile's, whose modes no umask opens
        try:
            with name.open("xb", buffering=0) as stream:
                _write(stream, raw)
                os.fsync(stream.fileno())
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
    """A temporary folder beside `path` that replaces it when the block ends well, and is removed otherwise.

    What was there is moved aside first and removed last: a kill in between leaves it beside `path`, hidden, its name ending in ".old".
    """
    with disk_problems(path.parent):
        ensure_folder(path.parent)
        work = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        aside = work.with_name(f"{work.name}.old")
        work.mkdir()
        try:
            yield work
            for name in work.rglob("*"):
                if name.is_file():
                    with name.open("rb") as stream:
                        os.fsync(stream.fileno())
            _sync_folder(work)
            if path.exists():
                os.replace(path, aside)
            try:
                os.replace(work, path)
            except OSError:
                if aside.exists():
                    os.replace(aside, path)
                raise
            _sync_folder(path.parent)
            shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def write_folder(path: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Replace a folder by these files (name -> content); returns the digest of each, as `file_digest` gives it.

    Raises:
        StateError: a name is a path.
    """
    paths = [name for name in files if not is_name(name)]
    if paths:
        raise StateError(f"{path}: {paths[0]!r} is not a file's name: a student's folder has files alone")
    with new_folder(path) as work:
        for name, content in files.items():
            (work / name).write_bytes(content)
    return {name: hashlib.blake2b(content, digest_size=16).hexdigest() for name, content in files.items()}


def _line(record: Mapping[str, Any]) -> bytes:
    """A record as a log has it, with the CRC-32 of the line without it as its last key."""
    text = canonical(dict(record)).encode()
    return b'%s,"crc":%d}' % (text[:-1], zlib.crc32(text))


def _sealed(line: bytes) -> bool | None:
    """Whether a line ends with its CRC: True, None where it has none, False where what it has is not its own."""
    text, _, seal = line.rpartition(b',"')
    crc = b"%d" % zlib.crc32(text + b"}")
    if seal == b'crc":%s}' % crc:
        return True
    return False if seal.startswith(b'crc"') or crc in seal else None  # the second: the key itself was hit


class AppendLog:
    """A file of JSON lines that only grows; a line is on the disk, and its file's name in the folder, before `append` returns.

    A torn last line (a crash while writing it) was never acknowledged: opening for writing cuts it off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_problems(path.parent):
            self._stream = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            content = self._stream.read()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                self._stream.truncate(whole)
            self._stream.seek(0, os.SEEK_END)
            _sync_folder(path.parent)

    def append(self, record: Mapping[str, Any]) -> None:
        with disk_problems(self.path.parent):
            whole = self._stream.seek(0, os.SEEK_END)
            try:
                _write(self._stream, _line(record) + b"\n")
                os.fsync(self._stream.fileno())
            except OSError:
                self._stream.truncate(whole)  # a part of a line must not stand before the next one
                raise

    def close(self) -> None:
        self._stream.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The acknowledged lines of an AppendLog, without their CRC; a torn last line is not one of them. [] where there is no file.

    Lines of earlier versions have no CRC; after the first that has one, all have.

    Raises:
        StateError: a line is not as it was written, which no crash of ours can leave; names it.
    """

    def damaged(number: int) -> StateError:
        return StateError(f"{path}, line {number}: damaged, or changed by hand: restore the file from a copy")

    try:
        with open_own(path, os.O_RDONLY) as stream:
            *lines, torn = stream.read().split(b"\n")
    except FileNotFoundError:
        return []
    if torn.strip(b"\0") and (not torn.startswith(b"{") or _sealed(torn[:-1])):  # the second: a whole line, its end hit
        raise damaged(len(lines) + 1)
    records, must = [], False
    for number, line in enumerate(lines, start=1):
        sealed = _sealed(line)
        must = must or sealed is True
        try:
            record = json.loads(line)
        except ValueError as problem:
            raise damaged(number) from problem
        if sealed is False or must is not bool(sealed) or not isinstance(record, dict):
            raise damaged(number)
        record.pop("crc", None)
        records.append(record)
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
        stream = open_own(lock, os.O_RDWR | os.O_CREAT)
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not lock.exists() or not os.path.samestat(os.fstat(stream.fileno()), lock.stat()):
                raise BlockingIOError  # its owner of a moment ago has just removed it: this lock guards nothing
        except BlockingIOError:
            owner = stream.read().decode(errors="replace").strip()
            raise StateError(
                f"{folder}: owned by another run{f' (process {owner})' if owner else ''}: wait for it, or stop it first"
            ) from None
        stream.truncate()
        with disk_problems(folder):
            _write(stream, str(os.getpid()).encode())
        try:
            yield
        finally:
            if os.listdir(folder) == [LOCK]:
                lock.unlink()
                folder.rmdir()
