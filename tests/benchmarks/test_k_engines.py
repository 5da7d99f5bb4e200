"""The comparison of K's engines sees it when two of them disagree."""

import sys
from pathlib import Path

import numpy as np
import pytest

from unmask_tf.defense.extract import PartSeen
from unmask_tf.taxonomy import Taxonomy

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import k_engines  # noqa: E402

sys.path.remove(str(BENCHMARKS))
TAXONOMY = Taxonomy(("wheel", "door", "tail"), {"car": ("wheel", "door"), "dog": ("tail",)}, {"two": ("car", "dog")})


def seen(**scores):
    return {part: PartSeen(score, ((0, 0, 1, 1),)) for part, score in scores.items()}


class Fake:
    """An engine that finds what its images' first pixels say, and remembers whose turn it was."""

    def __init__(self, name, log, flawed=-1):
        self.name, self.log, self.flawed = name, log, flawed

    def extract(self, images):
        self.log.append((self.name, len(images)))
        return [seen(wheel=0.9) if image[0, 0, 0] != self.flawed else seen(wheel=0.8, tail=0.5) for image in images]


@pytest.fixture
def images():
    return np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)


def test_a_part_too_many_in_one_image_of_five_is_counted(images):
    engines = {"tensorflow": Fake("tensorflow", []), "flawed": Fake("flawed", [], flawed=3)}
    found, _ = k_engines.extract_in_turn(engines, images, 1)
    same = k_engines.compare(found["tensorflow"], found["tensorflow"], TAXONOMY.parts)
    assert same == {"images": 5, "equal_sets": 1, "equal_memberships": 1, "jaccard": 1, "score_gap": 0}
    other = k_engines.compare(found["tensorflow"], found["flawed"], TAXONOMY.parts)
    assert other["equal_sets"] == pytest.approx(4 / 5)
    assert other["equal_memberships"] == pytest.approx(14 / 15)
    assert other["score_gap"] == pytest.approx(0.1)


def test_engines_take_turns_batch_by_batch_after_one_that_does_not_count(images):
    log = []
    found, seconds = k_engines.extract_in_turn({"a": Fake("a", log), "b": Fake("b", log)}, images, 2)
    assert log == [("a", 2), ("b", 2)] + [("a", 2), ("b", 2)] * 2 + [("a", 1), ("b", 1)]
    assert len(found["a"]) == len(found["b"]) == 5
    assert seconds["a"].keys() == {"seconds", "cpu_seconds"} and seconds["a"]["seconds"] > 0


def test_the_separation_is_1_where_every_image_shows_its_own_class_and_0_where_it_shows_the_other():
    right = [seen(wheel=0.9, door=0.9), seen(tail=0.9), seen(tail=0.9)]
    assert k_engines.separation(right, [0, 1, 1], TAXONOMY, ("car", "dog")) == 1
    assert k_engines.separation(right, [1, 0, 0], TAXONOMY, ("car", "dog")) == 0
    assert k_engines.separation([seen(), seen()], [0, 1], TAXONOMY, ("car", "dog")) == 0.5
