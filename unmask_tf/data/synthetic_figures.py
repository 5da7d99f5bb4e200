"""Persons and bottles of the embedded dataset, drawn in the plane (y down)."""

from __future__ import annotations

import math

import numpy as np

from unmask_tf.data.synthetic_shapes import Colour, Drawing, Point, box, capsule, ellipse, hsv, mix, scaled, smooth

WHITE: Colour = (250.0, 250.0, 246.0)
DARK: Colour = (30.0, 26.0, 28.0)


def cloth(rng: np.random.Generator) -> Colour:
    """A random colour for fabric, RGB 0..255."""
    return hsv(rng.random(), rng.uniform(0.15, 0.85), rng.uniform(0.3, 0.95))


def _hair_behind(drawing: Drawing, hair: int, colour: Colour, style: int, yaw: float) -> None:
    """The hair behind the neck and above the head, in four of five styles; painted before the body."""
    if style == 1:
        drawing.add(smooth([(-0.58, -0.3), (0.58, -0.3), (0.64, 0.62), (-0.64, 0.62)], 2), colour, hair)
    elif style == 2:
        drawing.add(ellipse(0, -0.16, 0.66, 0.60), colour, hair)
    elif style == 3:
        side = -1.0 if yaw > 0 else 1.0
        drawing.add(capsule((side * 0.42, -0.35), (side * 0.68, 0.25), 0.15, 0.09), colour, hair)
    elif style == 4:
        drawing.add(ellipse(0, -0.62, 0.22, 0.2), colour, hair)


def _fringe(drawing: Drawing, hair: int, colour: Colour, style: int, yaw: float) -> None:
    """The hair above the forehead."""
    outer = [(0.50 * math.cos(t), -0.02 + 0.57 * math.sin(t)) for t in np.linspace(-math.pi, 0, 17)]
    part = 0.25 * yaw + (0.12 if style % 2 else -0.1)
    lower = [(0.47, -0.06), (0.40, -0.2), (part + 0.18, -0.25), (part, -0.32), (part - 0.15, -0.24), (-0.40, -0.19)]
    drawing.add([*outer, *lower, (-0.47, -0.06)], colour, hair, 0.25)


def _face(
    drawing: Drawing, head: int, rng: np.random.Generator, skin: Colour, hair: Colour, yaw: float, sunglasses: bool
) -> None:
    """Eyes, brows, nose and mouth, moved sideways by the head's yaw in [-1, 1]."""
    shift = 0.20 * yaw
    iris = hsv(rng.choice([0.07, 0.1, 0.35, 0.58]), 0.6, rng.uniform(0.2, 0.6))
    open_eye = rng.uniform(0.85, 1.1)
    brow_tilt = rng.uniform(-10.0, 14.0)
    for side in (-1.0, 1.0):
        # The far side of a turned head is foreshortened.
        squeeze = 1.0 - 0.45 * max(0.0, side * yaw)
        x = shift + side * 0.195 * squeeze
        if sunglasses:
            drawing.add(smooth(box(x - 0.15, -0.10, x + 0.15, 0.13), 2), DARK, head, 0.3)
        else:
            eye = drawing.part("eye", head)
            drawing.add(ellipse(x, 0.02, 0.115 * squeeze, 0.105 * open_eye), WHITE, eye, 0.05)
            drawing.add(ellipse(x + 0.03 * yaw, 0.02, 0.065 * squeeze, 0.075), iris, eye, 0.0)
            drawing.add(ellipse(x + 0.03 * yaw, 0.02, 0.035 * squeeze, 0.045), DARK, eye, 0.0)
        brow = drawing.part("eyebrow", head)
        bar = ellipse(0, 0, 0.145 * squeeze, 0.048, side * brow_tilt)
        drawing.add([(x + px, -0.165 + py) for px, py in bar], scaled(hair, 0.75), brow, 0.0)
    nose = drawing.part("nose", head)
    x = shift * 1.25
    drawing.add(
        smooth([(x - 0.04, 0.04), (x + 0.04, 0.04), (x + 0.11, 0.24), (x - 0.11, 0.24)], 2),
        scaled(skin, 0.86),
        nose,
        0.3,
    )
    mouth = drawing.part("mouth", head)
    smile, wide = rng.uniform(-0.03, 0.08), rng.uniform(0.13, 0.19)
    lips = [
        (shift - wide, 0.31 - smile),
        (shift, 0.305),
        (shift + wide, 0.31 - smile),
        (shift + wide * 0.6, 0.385),
        (shift - wide * 0.6, 0.385),
    ]
    drawing.add(
        smooth(lips, 2, 0.2), hsv(rng.uniform(0.96, 1.02), rng.uniform(0.5, 0.75), rng.uniform(0.5, 0.8)), mouth, 0.1
    )
    if rng.random() < 0.4:
        drawing.add(smooth(box(shift - wide * 0.6, 0.315, shift + wide * 0.6, 0.345), 1), WHITE, mouth, 0.0)


