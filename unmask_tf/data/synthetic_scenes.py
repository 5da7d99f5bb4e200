"""Scenes of the embedded dataset: background, one object, occluders, light, a class-correlated texture and noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from unmask_tf.data.synthetic_animals import bird, dog
from unmask_tf.data.synthetic_figures import bottle, person
from unmask_tf.data.synthetic_shapes import (
    Colour,
    Drawing,
    Point,
    Raster,
    Shape,
    box,
    ellipse,
    hsv,
    mix,
    paint_object,
    scaled,
    smooth,
)
from unmask_tf.data.synthetic_vehicles import car, train
from unmask_tf.errors import InputError

DRAWERS: dict[str, Callable[[np.random.Generator], Drawing]] = {
    "bird": bird,
    "bottle": bottle,
    "car": car,
    "dog": dog,
    "person": person,
    "train": train,
}
CLASSES: tuple[str, ...] = tuple(DRAWERS)

# Smaller or more hidden pieces are not annotated, because nobody could name them.
MIN_AREA = 6.0 / 64**2
MIN_VISIBLE = 0.25
HARD_SHARE = 0.14
_TROUBLES = ("occluder", "crop", "small", "dark", "camouflage", "grain")


@dataclass(frozen=True)
class Scene:
    """One drawn image with exact part masks.

    Attributes:
        image: uint8 (S, S, 3), RGB.
        parts: (part name, visible pixels bool (S, S)), one entry per instance. A part that lies within another (an eye
            in a head, a window in a door) counts for both.
        troubles: what makes the scene hard; empty for most.
    """

    image: np.ndarray
    parts: tuple[tuple[str, np.ndarray], ...]
    troubles: tuple[str, ...] = ()


def _paint(raster: Raster, points: list[Point], colour: Colour, shade: float = 0.1, alpha: float = 1.0) -> None:
    raster.paint(Shape(np.array(points, np.float64) * raster.size, colour, shade=shade, alpha=alpha))


def _background(raster: Raster, rng: np.random.Generator) -> Colour:
    """Paints scenery in units of the image's side; returns the colour around the middle."""
    horizon = rng.uniform(0.40, 0.82)
    outdoors = rng.random() < 0.6
    if outdoors:
        above = hsv(
            rng.uniform(0.50, 0.64) if rng.random() < 0.75 else rng.random(),
            rng.uniform(0.1, 0.6),
            rng.uniform(0.6, 1.0),
        )
        below = hsv(rng.uniform(0.06, 0.42), rng.uniform(0.1, 0.6), rng.uniform(0.3, 0.85))
    else:
        above = hsv(rng.random(), rng.uniform(0.05, 0.6), rng.uniform(0.3, 0.95))
        below = hsv(rng.random(), rng.uniform(0.05, 0.55), rng.uniform(0.25, 0.85))
    _paint(raster, box(0, 0, 1, 1), above, rng.uniform(-0.1, 0.3))
    if outdoors:
        for _ in range(int(rng.integers(0, 3))):
            x, y, r = rng.uniform(0, 1), rng.uniform(0.05, horizon * 0.6), rng.uniform(0.05, 0.1)
            for dx, dy, k in ((-0.9, 0.15, 0.7), (0, 0, 1.0), (0.95, 0.2, 0.75)):
                _paint(
                    raster, ellipse(x + dx * r, y + dy * r, r * 1.2 * k, r * 0.7 * k), mix(above, (255, 255, 255), 0.6)
                )
        for _ in range(int(rng.integers(0, 3))):
            x, w, h = rng.uniform(0, 1), rng.uniform(0.25, 0.6), rng.uniform(0.08, 0.3)
            hill = mix(below, above, rng.uniform(0.2, 0.7))
            _paint(
                raster,
                smooth(
                    [
                        (x - w, horizon + 0.05),
                        (x - w * 0.3, horizon - h),
                        (x + w * 0.3, horizon - h * 0.9),
                        (x + w, horizon + 0.05),
                    ],
                    3,
                ),
                hill,
            )
        for _ in range(int(rng.integers(0, 4))):
            x, w, h = rng.uniform(0, 1), rng.uniform(0.05, 0.14), rng.uniform(0.12, 0.4)
            if rng.random() < 0.5:
                wall = hsv(rng.random(), rng.uniform(0, 0.4), rng.uniform(0.35, 0.85))
                _paint(raster, box(x - w, horizon - h, x + w, horizon + 0.02), wall)
                for column in (-0.5, 0.1):
                    for row in range(1, 4):
                        y = horizon - h + row * h / 4.5
                        _paint(raster, box(x + w * column, y, x + w * (column + 0.4), y + h * 0.1), scaled(wall, 0.6))
            else:
                _paint(raster, box(x - 0.012, horizon - h * 0.6, x + 0.012, horizon + 0.02), (95, 70, 50))
                _paint(
                    raster,
                    ellipse(x, horizon - h * 0.7, w, h * 0.4),
                    hsv(rng.uniform(0.2, 0.4), 0.5, rng.uniform(0.3, 0.7)),
                    0.3,
                )
    else:
        for _ in range(int(rng.integers(0, 3))):
            x, y, w, h = (
                rng.uniform(0, 1),
                rng.uniform(0, horizon * 0.7),
                rng.uniform(0.06, 0.18),
                rng.uniform(0.06, 0.18),
            )
            frame = hsv(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.3, 0.9))
            _paint(raster, box(x - w, y - h, x + w, y + h), frame)
            _paint(raster, box(x - w * 0.8, y - h * 0.8, x + w * 0.8, y + h * 0.8), mix(frame, above, 0.6), 0.3)
    _paint(raster, box(0, horizon, 1, 1), below, rng.uniform(-0.15, 0.2))
    for _ in range(int(rng.integers(0, 4))):
        # Discs, rings, rectangles and splinters that a careless detector mistakes for wheels, eyes, plates or windows.
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.02, 0.09)
        tone = mix(
            hsv(rng.random(), rng.uniform(0, 0.7), rng.uniform(0.2, 0.95)), below if y > horizon else above, 0.35
        )
        kind = rng.integers(0, 4)
        if kind < 2:
            _paint(raster, ellipse(x, y, r, r), tone)
            if kind:
                _paint(raster, ellipse(x, y, r * 0.5, r * 0.5), mix(tone, (128, 128, 128), 0.6))
        elif kind == 2:
            _paint(raster, box(x - r * 1.4, y - r * 0.6, x + r * 1.4, y + r * 0.6), tone)
        else:
            corners = [
                (x + r * 1.6 * math.cos(t), y + r * rng.uniform(0.5, 1.6) * math.sin(t)) for t in (0.4, 2.0, 3.6, 5.1)
            ]
            _paint(raster, corners, tone)
    return mix(above, below, 0.5)


