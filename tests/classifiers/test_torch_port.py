"""The torch copy computes what the Keras model computes: logits, input gradients, batch statistics, weights."""

import keras
import numpy as np
import pytest
import torch

from unmask_tf.classifiers.build import build_classifier
from unmask_tf.classifiers.torch_layers_weighted import BatchNormalization
from unmask_tf.classifiers.torch_port import load_from_keras, load_from_torch, to_torch
from unmask_tf.errors import InputError

if keras.backend.backend() != "tensorflow":
    pytest.skip("the reference gradients are taken with TensorFlow", allow_module_level=True)
from port_parity import in_double_precision, keras_result, nchw, relative_errors, torch_result

LABELS = np.array([0, 1, 2])
QUICK = ("resnet50", "densenet121", "mobilenet_v2", "efficientnet_lite0")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet101", "vgg16", "efficientnet_b0")]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in one order, whatever else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomise_statistics(model, seed=0):
    """Moves every normalisation away from the identity."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0.0, 0.2, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, shape))
            if layer.scale:
                layer.gamma.assign(rng.uniform(0.5, 1.5, shape))
            if layer.center:
                layer.beta.assign(rng.normal(0.0, 0.2, shape))
        elif isinstance(layer, keras.Model):
            randomise_statistics(layer, seed + 1)


def pixels(count=3, size=64, seed=0):
    """Coloured patches under some noise; noise alone gives nearly the same features for every image."""
    rng = np.random.default_rng(seed)
    patches = rng.random((count, 2, 2, 3)).repeat(size // 2, axis=1).repeat(size // 2, axis=2)
    return (0.8 * patches + 0.2 * rng.random((count, size, size, 3))).astype(np.float32)


def calibrate(model, images):
    """Statistics of the images themselves, or else random ones let all images end in the same features."""
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    model(images, training=True)
    for layer in norms:
        layer.momentum = 0.9
    head = model.layers[-1]  # logits of order 1, for a cross-entropy far from saturation
    head.kernel.assign(head.kernel / np.abs(model(images, training=False)).max())


@pytest.mark.parametrize("architecture", [*QUICK, *SLOW])
def test_logits_equal_keras_also_when_folded(architecture):
    model = build_classifier(architecture, 3, input_size=64, weights="random", seed=3)
    randomise_statistics(model)
    images = pixels()
    logits = model(images, training=False).numpy()
    highest, tolerance = np.sort(logits, axis=1), 1e-4 * np.abs(logits).max()
    assert (highest[:, -1] - highest[:, -2]).min() > 10 * tolerance, "what is within the bound has the same class"
    for fold in (False, True):
        module = to_torch(model, fold_batch_norm=fold)
        with torch.no_grad():
            found = module(nchw(images)).numpy()
        np.testing.assert_allclose(found, logits, rtol=1e-4, atol=tolerance)
    norms = [type(part).__name__ for part in module.modules()].count("BatchNormalization")
    # ResNet, VGG, MobileNet and EfficientNet normalise only after convolutions; DenseNet also before them.
    assert norms == (62 if architecture == "densenet121" else 0)


@pytest.mark.parametrize("architecture", [*QUICK, *SLOW])
def test_input_gradients_equal_keras(architecture):
    """In double precision: in single precision rounding pushes activations over ReLU's kink and the gradient jumps."""
    model = build_classifier(architecture, 3, input_size=64, weights="random", seed=3)
    randomise_statistics(model)
    images = pixels()
    calibrate(model, images)
    logits, gradient = keras_result(in_double_precision(model), images, LABELS)
    assert logits.std(axis=0).min() > 0.01
    assert min(np.linalg.norm(image) for image in gradient) > 0.1
    found, found_gradient = torch_result(to_torch(model).double(), images.astype(np.float64), LABELS)
    np.testing.assert_allclose(found, logits, rtol=1e-5)
    assert relative_errors(found_gradient, gradient).max() < 1e-5