def _head(drawing: Drawing, rng: np.random.Generator, head: int, hair: int, look: dict) -> None:
    yaw, skin = look["yaw"], look["skin"]
    for side in (-1.0, 1.0):
        # A turned head hides its far ear.
        if side * yaw < 0.35:
            ear = drawing.part("ear", head)
            drawing.add(ellipse(side * 0.47, 0.06, 0.115, 0.15), scaled(skin, 0.95), ear)
            drawing.add(ellipse(side * 0.49, 0.06, 0.06, 0.08), scaled(skin, 0.75), ear)
    drawing.add(
        smooth([(-0.46, -0.5), (0.46, -0.5), (0.48, 0.2), (0.22, 0.52), (-0.22, 0.52), (-0.48, 0.2)], 2), skin, head
    )
    if not look["back"]:
        _face(drawing, head, rng, skin, look["hair"], yaw, look["sunglasses"])
    else:
        drawing.add(ellipse(0, -0.06, 0.49, 0.5), look["hair"], hair, 0.2)
    if not (look["bald"] or look["back"]):
        _fringe(drawing, hair, look["hair"], look["style"], yaw)


def _arm(drawing: Drawing, pose: int, side: float, shoulder: Point, reach: float, look: dict) -> None:
    """An arm and its hand: 0 hangs, 1 waves, 2 on the hip, 3 stretched sideways."""
    x, y = shoulder
    elbow, hand = {
        0: ((x + side * 0.14 * reach, y + 0.34 * reach), (x + side * 0.18 * reach, y + 0.66 * reach)),
        1: ((x + side * 0.32 * reach, y + 0.18 * reach), (x + side * 0.40 * reach, y - 0.34 * reach)),
        2: ((x + side * 0.36 * reach, y + 0.28 * reach), (x + side * 0.06 * reach, y + 0.56 * reach)),
        3: ((x + side * 0.32 * reach, y + 0.04 * reach), (x + side * 0.66 * reach, y - 0.06 * reach)),
    }[pose]
    arm = drawing.part("arm")
    thick = look["arm"]
    fore = look["skin"] if look["short_sleeves"] else look["shirt"]
    drawing.add(capsule(elbow, hand, thick * 0.92, thick * 0.8), scaled(fore, 0.95), arm)
    drawing.add(capsule((x, y), elbow, thick * 1.1, thick), scaled(look["shirt"], 0.92), arm)
    palm = drawing.part("hand")
    angle = math.atan2(hand[1] - elbow[1], hand[0] - elbow[0])
    reach_x, reach_y = math.cos(angle), math.sin(angle)
    drawing.add(ellipse(hand[0] + 0.05 * reach_x, hand[1] + 0.05 * reach_y, 0.145, 0.135), look["skin"], palm)
    for spread in (-0.6, 0.0, 0.6):
        tip = (hand[0] + 0.23 * math.cos(angle + spread), hand[1] + 0.23 * math.sin(angle + spread))
        drawing.add(
            capsule((hand[0] + 0.06 * reach_x, hand[1] + 0.06 * reach_y), tip, 0.05, 0.045, 5), look["skin"], palm, 0.0
        )


