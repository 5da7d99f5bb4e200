"""Folders and checkpoint names of trainings are Matterport's; what is missing is said."""

import re

import pytest

from unmask_tf.errors import InputError
from unmask_tf.mrcnn.runs import find_last, log_folder


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_new_training_gets_a_dated_folder_and_epoch_nought(tmp_path):
    folder = log_folder(tmp_path, "Parts")
    assert folder.path.parent == tmp_path and re.fullmatch(r"parts\d{8}T\d{4}", folder.path.name)
    assert folder.epoch == 0 and not folder.path.exists()
    assert folder.checkpoint.format(epoch=7) == str(folder.path / "mask_rcnn_parts_0007.h5")


@pytest.mark.parametrize(
    ("checkpoint", "folder", "epoch"),
    [
        ("/logs/coco20171029T2315/mask_rcnn_coco_0001.h5", "coco20171029T2315", 1),
        ("elsewhere/coco-b_20171029T2315/mask_rcnn_coco-b_0040.h5", "coco20171029T2315", 40),
    ],
)
def test_a_checkpoint_s_path_names_folder_and_epoch(tmp_path, checkpoint, folder, epoch):
    found = log_folder(tmp_path, "coco", checkpoint)
    assert (found.path, found.epoch) == (tmp_path / folder, epoch)


@pytest.mark.parametrize(
    "checkpoint", ["mask_rcnn_coco.h5", "weights/mask_rcnn_parts_0040.h5", "coco20171029T2315/other_0001.h5"]
)
def test_other_weights_start_a_new_training(tmp_path, checkpoint):
    assert log_folder(tmp_path, "coco", checkpoint).epoch == 0


def test_the_last_checkpoint_of_the_newest_training_is_found(tmp_path):
    touch(tmp_path / "parts20200101T0000" / "mask_rcnn_parts_0009.h5")
    touch(tmp_path / "parts20200102T0000" / "mask_rcnn_parts_0002.h5")
    last = touch(tmp_path / "parts20200102T0000" / "mask_rcnn_parts_0003.h5")
    touch(tmp_path / "parts20200102T0000" / "log.json")
    touch(tmp_path / "parts220300101T0000" / "mask_rcnn_parts2_0001.h5")  # of the configuration `parts2`
    assert find_last(tmp_path, "Parts") == str(last)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        find_last(tmp_path / "nowhere", "parts")
    touch(tmp_path / "other20200101T0000" / "mask_rcnn_other_0001.h5")
    with pytest.raises(InputError, match="no training of 'parts'.*NAME"):
        find_last(tmp_path, "parts")
    (tmp_path / "parts20200101T0000").mkdir()
    with pytest.raises(InputError, match=r"parts20200101T0000 holds no checkpoint \(mask_rcnn_parts_NNNN.h5\)"):
        find_last(tmp_path, "parts")
