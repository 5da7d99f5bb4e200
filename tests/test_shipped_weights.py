"""The shipped weights of K: they are what their list says, fit their presets, and see parts in photographs."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from unmask_tf.config import PART_DETECTORS, PROFILES
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.errors import InputError
from unmask_tf.experiment.setup import WEIGHTS_FOLDER, listed_sha256, verify_weights
from unmask_tf.files import sha256
from unmask_tf.mrcnn.part_names import part_names
from unmask_tf.taxonomy import UNMASK, Taxonomy

SHIPPED = {"unmask_k_mini.h5": "mini", "unmask_k_mini_robust.h5": "mini_robust", "unmask_k_photos.h5": "photos"}
PHOTOS = Path(os.environ.get("UNMASK_PHOTOS") or "no photographs")


def test_the_list_names_what_is_shipped():
    lines = (WEIGHTS_FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    present = {path.name for path in WEIGHTS_FOLDER.glob("unmask_m_*.weights.h5")}
    assert {line.split()[1] for line in lines} == {*SHIPPED, *present}
    detectors = {name: PROFILES[name].part_detector for name in ("mini", "photos")} | PART_DETECTORS
    assert {detector.weights: name for name, detector in detectors.items()} == SHIPPED


@pytest.mark.parametrize(("name", "profile"), SHIPPED.items())
def test_a_shipped_file_is_the_listed_one_and_fits_its_preset(name, profile):
    from unmask_tf.mrcnn.config import preset
    from unmask_tf.mrcnn.model import MaskRCNN

    path = WEIGHTS_FOLDER / name
    assert listed_sha256(path) is not None
    verify_weights(path)
    parts = part_names(path) or UNMASK.parts  # the file of profile mini does not say
    assert profile != "mini" or parts == UNMASK.parts
    model = MaskRCNN("inference", preset(profile, NUM_CLASSES=len(parts) + 1), WEIGHTS_FOLDER)
    report = model.load_weights(path)
    assert report.loaded
    assert not (report.missing or report.unexpected or report.mismatched)


def test_every_shipped_m_is_small_and_was_calibrated_with_the_shipped_k():
    from unmask_tf.classifiers.build import load_classifier
    from unmask_tf.defense.calibration import Calibration
    from unmask_tf.experiment.release import LARGEST, released

    for (class_set, architecture), path in released(WEIGHTS_FOLDER).items():
        verify_weights(path)
        assert path.stat().st_size <= LARGEST
        model, metadata = load_classifier(path)
        found = Calibration.from_metadata(metadata, path.name)
        assert (found.class_set, metadata["architecture"]) == (class_set, architecture)
        assert found.k_sha256 == sha256(WEIGHTS_FOLDER / found.k_file), path.name
        assert found.taxonomy.parts == part_names(WEIGHTS_FOLDER / found.k_file)
        assert 0 < found.threshold <= 1, "a threshold above 1 flags nothing"
        assert found.max_fpr == 0.05
        assert all(variable.dtype == "float32" for variable in model.variables)


def test_a_file_that_is_not_the_listed_one_is_refused_and_an_unlisted_one_is_nobodys(tmp_path):
    (tmp_path / "k.h5").write_bytes(b"abc")
    (tmp_path / "mine.h5").write_bytes(b"abc")
    verify_weights(tmp_path / "k.h5")  # there is no list
    listed = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "SHA256SUMS").write_text(f"{listed}  k.h5\n")
    verify_weights(tmp_path / "k.h5")
    (tmp_path / "k.h5").write_bytes(b"abd")
    with pytest.raises(InputError, match=rf"k\.h5 is not the file that SHA256SUMS beside it lists.*expected {listed}"):
        verify_weights(tmp_path / "k.h5")
    verify_weights(tmp_path / "mine.h5")


def test_the_shipped_k_finds_the_parts_of_embedded_test_images(tmp_path):
    """On the whole split of 300 images its mAP is .826; on these it is .842."""
    from unmask_tf.data.part_instances import read_part_instances
    from unmask_tf.data.synthetic import build_dataset
    from unmask_tf.mrcnn.config import preset
    from unmask_tf.mrcnn.evaluate import evaluate_parts

    build_dataset(tmp_path, SyntheticConfig(parts_images=(1, 1, 40), class_images=(0, 0, 0)))
    dataset = read_part_instances(tmp_path / "parts_test.json", tmp_path / "images" / "test", UNMASK)
    config = preset("mini", NUM_CLASSES=len(UNMASK.parts) + 1)
    scores = evaluate_parts(config, WEIGHTS_FOLDER / "unmask_k_mini.h5", dataset)
    assert (scores["n_images"], scores["iou_type"]) == (40, "segm")
    assert scores["map50"] >= 0.70
    assert scores["map50_bbox"] >= 0.70


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
