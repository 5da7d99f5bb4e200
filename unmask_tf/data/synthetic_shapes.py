"""Vector shapes of the embedded dataset: polygons with owners, a mild 3-D camera, and an exact rasteriser.

A drawing is a list of filled polygons, painted in order. Every polygon belongs to an *owner*: a part instance, or a
nameless piece of the object. The rasteriser keeps the topmost owner of each subpixel, so that a part's mask is its
visible area. The owner of a nested part (an eye) counts for its parents (the head) too, as in PASCAL-Part.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 4
BACKGROUND = 0

Colour = tuple[float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Shape:
    """One filled polygon.

    Attributes:
        points: float64 (N, 2), x to the right and y down.
        colour: RGB, 0 to 255.
        owner: index into `Drawing.owners`; BACKGROUND for scenery and occluders.
        shade: relative brightness swing from the lit upper left to the lower right.
        alpha: opacity.
    """

    points: np.ndarray
    colour: Colour
    owner: int = BACKGROUND
    shade: float = 0.12
    alpha: float = 1.0


@dataclass
class Drawing:
    """An object as a list of shapes, in arbitrary units.

    Attributes:
        shapes: painted in this order.
        owners: (part name or None, parent's index or None); entry 0 stands for the background.
        grounded: the object rests on something, so the scene paints a shadow under it.
        bleeds: the object is cut by the image's lower border, as a portrait is.
        max_turn: largest in-plane rotation that looks natural, degrees.
    """

    shapes: list[Shape] = field(default_factory=list)
    owners: list[tuple[str | None, int | None]] = field(default_factory=lambda: [(None, None)])
    grounded: bool = True
    bleeds: bool = False
    max_turn: float = 4.0

    def part(self, name: str | None, parent: int | None = None) -> int:
        """A new owner: a part instance, or (name None) a nameless piece. Returns its index."""
        self.owners.append((name, parent))
        return len(self.owners) - 1

    def add(self, points: Iterable[Point], colour: Colour, owner: int, shade: float = 0.12, alpha: float = 1.0) -> None:
        """Paints one polygon on top of what is there."""
        self.shapes.append(Shape(np.array(list(points), np.float64), colour, owner, shade, alpha))

    def bounds(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 over all shapes."""
        points = np.concatenate([shape.points for shape in self.shapes])
        return (*points.min(0).tolist(), *points.max(0).tolist())

    def transform(self, matrix: np.ndarray, offset: Point = (0.0, 0.0)) -> None:
        """Maps every point p to matrix @ p + offset."""
        self.shapes = [replace(s, points=s.points @ np.asarray(matrix).T + np.asarray(offset)) for s in self.shapes]

    def tint(self, colour: Colour, amount: float) -> None:
        """Moves every colour towards `colour` by `amount` in [0, 1]."""
        self.shapes = [replace(s, colour=mix(s.colour, colour, amount)) for s in self.shapes]

    def ancestry(self) -> np.ndarray:
        """bool (owners, owners): entry [i, j] says that owner i is j or lies within j."""
        matrix = np.eye(len(self.owners), dtype=bool)
        for index in range(len(self.owners)):
            parent = self.owners[index][1]
            while parent is not None:
                matrix[index, parent] = True
                parent = self.owners[parent][1]
        return matrix


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB 0..255 of a hue in turns, saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return 255.0 * red, 255.0 * green, 255.0 * blue


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """`first` moved towards `second` by `amount`."""
    return tuple(a + (b - a) * amount for a, b in zip(first, second, strict=True))


def scaled(colour: Colour, factor: float) -> Colour:
    """A darker (factor < 1) or lighter colour, clipped to 255."""
    return tuple(min(255.0, channel * factor) for channel in colour)


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0, count: int = 26) -> list[Point]:
    """Polygon of an ellipse, turned clockwise on the screen by `degrees`."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    points = []
    for index in range(count):
        angle = 2.0 * math.pi * index / count
        x, y = rx * math.cos(angle), ry * math.sin(angle)
        points.append((cx + x * cos - y * sin, cy + x * sin + y * cos))
    return points


def capsule(start: Point, end: Point, radius: float, end_radius: float | None = None, count: int = 9) -> list[Point]:
    """Polygon of a limb: the hull of two discs."""
    end_radius = radius if end_radius is None else end_radius
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    points = []
    for centre, r, base in ((end, end_radius, angle - math.pi / 2), (start, radius, angle + math.pi / 2)):
        for index in range(count):
            turn = base + math.pi * index / (count - 1)
            points.append((centre[0] + r * math.cos(turn), centre[1] + r * math.sin(turn)))
    return points


def box(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    """Polygon of an upright rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def smooth(points: Sequence[Point], rounds: int = 2, cut: float = 0.25) -> list[Point]:
    """Rounds a closed polygon's corners (Chaikin's corner cutting)."""
    ring = np.array(points, np.float64)
    for _ in range(rounds):
        following = np.roll(ring, -1, axis=0)
        ring = np.stack([ring + cut * (following - ring), following + cut * (ring - following)], 1).reshape(-1, 2)
    return [(float(x), float(y)) for x, y in ring]


