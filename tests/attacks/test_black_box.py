"""Random noise and Square: within the budget, of 8 bits, image by image; Square asks, and gets better by asking."""

import numpy as np
import pytest
from attack_modules import grey_level_images
from linear_parts import LinearParts

from unmask_tf.attacks import Norm, Target, ThreatModel, black_box
from unmask_tf.attacks.pixels import lengths
from unmask_tf.attacks.results import system_values
from unmask_tf.attacks.runs import run_attack
from unmask_tf.data.pixels import to_8bit
from unmask_tf.errors import InputError

SIDE = 12


def threat(attack, epsilon_255=8.0, iterations=40):
    return ThreatModel(attack=attack, epsilon_255=epsilon_255, step=0.0, iterations=iterations)


@pytest.fixture
def images():
    return grey_level_images(4, SIDE, seed=2)


class Redder:
    """M: label 1 of images whose mean of red has grown by more than 2 grey levels, else 0."""

    def __init__(self, image):
        self.before = image[..., 0].mean()

    def logits(self, images):
        grown = 255 * (images[..., 0].mean(axis=(1, 2)) - self.before) - 2
        return np.stack([np.zeros_like(grown), grown], axis=1)


@pytest.fixture
def target(images):
    """K sees part 0 where red has not grown by 2 levels, part 1 where blue has by 1; class c expects part c alone."""
    images[:] = images[0]  # the same image: only random numbers differ
    red, blue = np.zeros((2, SIDE, SIDE, 3))
    red[..., 0], blue[..., 2] = 255 / SIDE**2, 255 / SIDE**2
    offsets = [(images[0] * red).sum() + 2, (images[0] * blue).sum() + 1]
    return Target(Redder(images[0]), LinearParts([-red, blue], [-offsets[0], offsets[1]], np.eye(2)))


LABELS = np.zeros(4, np.int64)
IDS = list("abcd")


@pytest.mark.parametrize("attack", ["noise_linf", "noise_l2", "square_linf"])
def test_images_are_whole_grey_levels_within_the_budget(target, images, attack):
    found = run_attack(target, images, LABELS, threat(attack, 100 if attack.endswith("l2") else 5), seed=1, ids=IDS)
    np.testing.assert_array_equal(found, to_8bit(found).astype(np.float32) / np.float32(255))
    moved = lengths(found.astype(np.float64) - images, Norm(attack.rpartition("_")[2])) * 255
    assert moved.max() <= (100 if attack.endswith("l2") else 5) + 1e-3 and moved.min() > 3


@pytest.mark.parametrize("attack", ["noise_linf", "noise_l2", "square_linf"])
def test_an_image_s_result_depends_on_no_other_image(target, images, attack):
    together = run_attack(target, images, LABELS, threat(attack), seed=1, ids=IDS)
    alone = run_attack(target, images[2:3], LABELS[2:3], threat(attack), seed=1, ids=IDS[2:3])
    np.testing.assert_array_equal(alone[0], together[2])
    assert (together[0] != together[1]).any(), "each has random numbers of its own"


def test_square_improves_by_asking_and_stops_where_nothing_is_left_to_gain(target, images):
    values = []
    for queries in (1, 30, 300):
        target.parts.asked = 0
        found = run_attack(target, images, LABELS, threat("square_linf", 8, queries), seed=1, ids=IDS)
        distances = target.parts.distances(target.parts.seen(to_8bit(found)))
        values.append(system_values(target.logits(found), distances, LABELS))
        assert target.parts.asked <= 4 * queries + 4
    assert (values[0] <= values[1]).all() and (values[1] <= values[2]).all()
    assert values[0].max() < 1.0 == values[2].max(), "wrong, and with the parts of the wrong class"
    assert values[2].min() >= 0.0 > values[0].min(), "M is led astray on all"
    assert target.parts.asked < 4 * 300, "a perfect image is not asked about again"


def test_system_values_by_hand():
    logits = np.array([[3.0, 1.0], [1.0, 3.0], [1.0, 3.0]])
    distances = np.array([[0.5, 0.1], [0.5, 0.1], [0.0, 1.0]])
    # Right by 2: -1 + tanh(-.2). Wrong: 1 - d of what M answers.
    assert system_values(logits, distances, np.array([0, 0, 0])) == pytest.approx([-1 + np.tanh(-0.2), 0.9, 0.0])


def test_sides_of_squares_by_hand():
    # .8 of 64 x 64 is 57 x 57; after 1 of 1000 queries halved: 40; twice after 5 (more than .005): 29.
    assert black_box._side(0.0005, (64, 64)) == 57
    assert black_box._side(0.002, (64, 64)) == 40
    assert black_box._side(0.006, (64, 64)) == 29
    assert black_box._side(0.9, (8, 64)) == 1


def test_a_system_without_k_is_refused(target, images):
    with pytest.raises(InputError, match="no K"):
        run_attack(Target(target.classifier), images, LABELS, threat("square_linf"), seed=1, ids=IDS)
