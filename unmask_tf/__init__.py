"""UnMask (Freitas et al., IEEE Big Data 2020) in Keras: detect and undo attacks by the parts one sees.

The names below are the public interface; they are imported when first used, since some bring TensorFlow with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "InputError": "errors",
    "Taxonomy": "taxonomy",
    "MaskRCNN": "mrcnn",
    "PartExtractor": "defense.extract",
    "UnMask": "defense.unmask",
    "Verdict": "defense.unmask",
    "load_photos_k": "shipped",
    "load_photos_system": "shipped",
    "photo_parts": "shipped",
    "read_photo": "inspection.system",
}
__all__ = [
    "InputError",
    "MaskRCNN",
    "PartExtractor",
    "Taxonomy",
    "UnMask",
    "Verdict",
    "load_photos_k",
    "load_photos_system",
    "photo_parts",
    "read_photo",
]

if TYPE_CHECKING:
    from unmask_tf.defense.extract import PartExtractor
    from unmask_tf.defense.unmask import UnMask, Verdict
    from unmask_tf.errors import InputError
    from unmask_tf.inspection.system import read_photo
    from unmask_tf.mrcnn import MaskRCNN
    from unmask_tf.shipped import load_photos_k, load_photos_system, photo_parts
    from unmask_tf.taxonomy import Taxonomy


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
