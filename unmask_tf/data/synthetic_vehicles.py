"""Cars and trains of the embedded dataset: small solids seen by a perspective camera.

Which side is seen follows from the geometry: vehicle_left and coach_left are the vehicle's own left, the side seen when
it drives towards the image's left.
"""

from __future__ import annotations

import math

import numpy as np

from unmask_tf.data.synthetic_shapes import Camera, Colour, Drawing, Placement, hsv, hull, mix, scaled, smooth

GLASS: Colour = (150.0, 195.0, 220.0)
RUBBER: Colour = (38.0, 38.0, 42.0)
STEEL: Colour = (185.0, 188.0, 195.0)

# Windscreen base and top, rear window top and base (x, forward), belt and roof (z), length.
_CAR_BODIES = {
    "sedan": (0.45, 0.16, -0.42, -0.68, 0.56, 0.98),
    "hatchback": (0.48, 0.20, -0.66, -0.86, 0.57, 1.02),
    "van": (0.72, 0.50, -0.86, -0.92, 0.62, 1.16),
}


def _paint_colour(rng: np.random.Generator) -> Colour:
    if rng.random() < 0.25:
        return hsv(0.6, 0.05, rng.uniform(0.35, 0.95))
    return hsv(rng.random(), rng.uniform(0.45, 0.9), rng.uniform(0.55, 0.95))


def _yaw(rng: np.random.Generator, shares: tuple[float, float, float, float]) -> float:
    """Degrees, drawn from (front three-quarter, rear three-quarter, side, head-on or from behind)."""
    view = rng.choice(4, p=shares)
    side = 1.0 if rng.random() < 0.5 else -1.0
    if view == 0:
        return -90.0 + side * rng.uniform(28.0, 58.0)
    if view == 1:
        return 90.0 + side * rng.uniform(28.0, 58.0)
    if view == 2:
        return (0.0 if side > 0 else 180.0) + rng.uniform(-14.0, 14.0)
    return (-90.0 if rng.random() < 0.75 else 90.0) + side * rng.uniform(2.0, 20.0)


def _disc(x: float, y: float, z: float, radius: float, count: int = 20) -> list[tuple[float, float, float]]:
    turns = (2.0 * math.pi * index / count for index in range(count))
    return [(x + radius * math.cos(t), y, z + radius * math.sin(t)) for t in turns]


