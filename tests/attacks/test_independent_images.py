"""What becomes of an image depends on M, the image, its label, seed and id: not on the other images of the call."""

import numpy as np
import pytest
import torch
from attack_modules import conv_net, grey_level_images, target_of
from known_attacks import ON_M
from scipy import stats
from torch import nn

from unmask_tf.attacks.advertorch_bridge import advertorch_attacks, attack
from unmask_tf.attacks.advertorch_entries import advertorch_attack
from unmask_tf.attacks.protocol import ATTACKS, Norm, random_seed
from unmask_tf.attacks.runs import run_attack
from unmask_tf.attacks.threat_models import ThreatModel, threat_model

COUNT = 7
IMAGES, LABELS = grey_level_images(COUNT), np.arange(COUNT) % 3
IDS = [f"val/{i}.jpg" for i in range(COUNT)]


class Elementwise(nn.Module):
    """Logits by sums whose terms are added up one image at a time, so that a batch changes no bit."""

    def forward(self, x):
        bent = torch.sin(40.0 * x) + x
        return torch.stack([torch.stack([i.sum(), (i * i).sum(), i[0].sum() - 3.0 * i[1].sum()]) for i in bent])


def run(rows, batch_size=32, preset="strong", name="pgd_linf", seed=3, module=None, **options):
    rows = np.asarray(rows)
    epsilon = 8 if name.endswith("linf") else 100
    threat = threat_model(name, epsilon, preset=preset, iterations=4)
    target = target_of(Elementwise() if module is None else module)
    ids = [IDS[row] for row in rows]
    return run_attack(
        target, IMAGES[rows], LABELS[rows], threat, seed=seed, ids=ids, batch_size=batch_size, **options
    ).images


@pytest.mark.parametrize("name", ON_M)
@pytest.mark.parametrize("preset", ["released", "strong"])
def test_subsets_orders_and_batch_sizes_give_each_image_the_same_bits(name, preset):
    whole = run(range(COUNT), preset=preset, name=name)
    for rows, batch_size in (([6, 2, 0, 5, 1, 3, 4], 32), ([3, 1], 32), (range(COUNT), 1), (range(COUNT), 3)):
        np.testing.assert_array_equal(run(rows, batch_size, preset, name), whole[list(rows)])


@pytest.mark.parametrize("name", ON_M)
def test_convolutions_change_no_more_than_rounding(name):
    """Their kernels add up in an order that depends on the batch; a sign near zero may then turn a step."""
    module = conv_net()
    whole = run(range(COUNT), name=name, module=module)
    for rows, batch_size in (([6, 2, 0, 5, 1, 3, 4], 4), (range(COUNT), 1)):
        other = run(rows, batch_size, name=name, module=module)
        assert np.mean(np.abs(other - whole[list(rows)]) <= 1e-5) >= 0.999


def starts(name, ids, seed=0, restart=0, images=None):
    """Random starts of an attack of no step, less the clean images."""
    images = np.full((len(ids), 4, 4, 3), 0.5, np.float32) if images is None else images
    threat = ThreatModel(attack=name, epsilon_255=25.5, step=0.0, iterations=1, random_start=True)
    target = target_of(conv_net())
    return run_attack(target, images, np.zeros(len(ids), int), threat, seed=seed, ids=ids).images - images


def test_equal_images_of_other_names_and_other_seeds_start_elsewhere():
    one, other = starts("pgd_linf", ["a", "b"])
    assert not np.allclose(one, other, atol=1e-3)
    np.testing.assert_array_equal(starts("pgd_linf", ["b", "c"])[0], other)
    assert not np.allclose(starts("pgd_linf", ["a"], seed=1)[0], one, atol=1e-3)


def test_each_restart_has_its_own_start():
    seeds = {random_seed(seed, name, restart) for seed in (0, 1) for name in ("a", "b") for restart in range(3)}
    assert len(seeds) == 12 and all(0 <= seed < 2**63 for seed in seeds)
    assert random_seed(7, "val/dog/1.jpg", 2) == random_seed(7, "val/dog/1.jpg", 2)


def test_linf_starts_are_uniform_in_the_budget_as_advertorchs_are():
    values = starts("pgd_linf", [str(i) for i in range(100)]).ravel()
    assert stats.kstest(values, stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("name", "entry"),
    [("pgd_l2", None), ("pgd_linf", None), ("pgd_l1", advertorch_attack("L1PGDAttack", Norm.L1, random_start=True))],
)
def test_a_start_is_the_one_that_advertorch_draws_for_a_batch_of_one(monkeypatch, name, entry):
    """Bit for bit, on images that the box cuts: in L2 uniform in the box, then shortened to the ball."""
    if entry is not None:
        monkeypatch.setitem(ATTACKS, name, entry)
    image = IMAGES[:1, :4, :4]
    threat = ThreatModel(attack=name, epsilon_255=25.5, step=0.0, iterations=1, random_start=True)
    ours = run_attack(target_of(conv_net()), image, LABELS[:1], threat, seed=5, ids=["x"]).images
    kind = getattr(advertorch_attacks(), threat.spec.run.advertorch_class)
    with torch.random.fork_rng():
        torch.manual_seed(random_seed(5, "x"))
        adversary = kind(conv_net().eval(), eps=0.1, eps_iter=0.0, nb_iter=1, rand_init=True)
        theirs = adversary.perturb(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous(), torch.zeros(1).long())
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=2.0**-23)
    assert np.abs(ours - image).max() > 0.005


def test_without_ids_the_pixels_name_an_image():
    threat = threat_model("pgd_linf", 8, preset="written", iterations=2)
    whole = attack(Elementwise(), IMAGES, LABELS, threat, seed=1).images
    np.testing.assert_array_equal(attack(Elementwise(), IMAGES[4:6], LABELS[4:6], threat, seed=1).images, whole[4:6])
