"""Training of K on annotated parts, from the first weights to the last epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
from tqdm import tqdm

from unmask_tf.data.part_instances import PartDataset
from unmask_tf.efficientnet_lite import load_imagenet
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.adversarial import AttackedSource
from unmask_tf.mrcnn.augmentation import FLIP
from unmask_tf.mrcnn.checkpoints import NOTHING, read_checkpoint
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.evaluate import evaluate
from unmask_tf.mrcnn.fit import fit
from unmask_tf.mrcnn.graphs import build_training_model
from unmask_tf.mrcnn.ground_truth import load_ground_truth
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.part_names import part_names
from unmask_tf.mrcnn.samples import Images, Loaded, Passes, Ready, Source, rare_repeats
from unmask_tf.mrcnn.schedules import Stage
from unmask_tf.mrcnn.views import random_view
from unmask_tf.mrcnn.weights import load_weights, named_weights

# They depend on the number of classes.
_HEADS = ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask")


def train_parts(
    config: Config,
    schedule: Sequence[Stage],
    train: PartDataset,
    validation: PartDataset | None,
    workdir: Path,
    *,
    initial_weights: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[keras.Model, list[dict[str, Any]]]:
    """Trains K; a training that was killed goes on after its last finished epoch, to the same bits.

    Every image is shown once an epoch (with RARE_SHARE some oftener), half of them mirrored, with RANDOM_ZOOM or
    RANDOM_SIDE a random view of each. It seeds Keras and, in TensorFlow, makes operations deterministic in the whole
    process.

    Args:
        config: K's settings; NUM_CLASSES counts the data's parts and the background, MIRRORED_CLASS_IDS are theirs.
        schedule: the stages, such as `SCHEDULES["mini"]`.
        train: annotated images.
        validation: images on which average precision is measured after every epoch; None: it is not.
        workdir: receives `checkpoint.h5` and `log.json`, and is resumed from if it has the first.
        initial_weights: see `load_initial_weights`.
        progress: called after every step with the share of the training that is done, up to 1; None: progress bars.

    Returns:
        The trained graph, and the log (see `fit`).

    Raises:
        InputError: images that cannot be read or are fewer than a batch, weights that do not fit, or a loss that is
            not finite.
        ValueError: the datasets do not have NUM_CLASSES classes.
    """
    keras.utils.set_random_seed(config.SEED)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    graph, resume, checkpoint = build_training_model(config), NOTHING, Path(workdir) / "checkpoint.h5"
    repeats = None if config.RARE_SHARE is None else rare_repeats(train, config.RARE_SHARE)
    source: Source = Passes(_images(train, config, quiet=progress is not None), config, repeats)
    if config.ADVERSARIAL_SHARE:
        source = AttackedSource(source, graph, config)
    if checkpoint.is_file():
        load_weights(graph, checkpoint)
        resume = read_checkpoint(checkpoint)
        tqdm.write(f"resuming K after epoch {resume.epoch}")
    else:
        load_initial_weights(graph, config, initial_weights)
    validate = None if validation is None else _Validation(graph, config, validation, quiet=progress is not None)
    log = fit(graph, config, schedule, source, checkpoint, resume=resume, validate=validate, progress=progress)
    return graph, log


def _images(dataset: PartDataset, config: Config, quiet: bool) -> Images:
    """The images to train on: those of random views are read anew each time, others are kept in memory."""
    view = None
    if config.RANDOM_ZOOM is not None or config.RANDOM_SIDE is not None:
        view = partial(random_view, zoom=config.RANDOM_ZOOM, sides=config.RANDOM_SIDE, noise=config.RANDOM_NOISE)
    loaded = Loaded(dataset, config, FLIP, view=view)
    if view is not None:
        return loaded
    bar = tqdm(range(len(dataset)), desc="loading parts", unit="img", disable=quiet)
    return Ready([load_ground_truth(dataset, i, config) for i in bar], config)


class _Validation:
    """Average precision of the training graph's present weights."""

    def __init__(self, graph: keras.Model, config: Config, dataset: PartDataset, quiet: bool) -> None:
        self.graph, self.config, self.dataset = graph, config, dataset
        self.progress: Callable[[float], None] | None = (lambda share: None) if quiet else None
        self.model: MaskRCNN | None = None

    def __call__(self) -> dict[str, float]:
        if self.model is None:
            self.model = MaskRCNN("inference", self.config, "")
        source = named_weights(self.graph)
        for name, variable in named_weights(self.model.keras_model).items():
            variable.assign(source[name].value)
        scores = evaluate(self.model, self.dataset, progress=self.progress)
        return {name: value for name, value in scores.items() if name.startswith("map")}


def load_initial_weights(graph: keras.Model, config: Config, path: Path | None) -> None:
    """Gives a training graph the weights that training starts from.

    Args:
        graph: it has random weights.
        config: its settings.
        path: for a ResNet, weights in Matterport's layout such as `mask_rcnn_coco.h5`, of which the heads are left
            out; for `mobilenet_v2`, Keras' weights of MobileNetV2; for `efficientnet_lite0`, its ImageNet weights as
            .npz. Of a K that names its parts (which must be the same, with the same settings) the heads are taken too.
            None: a full ResNet or EfficientNet-Lite0 is refused, MobileNetV2 has ImageNet's weights (Keras downloads
            them once), others stay random.

    Raises:
        InputError: the weights cannot be had, or do not fit.
    """
    if path is not None and _names_parts(path):
        load_weights(graph, path)
    elif config.BACKBONE == "mobilenet_v2":
        _load_mobilenet(graph.get_layer("mobilenet_v2"), path)
    elif config.BACKBONE == "efficientnet_lite0":
        if path is None:
            raise InputError(
                "K with efficientnet_lite0 is not trained from random weights. Give its ImageNet weights "
                "(efficientnet_lite0_imagenet.npz) in the data's weights/ or in mask_rcnn_weights/."
            )
        load_imagenet(graph, path)
    elif path is not None:
        load_weights(graph, path, exclude=_HEADS)
    elif config.BACKBONE in ("resnet50", "resnet101"):
        raise InputError(
            f"K with {config.BACKBONE} is not trained from random weights. Start from COCO's: mask_rcnn_coco.h5 of "
            "https://github.com/matterport/Mask_RCNN/releases."
        )


def _names_parts(path: Path) -> bool:
    try:
        return bool(part_names(path))
    except OSError:  # what reads the file later says what is wrong with it
        return False


def _load_mobilenet(backbone: keras.Model, path: Path | None) -> None:
    try:
        source = named_weights(keras.applications.MobileNetV2(weights="imagenet" if path is None else str(path)))
    except Exception as error:
        raise InputError(
            f"MobileNetV2's ImageNet weights cannot be loaded: {error}. Give a Keras weights file of MobileNetV2 "
            "(mobilenet_v2_imagenet.weights.h5)."
        ) from error
    for name, variable in named_weights(backbone).items():
        variable.assign(source[name].value)
