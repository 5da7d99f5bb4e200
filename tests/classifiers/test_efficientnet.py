"""EfficientNet-Lite0 as M computes what its PyTorch release computes, from the same tensors."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unmask_tf.classifiers.build import build_classifier, load_classifier, save_classifier
from unmask_tf.efficientnet_lite import imagenet_weights
from unmask_tf.errors import InputError

PHOTOS = os.environ.get("UNMASK_PHOTOS")
# Of each block: kernel, stride, channels in, between and out.
BLOCKS = (
    (3, 1, 32, 32, 16),
    (3, 2, 16, 96, 24),
    (3, 1, 24, 144, 24),
    (5, 2, 24, 144, 40),
    (5, 1, 40, 240, 40),
    (3, 2, 40, 240, 80),
    (3, 1, 80, 480, 80),
    (3, 1, 80, 480, 80),
    (5, 1, 80, 480, 112),
    (5, 1, 112, 672, 112),
    (5, 1, 112, 672, 112),
    (5, 2, 112, 672, 192),
    (5, 1, 192, 1152, 192),
    (5, 1, 192, 1152, 192),
    (5, 1, 192, 1152, 192),
    (3, 1, 192, 1152, 320),
)


def released_tensors(seed=0):
    """Random tensors under the released names; every one differs from what it would be if it were not loaded."""
    rng = np.random.default_rng(seed)
    tensors = {}

    def add(convolution, norm, shape):
        deviation = np.sqrt(2.0 / np.prod(shape[1:]))
        tensors[f"{convolution}.weight"] = rng.normal(0.0, deviation, shape).astype(np.float32)
        for name, low, high in (
            ("weight", 0.5, 1.5),
            ("bias", -0.2, 0.8),
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 1.5),
        ):
            tensors[f"{norm}.{name}"] = rng.uniform(low, high, shape[0]).astype(np.float32)
        tensors[f"{norm}.num_batches_tracked"] = np.array(7)

    add("_conv_stem", "_bn0", (32, 3, 3, 3))
    for i, (kernel, _, inputs, between, outputs) in enumerate(BLOCKS):
        block = f"_blocks.{i}"
        if i > 0:
            add(f"{block}._expand_conv", f"{block}._bn0", (between, inputs, 1, 1))
        add(f"{block}._depthwise_conv", f"{block}._bn1", (between, 1, kernel, kernel))
        add(f"{block}._project_conv", f"{block}._bn2", (outputs, between, 1, 1))
    add("_conv_head", "_bn1", (1280, 320, 1, 1))
    tensors |= {"_fc.weight": np.zeros((1000, 1280), np.float32), "_fc.bias": np.zeros(1000, np.float32)}
    return tensors


def reference(tensors, pixels):
    """Pooled features (N, 1280) of pixels (N, S, S, 3) in [0, 1], by torch.nn.functional alone, in double precision."""
    values = {name: torch.from_numpy(np.asarray(value)).double() for name, value in tensors.items()}

    def conv_norm(x, convolution, norm, stride=1, groups=1, relu=True):
        kernel = values[f"{convolution}.weight"]
        size, width = x.shape[-1], kernel.shape[-1]
        total = max((-(-size // stride) - 1) * stride + width - size, 0)  # TensorFlow's "same"
        before, after = total // 2, total - total // 2
        x = F.conv2d(F.pad(x, (before, after, before, after)), kernel, stride=stride, groups=groups)
        mean, variance, scale, offset = (
            values[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / torch.sqrt(variance + 1e-3) * scale + offset
        return x.clamp(0.0, 6.0) if relu else x

    x = (torch.from_numpy(pixels).double().permute(0, 3, 1, 2) * 255.0 - 127.0) / 128.0
    x = conv_norm(x, "_conv_stem", "_bn0", stride=2)
    for i, (_, stride, inputs, between, outputs) in enumerate(BLOCKS):
        block, before = f"_blocks.{i}", x
        if i > 0:
            x = conv_norm(x, f"{block}._expand_conv", f"{block}._bn0")
        x = conv_norm(x, f"{block}._depthwise_conv", f"{block}._bn1", stride=stride, groups=between)
        x = conv_norm(x, f"{block}._project_conv", f"{block}._bn2", relu=False)
        if stride == 1 and inputs == outputs:
            x = x + before
    return conv_norm(x, "_conv_head", "_bn1").mean((2, 3)).numpy()


def features(model, pixels):
    pooled = keras.Model(model.input, model.layers[-2].output)
    return keras.ops.convert_to_numpy(pooled(pixels, training=False))


def random_pixels(size, count=2, seed=0):
    return np.random.default_rng(seed).random((count, size, size, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file in the layout of the released weights, and its tensors."""
    path, tensors = tmp_path_factory.mktemp("weights") / "efficientnet_lite0_imagenet.npz", released_tensors()
    np.savez(path, **tensors)
    return path, tensors


