"""Atomic file writing, JSON and hashes: a half-written file never has its final name."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unmask_tf.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is fsynced and renamed to `path`.

    The temporary name keeps the final suffix, since some writers choose their format by it.
    On any error the temporary file is removed and `path` stays as it was.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix="".join(path.suffixes))
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Free some space or choose a writable folder, "
            "then run the same command again; finished work is kept."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes `content` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Writes UTF-8 text to `path` atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as sorted, indented JSON, atomically. NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: the file is missing, unreadable, or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. Check the path, or create the file first.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}). Delete it or restore it, then run again.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Make it a readable file.") from error


def sha256_of(content: bytes) -> str:
    """Hex SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class HashCache:
    """SHA-256 of files, remembered by (path, size, mtime_ns, inode) in one JSON file.

    A file that changed in the last two seconds is hashed each time: a second change might not change its time.

    Args:
        path: the JSON file; it is read at once, if it exists and is valid, and written by `save`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self._changed = Path(path), False
        try:
            self._known: dict[str, list[Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def sha256(self, path: str | Path) -> str:
        """Hex SHA-256 of a file's content.

        Raises:
            InputError: the file is missing or cannot be read.
        """
        try:
            status = os.stat(path)
            name, state = os.path.abspath(path), [status.st_size, status.st_mtime_ns, status.st_ino]
            known = self._known.get(name)
            if known is not None and known[:-1] == state:
                return known[-1]
            value = sha256(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}. Check the path.") from error
        if time.time_ns() - status.st_mtime_ns > 2_000_000_000:
            self._known[name], self._changed = [*state, value], True
        return value

    def save(self) -> None:
        """Writes the file, if hashes were added."""
        if self._changed:
            write_text(self.path, json.dumps(self._known))
            self._changed = False


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Holds an exclusive lock on the file `path`; waits for other holders, unless the file system has no locks."""
    import fcntl

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
