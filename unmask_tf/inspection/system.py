"""M, K and their threshold, loaded once; then one image at a time is classified, attacked if wished, and aligned."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from unmask_tf.attacks import Target
from unmask_tf.attacks.protocol import pixel_ids
from unmask_tf.attacks.runs import images_of, run_attack
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.data.class_images import resize_and_crop
from unmask_tf.data.images import read_image
from unmask_tf.defense.calibration import Calibration
from unmask_tf.defense.unmask import UnMask, Verdict
from unmask_tf.errors import InputError
from unmask_tf.experiment.release import released
from unmask_tf.experiment.setup import verify_weights
from unmask_tf.files import sha256
from unmask_tf.mrcnn.engines import AUTO
from unmask_tf.taxonomy import RELEASED_NAMES

if TYPE_CHECKING:
    from unmask_tf.defense.white_box import WhiteBox

SMALLEST_SIDE = 16
"""Pixels: in a smaller photograph neither K nor a person sees a part."""
LONGEST_SIDE = 20
"""Times the shorter one: of a longer strip M and K would see next to nothing."""
_SEED = 7


@dataclass(frozen=True)
class Look:
    """One image as the system saw it.

    Attributes:
        photo: uint8 (H, W, 3), the photograph, upright.
        seen: uint8 (S, S, 3), its centre square scaled to M's input, which both M and K see.
        benign: the verdict on it.
        attacked: float32 (S, S, 3) in [0, 1], the attacked square; M sees it as it is and K its 8-bit form; or None.
        verdict: on the attacked square, or None.
    """

    photo: np.ndarray
    seen: np.ndarray
    benign: Verdict
    attacked: np.ndarray | None = None
    verdict: Verdict | None = None


def read_photo(path: Path) -> np.ndarray:
    """Reads a photograph, upright: uint8 (H, W, 3).

    Raises:
        InputError: as `data.images.read_image`, and for a photograph that is too small, or a long strip.
    """
    with warnings.catch_warnings():
        # Pillow warns of many pixels before `read_image` refuses them.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        photo = read_image(path)
    height, width = photo.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"{path} has {width}x{height} pixels, which is too small to show parts. Give a photograph of at least "
            f"{SMALLEST_SIDE} pixels a side."
        )
    if max(height, width) > LONGEST_SIDE * min(height, width):
        raise InputError(
            f"{path} has {width}x{height} pixels, of which only the centre square is seen. Crop it to what it shows."
        )
    return photo


class System:
    """A released M with the K and the threshold that belong to it.

    Args:
        m_weights: M's file, written by `experiment.release`.
        k_weights: K's file; None: that of the name in M's file, beside M or in `folder`.
        folder: where shipped weights lie.
        threshold: instead of the file's own.
        threat: how each image is attacked; None: not at all.

    Raises:
        InputError: a file is missing, damaged or not the listed one, M was released without a defence or with another K
            and there is no `threshold`, or `threshold` is no distance.
    """

    def __init__(
        self,
        m_weights: Path,
        k_weights: Path | None,
        folder: Path,
        *,
        threshold: float | None = None,
        threat: ThreatModel | None = None,
    ) -> None:
        from unmask_tf.classifiers.build import load_classifier
        from unmask_tf.classifiers.classifier import Classifier
        from unmask_tf.defense.extract import EXTRACTORS

        if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
            raise InputError(f"the threshold is {threshold}. Give a distance from 0 to 1, such as 0.8.")
        _check_file(m_weights)
        model, metadata = load_classifier(m_weights)
        self.calibration = Calibration.from_metadata(metadata, str(m_weights))
        if k_weights is None:
            beside = m_weights.parent / self.calibration.k_file
            k_weights = beside if beside.is_file() else folder / self.calibration.k_file
        _check_file(k_weights)
        if threshold is None and sha256(k_weights) != self.calibration.k_sha256:
            raise InputError(
                f"the threshold in {m_weights} was chosen with another K than {k_weights}. Use that one "
                f"({self.calibration.k_file}, SHA-256 {self.calibration.k_sha256[:12]}...), or name a threshold "
                "(--threshold)."
            )
        self.m_weights, self.k_weights, self.threat = m_weights, k_weights, threat
        self.classifier = Classifier(model, batch_size=1)
        settings = {"config": self.calibration.k_config, "batch_size": 1, "engine": AUTO}
        k = EXTRACTORS["mask_rcnn"](k_weights, self.calibration.taxonomy, settings)
        self.unmask = UnMask(
            self.classifier.logits,
            k,
            self.calibration.taxonomy,
            self.calibration.class_set,
            self.calibration.threshold if threshold is None else threshold,
        )
        self.size = int(metadata["input_size"])
        self.architecture = metadata["architecture"]
        # All graphs are traced here and none later: every image has the same shape.
        self.look(np.zeros((self.size, self.size, 3), np.uint8))

    @property
    def labels(self) -> tuple[str, ...]:
        """M's classes, in label order."""
        return self.calibration.taxonomy.labels(self.calibration.class_set)

    @cached_property
    def _white_box(self) -> WhiteBox:
        """K, for an attack that knows it."""
        from unmask_tf.defense.white_box import WhiteBox
        from unmask_tf.mrcnn.config import Config

        config, known = Config.from_dict(dict(self.calibration.k_config)), self.calibration
        return WhiteBox(config, self.k_weights, known.taxonomy, known.class_set, batch_size=1)

    def look(self, photo: np.ndarray) -> Look:
        """Classifies and aligns a photograph, uint8 (H, W, 3), and where there is a threat model, attacks it as well.

        The attack knows what its entry in `ATTACKS` says, and leads away from what M says of the benign image.
        """
        seen = np.ascontiguousarray(resize_and_crop(photo, self.size))
        (benign,) = self.unmask.predict(seen[None])
        if self.threat is None:
            return Look(photo, seen, benign)
        pixels = seen[None].astype(np.float32) / np.float32(255)
        label = np.array([self.labels.index(benign.predicted_class)], np.int64)
        target = Target(self.classifier, self._white_box if "K" in self.threat.spec.knows else None)
        found = run_attack(target, pixels, label, self.threat, seed=_SEED, ids=pixel_ids(pixels))
        attacked = images_of(found)
        (verdict,) = self.unmask.predict(attacked)
        return Look(photo, seen, benign, attacked[0], verdict)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"the weights {path} do not exist. Check the path, or restore the file (git checkout).")
    verify_weights(path)


def released_m(folder: Path, class_set: str | None, architecture: str | None, preferred: tuple[str, str]) -> Path:
    """The released M in a folder that fits the user's wishes.

    Args:
        folder: where `experiment.release` has put its files.
        class_set, architecture: None: the preferred one where a file has it, else the only one there is.
        preferred: class set and architecture.

    Raises:
        InputError: none fits, or several do.
    """
    there = released(folder)
    fitting = list(there)
    for position, (wish, first) in enumerate(zip((class_set, architecture), preferred, strict=True)):
        wished = RELEASED_NAMES.get(wish, wish) if wish else first
        kept = [key for key in fitting if key[position] == wished]
        fitting = kept if kept or wish else fitting
    if len(fitting) == 1:
        return there[fitting[0]]
    found = "; ".join(f"--class-set {name} --architecture {kind}" for name, kind in sorted(there)) or "none"
    raise InputError(
        f"{folder} holds {len(fitting) or 'no'} released classifiers for class set {class_set or 'any'} and "
        f"architecture {architecture or 'any'}. Choose one that is there ({found}), or name a file (--m-weights)."
    )