def car(rng: np.random.Generator) -> Drawing:
    """A sedan, hatchback or van, anywhere around the circle, seen from slightly above."""
    drawing = Drawing(max_turn=3.0)
    windscreen, roof_front, roof_rear, rear, belt, roof = _CAR_BODIES[str(rng.choice(list(_CAR_BODIES)))]
    length, width, sill = rng.uniform(0.90, 1.0), rng.uniform(0.42, 0.48), 0.17
    roof += rng.uniform(-0.03, 0.05)
    paint = _paint_colour(rng)
    top_paint = paint if rng.random() < 0.7 else _paint_colour(rng)
    glass = mix(GLASS, (40.0, 50.0, 70.0), rng.uniform(0.0, 0.6))
    place = Placement(Camera(rng.uniform(9.0, 24.0), rng.uniform(3.6, 6.0)), _yaw(rng, (0.66, 0.18, 0.09, 0.07)))
    hollow = (0.0, 0.0, 0.4)

    def half(x: float) -> float:
        return width * (1.0 - 0.13 * abs(x / length) ** 4)

    def strip(a: tuple[float, float], b: tuple[float, float]) -> list[tuple[float, float, float]]:
        return [
            (a[0], -half(a[0]), a[1]),
            (a[0], half(a[0]), a[1]),
            (b[0], half(b[0]), b[1]),
            (b[0], -half(b[0]), b[1]),
        ]

    nose = [(length - 0.02, sill), (length + 0.03, 0.28), (length, 0.45), (length - 0.07, belt - 0.06)]
    tail = [(-length + 0.04, belt - 0.04), (-length, 0.45), (-length - 0.03, 0.28), (-length + 0.02, sill)]
    chain = [*nose, (windscreen, belt), (rear, belt), *tail]
    radius = rng.uniform(0.185, 0.215)
    axles = (length * 0.60, -length * 0.60)

    shell = drawing.part(None)
    wheels = {}
    for x in axles:
        for side in (1.0, -1.0):
            # Far wheels show only below the sill; near ones get their disc after the body.
            wheels[x, side] = drawing.part("wheel")
            cylinder = _disc(x, side * width * 0.99, radius, radius) + _disc(x, side * width * 0.62, radius, radius)
            drawing.add(hull(place.project(cylinder)), RUBBER, wheels[x, side], 0.0)
    underside = [(x, y * half(x), z) for x, z in chain for y in (1.0, -1.0)]
    drawing.add(hull(place.project(underside)), scaled(paint, 0.6), shell)

    front_seen = place.cosine(strip(nose[1], nose[2]), hollow)[0] > 0.12
    back_seen = place.cosine(strip(tail[1], tail[2]), hollow)[0] > 0.12
    front = drawing.part("frontside") if front_seen else shell
    back = drawing.part("vehicle_back") if back_seen else shell
    for a, b in zip(nose, [*nose[1:], (windscreen, belt)], strict=True):
        place.face(drawing, strip(a, b), hollow, paint, front)
    for a, b in zip([(rear, belt), *tail[:-1]], tail, strict=True):
        place.face(drawing, strip(a, b), hollow, paint, back)

    top = 0.80
    cabin = {
        side: [
            (windscreen, side * half(windscreen) * 0.97, belt),
            (roof_front, side * width * top, roof),
            (roof_rear, side * width * top, roof),
            (rear, side * half(rear) * 0.97, belt),
        ]
        for side in (1.0, -1.0)
    }
    drawing.add(hull(place.project([*cabin[1.0], *cabin[-1.0]])), scaled(top_paint, 0.7), shell)

    def blend(side: float, u: float, v: float) -> tuple[float, float, float]:
        """A point on the cabin's side: u from the rear to the front, v from belt to roof."""
        a, b, c, d = (np.array(corner) for corner in cabin[side])
        point = (1 - v) * ((1 - u) * d + u * a) + v * ((1 - u) * c + u * b)
        return tuple(point.tolist())

    def inset(corners: list[tuple[float, float, float]], margin: float) -> list[tuple[float, float, float]]:
        middle = np.array(corners).mean(0)
        return [tuple((middle + (np.array(corner) - middle) * (1 - margin)).tolist()) for corner in corners]

    seam = rng.uniform(0.42, 0.55)
    two_doors = rng.random() < 0.6
    for side, name in ((1.0, "vehicle_left"), (-1.0, "vehicle_right")):
        outline = [(x, side * half(x), z) for x, z in chain]
        if place.cosine(outline, hollow)[0] <= 0.10:
            continue
        owner = drawing.part(name)
        place.face(drawing, outline, hollow, paint, owner, rounds=2)
        place.face(drawing, cabin[side], hollow, top_paint, owner)
        spans = [(seam, 0.95)] + ([(0.06, seam)] if two_doors else [])
        for u0, u1 in spans:
            door = drawing.part("door", owner)
            x0, x1 = (rear + (windscreen - rear) * u for u in (u0, u1))
            x0, x1 = max(x0, axles[1] + radius * 0.7), min(x1, axles[0] - radius * 0.9)
            panel = [(x0, side * half(x0), belt), (x1, side * half(x1), belt)]
            panel += [(x1, side * half(x1), sill + 0.06), (x0, side * half(x0), sill + 0.06)]
            place.face(drawing, panel, hollow, scaled(paint, 1.07), door)
            above = [blend(side, u0, 0), blend(side, u1, 0), blend(side, u1, 0.93), blend(side, u0, 0.93)]
            place.face(drawing, above, hollow, scaled(top_paint, 1.05), door)
            handle = [(x0 + 0.03, side * half(x0), belt - 0.07), (x0 + 0.12, side * half(x0), belt - 0.07)]
            handle += [(x0 + 0.12, side * half(x0), belt - 0.11), (x0 + 0.03, side * half(x0), belt - 0.11)]
            place.face(drawing, handle, hollow, scaled(paint, 0.35), door)
            window = drawing.part("window", door)
            place.face(drawing, inset(above, 0.2), hollow, glass, window, shade=0.3)
        if not two_doors:
            pane = [blend(side, 0.08, 0.1), blend(side, seam - 0.05, 0.1), blend(side, seam - 0.05, 0.85)]
            pane.append(blend(side, 0.08, 0.85))
            place.face(drawing, pane, hollow, glass, drawing.part("window", owner), shade=0.3)
        for x in axles:
            y = side * (width + 0.005)
            wheel = drawing.part("wheel", owner)
            drawing.owners[wheels[x, side]] = (None, wheel)
            place.face(drawing, _disc(x, y, radius, radius * 1.18), hollow, scaled(paint, 0.25), owner, shade=0)
            place.face(drawing, _disc(x, y, radius, radius), hollow, RUBBER, wheel, shade=0.2)
            place.face(drawing, _disc(x, y, radius, radius * 0.58), hollow, STEEL, wheel, shade=0.35)
            place.face(drawing, _disc(x, y, radius, radius * 0.2), hollow, scaled(STEEL, 0.55), wheel)

    for side_x, owner, seen in ((1.0, front, front_seen), (-1.0, back, back_seen)):
        a, b = (0, 1) if side_x > 0 else (3, 2)
        pane = [cabin[1.0][a], cabin[1.0][b], cabin[-1.0][b], cabin[-1.0][a]]
        if place.face(drawing, pane, hollow, top_paint, owner if seen else shell):
            window = drawing.part("window", owner if seen else None)
            place.face(drawing, inset(pane, 0.14), hollow, glass, window, shade=0.3)
    top_owner = drawing.part("vehicle_top")
    lid = [cabin[1.0][1], cabin[1.0][2], cabin[-1.0][2], cabin[-1.0][1]]
    place.face(drawing, lid, hollow, scaled(top_paint, 1.05), top_owner)

    lamp = rng.uniform(0.075, 0.10)
    for side_x, owner, seen in ((1.0, front, front_seen), (-1.0, back, back_seen)):
        if not seen:
            continue
        x = side_x * (length + 0.02)

        def flat(y0: float, y1: float, z0: float, z1: float, at: float = x) -> list[tuple[float, float, float]]:
            return [(at, y0, z0), (at, y1, z0), (at, y1, z1), (at, y0, z1)]

        for y in (width * 0.66, -width * 0.66):
            ring = [
                (x, y + lamp * math.cos(t), 0.405 + lamp * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 17)[:-1]
            ]
            if side_x > 0:
                light = drawing.part("headlight", owner)
                place.face(drawing, ring, hollow, (250.0, 246.0, 205.0), light, shade=0.2)
            else:
                place.face(drawing, flat(y - lamp, y + lamp, 0.36, 0.46), hollow, (205.0, 30.0, 30.0), owner, rounds=2)
        if side_x > 0:
            grille = flat(-width * 0.36, width * 0.36, 0.35, 0.45)
            place.face(drawing, grille, hollow, (45.0, 45.0, 50.0), owner, rounds=1)
        place.face(drawing, flat(-width * 0.9, width * 0.9, sill, 0.205), hollow, (70.0, 70.0, 75.0), owner)
        plate = drawing.part("licenseplate", owner)
        place.face(drawing, flat(-0.15, 0.15, 0.21, 0.32), hollow, (248.0, 248.0, 240.0), plate)
        for y in (-0.08, 0.0, 0.08):
            place.face(drawing, flat(y - 0.022, y + 0.022, 0.24, 0.29), hollow, (60.0, 60.0, 80.0), plate)

    for side in (1.0, -1.0):
        x, y = windscreen - 0.06, side * (half(windscreen) + 0.07)
        corners = [
            (x + a, y + b, belt + 0.07 + c) for a in (-0.05, 0.05) for b in (-0.075, 0.075) for c in (-0.06, 0.07)
        ]
        behind = place.cosine([(0, side * width, 0), (1, side * width, 0), (0, side * width, 1)], hollow)[0]
        if behind > -0.35 and (front_seen or behind > 0.1):
            mirror = drawing.part("mirror")
            drawing.add(smooth(hull(place.project(corners)), 2), scaled(paint, 0.8), mirror, 0.2)
    return drawing


