"""The reference: Matterport's package under one seeded configuration. Runs only in the reference environment."""

# ruff: noqa: E402
import functools
import os
import tempfile
import warnings

warnings.simplefilter("ignore")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import mrcnn.config
import mrcnn.model
import numpy as np
import skimage.transform
import tensorflow as tf
import weights

HERE = os.path.dirname(os.path.abspath(__file__))
K = keras.backend


class Config(mrcnn.config.Config):
    """Small images, small anchors, 45 classes."""

    NAME = "golden"
    BACKBONE = "resnet50"
    NUM_CLASSES = 45
    IMAGES_PER_GPU = 1
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 128
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    POST_NMS_ROIS_INFERENCE = 200
    DETECTION_MIN_CONFIDENCE = 0


def configured(**settings):
    """The configuration with other settings; the package derives values from them when it is made."""
    return type("Configured", (Config,), settings)()


def use_release_resize():
    """Matterport 2.1 never smooths before it shrinks; PyPI's 0.2 leaves that to scikit-image, which no longer takes the
    boolean masks that the package resizes: they become 0.0 and 1.0, as they did.
    """
    resize = skimage.transform.resize

    @functools.wraps(resize)
    def release_resize(image, *args, **kwargs):
        image = np.asarray(image)
        return resize(image.astype(float) if image.dtype == bool else image, *args, anti_aliasing=False, **kwargs)

    skimage.transform.resize = release_resize


def start_session():
    """An empty graph on one thread."""
    K.clear_session()
    options = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    K.set_session(tf.compat.v1.Session(config=options))


def leaf_layers(model):
    """Layers with weights in file order; a nested model (rpn_model) yields its own."""
    for layer in model.layers:
        if isinstance(layer, keras.models.Model):
            yield from leaf_layers(layer)
        elif layer.weights:
            yield layer


def seeded_weights(model):
    """List of (variable, seeded array)."""
    pairs = []
    for layer in leaf_layers(model):
        for variable in layer.weights:
            name = variable.name.split("/")[-1].split(":")[0]
            pairs.append((variable, weights.weight(layer.name, name, K.int_shape(variable))))
    return pairs


def build(mode, config, seeded=True):
    """The real MaskRCNN in a fresh session."""
    start_session()
    model = mrcnn.model.MaskRCNN(mode, config, tempfile.mkdtemp())
    if seeded:
        K.batch_set_value(seeded_weights(model.keras_model))
    return model


def save(name, arrays):
    """Writes one npz file."""
    np.savez_compressed(os.path.join(HERE, name + ".npz"), **arrays)
