"""Files as Matterport's package writes them (tests/golden/weights_layout.json records one); every fault is named.

The recorded layout is that of a full ResNet-50; the files here have its names, order and attributes at the widths of a
tiny one, so that they are small.
"""

import importlib.util

import h5py
import numpy as np
import pytest
from golden_files import FOLDER, layouts

from unmask_tf.errors import InputError
from unmask_tf.mrcnn import MaskRCNN
from unmask_tf.mrcnn import backbone as backbone_module
from unmask_tf.mrcnn.weights import check_weights, load_weights, named_weights, read_shapes

_spec = importlib.util.spec_from_file_location("stand_in", FOLDER / "stand_in.py")
stand_in = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stand_in)
weights = stand_in.weights


@pytest.fixture(scope="module")
def tiny(tiny_config, tmp_path_factory):
    """A K of ResNet-50's depth and eight channels' width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbone_module.RESNETS, "resnet50", ((3, 4, 6, 3), 4))
        return MaskRCNN("inference", tiny_config(BACKBONE="resnet50"), tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def model(tiny):
    for variable in named_weights(tiny.keras_model).values():
        variable.assign(np.full(variable.shape, 7.0))
    return tiny


def write(path, model, **arguments):
    """The stand-in for this model."""
    shapes = {name: variable.shape for name, variable in named_weights(model.keras_model).items()}
    return stand_in.write(path, shapes, **arguments)


def assert_loaded(model):
    for name, variable in named_weights(model.keras_model).items():
        np.testing.assert_array_equal(variable, weights.weight(*name.split("/"), variable.shape), err_msg=name)


def assert_refused(model, path, *words, **arguments):
    with pytest.raises(InputError) as caught:
        model.load_weights(path, by_name=True, **arguments)
    for word in (str(path), *words):
        assert word in str(caught.value), f"'{word}' is not in: {caught.value}"
    assert all((np.array(v) == 7).all() for v in named_weights(model.keras_model).values()), "nothing was assigned"


@pytest.mark.parametrize("string", [False, True], ids=["bytes", "str"])
@pytest.mark.parametrize("root", ["", "model_weights"], ids=["weights", "whole model"])
def test_every_tensor_of_a_file_in_the_recorded_layout_is_loaded(model, tmp_path, string, root):
    report = model.load_weights(write(tmp_path / "k.h5", model, string=string, root=root), by_name=True)
    assert len(report.loaded) == sum(len(tensors) for _, tensors in layouts()["resnet50"]["groups"])
    assert report.missing == report.unexpected == report.mismatched == report.excluded == []
    assert report.lines()[0].split() == ["loaded", report.loaded[0]]
    assert_loaded(model)


def test_names_of_a_second_model_of_one_session_are_understood(model, tmp_path):
    """TensorFlow 1 numbers the scopes of a second model; Keras keeps the layers' names."""
    path = write(tmp_path / "k.h5", model, rename=lambda group, name: name.replace("/", "_1/"))
    assert "rpn_conv_shared/kernel" in read_shapes(path)
    model.load_weights(path)
    assert_loaded(model)


def test_one_renamed_tensor_is_refused_by_both_names(model, tmp_path):
    def rename(group, name):
        return name.replace("kernel", "weights") if group == "res4c_branch2b" else name

    words = ("1 missing from the file: res4c_branch2b/kernel", "1 unknown to this model: res4c_branch2b/weights")
    assert_refused(model, write(tmp_path / "k.h5", model, rename=rename), *words)


def test_a_tensor_renamed_inside_the_nested_rpn_is_refused_by_both_names(model, tmp_path):
    def rename(group, name):
        return name.replace("rpn_class_raw", "rpn_class")

    words = ("2 missing from the file: rpn_class_raw/kernel, rpn_class_raw/bias", "rpn_model/rpn_class/kernel")
    assert_refused(model, write(tmp_path / "k.h5", model, rename=rename), *words)


def test_a_tensor_renamed_without_its_list_is_refused_by_both_names(model, tmp_path):
    path = write(tmp_path / "k.h5", model)
    with h5py.File(path, "r+") as file:
        file.move("bn5a_branch1/bn5a_branch1/gamma:0", "bn5a_branch1/bn5a_branch1/scale:0")
    words = ("lists the tensor 'bn5a_branch1/gamma:0'", "(unlisted there: bn5a_branch1/scale:0)")
    assert_refused(model, path, *words)


def test_one_tensor_of_another_shape_is_refused_with_both_shapes(model, tmp_path):
    path = write(tmp_path / "k.h5", model)
    with h5py.File(path, "r+") as file:
        del file["res5b_branch2a/res5b_branch2a/bias:0"]
        file["res5b_branch2a/res5b_branch2a/bias:0"] = np.zeros(31, np.float32)
    assert_refused(model, path, "1 of another shape: res5b_branch2a/bias (file (31,), model (32,))")
    report = check_weights(model.keras_model, path)
    assert report.mismatched == ["res5b_branch2a/bias (file (31,), model (32,))"]
    assert len(report.loaded) == len(named_weights(model.keras_model)) - 1


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(model, tmp_path, share):
    whole = write(tmp_path / "whole.h5", model).read_bytes()
    path = tmp_path / "k.h5"
    path.write_bytes(whole[: int(share * len(whole))])
    assert_refused(model, path, "damaged or cut short: fetch it again")