def _prism(
    drawing: Drawing,
    place: Placement,
    section: list[tuple[float, float]],
    x0: float,
    x1: float,
    colour: Colour,
    owners: dict[str, int],
    roof: Colour | None = None,
) -> None:
    """A solid with cross-section (y, z) from x0 (rear) to x1 (front); owners by face: left right front back top."""
    centre = ((x0 + x1) / 2, 0.0, float(np.mean([z for _, z in section])))
    for (ya, za), (yb, zb) in zip(section, section[1:] + section[:1], strict=True):
        quad = [(x0, ya, za), (x1, ya, za), (x1, yb, zb), (x0, yb, zb)]
        sideways = abs(zb - za) > abs(yb - ya)
        key = ("left" if ya + yb > 0 else "right") if sideways else "top"
        place.face(drawing, quad, centre, colour if sideways or roof is None else roof, owners[key])
    for x, key in ((x1, "front"), (x0, "back")):
        place.face(drawing, [(x, y, z) for y, z in section], centre, colour, owners[key])


def _running_gear(drawing: Drawing, place: Placement, x0: float, x1: float, width: float, owner: int) -> None:
    block = [(x, y, z) for x in (x0 + 0.05, x1 - 0.05) for y in (-width * 0.85, width * 0.85) for z in (0.03, 0.16)]
    drawing.add(hull(place.project(block)), (48.0, 46.0, 50.0), owner, 0.0)