def zoo(size=13):
    """One small graph through every kind of layer, with the asymmetric 'same' paddings TensorFlow makes."""
    layers = keras.layers
    inputs = keras.Input((size, size + 1, 3))
    x = layers.Rescaling([2.0, 3.0, 4.0], offset=[-1.0, 0.5, 0.0])(inputs)
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(x)
    x = layers.ZeroPadding2D(((1, 2), (3, 0)))(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="swish")(x)
    x = layers.BatchNormalization(momentum=0.8, epsilon=1e-2)(x)
    a = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=True)(x)
    a = layers.BatchNormalization(momentum=0.7, scale=False)(a)
    a = layers.ReLU(max_value=6.0)(a)
    b = layers.Conv2D(16, (1, 3), dilation_rate=(1, 2), padding="same", groups=4, use_bias=False)(x)
    b = layers.BatchNormalization(center=False)(b)
    b = layers.ReLU(negative_slope=0.1, threshold=0.2, max_value=1.5)(b)
    x = layers.Concatenate()([layers.Add()([a, b]), layers.Multiply()([a, b])])
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Reshape((1, 1, 32))(gate)
    gate = layers.Conv2D(32, 1, activation="sigmoid")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.Concatenate()(
        [
            layers.MaxPooling2D(3, strides=2, padding="same")(x),
            layers.AveragePooling2D(3, strides=2, padding="same")(x),
            layers.Identity()(layers.MaxPooling2D(2, strides=2, padding="same")(x)),
        ]
    )
    block = keras.Sequential(
        [keras.Input(x.shape[1:]), layers.Conv2D(6, 2), layers.BatchNormalization(), layers.Activation("tanh")]
    )
    x = layers.Average()([block(x), layers.Maximum()([block(x), layers.Subtract()([block(x), block(x)])])])
    x = layers.AveragePooling2D(2)(x)
    x = layers.Dense(4, activation="elu")(x)  # over the channels of a feature map
    x = layers.Dropout(0.0)(layers.Flatten()(x))
    x = layers.BatchNormalization()(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    randomise_statistics(model)
    return model


@pytest.mark.parametrize("size", [13, 16])
@pytest.mark.parametrize("fold", [False, True])
def test_every_kind_of_layer_computes_what_keras_computes(size, fold):
    keras.utils.set_random_seed(0)
    model = zoo(size)
    images = np.random.default_rng(1).random((3, size, size + 1, 3), dtype=np.float32)
    double = in_double_precision(model)
    logits, gradient = keras_result(double, images, LABELS)
    found, found_gradient = torch_result(in_torch(double, fold), images.astype(np.float64), LABELS)
    np.testing.assert_allclose(found, logits, rtol=1e-6)  # constants such as means of 0.1 are float32
    assert relative_errors(found_gradient, gradient).max() < 1e-6
    # In single precision a gradient may jump at a kink, the logits may not.
    found, _ = torch_result(to_torch(model, fold_batch_norm=fold), images, LABELS)
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)


def in_torch(model, fold=False):
    """The copy of a float64 model, in float64."""
    module = to_torch(model, fold_batch_norm=fold).double()
    load_from_keras(module, model)
    return module


def test_same_padding_puts_the_odd_pixel_at_the_end():
    # A 2x2 kernel of ones, stride 2, over 3x3 ones: TensorFlow pads one row below and one column to the right.
    model = keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Conv2D(1, 2, strides=2, padding="same")])
    model.set_weights([np.ones((2, 2, 1, 1)), np.zeros(1)])
    found = to_torch(model)(torch.ones(1, 1, 3, 3)).detach().numpy()
    np.testing.assert_array_equal(found[0, 0], [[4.0, 2.0], [2.0, 1.0]])


def differences_in_train_mode(build, fault=None):
    """Of outputs and of variables after two passes in double precision, relative to the largest value of each array.

    Single precision would say little: in training mode few values are normalised at the end of a network, and
    rounding grows by what they differ.
    """
    keras.utils.set_random_seed(0)
    model = build()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    model = in_double_precision(model)
    images = np.random.default_rng(2).random((4, *model.input_shape[1:]), dtype=np.float32).astype(np.float64)
    module = in_torch(model).train()
    for part in module.modules() if fault else ():
        if isinstance(part, BatchNormalization):
            fault(part)
    for _ in range(2):
        expected = model(images, training=True).numpy()
        found = module(nchw(images)).detach().numpy()
    before = model.get_weights()
    load_from_torch(model, module)
    pairs = [(found, expected), *zip(model.get_weights(), before, strict=True)]
    return [np.abs(new - old).max() / max(np.abs(old).max(), 1e-3) for new, old in pairs]


@pytest.mark.parametrize("build", [zoo, lambda: build_classifier("mobilenet_v2", 3, input_size=32, weights="random")])
def test_train_mode_outputs_and_updated_statistics_equal_keras(build):
    assert max(differences_in_train_mode(build)) < 1e-6


@pytest.mark.parametrize(
    ("attribute", "value"), [("epsilon", 1.001e-5), ("momentum", 0.75)], ids=["other epsilon", "other momentum"]
)
def test_train_mode_of_another_epsilon_or_momentum_would_be_noticed(attribute, value):
    def change(norm):
        setattr(norm, attribute, value)

    outputs, *variables = differences_in_train_mode(zoo, change)
    assert max(variables) > 1e-4
    assert outputs > 1e-4 or attribute == "momentum"  # the statistics are not read in training mode