def hull(points: Iterable[Point]) -> list[Point]:
    """Convex hull (monotone chain)."""
    ordered = sorted((float(x), float(y)) for x, y in points)

    def chain(sequence: Iterable[Point]) -> list[Point]:
        kept: list[Point] = []
        for x, y in sequence:
            while len(kept) > 1:
                (ax, ay), (bx, by) = kept[-2], kept[-1]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                kept.pop()
            kept.append((x, y))
        return kept[:-1]

    return chain(ordered) + chain(reversed(ordered))


@dataclass(frozen=True)
class Camera:
    """A perspective camera that looks at the origin from slightly above.

    World axes: x to the image's right, y away from the viewer, z up. A vehicle has x forward, y to its own left, z up;
    at yaw 0 it drives towards the image's right, at 180 to its left, at -90 towards the viewer (degrees).
    """

    elevation: float
    distance: float

    @property
    def position(self) -> np.ndarray:
        """World position, float64 (3,)."""
        angle = math.radians(self.elevation)
        return np.array([0.0, -self.distance * math.cos(angle), self.distance * math.sin(angle)])

    def project(self, points: np.ndarray) -> list[Point]:
        """World points (N, 3) -> image points, y down."""
        angle = math.radians(self.elevation)
        cos, sin = math.cos(angle), math.sin(angle)
        result = []
        for x, y, z in (np.asarray(points) - self.position).tolist():
            depth = max(y * cos - z * sin, 0.05)
            result.append((x / depth, -(y * sin + z * cos) / depth))
        return result


class Placement:
    """A rigid body in front of a camera: turned by yaw (degrees), then moved. Paints its visible faces."""

    def __init__(self, camera: Camera, yaw: float, position: tuple[float, float] = (0.0, 0.0)):
        self.camera = camera
        cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        self.rotation = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        self.position = np.array([position[0], position[1], 0.0])

    def world(self, points: Iterable[Sequence[float]]) -> np.ndarray:
        """Body points -> world points, (N, 3)."""
        return np.array(list(points), np.float64) @ self.rotation.T + self.position

    def project(self, points: Iterable[Sequence[float]]) -> list[Point]:
        """Body points -> image points."""
        return self.camera.project(self.world(points))

    def cosine(self, points: Sequence[Sequence[float]], inside: Sequence[float]) -> tuple[float, float]:
        """(towards the viewer, towards the light): cosines of the outward normal; `inside` is behind the face."""
        world = self.world([*points, inside])
        ring, centre = world[:-1], world[-1]
        following = np.roll(ring, -1, axis=0)
        normal = (ring[:, [1, 2, 0]] * following[:, [2, 0, 1]] - ring[:, [2, 0, 1]] * following[:, [1, 2, 0]]).sum(0)
        normal /= max(float(np.sqrt((normal * normal).sum())), 1e-9)
        middle = ring.mean(0)
        if float((normal * (middle - centre)).sum()) < 0:
            normal = -normal
        sight = self.camera.position - middle
        light = np.array([-0.40, -0.55, 0.73])
        return float((normal * sight).sum() / np.sqrt((sight * sight).sum())), float((normal * light).sum())

    def face(
        self,
        drawing: Drawing,
        points: Sequence[Sequence[float]],
        inside: Sequence[float],
        colour: Colour,
        owner: int,
        *,
        shade: float = 0.08,
        rounds: int = 0,
    ) -> bool:
        """Paints a flat face unless it is turned away. Returns whether it is visible."""
        sight, light = self.cosine(points, inside)
        if sight <= 0.02:
            return False
        outline = self.project(points)
        drawing.add(
            smooth(outline, rounds, 0.18) if rounds else outline, scaled(colour, 0.78 + 0.3 * light), owner, shade
        )
        return True


