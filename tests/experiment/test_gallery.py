"""The cases of a run to look at: which are chosen, and how large they are."""

import base64
import io

import numpy as np
from PIL import Image

from unmask_tf.experiment.gallery import CASES, _in_turn, _picture


def test_every_outcome_of_every_attack_has_its_turn_until_there_are_enough():
    groups = [["rare"], [f"frequent {i}" for i in range(500)], ["two", "of them"]]
    chosen = _in_turn(groups)
    assert chosen[:5] == ["rare", "frequent 0", "two", "frequent 1", "of them"] and len(chosen) == CASES >= 48
    assert _in_turn([]) == []


def test_a_page_of_the_largest_images_stays_below_10_mb_and_small_ones_stay_true():
    rng = np.random.default_rng(0)
    noise = rng.choice([0.0, 1.0], (224, 224, 3)).astype(np.float32)
    # The worst of three images of a case is the attack's noise, the others compress as photographs do.
    assert CASES * len(_picture(noise)) < 6_000_000
    scene = np.broadcast_to(np.linspace(-0.5, 1.5, 64, dtype=np.float32)[:, None, None], (64, 64, 3))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(_picture(scene).partition(",")[2]))))
    assert shown.shape == (64, 64, 3) and np.abs(shown / 255 - scene.clip(0, 1)).max() < 0.03
