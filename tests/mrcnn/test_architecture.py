"""A K's architecture is told from its weights file alone."""

import h5py
import numpy as np
import pytest
from golden_files import layouts

from unmask_tf.errors import InputError
from unmask_tf.mrcnn.architecture import config_of_weights, read_architecture
from unmask_tf.mrcnn.config import preset
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import save_weights
from unmask_tf.taxonomy import UNMASK

FULL = {"TOP_DOWN_PYRAMID_SIZE": 256, "RPN_FEATURES": 512, "FPN_CLASSIF_FC_LAYERS_SIZE": 1024, "MASK_FEATURES": 256}


def write(path, layout="resnet101", change=lambda name, shape: shape, skip=()):
    """A file with the recorded names and shapes; the tensors are never stored."""
    with h5py.File(path, "w") as file:
        groups = [(layer, tensors) for layer, tensors in layouts()[layout]["groups"] if layer not in skip]
        file.attrs["layer_names"] = np.array([layer.encode() for layer, _ in groups])
        for layer, tensors in groups:
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name, _ in tensors])
            for name, shape in tensors:
                group.create_dataset(name, shape=change(name, shape), dtype="float32")
    return path


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_the_real_package_s_files_tell_depth_and_classes(tmp_path, backbone):
    found = read_architecture(write(tmp_path / "k.h5", backbone))
    assert found == {"BACKBONE": backbone, "NUM_CLASSES": 45, "POOL_SIZE": 7, **FULL}


def test_a_slim_k_is_told_too(detector, tmp_path):
    save_weights(detector.keras_model, tmp_path / "k.h5")
    assert read_architecture(tmp_path / "k.h5") == {
        "BACKBONE": "resnet_slim",
        "NUM_CLASSES": 4,
        "POOL_SIZE": 7,
        "TOP_DOWN_PYRAMID_SIZE": 8,
        "RPN_FEATURES": 8,
        "FPN_CLASSIF_FC_LAYERS_SIZE": 8,
        "MASK_FEATURES": 4,
    }


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "efficientnet_lite0"])
def test_a_k_for_photographs_is_told_and_gets_its_preset(backbone, tiny_config, taxonomy, tmp_path):
    config = tiny_config(BACKBONE=backbone, TRAIN_BN=False)
    save_weights(MaskRCNN("inference", config, tmp_path).keras_model, tmp_path / "k.h5")
    assert read_architecture(tmp_path / "k.h5")["BACKBONE"] == backbone
    found, photos = config_of_weights(tmp_path / "k.h5", taxonomy), preset("photos")
    assert backbone == found.BACKBONE
    assert found.RPN_FEATURES == config.RPN_FEATURES
    assert (found.IMAGE_MAX_DIM, found.RPN_ANCHOR_SCALES) == (photos.IMAGE_MAX_DIM, photos.RPN_ANCHOR_SCALES)


def test_the_released_k_gets_the_released_settings(tmp_path):
    config = config_of_weights(write(tmp_path / "mask_rcnn_parts_0040.h5"), UNMASK)
    assert (config.BACKBONE, config.NUM_CLASSES, config.DETECTION_MIN_CONFIDENCE) == ("resnet101", 45, 0.0)
    assert (config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM) == (800, 1024)
    assert tuple(config.RPN_ANCHOR_SCALES) == (32, 64, 128, 256, 512)


def test_a_smaller_canvas_scales_image_and_anchors(tmp_path):
    path = write(tmp_path / "k.h5")
    config = config_of_weights(path, UNMASK, canvas=256, DETECTION_MIN_CONFIDENCE=0.5)
    assert (config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM, config.DETECTION_MIN_CONFIDENCE) == (200, 256, 0.5)
    assert tuple(config.RPN_ANCHOR_SCALES) == (8, 16, 32, 64, 128)
    with pytest.raises(InputError, match="canvas is 100.*multiple of 64"):
        config_of_weights(path, UNMASK, canvas=100)


def test_another_number_of_classes_than_the_taxonomy_s_is_refused(tmp_path, taxonomy):
    with pytest.raises(InputError, match=r"k.h5 has 45 classes with the background, but the taxonomy has 3 parts"):
        config_of_weights(write(tmp_path / "k.h5"), taxonomy)


def test_heads_that_disagree_are_refused(tmp_path):
    def shorter(name, shape):
        return [*shape[:-1], 44] if name == "mrcnn_mask/kernel:0" else shape

    with pytest.raises(InputError, match="mrcnn_class_logits 45, mrcnn_bbox_fc 45, mrcnn_mask 44"):
        read_architecture(write(tmp_path / "k.h5", change=shorter))


def test_a_backbone_alone_is_no_k(tmp_path):
    with pytest.raises(InputError, match="not a complete Mask R-CNN: mrcnn_class_logits/kernel missing"):
        read_architecture(write(tmp_path / "k.h5", skip=("mrcnn_class_logits",)))


def test_an_unknown_depth_is_told_with_the_known_ones(tmp_path):
    skip = tuple(f"{kind}4c_branch2{letter}" for kind in ("res", "bn") for letter in "abc")
    with pytest.raises(InputError, match=r"\[3, 4, 5, 3\] blocks.*conv1 64 wide.*resnet50 \[3, 4, 6, 3\]"):
        read_architecture(write(tmp_path / "k.h5", "resnet50", skip=skip))


def test_other_anchors_a_cell_are_refused(tmp_path):
    def more(name, shape):
        return [*shape[:-1], 10] if name == "rpn_class_raw/kernel:0" else shape

    with pytest.raises(InputError, match="5 anchors a cell; 3 are supported"):
        read_architecture(write(tmp_path / "k.h5", change=more))