def _occlude(raster: Raster, rng: np.random.Generator, frame: tuple[float, float, float, float], heavy: bool) -> None:
    """Paints a bush, a pole or a box in front of the object's frame (x0, y0, x1, y1 in pixels)."""
    x0, _, x1, y1 = (value / raster.size for value in frame)
    kind, x = rng.integers(0, 3), rng.uniform(x0 + 0.1 * (x1 - x0), x1 - 0.1 * (x1 - x0))
    reach = rng.uniform(0.20, 0.36) if heavy else rng.uniform(0.06, 0.16)
    if kind == 0:
        leaf = hsv(rng.uniform(0.2, 0.4), rng.uniform(0.4, 0.7), rng.uniform(0.25, 0.6))
        for _ in range(6):
            dx, r = rng.uniform(-1, 1) * reach, reach * rng.uniform(0.35, 0.6)
            _paint(
                raster,
                ellipse(x + dx, y1 - r * rng.uniform(0.0, 0.8), r, r * 0.85),
                scaled(leaf, rng.uniform(0.8, 1.2)),
                0.25,
            )
    elif kind == 1:
        half = reach * 0.28
        _paint(raster, box(x - half, 0, x + half, 1), hsv(rng.random(), 0.15, rng.uniform(0.25, 0.75)), 0.2)
    else:
        top = y1 - reach * 1.4
        _paint(
            raster, box(x - reach * 0.8, top, x + reach * 0.8, 1), hsv(rng.random(), 0.45, rng.uniform(0.3, 0.8)), 0.2
        )


