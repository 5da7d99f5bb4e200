"""The shipped weights of K: they are what their list says, fit their presets, and see parts in photographs."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from unmask_tf.reproduce.artefacts import WEIGHTS_FOLDER, verified_sha256

from unmask_tf.config import PROFILES
from unmask_tf.mrcnn.part_names import part_names
from unmask_tf.taxonomy import UNMASK, Taxonomy

SHIPPED = {"unmask_k_mini.h5": "mini", "unmask_k_photos.h5": "photos"}
PHOTOS = Path(os.environ.get("UNMASK_PHOTOS") or "no photographs")


def test_the_list_names_what_is_shipped():
    lines = (WEIGHTS_FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert {line.split()[1] for line in lines} == set(SHIPPED)
    assert {profile: PROFILES[profile].part_detector.weights for profile in SHIPPED.values()} == {
        profile: name for name, profile in SHIPPED.items()
    }


@pytest.mark.parametrize(("name", "profile"), SHIPPED.items())
def test_a_shipped_file_is_the_listed_one_and_fits_its_preset(name, profile):
    from unmask_tf.mrcnn.config import preset
    from unmask_tf.mrcnn.model import MaskRCNN

    path = WEIGHTS_FOLDER / name
    verified_sha256(path)
    parts = part_names(path) or UNMASK.parts  # the file of profile mini does not say
    assert profile != "mini" or parts == UNMASK.parts
    model = MaskRCNN("inference", preset(profile, NUM_CLASSES=len(parts) + 1), WEIGHTS_FOLDER)
    report = model.load_weights(path)
    assert report.loaded
    assert not (report.missing or report.unexpected or report.mismatched)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_s_log_tells_of_every_epoch(name):
    log = json.loads((WEIGHTS_FOLDER / name).with_suffix(".log.json").read_text(encoding="utf-8"))
    assert [row["epoch"] for row in log] == list(range(1, len(log) + 1))
    assert log[-1]["val_map50"] > log[0]["val_map50"]
    assert all(np.isfinite(value) for row in log for key, value in row.items() if key != "layers")


@pytest.mark.photos
@pytest.mark.skipif(not (PHOTOS / "parts_val.json").is_file(), reason="UNMASK_PHOTOS names no photographs")
def test_k_sees_parts_in_photographs():
    from unmask_tf.data.class_images import load_class_images
    from unmask_tf.defense.extract import PartExtractor
    from unmask_tf.mrcnn.config import preset

    taxonomy = Taxonomy.from_json(PHOTOS / "taxonomy.json")
    weights = WEIGHTS_FOLDER / PROFILES["photos"].part_detector.weights
    assert part_names(weights) == taxonomy.parts
    images = load_class_images(PHOTOS, "photo2", "val", taxonomy=taxonomy, size=160, limit=40)
    config = preset("photos", NUM_CLASSES=len(taxonomy.parts) + 1)
    found = PartExtractor(config, weights, taxonomy).extract(images.images)
    labels = taxonomy.labels("photo2")
    for position, name in enumerate(labels):
        own, other = taxonomy.expected(name), taxonomy.expected(labels[1 - position])
        seen = [parts for parts, label in zip(found, images.labels, strict=True) if label == position]
        assert seen
        # Cars and dogs share no part.
        mine, wrong = (sum(len(parts.keys() & expected) for parts in seen) for expected in (own, other))
        assert mine > 4 * wrong, name
        assert mine > len(seen), name
