"""K step by step, for notebooks: inner tensors of one image, and figures of anchors, proposals, targets, detections.

Boxes are (y1, x1, y2, x2) in pixels of K's canvas unless said otherwise. Figures are made without pyplot: show one by
naming it on a cell's last line, save it with `figure.savefig(path)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from unmask_tf.mrcnn import boxes as box_math
from unmask_tf.mrcnn.anchors import backbone_shapes, pyramid_anchors
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.detections import normalized_windows
from unmask_tf.mrcnn.ground_truth import GroundTruth
from unmask_tf.mrcnn.image import mold_inputs, unmold_image
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.targets import build_rpn_targets, expand_masks
from unmask_tf.mrcnn.weights import named_weights

_LEVELS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00")
_POSITIVE, _NEGATIVE = "#00B140", "#808080"
_SMALL = 6


@dataclass(frozen=True)
class Intermediates:
    """What K computes on the way to the detections of one image.

    Attributes:
        config: K's settings.
        canvas: uint8 (H, W, 3), the image scaled and padded.
        window: the image's place on the canvas.
        anchors: float64 (A, 4); levels: int (A,), 2 for P2.
        rpn_class: float32 (A, 2), probabilities of background and object.
        rpn_bbox: float32 (A, 4), deltas in units of RPN_BBOX_STD_DEV.
        proposals: float64 (N, 4), after suppression, by falling score; empty ones are left out.
        class_probabilities: float32 (N, classes); class_deltas: float32 (N, classes, 4), units of BBOX_STD_DEV.
        detections: float64 (D, 4); class_ids: int32 (D,); scores: float32 (D,).
        masks: float32 (D, h, w), the mask head's probabilities for each detection's class.
    """

    config: Config
    canvas: np.ndarray
    window: tuple[int, int, int, int]
    anchors: np.ndarray
    levels: np.ndarray
    rpn_class: np.ndarray
    rpn_bbox: np.ndarray
    proposals: np.ndarray
    class_probabilities: np.ndarray
    class_deltas: np.ndarray
    detections: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    masks: np.ndarray

    def best_anchors(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices (count,) of the anchors that score best, and their boxes after the RPN's refinement, clipped."""
        best = np.argsort(-self.rpn_class[:, 1], kind="stable")[:count]
        deltas = self.rpn_bbox[best] * np.asarray(self.config.RPN_BBOX_STD_DEV)
        return best, self._moved(self.anchors[best], deltas, (0, 0, *self.canvas.shape[:2]))

    def refined_proposals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Best class (N,), its probability (N,) and the proposals (N, 4) refined for it, clipped to the window."""
        classes = self.class_probabilities.argmax(axis=1)
        rows = np.arange(len(classes))
        deltas = self.class_deltas[rows, classes] * np.asarray(self.config.BBOX_STD_DEV)
        return classes, self.class_probabilities[rows, classes], self._moved(self.proposals, deltas, self.window)

    def _moved(self, boxes: np.ndarray, deltas: np.ndarray, window: Sequence[float]) -> np.ndarray:
        """Boxes moved by deltas and clipped, computed as K does: in normalised coordinates, which are closed."""
        size = self.canvas.shape[:2]
        moved = box_math.decode_deltas(box_math.normalize(boxes, size), deltas)
        return _pixels(box_math.clip(moved, box_math.normalize(np.array(window), size)), size)


def intermediates(model: MaskRCNN, image: np.ndarray) -> Intermediates:
    """Runs K on one RGB image, uint8 (H, W, 3), and keeps what it computes on the way.

    Raises:
        ValueError: K is not in inference mode, or the image is not as above.
    """
    if model.mode != "inference":
        raise ValueError("inner tensors need a model built with mode='inference'.")
    config = model.config
    molded, metas, placements = mold_inputs([image], config)
    size = molded.shape[1:3]
    out = model.keras_model.predict_on_batch([molded, model.anchors(size)[None], normalized_windows(metas, size)])
    tensors = {name: np.asarray(value)[0] for name, value in out.items()}
    per_level = backbone_shapes(config, size).prod(axis=1) * len(config.RPN_ANCHOR_RATIOS)
    anchors = pyramid_anchors(config, size)
    if config.RPN_ANCHOR_STRIDE != 1:
        strides = backbone_shapes(config, size) + config.RPN_ANCHOR_STRIDE - 1
        per_level = (strides // config.RPN_ANCHOR_STRIDE).prod(axis=1) * len(config.RPN_ANCHOR_RATIOS)
    some = box_math.area(tensors["rois"]) > 0
    found = np.flatnonzero(tensors["detections"][:, 4] > 0)
    class_ids = tensors["detections"][found, 4].astype(np.int32)
    return Intermediates(
        config=config,
        canvas=unmold_image(molded[0], config),
        window=placements[0].window,
        anchors=anchors,
        levels=np.repeat(np.arange(len(per_level)) + 2, per_level),
        rpn_class=tensors["rpn_class"],
        rpn_bbox=tensors["rpn_bbox"],
        proposals=_pixels(tensors["rois"][some], size),
        class_probabilities=tensors["mrcnn_class"][some],
        class_deltas=tensors["mrcnn_bbox"][some],
        detections=_pixels(tensors["detections"][found, :4], size),
        class_ids=class_ids,
        scores=tensors["detections"][found, 5],
        masks=np.stack([tensors["mrcnn_mask"][row, :, :, i] for row, i in zip(found, class_ids, strict=True)])
        if len(found)
        else np.zeros((0, *tensors["mrcnn_mask"].shape[1:3]), np.float32),
    )


def _pixels(boxes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Normalised boxes to pixels, not rounded."""
    height, width = size
    return boxes * np.array([height - 1, width - 1, height - 1, width - 1]) + np.array([0, 0, 1, 1])


