"""M's graph: preprocessing inside, weights from files, and errors that name what does not fit."""

import os
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from unmask_tf.classifiers import applications
from unmask_tf.classifiers.build import build_classifier, load_classifier, save_classifier
from unmask_tf.errors import InputError

PHOTOS = os.environ.get("UNMASK_PHOTOS")
_MODULES = {
    "resnet50": keras.applications.resnet50,
    "resnet101": keras.applications.resnet,
    "densenet121": keras.applications.densenet,
    "vgg16": keras.applications.vgg16,
    "mobilenet_v2": keras.applications.mobilenet_v2,
    "efficientnet_b0": keras.applications.efficientnet,
}


def random_pixels(count=2, size=32, seed=0):
    return np.random.default_rng(seed).random((count, size, size, 3), dtype=np.float32)


def randomise(model, seed=0):
    """Gives every variable a value of its own, so that a missing or swapped one shows."""
    rng = np.random.default_rng(seed)
    model.set_weights(
        [
            rng.normal(0.0, np.prod(value.shape[:-1]) ** -0.5, value.shape)
            if value.ndim > 1
            else rng.uniform(0.5, 1.5, value.shape)
            for value in model.get_weights()
        ]
    )


@pytest.fixture(scope="module")
def mobilenet():
    return build_classifier("mobilenet_v2", 3, input_size=32, weights="random", seed=1)


@pytest.fixture(scope="module")
def with_top(tmp_path_factory):
    """A full ImageNet-like file of MobileNetV2 and the backbone's features for some pixels."""
    source = keras.applications.MobileNetV2(weights=None, input_shape=(224, 224, 3))
    randomise(source)
    path = tmp_path_factory.mktemp("weights") / "full.weights.h5"
    source.save_weights(path)
    return path, source


@pytest.mark.parametrize("architecture", applications.BACKBONES)
def test_preprocessing_inside_equals_keras_preprocess_input_on_255_x(architecture):
    pixels = random_pixels()
    expected = _MODULES[architecture].preprocess_input(255.0 * pixels)
    x = pixels
    for layer in applications.preprocessing_layers(architecture):
        x = layer(x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(x), expected, rtol=1e-5, atol=2e-5)


def test_caffe_preprocessing_of_one_pixel_worked_out_by_hand():
    # R, G, B = 1.0, 0.5, 0.0 -> B, G, R = 0 - 103.939, 127.5 - 116.779, 255 - 123.68
    x = np.array([1.0, 0.5, 0.0], np.float32).reshape(1, 1, 1, 3)
    for layer in applications.preprocessing_layers("resnet50"):
        x = layer(x)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(x).ravel(), [-103.939, 10.721, 131.32], rtol=1e-5)


def test_logits_have_no_softmax_and_the_graph_is_flat(mobilenet):
    assert mobilenet.input_shape == (None, 32, 32, 3)
    assert mobilenet.output_shape == (None, 3)
    assert mobilenet.layers[-1].activation is keras.activations.linear
    assert not any(isinstance(layer, keras.Model) for layer in mobilenet.layers)


def test_batch_norm_momentum_reaches_every_normalisation():
    model = build_classifier("mobilenet_v2", 2, input_size=32, weights="random", batch_norm_momentum=0.75)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 52
    assert {layer.momentum for layer in norms} == {0.75}


def test_the_seed_fixes_the_random_weights(mobilenet):
    again = build_classifier("mobilenet_v2", 3, input_size=32, weights="random", seed=1)
    other = build_classifier("mobilenet_v2", 3, input_size=32, weights="random", seed=2)
    same = [np.array_equal(a, b) for a, b in zip(mobilenet.get_weights(), again.get_weights(), strict=True)]
    assert all(same)
    assert not np.array_equal(mobilenet.get_weights()[0], other.get_weights()[0])


def test_a_random_resnet_starts_with_silent_residual_branches_and_a_loaded_one_does_not(tmp_path):
    def last_scales(model):
        return [layer.gamma.numpy() for layer in model.layers if layer.name.endswith("_3_bn")]

    random = build_classifier("resnet50", 2, input_size=32, weights="random")
    assert len(last_scales(random)) == 16
    assert all(np.all(scale == 0.0) for scale in last_scales(random))
    keras.applications.ResNet50(include_top=False, weights=None).save_weights(tmp_path / "notop.weights.h5")
    loaded = build_classifier("resnet50", 2, input_size=32, weights=str(tmp_path / "notop.weights.h5"))
    assert all(np.all(scale == 1.0) for scale in last_scales(loaded))


