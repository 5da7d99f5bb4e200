"""K as a differentiable function of the image: by how much each part is seen, with the image's gradient.

An image in [0, 1] goes the way the detector's images go: to 8 bits, resized to K's canvas, to 8 bits again. Both
roundings are passed straight through by the gradient (Bengio et al., 2013). Proposals are selected anew for every image
and their coordinates have no gradient, as in K's own training. What follows a proposal's class logits, the suppression
of overlapping detections, keeps the best detection of every part and so never decides whether a part is seen.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from unmask_tf.data.pixels import to_8bit
from unmask_tf.mrcnn import boxes as box_math
from unmask_tf.mrcnn.anchors import normalized_anchors
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.fast import rewrite
from unmask_tf.mrcnn.graphs import build_inference_model
from unmask_tf.mrcnn.image import Placement, along, mold_inputs, resizing
from unmask_tf.mrcnn.input_gradient import compiled, with_gradient
from unmask_tf.mrcnn.weights import load_weights

ABSENT = -30.0
"""The margin of a proposal that cannot become a detection: its box has no area."""

Loss = Callable[..., Any]
"""(margins float32 (B, R, P), further tensors (B, ...)) -> losses (B,), by Keras' operations."""


class PartPresence:
    """The margins by which K's proposals are detections of each part, and their gradients by the image.

    The margin m of a proposal and a part is positive where the proposal is a detection of the part:

    - a detection is a proposal's best class (Matterport's): m = min(z_part - max of the other z, log p_part - log t);
    - every class may be one (`PER_CLASS_DETECTIONS`): m = log p_part - log t.

    z are the class logits, the background's included, p their softmax, and t the score that the part needs. A part is
    seen where one of its margins is positive. Two limits of the detector are left out: DETECTION_MAX_INSTANCES, and the
    number of candidates where every class may be a detection.

    Args:
        config: K's settings.
        weights: a Matterport-layout `.h5`.
        needed: the score that each part needs, (P,); the higher of it and DETECTION_MIN_CONFIDENCE counts.
        batch_size: images per network call; the last batch is padded, so that K compiles once.

    Raises:
        ValueError: `needed` is of another length.
        InputError: weights that do not fit.
    """

    def __init__(
        self, config: Config, weights: str | Path, needed: Sequence[float] | None = None, batch_size: int = 16
    ) -> None:
        parts = config.NUM_CLASSES - 1
        needed = np.zeros(parts) if needed is None else np.asarray(needed, float)
        if needed.shape != (parts,):
            raise ValueError(f"K has {parts} parts, but {needed.shape} scores are given.")
        self.config, self.batch_size = config, batch_size
        least = np.maximum(needed, config.DETECTION_MIN_CONFIDENCE)
        self._log_needed = np.log(np.maximum(least, 1e-12)).astype(np.float32)
        model = build_inference_model(config)
        load_weights(model, weights)
        names = ("rois", "mrcnn_class_logits", "mrcnn_bbox")
        network = keras.Model(model.inputs[:2], [model.output[name] for name in names])
        self.network = rewrite(network, consume=True)
        del model, network
        gc.collect()
        self._functions: dict[Loss | None, Callable[..., Any]] = {}
        self._anchors: dict[tuple[int, int], np.ndarray] = {}

    def margins(self, images: np.ndarray) -> np.ndarray:
        """Margins float32 (N, proposals, P) of images, float (N, H, W, 3) in [0, 1] or uint8.

        Raises:
            InputError: float images that are not in [0, 1].
        """
        return self._run(None, images, ())[0]

    def strongest(self, images: np.ndarray) -> np.ndarray:
        """The highest margin of each part, float32 (N, P); the part is seen where it is positive. As `margins`."""
        return self.margins(images).max(axis=1)

    def gradients(
        self, images: np.ndarray, loss: Loss, *arguments: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A loss of the margins, and its gradient by the image.

        Args:
            images: float (N, H, W, 3) in [0, 1].
            loss: a function that is compiled once; give the same one again, not a new lambda.
            arguments: what else it is given, each (N, ...).

        Returns:
            losses float32 (N,), gradients float32 (N, H, W, 3), and the highest margin of each part float32 (N, P).

        Raises:
            InputError: images that are not in [0, 1].
        """
        losses, strongest, gradients = self._run(loss, images, arguments)
        return losses, gradients, strongest

    def _run(self, loss: Loss | None, images: np.ndarray, arguments: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        pixels = images if images.dtype == np.uint8 else to_8bit(images)
        found = []
        for start in range(0, len(images), self.batch_size):
            rows = np.minimum(np.arange(start, start + self.batch_size), len(images) - 1)
            outputs = self._batch(loss, pixels[rows], [np.asarray(a)[rows] for a in arguments])
            found.append([output[: len(images) - start] for output in outputs])
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    def _batch(self, loss: Loss | None, pixels: np.ndarray, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
        molded, _, placements = mold_inputs(list(pixels), self.config)
        canvas, placement = molded.shape[1:3], placements[0]
        if canvas not in self._anchors:
            self._anchors[canvas] = normalized_anchors(self.config, canvas)
        anchors = np.repeat(self._anchors[canvas][None], len(molded), axis=0)
        window = box_math.normalize(np.asarray(placement.window), canvas)
        height, width = pixels.shape[1:3]
        outputs = self._function(loss)(molded, anchors, window, np.array([height, width], np.float32), *arguments)
        if loss is None:
            return [outputs]
        losses, strongest, gradients = outputs
        return [losses, strongest, pulled_back(gradients, placement, (height, width))]

    def _function(self, loss: Loss | None) -> Callable[..., Any]:
        """The network as a function of arrays: the margins alone, or losses, highest margins and gradient."""
        if loss not in self._functions:
            function = compiled(self._margins) if loss is None else with_gradient(partial(self._losses, loss))
            self._functions[loss] = function
        return self._functions[loss]

    def _losses(self, loss: Loss, molded: Any, anchors: Any, window: Any, size: Any, *arguments: Any) -> Any:
        margins = self._margins(molded, anchors, window, size)
        return loss(margins, *arguments), ops.max(margins, axis=1)

    def _margins(self, molded: Any, anchors: Any, window: Any, size: Any) -> Any:
        rois, logits, deltas = self.network([molded, anchors], training=False)
        scored = ops.log_softmax(logits)[..., 1:] - ops.convert_to_tensor(self._log_needed)
        if self.config.PER_CLASS_DETECTIONS:
            margins = scored
        else:
            best, second = ops.unstack(ops.top_k(logits, 2)[0], 2, axis=-1)
            others = ops.where(logits < best[..., None], best[..., None], second[..., None])
            margins = ops.minimum((logits - others)[..., 1:], scored)
        return ops.where(self._has_area(rois, deltas[..., 1:, :], window, size), margins, ABSENT)

    def _has_area(self, rois: Any, deltas: Any, window: Any, size: Any) -> Any:
        """bool (B, R, P): the part's box, clipped and in whole pixels of the image, has an area."""
        deltas = ops.stop_gradient(deltas) * ops.convert_to_tensor(self.config.BBOX_STD_DEV, "float32")
        boxes = box_math.decode_deltas(ops.stop_gradient(rois)[:, :, None], deltas, ops)
        boxes = box_math.clip(boxes, window, ops)
        low, span = ops.tile(window[:2], [2]), ops.tile(window[2:] - window[:2], [2])
        scale, shift = ops.tile(size - 1.0, [2]), ops.convert_to_tensor([0, 0, 1, 1], "float32")
        whole = ops.round((boxes - low) / span * scale + shift)
        found = box_math.area(whole) > 0
        return ops.logical_and(found, box_math.area(boxes) > 0) if self.config.DROP_EMPTY_ROIS else found


def pulled_back(gradient: np.ndarray, placement: Placement, size: tuple[int, int]) -> np.ndarray:
    """A gradient by the canvas (N, H, W, 3), levels 0 to 255, as one by the image (N, h, w, 3) in [0, 1].

    The resizing is linear but for the levels it clips to, and the roundings are passed straight through.
    """
    top, left, bottom, right = placement.window
    inner = gradient[:, top:bottom, left:right]
    if placement.scale != 1:
        inner = along(inner, resizing(size[0], bottom - top).T, resizing(size[1], right - left).T)
    return (255.0 * inner).astype(np.float32)
