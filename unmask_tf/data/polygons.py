"""Masks as COCO polygons, which have no holes: along the edges of the pixels, then with fewer corners."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage

from unmask_tf.data.masks import tight_box

LEAST_IOU = 0.99


def mask_polygons(mask: np.ndarray, tolerance: float = 0.0, least_iou: float = LEAST_IOU) -> list[list[float]]:
    """Polygons of a mask that pycocotools decodes to it exactly or, with a tolerance, nearly.

    A corner may be left out if it lies within `tolerance` of the line between those kept (Douglas and Peucker 1973). A
    mask that would then change too much, as small ones do, gets half the tolerance, and half of that, down to none.

    Args:
        mask: bool (H, W) with at least one pixel.
        tolerance: pixels; 0: exact.
        least_iou: the decoded polygons' intersection over union with the mask is higher than this.

    Returns:
        COCO's [[x, y, x, y, ...], ...], in pixels from the image's upper left corner.
    """
    y1, x1, y2, x2 = tight_box(mask)
    mask = mask[y1:y2, x1:x2]
    loops = [loop for piece in _pieces(mask) for loop in _loops(piece)]
    chosen = loops
    while tolerance >= 0.25:
        fewer = [_simplified(loop, tolerance) for loop in loops]
        if all(len(loop) >= 3 for loop in fewer) and _iou(fewer, mask) > least_iou:
            chosen = fewer
            break
        tolerance /= 2
    return [np.add(loop, (x1, y1)).ravel().astype(float).tolist() for loop in chosen]


def _iou(loops: list[np.ndarray], mask: np.ndarray) -> float:
    polygons = [loop.ravel().astype(float).tolist() for loop in loops]
    decoded = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape))).astype(bool)
    return float((decoded & mask).sum() / (decoded | mask).sum())


def _pieces(mask: np.ndarray) -> list[np.ndarray]:
    """The mask's connected pieces without holes: one with a hole is cut along a column of the hole."""
    labels, count = ndimage.label(mask)
    pieces, waiting = [], [labels == i + 1 for i in range(count)]
    while waiting:
        piece = waiting.pop()
        holes = ndimage.binary_fill_holes(piece) & ~piece
        if not holes.any():
            pieces.append(piece)
            continue
        column = int(np.flatnonzero(holes.any(axis=0))[0])
        for side in (slice(0, column), slice(column, None)):
            half = np.zeros_like(piece)
            half[:, side] = piece[:, side]
            labels, count = ndimage.label(half)
            waiting += [labels == i + 1 for i in range(count)]
    return pieces


def _loops(piece: np.ndarray) -> list[np.ndarray]:
    """Corners (x, y) along the pixels' edges of a connected mask, int (N, 2): one closed loop, without a hole.

    Corners are where an odd number of the four pixels around are set, or two opposite ones, where two corners lie on
    top of each other. In a row of corners, the first and second are joined, the third and fourth, and so on; in a
    column likewise; and a walk takes rows and columns in turn.
    """
    padded = np.pad(piece, 1).astype(np.int8)
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    crossed = (a == d) & (b == c) & (a != b)
    ys, xs = np.nonzero(((a + b + c + d) % 2 == 1) | crossed)
    twice = crossed[ys, xs]
    points = np.repeat(np.stack([xs, ys], axis=1), 1 + twice, axis=0)
    # Of two corners in one place, the first ends the row's stretch on the left. Where the upper left pixel is set, it
    # goes with the column's stretch above, which the first in the column's order ends; else with the one below.
    second = np.zeros(len(points), bool)
    second[1:] = (points[1:] == points[:-1]).all(axis=1)
    swapped = np.repeat(twice & (a[ys, xs] == 0), 1 + twice)
    by_column = np.lexsort((second ^ swapped, points[:, 1], points[:, 0]))
    along_row, along_column = np.empty(len(points), int), np.empty(len(points), int)
    pairs = np.arange(len(points)).reshape(-1, 2)
    along_row[pairs[:, 0]], along_row[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    pairs = by_column.reshape(-1, 2)
    along_column[pairs[:, 0]], along_column[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    loops, left = [], np.ones(len(points), bool)
    while left.any():
        start = place = int(np.argmax(left))
        walked = []
        while not walked or place != start:
            other = int(along_row[place])
            walked += [place, other]
            place = int(along_column[other])
        left[walked] = False
        loops.append(points[walked])
    return loops


def _simplified(loop: np.ndarray, tolerance: float) -> np.ndarray:
    """The loop without corners that lie within `tolerance` of what remains."""
    far = int(np.argmax(((loop - loop[0]) ** 2).sum(axis=1)))
    closed = np.concatenate([loop, loop[:1]]).astype(float)
    kept = np.zeros(len(closed), bool)
    kept[[0, far, len(loop)]] = True
    waiting = [(0, far), (far, len(loop))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        start, along = closed[first], closed[last] - closed[first]
        offsets, length = closed[first + 1 : last] - start, np.hypot(*along)
        if length:
            distances = np.abs(offsets[:, 0] * along[1] - offsets[:, 1] * along[0]) / length
        else:
            distances = np.hypot(offsets[:, 0], offsets[:, 1])
        worst = int(np.argmax(distances))
        if distances[worst] > tolerance:
            middle = first + 1 + worst
            kept[middle] = True
            waiting += [(first, middle), (middle, last)]
    return closed[:-1][kept[:-1]]
