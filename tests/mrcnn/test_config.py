"""Settings of K: Matterport's defaults, the presets and their schedules as plain data, and refused spellings."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from unmask_tf.mrcnn.config import PRESETS, Config, mirrored_class_ids, preset
from unmask_tf.mrcnn.schedules import SCHEDULES, Stage
from unmask_tf.taxonomy import MIRRORED_PARTS, UNMASK


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


def same(first, second):
    """Whether two configurations hold the same settings, of the same types."""
    names = [name for name in dir(first) if name.isupper()]
    return all(repr(getattr(first, name)) == repr(getattr(second, name)) for name in names)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_from_its_json_exactly(name):
    config = preset(name, SEED=3, MIRRORED_CLASS_IDS={1: 2, 2: 1}, RPN_ANCHOR_SCALES=(8, 16.5, 32, 64, 128))
    written = config.to_dict()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    again = Config.from_dict(written)
    assert same(config, again) and not same(config, Config())
    assert again.to_dict() == written
    assert again.MIRRORED_CLASS_IDS == {1: 2, 2: 1} and again.RPN_ANCHOR_SCALES == (8, 16.5, 32, 64, 128)


def test_to_dict_holds_settings_as_json_has_them_and_nothing_that_follows_from_them():
    settings = preset("mini", MEAN_PIXEL=np.array([1.5, 2, 3]), MIRRORED_CLASS_IDS={7: 8}).to_dict()
    assert settings["BACKBONE"] == "resnet_slim" and settings["MINI_MASK_SHAPE"] == [28, 28]
    assert settings["MEAN_PIXEL"] == [1.5, 2.0, 3.0] and settings["MIRRORED_CLASS_IDS"] == {"7": 8}
    assert not {"BATCH_SIZE", "IMAGE_SHAPE", "IMAGE_META_SIZE"} & settings.keys()


def test_settings_left_out_have_matterports_values_and_unknown_ones_are_refused():
    assert same(
        Config.from_dict({"NUM_CLASSES": 7, "MASK_SHAPE": [14, 14]}), Config(NUM_CLASSES=7, MASK_SHAPE=(14, 14))
    )
    with pytest.raises(TypeError, match="NUM_CLASES"):
        Config.from_dict({"NUM_CLASES": 7})


def test_a_backbone_that_is_a_function_has_no_written_form():
    with pytest.raises(ValueError, match="BACKBONE"):
        Config(BACKBONE=lambda image, *_, **__: [image]).to_dict()


def test_a_changed_copy_leaves_the_original_as_it_was():
    config = preset("mini")
    assert config.replace(SEED=4).SEED == 4 and config.SEED == 100
    assert type(config.replace()) is type(config)
    with pytest.raises(ValueError, match="IMAGE_MAX_DIM is 100"):
        config.replace(IMAGE_MAX_DIM=100)


def test_mirrored_classes_are_those_of_the_data_s_own_pairs():
    parts = ("left", "wheel", "right", "east")
    mirror = {"left": "right", "right": "left", "east": "west", "wheel": "wheel"}
    assert mirrored_class_ids(parts, mirror) == {1: 3, 3: 1}
    assert mirrored_class_ids(parts, {}) == {}


def test_the_unmask_parts_mirror_the_sides_of_vehicles_and_coaches():
    index = {part: i + 1 for i, part in enumerate(UNMASK.parts)}
    assert mirrored_class_ids(UNMASK.parts, MIRRORED_PARTS) == {
        index["vehicle_left"]: index["vehicle_right"],
        index["vehicle_right"]: index["vehicle_left"],
        index["coach_left"]: index["coach_right"],
        index["coach_right"]: index["coach_left"],
    }


@pytest.mark.parametrize("name", ["NUM_CLASES", "BATCH_SIZE"])
def test_a_misspelt_or_derived_setting_is_refused(name):
    with pytest.raises(TypeError, match=name):
        Config(**{name: 5})


def test_an_unknown_preset_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'huge'.*paper, mini, mini_robust, photos"):
        preset("huge")


def test_schedules_are_plain_data():
    for schedule in SCHEDULES.values():
        rows = json.loads(json.dumps([asdict(stage) for stage in schedule]))
        assert tuple(Stage(**row) for row in rows) == schedule
        assert [stage.until for stage in schedule] == sorted({stage.until for stage in schedule})


def test_the_paper_trains_heads_then_stage_4_and_up_then_all_at_a_tenth():
    assert SCHEDULES["paper"] == (Stage("heads", 20, 1e-3), Stage("4+", 32, 1e-3), Stage("all", 40, 1e-4))
