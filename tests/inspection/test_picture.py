"""The picture of a look: what it says, and that nothing about an image can stop it."""

import numpy as np
import pytest
from PIL import Image

from unmask_tf.defense.extract import PartSeen
from unmask_tf.defense.unmask import UnMask
from unmask_tf.inspection.picture import draw, judgement, save, spread
from unmask_tf.inspection.system import Look
from unmask_tf.taxonomy import UNMASK

BIRD = ("beak", "wing", "tail")


class StubK:
    def __init__(self, parts):
        self.parts = parts

    def extract(self, images):
        return [{part: PartSeen(0.5, ((2, 3 + i, 9 + i, 20),) * 5) for i, part in enumerate(self.parts)}]


def verdict(label, parts, threshold=0.75):
    """Labels of cs3b: bird, dog, person."""
    unmask = UnMask(lambda images: np.eye(3)[[label]], StubK(parts), UNMASK, "cs3b", threshold)
    return unmask.predict(np.zeros((1, 32, 32, 3), np.uint8))[0]


def look(benign, attacked=None, shape=(40, 60, 3)):
    seen, more = np.full((32, 32, 3), 102, np.uint8), ()
    if attacked is not None:
        more = np.full((32, 32, 3), 0.5, np.float32), attacked
    return Look(np.zeros(shape, np.uint8), seen, benign, *more)


def texts(figure):
    """All that is written in a figure, line breaks as spaces."""
    found = [*figure.texts, *(text for axis in figure.axes for text in axis.texts)]
    return [" ".join(text.get_text().split()) for text in found]


def test_the_picture_of_a_benign_image_tells_the_parts_the_threshold_and_the_verdict():
    written = texts(draw(look(verdict(0, (*BIRD, "door"))), "robin.jpg", 0.75, captions=("M: m.", "K: k.")))
    assert "robin.jpg" in written
    assert "M says bird: benign" in written
    assert "Expected of a bird and seen (3): beak, tail, wing" in written
    assert "Expected, not seen (6): eye, foot, head, leg, neck, torso" in written
    assert "Seen, not expected (1): door" in written
    assert "0.30 what M says" in written  # 3 of 10
    assert "threshold 0.25: M is doubted at or below it" in written
    assert {"beak 0.50", "tail 0.50", "wing 0.50", "door 0.50"} <= set(written)
    assert any("60 x 40 pixels" in text and "32 x 32" in text and "K: k." in text for text in written)
    assert not any("Attacked" in text for text in written)


def test_the_attacked_image_stands_beside_it_with_its_own_verdict():
    figure = draw(look(verdict(0, BIRD), verdict(2, BIRD)), "robin.jpg", 0.75, "MIA-L∞ ε=8")
    written = texts(figure)
    assert "Attacked: MIA-L∞ ε=8" in written
    assert "M says person: adversarial; the parts say bird" in written
    assert "0.33 corrected class" in written
    assert "0.00 what M says" in written
    assert "What the attack added, x5" in written  # 0.5 / (0.5 - 102 / 255)
    assert figure.get_figwidth() > draw(look(verdict(0, BIRD)), "robin.jpg", 0.75).get_figwidth()


def test_an_attack_that_changes_nothing_is_drawn_too():
    benign = verdict(0, BIRD)
    same = Look(np.zeros((40, 60, 3), np.uint8), np.zeros((32, 32, 3), np.uint8), benign, np.zeros((32, 32, 3)), benign)
    assert "The attack added nothing." in texts(draw(same, "robin.jpg", 0.75))


def test_the_words_of_a_verdict():
    assert judgement(verdict(0, BIRD)) == "M says bird: benign"
    assert judgement(verdict(2, ("beak",))) == "M says person: adversarial; the parts say bird"
    assert judgement(verdict(2, ())) == "M says person: adversarial; the parts fit no class"


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.000001])
@pytest.mark.parametrize("parts", [(), UNMASK.parts], ids=["no part", "44 parts"])
@pytest.mark.parametrize("shape", [(16, 300, 3), (300, 16, 3)])
def test_extreme_images_are_drawn_too(tmp_path, threshold, parts, shape):
    drawn = draw(look(verdict(0, parts, threshold), shape=shape), "x" * 200 + ".jpg", threshold)
    assert ("this threshold doubts no image" in texts(drawn)) == (threshold > 1)
    with Image.open(save(drawn, tmp_path / "a.png")) as image:
        assert image.width > 800 and image.height > 800
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_the_same_look_gives_the_same_bytes(tmp_path):
    made = look(verdict(0, BIRD), verdict(2, BIRD))
    first, second = (save(draw(made, "a.jpg", 0.75, "x"), tmp_path / name).read_bytes() for name in ("1.png", "2.png"))
    assert first == second


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        ([], []),
        ([5.0], [5.0]),
        ([1.0, 5.0, 9.0], [1.0, 5.0, 9.0]),  # far enough apart
        ([5.0, 5.0], [4.0, 6.0]),  # both give way alike
        ([4.0, 5.0, 6.0], [3.0, 5.0, 7.0]),
        ([0.0, 0.0], [0.0, 2.0]),  # not beyond the edge
        ([10.0, 10.0, 10.0], [6.0, 8.0, 10.0]),
        ([0.0] * 8, [2.0 * i for i in range(8)]),  # more than fit go beyond the lower end
    ],
)
def test_labels_keep_their_distance_and_stay_near(wanted, places):
    assert spread(wanted, 2.0, 0.0, 10.0) == pytest.approx(places)