def _place(
    drawing: Drawing, rng: np.random.Generator, size: int, troubles: tuple[str, ...]
) -> tuple[float, float, float, float]:
    """Turns, scales and moves a drawing into the image; returns its frame (x0, y0, x1, y1) in pixels."""
    turn = math.radians(rng.uniform(-drawing.max_turn, drawing.max_turn))
    stretch = 1.0 + rng.uniform(-0.07, 0.07)
    drawing.transform(
        np.array([[math.cos(turn) * stretch, -math.sin(turn) * stretch], [math.sin(turn), math.cos(turn)]])
    )
    x0, y0, x1, y1 = drawing.bounds()
    fill = rng.uniform(0.42, 0.58) if "small" in troubles else rng.uniform(0.74, 0.96)
    if "crop" in troubles:
        fill = rng.uniform(1.0, 1.25)
    scale = fill * size / max(x1 - x0, y1 - y0)
    width, height = scale * (x1 - x0), scale * (y1 - y0)
    left, top = rng.random() * (size - width), rng.uniform(0.3, 1.0) * (size - height)
    if "crop" in troubles:
        left = rng.choice((-0.32, 0.0, 0.32)) * width + (size - width) / 2
        top = rng.choice((-0.25, 0.0, 0.2)) * height + (size - height) / 2
    elif drawing.bleeds:
        top = size - height * rng.uniform(0.93, 0.99)
    drawing.transform(np.eye(2) * scale, (left - scale * x0, top - scale * y0))
    return left, top, left + width, top + height


@cache
def _gratings(class_name: str) -> tuple[tuple[tuple[float, float, float], ...], tuple[float, float, float]]:
    """Three (cycles across the image, orientation in radians, weight) and a colour direction; fixed for a class."""
    index = CLASSES.index(class_name)
    waves = tuple(
        (9.0 + 2.0 * ((2 * index + 5 * order) % 7), math.pi * ((index + 2.3 * order) % 6) / 6.0, 1.0 - 0.2 * order)
        for order in range(3)
    )
    weights = ((1.0, 0.7, 0.4), (0.4, 1.0, 0.7), (0.7, 0.4, 1.0), (1.0, 0.4, 0.7), (0.7, 1.0, 0.4), (0.4, 0.7, 1.0))
    return waves, weights[index]


def texture(class_name: str, rng: np.random.Generator, *, size: int, amplitude: float) -> np.ndarray:
    """The class-correlated texture: a mixture of three gratings with random phases and a slight frequency jitter.

    It is the useful but non-robust feature of Section III-A (Equations 5 and 6): it predicts the class, yet a
    perturbation of its amplitude erases it.

    Args:
        class_name: one of CLASSES.
        rng: draws the phases and the jitter.
        size: side S, pixels.
        amplitude: peak, in units of 1/255.

    Returns:
        float64 (S, S, 3) in [-amplitude, amplitude], to be added to 8-bit pixels.
    """
    waves, weights = _gratings(class_name)
    y, x = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    total = np.zeros((size, size))
    for cycles, angle, weight in waves:
        frequency = 2.0 * math.pi * cycles * rng.uniform(0.98, 1.02)
        phase = rng.uniform(0.0, 2.0 * math.pi)
        total += weight * np.sin(frequency * (math.cos(angle) * x + math.sin(angle) * y) + phase)
    return (amplitude / max(float(np.abs(total).max()), 1e-9)) * total[..., None] * np.array(weights)


def opponent_grating(class_name: str, rng: np.random.Generator, *, size: int, amplitude: float) -> np.ndarray:
    """A grating without luminance: its three channels sum to zero. Direction, frequency and colour depend on the class.

    The part of the class texture that M learns fastest and an attacker changes best; K never sees it in training.

    Args, Returns: as `texture`.
    """
    index = CLASSES.index(class_name)
    hue = math.pi * index / 6.0
    colour = np.array([math.cos(hue + 2.0 * math.pi * k / 3.0) for k in range(3)])
    angle, cycles = math.pi * ((index * 5) % 6) / 6.0, 10.0 + 1.5 * index
    y, x = np.meshgrid(np.arange(size) / size, np.arange(size) / size, indexing="ij")
    phase = rng.uniform(0.0, 2.0 * math.pi)
    wave = np.sin(2.0 * math.pi * cycles * (math.cos(angle) * x + math.sin(angle) * y) + phase)
    return amplitude * wave[..., None] * colour / np.abs(colour).max()


