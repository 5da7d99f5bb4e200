"""K in 8-bit integers for OpenVINO: quantised after training, on images that K was trained on, by NNCF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unmask_tf.errors import InputError
from unmask_tf.files import sha256, write_json
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.engines import INSTALL, NOTE, choose, installed, int8_folder
from unmask_tf.mrcnn.fast import FastDetector, rewritten_detector
from unmask_tf.mrcnn.openvino_network import NETWORKS, OpenVinoDetections, convert, write


def quantize(config: Config, weights: str | Path, images: Sequence[np.ndarray]) -> Path:
    """Writes the quantised form of a K, for the engine `openvino_int8`.

    Args:
        config: K's settings.
        weights: a Matterport-layout `.h5`.
        images: uint8 (H, W, 3), such as K was trained on; the ranges of activations are those on them. 100 suffice.

    Returns:
        The folder, beside the weights.

    Raises:
        InputError: OpenVINO or NNCF is not installed, or the weights do not fit.
        ValueError: there are no images.
    """
    choose("openvino")
    if not installed("nncf"):
        raise InputError(f"quantising K needs NNCF, which is not installed. Run: {INSTALL}.")
    if not len(images):
        raise ValueError("K is quantised on images, but none were given.")
    import nncf

    detector = FastDetector(config, weights, "openvino")
    exact = detector._function
    assert isinstance(exact, OpenVinoDetections)
    shown = {
        "features": lambda image: detector.molded([image])[0],
        "head": lambda image: exact.regions(*detector.molded([image])[:2])[1],
    }
    networks = convert(rewritten_detector(config, weights))
    for name in NETWORKS:
        dataset = nncf.Dataset(list(images), shown[name])
        networks[name] = nncf.quantize(networks[name], dataset, subset_size=len(images))
    folder = int8_folder(weights)
    write(networks, folder)
    note = {"weights_sha256": sha256(weights), "images": len(images), "nncf": nncf.__version__}
    write_json(folder / NOTE, note)
    return folder