def person(rng: np.random.Generator) -> Drawing:
    """A portrait or a full-body view of a person with a large head; occasionally from behind."""
    portrait = rng.random() < 0.5
    drawing = Drawing(grounded=not portrait, bleeds=portrait, max_turn=7.0)
    skin = mix((252.0, 216.0, 184.0), (112.0, 70.0, 46.0), float(rng.random()) ** 1.3)
    look = {
        "skin": skin,
        "hair": hsv(rng.uniform(0.03, 0.12), rng.uniform(0.3, 0.85), rng.choice([0.13, 0.25, 0.45, 0.75])),
        "shirt": cloth(rng),
        "yaw": float(np.clip(rng.normal(0.0, 0.45), -1.0, 1.0)),
        "back": rng.random() < 0.05,
        "sunglasses": rng.random() < 0.06,
        "bald": rng.random() < 0.04,
        "short_sleeves": rng.random() < 0.5,
        "style": int(rng.integers(0, 5)),
        "arm": 0.13 if portrait else 0.115,
    }
    look["bald"] = look["bald"] and not look["back"]
    trousers, shoes = cloth(rng), hsv(rng.random(), rng.uniform(0, 0.7), rng.uniform(0.15, 0.7))
    head = drawing.part("head")
    hair = drawing.part("hair", head)
    if not look["bald"]:
        _hair_behind(drawing, hair, look["hair"], look["style"], look["yaw"])
    half, top = (0.66, 0.72) if portrait else (0.36, 0.66)
    bottom = 1.25 if portrait else 1.28
    if not portrait:
        stride = rng.uniform(0.02, 0.22)
        bare = rng.random() < 0.3
        for side in (-1.0, 1.0):
            knee, ankle = (side * (0.19 + stride * 0.4), 1.52), (side * (0.20 + stride), 1.90)
            leg = drawing.part("leg")
            drawing.add(capsule(knee, ankle, 0.125, 0.105), skin if bare else trousers, leg)
            drawing.add(capsule((side * 0.18, 1.22), knee, 0.165, 0.135), trousers, leg)
            foot = drawing.part("foot")
            point = side if abs(look["yaw"]) < 0.4 else math.copysign(1.0, look["yaw"])
            drawing.add(ellipse(ankle[0] + point * 0.09, ankle[1] + 0.10, 0.21, 0.11), shoes, foot)
    poses = [int(rng.choice(4, p=(0.46, 0.28, 0.14, 0.12))) for _ in range(2)]
    if portrait:
        poses = [int(rng.choice(2, p=(0.45, 0.55))) for _ in range(2)]
    torso = drawing.part("torso")
    outline = [(-half * 0.62, top - 0.06), (half * 0.62, top - 0.06), (half * 1.08, top + 0.12), (half * 0.88, bottom)]
    outline += [(-half * 0.88, bottom), (-half * 1.08, top + 0.12)]
    drawing.add(smooth(outline, 2, 0.2), look["shirt"], torso)
    if portrait:
        drawing.add(box(-half * 0.88, bottom - 0.2, half * 0.88, bottom), look["shirt"], torso, 0.0)
    decoration = rng.random()
    if decoration < 0.3:
        for y in (top + 0.2, top + 0.36):
            drawing.add(box(-half * 0.9, y, half * 0.9, y + 0.07), scaled(look["shirt"], 0.7), torso, 0.0)
    elif decoration < 0.55:
        drawing.add([(0, top + 0.02), (0.07, top + 0.3), (0, top + 0.45), (-0.07, top + 0.3)], cloth(rng), torso)
    for side, pose in zip((-1.0, 1.0), poses, strict=True):
        _arm(drawing, pose, side, (side * half * 0.98, top + 0.16), 1.12 if portrait else 0.9, look)
    neck = drawing.part("neck")
    drawing.add(capsule((0, 0.36), (0, top - 0.02), 0.19 if portrait else 0.165), scaled(skin, 0.84), neck, 0.0)
    _head(drawing, rng, head, hair, look)
    return drawing


