"""K's weight files: exact round trips, Matterport's layout, and every way a file can fail to fit."""

import shutil

import h5py
import numpy as np
import pytest

from unmask_tf.errors import InputError
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import load_weights, named_weights, read_state, read_weights, save_weights

HEADS = ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask")


def values(model):
    return {name: np.array(variable.value) for name, variable in named_weights(model).items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture(scope="module")
def saved(detector, tmp_path_factory):
    """The detector's weights file; copy it before changing it."""
    path = tmp_path_factory.mktemp("weights") / "k.h5"
    save_weights(detector.keras_model, path)
    return path


@pytest.fixture(scope="module")
def other(tiny_config, tmp_path_factory):
    """Another K of the same configuration."""
    return MaskRCNN("inference", tiny_config(), tmp_path_factory.mktemp("other"))


@pytest.fixture
def model(other, randomize):
    """A K whose weights differ from the file's in every tensor."""
    randomize(other.keras_model, 99)
    return other.keras_model


@pytest.fixture
def damaged(saved, tmp_path):
    """Copies the weights file and lets a function change it."""

    def change(edit):
        path = tmp_path / "damaged.h5"
        shutil.copy(saved, path)
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return change


@pytest.fixture
def refuse(model):
    """Asserts that a file is refused with these words, and that nothing was assigned."""

    def check(path, *words, **arguments):
        before = values(model)
        with pytest.raises(InputError) as caught:
            load_weights(model, path, **arguments)
        for word in (str(path), *words):
            assert word in str(caught.value), f"'{word}' is not in: {caught.value}"
        assert_same(values(model), before)

    return check


def test_saving_and_loading_restores_every_tensor_exactly(detector, model, saved):
    before = values(model)
    assert not [name for name, value in values(detector.keras_model).items() if (before[name] == value).all()]
    report = load_weights(model, saved)
    assert_same(values(model), values(detector.keras_model))
    assert sorted(report.loaded) == sorted(named_weights(model))
    assert report.missing == report.unexpected == report.mismatched == report.excluded == []
    assert report.summary() == f"{len(named_weights(model))} loaded, 0 excluded, 0 missing, 0 unexpected, 0 mismatched"


def test_the_model_class_loads_by_the_same_rules(detector, other, model, saved):
    other.load_weights(saved, by_name=True)
    assert_same(values(model), values(detector.keras_model))


def test_training_and_inference_graphs_share_their_files(tiny_config, detector, model, randomize, tmp_path):
    training = MaskRCNN("training", tiny_config(), tmp_path).keras_model
    randomize(training, 5)
    save_weights(training, tmp_path / "trained.h5")
    load_weights(model, tmp_path / "trained.h5")
    assert_same(values(model), values(training))
    save_weights(detector.keras_model, tmp_path / "detector.h5")
    load_weights(training, tmp_path / "detector.h5")
    assert_same(values(training), values(detector.keras_model))


def test_the_file_has_matterports_layout(detector, saved):
    with h5py.File(saved) as file:
        layers = [name.decode() for name in file.attrs["layer_names"]]
        assert sorted(layers) == sorted(file)
        assert {"conv1", "bn_conv1", "res2a_branch2a", "bn5b_branch2c", "fpn_c5p5", "rpn_model", *HEADS} <= set(layers)
        assert list(file["conv1"].attrs["weight_names"]) == [b"conv1/kernel:0", b"conv1/bias:0"]
        assert list(file["bn_conv1"].attrs["weight_names"]) == [
            b"bn_conv1/gamma:0",
            b"bn_conv1/beta:0",
            b"bn_conv1/moving_mean:0",
            b"bn_conv1/moving_variance:0",
        ]
        assert sorted(file["rpn_model"].attrs["weight_names"]) == [
            *(b"rpn_bbox_pred/bias:0", b"rpn_bbox_pred/kernel:0", b"rpn_class_raw/bias:0", b"rpn_class_raw/kernel:0"),
            *(b"rpn_conv_shared/bias:0", b"rpn_conv_shared/kernel:0"),
        ]
        kernel = detector.keras_model.get_layer("conv1").kernel
        np.testing.assert_array_equal(file["conv1/conv1/kernel:0"], kernel)


def test_attributes_may_be_text_or_bytes(detector, model, damaged):
    def as_text(file):
        for group, name in ((file, "layer_names"), *((file[g], "weight_names") for g in file)):
            text = [value.decode() for value in group.attrs[name]]
            del group.attrs[name]
            group.attrs.create(name, text, dtype=h5py.string_dtype())
        assert all(isinstance(value, str) for value in file.attrs["layer_names"])

    load_weights(model, damaged(as_text))
    assert_same(values(model), values(detector.keras_model))


def test_a_whole_saved_model_holds_its_weights_in_a_group_of_their_own(detector, model, damaged):
    def wrap(file):
        names = list(file)
        root = file.create_group("model_weights")
        for name in names:
            file.move(name, f"model_weights/{name}")
        root.attrs["layer_names"] = file.attrs["layer_names"]
        del file.attrs["layer_names"]

    load_weights(model, damaged(wrap))
    assert_same(values(model), values(detector.keras_model))


def test_layers_without_weights_may_be_listed_as_keras_2_does(model, damaged):
    def add(file):
        file.create_group("activation_1").attrs["weight_names"] = np.array([], float)
        file.attrs["layer_names"] = np.append(file.attrs["layer_names"], b"activation_1")

    assert len(load_weights(model, damaged(add)).loaded) == len(named_weights(model))


def test_a_renamed_tensor_is_named_as_missing_and_unknown(damaged, refuse):
    def rename(file):
        names = [n.replace(b"kernel", b"kernal") for n in file["fpn_p3"].attrs["weight_names"]]
        file["fpn_p3"].attrs["weight_names"] = np.array(names)
        file.move("fpn_p3/fpn_p3/kernel:0", "fpn_p3/fpn_p3/kernal:0")

    refuse(damaged(rename), "missing from the file: fpn_p3/kernel", "unknown to this model: fpn_p3/kernal")


def test_a_renamed_layer_is_named(damaged, refuse):
    def rename(file):
        file.move("fpn_p3", "fpn_p33")
        file["fpn_p33"].move("fpn_p3", "fpn_p33")
        file["fpn_p33"].attrs["weight_names"] = np.array([b"fpn_p33/kernel:0", b"fpn_p33/bias:0"])
        file.attrs["layer_names"] = np.array(
            [b"fpn_p33" if name == b"fpn_p3" else name for name in file.attrs["layer_names"]]
        )

    refuse(damaged(rename), "2 missing from the file: fpn_p3/kernel, fpn_p3/bias", "2 unknown", "fpn_p33/kernel")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(damaged, refuse):
    def reshape(file):
        del file["fpn_p3/fpn_p3/bias:0"]
        file["fpn_p3/fpn_p3/bias:0"] = np.zeros(9)

    refuse(damaged(reshape), "1 of another shape: fpn_p3/bias (file (9,), model (8,))")


def test_weights_of_another_number_of_classes_are_refused_by_the_heads_names(tiny_config, saved, tmp_path):
    five = MaskRCNN("inference", tiny_config(NUM_CLASSES=5), tmp_path).keras_model
    before = values(five)
    with pytest.raises(InputError) as caught:
        load_weights(five, saved)
    for words in ("mrcnn_class_logits/kernel (file (8, 4), model (8, 5))", "mrcnn_bbox_fc/kernel", "`exclude`"):
        assert words in str(caught.value)
    assert_same(values(five), before)


def test_excluded_layers_stay_as_they_are_and_the_rest_is_loaded(tiny_config, detector, saved, tmp_path):
    five = MaskRCNN("inference", tiny_config(NUM_CLASSES=5), tmp_path)
    before = values(five.keras_model)
    report = five.load_weights(saved, exclude=HEADS)
    after, source = values(five.keras_model), values(detector.keras_model)
    for name, value in after.items():
        layer = name.split("/")[0]
        np.testing.assert_array_equal(value, (before if layer in HEADS else source)[name], err_msg=name)
    assert set(report.excluded) == {f"{layer}/{kind}" for layer in HEADS for kind in ("kernel", "bias")}


def test_an_excluded_layer_may_be_absent_from_the_file_or_from_the_model(model, damaged):
    def change(file):
        file.move("fpn_p3", "mrcnn_bbox")
        file["mrcnn_bbox"].move("fpn_p3", "mrcnn_bbox")
        file["mrcnn_bbox"].attrs["weight_names"] = np.array([b"mrcnn_bbox/kernel:0", b"mrcnn_bbox/bias:0"])
        file.attrs["layer_names"] = np.array(
            [b"mrcnn_bbox" if name == b"fpn_p3" else name for name in file.attrs["layer_names"]]
        )

    report = load_weights(model, damaged(change), exclude=["fpn_p3", "mrcnn_bbox"])
    assert set(report.excluded) == {f"{n}/{kind}" for n in ("fpn_p3", "mrcnn_bbox") for kind in ("kernel", "bias")}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_is_named(damaged, refuse, value):
    def spoil(file):
        file["rpn_model/rpn_bbox_pred/kernel:0"][0, 0, 0, 0] = value

    refuse(damaged(spoil), "NaN or infinity in rpn_bbox_pred/kernel")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(saved, refuse, tmp_path, share):
    content = saved.read_bytes()
    path = tmp_path / "short.h5"
    path.write_bytes(content[: int(share * len(content))])
    refuse(path, "damaged or cut short", "fetch it again")


def test_a_web_page_saved_as_h5_is_refused_as_such(refuse, tmp_path):
    path = tmp_path / "k.h5"
    path.write_text("\n<!DOCTYPE html><html>404: file not found</html>" * 50)
    refuse(path, "web page")


def test_a_missing_file_is_refused(refuse, tmp_path):
    refuse(tmp_path / "none.h5", "does not exist")


def test_a_folder_is_refused(refuse, tmp_path):
    refuse(tmp_path, "does not exist")


def test_an_hdf5_file_of_another_kind_is_refused(refuse, tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["data"] = [1, 2, 3]
    refuse(path, "Matterport's layout", "layer_names")


def test_a_listed_layer_without_its_group_is_refused(damaged, refuse):
    def drop(file):
        del file["fpn_p3"]

    refuse(damaged(drop), "fpn_p3")


def test_a_file_of_text_tensors_is_refused(damaged, refuse):
    def spoil(file):
        del file["fpn_p3/fpn_p3/bias:0"]
        file["fpn_p3/fpn_p3/bias:0"] = [b"a"] * 8

    refuse(damaged(spoil), "fpn_p3/bias")


def test_training_state_stands_beside_the_weights_unseen_by_their_readers(detector, saved, tmp_path):
    path = tmp_path / "checkpoint.h5"
    save_weights(detector.keras_model, path, {"stage": np.array(2), "log": np.bytes_('[{"epoch": 1}]')})
    assert_same(read_weights(path), read_weights(saved))
    state = read_state(path)
    assert int(state["stage"]) == 2 and state["log"].item() == b'[{"epoch": 1}]'
    assert read_state(saved) == {}


def test_a_failed_save_leaves_the_old_file_and_nothing_else(detector, saved, tmp_path):
    path = tmp_path / "k.h5"
    shutil.copy(saved, path)
    with pytest.raises(TypeError):
        save_weights(detector.keras_model, path, {"state": object()})
    assert path.read_bytes() == saved.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_random_number_state_is_no_weight(tiny_config, tmp_path):
    training = MaskRCNN("training", tiny_config(), tmp_path).keras_model
    assert training.get_layer("proposal_targets").variables
    assert not [name for name in named_weights(training) if "proposal_targets" in name]
