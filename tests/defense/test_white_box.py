"""K as an attacker who knows it sees it: distances and answers are the defence's own."""

import os
from pathlib import Path

import numpy as np
import pytest

from unmask_tf.defense.alignment import defend, detection_scores, similarities
from unmask_tf.defense.white_box import WhiteBox
from unmask_tf.experiment.setup import WEIGHTS_FOLDER
from unmask_tf.mrcnn.config import Config, preset
from unmask_tf.taxonomy import Taxonomy

PARTS = ("wheel", "door", "tail", "ear")
TAXONOMY = Taxonomy(
    PARTS, {"dog": ("tail", "ear"), "car": ("wheel", "door"), "cat": ("ear", "tail")}, {"all": ("dog", "car", "cat")}
)
PHOTOS = Path(os.environ.get("UNMASK_PHOTOS") or "no photographs")


@pytest.fixture
def box():
    return WhiteBox(Config(NUM_CLASSES=5), "k.h5", TAXONOMY, "all")


def test_columns_are_in_label_order(box):
    assert box.labels == ("car", "cat", "dog")
    assert box.expected.tolist() == [[True, True, False, False], [False, False, True, True], [False, False, True, True]]


def test_distances_and_answers_are_the_alignment_s(box):
    seen = np.array([[i >> part & 1 for part in range(4)] for i in range(16)], bool)
    sets = [frozenset(np.array(PARTS)[row]) for row in seen]
    np.testing.assert_array_equal(box.distances(seen), detection_scores(similarities(sets, TAXONOMY, box.labels)))
    answers = [None if label < 0 else box.labels[label] for label in box.best_fit(seen)]
    assert answers == defend(sets, TAXONOMY, "all")
    assert answers[0] is None and answers[12] == "dog", "of two that fit, the first in the class set's order"


def test_what_the_detector_finds_becomes_a_row_of_parts(box):
    class Found:
        def extract(self, images):
            return [{"door": None}, {}, {"ear": None, "wheel": None}]

    box.extractor = Found()
    assert box.seen(np.zeros((3, 2, 2, 3), np.uint8)).astype(int).tolist() == [[0, 1, 0, 0], [0] * 4, [1, 0, 0, 1]]


@pytest.mark.photos
@pytest.mark.skipif(not (PHOTOS / "parts_val.json").is_file(), reason="UNMASK_PHOTOS names no photographs")
def test_on_photographs_the_margins_say_what_the_detector_sees():
    from unmask_tf.data.class_images import list_class_images, read_class_images
    from unmask_tf.experiment.setup import read_taxonomy

    taxonomy = read_taxonomy(PHOTOS)
    class_set = next(iter(taxonomy.class_sets))
    labels, config = taxonomy.labels(class_set), preset("photos", NUM_CLASSES=len(taxonomy.parts) + 1)
    names = list_class_images(PHOTOS, class_set, "val", taxonomy=taxonomy, limit=12)
    images = read_class_images(PHOTOS, names, labels, 160).images
    shown = WhiteBox(config, WEIGHTS_FOLDER / "unmask_k_photos.h5", taxonomy, class_set, batch_size=4)
    seen = shown.seen(images)
    assert seen.any(axis=1).mean() > 0.5
    np.testing.assert_array_equal(shown.presence.strongest(images) > 0, seen)
