"""The shipped weights, ready to use: K for photographs, and the classifiers with which it was calibrated."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from unmask_tf.defense.extract import PartExtractor
from unmask_tf.experiment.quiet import import_quietly
from unmask_tf.inspection.system import System, released_m
from unmask_tf.mrcnn.config import preset
from unmask_tf.mrcnn.part_names import part_names
from unmask_tf.places import WEIGHTS_FOLDER
from unmask_tf.taxonomy import Taxonomy

PHOTOS_K = WEIGHTS_FOLDER / "unmask_k_photos.h5"
_PREFERRED = ("cs5b", "mobilenet_v2")


def photo_parts() -> tuple[str, ...]:
    """The parts that the shipped K for photographs can see.

    Raises:
        OSError: its file is missing or damaged.
    """
    return part_names(PHOTOS_K)


def load_photos_k(expected: Mapping[str, Sequence[str]], name: str = "mine", batch_size: int = 8) -> PartExtractor:
    """The shipped K for photographs, with the parts that your classes should show.

    Args:
        expected: class -> its parts, of `photo_parts()`; the order of the classes decides ties.
        name: of the class set that these classes make, for `UnMask`.
        batch_size: images per network call.

    Returns:
        A part extractor for RGB images, uint8 (N, H, W, 3); its `taxonomy` is the one to give `UnMask`.

    Raises:
        InputError: a part that K does not know, a class without parts, or a damaged file.
    """
    _quiet()
    parts = photo_parts()
    taxonomy = Taxonomy(parts, {label: tuple(own) for label, own in expected.items()}, {name: tuple(expected)})
    return PartExtractor(preset("photos", NUM_CLASSES=len(parts) + 1), PHOTOS_K, taxonomy, batch_size)


def load_photos_system(class_set: str = _PREFERRED[0]) -> System:
    """A shipped classifier of photographs with K and the threshold chosen for both.

    Args:
        class_set: `cs3a` (car, person, train) or `cs5b` (bird, car, dog, person, train).

    Returns:
        The system: `look(read_photo(path)).benign` is its verdict.

    Raises:
        InputError: no shipped classifier is of that class set, or a file is damaged.
    """
    _quiet()
    return System(released_m(WEIGHTS_FOLDER, class_set, _PREFERRED[1], _PREFERRED), None, WEIGHTS_FOLDER)


def _quiet() -> None:
    """Keeps TensorFlow's log lines from between the verdicts, unless TF_CPP_MIN_LOG_LEVEL asks for them."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import_quietly()
