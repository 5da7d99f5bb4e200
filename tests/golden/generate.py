"""Writes the golden files: what Matterport's own package answers for small seeded inputs.

Runs only in the reference environment (CPython 3.7, see requirements.txt beside this file); the tests read the files
with numpy alone. To regenerate everything:

    python3.7 -m venv .golden && .golden/bin/pip install -r tests/golden/requirements.txt
    .golden/bin/python tests/golden/generate.py

The `golden` target of a Makefile is the last line. To ask the real package whether it reads a weights file:

    .golden/bin/python tests/golden/generate.py --verify weights.h5 --backbone resnet50

PyPI's mrcnn 0.2 and the 2.1 that UnMask shipped differ in one call: 2.1 resizes without anti-aliasing on every
scikit-image. `_use_release_resize` restores that.

Files: golden.json (versions, cases, scalars), weights_layout.json (names and shapes in a weights file), *.npz.
"""

import argparse
import functools
import json
import os
import platform
import sys
import tempfile
import warnings
import zlib

warnings.simplefilter("ignore")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import h5py
import keras
import mrcnn.config
import mrcnn.model
import mrcnn.utils
import numpy as np
import scipy
import skimage.transform
import tensorflow as tf

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import generate_training as training
import weights

K = keras.backend


class Config(mrcnn.config.Config):
    """Small images, small anchors, 45 classes."""

    NAME = "golden"
    BACKBONE = "resnet50"
    NUM_CLASSES = 45
    IMAGES_PER_GPU = 1
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 128
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    POST_NMS_ROIS_INFERENCE = 200
    DETECTION_MIN_CONFIDENCE = 0


class Pad64Config(Config):
    """Rectangular input, and a score threshold."""

    IMAGE_RESIZE_MODE = "pad64"
    DETECTION_MIN_CONFIDENCE = 0.5


def _use_release_resize():
    skimage.transform.resize = functools.partial(skimage.transform.resize, anti_aliasing=False)


def _start_session():
    K.clear_session()
    options = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    K.set_session(tf.compat.v1.Session(config=options))


def leaf_layers(model):
    """Layers with weights in file order; a nested model (rpn_model) yields its own."""
    for layer in model.layers:
        if isinstance(layer, keras.models.Model):
            for inner in leaf_layers(layer):
                yield inner
        elif layer.weights:
            yield layer


def seeded_weights(model):
    """List of (variable, seeded array)."""
    pairs = []
    for layer in leaf_layers(model):
        for variable in layer.weights:
            name = variable.name.split("/")[-1].split(":")[0]
            pairs.append((variable, weights.weight(layer.name, name, K.int_shape(variable))))
    return pairs


def build(mode, config, seeded=True):
    """The real MaskRCNN in a fresh session."""
    _start_session()
    model = mrcnn.model.MaskRCNN(mode, config, tempfile.mkdtemp())
    if seeded:
        K.batch_set_value(seeded_weights(model.keras_model))
    return model


def save(name, arrays):
    np.savez_compressed(os.path.join(HERE, name + ".npz"), **arrays)


# ---------------------------------------------------------------------------------------------------- images, anchors

# (seed, height, width, lowest pixel, mode, min_dim, max_dim, min_scale)
IMAGE_CASES = [
    (1, 64, 64, 0, "square", 128, 128, 0),
    (2, 100, 150, 0, "square", 128, 128, 0),
    (3, 150, 100, 0, "square", 128, 128, 0),
    (4, 110, 128, 0, "square", 128, 128, 0),
    (5, 64, 64, 60, "square", 100, 128, 0),
    (6, 50, 200, 0, "square", 128, 192, 0),
    (7, 200, 301, 0, "square", 128, 128, 0),
    (8, 40, 60, 0, "square", 32, 128, 2),
    (9, 64, 64, 0, "pad64", 128, 128, 0),
    (10, 100, 150, 0, "pad64", 64, 128, 0),
    (11, 150, 101, 0, "pad64", 64, 128, 0),
    (12, 100, 130, 60, "pad64", 128, 128, 0),
    (13, 40, 60, 0, "pad64", 64, 128, 2),
    (14, 64, 128, 0, "none", 128, 128, 0),
    (15, 150, 150, 0, "square", 800, 1024, 0),
]