@pytest.mark.parametrize("size", [64, 37])  # strides pad only below and to the right, or on both sides
def test_tensors_of_the_released_names_give_the_features_of_the_release(released, size):
    path, tensors = released
    model = build_classifier("efficientnet_lite0", 3, input_size=size, weights=str(path))
    pixels = random_pixels(size)
    expected = reference(tensors, pixels)
    assert expected.std() > 0.05
    np.testing.assert_allclose(features(model, pixels), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.photos
@pytest.mark.skipif(not PHOTOS, reason="UNMASK_PHOTOS is not set")
def test_the_imagenet_weights_give_the_features_of_the_release_at_their_own_size():
    path = Path(PHOTOS) / "weights" / "efficientnet_lite0_imagenet.npz"
    with np.load(path) as file:
        tensors = {name: file[name] for name in file.files}
    model = build_classifier("efficientnet_lite0", 3, input_size=224, weights=str(path))
    pixels = random_pixels(224, count=1)
    expected = reference(tensors, pixels)
    assert expected.std() > 0.05
    np.testing.assert_allclose(features(model, pixels), expected, rtol=1e-3, atol=1e-4)


def test_preprocessing_of_one_pixel_worked_out_by_hand():
    model = build_classifier("efficientnet_lite0", 2, input_size=32, weights="random")
    layer = model.get_layer("to_backbone_range")
    # (255 - 127) / 128, (127.5 - 127) / 128, (0 - 127) / 128
    found = keras.ops.convert_to_numpy(layer(np.array([1.0, 0.5, 0.0], np.float32)))
    np.testing.assert_allclose(found, [1.0, 0.00390625, -0.9921875], atol=1e-6)


def test_it_is_flat_and_the_momentum_reaches_every_normalisation():
    model = build_classifier("efficientnet_lite0", 2, input_size=32, weights="random", batch_norm_momentum=0.75)
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 49  # stem, head, and three a block but the first's two
    assert {(layer.momentum, layer.epsilon) for layer in norms} == {(0.75, 1e-3)}


def test_a_saved_one_comes_back(released, tmp_path):
    model = build_classifier("efficientnet_lite0", 2, input_size=32, weights=str(released[0]), seed=4)
    path = tmp_path / "m.weights.h5"
    save_classifier(model, path, {"architecture": "efficientnet_lite0", "classes": ["a", "b"], "input_size": 32})
    pixels = random_pixels(32)
    np.testing.assert_array_equal(load_classifier(path)[0].predict_on_batch(pixels), model.predict_on_batch(pixels))


def test_weights_that_do_not_fit_are_refused_with_a_way_out(released, tmp_path):
    path, tensors = released

    def build(weights):
        build_classifier("efficientnet_lite0", 2, input_size=32, weights=str(weights))

    with pytest.raises(InputError, match=r"cannot be fetched\. Put efficientnet_lite0_imagenet\.npz"):
        build("imagenet")
    with pytest.raises(InputError, match=r"cannot be read from .*none\.npz"):
        build(tmp_path / "none.npz")
    for count in (0, 100, 100_000):
        (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:count])
        with pytest.raises(InputError, match=r"cannot be read from .*cut\.npz"):
            build(tmp_path / "cut.npz")
    np.save(tmp_path / "one.npy", tensors["_fc.bias"])
    with pytest.raises(InputError, match=r"cannot be read from .*one\.npy"):
        build(tmp_path / "one.npy")
    np.savez(tmp_path / "lacking.npz", **{k: v for k, v in tensors.items() if k != "_blocks.3._bn1.bias"})
    with pytest.raises(InputError, match=r"lacks 1 of EfficientNet-Lite0's tensors, such as _blocks\.3\._bn1\.bias"):
        build(tmp_path / "lacking.npz")
    np.savez(tmp_path / "other.npz", **{**tensors, "_conv_head.weight": np.zeros((1280, 192, 1, 1), np.float32)})
    with pytest.raises(InputError, match=r"head_conv/kernel has the shape \(1, 1, 192, 1280\).*320.*expected"):
        build(tmp_path / "other.npz")
    with pytest.raises(InputError, match="input_size 16 is too small for efficientnet_lite0"):
        build_classifier("efficientnet_lite0", 2, input_size=16, weights="random")


def test_depthwise_kernels_go_from_one_filter_a_channel_to_one_multiplier(released):
    path, tensors = released
    kernel = imagenet_weights(path)["block3_depthwise_conv/kernel"]
    assert kernel.shape == (5, 5, 144, 1)
    assert kernel[1, 4, 20, 0] == tensors["_blocks.3._depthwise_conv.weight"][20, 0, 1, 4]
