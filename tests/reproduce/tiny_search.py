"""A whole line search on 8x8 images and a model of a few hundred weights; nothing of it is faked.

As a script, `tiny_search.py ROOT PAUSE_AT` stops in the middle of writing its file number PAUSE_AT (counted from 0),
creates ROOT/paused and waits to be killed.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from fake_stages import CLASSES, _pause_before_rename, make_run
from PIL import Image

from unmask_tf.attacks.settings import AdversarialTrainingConfig
from unmask_tf.classifiers.settings import ClassifierConfig
from unmask_tf.config import AttackConfig
from unmask_tf.reproduce.line_search import LineSearchConfig
from unmask_tf.reproduce.line_search_run import run_line_search

ATTACKS = ("pgd_linf", "mia_l2")
CONFIG = LineSearchConfig(epsilons_255=(2, 16), epochs=2)
# Files in the order they are written: of the benign training a checkpoint, weights, history; then per epsilon two per
# epoch (checkpoint, log), the outcomes three times (benign, two attacks), the record.
BENIGN_FILES, EPOCH_FILES, OUTCOME_FILES = 3, 2, 3


def small_model(architecture, classes, *, input_size, seed, **_):
    """Takes the place of `build_classifier`."""
    import keras

    keras.utils.set_random_seed(seed)
    pixels = keras.Input((input_size, input_size, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(pixels)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(pixels, keras.layers.Dense(classes, name="head")(x), name=architecture)


def make_images(root):
    """Six training and three validation images a class, told apart by colour. There is no test image to read."""
    for split, count in (("train", 6), ("val", 3)):
        rng = np.random.default_rng(len(split))
        for label, name in enumerate(CLASSES):
            folder = root / "classes" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(90, 120, (8, 8, 3))
                image[..., label] += 25
                Image.fromarray(image.astype(np.uint8)).save(folder / f"{i}.png")


def search_all(root):
    """Runs the search below `root`, or goes on with it; returns the run."""
    import torch

    from unmask_tf.classifiers import build

    if not (root / "data").is_dir():
        make_images(root / "data")
    run = make_run(root, need_k_weights=False)
    profile = replace(
        run.profile,
        architectures=("resnet50",),
        classifier=ClassifierConfig(input_size=8, weights="random", epochs=1, batch_size=6, learning_rate=0.1),
        adversarial_training=AdversarialTrainingConfig(epochs=1, from_benign=True, learning_rate=0.1),
        attack=AttackConfig(
            attacks=("pgd_linf", "mia_l2"), epsilons_linf_255=(8,), epsilons_l2_255=(300,), iterations=3
        ),
    )
    run = replace(run, profile=profile)
    original, threads = build.build_classifier, torch.get_num_threads()
    build.build_classifier = small_model
    torch.set_num_threads(1)
    try:
        run_line_search(run, CONFIG)
    finally:
        build.build_classifier = original
        torch.set_num_threads(threads)
    return run


if __name__ == "__main__":
    _pause_before_rename(Path(sys.argv[1]), int(sys.argv[2]))
    search_all(Path(sys.argv[1]))