def test_a_serialised_model_computes_the_same(mobilenet, tmp_path):
    mobilenet.save(tmp_path / "m.keras")
    pixels = random_pixels()
    np.testing.assert_array_equal(
        keras.saving.load_model(tmp_path / "m.keras").predict_on_batch(pixels), mobilenet.predict_on_batch(pixels)
    )


def _features(classifier, pixels):
    backbone = keras.Model(classifier.input, classifier.layers[-2].output)
    return keras.ops.convert_to_numpy(backbone(pixels, training=False))


@pytest.mark.parametrize("layout", ["full", "notop", "full legacy", "notop legacy", "full, other name"])
def test_backbone_weights_of_every_file_layout_are_transferred(with_top, tmp_path, layout):
    path, source = with_top
    notop = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    notop.set_weights(source.get_weights()[: len(notop.weights)])
    saved = source if "full" in layout else notop
    if "legacy" in layout:
        path = tmp_path / "legacy.h5"
        _save_legacy(saved, path)
    elif layout == "notop":
        path = tmp_path / "notop.weights.h5"
        saved.save_weights(path)
    elif layout == "full, other name":
        path = tmp_path / "renamed.h5"
        path.write_bytes(with_top[0].read_bytes())
    classifier = build_classifier("mobilenet_v2", 3, input_size=32, weights=str(path))
    pixels = random_pixels()
    expected = keras.ops.convert_to_numpy(notop(2.0 * pixels - 1.0, training=False))
    assert expected.std() > 0.1
    np.testing.assert_allclose(_features(classifier, pixels), expected, rtol=1e-5)


