"""Settings of K: Matterport's defaults, the presets, and refused spellings."""

import pytest

from unmask_tf.errors import InputError
from unmask_tf.mrcnn.config import Config, preset


def test_the_paper_preset_is_the_released_configuration():
    config = preset("paper")
    assert config.NUM_CLASSES == 45 and config.BACKBONE == "resnet101" and config.BATCH_SIZE == 4
    assert config.IMAGE_SHAPE.tolist() == [1024, 1024, 3] and config.IMAGE_MIN_DIM == 800
    assert config.DETECTION_MIN_CONFIDENCE == 0 and config.DETECTION_MAX_INSTANCES == 100
    assert (config.LEARNING_RATE, config.LEARNING_MOMENTUM, config.WEIGHT_DECAY) == (0.001, 0.9, 0.0001)
    assert config.MINI_MASK_SHAPE == (56, 56) and config.POST_NMS_ROIS_INFERENCE == 1000 and config.TRAIN_BN is False
    assert config.MIRRORED_CLASS_IDS == {}


def test_overrides_stay_with_their_own_config():
    assert Config(NUM_CLASSES=7).NUM_CLASSES == 7
    assert Config().NUM_CLASSES == 1


def test_derived_sizes_follow_the_settings():
    config = Config(NUM_CLASSES=5, GPU_COUNT=2, IMAGES_PER_GPU=3, IMAGE_RESIZE_MODE="crop", IMAGE_MIN_DIM=128)
    assert config.BATCH_SIZE == 6
    assert config.IMAGE_SHAPE.tolist() == [128, 128, 3]
    assert config.IMAGE_META_SIZE == 12 + 5


def test_to_dict_lists_every_setting():
    settings = preset("mini", SEED=3).to_dict()
    assert settings["SEED"] == 3 and settings["BACKBONE"] == "resnet_slim" and settings["BATCH_SIZE"] == 8


def test_a_misspelt_setting_is_refused():
    with pytest.raises(InputError, match="NUM_CLASES"):
        Config(NUM_CLASES=5)


def test_an_unknown_preset_is_refused_with_the_choices():
    with pytest.raises(InputError, match=r"'huge'.*paper, mini, photos"):
        preset("huge")
