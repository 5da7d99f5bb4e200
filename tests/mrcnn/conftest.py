"""A tiny K and a tiny annotated data set, made once per session."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from unmask_tf.data.part_instances import (
    PartImage,
    PartInstance,
    encode_mask,
    read_part_instances,
    write_part_instances,
)
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import named_weights
from unmask_tf.taxonomy import Taxonomy

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

TAXONOMY = Taxonomy(
    ("vehicle_left", "vehicle_right", "wheel"), {"car": ("vehicle_left", "vehicle_right", "wheel")}, {"one": ("car",)}
)
SIDE = 64
# Per image: (part, pixel box, whether it is drawn as a mask).
SCENES = (
    (("vehicle_left", (8, 6, 40, 50), True), ("wheel", (34, 10, 50, 26), True)),
    (("vehicle_right", (10, 20, 44, 62), True), ("wheel", (40, 44, 54, 58), True)),
    (("vehicle_left", (2, 2, 30, 40), True), ("wheel", (24, 4, 38, 18), False)),
    (("vehicle_right", (20, 10, 60, 54), True),),
)


def _one_thread():
    """Tiny tensors gain nothing from threads and lose much on a busy machine."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # another test started TensorFlow already
        pass


_one_thread()


def _tiny(**overrides):
    settings = dict(
        NAME="tiny",
        NUM_CLASSES=4,
        BACKBONE="resnet_slim",
        IMAGES_PER_GPU=2,
        FPN_CLASSIF_FC_LAYERS_SIZE=8,
        TOP_DOWN_PYRAMID_SIZE=8,
        RPN_FEATURES=8,
        MASK_FEATURES=4,
        RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128),
        RPN_TRAIN_ANCHORS_PER_IMAGE=16,
        PRE_NMS_LIMIT=1000,
        POST_NMS_ROIS_TRAINING=300,
        POST_NMS_ROIS_INFERENCE=12,
        MINI_MASK_SHAPE=(14, 14),
        IMAGE_MIN_DIM=SIDE,
        IMAGE_MAX_DIM=SIDE,
        TRAIN_ROIS_PER_IMAGE=8,
        MAX_GT_INSTANCES=4,
        DETECTION_MAX_INSTANCES=6,
        DETECTION_MIN_CONFIDENCE=0.0,
        OPTIMIZER="adam",
        TRAIN_BN=None,
        MIRRORED_CLASS_IDS={1: 2, 2: 1},
    )
    return Config(**{**settings, **overrides})


def _randomize(model, seed):
    """Random weights under which K detects something of every class: untrained heads see background or a draw."""
    rng = np.random.RandomState(seed)
    # Pixels reach 150; residual branches and deltas must stay small; class scores must differ between ROIs.
    gains = {"conv1": 0.01, "branch2c": 0.3, "rpn_bbox_pred": 0.2, "mrcnn_bbox_fc": 0.2, "mrcnn_class_logits": 8.0}
    for name, variable in named_weights(model).items():
        value = rng.normal(0, 1, variable.shape)
        if name.endswith("kernel"):
            value *= np.sqrt(2 / np.prod(variable.shape[:-1]))
            value *= next((gain for part, gain in gains.items() if f"{part}/" in name), 1.0)
        elif name.endswith(("gamma", "moving_variance")):
            value = np.exp(0.1 * value)
        else:
            value *= 0.1
        variable.assign(value)


@pytest.fixture(scope="session")
def tiny_config():
    """Makes a Config of a 64x64 K of a few channels with three parts; takes overrides."""
    return _tiny


@pytest.fixture(scope="session")
def taxonomy():
    return TAXONOMY


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    """A tiny K in inference mode; tests must not change its weights."""
    model = MaskRCNN("inference", _tiny(), tmp_path_factory.mktemp("detector"))
    _randomize(model.keras_model, 1)
    return model


@pytest.fixture(scope="session")
def randomize():
    """Assigns random weights, by a seed, under which K detects."""
    return _randomize


@pytest.fixture(scope="session")
def photographs():
    """Four images of random blocks, uint8 (64, 64, 3)."""
    blocks = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    return [image.repeat(SIDE // 8, axis=0).repeat(SIDE // 8, axis=1) for image in blocks]


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Four drawn 64x64 images in each of train, val and test, with their annotations; one wheel has a box only."""
    root = tmp_path_factory.mktemp("parts")
    for split in ("train", "val", "test"):
        folder = root / "images" / split
        folder.mkdir(parents=True)
        images = []
        for number, scene in enumerate(SCENES):
            pixels = np.random.RandomState(number).randint(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
            instances = []
            for color, (part, (y1, x1, y2, x2), drawn) in enumerate(scene):
                pixels[y1:y2, x1:x2, color] += 150
                mask = np.zeros((SIDE, SIDE), bool)
                mask[y1:y2, x1:x2] = True
                instances.append(PartInstance(part, (y1, x1, y2, x2), encode_mask(mask) if drawn else None))
            Image.fromarray(pixels).save(folder / f"{number}.png")
            images.append(PartImage(folder / f"{number}.png", SIDE, SIDE, tuple(instances)))
        write_part_instances(root / f"parts_{split}.json", images, TAXONOMY)
    return root


@pytest.fixture(scope="session")
def parts(data_root):
    """The annotated images of `data_root` as a PartDataset."""
    return read_part_instances(data_root / "parts_train.json", data_root / "images" / "train", TAXONOMY)


@pytest.fixture
def eager():
    """Runs graphs eagerly: a few steps of a tiny K cost far less than tracing it."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