class Raster:
    """A supersampled canvas that knows the topmost owner of each subpixel.

    Attributes:
        colour: float32 (4S, 4S, 3), 0 to 255.
        owner: uint8 (4S, 4S).
    """

    def __init__(self, size: int):
        self.size = size
        side = size * SUPERSAMPLING
        self.side = side
        self.colour = np.zeros((side, side, 3), np.float32)
        self.owner = np.zeros((side, side), np.uint8)

    def _fill(self, shape: Shape) -> tuple[slice, slice, np.ndarray] | None:
        points = np.rint(shape.points * SUPERSAMPLING).astype(np.int64)
        x0, y0 = np.maximum(points.min(0), 0).tolist()
        x1, y1 = np.minimum(points.max(0) + 1, self.side).tolist()
        if x1 <= x0 or y1 <= y0:
            return None
        mask = Image.new("L", (x1 - x0, y1 - y0))
        ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in points.tolist()], fill=1)
        return slice(y0, y1), slice(x0, x1), np.asarray(mask) != 0

    def paint(self, shape: Shape) -> tuple[slice, slice, np.ndarray] | None:
        """Paints a shape given in pixels of the final image; returns its clipped subpixels."""
        filled = self._fill(shape)
        if filled is None:
            return None
        rows, columns, mask = filled
        region = self.colour[rows, columns]
        value = np.asarray(shape.colour, np.float32)
        if shape.shade:
            (x0, y0), (x1, y1) = shape.points.min(0) * SUPERSAMPLING, shape.points.max(0) * SUPERSAMPLING
            down = (np.arange(rows.start, rows.stop) - (y0 + y1) / 2) / max(y1 - y0, 1.0)
            right = (np.arange(columns.start, columns.stop) - (x0 + x1) / 2) / max(x1 - x0, 1.0)
            ramp = (1.0 - shape.shade * (1.4 * down[:, None] + 0.6 * right[None, :])).astype(np.float32)
            value = np.minimum(ramp[mask][:, None] * value, np.float32(255.0))
        if shape.alpha < 1.0:
            covered = region[mask]
            value = covered + np.float32(shape.alpha) * (value - covered)
        region[mask] = value
        self.owner[rows, columns][mask] = shape.owner
        return filled

    def outline(self, strength: float) -> None:
        """Darkens the seams between owners by `strength` in [0, 1]."""
        seam = np.zeros(self.owner.shape, bool)
        across, down = self.owner[:, 1:] != self.owner[:, :-1], self.owner[1:] != self.owner[:-1]
        seam[:, 1:] |= across
        seam[:, :-1] |= across
        seam[1:] |= down
        seam[:-1] |= down
        self.colour[seam] *= np.float32(1.0 - strength)

    def image(self) -> np.ndarray:
        """Box-filtered colours, float64 (S, S, 3)."""
        blocks = self.colour.reshape(self.size, SUPERSAMPLING, self.size, SUPERSAMPLING, 3)
        return blocks.sum(3, dtype=np.float64).sum(1) / SUPERSAMPLING**2

    def coverage(self, ancestry: np.ndarray) -> np.ndarray:
        """Visible share of each pixel that belongs to each owner or lies within it: float64 (S, S, owners)."""
        count = len(ancestry)
        row = np.arange(self.side) // SUPERSAMPLING
        index = (row[:, None] * self.size + row[None, :]) * count + self.owner
        counts = np.bincount(index.ravel(), minlength=self.size * self.size * count)
        return (counts.reshape(self.size, self.size, count) @ ancestry.astype(np.int64)) / SUPERSAMPLING**2


def paint_object(raster: Raster, drawing: Drawing) -> np.ndarray:
    """Paints a drawing; returns each owner's full area in pixels, hidden and cropped pieces included (owners,)."""
    side = raster.side
    ancestry = drawing.ancestry()
    silhouettes = np.zeros((len(drawing.owners), side, side), bool)
    low = np.full((len(drawing.owners), 2), np.inf)
    high = np.full((len(drawing.owners), 2), -np.inf)
    for shape in drawing.shapes:
        filled = raster.paint(shape)
        corners = shape.points.min(0), shape.points.max(0)
        for owner in np.flatnonzero(ancestry[shape.owner]):
            low[owner], high[owner] = np.minimum(low[owner], corners[0]), np.maximum(high[owner], corners[1])
            if filled is not None:
                silhouettes[owner, filled[0], filled[1]] |= filled[2]
    seen = silhouettes.reshape(len(drawing.owners), -1).sum(1) / SUPERSAMPLING**2
    # A polygon that leaves the canvas is only known inside; its extent says how much is missing.
    extent = np.maximum(high - low, 1e-6)
    inside = np.clip(np.minimum(high, raster.size) - np.maximum(low, 0.0), 0.0, None)
    share = np.where(np.isfinite(low).all(1), (inside / extent).prod(1), 1.0)
    return np.where(share > 0, seen / np.maximum(share, 1e-6), np.inf)
