"""The rewrites of a graph for inference happen where they are exact, and nowhere else."""

import keras
import numpy as np
import pytest
import torch

from unmask_tf.classifiers import torch_layers, torch_layers_weighted
from unmask_tf.classifiers.build import build_classifier
from unmask_tf.classifiers.torch_plan import make_plan
from unmask_tf.classifiers.torch_port import to_torch

layers = keras.layers


def steps(outputs, inputs):
    """(kind, options) of each call after the rewrites; kind is empty for a subsampling."""
    return [(call.kind, call.options) for call in make_plan(keras.Model(inputs, outputs), True).calls]


def results(model, fold, images):
    """Output and input gradient of the torch copy, in double precision."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).requires_grad_(True)
    found = to_torch(model, fold_batch_norm=fold).double()(x)
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=tuple(found.shape)))
    return found.detach().numpy(), torch.autograd.grad((found * weights).sum(), x)[0].numpy()


def assert_equal_rewritten(model):
    images = np.random.default_rng(0).random((2, *model.input_shape[1:]))
    for plain, rewritten in zip(results(model, False, images), results(model, True, images), strict=True):
        np.testing.assert_allclose(rewritten, plain, rtol=1e-5, atol=1e-6 * np.abs(plain).max())


def test_padding_normalisation_and_rectifier_join_the_convolution():
    inputs = keras.Input((9, 9, 3))
    x = layers.ZeroPadding2D(((1, 2), (3, 0)))(inputs)
    x = layers.Conv2D(4, 3)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    assert steps(x, inputs) == [("Conv2D", {"pads": ((1, 2), (3, 0)), "rectifier": "relu6"})]
    assert_equal_rewritten(keras.Model(inputs, x))


def test_without_folding_nothing_is_joined():
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.Conv2D(4, 3)(layers.ZeroPadding2D(1)(inputs)))
    plan = make_plan(keras.Model(inputs, x), False)
    assert [(call.kind, call.options) for call in plan.calls] == [("ZeroPadding2D", {}), ("Conv2D", {}), ("ReLU", {})]


@pytest.mark.parametrize(
    "activation", [layers.ReLU(negative_slope=0.1), layers.ReLU(threshold=0.5), layers.Activation("swish")]
)
def test_other_activations_are_left_alone(activation):
    inputs = keras.Input((5, 5, 3))
    x = activation(layers.Conv2D(4, 3)(inputs))
    assert [options for _, options in steps(x, inputs)] == [{}, {}]


def test_a_rectifier_does_not_overwrite_what_another_layer_reads():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(3, 1)(inputs)
    model = keras.Model(inputs, layers.Concatenate()([x, layers.ReLU()(x), layers.ReLU()(inputs)]))
    assert all(not options for _, options in steps(model.output, inputs))
    assert_equal_rewritten(model)


def test_padding_joins_a_maximum_only_over_rectified_pixels():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inputs)
    rectified = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(layers.ReLU()(x)))
    signed = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    assert ("MaxPooling2D", {"pads": ((1, 1), (1, 1))}) in steps(rectified, inputs)
    assert ("ZeroPadding2D", {}) in steps(signed, inputs)
    lopsided = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(layers.ReLU()(x)))
    wide = layers.MaxPooling2D(2, 2)(layers.ZeroPadding2D(2)(layers.ReLU()(x)))
    for kept in (lopsided, wide):  # torch pads both sides alike, by half the window at most
        assert ("ZeroPadding2D", {}) in steps(kept, inputs)
    for output in (rectified, signed, lopsided, wide):
        assert_equal_rewritten(keras.Model(inputs, output))


def block(x, name="", size=3):
    """The end of a residual stage: 3x3, 1x1, shortcut, rectifier."""
    y = layers.Conv2D(4, size, padding="same", name=f"wide{name}")(x)
    y = layers.Conv2D(4, 1, name=f"narrow{name}")(layers.ReLU()(layers.BatchNormalization()(y)))
    return layers.ReLU()(layers.Add()([x, y]))


def two_readers(x, strides=2):
    return layers.Concatenate()([layers.Conv2D(2, 1, strides=strides)(x), layers.Conv2D(3, 1, strides=strides)(x)])


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("size", [3, 4])
def test_positions_that_only_strided_1x1_convolutions_skip_are_not_computed(side, size):
    inputs = keras.Input((side, side, 4))
    x = layers.Conv2D(4, 1)(inputs)
    model = keras.Model(inputs, two_readers(block(x, size=size)))
    calls = {call.layers[0].name if call.layers else "subsampling": call for call in make_plan(model, True).calls}
    assert calls["wide"].options["strides"] == (2, 2)  # a quarter of the 3x3 convolution's work
    assert "strides" not in calls["narrow"].options  # it reads what is subsampled already
    assert calls["subsampling"].options == {"strides": (2, 2)}  # of the shortcut, which the 3x3 convolution reads whole
    readers = [call.options for call in calls.values() if call.kind == "Conv2D" and call.layers[0].strides == (2, 2)]
    assert readers == [{"strides": (1, 1)}] * 2
    assert_equal_rewritten(model)


def test_positions_that_somebody_reads_are_computed():
    inputs = keras.Input((8, 8, 4))
    x = block(layers.Conv2D(4, 1)(inputs))
    read = layers.GlobalAveragePooling2D()(x)
    mixed = layers.Conv2D(2, 1, strides=4)(x)
    for outputs in (
        layers.Concatenate()([layers.Flatten()(two_readers(x)), read]),  # by a layer without stride
        layers.Concatenate()([layers.Flatten()(two_readers(x)), layers.Flatten()(mixed)]),  # with another stride
        layers.Conv2D(2, 3, strides=2)(x),  # a wider kernel reads all
    ):
        assert not any(
            kind == "Conv2D" and options.get("strides") == (2, 2) for kind, options in steps(outputs, inputs)
        )
        assert_equal_rewritten(keras.Model(inputs, outputs))


def test_a_layer_called_twice_keeps_its_stride():
    inputs = keras.Input((8, 8, 4))
    shared = layers.Conv2D(4, 1, strides=2)
    model = keras.Model(inputs, shared(shared(layers.Conv2D(4, 3)(inputs))))
    assert [options for _, options in steps(model.output, inputs)] == [{}, {}, {}]
    assert_equal_rewritten(model)


@pytest.mark.parametrize(("kernel", "padding"), [(7, "valid"), (3, "same"), (4, "same"), ((2, 5), "valid")])
@pytest.mark.parametrize("shape", [(15, 16), (16, 15)])
def test_a_strided_convolution_of_an_image_equals_its_form_over_blocks_of_pixels(kernel, padding, shape):
    inputs = keras.Input((*shape, 3))
    model = keras.Model(inputs, layers.Conv2D(5, kernel, strides=2, padding=padding)(inputs))
    images = np.random.default_rng(0).random((2, *shape, 3)).astype(np.float32)
    module = to_torch(model)
    assert module.ported[0]._few_channels
    found = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, model(images).numpy(), rtol=1e-4, atol=1e-5)


def test_resnet50_is_rewritten_throughout():
    model = build_classifier("resnet50", 3, input_size=32, weights="random")
    module = to_torch(model, fold_batch_norm=True)
    kinds = [type(part) for part in module.ported]
    convolutions = [part for part in module.ported if isinstance(part, torch_layers_weighted.Convolution)]
    assert kinds.count(torch_layers_weighted.BatchNormalization) == 0
    assert kinds.count(torch_layers.ZeroPadding) == kinds.count(torch_layers.Activation) == 0
    assert kinds.count(torch_layers.Subsampling) == 3  # the shortcuts into stages 3, 4 and 5
    assert len(convolutions) == 53
    # The stem, and the last 3x3 convolution of the three stages before a stride.
    assert sorted(part.kernel_size for part in convolutions if part.stride == (2, 2)) == [(3, 3)] * 3 + [(7, 7)]