def draw_anchors(found: Intermediates, at: tuple[float, float] | None = None) -> Figure:
    """The anchors of every level whose centre lies nearest to `at` (y, x; default: the canvas's middle)."""
    y, x = at if at is not None else (found.canvas.shape[0] / 2, found.canvas.shape[1] / 2)
    centre = (found.anchors[:, :2] + found.anchors[:, 2:]) / 2
    distance = np.hypot(centre[:, 0] - y, centre[:, 1] - x)
    figure, (axis,) = _figure(1)
    _show(axis, found.canvas, f"{len(found.anchors)} anchors; per level those nearest to ({y:.0f}, {x:.0f})")
    handles = []
    for level in np.unique(found.levels):
        rows = np.flatnonzero(found.levels == level)
        nearest = rows[np.isclose(distance[rows], distance[rows].min())][: len(found.config.RPN_ANCHOR_RATIOS)]
        colour = _LEVELS[(level - 2) % len(_LEVELS)]
        for box in found.anchors[nearest]:
            _box(axis, box, colour)
        handles.append(Patch(color=colour, label=f"P{level}: {len(rows)}"))
    _widen(axis, found.anchors[np.isclose(distance, distance.min())])
    axis.legend(handles=handles, fontsize=_SMALL, loc="upper right")
    return figure


def draw_proposals(found: Intermediates, count: int = 20) -> Figure:
    """The RPN: its best anchors, the same refined (dotted: before), and the proposals left by suppression."""
    best, refined = found.best_anchors(count)
    figure, axes = _figure(3)
    _show(axes[0], found.canvas, f"{len(best)} best anchors, from {found.rpn_class[best[-1], 1]:.2f}")
    _show(axes[1], found.canvas, "refined (dotted: before)")
    _show(axes[2], found.canvas, f"{min(count, len(found.proposals))} best of {len(found.proposals)} proposals")
    for before, after, level in zip(found.anchors[best], refined, found.levels[best], strict=True):
        colour = _LEVELS[(level - 2) % len(_LEVELS)]
        _box(axes[0], before, colour)
        _box(axes[1], before, colour, dotted=True)
        _box(axes[1], after, colour)
    for box in found.proposals[:count]:
        _box(axes[2], box, _POSITIVE)
    return figure


