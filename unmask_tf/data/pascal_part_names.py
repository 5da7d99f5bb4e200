"""PASCAL-Part's classes and part names, and what becomes of each among the paper's 44 parts (Section IV-A).

Sides and numbers are dropped (`lfuleg` is a `leg`, `wheel_2` a `wheel`); the sides of vehicles and coaches stay parts
of their own.
"""

from __future__ import annotations

import re

from unmask_tf.errors import InputError
from unmask_tf.taxonomy import PARTS

FILES = 10_103
"""How many annotation files PASCAL-Part has."""

CLASS_NAMES = {"table": "diningtable"}
"""Classes whose name in PASCAL-Part is not VOC's."""

_HEAD = "head leye>eye reye>eye lear>ear rear>ear"
_LEGS = " ".join(f"{side}leg>leg {side}pa>paw" for side in ("lf", "rf", "lb", "rb"))
_HOOFED = " ".join(f"{side}{half}leg>leg" for side in ("lf", "rf", "lb", "rb") for half in "ul")
_CAR = (
    "frontside leftside>vehicle_left rightside>vehicle_right backside>vehicle_back roofside>vehicle_top "
    "leftmirror>mirror rightmirror>mirror fliplate>licenseplate bliplate>licenseplate door_# wheel_# headlight_# "
    "window_#"
)
_COW = f"{_HEAD} muzzle lhorn>horn rhorn>horn torso neck {_HOOFED} tail"
_CAT = f"{_HEAD} nose torso neck {_LEGS} tail"
# `name`: the part's own name; `name>part`: renamed; `name>`: dropped; `_#`: a number follows.
_RAW = {
    "aeroplane": "body stern lwing>wing rwing>wing tail engine_# wheel_#",
    "bicycle": "fwheel>wheel bwheel>wheel saddle handlebar> chainwheel>wheel headlight_#",
    "bird": "head leye>eye reye>eye beak torso neck lwing>wing rwing>wing lleg>leg lfoot>foot rleg>leg rfoot>foot tail",
    "boat": "",
    "bottle": "cap body",
    "bus": _CAR,
    "car": _CAR,
    "cat": _CAT,
    "chair": "",
    "cow": _COW,
    "diningtable": "",
    "dog": f"{_CAT} muzzle",
    "horse": f"{_HEAD} muzzle torso neck {_HOOFED} tail lfho>hoof rfho>hoof lbho>hoof rbho>hoof",
    "motorbike": "fwheel>wheel bwheel>wheel handlebar> saddle headlight_#",
    "person": f"{_HEAD} lebrow>eyebrow rebrow>eyebrow nose mouth hair torso neck llarm>arm luarm>arm lhand>hand "
    "rlarm>arm ruarm>arm rhand>hand llleg>leg luleg>leg lfoot>foot rlleg>leg ruleg>leg rfoot>foot",
    "pottedplant": "pot plant",
    "sheep": _COW,
    "sofa": "",
    "train": "head hfrontside> hleftside> hrightside> hbackside> hroofside> headlight_# coach_#> "
    "cfrontside_#>coach_front cleftside_#>coach_left crightside_#>coach_right cbackside_#>coach_back "
    "croofside_#>coach_top",
    "tvmonitor": "screen",
}


def _table(text: str) -> dict[str, str | None]:
    """Raw name (`_#` for its number) -> part; None: dropped."""
    table: dict[str, str | None] = {}
    for entry in text.split():
        raw, renamed, part = entry.partition(">")
        table[raw] = (part or None) if renamed else raw.removesuffix("_#")
    return table


RAW_PARTS: dict[str, dict[str, str | None]] = {name: _table(text) for name, text in _RAW.items()}
"""Class -> raw part name (`_#` stands for its number) -> one of the 44 parts, or None: dropped."""


def part_of(class_name: str, raw: str, *, as_released: bool = False) -> str | None:
    """The one of the 44 parts that a raw part of a class is, or None where it is none of them.

    Args:
        class_name: VOC's or PASCAL-Part's name of the object's class.
        raw: PASCAL-Part's name of the part.
        as_released: name it as the released data do: by the first of the 44 that is a substring of the part's name, so
            that a handlebar is a `hand` and a headlight a `head`.

    Raises:
        InputError: the class or its part is unknown.
    """
    class_name = CLASS_NAMES.get(class_name, class_name)
    if class_name not in RAW_PARTS:
        raise InputError(f"the class '{class_name}' is none of PASCAL-Part's ({', '.join(RAW_PARTS)}).")
    numbered = re.sub(r"_[0-9]+$", "_#", raw)
    if numbered not in RAW_PARTS[class_name]:
        known = ", ".join(RAW_PARTS[class_name]) or "none"
        raise InputError(f"a {class_name} has no part '{raw}' in PASCAL-Part ({known}).")
    part = RAW_PARTS[class_name][numbered]
    if not as_released:
        return part
    searched = raw if raw == "handlebar" else part
    return None if searched is None else next(known for known in PARTS if known in searched)