# Half-widths by height, from the foot (0) to the rim (1), and the cap's share of the height.
_BOTTLES = {
    "beer": ([(0, 0.17), (0.5, 0.17), (0.66, 0.13), (0.76, 0.07), (1.0, 0.062)], 0.10),
    "wine": ([(0, 0.15), (0.58, 0.15), (0.70, 0.10), (0.76, 0.058), (1.0, 0.055)], 0.16),
    "soda": ([(0, 0.17), (0.2, 0.165), (0.4, 0.15), (0.6, 0.175), (0.75, 0.15), (0.88, 0.075), (1.0, 0.07)], 0.10),
    "squeeze": ([(0, 0.19), (0.62, 0.19), (0.72, 0.15), (0.78, 0.09), (1.0, 0.06)], 0.22),
    "milk": ([(0, 0.2), (0.5, 0.2), (0.72, 0.11), (0.9, 0.10), (1.0, 0.12)], 0.12),
}


def bottle(rng: np.random.Generator) -> Drawing:
    """A bottle of one of five outlines, glassy or opaque, upright or tilted, usually with its cap."""
    drawing = Drawing(max_turn=14.0)
    outline, cap_share = _BOTTLES[str(rng.choice(list(_BOTTLES)))]
    widen = rng.uniform(0.95, 1.45)
    colour = hsv(rng.random(), rng.uniform(0.25, 0.85), rng.uniform(0.3, 0.9))
    alpha = 1.0 if rng.random() < 0.5 else rng.uniform(0.65, 0.9)
    body = drawing.part("body")
    sides = [(w * widen, -h) for h, w in outline]
    ring = [*sides, *[(-x, y) for x, y in reversed(sides)]]
    glass = smooth(ring, 2, 0.2)
    drawing.add(glass, colour, body, 0.1, alpha)
    if alpha < 1.0:
        # The liquid fills the lower part of a clear bottle.
        level = -rng.uniform(0.3, 0.62)
        wet = [(0.93 * x, max(y, level)) for x, y in glass]
        drawing.add(wet, hsv(rng.random(), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.9)), body, 0.1, 0.7)
    wide = min(w for h, w in outline if h <= 0.6) * widen
    if rng.random() < 0.75:
        low, high = rng.uniform(0.12, 0.22), rng.uniform(0.38, 0.52)
        label = hsv(rng.random(), rng.uniform(0.0, 0.6), rng.uniform(0.7, 1.0))
        drawing.add(box(-wide, -high, wide, -low), label, body, 0.06)
        mark = hsv(rng.random(), 0.8, rng.uniform(0.3, 0.8))
        if rng.random() < 0.5:
            drawing.add(ellipse(0, -(low + high) / 2, wide * 0.5, (high - low) * 0.3), mark, body, 0.0)
        else:
            drawing.add(
                box(-wide * 0.8, -(low + high) / 2 - 0.03, wide * 0.8, -(low + high) / 2 + 0.03), mark, body, 0.0
            )
    drawing.add(capsule((-wide * 0.62, -0.10), (-wide * 0.62, -0.56), 0.018), WHITE, body, 0.0, 0.6)
    if rng.random() < 0.90:
        cap = drawing.part("cap")
        rim = outline[-1][1] * widen + 0.028
        shade = hsv(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.35, 0.95))
        drawing.add(smooth(box(-rim, -1.0 - 0.05, rim, -1.0 - 0.05 + cap_share + 0.04), 1, 0.12), shade, cap, 0.15)
        for x in np.linspace(-rim * 0.6, rim * 0.6, 4).tolist():
            drawing.add(box(x - 0.006, -1.03, x + 0.006, -1.03 + cap_share), scaled(shade, 0.7), cap, 0.0)
    if rng.random() < 0.07:
        drawing.transform(np.array([[0.0, 1.0], [-1.0, 0.0]]))
    return drawing