def _axles(drawing: Drawing, place: Placement, x0: float, x1: float, width: float, owner: int, radius: float) -> None:
    for side in (1.0, -1.0):
        for share in (0.16, 0.36, 0.64, 0.84):
            ring = _disc(x0 + (x1 - x0) * share, side * width * 0.9, radius, radius, 14)
            place.face(drawing, ring, (0.0, 0.0, radius), (75.0, 72.0, 78.0), owner, shade=0.3)


def _coach(drawing: Drawing, place: Placement, rng: np.random.Generator, style: dict, x0: float, x1: float) -> None:
    width, height, colour = style["width"], style["height"], style["coach"]
    shell = drawing.part(None)
    owners = {key: drawing.part(f"coach_{key}") for key in ("left", "right", "front", "back", "top")}
    _running_gear(drawing, place, x0, x1, width, shell)
    section = [(width, 0.14), (width, height * 0.86), (width * 0.62, height), (-width * 0.62, height)]
    section += [(-width, height * 0.86), (-width, 0.14)]
    _prism(drawing, place, section, x0, x1, colour, owners, style["roof"])
    centre = ((x0 + x1) / 2, 0.0, height / 2)
    for side, key in ((1.0, "left"), (-1.0, "right")):
        y = side * (width + 0.003)
        stripe = [(x0, y, 0.24), (x1, y, 0.24), (x1, y, 0.32), (x0, y, 0.32)]
        place.face(drawing, stripe, centre, style["stripe"], owners[key])
        for index in range(style["windows"]):
            a = x0 + (x1 - x0) * (index + 0.2) / style["windows"]
            b = x0 + (x1 - x0) * (index + 0.8) / style["windows"]
            pane = [(a, y, height * 0.5), (b, y, height * 0.5), (b, y, height * 0.78), (a, y, height * 0.78)]
            place.face(drawing, pane, centre, style["glass"], owners[key], shade=0.3)
    for x, key in ((x1 + 0.003, "front"), (x0 - 0.003, "back")):
        door = [(x, -width * 0.28, 0.18), (x, width * 0.28, 0.18), (x, width * 0.28, height * 0.78)]
        door.append((x, -width * 0.28, height * 0.78))
        place.face(drawing, door, centre, scaled(colour, 0.55), owners[key])
        if key == "back":
            for y in (-width * 0.7, width * 0.7):
                lamp = [
                    (x, y + 0.05 * math.cos(t), 0.28 + 0.05 * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 9)[:-1]
                ]
                place.face(drawing, lamp, centre, (200.0, 40.0, 40.0), owners[key])
    _axles(drawing, place, x0, x1, width, shell, 0.075)


def _lamps(
    drawing: Drawing, place: Placement, head: int, x: float, spots: list[tuple[float, float]], radius: float
) -> None:
    for y, z in spots:
        ring = [(x, y + radius * math.cos(t), z + radius * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 15)[:-1]]
        if place.cosine(ring, (0.0, 0.0, z))[0] > 0.1:
            owner = drawing.part("headlight", head)
            place.face(drawing, ring, (0.0, 0.0, z), (252.0, 246.0, 195.0), owner, shade=0.15)


