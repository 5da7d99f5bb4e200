"""Dogs and birds of the embedded dataset, drawn in the plane (y down), facing right."""

from __future__ import annotations

import math

import numpy as np

from unmask_tf.data.synthetic_figures import DARK, WHITE, cloth
from unmask_tf.data.synthetic_shapes import Colour, Drawing, Point, box, capsule, ellipse, hsv, mix, scaled, smooth


def _fur(rng: np.random.Generator) -> Colour:
    if rng.random() < 0.25:
        return hsv(0.08, 0.12, rng.uniform(0.25, 0.95))
    return hsv(rng.uniform(0.04, 0.11), rng.uniform(0.35, 0.75), rng.uniform(0.35, 0.9))


def _dog_head(
    drawing: Drawing, rng: np.random.Generator, look: dict, centre: Point, size: float, turned: float
) -> None:
    """A dog's head; `turned` is 0 towards the viewer and 1 in profile to the right."""
    cx, cy = centre

    def at(x: float, y: float) -> Point:
        return cx + size * x, cy + size * y

    head = drawing.part("head")
    coat, second = look["coat"], look["second"]
    ears = []
    for side in (-1.0, 1.0):
        if turned > 0.8 and side > 0:
            continue
        ear = drawing.part("ear", head)
        x = side * (0.42 - 0.08 * turned) - 0.12 * turned
        if look["floppy"]:
            shape = smooth(
                [at(x, -0.42), at(x + side * 0.26, -0.3), at(x + side * 0.32, 0.28), at(x + side * 0.08, 0.22)], 2
            )
        else:
            shape = smooth([at(x - 0.2, -0.3), at(x + side * 0.12, -0.86), at(x + 0.2, -0.22)], 2, 0.15)
        ears.append((shape, ear))
    if not look["floppy"]:
        for shape, ear in ears:
            drawing.add(shape, look["ear"], ear)
    drawing.add(ellipse(*at(0, 0), 0.52 * size, 0.50 * size), coat, head)
    if look["floppy"]:
        for shape, ear in ears:
            drawing.add(shape, look["ear"], ear)
    muzzle = drawing.part("muzzle", head)
    mx = 0.44 * turned
    drawing.add(ellipse(*at(mx, 0.20), (0.29 + 0.06 * turned) * size, 0.23 * size), second, muzzle)
    drawing.add(capsule(at(mx - 0.08, 0.31), at(mx + 0.14, 0.31), 0.028 * size), DARK, muzzle, 0.0)
    if rng.random() < 0.3:
        drawing.add(ellipse(*at(mx + 0.04, 0.41), 0.08 * size, 0.11 * size), (225.0, 95.0, 110.0), muzzle)
    nose = drawing.part("nose", head)
    drawing.add(ellipse(*at(mx + 0.24 * turned, 0.09), 0.135 * size, 0.10 * size), DARK, nose, 0.4)
    for side in (-1.0, 1.0):
        if turned > 0.8 and side < 0:
            continue
        eye = drawing.part("eye", head)
        x = side * 0.21 * (1 - 0.5 * turned) + 0.18 * turned
        drawing.add(ellipse(*at(x, -0.13), 0.115 * size, 0.12 * size), WHITE, eye, 0.0)
        drawing.add(ellipse(*at(x + 0.02 * turned, -0.12), 0.08 * size, 0.09 * size), (52.0, 32.0, 22.0), eye, 0.0)
        drawing.add(ellipse(*at(x + 0.03, -0.15), 0.028 * size, 0.03 * size), WHITE, eye, 0.0)


def _dog_leg(drawing: Drawing, hip: Point, ankle: Point, radius: float, colour: Colour, look: dict, toe: float) -> None:
    leg, paw = drawing.part("leg"), drawing.part("paw")
    drawing.add(capsule(hip, ankle, radius * 1.25, radius * 0.85), colour, leg)
    drawing.add(
        ellipse(ankle[0] + toe, ankle[1] + 0.05, radius * 1.45, radius * 0.95), mix(look["second"], colour, 0.2), paw
    )


