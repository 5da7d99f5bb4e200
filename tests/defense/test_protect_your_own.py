"""The README's lines for protecting one's own classifier, run as they stand: only K and M are small stand-ins."""

import re
from pathlib import Path

import numpy as np
import pytest

from unmask_tf.mrcnn.config import preset
from unmask_tf.mrcnn.graphs import build_inference_model
from unmask_tf.mrcnn.weights import parts_state, save_weights

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PARTS = ("door", "ear", "leg", "muzzle", "tail", "wheel", "window")
SIDE = 32


def block(name):
    """The README's code after a marker."""
    (found,) = re.findall(rf"<!-- protect: {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """K of profile photos with random weights."""
    path = tmp_path_factory.mktemp("k") / "k.h5"
    model = build_inference_model(preset("photos", NUM_CLASSES=len(PARTS) + 1))
    save_weights(model, path, parts_state(PARTS))
    return path


class Brightness:
    """Says car (label 0) of dark images and dog of bright ones, by three kinds of classifier."""

    def keras(self):
        import keras

        inputs = keras.Input((SIDE, SIDE, 3))
        model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(inputs)))
        model.layers[-1].set_weights([np.array([[-1.0, 1.0]] * 3), np.array([1.5, -1.5])])
        return model

    def torch(self):
        import torch

        linear = torch.nn.Linear(3, 2)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]))
            linear.bias.copy_(torch.tensor([1.5, -1.5]))
        # In training mode the dropout would leave nothing.
        layers = [torch.nn.Dropout(1.0), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear]
        return torch.nn.Sequential(*layers)

    def callable(self):
        class Pipeline:
            def predict_proba(self, rows):
                assert rows.shape[1:] == (SIDE * SIDE * 3,)
                bright = rows.mean(axis=1)
                return np.stack([1 - bright, bright], axis=1)

        return Pipeline()


@pytest.mark.parametrize("kind", ["keras", "torch", "callable"])
def test_the_readme_protects_a_classifier_of_any_kind(kind, weights, capsys):
    dark, bright = np.full((SIDE, SIDE, 3), 40, np.uint8), np.full((SIDE, SIDE, 3), 210, np.uint8)
    names = {
        "model": getattr(Brightness(), kind)(),
        "benign": np.stack([dark, bright, dark, bright]),
        "images": np.stack([bright, dark]),
    }
    exec(block(kind), names)
    exec(block("classifier").replace("mask_rcnn_weights/unmask_k_photos.h5", str(weights)), names)
    assert names["unmask"].threshold >= 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["dog", "car"]
    assert all(line.split()[0] in ("True", "False") for line in lines)


def test_the_readme_takes_ten_lines_and_the_shipped_k():
    code = [line for line in block("classifier").splitlines() if line.strip() and not line.startswith("from")]
    assert len(code) <= 10
    assert (Path(__file__).parents[2] / "mask_rcnn_weights" / "unmask_k_photos.h5").is_file()
