"""Images of a built dataset: links to the files they come from or, on another disk, copies."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from unmask_tf.errors import InputError


def place_images(folder: Path, plan: Mapping[str, Path], built_before: bool) -> None:
    """Makes a folder hold the planned images and nothing else.

    Args:
        folder: made if needed.
        plan: path below the folder -> the image's file.
        built_before: whether an earlier build may have left other files there, which are then removed.

    Raises:
        InputError: the folder has files of the user's, or cannot be written.
    """
    strangers = [path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink()]
    strangers = [path for path in strangers if path.relative_to(folder).as_posix() not in plan]
    if strangers and not built_before:
        raise InputError(
            f"{folder} holds {len(strangers)} files that no build put there, such as {strangers[0].name}. Choose "
            "another data folder, or move them away."
        )
    try:
        for path in strangers:
            path.unlink()
        for name, source in tqdm(plan.items(), desc=f"images of {folder.name}", unit="image"):
            _place(source, folder / name)
    except OSError as error:
        raise InputError(
            f"cannot put images into {folder}: {error.strerror or error} ({error.filename}). Free some space or choose "
            "a writable folder, then run the same command again; finished work is kept."
        ) from error


def _place(source: Path, target: Path) -> None:
    source = source.resolve()
    if target.is_file():
        one, other = source.stat(), target.stat()
        if os.path.samestat(one, other) or (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
        temporary = Path(folder) / target.name
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, temporary)
            stat = source.stat()
            with suppress(OSError):
                os.utime(temporary, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        os.replace(temporary, target)
