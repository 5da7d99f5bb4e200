"""Writes the golden files: what Matterport's own package answers for small seeded inputs.

Runs only in the reference environment (CPython 3.7, see requirements.txt beside this file); the tests read the files
with numpy alone. To regenerate everything:

    python3.7 -m venv .golden && .golden/bin/pip install -r tests/golden/requirements.txt
    .golden/bin/python tests/golden/generate.py

The `golden` target of a Makefile is the last line. To ask the real package whether it reads a weights file:

    .golden/bin/python tests/golden/generate.py --verify weights.h5 --backbone resnet50

PyPI's mrcnn 0.2 and the 2.1 that UnMask shipped differ in two places. 2.1 resizes without anti-aliasing on every
scikit-image: `reference.use_release_resize` restores that. And 0.2 detects rightly in one image at a time only, so that
is how it is asked (generate_network.py). `--only PART` rewrites one part and leaves the others.

Files: golden.json (versions, cases, scalars), weights_layout.json (names and shapes in a weights file), *.npz.
"""

import argparse
import json
import os
import platform
import sys

import generate_evaluation
import generate_layout
import generate_network
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
from reference import HERE, Config, save, use_release_resize

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


DEEP = dict(BACKBONE="resnet101", NUM_CLASSES=25)


def _saved(name, written):
    arrays, described = written
    save(name, arrays)
    return described


def versions():
    """What the reference environment holds."""
    return {
        "python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__, "mrcnn": "0.2",
        "numpy": np.__version__, "scipy": scipy.__version__, "skimage": skimage.__version__, "h5py": h5py.__version__,
    }  # fmt: skip


def _known():
    """golden.json as it is."""
    with open(os.path.join(HERE, "golden.json")) as handle:
        return json.load(handle)


def _one_network(known, name):
    """The network entries of golden.json with one case made anew."""
    (case,) = [case for case in generate_network.CASES if case[0] == name]
    made = {entry["name"]: entry for entry in known}
    made[name] = generate_network.network(*case)
    return [made[case[0]] for case in generate_network.CASES if case[0] in made]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--verify", metavar="FILE.h5", help="load this weights file into the real package and stop")
    parser.add_argument("--backbone", default="resnet50", choices=["resnet50", "resnet101"])
    parser.add_argument("--seeded", action="store_true", help="with --verify: values must be those of weights.py")
    parser.add_argument("--only", metavar="PART", help="one key of golden.json, or network:CASE")
    arguments = parser.parse_args()
    use_release_resize()
    if arguments.verify:
        wrong = generate_layout.verify(arguments.verify, arguments.backbone, arguments.seeded)
        print("not loaded as expected: " + ", ".join(wrong) if wrong else "every weight was loaded")
        return 1 if wrong else 0

    made = {"mean_pixel": Config.MEAN_PIXEL.tolist(), "versions": versions()}
    parts = {
        "images": images,
        "anchors": anchors,
        "network": lambda: [generate_network.network(*case) for case in generate_network.CASES],
        "masks": lambda: _saved("masks", training.masks()),
        "rpn_targets": lambda: _saved("rpn_targets", training.rpn_targets()),
        "detection_targets": lambda: _saved("detection_targets", training.detection_targets()),
        "losses": lambda: _saved("losses", training.losses()),
        "ground_truth": lambda: _saved("ground_truth", training.ground_truth()),
        "train_steps": lambda: _saved("train_steps", training.train_steps(("heads", "4+", "all"))),
        "train_steps_deep": lambda: _saved("train_steps_deep", training.train_steps(("all",), **DEEP)),
        "optimiser": training.optimiser,
        "average_precision": lambda: _saved("average_precision", generate_evaluation.average_precisions()),
    }
    only, _, case = (arguments.only or "").partition(":")
    if case:
        made["network"] = _one_network(_known()["network"], case)
    elif only:
        made[only] = parts[only]()
    else:
        generate_layout.layout()
        made["layout_read_back"] = generate_layout.layout_is_readable()
        generate_network.roi_align()
        made.update({name: parts[name]() for name in sorted(parts)})
    golden = {**(_known() if only else {}), **made}
    with open(os.path.join(HERE, "golden.json"), "w") as handle:
        json.dump(golden, handle, indent=1, sort_keys=True)
        handle.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