def draw_rois(found: Intermediates, class_names: Sequence[str], count: int = 20) -> Figure:
    """The class and box head: the proposals it is most certain are objects, before (dotted) and after refinement.

    Args:
        class_names: by class index; index 0 is the background.
    """
    classes, scores, refined = found.refined_proposals()
    rows = [i for i in np.argsort(-scores, kind="stable") if classes[i] > 0][:count]
    figure, axes = _figure(2)
    _show(axes[0], found.canvas, f"{(classes > 0).sum()} of {len(classes)} proposals are not background")
    _show(axes[1], found.canvas, f"{len(found.detections)} left by suppression and score")
    for i in rows:
        colour = class_colour(int(classes[i]))
        _box(axes[0], found.proposals[i], colour, dotted=True)
        _box(axes[0], refined[i], colour)
    for box, class_id, score in zip(found.detections, found.class_ids, found.scores, strict=True):
        _box(axes[1], box, class_colour(int(class_id)), f"{class_names[class_id]} {score:.2f}")
    return figure


def draw_targets(found: Intermediates, truth: GroundTruth, class_names: Sequence[str], seed: int = 0) -> Figure:
    """What training would teach: ground truth, the RPN's anchors and the heads' ROIs with what they are matched to.

    Left the instances; in the middle the positive anchors (dotted) and the boxes they should move to; right the
    proposals, green from IoU 0.5 with an instance.

    Args:
        truth: of the same image, on the same canvas.
        class_names: by class index.
        seed: draws which surplus anchors are dropped.
    """
    config, rng = found.config, np.random.RandomState(seed)
    match, deltas = build_rpn_targets(found.anchors, truth.class_ids, truth.boxes, config, rng)
    positive = np.flatnonzero(match == 1)
    moved = box_math.decode_deltas(
        found.anchors[positive], deltas[: len(positive)] * np.asarray(config.RPN_BBOX_STD_DEV)
    )
    iou = box_math.iou_matrix(found.proposals, truth.boxes.astype(float))
    best = iou.max(axis=1, initial=0.0)
    figure, axes = _figure(3)
    _show(axes[0], truth.image, f"{len(truth.boxes)} instances")
    for box, class_id in zip(truth.boxes, truth.class_ids, strict=True):
        _box(axes[0], box, class_colour(int(class_id)), class_names[class_id])
    _show(axes[1], found.canvas, f"anchors: {len(positive)} positive, {(match == -1).sum()} negative in training")
    for before, after in zip(found.anchors[positive], moved, strict=True):
        _box(axes[1], before, _POSITIVE, dotted=True)
        _box(axes[1], after, _POSITIVE)
    _show(axes[2], found.canvas, f"proposals: {(best >= 0.5).sum()} positive of {len(best)}")
    for i in np.argsort(best, kind="stable"):
        _box(
            axes[2],
            found.proposals[i],
            _POSITIVE if best[i] >= 0.5 else _NEGATIVE,
            width=1.0 if best[i] >= 0.5 else 0.3,
        )
    return figure


def draw_ground_truth(truth: GroundTruth, config: Config, class_names: Sequence[str]) -> Figure:
    """An annotated image as K is trained on it: boxes, names and masks (mini-masks scaled back)."""
    masks = truth.masks
    if config.USE_MINI_MASK:
        masks = expand_masks(truth.boxes, masks, truth.image.shape[:2])
    result = {"rois": truth.boxes, "class_ids": truth.class_ids, "masks": masks}
    return draw_detections(truth.image, result, class_names)


def draw_detections(
    image: np.ndarray, result: Mapping[str, np.ndarray], class_names: Sequence[str], title: str = ""
) -> Figure:
    """An image, uint8 (H, W, 3), with one result of `MaskRCNN.detect` in its pixels: boxes, names, scores, masks.

    `scores` and `masks` may be missing, as from `detect_boxes`.

    Args:
        class_names: by class index.
    """
    shown, ids = image.astype(float), result["class_ids"]
    masks = result.get("masks")
    if masks is not None:
        # Large instances first, so that small ones stay visible.
        for i in np.argsort(-masks.sum(axis=(0, 1)), kind="stable"):
            colour = 255 * np.array(class_colour(int(ids[i])))
            shown[masks[..., i]] = 0.5 * shown[masks[..., i]] + 0.5 * colour
    figure, (axis,) = _figure(1)
    _show(axis, shown.astype(np.uint8), title or f"{len(ids)} instances of {len(set(ids.tolist()))} classes")
    for i, box in enumerate(result["rois"]):
        score = f" {result['scores'][i]:.2f}" if "scores" in result else ""
        _box(axis, box, class_colour(int(ids[i])), f"{class_names[ids[i]]}{score}")
    return figure