def _electric(drawing: Drawing, place: Placement, style: dict, x0: float, x1: float) -> None:
    """A driving unit with a slanted nose."""
    width, height, colour = style["width"] * 0.98, style["loco_height"], style["loco"]
    head = drawing.part("head")
    everywhere = dict.fromkeys(("left", "right", "front", "back", "top"), head)
    _running_gear(drawing, place, x0, x1, width, head)
    section = [(width, 0.12), (width, height * 0.86), (width * 0.65, height), (-width * 0.65, height)]
    section += [(-width, height * 0.86), (-width, 0.12)]
    lean, centre = 0.22, (x1 - 0.4, 0.0, height / 2)
    _prism(drawing, place, section, x0, x1 - lean, colour, everywhere, style["roof"])
    bottom = {
        s: [(x1 - lean, s * width, 0.12), (x1, s * width * 0.86, 0.12), (x1, s * width * 0.86, height * 0.42)]
        for s in (1, -1)
    }
    for side in (1, -1):
        cheek = [*bottom[side], (x1 - lean, side * width * 0.9, height * 0.9)]
        place.face(drawing, cheek, centre, colour, head)
    low = [bottom[1][1], bottom[1][2], bottom[-1][2], bottom[-1][1]]
    place.face(drawing, low, centre, style["stripe"], head)
    slope = [
        bottom[1][2],
        (x1 - lean, width * 0.85, height * 0.93),
        (x1 - lean, -width * 0.85, height * 0.93),
        bottom[-1][2],
    ]
    place.face(drawing, slope, centre, colour, head)
    pane = [tuple((0.75 * np.array(p) + 0.25 * np.mean(slope, 0) + np.array([0.01, 0, 0.035])).tolist()) for p in slope]
    place.face(drawing, pane, centre, style["glass"], head, shade=0.3, rounds=1)
    for side in (1, -1):
        y = side * (width + 0.003)
        stripe = [(x0, y, 0.24), (x1 - lean, y, 0.24), (x1 - lean, y, 0.34), (x0, y, 0.34)]
        place.face(drawing, stripe, centre, style["stripe"], head)
        pane = [(x1 - lean - 0.26, y, height * 0.52), (x1 - lean - 0.05, y, height * 0.52)]
        pane += [(x1 - lean - 0.05, y, height * 0.8), (x1 - lean - 0.26, y, height * 0.8)]
        place.face(drawing, pane, centre, style["glass"], head, shade=0.3)
    _axles(drawing, place, x0, x1, width, head, 0.075)
    _lamps(drawing, place, head, x1 + 0.004, [(width * 0.56, height * 0.27), (-width * 0.56, height * 0.27)], 0.085)


