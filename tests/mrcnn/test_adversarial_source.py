"""Adversarial training of K: which images of a batch are attacked, by how much, and that K's loss rises."""

import numpy as np
import pytest

from unmask_tf.mrcnn.adversarial import AttackedSource
from unmask_tf.mrcnn.graphs import build_training_model
from unmask_tf.mrcnn.ground_truth import load_ground_truth
from unmask_tf.mrcnn.image import along, resizing
from unmask_tf.mrcnn.samples import Passes, Ready
from unmask_tf.mrcnn.schedules import Stage
from unmask_tf.mrcnn.train import load_initial_weights, train_parts
from unmask_tf.mrcnn.weights import named_weights, parts_state, save_weights


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config(IMAGES_PER_GPU=4, ADVERSARIAL_SHARE=0.5, ADVERSARIAL_EPSILON=8.0, ADVERSARIAL_BLOCK=2)


@pytest.fixture(scope="module")
def graph(config, randomize):
    graph = build_training_model(config)
    randomize(graph, 1)
    return graph


@pytest.fixture(scope="module")
def source(parts, config):
    return Passes(Ready([load_ground_truth(parts, i, config) for i in range(len(parts))], config), config)


@pytest.fixture(scope="module")
def plain(source):
    return next(iter(source.batches(0)))


def loss(graph, batch):
    graph.get_layer("proposal_targets").sample_from(0)
    return float(sum(graph(batch, training=False).values()))


def test_the_first_images_of_a_batch_are_attacked_and_the_rest_is_as_it_was(source, graph, config, plain):
    batch = next(iter(AttackedSource(source, graph, config).batches(0)))
    changed = (batch["input_image"] != plain["input_image"]).any(axis=(1, 2, 3))
    assert changed.tolist() == [True, True, False, False]
    assert all((batch[name] == plain[name]).all() for name in plain if name != "input_image")


def test_the_first_epochs_are_not_attacked(source, graph, config, plain):
    later = AttackedSource(source, graph, config.replace(ADVERSARIAL_AFTER=1))
    first, second = (next(iter(later.batches(epoch)))["input_image"] for epoch in (0, 1))
    np.testing.assert_array_equal(first, plain["input_image"])
    assert (second != next(iter(source.batches(1)))["input_image"]).any()


def test_an_attack_keeps_its_budget_the_padding_and_8_bits_and_is_an_enlarged_change(source, graph, config, plain):
    batch = {**plain, "input_image": plain["input_image"].copy()}
    mean = np.asarray(config.MEAN_PIXEL, np.float32)
    batch["input_image"][:, :, -8:] = -mean  # padding
    inner = batch["input_image"][:, :, :-8]
    inner[:] = np.clip(inner, 20 - mean, 235 - mean)  # so that no change is cut off at black or white
    attacked = AttackedSource(source, graph, config).attack(batch, np.random.RandomState(0))
    change = np.round(attacked - batch["input_image"]).astype(int)
    assert 0 < np.abs(change).max() <= 8
    assert not change[:, :, -8:].any()
    # What a change of the small image is enlarged to, but for the rounding to whole levels.
    rows = resizing(change.shape[1] // 2, change.shape[1])
    shown = change[:, :, :-16].astype(float)
    columns = resizing(change.shape[2] // 2, change.shape[2])[: shown.shape[2], : shown.shape[2] // 2]
    small = along(shown, np.linalg.pinv(rows), np.linalg.pinv(columns))
    beside = np.abs(along(small, rows, columns) - shown)[:, :, :-2]
    assert beside.max() <= 1.5 and beside.mean() < 0.5
    pixels = attacked + mean
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-4)


def test_an_attack_raises_the_loss_more_than_noise_of_the_same_size(source, graph, config, plain):
    attacked = AttackedSource(source, graph, config).attack(plain, np.random.RandomState(0))
    change = attacked - plain["input_image"]
    signs = np.random.RandomState(1).choice([-1.0, 1.0], change.shape).astype(np.float32)
    noisy = {**plain, "input_image": plain["input_image"] + signs * np.abs(change)}
    gained = loss(graph, {**plain, "input_image": attacked}) - loss(graph, plain)
    assert gained > 5 * abs(loss(graph, noisy) - loss(graph, plain))


def test_the_same_epoch_gives_the_same_attacks_and_another_gives_others(source, graph, config):
    def images(epoch):
        graph.get_layer("proposal_targets").sample_from(0)  # as training does before an epoch
        return next(iter(AttackedSource(source, graph, config).batches(epoch)))["input_image"]

    np.testing.assert_array_equal(images(3), images(3))
    assert (images(3) != images(4)).any()


def test_training_goes_on_from_a_k_with_its_heads(parts, taxonomy, config, graph, tmp_path, eager):
    path = tmp_path / "k.h5"
    save_weights(graph, path, parts_state(taxonomy.parts))
    other = build_training_model(config)
    load_initial_weights(other, config, path)
    for name, variable in named_weights(other).items():
        np.testing.assert_array_equal(variable.value, named_weights(graph)[name].value, err_msg=name)
    _, log = train_parts(config, (Stage("all", 1, 1e-4),), parts, None, tmp_path / "run", initial_weights=path)
    assert np.isfinite(log[0]["loss"])


def test_a_share_above_1_is_refused(tiny_config):
    with pytest.raises(ValueError, match="ADVERSARIAL_SHARE is 2"):
        tiny_config(ADVERSARIAL_SHARE=2)