def _save_legacy(model, path):
    """The layout of Keras 2: one group per layer, names in attributes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.2.4"
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group.create_dataset(name, data=value)


def test_efficientnet_imagenet_weights_give_what_keras_own_extra_rescaling_gives(tmp_path):
    source = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    (norm,) = [layer for layer in source.layers if isinstance(layer, keras.layers.Normalization)]
    std = np.array([0.229, 0.224, 0.225], np.float32)
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    norm.set_weights([mean, std, np.array(0)])  # as in Keras' file: the deviation stands for the variance
    source.save_weights(tmp_path / "notop.weights.h5")
    classifier = build_classifier("efficientnet_b0", 2, input_size=32, weights=str(tmp_path / "notop.weights.h5"))
    (ours,) = [layer for layer in classifier.layers if isinstance(layer, keras.layers.Normalization)]
    pixels = random_pixels()
    normalised = keras.Model(classifier.input, ours.output)(pixels)
    # Keras: (x - mean) / sqrt(std), then the extra Rescaling by 1 / sqrt(std)
    np.testing.assert_allclose(normalised, (pixels - mean) / np.sqrt(std) / np.sqrt(std), rtol=1e-4, atol=1e-5)


def test_saved_classifier_comes_back_with_its_metadata(mobilenet, tmp_path):
    path = tmp_path / "m.weights.h5"
    metadata = {"architecture": "mobilenet_v2", "classes": ("car", "person", "train"), "input_size": 32, "note": "x"}
    save_classifier(mobilenet, path, metadata)
    loaded, found = load_classifier(path, classes=("car", "person", "train"))
    assert found == {**metadata, "classes": ["car", "person", "train"]}
    pixels = random_pixels()
    np.testing.assert_array_equal(loaded.predict_on_batch(pixels), mobilenet.predict_on_batch(pixels))
    assert [file.name for file in tmp_path.iterdir()] == ["m.weights.h5"]


@pytest.fixture
def saved(mobilenet, tmp_path):
    path = tmp_path / "saved.weights.h5"
    save_classifier(mobilenet, path, {"architecture": "mobilenet_v2", "classes": ["a", "b", "c"], "input_size": 32})
    return path


def test_a_classifier_of_other_classes_is_refused_by_name(saved):
    with pytest.raises(InputError, match=r"saved\.weights\.h5 was trained for 3 classes \(a, b, c\).*2 are asked"):
        load_classifier(saved, classes=["a", "b"])


def test_weights_that_contradict_the_metadata_are_refused(saved):
    with h5py.File(saved, "r+") as file:
        file.attrs["unmask_tf"] = '{"architecture": "mobilenet_v2", "classes": ["a", "b"], "input_size": 32}'
    with pytest.raises(InputError, match="does not hold the weights of mobilenet_v2 with 2 classes"):
        load_classifier(saved)


@pytest.mark.parametrize("kept", [0, 100, 0.5])
def test_a_truncated_file_is_refused(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    for read in (load_classifier, lambda path: build_classifier("mobilenet_v2", 3, input_size=32, weights=str(path))):
        with pytest.raises(InputError, match=r"saved\.weights\.h5 is not a readable HDF5"):
            read(saved)


def test_a_file_without_our_metadata_is_refused_as_classifier(with_top):
    with pytest.raises(InputError, match="was not written by save_classifier"):
        load_classifier(with_top[0])


def test_weights_of_another_architecture_are_refused_naming_a_layer(with_top):
    with pytest.raises(InputError, match=r"full\.weights\.h5 does not hold the weights of vgg16.*block1_conv1"):
        build_classifier("vgg16", 3, input_size=32, weights=str(with_top[0]))


def test_a_head_of_other_than_1000_classes_is_refused(saved):
    with pytest.raises(InputError, match=r"has a head for 3 classes.*1000"):
        build_classifier("mobilenet_v2", 3, input_size=32, weights=str(saved))


def test_missing_file_unknown_architecture_and_bad_sizes_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.h5 does not exist"):
        build_classifier("vgg16", 3, input_size=32, weights=str(tmp_path / "none.h5"))
    with pytest.raises(InputError, match=r"unknown architecture 'alexnet'.*resnet50"):
        build_classifier("alexnet", 3, input_size=32, weights="random")
    with pytest.raises(InputError, match="input_size 16 is too small"):
        build_classifier("vgg16", 3, input_size=16, weights="random")
    with pytest.raises(ValueError, match="at least 2 classes, received 1"):
        build_classifier("vgg16", 1, input_size=32, weights="random")


def test_imagenet_weights_out_of_reach_say_how_to_give_a_file(monkeypatch):
    def unreachable(**arguments):
        raise Exception("URL fetch failure on https://example.invalid/vgg16.h5: None -- [Errno -2] unknown host")

    monkeypatch.setattr(keras.applications, "VGG16", unreachable)
    with pytest.raises(
        InputError, match=r"vgg16 could not be fetched \(URL fetch failure.*path of a Keras weights file"
    ):
        build_classifier("vgg16", 3, input_size=32, weights="imagenet")


def test_saving_refuses_names_and_metadata_that_do_not_fit(mobilenet, tmp_path):
    good = {"architecture": "mobilenet_v2", "classes": ["a", "b", "c"], "input_size": 32}
    for path, metadata, message in (
        ("m.h5", good, r"must end with '\.weights\.h5'"),
        ("m.weights.h5", {**good, "classes": ["a"]}, "3 outputs but the metadata names 1"),
        ("m.weights.h5", {"classes": ["a", "b", "c"], "input_size": 32}, "needs 'architecture', received None"),
    ):
        with pytest.raises((InputError, ValueError), match=message):
            save_classifier(mobilenet, tmp_path / path, metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.photos
@pytest.mark.skipif(not PHOTOS, reason="UNMASK_PHOTOS is not set")
def test_the_photographs_imagenet_weights_give_the_same_features_at_their_own_size():
    path = Path(PHOTOS) / "weights" / "mobilenet_v2_imagenet.weights.h5"
    source = keras.applications.MobileNetV2(weights=str(path))
    expected = keras.Model(source.input, source.layers[-2].output)
    classifier = build_classifier("mobilenet_v2", 3, input_size=224, weights=str(path))
    pixels = random_pixels(1, 224)
    features = keras.ops.convert_to_numpy(expected(2.0 * pixels - 1.0, training=False))
    assert features.std() > 0.05
    np.testing.assert_allclose(_features(classifier, pixels), features, rtol=1e-4, atol=1e-5)
