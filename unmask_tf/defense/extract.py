"""K as an extractor of robust features: images in, sets of part names out (Section III-B, step 2)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unmask_tf.config import Profile
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.config import Config, preset
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import load_weights
from unmask_tf.taxonomy import UNMASK, Taxonomy


class PartExtractor:
    """Extracts the set of parts that K sees in an image: the names of all its detections, without masks.

    K is built once; part sets are remembered by the image's content.

    Args:
        config: K's configuration; DETECTION_MIN_CONFIDENCE is the score a part needs (0 as released: any).
        weights: K's weights, a Matterport-layout `.h5`.
        taxonomy: names K's class indices (position + 1).
        batch_size: images per network call; the last batch is padded, so that K compiles once.
    """

    def __init__(self, config: Config, weights: str | Path, taxonomy: Taxonomy = UNMASK, batch_size: int = 8) -> None:
        if len(taxonomy.parts) + 1 != config.NUM_CLASSES:
            raise InputError(
                f"K has {config.NUM_CLASSES} outputs, but the taxonomy has {len(taxonomy.parts)} parts and a "
                "background. Use the taxonomy K was trained with."
            )
        self.taxonomy, self.batch_size = taxonomy, batch_size
        self.model = MaskRCNN("inference", config, Path(weights).parent)
        load_weights(self.model.keras_model, weights)
        self._known: dict[bytes, frozenset[str]] = {}

    @classmethod
    def from_profile(cls, profile: Profile, weights: str | Path, taxonomy: Taxonomy = UNMASK) -> PartExtractor:
        """The extractor a profile names, with the given weights."""
        config = preset(profile.part_detector.preset, NUM_CLASSES=len(taxonomy.parts) + 1)
        return cls(config, weights, taxonomy)

    def extract(self, images: np.ndarray, progress: bool = False) -> list[frozenset[str]]:
        """Part sets of RGB images uint8 (N, H, W, 3).

        Raises:
            InputError: not uint8 or not of this shape.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(
                f"K needs uint8 images of shape (N, H, W, 3), but got {images.dtype} {images.shape}. "
                "Turn pixels in [0, 1] into 8-bit form with floor(255 * x)."
            )
        keys = [hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest() for image in images]
        new = list({key: i for i, key in enumerate(keys) if key not in self._known}.values())
        for start in tqdm(range(0, len(new), self.batch_size), desc="K extracts", unit="batch", disable=not progress):
            rows = new[start : start + self.batch_size]
            padded = rows + rows[-1:] * (self.batch_size - len(rows))
            results = self.model.detect_boxes([images[i] for i in padded])
            for row, result in zip(rows, results, strict=False):
                self._known[keys[row]] = frozenset(self.taxonomy.parts[i - 1] for i in result["class_ids"])
        return [self._known[key] for key in keys]
