"""Parts, classes and class sets: the class-feature matrix V (Table I) and the overlap column of Table II."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_json

# The order fixes K's category ids: the detector's class index is the position + 1 (0 is background).
PARTS: tuple[str, ...] = tuple(
    [
        "plant",
        "torso",
        "licenseplate",
        "cap",
        "eyebrow",
        "tail",
        "ear",
        "horn",
        "mouth",
        "frontside",
        "mirror",
        "wheel",
        "vehicle_left",
        "nose",
        "screen",
        "arm",
        "neck",
        "muzzle",
        "coach_left",
        "coach_back",
        "head",
        "headlight",
        "stern",
        "pot",
        "window",
        "coach_right",
        "coach_front",
        "beak",
        "leg",
        "engine",
        "saddle",
        "hand",
        "vehicle_back",
        "paw",
        "hoof",
        "vehicle_top",
        "vehicle_right",
        "eye",
        "wing",
        "hair",
        "door",
        "body",
        "coach_top",
        "foot",
    ]
)

_CAR = "vehicle_left mirror door headlight wheel frontside vehicle_back licenseplate vehicle_top window vehicle_right"
_CLASS_PARTS = {
    "aeroplane": "stern body engine wheel tail wing",
    "bicycle": "wheel saddle",
    "bird": "eye beak foot torso head neck tail wing leg",
    "boat": "",
    "bottle": "body cap",
    "bus": _CAR,
    "car": _CAR,
    "cat": "paw nose ear eye torso head neck tail leg",
    "chair": "",
    "cow": "ear eye horn torso head neck tail muzzle leg",
    "diningtable": "",
    "dog": "paw nose ear eye torso head neck tail muzzle leg",
    "horse": "ear eye torso head hoof neck tail muzzle leg",
    "motorbike": "wheel saddle headlight",
    "person": "ear nose eye foot torso arm mouth head neck hair hand leg eyebrow",
    "pottedplant": "plant pot",
    "sheep": "ear eye horn torso head neck tail muzzle leg",
    "sofa": "",
    "train": "coach_front coach_right coach_left headlight coach_top head coach_back",
    "tvmonitor": "screen",
}
# The order inside a class set decides ties in the defence; labels are alphabetical.
_CLASS_SETS = {
    "cs3a": "car person train",
    "cs3b": "person dog bird",
    "cs5a": "dog car bottle train person",
    "cs5b": "dog car bird train person",
}
RELEASED_NAMES = {"cs3-1": "cs3a", "cs3-2": "cs3b", "cs5-1": "cs5a", "cs5-2": "cs5b"}

# A mirrored image shows the other side of a vehicle.
MIRRORED_PARTS = {
    "vehicle_left": "vehicle_right",
    "vehicle_right": "vehicle_left",
    "coach_left": "coach_right",
    "coach_right": "coach_left",
}


@dataclass(frozen=True)
class Taxonomy:
    """Parts, the parts expected of each class (matrix V), and named class sets.

    Attributes:
        parts: part names; position + 1 is K's class index.
        classes: class name -> expected part names (a row of V).
        class_sets: name -> class names, in the order that decides ties.
        mirror: part -> the part that it becomes in a left-right mirrored image; other parts keep their names.
    """

    parts: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    class_sets: Mapping[str, tuple[str, ...]]
    mirror: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("the taxonomy names no parts. Give at least one under 'parts'.")
        self._refuse_repeats("the taxonomy's list of parts", self.parts)
        for class_name, parts in self.classes.items():
            self._refuse_repeats(f"class '{class_name}'", parts)
            for part in parts:
                if part not in self.parts:
                    raise InputError(f"class '{class_name}' expects the part '{part}', which is not among 'parts'.")
        for set_name, members in self.class_sets.items():
            if not members:
                raise InputError(f"class set '{set_name}' names no classes. Give at least one.")
            self._refuse_repeats(f"class set '{set_name}'", members)
            for member in members:
                if member not in self.classes:
                    raise InputError(f"class set '{set_name}' names the class '{member}', which 'classes' lacks.")
        for part, other in self.mirror.items():
            if part not in self.parts or self.mirror.get(other) != part:
                raise InputError(
                    f"'mirror' turns '{part}' into '{other}', but both must be among 'parts' and each name the other."
                )

    @staticmethod
    def _refuse_repeats(where: str, names: tuple[str, ...]) -> None:
        for name, count in Counter(names).items():
            if not isinstance(name, str) or not name:
                raise InputError(f"{where} holds {name!r}, which is not a name. Give names as text.")
            if count > 1:
                raise InputError(f"{where} names '{name}' {count} times. Name it once.")

    def members(self, class_set: str) -> tuple[str, ...]:
        """Class names of a class set in its own order, which decides ties (released names are accepted)."""
        class_set = RELEASED_NAMES.get(class_set, class_set)
        if class_set not in self.class_sets:
            raise InputError(f"unknown class set '{class_set}'. Choose one of: {', '.join(sorted(self.class_sets))}.")
        return tuple(self.class_sets[class_set])

    def labels(self, class_set: str) -> tuple[str, ...]:
        """Class names of a class set in label order, which is alphabetical."""
        return tuple(sorted(self.members(class_set)))

    def expected(self, class_name: str) -> frozenset[str]:
        """V[class_name]: the set of parts expected of a class."""
        if class_name not in self.classes:
            raise InputError(f"unknown class '{class_name}'. Choose one of: {', '.join(sorted(self.classes))}.")
        return frozenset(self.classes[class_name])

    def matrix(self, class_names: tuple[str, ...]) -> np.ndarray:
        """V restricted to `class_names`: bool, shape (classes, parts)."""
        return np.array([[part in self.expected(name) for part in self.parts] for name in class_names], bool)

    def unique_parts(self, class_set: str) -> frozenset[str]:
        """Parts that any class of the set expects (Table II, column Parts)."""
        return frozenset().union(*(self.expected(name) for name in self.members(class_set)))

    def shared_parts(self, class_set: str) -> frozenset[str]:
        """Parts that two or more classes of the set expect."""
        counts = Counter(part for name in self.members(class_set) for part in self.expected(name))
        return frozenset(part for part, count in counts.items() if count > 1)

    def overlap(self, class_set: str) -> float:
        """Feature overlap in percent: shared parts over unique parts (Table II, column Overlap)."""
        unique = self.unique_parts(class_set)
        return 100.0 * len(self.shared_parts(class_set)) / len(unique) if unique else 0.0

    def to_json(self, path: str | Path) -> None:
        """Writes the taxonomy as taxonomy.json."""
        write_json(
            path,
            {
                "parts": list(self.parts),
                "classes": {name: list(parts) for name, parts in self.classes.items()},
                "class_sets": {name: list(members) for name, members in self.class_sets.items()},
                **({"mirror": dict(self.mirror)} if self.mirror else {}),
            },
        )

    @classmethod
    def from_json(cls, path: str | Path) -> Taxonomy:
        """Reads `{"parts": [...], "classes": {class: [parts]}, "class_sets": {name: [classes]}}`.

        It may also hold `"mirror": {part: part}`; without it, the paper's vehicle and coach sides are exchanged if
        the taxonomy has them.

        Raises:
            InputError: the file is missing, not JSON, or inconsistent.
        """
        content = read_json(path)
        try:
            parts = _names(content["parts"])
            mirror = {part: other for part, other in MIRRORED_PARTS.items() if {part, other} <= set(parts)}
            return cls(
                parts=parts,
                classes={name: _names(parts) for name, parts in content["classes"].items()},
                class_sets={name: _names(members) for name, members in content["class_sets"].items()},
                mirror=dict(content.get("mirror", mirror)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(
                f"{path} lacks 'parts', 'classes' or 'class_sets' in the expected form: {error!r}."
            ) from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def _names(value: object) -> tuple[str, ...]:
    # tuple() would split a text into its letters.
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list of names")
    return tuple(value)


UNMASK = Taxonomy(
    parts=PARTS,
    classes={name: tuple(parts.split()) for name, parts in _CLASS_PARTS.items()},
    class_sets={name: tuple(members.split()) for name, members in _CLASS_SETS.items()},
    mirror=MIRRORED_PARTS,
)
