"""Writes a weights file as Matterport's package writes one: the names, order and attributes that weights_layout.json
records, at widths of one's choice, with seeded tensors. A stand-in for files too large to store."""

import importlib.util
import json
from pathlib import Path

import h5py
import numpy as np

_FOLDER = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("golden_weights", _FOLDER / "weights.py")
weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(weights)


def write(path, shapes, *, layout="resnet50", root="", string=False, rename=lambda group, name: name):
    """Writes the file.

    Args:
        path: the .h5 file.
        shapes: `layer/weight` -> shape.
        layout: `resnet50` or `resnet101`.
        root: group that holds the layers; "" for the file itself.
        string: attributes as text, as h5py 3 stores them; else as bytes.
        rename: (group, tensor's name) -> its name in this file.

    Returns:
        path.
    """
    recorded = json.loads((_FOLDER / "weights_layout.json").read_text())[layout]
    tensors = dict(recorded["groups"])

    def attribute(node, name, values):
        if string:
            node.attrs.create(name, values, dtype=h5py.string_dtype())
        else:
            node.attrs[name] = np.array([value.encode() for value in values])

    with h5py.File(path, "w") as file:
        top = file.create_group(root) if root else file
        for name in ("backend", "keras_version"):
            top.attrs[name] = recorded[name].encode()
        attribute(top, "layer_names", recorded["layer_names"])
        for layer in recorded["layer_names"]:
            group = top.create_group(layer)
            names = [rename(layer, name) for name, _ in tensors.get(layer, ())]
            if names:
                attribute(group, "weight_names", names)
            else:
                group.attrs["weight_names"] = np.array([], float)  # as h5py 2 stores an empty list
            for new, (name, _) in zip(names, tensors.get(layer, ()), strict=True):
                owner, kind = name.split(":")[0].split("/")
                group.create_dataset(new, data=weights.weight(owner, kind, shapes[f"{owner}/{kind}"]))
    return path