def images():
    """resize_image, mold_inputs: windows, scales, paddings, meta, pixels."""
    arrays, cases = {}, []
    for number in range(len(IMAGE_CASES)):
        seed, height, width, low, mode, min_dim, max_dim, min_scale = IMAGE_CASES[number]
        image = weights.picture(seed, height, width, low, 230)
        config = Config()
        config.IMAGE_RESIZE_MODE, config.IMAGE_MIN_SCALE = mode, min_scale
        config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM = min_dim, max_dim
        resized, window, scale, padding, _ = mrcnn.utils.resize_image(
            image, min_dim=min_dim, max_dim=max_dim, min_scale=min_scale, mode=mode
        )
        holder = mrcnn.model.MaskRCNN.__new__(mrcnn.model.MaskRCNN)
        holder.config = config
        molded, meta, _ = holder.mold_inputs([image])
        step = 100 if resized.shape[0] > 256 else 4
        arrays["resized_%d" % number] = resized[::step]
        arrays["molded_%d" % number] = molded[0, 60:70:3].astype(np.float32)
        arrays["meta_%d" % number] = meta[0]
        cases.append(
            dict(
                seed=seed, height=height, width=width, low=low, high=230, mode=mode, min_dim=min_dim, max_dim=max_dim,
                min_scale=min_scale, window=[int(v) for v in window], scale=float(scale),
                padding=[list(map(int, pair)) for pair in padding], shape=list(resized.shape),
                row_step=step, crc32=zlib.crc32(np.ascontiguousarray(resized).tobytes()),
            )
        )  # fmt: skip
    save("images", arrays)
    return cases


def anchors():
    """Pyramid anchors, raw (float64 pixels) and normalised (float32); backbone shapes; box helpers."""
    arrays, cases = {}, []
    for scales, shape, stride in [
        ((8, 16, 32, 64, 128), (128, 128, 3), 1),
        ((32, 64, 128, 256, 512), (128, 192, 3), 1),
        ((8, 16, 32, 64, 128), (100, 130, 3), 2),
    ]:
        config = Config()
        shapes = mrcnn.model.compute_backbone_shapes(config, shape)
        raw = mrcnn.utils.generate_pyramid_anchors(
            scales, config.RPN_ANCHOR_RATIOS, shapes, config.BACKBONE_STRIDES, stride
        )
        normalised = mrcnn.utils.norm_boxes(raw, shape[:2])
        number = len(cases)
        arrays["raw_%d" % number], arrays["normalised_%d" % number] = raw[::7], normalised[::7]
        cases.append(
            dict(
                scales=scales, shape=shape, anchor_stride=stride, backbone_shapes=shapes.tolist(), count=len(raw),
                sum=raw.sum(axis=0).tolist(), step=7,
            )
        )  # fmt: skip
    generator = np.random.RandomState(40)
    boxes = training.random_boxes(generator, 40, 100, 150)
    others = training.random_boxes(generator, 9, 100, 150)
    deltas = generator.standard_normal((40, 4)).astype(np.float32) * np.float32(0.3)
    arrays.update(boxes=boxes, others=others, deltas=deltas)
    arrays["iou"] = mrcnn.utils.compute_overlaps(boxes, others)
    arrays["applied"] = mrcnn.utils.apply_box_deltas(boxes, deltas)
    arrays["refinement"] = mrcnn.utils.box_refinement(boxes, others[np.arange(40) % 9])
    arrays["normalised"] = mrcnn.utils.norm_boxes(boxes, (100, 150))
    arrays["denormalised"] = mrcnn.utils.denorm_boxes(arrays["normalised"] * np.float32(0.9), (100, 150))
    save("anchors", arrays)
    return cases


# ------------------------------------------------------------------------------------------------------------- network


def roi_align():
    """PyramidROIAlign on small random maps; the meta says 1024 x 1024 so that all four levels are used."""
    _start_session()
    generator = np.random.RandomState(50)
    maps = [generator.standard_normal((1, side, side, 4)).astype(np.float32) for side in (32, 16, 8, 4)]
    boxes = (training.random_boxes(generator, 20, 1000, 1000) / np.float32(1000)).astype(np.float32)
    side = np.array([0.02, 0.1, 0.11, 0.15, 0.16, 0.3, 0.31, 0.6, 0.7, 1.0], np.float32)
    nested = np.stack([0 * side, 0 * side, side, side], axis=1)
    odd = np.array([[0, 0, 0, 0], [0.2, 0.3, 0.2, 0.9], [-0.1, 0.5, 0.4, 1.2], [0.5, 0.5, 0.501, 0.501]], np.float32)
    boxes = np.concatenate([boxes, nested, odd])[None]
    meta = np.zeros((1, 12 + 45), np.float32)
    meta[0, 4:7] = 1024, 1024, 3
    inputs = [K.placeholder(shape=(1,) + a.shape[1:]) for a in [boxes, meta] + maps]
    outputs = [mrcnn.model.PyramidROIAlign([size, size])(inputs) for size in (7, 14)]
    seven, fourteen = K.function(inputs, outputs)([boxes, meta] + maps)
    arrays = dict(boxes=boxes, pooled_7=seven, pooled_14=fourteen[:, ::4])
    for level in range(4):
        arrays["map_%d" % (level + 2)] = maps[level]
    save("roi_align", arrays)


