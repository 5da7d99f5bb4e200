"""K as an extractor of robust features: images in, sets of part names out (Section III-B, step 2)."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from unmask_tf.config import Profile
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.config import Config, preset
from unmask_tf.mrcnn.fast import FastDetector
from unmask_tf.mrcnn.image import canvas_size, cropped_size
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import check_parts, load_weights
from unmask_tf.taxonomy import UNMASK, Taxonomy

_ABSENT = -1.0


class PartExtractor:
    """Extracts the set of parts that K sees in an image: the names of all its detections, without masks.

    K is built once; an image's parts are remembered by its content. Every option after `batch_size` is off by default;
    `make bench-k` measures what each gains, and how far the part sets agree.

    Args:
        config: K's configuration; DETECTION_MIN_CONFIDENCE is the score a part needs (0 as released: any).
        weights: K's weights, a Matterport-layout `.h5`.
        taxonomy: names K's class indices (position + 1).
        batch_size: images per network call; the last batch is padded, so that K compiles once.
        fold_batch_norm: fold batch normalisation into the convolutions: the same function up to rounding, sooner.
        dtype: `float32`; `bfloat16` for most of the arithmetic; `bfloat16_all` for every convolution. Both fold batch
            normalisation too, and pay on processors with bfloat16 instructions (lscpu: avx512_bf16, amx_bf16).
        crop_canvas: cut the square canvas's zero padding to the next multiple of 64; parts near the border change.
        score_threshold: leave out parts whose highest score is lower.
        cache_size: images remembered, the latest seen; 0 remembers none.

    Raises:
        InputError: an option out of range, weights that do not fit, or a taxonomy of another size than K's or of other
            parts than the weights name.
    """

    def __init__(
        self,
        config: Config,
        weights: str | Path,
        taxonomy: Taxonomy = UNMASK,
        batch_size: int = 8,
        *,
        fold_batch_norm: bool = False,
        dtype: str = "float32",
        crop_canvas: bool = False,
        score_threshold: float = 0.0,
        cache_size: int = 65536,
    ) -> None:
        if len(taxonomy.parts) + 1 != config.NUM_CLASSES:
            raise InputError(
                f"K has {config.NUM_CLASSES} outputs, but the taxonomy has {len(taxonomy.parts)} parts and a "
                "background. Use the taxonomy K was trained with."
            )
        if batch_size < 1 or cache_size < 0 or not 0 <= score_threshold <= 1:
            raise InputError(
                f"batch_size is {batch_size}, cache_size {cache_size}, score_threshold {score_threshold}. Choose at "
                "least 1, at least 0, and 0 to 1."
            )
        self.taxonomy, self.batch_size, self.score_threshold = taxonomy, batch_size, score_threshold
        self.model: MaskRCNN | FastDetector
        if fold_batch_norm or dtype != "float32" or crop_canvas:
            self.model = FastDetector(
                config, weights, fold_batch_norm=fold_batch_norm, dtype=dtype, crop_canvas=crop_canvas
            )
        else:
            self.model = MaskRCNN("inference", config, Path(weights).parent)
            load_weights(self.model.keras_model, weights)
        check_parts(weights, taxonomy.parts)
        self._canvas = cropped_size if crop_canvas else canvas_size
        self._cache_size = cache_size
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()

    @classmethod
    def from_profile(cls, profile: Profile, weights: str | Path, taxonomy: Taxonomy = UNMASK) -> PartExtractor:
        """The extractor a profile names, with the given weights."""
        config = preset(profile.part_detector.preset, NUM_CLASSES=len(taxonomy.parts) + 1)
        return cls(config, weights, taxonomy)

    def extract(self, images: np.ndarray | Sequence[np.ndarray], progress: bool = False) -> list[frozenset[str]]:
        """Part sets of RGB images: uint8 (N, H, W, 3), or a list of uint8 (H, W, 3) of any sizes.

        Raises:
            InputError: not uint8 or not of this shape.
        """
        return [frozenset(parts) for parts in self.extract_scored(images, progress)]

    def extract_scored(
        self, images: np.ndarray | Sequence[np.ndarray], progress: bool = False
    ) -> list[dict[str, float]]:
        """As `extract`, with each part's highest score (0..1): one dictionary per image."""
        _check(images)
        keys = [_key(image) for image in images]
        found = {key: self._known[key] for key in keys if key in self._known}
        new = {key: row for row, key in reversed(list(enumerate(keys))) if key not in found}
        batches = list(self._batches(images, sorted(new.values())))
        for rows in tqdm(batches, desc="K extracts", unit="batch", disable=not progress):
            padded = rows + rows[-1:] * (self.batch_size - len(rows))
            results = self.model.detect_boxes([images[i] for i in padded])
            for row, result in zip(rows, results, strict=False):
                best = np.full(len(self.taxonomy.parts), _ABSENT, np.float32)
                np.maximum.at(best, np.asarray(result["class_ids"], int) - 1, result["scores"])
                found[keys[row]] = best
        self._remember(keys, found)
        return [self._parts(found[key]) for key in keys]

    def _parts(self, best: np.ndarray) -> dict[str, float]:
        present = np.flatnonzero(best >= max(self.score_threshold, 0.0))
        return {self.taxonomy.parts[i]: float(best[i]) for i in present}

    def _batches(self, images: np.ndarray | Sequence[np.ndarray], rows: list[int]) -> Iterator[list[int]]:
        """Rows in batches of one canvas size."""
        groups: dict[tuple[int, int], list[int]] = {}
        for row in rows:
            height, width = images[row].shape[:2]
            groups.setdefault(self._canvas(height, width, self.model.config), []).append(row)
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    def _remember(self, keys: list[bytes], found: dict[bytes, np.ndarray]) -> None:
        for key in keys[-self._cache_size :] if self._cache_size else ():
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > self._cache_size:
            self._known.popitem(last=False)


def _check(images: np.ndarray | Sequence[np.ndarray]) -> None:
    if isinstance(images, np.ndarray):
        bad = images if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 else None
        what = "images"
    else:
        wrong = (
            i
            for i, image in enumerate(images)
            if not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[-1] != 3
            or image.size == 0
        )
        number = next(wrong, None)
        bad, what = (None, "") if number is None else (images[number], f"image {number} of the list")
    if bad is not None:
        dtype, shape = getattr(bad, "dtype", type(bad).__name__), np.shape(bad)
        raise InputError(
            f"K needs uint8 images of shape (N, H, W, 3), or a list of (H, W, 3), but got {dtype} {shape} ({what}). "
            "Turn pixels in [0, 1] into 8-bit form with floor(255 * x)."
        )


def _key(image: np.ndarray) -> bytes:
    """A digest of the image's shape and pixels."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image))
    return digest.digest()
