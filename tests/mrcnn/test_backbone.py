"""Backbones and the feature pyramid: strides, names, batch normalisation's mode, and the top-down sum by hand."""

import keras
import numpy as np
import pytest

from unmask_tf.mrcnn.backbone import build_backbone, feature_pyramid

# Matterport's letters: ResNet-50's stage 4 is a..f, ResNet-101's a..w.
BLOCKS = {
    "resnet50": {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"},
    "resnet101": {2: "abc", 3: "abcd", 4: "abcdefghijklmnopqrstuvw", 5: "abc"},
    "resnet_slim": {2: "ab", 3: "ab", 4: "ab", 5: "ab"},
}


PLUGGED = ("resnet_slim", "mobilenet_v2", "efficientnet_lite0")


def build(config):
    image = keras.Input(tuple(config.IMAGE_SHAPE))
    return keras.Model(image, build_backbone(image, config))


@pytest.fixture(scope="module")
def frozen(tiny_config):
    """Backbones whose batch normalisation must not train."""
    return {name: build(tiny_config(BACKBONE=name, TRAIN_BN=False)) for name in PLUGGED}


@pytest.mark.parametrize("name", BLOCKS)
def test_resnet_layers_bear_matterports_names(tiny_config, name):
    convolutions = {"conv1"}
    for stage, letters in BLOCKS[name].items():
        for letter in letters:
            branches = ("1", "2a", "2b", "2c") if letter == "a" else ("2a", "2b", "2c")
            convolutions |= {f"res{stage}{letter}_branch{branch}" for branch in branches}
    model = build(tiny_config(BACKBONE=name))
    norms = {"bn_" + c if c == "conv1" else c.replace("res", "bn") for c in convolutions}
    assert {layer.name for layer in model.layers if layer.weights} == convolutions | norms


def test_resnet101_has_the_published_widths(tiny_config):
    model = build(tiny_config(BACKBONE="resnet101"))
    assert [output.shape[1:] for output in model.outputs] == [
        (16, 16, 256),
        (8, 8, 512),
        (4, 4, 1024),
        (2, 2, 2048),
    ]
    assert model.get_layer("conv1").kernel.shape == (7, 7, 3, 64)
    assert model.get_layer("res4a_branch2b").kernel.shape == (3, 3, 256, 256)
    # The original ResNet halves in a block's first 1x1 convolution.
    assert model.get_layer("res4a_branch2a").strides == (2, 2)
    assert model.get_layer("res4a_branch2b").strides == (1, 1)


@pytest.mark.parametrize("name", PLUGGED)
def test_stages_have_strides_4_8_16_32(frozen, name):
    assert [output.shape[1:3] for output in frozen[name].outputs] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize("name", PLUGGED)
def test_train_bn_false_keeps_the_moving_statistics_in_use_while_training(frozen, name):
    model = frozen[name]
    images = np.random.RandomState(0).normal(0, 50, (2, 64, 64, 3)).astype(np.float32)
    before = [np.asarray(w) for w in model.non_trainable_variables]
    for training, inference in zip(model(images, training=True), model(images, training=False), strict=True):
        np.testing.assert_array_equal(training, inference)
    for old, new in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    # Scales and shifts are trainable all the same, as in the original.
    assert any(w.name == "gamma" for w in model.trainable_variables)


def test_efficientnet_lite_sees_pixels_from_minus_1_to_1(frozen, tiny_config):
    model, config = frozen["efficientnet_lite0"], tiny_config()
    pixels = np.random.RandomState(0).randint(0, 256, (1, 64, 64, 3)).astype(np.float32)
    stem = keras.Model(model.input, model.get_layer("stem_conv").output)
    direct = model.get_layer("stem_conv")((pixels - 127) / 128)
    np.testing.assert_allclose(stem(pixels - np.float32(config.MEAN_PIXEL)), direct, atol=1e-5)


def test_efficientnet_lites_pyramid_takes_the_last_features_of_each_stride(frozen):
    assert [output.shape[-1] for output in frozen["efficientnet_lite0"].outputs] == [144, 240, 672, 1280]


def test_mobilenet_sees_pixels_from_minus_1_to_1(frozen, tiny_config):
    model, config = frozen["mobilenet_v2"], tiny_config()
    pixels = np.random.RandomState(0).randint(0, 256, (1, 64, 64, 3)).astype(np.float32)
    nested = next(layer for layer in model.layers if layer.name == "mobilenet_v2")
    direct = nested(pixels / 127.5 - 1)
    for ours, expected in zip(model(pixels - np.float32(config.MEAN_PIXEL)), direct, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_callable_backbone_may_return_c1_too(tiny_config):
    def stages(image, architecture, stage5, train_bn):
        assert (architecture, stage5, train_bn) == ("resnet101", True, False)
        return [image[:, ::s, ::s] for s in (2, 4, 8, 16, 32)]

    model = build(tiny_config(BACKBONE=stages, TRAIN_BN=False))
    assert [output.shape[1] for output in model.outputs] == [16, 8, 4, 2]


def test_an_unknown_backbone_is_refused_with_the_choices(tiny_config):
    with pytest.raises(ValueError, match=r"'vgg'.*resnet50, resnet101, resnet_slim, mobilenet_v2"):
        build(tiny_config(BACKBONE="vgg"))


def test_each_pyramid_level_adds_the_doubled_coarser_one_before_its_own_convolution():
    stages = [keras.Input((32 // s, 32 // s, 1)) for s in (1, 2, 4, 8)]
    model = keras.Model(stages, feature_pyramid(stages, 1))
    for layer in model.layers:
        if layer.weights:  # every convolution passes its centre on
            kernel = np.zeros(layer.kernel.shape)
            kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1
            layer.kernel.assign(kernel)
    corner = np.zeros((1, 4, 4, 1), np.float32)
    corner[0, 1, 2] = 5
    values = [np.full((1, 32 // s, 32 // s, 1), v, np.float32) for s, v in ((1, 1000), (2, 200), (4, 30))]
    p2, p3, p4, p5, p6 = (np.asarray(level)[0, :, :, 0] for level in model([*values, corner]))
    assert p5.tolist() == corner[0, :, :, 0].tolist()
    assert p6.tolist() == p5[::2, ::2].tolist()
    for level, base, size in ((p4, 30, 2), (p3, 230, 4), (p2, 1230, 8)):
        expected = np.full((4 * size, 4 * size), base, np.float32)
        expected[size : 2 * size, 2 * size : 3 * size] += 5
        assert (level == expected).all()
    assert {layer.name for layer in model.layers if layer.weights} == {
        *(f"fpn_c{i}p{i}" for i in (2, 3, 4, 5)),
        *(f"fpn_p{i}" for i in (2, 3, 4, 5)),
    }