def _steam(drawing: Drawing, place: Placement, style: dict, x0: float, x1: float) -> None:
    """A steam engine: boiler, chimney, cab; it is lower than the coaches, so that they show above it."""
    width, height, colour = style["width"] * 0.95, style["loco_height"], style["loco"]
    head = drawing.part("head")
    everywhere = dict.fromkeys(("left", "right", "front", "back", "top"), head)
    _running_gear(drawing, place, x0, x1, width, head)
    deck = [(width, 0.15), (width, 0.22), (-width, 0.22), (-width, 0.15)]
    _prism(drawing, place, deck, x0, x1, style["stripe"], everywhere)
    cab = x0 + 0.38
    section = [(width * 0.98, 0.22), (width * 0.98, height), (-width * 0.98, height), (-width * 0.98, 0.22)]

    def draw_cab() -> None:
        _prism(drawing, place, section, x0, cab, colour, everywhere, style["roof"])
        for side in (1, -1):
            y = side * width
            pane = [(x0 + 0.09, y, height * 0.55), (cab - 0.07, y, height * 0.55)]
            pane += [(cab - 0.07, y, height * 0.85), (x0 + 0.09, y, height * 0.85)]
            place.face(drawing, pane, (x0, 0, 0.4), style["glass"], head, shade=0.3)

    def draw_boiler() -> None:
        radius, z = width * 0.68, 0.23 + width * 0.66
        turns = [2 * math.pi * (i + 0.5) / 12 for i in range(12)]
        tube = [(radius * math.cos(t), z + radius * math.sin(t)) for t in turns]
        _prism(drawing, place, tube, cab, x1 - 0.06, scaled(colour, 0.8), everywhere)
        front = [(x1 - 0.055, y * 0.86, z + (h - z) * 0.86) for y, h in tube]
        place.face(drawing, front, (0, 0, z), (70.0, 70.0, 78.0), head)
        for x, r, tall in ((x1 - 0.22, 0.085, 0.30), ((cab + x1) / 2 - 0.1, 0.075, 0.12)):
            base, peak = z + radius * 0.9, z + radius + tall
            ring = [(x + r * math.cos(t), r * math.sin(t), base) for t in turns]
            ring += [(x + 1.35 * r * math.cos(t), 1.35 * r * math.sin(t), peak) for t in turns]
            drawing.add(hull(place.project(ring)), (60.0, 60.0, 66.0), head, 0.3)
        _lamps(drawing, place, head, x1 - 0.04, [(0.0, z + 0.02)], 0.10)
        _lamps(drawing, place, head, x1 + 0.01, [(width * 0.7, 0.26), (-width * 0.7, 0.26)], 0.07)

    boiler_first = place.cosine([(cab, 1, 0), (cab, -1, 0), (cab, 0, 1)], (x0, 0, 0))[0] < 0
    for draw in (draw_boiler, draw_cab) if boiler_first else (draw_cab, draw_boiler):
        draw()
    for side in (1.0, -1.0):
        for x in np.linspace(x0 + 0.18, x1 - 0.24, 3).tolist():
            place.face(drawing, _disc(x, side * width * 0.93, 0.14, 0.14, 16), (x, 0, 0.1), (170.0, 50.0, 45.0), head)
            place.face(drawing, _disc(x, side * width * 0.94, 0.14, 0.08, 12), (x, 0, 0.1), (70.0, 60.0, 60.0), head)


def train(rng: np.random.Generator) -> Drawing:
    """A locomotive (`head`) and one or two coaches on a straight or curved track."""
    drawing = Drawing(max_turn=2.0)
    loco = _paint_colour(rng)
    coach = loco if rng.random() < 0.35 else _paint_colour(rng)
    style = {
        "width": rng.uniform(0.33, 0.38),
        "height": rng.uniform(0.84, 0.95),
        "loco_height": rng.uniform(0.72, 0.85),
        "loco": loco,
        "coach": coach,
        "roof": mix((110.0, 112.0, 120.0), coach, rng.uniform(0.0, 0.4)),
        "stripe": _paint_colour(rng),
        "glass": mix(GLASS, (40.0, 50.0, 70.0), rng.uniform(0.2, 0.8)),
        "windows": int(rng.integers(3, 5)),
    }
    camera = Camera(rng.uniform(14.0, 28.0), rng.uniform(3.2, 5.0))
    yaw = _yaw(rng, (0.74, 0.17, 0.05, 0.04))
    steam = rng.random() < 0.4
    curve = float(rng.uniform(-26.0, 26.0))
    lengths = [rng.uniform(0.95, 1.15)] + [rng.uniform(0.9, 1.15) for _ in range(int(rng.integers(1, 3)))]
    gap, heading, x, y = 0.14, yaw, 0.0, 0.0
    cars = []
    for index, length in enumerate(lengths):
        cos, sin = math.cos(math.radians(heading)), math.sin(math.radians(heading))
        middle = (x - cos * length / 2, y - sin * length / 2)
        cars.append((index, heading, middle, length))
        x, y = x - cos * (length + gap), y - sin * (length + gap)
        heading += curve
    centre = np.mean([middle for _, _, middle, _ in cars], axis=0)
    placed = [(i, Placement(camera, h, tuple((np.array(m) - centre).tolist())), n) for i, h, m, n in cars]
    for index, place, length in sorted(placed, key=lambda entry: -float(entry[1].position[1])):
        if index:
            _coach(drawing, place, rng, style, -length / 2, length / 2)
        else:
            (_steam if steam else _electric)(drawing, place, style, -length / 2, length / 2)
    return drawing
