"""Weights files of the reference: their names and shapes, and whether it reads a given one.

Runs only in the reference environment; see generate.py.
"""

import json
import os
import tempfile

import h5py
import numpy as np
import weights
from reference import HERE, Config, K, build, seeded_weights


def _describe(path):
    """Every attribute and dataset of a weights file, in the file's own order."""
    with h5py.File(path, "r") as handle:
        text = [name.decode() for name in handle.attrs["layer_names"]]
        groups = []
        for layer in text:
            names = [name.decode() for name in handle[layer].attrs["weight_names"]]
            if names:
                groups.append([layer, [[name, list(handle[layer][name].shape)] for name in names]])
        kind = {key: str(np.asarray(value).dtype) for key, value in handle.attrs.items()}
        return dict(
            backend=handle.attrs["backend"].decode(),
            keras_version=handle.attrs["keras_version"].decode(),
            attribute_dtypes=kind,
            weight_names_dtype=str(handle["conv1"].attrs["weight_names"].dtype),
            layer_names=text,
            groups=groups,
            dtype=str(handle["conv1"]["conv1/kernel:0"].dtype),
            rpn_paths=sorted(_datasets(handle["rpn_model"])),
        )


def _datasets(group):
    found = []
    group.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


def layout():
    """Names and shapes in the package's own weights files, both backbones and both modes."""
    result = {}
    for backbone in ("resnet50", "resnet101"):
        for mode in ("inference", "training"):
            config = Config()
            config.BACKBONE = backbone
            model = build(mode, config, seeded=False)
            path = os.path.join(tempfile.mkdtemp(), "weights.h5")
            model.keras_model.save_weights(path)
            described = _describe(path)
            os.remove(path)
            if mode == "inference":
                result[backbone] = described
            else:
                if sorted(described["groups"]) != sorted(result[backbone]["groups"]):
                    raise RuntimeError("training and inference weights files differ")
                result[backbone]["training_layer_names"] = described["layer_names"]
    with open(os.path.join(HERE, "weights_layout.json"), "w") as handle:
        json.dump(result, handle, separators=(",", ":"), sort_keys=True)
        handle.write("\n")


def write_seeded(path, described):
    """A weights file of the described layout, written with h5py alone."""
    with h5py.File(path, "w") as handle:
        handle.attrs["backend"] = described["backend"].encode()
        handle.attrs["keras_version"] = described["keras_version"].encode()
        layers = [layer for layer, _ in described["groups"]]
        handle.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
        for layer, entries in described["groups"]:
            group = handle.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name, _ in entries])
            for name, shape in entries:
                owner, kind = name.split(":")[0].split("/")
                group.create_dataset(name, data=weights.weight(owner, kind, shape))


def verify(path, backbone, seeded=True):
    """Loads a weights file by name into the real package.

    Returns:
        Names of the variables that kept their initial value or (if `seeded`) differ from the seeded array.
    """
    config = Config()
    config.BACKBONE = backbone
    model = build("inference", config, seeded=False)
    pairs = seeded_weights(model.keras_model)
    K.batch_set_value([(variable, np.full_like(value, 7.0)) for variable, value in pairs])
    model.load_weights(path, by_name=True)
    loaded = K.batch_get_value([variable for variable, _ in pairs])
    wrong = []
    for number in range(len(pairs)):
        variable, expected = pairs[number]
        same = np.array_equal(loaded[number], expected) if seeded else not np.all(loaded[number] == 7.0)
        if not same:
            wrong.append(variable.name)
    return wrong


def layout_is_readable():
    """Does the real package load a file that h5py wrote from weights_layout.json alone?"""
    with open(os.path.join(HERE, "weights_layout.json")) as handle:
        described = json.load(handle)["resnet50"]
    path = os.path.join(tempfile.mkdtemp(), "seeded.h5")
    write_seeded(path, described)
    readable = not verify(path, "resnet50")
    os.remove(path)
    return readable