@pytest.mark.parametrize("page", ["<!DOCTYPE html><html>Sign in</html>", "\n \n<html>" + "x" * 100_000])
def test_a_web_page_saved_as_h5_is_refused_as_one(model, tmp_path, page):
    path = tmp_path / "k.h5"
    path.write_text(page)
    assert_refused(model, path, "It is a web page, not weights: fetch it again")


def test_a_resnet_101_is_refused_by_the_blocks_that_are_too_many(model, tmp_path, tiny_config):
    with h5py.File(tmp_path / "k.h5", "w") as file:
        names = layouts()["resnet101"]["groups"]
        file.attrs["layer_names"] = np.array([layer.encode() for layer, _ in names])
        for layer, tensors in names:
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name, _ in tensors])
            for name, _ in tensors:
                key = name.split(":")[0].replace("res4w", "res4b").replace("bn4w", "bn4b")
                variable = named_weights(model.keras_model).get(key)
                group[name] = np.zeros((1,) if variable is None else variable.shape)
    assert_refused(model, tmp_path / "k.h5", "unknown to this model: res4g_branch2a/kernel")


HEADS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]


def test_matterports_exclusion_of_the_heads_leaves_them_and_loads_the_rest(model, tmp_path):
    report = model.load_weights(write(tmp_path / "k.h5", model), by_name=True, exclude=HEADS)
    layers = {name.split("/")[0] for name in report.excluded}
    assert layers == set(HEADS) - {"mrcnn_bbox"}
    for name, variable in named_weights(model.keras_model).items():
        kept = name.split("/")[0] in layers
        assert (np.array(variable) == 7).all() == kept, name


@pytest.mark.parametrize("exclude", [["rpn_model"], [r"rpn_.*"]])
def test_the_nested_rpn_may_be_excluded_whole_or_by_a_pattern(model, tmp_path, exclude):
    report = model.load_weights(write(tmp_path / "k.h5", model), exclude=exclude)
    assert {name.split("/")[0] for name in report.excluded} == {"rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred"}


def test_a_broken_pattern_is_named(model, tmp_path):
    with pytest.raises(ValueError, match=r"'res5\(', which is not a regular expression"):
        load_weights(model.keras_model, write(tmp_path / "k.h5", model), exclude=["res5("])


def imagenet_file(path, model, skip=lambda layer: False):
    """A backbone alone with Keras 1's names, as the ImageNet file that Matterport fetches."""
    old = {"kernel": "W_3", "bias": "b_3", "gamma": "gamma_3", "beta": "beta_3"}
    old |= {"moving_mean": "running_mean_3", "moving_variance": "running_std_3"}
    with h5py.File(path, "w") as file:
        layers = [layer for layer, _ in layouts()["resnet50"]["groups"] if layer.startswith(("conv1", "res", "bn"))]
        layers = [layer for layer in layers if not skip(layer)]
        file.attrs["layer_names"] = np.array([b"input_1", *(layer.encode() for layer in layers)])
        file.create_group("input_1").attrs["weight_names"] = np.array([], float)
        for layer in layers:
            group, names = file.create_group(layer), []
            for name, variable in named_weights(model.keras_model).items():
                if name.split("/")[0] == layer:
                    names.append(f"{layer}_{old[name.split('/')[1]]}:0")
                    group[names[-1]] = weights.weight(*name.split("/"), variable.shape)
            group.attrs["weight_names"] = np.array([name.encode() for name in names])
    return path


def test_imagenet_s_backbone_is_loaded_and_what_it_lacks_is_told(model, tmp_path, capsys):
    report = model.load_weights(imagenet_file(tmp_path / "imagenet.h5", model), by_name=True)
    assert len(report.loaded) == 53 * 6 and report.unexpected == []
    assert all(name.startswith(("fpn_", "rpn_", "mrcnn_")) for name in report.missing)
    assert "these layers keep their weights: fpn_c5p5, " in capsys.readouterr().out
    for name in report.loaded:
        variable = named_weights(model.keras_model)[name]
        np.testing.assert_array_equal(variable, weights.weight(*name.split("/"), variable.shape), err_msg=name)


def test_a_backbone_file_that_lacks_a_layer_of_the_backbone_is_refused(model, tmp_path):
    path = imagenet_file(tmp_path / "imagenet.h5", model, skip=lambda layer: layer == "res3b_branch2a")
    assert_refused(model, path, "2 missing from the file: res3b_branch2a/kernel, res3b_branch2a/bias")


def test_a_shallower_backbone_fills_the_blocks_it_has(model, tmp_path):
    """Matterport starts its ResNet-101 from ImageNet's ResNet-50."""
    path = imagenet_file(
        tmp_path / "imagenet.h5", model, skip=lambda layer: layer[:5] == "res4f" or layer[:4] == "bn4f"
    )
    report = model.load_weights(path)
    left = {name.split("/")[0] for name in report.missing if not name.startswith(("fpn_", "rpn_", "mrcnn_"))}
    assert left == {f"{kind}4f_branch2{letter}" for kind in ("res", "bn") for letter in "abc"}


def test_imagenet_weights_that_cannot_be_fetched_are_told(model, monkeypatch):
    def fail(name, url, **arguments):
        raise OSError(f"no route to {url}")

    monkeypatch.setattr("keras.utils.get_file", fail)
    with pytest.raises(InputError, match=r"cannot be downloaded from https://github.com/.*notop.h5.*no route"):
        model.get_imagenet_weights()
    monkeypatch.setattr("keras.utils.get_file", lambda name, url, **arguments: f"/cache/{name}")
    assert model.get_imagenet_weights().endswith("/resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5")