# (name, config class, picture seed, height, width, store every array in full)
NETWORK_CASES = [
    ("square", Config, 1, 64, 64, True),
    ("padded", Config, 2, 110, 128, False),
    ("pad64", Pad64Config, 3, 100, 130, False),
]
FEATURES = ("res2c_out", "res3d_out", "res4f_out", "res5c_out", "fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5", "fpn_p6")


def _margins(rpn_class, detections):
    """How far the case is from a tie: smallest gaps between the proposals' and between the detections' scores."""
    top = np.sort(rpn_class[0, :, 1])[::-1]
    scores = detections[0, :, 5]
    scores = scores[scores > 0]
    return dict(rpn=float(-np.diff(top).max()), detection=float(-np.diff(scores).max()))


def network(name, config_class, seed, height, width, full):
    """One image through the whole network, and `detect`."""
    model = build("inference", config_class())
    image = weights.picture(seed, height, width)
    molded, meta, windows = model.mold_inputs([image])
    boxes = model.get_anchors(molded[0].shape)[None]
    net = model.keras_model
    tapped = list(net.outputs) + [net.get_layer(layer).output for layer in FEATURES]
    values = K.function(net.inputs, tapped)([molded, meta, boxes])
    detections, mrcnn_class, mrcnn_bbox, mrcnn_mask, rois, rpn_class, rpn_bbox = values[:7]
    arrays = dict(meta=meta, window=windows[0], proposals=rois[0], detections=detections[0])
    for number in range(len(FEATURES)):
        feature = values[7 + number][0]
        step = max(1, feature.shape[0] // 4)
        arrays[FEATURES[number]] = feature[::step, ::step, :: feature.shape[2] // 16]
    found = int(np.sum(detections[0, :, 4] > 0))
    classes = detections[0, :found, 4].astype(int)
    arrays["mask_28"] = mrcnn_mask[0, np.arange(found), :, :, classes][: 24 if full else 6]
    step = 1 if full else 13
    arrays["rpn_class"], arrays["rpn_bbox"] = rpn_class[0, ::step], rpn_bbox[0, ::step]
    step = 1 if full else 10
    arrays["mrcnn_class"], arrays["mrcnn_bbox"] = mrcnn_class[0, ::step], mrcnn_bbox[0, ::step]
    result = model.detect([image])[0]
    arrays.update(rois=result["rois"], class_ids=result["class_ids"], scores=result["scores"])
    arrays["masks"] = np.packbits(result["masks"].astype(np.uint8))
    save("network_" + name, arrays)
    config = model.config
    return dict(
        name=name, seed=seed, height=height, width=width, full=full, backbone=config.BACKBONE,
        mode=config.IMAGE_RESIZE_MODE, min_dim=config.IMAGE_MIN_DIM, max_dim=config.IMAGE_MAX_DIM,
        anchor_scales=config.RPN_ANCHOR_SCALES, proposals=config.POST_NMS_ROIS_INFERENCE,
        min_confidence=config.DETECTION_MIN_CONFIDENCE, rpn_step=1 if full else 13, roi_step=1 if full else 10,
        anchors=int(rpn_class.shape[1]), found=found, mask_shape=list(result["masks"].shape),
        margins=_margins(rpn_class, detections),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- weights files


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--verify", metavar="FILE.h5", help="load this weights file into the real package and stop")
    parser.add_argument("--backbone", default="resnet50", choices=["resnet50", "resnet101"])
    parser.add_argument("--seeded", action="store_true", help="with --verify: values must be those of weights.py")
    arguments = parser.parse_args()
    _use_release_resize()
    if arguments.verify:
        wrong = verify(arguments.verify, arguments.backbone, arguments.seeded)
        print("not loaded as expected: " + ", ".join(wrong) if wrong else "every weight was loaded")
        return 1 if wrong else 0

    golden = {
        "versions": {
            "python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__,
            "mrcnn": "0.2", "numpy": np.__version__, "scipy": scipy.__version__, "skimage": skimage.__version__,
            "h5py": h5py.__version__,
        },
        "mean_pixel": Config.MEAN_PIXEL.tolist(),
        "images": images(),
        "anchors": anchors(),
    }  # fmt: skip
    roi_align()
    layout()
    with open(os.path.join(HERE, "weights_layout.json")) as handle:
        described = json.load(handle)["resnet50"]
    path = os.path.join(tempfile.mkdtemp(), "seeded.h5")
    write_seeded(path, described)
    golden["layout_read_back"] = not verify(path, "resnet50")
    os.remove(path)
    golden["network"] = [network(*case) for case in NETWORK_CASES]
    golden.update(training.write_all(Config, build, save, _start_session))
    with open(os.path.join(HERE, "golden.json"), "w") as handle:
        json.dump(golden, handle, indent=1, sort_keys=True)
        handle.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
