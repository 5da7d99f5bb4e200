"""Where trainings keep their checkpoints, as Matterport: `<model_dir>/<name><date>/mask_rcnn_<name>_<epoch>.h5`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from unmask_tf.errors import InputError

_STAMP = r"\d{8}T\d{4}"
_DATED = re.compile(rf"[\w-]+?({_STAMP})")
_CHECKPOINT = re.compile(r"mask_rcnn_[\w-]+?(\d{4})\.h5")


@dataclass(frozen=True)
class LogFolder:
    """A training's folder.

    Attributes:
        path: the folder; it is made when training starts.
        name: the configuration's name in lower case.
        epoch: epochs that are finished.
    """

    path: Path
    name: str
    epoch: int = 0

    @property
    def checkpoint(self) -> str:
        """Path of the checkpoints, with `{epoch:04d}` to be filled in."""
        return str(self.path / f"mask_rcnn_{self.name}_{{epoch:04d}}.h5")


def log_folder(model_dir: str | Path, name: str, checkpoint: str | Path | None = None) -> LogFolder:
    """The folder of a new training or, for a checkpoint named as above, of the training that wrote it."""
    now, epoch = f"{datetime.now():%Y%m%dT%H%M}", 0
    if checkpoint is not None:
        folder = _DATED.fullmatch(Path(checkpoint).parent.name)
        file = _CHECKPOINT.fullmatch(Path(checkpoint).name)
        if folder and file:
            now, epoch = folder[1], int(file[1])
    return LogFolder(Path(model_dir) / f"{name.lower()}{now}", name.lower(), epoch)


def find_last(model_dir: str | Path, name: str) -> str:
    """Path of the last checkpoint of the newest training of this name.

    Raises:
        InputError: the folder, a training in it, or a checkpoint in that is missing; it says which.
    """
    root, name = Path(model_dir), name.lower()
    if not root.is_dir():
        raise InputError(f"the model folder {root} does not exist. Train first, or give the folder of a training.")
    dated = re.compile(re.escape(name) + _STAMP)
    folders = sorted(p for p in root.iterdir() if p.is_dir() and dated.fullmatch(p.name))
    if not folders:
        raise InputError(
            f"{root} holds no training of '{name}': a folder such as {name}20200131T0930 is missing. "
            "Train first, or check model_dir and the configuration's NAME."
        )
    files = sorted(p for p in folders[-1].iterdir() if _CHECKPOINT.fullmatch(p.name))
    if not files:
        raise InputError(
            f"{folders[-1]} holds no checkpoint (mask_rcnn_{name}_NNNN.h5): its training finished no epoch. "
            "Train again, or delete the folder to find the training before."
        )
    return str(files[-1])
