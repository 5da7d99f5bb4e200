"""What notebooks look at: the run's own K and M where they are there, else a stand-in that is worth looking at."""

import numpy as np
import pytest

from unmask_tf.data.class_images import load_class_images
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.errors import InputError
from unmask_tf.experiment.grid import Grid
from unmask_tf.experiment.kinds import train_m
from unmask_tf.experiment.publish import finished
from unmask_tf.experiment.ready import part_extractor, trained_or_stand_in, white_box
from unmask_tf.experiment.runner import run as run_steps
from unmask_tf.experiment.setup import prepare
from unmask_tf.taxonomy import UNMASK


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ready") / "data"
    build_dataset(folder, SyntheticConfig(parts_images=(1, 1, 1), class_images=(100, 20, 6)))
    return folder


def test_the_stand_in_knows_the_embedded_classes_and_leaves_no_file(data, tmp_path):
    run = prepare("mini", data=data, results=tmp_path)
    m, name = trained_or_stand_in(run, "cs3a", "resnet50")
    test = load_class_images(data, "cs3a", "test", taxonomy=UNMASK, size=64)
    assert np.mean(m.logits(test.images).argmax(axis=1) == test.labels) > 0.9
    assert name == "stand-in of three convolutions, trained on 300 images"
    assert list(tmp_path.rglob("*")) == []
    again, _ = trained_or_stand_in(run, "cs3a", "resnet50")
    np.testing.assert_array_equal(again.logits(test.images), m.logits(test.images))


def test_a_trained_m_comes_before_the_stand_in(data, tmp_path, monkeypatch):
    from unmask_tf.classifiers.build import build_classifier, save_classifier

    def untrained(settings, inputs, output, resources):
        model = build_classifier(settings.architecture, len(settings.classes), input_size=64, weights="random")
        metadata = {"architecture": settings.architecture, "classes": settings.classes, "input_size": 64}
        save_classifier(model, output, metadata)
        return {}

    monkeypatch.setattr(train_m, "run", untrained)
    run = prepare("mini", data=data, results=tmp_path, architectures=("mobilenet_v2",))
    step = Grid(run).model("cs3a", "mobilenet_v2")
    assert finished(run, step) is None
    path = run_steps([step], run.folder)[step].path
    _, name = trained_or_stand_in(run, "cs3a", "mobilenet_v2")
    assert name == path.name


def test_k_is_the_shipped_one_and_a_missing_k_is_told(data, tmp_path):
    from dataclasses import replace

    run = prepare("mini", data=data, results=tmp_path)
    images = load_class_images(data, "cs3a", "test", taxonomy=UNMASK, size=64, limit=3).images
    found = part_extractor(run).extract(images)
    assert all(set(parts) <= set(UNMASK.parts) for parts in found)
    seen = white_box(run, "cs3a").seen(images)
    assert [set(np.array(UNMASK.parts)[row]) for row in seen] == [set(parts) for parts in found]
    with pytest.raises(InputError, match="make train-k PROFILE=mini"):
        part_extractor(replace(run, k_weights=None))