def dog(rng: np.random.Generator) -> Drawing:
    """A dog: standing in side view, sitting towards the viewer, or a portrait."""
    view = rng.choice(3, p=(0.50, 0.32, 0.18))
    drawing = Drawing(grounded=view != 2, bleeds=view == 2, max_turn=6.0)
    coat = _fur(rng)
    look = {
        "coat": coat,
        "second": mix(coat, WHITE, rng.uniform(0.35, 0.8)),
        "ear": scaled(coat, rng.uniform(0.5, 0.8)),
        "floppy": rng.random() < 0.55,
    }
    far, collar = scaled(coat, 0.75), cloth(rng)
    if view == 0:
        walk = rng.uniform(-0.12, 0.12)
        tail = drawing.part("tail")
        lift = rng.uniform(-0.75, 0.1)
        drawing.add(capsule((-0.62, -0.08), (-0.92, lift + 0.1), 0.10, 0.085), coat, tail)
        drawing.add(capsule((-0.92, lift + 0.1), (-1.0, lift - 0.12), 0.085, 0.055), look["second"], tail)
        for x, swing in ((-0.34, walk), (0.34, -walk)):
            _dog_leg(drawing, (x, 0.15), (x + swing + 0.10, 0.72), 0.095, far, look, 0.05)
        neck = drawing.part("neck")
        torso = drawing.part("torso")
        body = [(-0.68, -0.26), (-0.2, -0.30), (0.5, -0.34), (0.62, 0.10), (0.2, 0.30), (-0.4, 0.26), (-0.72, 0.2)]
        drawing.add(smooth(body, 2), coat, torso, 0.2)
        if rng.random() < 0.35:
            drawing.add(ellipse(rng.uniform(-0.4, 0.1), -0.08, 0.2, 0.15), scaled(coat, 0.6), torso)
        drawing.add(capsule((0.46, -0.12), (0.66, -0.52), 0.26, 0.22), scaled(coat, 0.92), neck, 0.0)
        if rng.random() < 0.5:
            drawing.add(capsule((0.42, -0.42), (0.80, -0.26), 0.045), collar, neck, 0.0)
        for x, swing in ((-0.54, -walk), (0.48, walk)):
            _dog_leg(drawing, (x, 0.12), (x + swing, 0.76), 0.105, coat, look, 0.06)
        profile = 1.0 if rng.random() < 0.35 else rng.uniform(0.0, 0.5)
        _dog_head(drawing, rng, look, (0.80, -0.74), rng.uniform(0.80, 0.92), profile)
    elif view == 1:
        tail = drawing.part("tail")
        side = 1.0 if rng.random() < 0.5 else -1.0
        drawing.add(capsule((side * 0.36, 0.78), (side * 0.80, 0.52), 0.095, 0.085), coat, tail)
        drawing.add(capsule((side * 0.80, 0.52), (side * 0.84, 0.24), 0.085, 0.05), look["second"], tail)
        torso = drawing.part("torso")
        drawing.add(smooth([(-0.36, 0.05), (0.36, 0.05), (0.56, 0.98), (-0.56, 0.98)], 2), coat, torso)
        drawing.add(ellipse(0, 0.52, 0.2, 0.28), look["second"], torso)
        for s in (-1.0, 1.0):
            paw = drawing.part("paw")
            drawing.add(ellipse(s * 0.50, 0.95, 0.17, 0.11), look["second"], paw)
        for s in (-1.0, 1.0):
            _dog_leg(drawing, (s * 0.19, 0.48), (s * 0.17, 0.94), 0.115, scaled(coat, 0.93), look, s * 0.02)
        neck = drawing.part("neck")
        drawing.add(capsule((0, -0.1), (0, 0.16), 0.33), scaled(coat, 0.85), neck, 0.0)
        if rng.random() < 0.5:
            drawing.add(smooth(box(-0.32, 0.18, 0.32, 0.28), 1), collar, neck, 0.0)
        _dog_head(drawing, rng, look, (0.0, -0.32), rng.uniform(0.95, 1.08), rng.uniform(0.0, 0.3))
    else:
        torso = drawing.part("torso")
        drawing.add(smooth([(-0.5, 0.5), (0.5, 0.5), (0.68, 1.1), (-0.68, 1.1)], 1), coat, torso)
        drawing.add(box(-0.6, 0.95, 0.6, 1.1), coat, torso, 0.0)
        neck = drawing.part("neck")
        drawing.add(
            smooth([(-0.34, 0.1), (0.34, 0.1), (0.46, 0.72), (-0.46, 0.72)], 2, 0.2), scaled(coat, 0.85), neck, 0.0
        )
        drawing.add(smooth(box(-0.4, 0.56, 0.4, 0.66), 1), collar, neck, 0.0)
        _dog_head(drawing, rng, look, (0.0, -0.05), 1.0, 1.0 if rng.random() < 0.3 else rng.uniform(0.0, 0.5))
    return drawing