def draw_masks(found: Intermediates, class_names: Sequence[str], count: int = 8) -> Figure:
    """The mask head's probabilities of the best detections, black 0 to white 1."""
    count = min(count, len(found.masks))
    figure, axes = _figure(max(count, 1), side=1.6)
    for axis in axes:
        axis.set_axis_off()
    for axis, mask, class_id, score in zip(axes, found.masks, found.class_ids, found.scores, strict=False):
        axis.imshow(mask, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(f"{class_names[class_id]} {score:.2f}", fontsize=_SMALL + 1)
    return figure


def weight_statistics(model: MaskRCNN) -> pd.DataFrame:
    """One row per tensor: layer, weight, shape, parameters, min, max, mean, std, and `note`.

    The note says what is suspicious: not finite, or all values equal where that is not the initial value of a bias,
    scale or statistic.
    """
    rows = []
    for name, variable in named_weights(model.keras_model).items():
        layer, kind = name.split("/")
        value = np.asarray(variable.value, np.float64)
        note = ""
        if not np.isfinite(value).all():
            note = "not finite"
        elif value.size > 1 and value.min() == value.max():
            note = "all equal" if kind.endswith("kernel") else "as initialised"
        statistics = {"min": value.min(), "max": value.max(), "mean": value.mean(), "std": value.std()}
        rows.append(
            {"layer": layer, "weight": kind, "shape": value.shape, "parameters": value.size, **statistics, "note": note}
        )
    return pd.DataFrame(rows)


def draw_weights(model: MaskRCNN, layers: Sequence[str], bins: int = 40) -> Figure:
    """Histograms of every tensor of some layers: a row per layer.

    Raises:
        ValueError: K has no such layer.
    """
    named: dict[str, list[tuple[str, Any]]] = {}
    for name, variable in named_weights(model.keras_model).items():
        named.setdefault(name.split("/")[0], []).append((name.split("/")[1], variable))
    unknown = [layer for layer in layers if layer not in named]
    if unknown or not layers:
        raise ValueError(f"K has no layer '{unknown[0] if unknown else ''}'. Choose some of: {', '.join(named)}.")
    columns = max(len(named[layer]) for layer in layers)
    figure = Figure(figsize=(2.4 * columns, 1.5 * len(layers)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(layers), columns, squeeze=False)
    for row, layer in zip(axes, layers, strict=True):
        for axis in row[len(named[layer]) :]:
            axis.set_axis_off()
        for axis, (kind, variable) in zip(row, named[layer], strict=False):
            axis.hist(np.asarray(variable.value).ravel(), bins=bins, color=_LEVELS[0])
            axis.set_title(f"{layer}/{kind}", fontsize=_SMALL)
            axis.tick_params(labelsize=_SMALL)
            axis.set_yticks([])
    return figure


def class_colour(class_id: int) -> tuple[float, float, float]:
    """RGB in [0, 1] of a class index, the same in every figure."""
    red, green, blue = hsv_to_rgb(((class_id * 0.381966) % 1.0, 0.75 if class_id % 2 else 0.95, 1.0))
    return float(red), float(green), float(blue)


def _figure(panels: int, side: float = 4.2) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(side * panels, side), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _show(axis: Axes, image: np.ndarray, title: str) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=8)


def _box(
    axis: Axes, box: Sequence[float], colour: Any, text: str = "", *, dotted: bool = False, width: float = 1.0
) -> None:
    # imshow puts the middle of pixel (0, 0) at (0, 0), so its edge lies at -0.5.
    y1, x1, y2, x2 = (float(v) - 0.5 for v in box)
    style = ":" if dotted else "-"
    axis.add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    )
    if text:
        plate = {"facecolor": "black", "edgecolor": colour, "alpha": 0.6, "pad": 0.6, "linewidth": 0.5}
        axis.text(x1, y1, text, color="white", fontsize=_SMALL, va="top", bbox=plate, clip_on=True)


def _widen(axis: Axes, boxes: np.ndarray) -> None:
    """Lets the view grow to the boxes."""
    (x1, x2), (y2, y1) = axis.get_xlim(), axis.get_ylim()
    axis.set_xlim(min(x1, boxes[:, 1].min() - 1), max(x2, boxes[:, 3].max()))
    axis.set_ylim(max(y2, boxes[:, 2].max()), min(y1, boxes[:, 0].min() - 1))
