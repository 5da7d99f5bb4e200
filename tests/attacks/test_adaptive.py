"""Attacks that know K reach their aim through the real detector, and a fault planted in them does not go unnoticed."""

import numpy as np
import pytest
import torch
from attack_modules import OfModule
from linear_parts import LinearParts
from PIL import Image

from unmask_tf.attacks import ATTACKS, Norm, Target, ThreatModel, adaptive, part_losses
from unmask_tf.attacks.adaptive import Adaptive, Gradients, adaptive_attack
from unmask_tf.attacks.evidence import checked_attack
from unmask_tf.attacks.pixels import grey_levels, inside, lengths
from unmask_tf.attacks.runs import images_of, run_attack
from unmask_tf.data.class_images import list_class_images, read_class_images
from unmask_tf.data.pixels import to_8bit
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.defense.alignment import margin_scores
from unmask_tf.defense.unmask import UnMask
from unmask_tf.defense.white_box import WhiteBox
from unmask_tf.errors import InputError
from unmask_tf.experiment.setup import WEIGHTS_FOLDER
from unmask_tf.mrcnn.config import preset
from unmask_tf.taxonomy import UNMASK

NAMES = [name for name, attack in ATTACKS.items() if "K" in attack.knows and attack.gradient]
K = WEIGHTS_FOLDER / "unmask_k_mini.h5"