def _bird_head(drawing: Drawing, rng: np.random.Generator, look: dict, centre: Point, radius: float) -> None:
    cx, cy = centre
    head = drawing.part("head")
    beak = drawing.part("beak", head)
    length, thick = look["beak_length"], radius * 0.42
    tip = (cx + radius * 0.8 + length, cy + radius * 0.18 + look["hook"] * 0.1)
    drawing.add(
        [(cx + radius * 0.7, cy - thick * 0.6), tip, (cx + radius * 0.7, cy + thick * 1.2)], look["beak"], beak, 0.3
    )
    drawing.add(ellipse(cx, cy, radius, radius * 0.96), look["head"], head)
    if look["crest"]:
        for turn in (-120, -100, -80):
            t = math.radians(turn)
            drawing.add(
                capsule(
                    (cx, cy - radius * 0.7),
                    (cx + 1.35 * radius * math.cos(t), cy + 1.35 * radius * math.sin(t)),
                    0.05,
                    0.02,
                ),
                look["wing"],
                head,
            )
    eye = drawing.part("eye", head)
    drawing.add(ellipse(cx + radius * 0.28, cy - radius * 0.14, radius * 0.30, radius * 0.31), WHITE, eye, 0.0)
    drawing.add(ellipse(cx + radius * 0.34, cy - radius * 0.12, radius * 0.18, radius * 0.20), DARK, eye, 0.0)


def _bird_leg(drawing: Drawing, hip: Point, ankle: Point, look: dict) -> None:
    leg, foot = drawing.part("leg"), drawing.part("foot")
    drawing.add(capsule(hip, ankle, 0.055, 0.04), look["legs"], leg, 0.0)
    for dx, dy in ((0.20, 0.05), (0.10, 0.10), (-0.13, 0.06)):
        drawing.add(
            capsule(ankle, (ankle[0] + dx, ankle[1] + dy), 0.045, 0.035, 5), scaled(look["legs"], 0.9), foot, 0.0
        )


