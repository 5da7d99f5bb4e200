"""Chooses the scores from which a trained K is believed, on the classes' benign validation images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask_tf.experiment.kinds.shared import pixels
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.step import Files, Output, Resources

if TYPE_CHECKING:
    import numpy as np

VERSION = 2
SUFFIX = ".h5"
FRESH = False
GPU = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the scores depend on besides K's weights and the images.

    Attributes:
        config: K's settings (`Config.to_dict`).
        parts: the data's part names, in their order.
        expected: (class, its parts).
        class_sets: (name, classes).
        size: M's input side, with which images are read.
    """

    config: Mapping[str, Any]
    parts: tuple[str, ...]
    expected: tuple[tuple[str, tuple[str, ...]], ...]
    class_sets: tuple[tuple[str, tuple[str, ...]], ...]
    size: int


def cost(settings: Settings, inputs: Mapping[str, Any]) -> float:
    """In forward passes of a ResNet-50 on a 64x64 image."""
    images = sum(len(files) for name, files in inputs.items() if name != "weights")
    return images * 12.0 * (settings.config["IMAGE_MAX_DIM"] / 128) ** 2


def run(settings: Settings, inputs: Mapping[str, Any], output: Path, resources: Resources) -> dict[str, Any]:
    """Inputs: `weights` (a file, or K's training), and `images_<class set>`, validation images of each. Writes K's
    weights with the scores in them."""
    quiet_and_deterministic(0)
    from unmask_tf.mrcnn.part_names import part_scores, write_part_scores

    weights = inputs["weights"].path if isinstance(inputs["weights"], Output) else inputs["weights"]
    images = {name.removeprefix("images_"): files for name, files in inputs.items() if name != "weights"}
    start = part_scores(weights) or dict.fromkeys(settings.parts, 0.5)
    scores, held_out = class_scores(settings, weights, images, start, resources.progress)
    write_part_scores(weights, output, scores, held_out)
    return {"part_scores": scores, "said": f"scores of {len(scores)} parts"}


def class_scores(
    settings: Settings,
    weights: Path,
    images: Mapping[str, Files],
    start: Mapping[str, float],
    progress: Callable[[float], None],
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Part -> the score from which K is believed (`defense.part_scores`), and the same chosen without each fold.

    Args:
        settings: the step's.
        weights: K.
        images: class set -> its validation images.
        start: part -> the score to begin with.
        progress: called with the share that is done.
    """
    from unmask_tf.data.pixels import to_8bit
    from unmask_tf.defense.part_scores import CANDIDATES, held_out_scores, separating_scores
    from unmask_tf.mrcnn.config import Config
    from unmask_tf.mrcnn.fast import FastDetector
    from unmask_tf.mrcnn.part_scores import highest_scores

    sets = dict(settings.class_sets)
    # An image of several class sets counts once: it is the same file, or a file of the same name and class.
    shown: dict[tuple[str, str], tuple[str, int]] = {}
    for name, files in images.items():
        for number, path in enumerate(files.names):
            shown.setdefault((Path(path).parent.name, Path(path).name), (name, number))
    squares = {name: to_8bit(pixels(files, sets[name], settings.size)) for name, files in images.items()}
    found = list(shown.values())
    config = Config.from_dict(dict(settings.config)).replace(DETECTION_MIN_CONFIDENCE=float(CANDIDATES[0]))

    def view(row: int) -> np.ndarray:
        """Every image as it is, then every image mirrored."""
        name, number = found[row % len(found)]
        return squares[name][number] if row < len(found) else squares[name][number][:, ::-1]

    detector, parts = FastDetector(config, weights), len(settings.parts)
    scores = highest_scores(detector, 2 * len(found), view, parts, progress=progress)
    labels, expected = 2 * [label for label, _ in shown], dict(settings.expected)
    names = 2 * ["/".join(key) for key in shown]
    chosen = separating_scores(scores, labels, expected, sets, settings.parts, start)
    return chosen, held_out_scores(scores, names, labels, expected, sets, settings.parts)
