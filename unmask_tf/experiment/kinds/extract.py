"""Has the part extractor name the parts that it sees in the 8-bit form of images (Section III-B, step 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask_tf.experiment.kinds.shared import pixels
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.step import Output, Resources
from unmask_tf.files import read_json, write_json

VERSION = 1
SUFFIX = ".json"
FRESH = False
GPU = True
_AT_ONCE = 32  # images between two signs of progress


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What part sets depend on besides the extractor's weights and the images.

    Attributes:
        extractor: name in `EXTRACTORS`.
        options: its own settings.
        parts: the part names that it knows, in their order.
        classes, size: M's class names and input side, with which files are read.
        first, last: the images of this chunk, the last one exclusive.
    """

    extractor: str
    options: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...]
    classes: tuple[str, ...]
    size: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class HeldOutSettings(Settings):
    """Of images that the scores of K's parts were chosen on: each is judged by scores chosen without it."""

    held_out: bool = True


def cost(settings: Settings, inputs: Mapping[str, Any]) -> float:
    """In forward passes of a ResNet-50 on a 64x64 image."""
    side = settings.options.get("config", {}).get("IMAGE_MAX_DIM", 128)
    return (settings.last - settings.first) * 6.0 * (side / 128) ** 2


def entry(settings: Settings) -> Any:
    """The extractor's factory in `EXTRACTORS`."""
    from unmask_tf.defense.extract import EXTRACTORS

    return EXTRACTORS.get(settings.extractor)


def run(settings: Settings, inputs: Mapping[str, Any], output: Path, resources: Resources) -> dict[str, Any]:
    """Inputs: `images` (an attack's, or the user's), and `weights` (a file, or K's training) where there are some.
    Writes one dictionary an image: part -> [highest score, boxes (y1, x1, y2, x2)]."""
    quiet_and_deterministic(0)
    from unmask_tf.data.pixels import to_8bit

    rows = slice(settings.first, settings.last)
    images = to_8bit(pixels(inputs["images"], settings.classes, settings.size, rows))
    extractor = load_extractor(settings, inputs.get("weights"), resources)
    seen: list[dict[str, Any]] = []
    names = inputs["images"].names[rows] if isinstance(settings, HeldOutSettings) else ()
    for start in range(0, len(images), _AT_ONCE):
        chunk = slice(start, start + _AT_ONCE)
        for found in extractor.extract(images[chunk], *([names[chunk]] if names else [])):
            seen.append({part: [float(s.score), [list(map(int, box)) for box in s.boxes]] for part, s in found.items()})
        resources.progress(len(seen) / len(images))
    write_json(output, seen)
    return {"said": f"{sum(map(len, seen)) / len(seen):.1f} parts an image"}


def load_extractor(settings: Settings, weights: Path | Output | None, resources: Resources) -> Any:
    """The extractor of some settings, kept in the worker's memory."""
    from unmask_tf.defense.extract import EXTRACTORS
    from unmask_tf.errors import InputError
    from unmask_tf.experiment.step import canonical
    from unmask_tf.taxonomy import Taxonomy

    if settings.extractor not in EXTRACTORS:
        raise InputError(f"unknown part extractor '{settings.extractor}'. Choose one of: {', '.join(EXTRACTORS)}.")
    path = weights.path if isinstance(weights, Output) else weights
    source = (resources.input_keys.get("weights"), settings.extractor, canonical(settings.options), settings.parts)
    taxonomy = Taxonomy(settings.parts, {}, {})
    return resources.memory.get("k", source, lambda: EXTRACTORS[settings.extractor](path, taxonomy, settings.options))


def read_parts(path: Path) -> list[dict[str, Any]]:
    """What `run` wrote, as `Extraction`s of defense/extract.py."""
    from unmask_tf.defense.extract import PartSeen

    return [
        {part: PartSeen(score, tuple(tuple(box) for box in boxes)) for part, (score, boxes) in image.items()}
        for image in read_json(path)
    ]
