"""Downloads that resume, that are checked, and of which nothing half-written ever has its final name.

pooch keeps the registry of hashes, retries, and moves a file to its name once its hash is right. `_Resuming` is its
downloader, which goes on where an earlier attempt, or an earlier run that was killed, stopped.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask_tf.data.sources import Source
from unmask_tf.errors import InputError
from unmask_tf.files import locked, read_json, sha256, write_json

TRUSTED = "trusted.json"
"""In the folder of downloads: the size and SHA-256 of each file as first fetched."""
ATTEMPTS = 6
SPARE_DISK = 64 << 20
"""Bytes that must stay free on the disk."""
_CHUNK = 1 << 18
_MAGIC = {
    "zip": (0, b"PK\x03\x04"),
    "gzip": (0, b"\x1f\x8b"),
    "hdf5": (0, b"\x89HDF\r\n\x1a\n"),
    "tar": (257, b"ustar"),
}


class _Refused(Exception):
    """An address does not give the file; asking again will not help."""


def download(source: Source, folder: str | Path) -> Path:
    """Fetches a file from its first address that gives it, unless it is there already.

    Args:
        source: what to fetch.
        folder: of downloads. `<name>.part` in it holds what has come so far; the same call goes on from there.

    Returns:
        `folder/<name>`, whose size and hash are the known ones, or else those recorded when it was first fetched.

    Raises:
        InputError: no address gives the file, it is not the one expected, or the disk is full.
    """
    import pooch
    import requests

    folder = Path(folder)
    with locked(folder / ".lock"):
        for pattern in ("tmp*", ".partial-*"):  # pooch's and ours, of a run that was killed
            for stray in folder.glob(pattern):
                stray.unlink(missing_ok=True)
        expected = _with_trusted(source, folder)
        pooch.get_logger().setLevel(logging.WARNING)
        reasons = []
        for address in source.addresses:
            registry = pooch.create(
                path=folder,
                base_url="",
                registry={source.name: expected.hash},
                urls={source.name: address},
                retry_if_failed=ATTEMPTS - 1,
            )
            try:
                path = Path(registry.fetch(source.name, downloader=_Resuming(expected, folder)))
                if reason := mismatch(replace(expected, hash=None), path):  # pooch has compared the hash
                    raise ValueError(f"{path} is not the file expected: {reason}. Move it away")
                _trust(source, path, folder, address)
                return path
            except (_Refused, ValueError, requests.RequestException) as error:
                reasons.append(f"{address}: {error}")
            except OSError as error:
                raise InputError(
                    f"cannot write {source.name} in {folder}: {error.strerror or error}. Free some space, or make the "
                    "folder writable; the same command goes on from here."
                ) from error
    raise InputError(
        f"{source.name} ({source.about}) could not be fetched. "
        + "; ".join(reasons)
        + ". Run the command again to go on, "
        f"or get the file elsewhere and name it (--use {source.name}=FILE or =ADDRESS)."
    )


def adopt(source: Source, path: str | Path, folder: str | Path) -> Path:
    """Takes a local file in place of a download, after the same checks; it stays where it is.

    Raises:
        InputError: it is missing, or not the file expected.
    """
    path, folder = Path(path), Path(folder)
    if not path.is_file():
        raise InputError(f"{path} does not exist. Check the path of {source.name} ({source.about}).")
    with locked(folder / ".lock"):
        if reason := mismatch(_with_trusted(source, folder), path):
            raise InputError(
                f"{path} is not the file expected as {source.name}: {reason}. Get it again. If the published file has "
                f"changed and you trust it, remove its entry from {folder / TRUSTED}."
            )
        _trust(source, path, folder, str(path.resolve()))
    return path


def mismatch(source: Source, path: Path) -> str | None:
    """What shows that a file is not the one expected, by its first bytes, size and hash; None if nothing does."""
    import pooch

    with open(path, "rb") as file:
        if (wrong := _wrong_kind(source, head := file.read(512))) or not head:
            return wrong or "it is empty"
    if source.size is not None and path.stat().st_size != source.size:
        return f"it has {path.stat().st_size} bytes, {source.size} are expected"
    if source.hash is not None:
        algorithm, _, value = source.hash.rpartition(":")
        if (actual := pooch.file_hash(str(path), alg=algorithm or "sha256")).lower() != value.lower():
            return f"its hash is {actual}, {source.hash} is expected"
    return None


def _wrong_kind(source: Source, head: bytes) -> str | None:
    offset, magic = _MAGIC[source.kind]
    if head[offset : offset + len(magic)] == magic:
        return None
    page = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml"))
    return f"it is no {source.kind} file" + (", but a web page, such as a login or an error" if page else "")


def _with_trusted(source: Source, folder: Path) -> Source:
    """The source, with the size and hash recorded on first use where none are known."""
    record = folder / TRUSTED
    known = read_json(record).get(source.name, {}) if record.is_file() else {}
    return replace(source, size=source.size or known.get("size"), hash=source.hash or known.get("sha256"))


def _trust(source: Source, path: Path, folder: Path, address: str) -> None:
    record = folder / TRUSTED
    known = read_json(record) if record.is_file() else {}
    if source.name not in known:
        today = time.strftime("%Y-%m-%d")
        entry = {"sha256": sha256(path), "size": path.stat().st_size, "from": address, "date": today}
        write_json(record, known | {source.name: entry})


class _Resuming:
    """A downloader for pooch: fetches into `<name>.part`, going on from what is there, then hands the file over.

    Beside it `<name>.part.json` says which address and which version of its file (ETag or date) the bytes are of: those
    of another version, or of a mirror if no hash is known, are dropped.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self.source = source
        self.part, self.state = folder / f"{source.name}.part", folder / f"{source.name}.part.json"

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        import requests

        have, version = self._kept(url)
        headers = {"Accept-Encoding": "identity", "User-Agent": "unmask_tf"}
        if have:
            headers |= {"Range": f"bytes={have}-"}
            if version and not version.startswith("W/"):
                headers["If-Range"] = version
        with requests.get(url, headers=headers, stream=True, timeout=(20, 60)) as response:
            if (
                response.status_code == 416
            ):  # nothing comes after what we have: it is the whole file, or not its beginning
                total = _number(response.headers.get("Content-Range", "").rpartition("/")[2])
                if total != have:
                    self._drop()
                    raise ValueError("what had been fetched is longer than the file; starting again")
            else:
                self._receive(url, response, have)
        with open(self.part, "rb+") as file:
            os.fsync(file.fileno())
        if reason := mismatch(self.source, self.part):
            self._drop()
            if have:
                raise ValueError(f"{reason}; starting again")
            raise _Refused(f"what came is not the file expected: {reason}")
        os.replace(self.part, output_file)
        self.state.unlink(missing_ok=True)

    def _kept(self, url: str) -> tuple[int, str]:
        """Bytes to keep of an earlier attempt, and the version of the file they are of; 0 if none."""
        with suppress(InputError, AttributeError):
            state = read_json(self.state)
            same = state.get("address") == url
            if self.part.is_file() and (self.source.hash is not None or (same and state.get("version"))):
                return self.part.stat().st_size, state["version"] if same else ""
        self._drop()
        return 0, ""

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def _receive(self, url: str, response: Any, have: int) -> None:
        status, told = response.status_code, response.headers
        if 400 <= status < 500 and status not in (408, 429):
            raise _Refused(f"the server says {status} {response.reason}")
        response.raise_for_status()
        length = _number(told.get("Content-Length", ""))
        total = length
        if status == 206:
            span, _, whole = told.get("Content-Range", "").removeprefix("bytes ").partition("/")
            total = _number(whole)
            if _number(span.partition("-")[0]) != have:
                self._drop()
                raise ValueError("the server sent another range than was asked for")
        elif have:
            self._drop()
            have = 0
        version = told.get("ETag") or told.get("Last-Modified") or ""
        if have and self.source.hash is None and version != read_json(self.state)["version"]:
            self._drop()
            raise ValueError("the file there has changed; starting again")
        if self.source.size is not None and total is not None and total != self.source.size:
            raise _Refused(f"the file there has {total} bytes, {self.source.size} are expected")
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and free < total - have + SPARE_DISK:
            raise OSError(errno.ENOSPC, f"{total - have} bytes are to come, and {free} are free on the disk")
        write_json(self.state, {"address": url, "version": version})
        self._write(response, have, total)
        size = self.part.stat().st_size
        if size != (self.source.size or total or size):
            if size > (self.source.size or total):
                self._drop()
            raise ValueError(f"the server stopped after {size} of {self.source.size or total} bytes")

    def _write(self, response: Any, have: int, total: int | None) -> None:
        from tqdm import tqdm

        bar = tqdm(desc=self.source.name, initial=have, total=total, unit="B", unit_scale=True, leave=False)
        with bar, open(self.part, "ab") as file:
            for chunk in _raw(response):
                if not file.tell() and len(chunk) >= 512 and (wrong := _wrong_kind(self.source, chunk)):
                    raise _Refused(f"what comes is not the file expected: {wrong}")
                file.write(chunk)
                bar.update(len(chunk))


def _raw(response: Any) -> Iterator[bytes]:
    """The bytes as they are sent: some servers call the packing of a tar.gz a Content-Encoding, which would be undone.

    Raises:
        requests.ConnectionError: the connection broke, or the length was not the announced one.
    """
    import requests
    import urllib3

    try:
        yield from response.raw.stream(_CHUNK, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from error


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