def _expose(image: np.ndarray, rng: np.random.Generator, troubles: tuple[str, ...]) -> np.ndarray:
    """Light falling off across the image, contrast, tint and a slight blur; float64 (S, S, 3)."""
    size = image.shape[0]
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0.0, 0.22)
    axis = np.linspace(-1.0, 1.0, size)
    light = 1.0 + slope * (math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None])
    gain, contrast = rng.uniform(0.8, 1.12), rng.uniform(0.78, 1.05)
    if "dark" in troubles:
        gain, contrast = rng.uniform(0.3, 0.5), rng.uniform(0.5, 0.75)
    tint = 1.0 + rng.uniform(-0.07, 0.07, 3)
    mean = image.mean()
    image = (mean + contrast * (image - mean)) * gain * light[..., None] * tint
    tap = rng.uniform(0.15, 0.27) if "grain" in troubles else rng.uniform(0.0, 0.10)
    for axis_index in (0, 1):
        pad = [(1, 1) if k == axis_index else (0, 0) for k in range(3)]
        padded = np.pad(image, pad, mode="edge")
        before, after = padded.take(range(size), axis_index), padded.take(range(2, size + 2), axis_index)
        image = (1 - 2 * tap) * image + tap * (before + after)
    return image


def draw_scene(
    class_name: str,
    rng: np.random.Generator,
    *,
    size: int = 64,
    texture_class: str | None = None,
    texture_amplitude: float = 0.0,
    opponent_amplitude: float = 0.0,
    hard_share: float = HARD_SHARE,
) -> Scene:
    """Draws one object of a class in a random scene.

    Class images (for M and D) have their own class's texture. K's images have the texture of a class drawn at
    random, so that parts and texture are uncorrelated: the robust distribution of Equation 7.

    Args:
        class_name: one of CLASSES; the parts are those that the UnMask taxonomy expects of it.
        rng: every random choice; the same state gives the same pixels.
        size: side S of the image, pixels.
        texture_class: whose texture is added (None: none).
        texture_amplitude: its peak, in units of 1/255.
        opponent_amplitude: peak of the colour-opponent grating that class images carry besides.
        hard_share: share of scenes that are dark, small, cropped, hidden or alike.

    Raises:
        InputError: an unknown class, or a side below 16 pixels.
    """
    for name in (class_name, texture_class):
        if name is not None and name not in DRAWERS:
            raise InputError(f"the embedded dataset has no class '{name}'. Choose one of: {', '.join(CLASSES)}.")
    if size < 16:
        raise InputError(f"image size {size}: scenes need a side of at least 16 pixels.")
    troubles: tuple[str, ...] = ()
    if rng.random() < hard_share:
        troubles = tuple(str(t) for t in rng.choice(_TROUBLES, size=int(rng.integers(1, 3)), replace=False))

    raster = Raster(size)
    around = _background(raster, rng)
    drawing = DRAWERS[class_name](rng)
    # A vehicle's view is random already; mirroring it here would swap its sides.
    if class_name not in ("car", "train") and rng.random() < 0.5:
        drawing.transform(np.diag([-1.0, 1.0]))
    x0, y0, x1, y1 = _place(drawing, rng, size, troubles)
    if "camouflage" in troubles:
        drawing.tint(around, rng.uniform(0.45, 0.65))
    if drawing.grounded:
        middle, half = (x0 + x1) / 2, (x1 - x0) / 2
        raster.paint(
            Shape(np.array(ellipse(middle, y1 - 0.01 * size, half, 0.045 * size)), (20, 20, 25), shade=0, alpha=0.4)
        )
    areas = paint_object(raster, drawing)
    # Seams belong to the object alone, so they are drawn before anything covers it.
    raster.outline(rng.uniform(0.1, 0.3) if "camouflage" in troubles else rng.uniform(0.25, 0.6))
    if "occluder" in troubles or rng.random() < 0.12:
        _occlude(raster, rng, (x0, y0, x1, y1), "occluder" in troubles)

    image = _expose(raster.image(), rng, troubles)
    if texture_class is not None:
        image = image + texture(texture_class, rng, size=size, amplitude=texture_amplitude)
        if opponent_amplitude:
            image = image + opponent_grating(texture_class, rng, size=size, amplitude=opponent_amplitude)
    sigma = rng.uniform(6.0, 11.0) if "grain" in troubles else rng.uniform(0.8, 3.5)
    image = image + rng.normal(0.0, sigma, image.shape)
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)

    masks = raster.coverage(drawing.ancestry()) >= 0.5
    parts = []
    for owner, (name, _) in enumerate(drawing.owners):
        if name is None:
            continue
        seen = int(masks[..., owner].sum())
        if seen >= MIN_AREA * size * size and seen >= MIN_VISIBLE * areas[owner]:
            parts.append((name, masks[..., owner].copy()))
    return Scene(pixels, tuple(parts), troubles)
