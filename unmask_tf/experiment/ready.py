"""What a run has ready to look at: its K, and its M where that has been trained, else a stand-in made in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from unmask_tf.data.class_images import load_class_images
from unmask_tf.errors import InputError
from unmask_tf.experiment.grid import Grid
from unmask_tf.experiment.publish import finished
from unmask_tf.experiment.setup import Run

if TYPE_CHECKING:  # Keras is imported when it is needed, so that its log lines can be silenced first
    import keras

    from unmask_tf.classifiers.classifier import Classifier
    from unmask_tf.defense.extract import Extractor
    from unmask_tf.defense.white_box import WhiteBox

_IMAGES = {"train": 300, "val": 60}
_EPOCHS, _RATE = 12, 5e-3


def part_extractor(run: Run) -> Extractor:
    """K of a run: its weights file, or the one that the run has trained.

    Raises:
        InputError: there is neither, or the file does not fit.
    """
    from unmask_tf.defense.extract import EXTRACTORS

    return EXTRACTORS["mask_rcnn"](_k_weights(run), run.taxonomy, {"config": Grid(run).k_config()})


def white_box(run: Run, class_set: str) -> WhiteBox:
    """K of a run as an attacker who knows it uses it; errors as `part_extractor`."""
    from unmask_tf.defense.white_box import WhiteBox
    from unmask_tf.mrcnn.config import Config

    return WhiteBox(Config.from_dict(dict(Grid(run).k_config())), _k_weights(run), run.taxonomy, class_set)


def _k_weights(run: Run) -> Path:
    made = Grid(run).k_weights()
    weights = made if isinstance(made, Path) else finished(run, made)
    if weights is None:
        raise InputError(
            f"K is not trained yet. Run: make train-k PROFILE={run.profile.name} DATA=...; or give weights (K_WEIGHTS)."
        )
    return weights


def trained_or_stand_in(run: Run, class_set: str, architecture: str) -> tuple[Classifier, str]:
    """The benignly trained M of a run, or where there is none, a stand-in; nothing is written.

    On embedded data the stand-in is three convolutions, trained on 300 images, which suffice there; on others it is the
    architecture itself after one epoch on as many, enough to go on and too little to judge by.

    Args:
        run: of `prepare`.
        class_set, architecture: M's.

    Returns:
        M, and its name: that of its file, or what the stand-in is.

    Raises:
        InputError: the data, M's file or its ImageNet weights are missing or damaged.
    """
    from unmask_tf.classifiers.build import build_classifier
    from unmask_tf.classifiers.classifier import Classifier
    from unmask_tf.classifiers.train import train_classifier

    labels, settings = run.taxonomy.labels(class_set), run.profile.classifier
    path = finished(run, Grid(run).model(class_set, architecture))
    if path is not None:
        return Classifier.load(path, classes=labels), path.name
    if run.profile.synthetic is not None:
        model, settings = _small(len(labels), settings.input_size, settings.seed), replace(settings, epochs=_EPOCHS)
        settings, name = replace(settings, learning_rate=_RATE), "stand-in of three convolutions"
    else:
        weights = str(run.imagenet_weights(architecture) or settings.weights)
        model = build_classifier(architecture, len(labels), input_size=settings.input_size, weights=weights)
        settings, name = replace(settings, epochs=1), f"stand-in, {architecture} after one epoch"
    train, val = (
        load_class_images(run.root, class_set, split, taxonomy=run.taxonomy, size=settings.input_size, limit=limit)
        for split, limit in _IMAGES.items()
    )
    with TemporaryDirectory() as folder:
        train_classifier(model, train, val, settings, Path(folder), progress=lambda done: None)
    return Classifier(model), f"{name}, trained on {len(train)} images"


def _small(classes: int, side: int, seed: int) -> keras.Model:
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    stack = [keras.Input((side, side, 3)), layers.Rescaling(4.0, -2.0)]
    for width, kernel in ((16, 5), (32, 3), (64, 3)):
        stack.append(layers.Conv2D(width, kernel, strides=2, padding="same", use_bias=False))
        stack += [layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(classes)])
