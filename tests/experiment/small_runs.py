"""Data and runs for the tests of the engine."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
CLASSES, IMAGES = ("car", "person", "train"), 4


def make_data(root):
    """Class images of cs3a, the smallest that load, and part annotations of one image a split."""
    for split in ("train", "val", "test"):
        for name in CLASSES:
            folder = root / "classes" / split / name
            folder.mkdir(parents=True)
            for i in range(IMAGES):
                Image.fromarray(np.full((8, 8, 3), 40 * i + 1, np.uint8)).save(folder / f"{i}.png")
        (root / "images" / split).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(root / "images" / split / "a.png")
        (root / f"parts_{split}.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    (root.parent / "k.h5").write_bytes(b"weights of K")
    return root


def smaller(run):
    """The run with one architecture, one attack at two strengths and four defences."""
    attack = replace(run.profile.attack, attacks=("pgd_linf",))
    profile = replace(
        run.profile, architectures=("resnet50",), attack=attack, defences=("none", "at", "um", "algorithm1")
    )
    return replace(run, profile=profile)
