"""What computes K's network when parts are extracted: Keras' own graph, or OpenVINO, and how `auto` decides."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path

from unmask_tf.errors import InputError
from unmask_tf.files import read_json, sha256

REFERENCE = "tensorflow"
AUTO = "auto"
QUANTIZED = "openvino_int8"
INSTALL = "pip install -r requirements-openvino.txt, or pip install '.[openvino]'"
# engine -> the precision in which OpenVINO is asked to compute. It would choose bfloat16 by itself where it can.
PRECISIONS = {"openvino": "f32", "openvino_bfloat16": "bf16", QUANTIZED: "f32"}
ENGINES = (REFERENCE, *PRECISIONS)
# Instruction sets that decide how fast a network is, as Linux names them.
_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "i8mm", "bf16")


@dataclass(frozen=True)
class Choice:
    """An engine, and why it is the one."""

    engine: str
    why: str


def choose(wanted: str = AUTO) -> Choice:
    """The engine to use.

    `auto` is float32 always: `openvino` where it is installed, can compute this K, and was found faster, else
    `tensorflow`, the reference. On processors that compute bfloat16 natively it was not faster (docs/performance.md).

    Args:
        wanted: `auto`; `tensorflow`: K's Keras graph (on another Keras backend, that one computes it); `openvino`: the
            same graph converted, float32; `openvino_bfloat16`: rounded to bfloat16; `openvino_int8`: quantised
            (`quantize.py`).

    Raises:
        ValueError: there is no such engine.
        InputError: OpenVINO was asked for and is not installed, or Keras runs on another backend than TensorFlow.
    """
    if wanted not in (AUTO, *ENGINES):
        raise ValueError(f"unknown engine '{wanted}' of K. Choose one of: {', '.join((AUTO, *ENGINES))}.")
    if wanted == REFERENCE:
        return Choice(REFERENCE, "as asked for")
    import keras

    missing = not installed("openvino")
    backend = keras.backend.backend()
    if wanted != AUTO:
        if missing:
            raise InputError(f"the engine {wanted} needs OpenVINO, which is not installed. Run: {INSTALL}.")
        if backend != "tensorflow":
            raise InputError(
                f"the engine {wanted} is converted from TensorFlow, but Keras runs on {backend}. Set "
                "KERAS_BACKEND=tensorflow, or use the engine tensorflow, which means Keras' own backend."
            )
        if wanted == "openvino_bfloat16" and "BF16" not in capabilities():
            _say_once("this processor has no bfloat16 instructions: openvino_bfloat16 is no faster here than openvino")
        return Choice(wanted, "as asked for")
    if missing:
        return Choice(REFERENCE, "OpenVINO is not installed")
    if backend != "tensorflow":
        return Choice(REFERENCE, f"Keras runs on {backend}")
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return Choice(REFERENCE, "TensorFlow has a GPU")
    if "BF16" in capabilities():
        return Choice(REFERENCE, "on a processor with bfloat16 instructions OpenVINO was no faster in float32")
    return Choice(
        "openvino", "OpenVINO is installed, there is no GPU and no bfloat16; float32, as nothing else was asked"
    )


def installed(package: str) -> bool:
    """Whether a package can be imported, found out without importing it."""
    return importlib.util.find_spec(package) is not None


NOTE = "quantized.json"
"""In a folder of quantised networks: of which weights they were made, and with what."""


def quantized_folder(weights: str | Path) -> Path:
    """Where the quantised form of a weights file lies: beside it.

    Raises:
        InputError: there is none, or it was made of other weights.
    """
    folder = int8_folder(weights)
    how = "Make it (make quantize-k, or mrcnn.quantize.quantize), or use the engine openvino."
    if not (folder / NOTE).is_file():
        raise InputError(f"the engine {QUANTIZED} needs {folder}, which does not exist. {how}")
    if read_json(folder / NOTE)["weights_sha256"] != sha256(weights):
        raise InputError(f"{folder} was not made of the weights that {weights} holds now. {how}")
    return folder


def int8_folder(weights: str | Path) -> Path:
    """`k.h5` -> `k.int8`."""
    return Path(weights).with_suffix(".int8")


@functools.cache
def capabilities() -> tuple[str, ...]:
    """What OpenVINO says the processor computes natively, such as FP32, BF16, INT8."""
    import openvino

    return tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@functools.cache
def _say_once(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of the processor's instruction sets that matter to a network, by Linux; empty elsewhere."""
    if not cpuinfo.is_file():
        return ()
    lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return tuple(name for name in _SETS if name in flags)
