"""Stages that draw their results from a seed instead of computing them, for tests of the orchestration.

As a script, `fake_stages.py ROOT [PAUSE_AT]` runs everything below ROOT. With PAUSE_AT it stops in the middle of
writing the file of that unit (counted from 0), creates ROOT/paused and waits to be killed.
"""

import os
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from unmask_tf.files import write_json
from unmask_tf.reproduce import artefacts
from unmask_tf.reproduce.artefacts import Attacked, write_parts
from unmask_tf.reproduce.stages import Stages

CLASSES = ("car", "person", "train")
IMAGES = 4


def make_data(root):
    """Class images of cs3a, the smallest that load."""
    for split in ("train", "val", "test"):
        for name in CLASSES:
            folder = root / "classes" / split / name
            folder.mkdir(parents=True)
            for i in range(IMAGES):
                Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    return root


def make_run(root, **options):
    """A run of profile `mini` on that data, with a file that stands in for K's weights."""
    if not (root / "data").is_dir():
        make_data(root / "data")
        (root / "k.h5").write_bytes(b"weights of K")
    defaults = {"data": root / "data", "results": root / "results", "k_weights": root / "k.h5"}
    return artefacts.prepare("mini", **(defaults | options))


def _rng(*key):
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


class FakeStages(Stages):
    """Writes every artefact under its true path and key; notes each call in `log`, a file of one line per unit."""

    def __init__(self, run):
        super().__init__(run)
        self.log = run.folder.parent / "log.txt"

    def note(self, *words):
        with open(self.log, "a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def train_m(self, class_set, architecture, defence, progress):
        where = (class_set, architecture, defence)
        self.note("train-m", *where)
        self.run.model_path(*where).parent.mkdir(parents=True, exist_ok=True)
        self.run.model_path(*where).write_bytes(b"weights of M")
        write_json(self.run.history_path(*where), {"key": self.run.model_key(*where)})
        return "trained"

    def attack(self, class_set, architecture, target, attack, epsilon, progress):
        where = (class_set, architecture, target, attack, epsilon)
        self.note("attack", *where)
        labels = np.repeat(np.arange(3), self.run.test_images(class_set) // 3)
        wrong = _rng(where).random(len(labels)) < (0.1 if attack == "none" else 0.7)
        predictions = np.where(wrong, (labels + 1) % 3, labels)
        result = Attacked(
            images_8bit=np.zeros((len(labels), 2, 2, 3), np.uint8),
            labels=labels,
            prediction_float=predictions,
            prediction_8bit=labels,
            checks={} if attack == "none" else {"finite": True},
            nan_images=0,
            wall_s=time.time() % 1,
        )
        result.write(self.run.attacked_path(*where), self.run.attacked_key(*where))
        progress(0.5)
        return "attacked"

    def extract(self, class_set, architecture, attack, epsilon, progress):
        where = (class_set, architecture, attack, epsilon)
        self.note("extract", *where)
        rng = _rng(where)
        parts = []
        for name in np.repeat(CLASSES, self.run.test_images(class_set) // 3):
            expected = sorted(self.run.taxonomy.expected(str(name)))
            parts.append(frozenset(part for part in expected if rng.random() < 0.8) | {"wheel"})
        path, key = self.run.parts_path(*where), self.run.parts_key(*where)
        write_parts(path, key, [str(i) for i in range(len(parts))], parts, time.time() % 1)
        return "extracted"

    def record(self, cell):
        self.note("evaluate", cell.file_name)
        return super().record(cell)


def _pause_before_rename(root, count):
    """The unit number `count` finds its file written but not yet renamed, for ever."""
    rename, seen = os.replace, iter(range(10**6))

    def replace(source, target):
        if Path(target).name != "taxonomy.json" and next(seen) == count:
            (root / "paused").touch()
            time.sleep(600)
        rename(source, target)

    os.replace = replace


if __name__ == "__main__":
    from unmask_tf.reproduce.run import run_stages

    top = Path(sys.argv[1])
    if len(sys.argv) > 2:
        _pause_before_rename(top, int(sys.argv[2]))
    a_run = make_run(top)
    run_stages(a_run, "reproduce", FakeStages(a_run))
