"""Images of a built dataset: copies of the files that they come from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from unmask_tf.errors import InputError
from unmask_tf.progress import Progress

_PARTIAL = ".partial-"


def check_folder(folder: Path, plan: Mapping[str, Path]) -> None:
    """Refuses a folder that no build has made and that holds other files than the planned ones.

    Raises:
        InputError: it does.
    """
    strangers = _strangers(folder, plan)
    if strangers:
        raise InputError(
            f"{folder} holds {len(strangers)} files that no build put there, such as {strangers[0].name}. Choose "
            "another data folder, or move them away."
        )


def place_images(folder: Path, plan: Mapping[str, Path]) -> None:
    """Makes a folder hold the planned images and nothing else; what is in place already stays.

    Args:
        folder: made if needed.
        plan: path below the folder -> the image's file.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        for path in _strangers(folder, plan):
            path.unlink()
        for path in folder.rglob(f"{_PARTIAL}*"):
            shutil.rmtree(path)
        for name, source in Progress(plan.items(), desc=f"copying to {folder.name}", unit="image"):
            _place(source, folder / name)
    except OSError as error:
        raise InputError(
            f"cannot put images into {folder}: {error.strerror or error} ({error.filename}). Free some space or choose "
            "a writable folder, then run the same command again; finished work is kept."
        ) from error


def _strangers(folder: Path, plan: Mapping[str, Path]) -> list[Path]:
    """Files below a folder that are not planned."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    return [path for path in files if path.relative_to(folder).as_posix() not in plan]


def _place(source: Path, target: Path) -> None:
    status = source.stat()
    if target.is_file():
        present = target.stat()
        if (present.st_size, present.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=_PARTIAL) as folder:
        temporary = Path(folder) / target.name
        shutil.copyfile(source, temporary)
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(temporary, target)
