"""The network half of generate.py: ROI align, and whole networks from picture to `detect`.

Runs only in the reference environment; see generate.py.
"""

import generate_training as training
import mrcnn.model
import mrcnn.utils
import numpy as np
import weights
from reference import K, build, configured, save, start_session


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


PAD64 = dict(IMAGE_RESIZE_MODE="pad64", IMAGE_MIN_DIM=64)
# (name, picture seed, height, width, what to store, settings other than reference.Config's). The seeds keep clear of
# ties. "scaled" is for the way back; the others are not scaled. Pairs of one configuration and canvas ("square" and
# "padded", "deep" and "deep_padded") also make a batch of two; the package itself is asked one image at a time, for the
# PyramidROIAlign of PyPI's 0.2 packs the crops of all images into a batch of one.
CASES = [
    ("square", 25, 128, 128, "all", {}),
    ("padded", 35, 110, 128, "sample", {}),
    ("pad64", 46, 100, 150, "sample", dict(PAD64, DETECTION_MIN_CONFIDENCE=0.5)),
    ("scaled", 1, 64, 64, "outputs", {}),
    ("deep", 35, 128, 128, "sample", dict(BACKBONE="resnet101")),
    ("deep_padded", 58, 128, 96, "sample", dict(BACKBONE="resnet101")),
    ("deep_25", 22, 128, 192, "sample", dict(PAD64, BACKBONE="resnet101", NUM_CLASSES=25)),
    ("shallow_25", 48, 192, 150, "sample", dict(NUM_CLASSES=25, IMAGE_MIN_DIM=192, IMAGE_MAX_DIM=192)),
]
FEATURES = ("res2c_out", "res3d_out", "res4f_out", "res5c_out", "fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5", "fpn_p6")


def _features(backbone):
    return tuple(name.replace("res4f", "res4w") for name in FEATURES) if backbone == "resnet101" else FEATURES


def margins(config, anchor_boxes, proposals, rpn_class, rpn_bbox, detections):
    """How far the case is from a tie: smallest gaps between the proposals' and between the detections' scores."""
    moved = mrcnn.utils.apply_box_deltas(anchor_boxes, rpn_bbox * config.RPN_BBOX_STD_DEV)
    moved = np.clip(moved, 0, 1)
    picked = [np.abs(moved - proposal).sum(axis=1).argmin() for proposal in proposals]
    scores = detections[detections[:, 5] > 0, 5]
    return dict(proposals=float(-np.diff(rpn_class[picked, 1]).max()), detections=float(-np.diff(scores).max()))


def network(name, seed, height, width, stored, settings):
    """One image through the whole network, and `detect`."""
    model = build("inference", configured(**settings))
    config = model.config
    image = weights.picture(seed, height, width)
    molded, meta, windows = model.mold_inputs([image])
    anchor_boxes = model.get_anchors(molded[0].shape)
    net, features = model.keras_model, _features(config.BACKBONE)
    tapped = list(net.outputs) + [net.get_layer(layer).output for layer in features]
    values = K.function(net.inputs, tapped)([molded, meta, anchor_boxes[None]])
    detections, mrcnn_class, mrcnn_bbox, mrcnn_mask, rois, rpn_class, rpn_bbox = (value[0] for value in values[:7])
    found = int(np.sum(detections[:, 4] > 0))
    classes = detections[:found, 4].astype(int)
    masks = mrcnn_mask[np.arange(found), :, :, classes]
    result = model.detect([image])[0]
    kept = 6 if stored == "sample" else 8
    arrays = dict(meta=meta, window=windows[0], detections=detections, mask_28=masks[:kept])
    arrays.update(rois=result["rois"], class_ids=result["class_ids"], scores=result["scores"])
    arrays["masks"] = np.packbits(result["masks"].astype(np.uint8))
    rpn_step, roi_step = (13, 10) if stored == "sample" else (1, 1)
    if stored != "outputs":
        for number in range(len(features)):
            feature = values[7 + number][0]
            step = max(1, feature.shape[0] // 4)
            arrays[features[number]] = feature[::step, ::step, :: feature.shape[2] // 16]
        arrays.update(proposals=rois, rpn_class=rpn_class[::rpn_step], rpn_bbox=rpn_bbox[::rpn_step])
        arrays.update(mrcnn_class=mrcnn_class[::roi_step], mrcnn_bbox=mrcnn_bbox[::roi_step])
    save("network_" + name, arrays)
    areas = (detections[:found, 2] - detections[:found, 0]) * (detections[:found, 3] - detections[:found, 1])
    return dict(
        name=name, seed=seed, height=height, width=width, stored=stored, backbone=config.BACKBONE,
        classes=config.NUM_CLASSES, features=features, canvas=list(molded.shape[1:3]),
        mode=config.IMAGE_RESIZE_MODE, min_dim=config.IMAGE_MIN_DIM, max_dim=config.IMAGE_MAX_DIM,
        anchor_scales=config.RPN_ANCHOR_SCALES, proposals=config.POST_NMS_ROIS_INFERENCE,
        min_confidence=config.DETECTION_MIN_CONFIDENCE, rpn_step=rpn_step, roi_step=roi_step,
        anchors=len(rpn_class), found=found, without_area=int(np.sum(areas <= 0)),
        mask_shape=list(result["masks"].shape),
        margins=margins(config, anchor_boxes, rois, rpn_class, rpn_bbox, detections),
    )  # fmt: skip
