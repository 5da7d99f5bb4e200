import numpy as np
import pytest

from unmask_tf.attacks.pixels import project
from unmask_tf.attacks.threat_models import threat_model
from unmask_tf.data.pixels import to_8bit
from unmask_tf.errors import InputError

LEVELS = np.arange(256)
RAMP = (LEVELS / 255.0).astype(np.float32)[None, :, None, None].repeat(3, axis=3)


def test_8bit_form_gives_back_every_grey_level():
    assert np.array_equal(to_8bit(RAMP)[0, :, 0, 0], LEVELS)
    assert np.array_equal(to_8bit(LEVELS.astype(np.float32) / np.float32(255.0)), LEVELS)
    assert np.array_equal(to_8bit(LEVELS / 255.0), LEVELS)
    assert to_8bit(RAMP).dtype == np.uint8


def test_8bit_form_cuts_and_does_not_round():
    assert to_8bit(np.array([0.999, 1.0, 0.0039, 0.00393])).tolist() == [254, 255, 0, 1]


@pytest.mark.parametrize("pixels", [[1.001], [-0.001], [np.nan]])
def test_8bit_form_refuses_pixels_outside_the_box(pixels):
    with pytest.raises(InputError, match=r"expected \[0, 1\]"):
        to_8bit(np.array(pixels))


def test_8bit_form_refuses_integers():
    with pytest.raises(InputError, match="Divide 8-bit images by 255"):
        to_8bit(LEVELS)


@pytest.mark.parametrize("epsilon_255", [4, 8, 16])
def test_linf_edges_of_the_budget_keep_their_grey_level(epsilon_255):
    threat = threat_model("pgd_linf", epsilon_255)
    step = np.float32(threat.epsilon)
    up = to_8bit(project(RAMP, np.clip(RAMP + step, 0, 1), threat))[0, :, 0, 0]
    down = to_8bit(project(RAMP, np.clip(RAMP - step, 0, 1), threat))[0, :, 0, 0]
    assert np.array_equal(up, np.minimum(LEVELS + epsilon_255, 255))
    assert np.array_equal(down, np.maximum(LEVELS - epsilon_255, 0))


def test_linf_projection_takes_out_rounding_and_changes_nothing_inside():
    threat = threat_model("pgd_linf", 8)
    inside = np.clip(RAMP + np.float32(0.02), 0, 1)
    assert np.array_equal(project(RAMP, inside, threat), inside)
    over = RAMP[:, :200] + np.float32(8 / 255 + 5e-7)
    result = project(RAMP[:, :200], over, threat)
    assert np.abs(result.astype(float) - RAMP[:, :200]).max() <= 8 / 255 + 3e-8


def test_l2_projection_shortens_a_perturbation_to_its_budget():
    threat = threat_model("pgd_l2", 255)  # a budget of 1
    clean = np.zeros((2, 1, 2, 3), np.float32)
    over = clean.copy()
    over[0, 0, 0] = [0.6000003, 0.8000004, 0.0]
    over[1, 0, 0] = [0.3, 0.4, 0.0]
    result = project(clean, over, threat)
    np.testing.assert_allclose(result[0, 0, 0], [0.6, 0.8, 0.0], atol=1e-7)
    assert np.array_equal(result[1], over[1])


@pytest.mark.parametrize("attack", ["pgd_linf", "pgd_l2"])
@pytest.mark.parametrize("fault", ["budget", "box", "nan"])
def test_more_than_rounding_is_an_error(attack, fault):
    threat = threat_model(attack, 8)
    clean = np.full((1, 2, 2, 3), 0.999 if fault == "box" else 0.5, np.float32)
    bad = clean.copy()
    bad[0, 0, 0, 0] += {"budget": 0.04, "box": 0.002, "nan": np.nan}[fault]
    with pytest.raises(RuntimeError, match="left its budget"):
        project(clean, bad, threat)
