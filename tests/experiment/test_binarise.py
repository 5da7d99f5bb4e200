"""The binarisation test as a kind of step: its output, and how it is published."""

from dataclasses import replace

import pytest
import torch

from unmask_tf.attacks.module import logits_of
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.experiment.adaptive import binarisation
from unmask_tf.experiment.kinds import binarise
from unmask_tf.experiment.publish import publish_all
from unmask_tf.experiment.setup import prepare
from unmask_tf.experiment.step import Memory, Output, Resources
from unmask_tf.files import read_json


class RandomFeatures(torch.nn.Module):
    """An M that needs no training."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = (torch.nn.Linear(3 * 64**2, 300), torch.nn.ReLU(), torch.nn.Linear(300, 3))
            self.layers = torch.nn.Sequential(torch.nn.Flatten(), *layers)

    def forward(self, pixels):
        return self.layers(pixels)

    def logits(self, images):
        return logits_of(self, images)

    def torch_module(self):
        return self


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("binarise")
    build_dataset(folder / "data", SyntheticConfig(parts_images=(1, 1, 1), class_images=(1, 1, 1)))
    return prepare("mini", data=folder / "data", results=folder / "results", architectures=("resnet50",))


def test_a_trial_of_each_form_an_image_is_written_and_published(run, tmp_path, monkeypatch):
    monkeypatch.setattr(binarise, "load_m", lambda *_: RandomFeatures())
    (step,) = binarisation(run, 3)
    assert step.kind == "binarise" and binarise.cost(step.settings, step.inputs) > 0
    threat = replace(step.settings.threat, iterations=12, restarts=1, step=5 * 4 / 255 / 12)
    shares, output = [], tmp_path / "trials.json"
    resources = Resources(shares.append, tmp_path, Memory(), {"model": "m", "weights": "k"})
    said = binarise.run(replace(step.settings, threat=threat), step.inputs, output, resources)["said"]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0])
    publish_all(tmp_path, "binarisation", [Output(output, "")])
    (found,) = read_json(tmp_path / "rows" / "binarisation.json")
    assert found["model"] == "resnet50" and found["threat"]["iterations"] == 12
    for kind in ("normal", "inverted"):
        assert [t["image"] for t in found["trials"][kind]] == list(step.inputs["images"].names)
        assert all(0 <= t["distance"] <= 1 and t["iterations"] <= 13 for t in found["trials"][kind])
    solved = [sum(t["solved"] for t in found["trials"][kind]) for kind in ("normal", "inverted")]
    assert said == f"{solved[0]} and inverted {solved[1]} of 3 solved" and min(solved) >= 2