def bird(rng: np.random.Generator) -> Drawing:
    """A standing songbird, a long-necked wader, or a flying bird, in side view."""
    view = rng.choice(3, p=(0.58, 0.24, 0.18))
    drawing = Drawing(grounded=view != 2, max_turn=8.0 if view < 2 else 20.0)
    plumage = hsv(rng.random(), rng.uniform(0.1, 0.85), rng.uniform(0.4, 0.95))
    other = hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.3, 0.95))
    legs = hsv(rng.uniform(0.02, 0.12), rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.95))
    look = {
        "head": plumage if rng.random() < 0.5 else other,
        "wing": scaled(mix(plumage, other, rng.uniform(0.0, 0.5)), 0.72),
        "beak": hsv(rng.uniform(0.03, 0.14), rng.uniform(0.7, 0.95), rng.uniform(0.65, 1.0)),
        "legs": legs,
        "beak_length": rng.uniform(0.22, 0.36) * (1.4 if view == 1 else 1.0),
        "hook": rng.uniform(-0.5, 1.0),
        "crest": rng.random() < 0.2,
    }
    throat = mix(plumage, WHITE, rng.uniform(0.3, 0.7)) if rng.random() < 0.6 else scaled(plumage, 0.75)
    tail = drawing.part("tail")
    if view == 2:
        lift = rng.uniform(0.6, 1.05)
        drawing.add([(-0.45, -0.08), (-1.05, -0.22), (-0.98, 0.0), (-1.08, 0.16), (-0.45, 0.12)], look["wing"], tail)
        far = drawing.part("wing")
        drawing.add(
            smooth([(0.22, -0.05), (0.5, -lift), (0.12, -lift * 0.95), (-0.2, -0.05)], 1),
            scaled(look["wing"], 0.8),
            far,
        )
        if rng.random() < 0.5:
            for x in (-0.3, -0.15):
                _bird_leg(drawing, (x, 0.18), (x - 0.14, 0.42), look)
        neck = drawing.part("neck")
        drawing.add(ellipse(0.0, 0.02, 0.58, 0.28, -4), plumage, drawing.part("torso"), 0.2)
        drawing.add(capsule((0.40, -0.02), (0.66, -0.10), 0.21, 0.19), throat, neck, 0.0)
        near = drawing.part("wing")
        feathers = [(0.28, 0.05), (0.10, -lift * 0.75), (-0.30, -lift), (-0.42, -lift * 0.55), (-0.32, 0.08)]
        drawing.add(smooth(feathers, 1), look["wing"], near)
        drawing.add(smooth([(0.15, -0.05), (0.02, -lift * 0.5), (-0.2, -0.05)], 1), scaled(look["wing"], 1.3), near)
        _bird_head(drawing, rng, look, (0.80, -0.14), 0.28)
        return drawing
    tall = view == 1
    drop = 0.55 if tall else rng.uniform(0.30, 0.42)
    base = 0.26 if tall else 0.36
    tail_end = rng.uniform(-0.1, 0.35)
    drawing.add([(-0.40, -0.14), (-1.05, tail_end - 0.12), (-1.08, tail_end + 0.14), (-0.38, 0.16)], look["wing"], tail)
    swims = rng.random() < 0.12
    drawing.grounded = not swims
    for x in () if swims else (-0.10, 0.18):
        _bird_leg(drawing, (x, base - 0.06), (x + rng.uniform(-0.04, 0.04), base + drop), look)
    neck, torso = drawing.part("neck"), drawing.part("torso")
    drawing.add(ellipse(-0.02, 0.04, 0.60, 0.30 if tall else 0.40, -14), plumage, torso, 0.2)
    if tall:
        head = (0.74, -0.92)
        drawing.add(capsule((0.40, -0.10), (0.52, -0.55), 0.15, 0.11), throat, neck, 0.0)
        drawing.add(capsule((0.52, -0.55), head, 0.11, 0.11), throat, neck, 0.0)
    else:
        head = (0.56, -0.56)
        drawing.add(capsule((0.32, -0.10), (0.48, -0.38), 0.29, 0.26), throat, neck, 0.0)
    wing = drawing.part("wing")
    feathers = [(0.26, -0.10), (0.12, 0.20), (-0.30, 0.26), (-0.78, 0.18), (-0.40, -0.14)]
    drawing.add(smooth(feathers, 2), look["wing"], wing, 0.2)
    drawing.add(smooth([(0.12, 0.0), (-0.1, 0.14), (-0.5, 0.12), (-0.3, -0.04)], 1), scaled(look["wing"], 1.3), wing)
    _bird_head(drawing, rng, look, head, 0.23 if tall else 0.34)
    return drawing
