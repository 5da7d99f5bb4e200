"""The score from which K is believed: per part, by F1 of "this part is in the image"."""

import numpy as np
import pytest

from unmask_tf.mrcnn.part_names import part_names, part_scores, write_part_scores
from unmask_tf.mrcnn.part_scores import best_scores, choose_part_scores
from unmask_tf.mrcnn.weights import parts_state, read_weights, save_weights


def chosen(scores, present):
    return float(best_scores(np.array(scores)[:, None], np.array(present, bool)[:, None])[0])


def test_scores_by_hand():
    # .9 and .6 are right, .4 is wrong: every candidate from .45 to .6 is right three times of three; their middle.
    assert chosen([0.9, 0.6, 0.4], [1, 1, 0]) == pytest.approx(0.5)
    # The lowest score is right: candidates up to .3 find both, .2 to .3; above, one of two.
    assert chosen([0.9, 0.3, 0.0], [1, 1, 0]) == pytest.approx(0.25)
    # Believing .5 wins one and costs one: F1 is 4/5 up to .5, and 2/3 above it.
    assert chosen([0.9, 0.5, 0.5], [1, 1, 0]) == pytest.approx(0.35)


def test_a_part_that_the_images_never_show_needs_one_half():
    assert chosen([0.9, 0.2], [0, 0]) == 0.5


def test_each_part_is_chosen_by_itself():
    scores = np.array([[0.9, 0.3], [0.7, 0.1], [0.6, 0.0]])
    present = np.array([[True, True], [True, False], [False, False]])
    both = best_scores(scores, present)
    assert both.tolist() == [chosen(scores[:, i], present[:, i]) for i in (0, 1)]


class Knows:
    """A K that names the vehicle's side of an image by its brightness, and sees a wheel at .3 everywhere."""

    def __init__(self):
        self.sizes = []

    def detect_boxes(self, images):
        assert len(images) == 3, "batches are padded"
        self.sizes += [image.shape[:2] for image in images]
        return [
            {"class_ids": np.array([1, 3, 3]), "scores": np.array([0.8, 0.3, 0.1]), "rois": np.zeros((3, 4), int)}
            for _ in images
        ]


def test_images_are_seen_whole_and_as_the_square_around_their_parts(parts):
    model = Knows()
    found = choose_part_scores(model, parts, batch_size=3)
    # vehicle_left is in half of the four images: .2 to .8 find all of them. No image shows vehicle_right to K, and
    # the wheel is in three of four.
    assert found == {"vehicle_left": 0.5, "vehicle_right": 0.55, "wheel": 0.25}
    assert len(model.sizes) == 9, "four images twice, and one to pad"
    # Image 0's parts reach from (8, 6) to (50, 50): 44 pixels times 1.25.
    assert model.sizes[:2] == [(64, 64), (55, 55)]


def test_weights_carry_the_scores_and_name_their_parts(detector, tmp_path):
    scores = {"wheel": 0.25, "vehicle_left": 0.5, "vehicle_right": 0.75}
    names = ("vehicle_left", "vehicle_right", "wheel")
    save_weights(detector.keras_model, tmp_path / "k.h5", parts_state(names, scores))
    assert part_scores(tmp_path / "k.h5") == scores
    assert part_names(tmp_path / "k.h5") == names
    save_weights(detector.keras_model, tmp_path / "old.h5", parts_state(names))
    assert part_scores(tmp_path / "old.h5") == {}


@pytest.mark.parametrize("target", ["k.h5", "copy.h5"])
@pytest.mark.parametrize("named", [False, True])
def test_a_copy_with_other_scores_holds_the_same_tensors(detector, tmp_path, target, named):
    scores = {"vehicle_left": 0.5, "vehicle_right": 0.75, "wheel": 0.25}
    save_weights(detector.keras_model, tmp_path / "k.h5", parts_state(tuple(scores)) if named else None)
    before = read_weights(tmp_path / "k.h5")
    write_part_scores(tmp_path / "k.h5", tmp_path / target, scores)
    assert part_scores(tmp_path / target) == scores
    after = read_weights(tmp_path / target)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