def threat(attack="joint_linf", epsilon_255=255.0, iterations=30, restarts=1):
    """By default without a limit worth the name."""
    most = 40 if attack.endswith("linf") else 2000
    steps = {"step": 5 * min(epsilon_255, most) / 255 / iterations, "iterations": iterations, "restarts": restarts}
    return ThreatModel(attack=attack, epsilon_255=epsilon_255, random_start=True, keep_best=True, **steps)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three scenes of the embedded data, one a class: float32 (3, 64, 64, 3)."""
    root = tmp_path_factory.mktemp("data")
    build_dataset(root, SyntheticConfig(parts_images=(1, 1, 1), class_images=(1, 1, 1)))
    names = list_class_images(root, "cs3a", "test", taxonomy=UNMASK)
    return read_class_images(root, names, UNMASK.labels("cs3a"), 64).images.astype(np.float32) / np.float32(255)


@pytest.fixture(scope="module")
def white_box():
    """The shipped K of profile mini."""
    return WhiteBox(preset("mini"), K, UNMASK, "cs3a", batch_size=6)


class Nearest(torch.nn.Module):
    """Logits by nearness to one image a class."""

    def __init__(self, images):
        super().__init__()
        self.images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())

    def forward(self, x):
        return -0.02 * ((x[:, None] - self.images) ** 2).sum(dim=(2, 3, 4))


@pytest.fixture(scope="module")
def module(images):
    """An M that is right on every image."""
    return Nearest(images)


@pytest.fixture(scope="module")
def labels():
    return np.arange(3)


@pytest.fixture(scope="module")
def target(module, white_box):
    return Target(OfModule(module), white_box)


def verdicts(target, images):
    """The attacked images as files would hold them: M's answers, the distances d, and K's own answers."""
    pixels = to_8bit(images)
    seen, answers = target.parts.seen(pixels), target.logits(pixels.astype(np.float32) / 255).argmax(axis=1)
    return answers, target.parts.distances(seen)[np.arange(len(pixels)), answers], target.parts.best_fit(seen)


def attack(target, images, labels, budget, seed=3):
    return run_attack(target, images, labels, budget, seed=seed, ids=[str(i) for i in range(len(images))])


_ALSO = pytest.mark.slow
"""The other rules differ from `joint` in how the two gradients are put together."""


@pytest.mark.parametrize(
    "name", [name if name in ("joint_linf", "parts_l2") else pytest.param(name, marks=_ALSO) for name in NAMES]
)
def test_without_a_limit_every_image_is_wrong_and_looks_benign(target, images, labels, name):
    budget = threat(name, 255.0 if name.endswith("linf") else 20000.0)
    found = attack(target, images, labels, budget)
    answers, distances, fit = verdicts(target, images_of(found))
    if name.startswith("parts"):
        assert (fit != labels).all()
    else:
        assert (answers != labels).all() and distances.max() <= 0.2
        assert (found.best_iteration <= budget.iterations).all() and found.fooled.all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("epsilon", [0.0, 2.5])
def test_images_are_whole_grey_levels_within_the_budget(target, images, labels, name, epsilon):
    epsilon *= 1 if name.endswith("linf") else 40
    found = images_of(attack(target, images, labels, threat(name, epsilon, iterations=2, restarts=2)))
    np.testing.assert_array_equal(found, to_8bit(found).astype(np.float32) / np.float32(255))
    moved = lengths(found.astype(np.float64) - images, ATTACKS[name].norm)
    assert moved.max() <= epsilon / 255 + 1e-6
    assert (moved.max() > 0) == (epsilon > 0)


def test_verdicts_of_unmask_from_files_are_the_attack_s_own(target, images, labels, tmp_path):
    found = attack(target, images, labels, threat(epsilon_255=8, iterations=6))
    answers, distances, _ = verdicts(target, found.images)
    unmask = UnMask(target.logits, target.parts.extractor, UNMASK, "cs3a", threshold=0.5)
    for number, image in enumerate(found.images):
        Image.fromarray(to_8bit(image)).save(tmp_path / "attacked.png")
        (verdict,) = unmask.predict(np.asarray(Image.open(tmp_path / "attacked.png"))[None])
        assert verdict.predicted_class == target.parts.labels[found.logits[number].argmax()]
        assert verdict.predicted_class == target.parts.labels[answers[number]]
        assert verdict.distance == distances[number]


def test_by_the_margin_an_attack_keeps_what_leaves_the_own_class_behind(target, images, labels):
    kept = {}
    for name in ("joint_linf", "margin_linf"):
        answers, _, _ = verdicts(target, found := attack(target, images, labels, threat(name, iterations=12)).images)
        similarity = 1.0 - target.parts.distances(target.parts.seen(to_8bit(found)))
        kept[name] = np.where(answers != labels, margin_scores(similarity, answers), 2.0)
    # Both take the same steps, and judge them differently.
    assert (kept["margin_linf"] <= kept["joint_linf"]).all() and (kept["margin_linf"] < 2.0).any()


def test_a_perturbation_leads_k_astray_on_its_own_image_alone(target, images, labels):
    found = images_of(attack(target, images, labels, threat("parts_linf", 8, iterations=10)))
    assert (verdicts(target, found)[2] != labels).all()
    shuffled = np.clip(images + np.roll(found - images, 1, axis=0), 0, 1)
    assert (verdicts(target, shuffled)[2] == labels).all()


def test_an_image_s_result_depends_on_no_other_image(target, images, labels):
    budget = threat(epsilon_255=4, iterations=3, restarts=2)
    together = attack(target, images, labels, budget).images
    ids = [str(i) for i in range(len(images))]
    alone = run_attack(target, images[1:2], labels[1:2], budget, seed=3, ids=ids[1:2]).images
    share = (alone[0] == together[1]).mean()
    assert share > 0.99, "but for rounding, which the sign of a gradient near 0 magnifies"


def test_it_passes_the_checks_of_attacks(target, images, labels):
    found = checked_attack(target, images, labels, threat(epsilon_255=8, iterations=6), seed=1, ids=["a", "b", "c"])
    assert found.sound, found.checks
    assert {"outputs_reproduced", "gradients_nonzero", "loss_rises", "deterministic"} <= set(found.checks)
    assert "doubling_gains_little" not in found.checks
    assert found.best_iteration is not None


# Planted faults: each makes at least one of the evidences below fail.


def fair(target, images, labels):
    """What speaks for the attack: name -> whether it holds."""
    found = images_of(attack(target, images, labels, threat(iterations=20)))
    detector = WhiteBox(target.parts.config, K, UNMASK, "cs3a", batch_size=6)
    detector.extractor = target.parts.extractor
    answers, distances, _ = verdicts(Target(target.classifier, detector), found)
    moved = to_8bit(np.concatenate([images, found]))
    margins = target.parts.presence.strongest(moved)
    return {
        "it reaches its aim where nothing limits it": bool((answers != labels).all() and distances.max() <= 0.2),
        "the margins say what the detector sees": bool(((margins > 0) == detector.seen(moved)).all()),
        "it returns images of 8 bits": bool((found == to_8bit(found).astype(np.float32) / np.float32(255)).all()),
    }


def no_gradient(patch, parts):
    patch.setattr(
        type(parts), "gradients", lambda self, *a: (lambda v, g, s: (v, 0 * g, s))(*self.presence.gradients(*a))
    )


def frozen_proposals(patch, parts):
    network = parts.presence.network
    first = []

    def frozen(inputs, training):
        import keras

        head = keras.Model([network.inputs[0], network.output[0]], network.output[1:])
        if not first:
            first.append(np.tile([[[0.2, 0.2, 0.8, 0.8]]], (1, 150, 1)).astype(np.float32))
        rois = keras.ops.repeat(keras.ops.convert_to_tensor(first[0]), 6, axis=0)
        return [rois, *head([inputs[0], rois], training=False)]

    patch.setattr(parts.presence, "network", frozen)


def wrong_parts(patch, parts):
    patch.setattr(parts, "expected", np.roll(parts.expected, 1, axis=0))


def no_threshold(patch, parts):
    patch.setattr(parts.presence, "_log_needed", np.full(44, -30.0, np.float32))
    patch.setattr(parts.presence, "config", parts.config.replace(PER_CLASS_DETECTIONS=True))


def no_rounding(patch, parts):
    def smooth(levels, delta, threat):
        return np.clip(levels + 255 * delta, 0, 255).astype(np.float32)

    patch.setattr(adaptive, "grey_levels", smooth)
    patch.setattr(type(parts), "seen", lambda self, pixels, seen=WhiteBox.seen: seen(self, pixels.astype(np.uint8)))


def wrong_sign(patch, parts):
    loss = part_losses.soft_jaccard
    patch.setattr(part_losses, "soft_jaccard", lambda margins, wanted: -loss(margins, wanted))


FAULTS = (no_gradient, frozen_proposals, wrong_parts, no_threshold, no_rounding, wrong_sign)


def test_without_a_fault_all_evidence_holds(target, images, labels):
    found = fair(target, images, labels)
    assert all(found.values()), found


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(target, images, labels, plant, monkeypatch):
    monkeypatch.setattr(target.parts.presence, "_functions", {})
    plant(monkeypatch, target.parts)
    found = fair(target, images, labels)
    assert not all(found.values()), plant.__name__


# By hand.


def row(*values):
    """(1, 1, 1, n)."""
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def test_the_rules_by_hand():
    still, done = np.array([False]), np.array([True])
    m, k = row(1, 0), row(0.6, 0.8)
    assert adaptive.joint(Gradients(m, k, still)).ravel() == pytest.approx([4.6, 0.8])
    assert adaptive.joint(Gradients(m, k, done)).ravel() == pytest.approx([0.6, 0.8])
    assert adaptive.selective(Gradients(m, k, still)).ravel() == pytest.approx([1, 0])
    assert adaptive.selective(Gradients(m, k, done)).ravel() == pytest.approx([0.6, 0.8])
    # m - (m . k) k = (1, 0) - .6 (.6, .8), and k - (m . k) m
    assert adaptive.orthogonal(Gradients(m, k, still)).ravel() == pytest.approx([0.64, -0.48])
    assert adaptive.orthogonal(Gradients(m, k, done)).ravel() == pytest.approx([0, 0.8])
    assert adaptive.parts_alone(Gradients(m, k, still)).ravel() == pytest.approx([0.6, 0.8])


def test_the_losses_by_hand():
    margins = np.array([[[2.0, -1.0, 0.2], [0.0, -3.0, -0.1]]], np.float32)
    # Wanted and seen by 2: nothing. Wanted, best -1: 1.5. Not wanted: .7 and .4.
    assert float(part_losses.hinges(margins, np.array([[1.0, 1.0, -1.0]]))[0]) == pytest.approx(2.6)
    assert float(part_losses.hinges(np.full((1, 1, 2), -9.0, np.float32), np.array([[-1.0, -1.0]]))[0]) == 0.0
    sure = np.array([[[90.0, -90.0, 90.0]]], np.float32)
    # {0, 2} seen, {0, 1} wanted: one of three.
    assert float(part_losses.soft_jaccard(sure, np.array([[1.0, 1.0, -1.0]]))[0]) == pytest.approx(2 / 3)
    assert float(part_losses.soft_jaccard(sure, np.full((1, 3), -1.0))[0]) == pytest.approx(2.0)
    # The highest is sure, the mean of the three highest is 0 and says a half: of one wanted part, (1 + .5) / 2 is seen.
    proposals = np.array([90.0, -45.0, -45.0, -90.0], np.float32).reshape(1, 4, 1)
    assert float(part_losses.soft_jaccard(proposals, np.ones((1, 1)))[0]) == pytest.approx(0.25)


def test_what_is_kept_by_hand():
    expected = np.array([[1, 1, 0], [0, 1, 1]], bool)
    image = np.zeros((1, 1, 1, 3), np.float32)
    # All three parts: distances 1/3 and 1/3. The third alone: 1 and 1/2.
    seen, logits, at = np.array([[1, 1, 1], [0, 0, 1]], bool), np.array([[0.0, 1.0]] * 2), np.zeros(2, np.int64)
    for by_margin, values in ((False, [2 / 3, 1 / 2]), (True, [1.0, 1.5])):
        parts = LinearParts(np.eye(3), np.zeros(3), expected)
        search = adaptive._Search(parts, object(), image, at[:1], threat(), adaptive.joint, [], by_margin)
        found, perfect = search._values(at, logits, np.zeros(2), seen)
        assert found == pytest.approx(values) and not perfect.any()
        right, _ = search._values(at[:1], np.array([[1.0, 0.0]]), np.array([-1.0]), seen[1:])
        assert right == pytest.approx([-1 - np.tanh(0.1)]), "M is right: worse than any image that M gets wrong"


def test_grey_levels_by_hand():
    clean = np.array([0.0, 100.0, 255.0, 100.0]).reshape(1, 1, 1, 4)
    wish = row(-3, 3, 3, 1.4) / 255
    linf = ThreatModel(attack="joint_linf", epsilon_255=2.9, step=1.0)
    assert grey_levels(clean, wish, linf).ravel().tolist() == [0, 102, 255, 101]
    # (0, 3, 0, 1) is longer than 3: shortened a little, it is rounded to (0, 3, 0, 0) or less.
    l2 = ThreatModel(attack="joint_l2", epsilon_255=3.0, step=1.0)
    moved = grey_levels(clean, row(0, 2.7, 0, 0.6) / 255, l2).ravel() - clean.ravel()
    assert (moved**2).sum() <= 9 and moved[1] >= 2
    assert inside(clean / 255, row(9, 9, 9, 9) / 255, linf).ravel() * 255 == pytest.approx([2.9, 2.9, 0, 2.9])


def test_a_system_without_k_and_images_between_grey_levels_are_refused(target, images, labels):
    with pytest.raises(InputError, match="knows K"):
        attack(Target(target.classifier), images, labels, threat())
    with pytest.raises(InputError, match="8 bits"):
        attack(target, images * np.float32(0.999), labels, threat())


def test_the_table_says_what_each_attack_knows():
    assert {name: "".join(sorted(ATTACKS[name].knows)) for name in NAMES} == {
        f"{rule}_{norm}": "K" if rule == "parts" else "KM"
        for rule in ("joint", "margin", "selective", "orthogonal", "parts")
        for norm in ("linf", "l2")
    }
    own = adaptive_attack(adaptive.joint, Norm.L2, ("hinges",))
    assert own.run == Adaptive(adaptive.joint, ("hinges",)) and own.norm is Norm.L2
