"""The README's lines for protecting one's own classifier, run as they stand: with the shipped K, and a small M."""

import re
from pathlib import Path

import numpy as np
import pytest

from unmask_tf import InputError, load_photos_k, photo_parts

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SIDE = 32


def block(name):
    """The README's code after a marker."""
    (found,) = re.findall(rf"<!-- protect: {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    return found


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
def test_the_readme_protects_a_classifier_of_any_kind(kind, capsys):
    dark, bright = np.full((SIDE, SIDE, 3), 40, np.uint8), np.full((SIDE, SIDE, 3), 210, np.uint8)
    names = {
        "model": getattr(Brightness(), kind)(),
        "benign": np.stack([dark, bright, dark, bright]),
        "images": np.stack([bright, dark]),
    }
    exec(block(kind), names)
    exec(block("classifier"), names)
    assert names["unmask"].threshold >= 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["dog", "car"]
    assert all(line.split()[0] in ("True", "False") for line in lines)


def test_the_readme_takes_ten_lines():
    assert len([line for line in block("classifier").splitlines() if line.strip()]) <= 10


def test_the_shipped_k_takes_your_classes_and_refuses_parts_that_it_cannot_see():
    assert {"wheel", "door", "muzzle"} <= set(photo_parts())
    k = load_photos_k({"dog": ("muzzle", "tail"), "car": ("wheel",)}, "pets and cars")
    assert k.taxonomy.members("pets and cars") == ("dog", "car")
    assert k.taxonomy.parts == photo_parts()
    with pytest.raises(InputError, match="class 'ship' expects the part 'sail'"):
        load_photos_k({"ship": ("sail",)})
