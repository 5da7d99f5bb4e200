"""Writes the golden files: what Matterport's own package answers for small seeded inputs.

Runs only in the reference environment (CPython 3.7, see requirements.txt beside this file); the tests read the files
with numpy alone. To regenerate everything:

    python3.7 -m venv .golden && .golden/bin/pip install -r tests/golden/requirements.txt
    .golden/bin/python tests/golden/generate.py

The `golden` target of a Makefile is the last line. To ask the real package whether it reads a weights file:

    .golden/bin/python tests/golden/generate.py --verify weights.h5 --backbone resnet50

PyPI's mrcnn 0.2 and the 2.1 that UnMask shipped differ in one call: 2.1 resizes without anti-aliasing on every
scikit-image. `reference.use_release_resize` restores that.

Files: golden.json (versions, cases, scalars), weights_layout.json (names and shapes in a weights file), *.npz.
"""

import argparse
import json
import os
import platform
import sys

import generate_layout
import generate_training as training
import h5py
import keras
import mrcnn.model
import mrcnn.utils
import numpy as np
import scipy
import skimage
import tensorflow as tf
import weights
from reference import HERE, Config, K, Pad64Config, build, save, start_session, use_release_resize

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
        first = window[0] % step  # so that the image's top row, where the border fades, is among the stored ones
        arrays[f"resized_{number}"] = resized[first::step]
        arrays[f"molded_{number}"] = molded[0, 60:70:3].astype(np.float32)
        arrays[f"meta_{number}"] = meta[0]
        cases.append(
            dict(
                seed=seed, height=height, width=width, low=low, high=230, mode=mode, min_dim=min_dim, max_dim=max_dim,
                min_scale=min_scale, window=[int(v) for v in window], scale=float(scale),
                padding=[list(map(int, pair)) for pair in padding], shape=list(resized.shape),
                first_row=first, row_step=step,
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
        arrays[f"raw_{number}"], arrays[f"normalised_{number}"] = raw[::7], normalised[::7]
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
    start_session()
    generator = np.random.RandomState(50)
    maps = [generator.standard_normal((1, side, side, 4)).astype(np.float32) for side in (32, 16, 8, 4)]
    boxes = (training.random_boxes(generator, 20, 1000, 1000) / np.float32(1000)).astype(np.float32)
    side = np.array([0.02, 0.1, 0.11, 0.15, 0.16, 0.3, 0.31, 0.6, 0.7, 1.0], np.float32)
    nested = np.stack([0 * side, 0 * side, side, side], axis=1)
    odd = np.array([[0, 0, 0, 0], [0.2, 0.3, 0.2, 0.9], [-0.1, 0.5, 0.4, 1.2], [0.5, 0.5, 0.501, 0.501]], np.float32)
    boxes = np.concatenate([boxes, nested, odd])[None]
    meta = np.zeros((1, 12 + 45), np.float32)
    meta[0, 4:7] = 1024, 1024, 3
    inputs = [K.placeholder(shape=(1, *a.shape[1:])) for a in [boxes, meta, *maps]]
    outputs = [mrcnn.model.PyramidROIAlign([size, size])(inputs) for size in (7, 14)]
    seven, fourteen = K.function(inputs, outputs)([boxes, meta, *maps])
    arrays = dict(boxes=boxes, pooled_7=seven, pooled_14=fourteen[:, ::4])
    for level in range(4):
        arrays[f"map_{level + 2}"] = maps[level]
    save("roi_align", arrays)


# (name, config class, picture seed, height, width, what to store). The seeds keep clear of ties. Three cases are not
# scaled, because scikit-image's rounding decides single grey levels when it scales; "scaled" is for the way back.
NETWORK_CASES = [
    ("square", Config, 25, 128, 128, "all"),
    ("padded", Config, 35, 110, 128, "sample"),
    ("pad64", Pad64Config, 46, 100, 150, "sample"),
    ("scaled", Config, 1, 64, 64, "outputs"),
]
FEATURES = ("res2c_out", "res3d_out", "res4f_out", "res5c_out", "fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5", "fpn_p6")


def _margins(config, anchor_boxes, proposals, rpn_class, rpn_bbox, detections):
    """How far the case is from a tie: smallest gaps between the proposals' and between the detections' scores."""
    moved = mrcnn.utils.apply_box_deltas(anchor_boxes, rpn_bbox * config.RPN_BBOX_STD_DEV)
    moved = np.clip(moved, 0, 1)
    picked = [np.abs(moved - proposal).sum(axis=1).argmin() for proposal in proposals]
    scores = detections[detections[:, 5] > 0, 5]
    return dict(proposals=float(-np.diff(rpn_class[picked, 1]).max()), detections=float(-np.diff(scores).max()))


def network(name, config_class, seed, height, width, stored):
    """One image through the whole network, and `detect`."""
    model = build("inference", config_class())
    image = weights.picture(seed, height, width)
    molded, meta, windows = model.mold_inputs([image])
    anchor_boxes = model.get_anchors(molded[0].shape)
    net = model.keras_model
    tapped = list(net.outputs) + [net.get_layer(layer).output for layer in FEATURES]
    values = K.function(net.inputs, tapped)([molded, meta, anchor_boxes[None]])
    detections, mrcnn_class, mrcnn_bbox, mrcnn_mask, rois, rpn_class, rpn_bbox = (value[0] for value in values[:7])
    found = int(np.sum(detections[:, 4] > 0))
    classes = detections[:found, 4].astype(int)
    masks = mrcnn_mask[np.arange(found), :, :, classes]
    result = model.detect([image])[0]
    kept = 6 if stored == "sample" else 24
    arrays = dict(meta=meta, window=windows[0], detections=detections, mask_28=masks[:kept])
    arrays.update(rois=result["rois"], class_ids=result["class_ids"], scores=result["scores"])
    arrays["masks"] = np.packbits(result["masks"].astype(np.uint8))
    rpn_step, roi_step = (13, 10) if stored == "sample" else (1, 1)
    if stored != "outputs":
        for number in range(len(FEATURES)):
            feature = values[7 + number][0]
            step = max(1, feature.shape[0] // 4)
            arrays[FEATURES[number]] = feature[::step, ::step, :: feature.shape[2] // 16]
        arrays.update(proposals=rois, rpn_class=rpn_class[::rpn_step], rpn_bbox=rpn_bbox[::rpn_step])
        arrays.update(mrcnn_class=mrcnn_class[::roi_step], mrcnn_bbox=mrcnn_bbox[::roi_step])
    save("network_" + name, arrays)
    config = model.config
    areas = (detections[:found, 2] - detections[:found, 0]) * (detections[:found, 3] - detections[:found, 1])
    return dict(
        name=name, seed=seed, height=height, width=width, stored=stored, backbone=config.BACKBONE,
        mode=config.IMAGE_RESIZE_MODE, min_dim=config.IMAGE_MIN_DIM, max_dim=config.IMAGE_MAX_DIM,
        anchor_scales=config.RPN_ANCHOR_SCALES, proposals=config.POST_NMS_ROIS_INFERENCE,
        min_confidence=config.DETECTION_MIN_CONFIDENCE, rpn_step=rpn_step, roi_step=roi_step,
        anchors=len(rpn_class), found=found, without_area=int(np.sum(areas <= 0)),
        mask_shape=list(result["masks"].shape),
        margins=_margins(config, anchor_boxes, rois, rpn_class, rpn_bbox, detections),
    )  # fmt: skip


def _saved(name, written):
    arrays, described = written
    save(name, arrays)
    return described


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--verify", metavar="FILE.h5", help="load this weights file into the real package and stop")
    parser.add_argument("--backbone", default="resnet50", choices=["resnet50", "resnet101"])
    parser.add_argument("--seeded", action="store_true", help="with --verify: values must be those of weights.py")
    parser.add_argument("--only", metavar="PART", help="regenerate one key of golden.json and its npz file")
    arguments = parser.parse_args()
    use_release_resize()
    if arguments.verify:
        wrong = generate_layout.verify(arguments.verify, arguments.backbone, arguments.seeded)
        print("not loaded as expected: " + ", ".join(wrong) if wrong else "every weight was loaded")
        return 1 if wrong else 0

    golden = {}
    if arguments.only:
        with open(os.path.join(HERE, "golden.json")) as handle:
            golden = json.load(handle)
    else:
        generate_layout.layout()
        golden["layout_read_back"] = generate_layout.layout_is_readable()
        roi_align()
    golden["versions"] = {
        "python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__, "mrcnn": "0.2",
        "numpy": np.__version__, "scipy": scipy.__version__, "skimage": skimage.__version__, "h5py": h5py.__version__,
    }  # fmt: skip
    golden["mean_pixel"] = Config.MEAN_PIXEL.tolist()
    parts = {
        "images": images,
        "anchors": anchors,
        "network": lambda: [network(*case) for case in NETWORK_CASES],
        "masks": lambda: _saved("masks", training.masks()),
        "rpn_targets": lambda: _saved("rpn_targets", training.rpn_targets()),
        "detection_targets": lambda: _saved("detection_targets", training.detection_targets()),
        "losses": lambda: _saved("losses", training.losses()),
        "ground_truth": lambda: _saved("ground_truth", training.ground_truth()),
        "train_steps": lambda: _saved("train_steps", training.train_steps()),
        "optimiser": training.optimiser,
    }
    for name in [arguments.only] if arguments.only else sorted(parts):
        golden[name] = parts[name]()
    with open(os.path.join(HERE, "golden.json"), "w") as handle:
        json.dump(golden, handle, indent=1, sort_keys=True)
        handle.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
