"""Which engine computes K, and why."""

import json
import warnings

import keras
import pytest

from unmask_tf.errors import InputError
from unmask_tf.files import sha256
from unmask_tf.mrcnn import engines
from unmask_tf.mrcnn.fast import FastDetector


@pytest.fixture
def packages(monkeypatch):
    """Sets which packages are installed, and what the processor computes natively."""
    engines._say_once.cache_clear()

    def set_to(*names, native=("FP32", "INT8")):
        monkeypatch.setattr(engines, "installed", lambda package: package in names)
        monkeypatch.setattr(engines, "capabilities", lambda: native)

    return set_to


def test_without_openvino_the_reference_is_chosen_and_says_why(packages):
    packages()
    assert engines.choose() == engines.Choice("tensorflow", "OpenVINO is not installed")


def test_openvino_is_chosen_in_float32_where_it_is_installed(packages, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    packages("openvino", native=("FP32", "INT8"))
    chosen = engines.choose("auto")
    assert chosen.engine == "openvino" and engines.PRECISIONS["openvino"] == "f32"
    assert "no GPU" in chosen.why


def test_on_a_processor_with_bfloat16_the_reference_is_as_fast_and_chosen(packages, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    packages("openvino", native=("FP32", "BF16", "INT8"))
    assert engines.choose("auto").engine == "tensorflow"
    assert engines.choose("openvino").engine == "openvino"


def test_a_gpu_goes_before_openvino(packages, monkeypatch):
    import tensorflow as tf

    packages("openvino")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert engines.choose() == engines.Choice("tensorflow", "TensorFlow has a GPU")


def test_another_backend_of_keras_computes_k_itself(packages, monkeypatch):
    packages("openvino")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert engines.choose() == engines.Choice("tensorflow", "Keras runs on jax")
    with pytest.raises(InputError, match="Keras runs on jax"):
        engines.choose("openvino")


@pytest.mark.parametrize("engine", ["openvino", "openvino_bfloat16", "openvino_int8"])
def test_openvino_asked_for_but_not_installed_is_one_error_that_says_what_to_install(packages, tiny_config, engine):
    packages()
    with pytest.raises(InputError, match=r"not installed. Run: pip install -r requirements-openvino\.txt"):
        FastDetector(tiny_config(), "k.h5", engine)


def test_an_unknown_engine_is_refused_with_the_known_ones(tiny_config):
    with pytest.raises(ValueError, match=r"'torch'.*auto, tensorflow, openvino, openvino_bfloat16, openvino_int8"):
        FastDetector(tiny_config(), "k.h5", "torch")


def test_bfloat16_without_its_instructions_says_so_once(packages):
    packages("openvino")
    with pytest.warns(UserWarning, match="no bfloat16 instructions"):
        engines.choose("openvino_bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engines.choose("openvino_bfloat16")


def test_bfloat16_with_its_instructions_says_nothing(packages):
    packages("openvino", native=("FP32", "BF16"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engines.choose("openvino_bfloat16").engine == "openvino_bfloat16"


def test_a_quantized_k_is_found_beside_its_weights_and_only_beside_those(tmp_path):
    weights, folder = tmp_path / "k.h5", tmp_path / "k.int8"
    weights.write_bytes(b"1")
    with pytest.raises(InputError, match=r"needs .*k\.int8, which does not exist. Make it \(make quantize-k"):
        engines.quantized_folder(weights)
    folder.mkdir()
    (folder / engines.NOTE).write_text(json.dumps({"weights_sha256": sha256(weights)}))
    assert engines.quantized_folder(weights) == folder
    weights.write_bytes(b"2")
    with pytest.raises(InputError, match="was not made of the weights"):
        engines.quantized_folder(weights)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", ("avx2", "avx512f", "avx512_vnni")),
        ("Features\t: fp asimd bf16", ("asimd", "bf16")),
        ("model name: none", ()),
    ],
)
def test_instruction_sets_are_read_from_linux(tmp_path, line, found):
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\n{line}\n")
    assert engines.instruction_sets(path) == found
    assert engines.instruction_sets(tmp_path / "none") == ()