def test_the_moving_variance_follows_the_biased_batch_variance():
    # Values 1 and 3: mean 2, biased variance 1 (unbiased: 2). Momentum 0.75 from (0, 1): 0.25 * 2 and 0.75 + 0.25 * 1.
    model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization(momentum=0.75)])
    module = to_torch(model).train()
    module(torch.tensor([[1.0], [3.0]]))
    load_from_torch(model, module)
    assert float(model.layers[-1].moving_mean[0]) == pytest.approx(0.5)
    assert float(model.layers[-1].moving_variance[0]) == pytest.approx(1.0)
    module(torch.tensor([[1.0], [5.0]]))  # mean 3, biased variance 4
    load_from_torch(model, module)
    assert float(model.layers[-1].moving_mean[0]) == pytest.approx(0.75 * 0.5 + 0.25 * 3.0)
    assert float(model.layers[-1].moving_variance[0]) == pytest.approx(0.75 + 0.25 * 4.0)


def test_an_untrainable_normalisation_keeps_its_statistics_in_train_mode():
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    model.layers[-1].trainable = False
    x = torch.tensor([[1.0, 2.0], [3.0, 7.0]])
    module = to_torch(model).train()
    np.testing.assert_allclose(module(x).detach().numpy(), model(x.numpy(), training=True).numpy(), rtol=1e-6)
    assert module.ported[0].moving_mean.tolist() == [0.0, 0.0]


def test_weights_survive_the_round_trip_and_follow_keras_after_a_step():
    keras.utils.set_random_seed(0)
    model = zoo()
    module = to_torch(model)
    original = model.get_weights()
    model.set_weights([np.random.default_rng(3).random(value.shape) + 0.5 for value in original])
    changed = model.get_weights()
    images = np.random.default_rng(1).random((3, 13, 14, 3), dtype=np.float32)
    before = module(nchw(images)).detach().numpy()
    load_from_keras(module, model)
    after = module(nchw(images)).detach().numpy()
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, model(images, training=False).numpy(), rtol=1e-4)
    model.set_weights(original)
    load_from_torch(model, module)
    for expected, found in zip(changed, model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_normalisation_is_not_folded_where_the_convolution_is_read_twice_or_activated():
    inputs = keras.Input((4, 4, 3))
    shared = keras.layers.Conv2D(3, 1)(inputs)
    activated = keras.layers.Conv2D(3, 1, activation="relu")(inputs)
    x = keras.layers.Add()(
        [shared, keras.layers.BatchNormalization()(shared), keras.layers.BatchNormalization()(activated)]
    )
    model = keras.Model(inputs, x)
    randomise_statistics(model)
    images = pixels(1, 4)
    module = to_torch(model, fold_batch_norm=True)
    assert [type(part).__name__ for part in module.modules()].count("BatchNormalization") == 2
    found = module(nchw(images)).detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, model(images, training=False).numpy(), rtol=1e-5, atol=1e-6)


def test_a_folded_copy_refuses_training_and_the_way_back():
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 1), keras.layers.BatchNormalization()])
    module = to_torch(model, fold_batch_norm=True)
    with pytest.raises(InputError, match="folded and cannot train"):
        module.train()
    with pytest.raises(InputError, match="cannot be separated"):
        load_from_torch(model, module)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (keras.layers.UpSampling2D(name="larger"), "layer 'larger' of class UpSampling2D cannot be turned"),
        (keras.layers.Conv2D(2, 1, activation="mish", name="odd"), "layer 'odd' of class Conv2D.*activation 'mish'"),
        (keras.layers.BatchNormalization(axis=1, name="rows"), "layer 'rows' of class BatchNormalization.*axis 1"),
        (keras.layers.Softmax(axis=1, name="soft"), "layer 'soft' of class Softmax.*axis 1"),
    ],
)
def test_an_unsupported_layer_is_named(layer, message):
    with pytest.raises(InputError, match=message):
        to_torch(keras.Sequential([keras.Input((4, 4, 3)), layer]))


def test_an_unsupported_operation_and_call_argument_are_named():
    inputs = keras.Input((4, 4, 3))
    with pytest.raises(InputError, match="of class Exp cannot be turned"):
        to_torch(keras.Model(inputs, keras.ops.exp(inputs)))
    with pytest.raises(InputError, match=r"of class Add cannot be turned into PyTorch: called with \[1\.0\]"):
        to_torch(keras.Model(inputs, keras.ops.add(inputs, 1.0)))


def test_a_copy_of_another_architecture_is_refused_at_the_first_difference():
    def dense(*units):
        return keras.Sequential([keras.Input((2,)), *(keras.layers.Dense(n, name=f"d{n}") for n in units)])

    module = to_torch(dense(3, 4))
    with pytest.raises(InputError, match="in length: 1 layers, expected 2"):
        load_from_keras(module, dense(3))
    with pytest.raises(InputError, match=r"at layer 'd5': shape \(5, 3\), expected \(4, 3\)"):
        load_from_keras(module, dense(3, 5))
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.ReLU(name="kink")])
    with pytest.raises(InputError, match="at layer 'kink'"):
        load_from_keras(module, other)
