"""Unpacks zip and tar archives that come from elsewhere: nothing gets out of the folder, nothing half-done stays."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from unmask_tf.data.download import SPARE_DISK
from unmask_tf.errors import InputError
from unmask_tf.files import locked, write_json
from unmask_tf.progress import Progress

DONE = ".unpacked.json"
"""In an unpacked folder: which archive it came from."""
MAX_MEMBERS = 1_000_000
MAX_RATIO = 100
"""An archive of photographs or annotations never grows by more than this; a bomb does."""
_DAMAGE = (zipfile.BadZipFile, gzip.BadGzipFile, tarfile.TarError, EOFError, zlib.error)
MAX_GROWTH = 1 << 30
"""Bytes that any archive may grow by, whatever the ratio."""


def is_unpacked(target: str | Path) -> bool:
    """Whether `unpack` made this folder."""
    return (Path(target) / DONE).is_file()


def unpack(archive: str | Path, target: str | Path, holds: tuple[str, ...] = ()) -> int:
    """Unpacks an archive to a new folder, which appears under its name when it is complete.

    Links and special files are refused, whether they lead out or not: none of the archives that we know has any.

    Args:
        archive: zip, tar or tar.gz.
        target: the folder to make. If `unpack` made it earlier, nothing is done.
        holds: `target` becomes the uppermost folder of the archive that holds one of these names; empty: its root.

    Returns:
        the number of files unpacked; 0 if it was done before.

    Raises:
        InputError: the archive is damaged or encrypted, leads out of the folder, grows too much or does not hold what
            it should; the disk is too small; or `target` exists and is not of `unpack`'s making.
    """
    archive, target = Path(archive), Path(target)
    partial = target.parent / f".unpacking-{target.name}"
    with locked(target.parent / f".unpacking-{target.name}.lock"):
        if is_unpacked(target):
            return 0
        if target.is_dir() and any(target.iterdir()):
            raise InputError(f"{target} exists, and was not unpacked by this command. Move it away.")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            count = _unpack_into(partial, archive)
            root = _holding(partial, holds, archive)
            write_json(root / DONE, {"archive": archive.name, "size": archive.stat().st_size, "files": count})
            os.sync()
            if target.is_dir():
                target.rmdir()
            os.replace(root, target)
            return count
        except (*_DAMAGE, NotImplementedError) as error:
            raise InputError(f"{archive} is damaged ({error}). Delete it, and get it again.") from error
        except OSError as error:
            raise InputError(
                f"cannot unpack {archive} to {target}: {error.strerror or error}. Free some space, or make the folder "
                "writable, then run the same command again."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _unpack_into(folder: Path, archive: Path) -> int:
    packed = archive.stat().st_size
    allowed = max(packed * MAX_RATIO, packed + MAX_GROWTH)
    free = shutil.disk_usage(folder).free - SPARE_DISK
    _refuse_size(_announced(archive), allowed, free, archive)
    total = count = 0
    for name, size, content in _members(archive):
        path = _inside(folder, name, archive)
        total, count = total + size, count + 1
        _refuse_size(total, allowed, free, archive)
        if count > MAX_MEMBERS:
            raise InputError(f"{archive} holds more than {MAX_MEMBERS} files. Get it from another place.")
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise InputError(f"{archive} holds '{name}' twice. Get it from another place.")
            with content, open(path, "xb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            if path.stat().st_size != size:
                raise EOFError(f"'{name}' has {path.stat().st_size} bytes, {size} were announced")
    return count


def _announced(archive: Path) -> int:
    """Bytes that the archive says it unpacks to; for a tar its own, since its headers are not in one place."""
    if not zipfile.is_zipfile(archive):
        return archive.stat().st_size
    with zipfile.ZipFile(archive) as opened:
        return sum(info.file_size for info in opened.infolist())


def _refuse_size(size: int, allowed: int, free: int, archive: Path) -> None:
    if size > allowed:
        raise InputError(
            f"{archive} has {archive.stat().st_size} bytes and unpacks to {size} or more: that is no archive of "
            "data. Get it from another place."
        )
    if size > free:
        raise OSError(errno.ENOSPC, f"{size} bytes or more are needed, and {max(free, 0)} are free on the disk")


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Name, size and content of each file and folder (whose content is None), without macOS' hidden copies."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in Progress(opened.infolist(), f"unpacking {archive.name}", unit="file", leave=False):
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind and kind not in (stat.S_IFREG, stat.S_IFDIR):
                    raise InputError(
                        f"'{info.filename}' in {archive} is a link or a device. Get the archive elsewhere."
                    )
                if info.flag_bits & 1:
                    raise InputError(f"'{info.filename}' in {archive} is encrypted. Get the archive elsewhere.")
                if not info.filename.startswith("__MACOSX/"):
                    yield info.filename, info.file_size, None if info.is_dir() else opened.open(info)
        return
    with _plain(archive) as stream, tarfile.open(fileobj=stream) as opened:
        for member in Progress(opened, f"unpacking {archive.name}", unit="file", leave=False):
            if not (member.isreg() or member.isdir()):
                raise InputError(f"'{member.name}' in {archive} is a link or a device. Get the archive elsewhere.")
            yield member.name, member.size, None if member.isdir() else opened.extractfile(member)
        # The checksum comes after the padding, where tarfile does not look.
        for _ in iter(lambda: stream.read(1 << 20), b""):
            pass


def _plain(archive: Path) -> IO[bytes]:
    """A tar's bytes, unpacked if it is a tar.gz."""
    with open(archive, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(archive) if packed else open(archive, "rb")


def _inside(folder: Path, name: str, archive: Path) -> Path:
    """Where a member goes."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in name or "\0" in name:
        raise InputError(f"'{name}' in {archive} leads out of the folder. Do not trust this archive; get it elsewhere.")
    return folder.joinpath(*parts)


def _holding(folder: Path, names: tuple[str, ...], archive: Path) -> Path:
    """The uppermost folder that holds one of the names."""
    if not names:
        return folder
    found = [Path(here) for here, folders, files in os.walk(folder) if set(names) & {*folders, *files}]
    if found:
        return min(found, key=lambda path: len(path.parts))
    raise InputError(
        f"{archive} holds none of: {', '.join(names)}. It is another archive; check the file or the address."
    )
