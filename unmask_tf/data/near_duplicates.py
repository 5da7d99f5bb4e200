"""Near-duplicate images, by perceptual hash: re-encoded, scaled and slightly cropped copies of one picture.

A hash is imagehash's pHash of 16 x 16 coefficients, 256 bits; two pictures are near if at most `THRESHOLD` bits differ.
Different pictures differ in about 128. The usual 8 x 8 coefficients do not suffice: a threshold that forgives slight
crops lets drawn scenes match that merely show the same car.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from unmask_tf.data.images import read_image
from unmask_tf.errors import InputError

BITS = 256
THRESHOLD = 50
"""Forgives crops of up to 3 % a side. The tests marked photos measure it on photographs, where no two different
pictures match up to 60. From 52 on, drawn scenes of the embedded dataset match: `make leaks EXTRA="--threshold 60"`."""
MAX_PAIRS = 1_000_000
_ROWS, _COLUMNS = 32, 4096  # a block's distances fit into a core's cache
_THREADS = 2


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """The hash of one image.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        uint64 (4,): 256 bits.
    """
    import imagehash
    from PIL import Image

    bits = imagehash.phash(Image.fromarray(image), hash_size=16).hash
    return np.packbits(bits.ravel()).view(np.uint64)


def perceptual_hashes(paths: Sequence[Path]) -> tuple[np.ndarray, dict[Path, str]]:
    """Hashes of image files, with a progress bar.

    Returns:
        uint64 (N, 4) in the order of `paths`, and what is wrong with each file that cannot be read (its hash is 0).
    """
    from tqdm import tqdm

    damaged: dict[Path, str] = {}

    def one(path: Path) -> np.ndarray:
        try:
            return perceptual_hash(read_image(path))
        except InputError as error:
            damaged[path] = str(error)
            return np.zeros(BITS // 64, np.uint64)

    hashes = np.zeros((len(paths), BITS // 64), np.uint64)
    with ThreadPoolExecutor(_THREADS) as pool:
        for i, value in enumerate(tqdm(pool.map(one, paths), "hashing", total=len(paths), unit="image", leave=False)):
            hashes[i] = value
    return hashes, damaged


def near_pairs(first: np.ndarray, second: np.ndarray, threshold: int = THRESHOLD) -> np.ndarray:
    """All pairs of hashes that differ in at most `threshold` bits.

    Exact: block by block, the bits of half the words are counted; most pairs differ too much in these already, and only
    the rest are counted in full.

    Args:
        first: uint64 (N, W).
        second: uint64 (M, W).
        threshold: bits.

    Returns:
        int64 (K, 3): position in `first`, position in `second`, bits that differ; in order of the positions.

    Raises:
        InputError: there are more than `MAX_PAIRS`.
    """
    half = max(1, first.shape[1] // 2)

    def distances(a: np.ndarray, b: np.ndarray, words: slice) -> np.ndarray:
        pairs = zip(a.T[words], b.T[words], strict=True)
        return sum(np.bitwise_count(x[:, None] ^ y[None]).astype(np.uint16) for x, y in pairs)

    def rows(start: int) -> np.ndarray:
        a, found = first[start : start + _ROWS], [np.empty((0, 3), np.int64)]
        for column in range(0, len(second), _COLUMNS):
            b = second[column : column + _COLUMNS]
            i, j = np.nonzero(distances(a, b, slice(half)) <= threshold)
            bits = np.bitwise_count(a[i] ^ b[j]).sum(axis=1, dtype=np.int64)
            near = bits <= threshold
            found.append(np.stack([i[near] + start, j[near] + column, bits[near]], axis=1))
        pairs = np.concatenate(found)
        return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]

    result, count = [np.empty((0, 3), np.int64)], 0
    with ThreadPoolExecutor(_THREADS) as pool:
        # In portions, so that an endless list of pairs is noticed before it fills the memory.
        for portion in range(0, len(first), 64 * _ROWS):
            result += pool.map(rows, range(portion, min(portion + 64 * _ROWS, len(first)), _ROWS))
            count += sum(map(len, result[-64:]))
            if count > MAX_PAIRS:
                raise InputError(
                    f"more than {MAX_PAIRS} pairs of images differ in at most {threshold} of {BITS} bits. Lower the "
                    "threshold, or remove the images that are all alike, such as blank ones."
                )
    return np.concatenate(result)


def pairs_within(hashes: np.ndarray, threshold: int = THRESHOLD) -> np.ndarray:
    """`near_pairs` of one list with itself, each pair once: int64 (K, 3), the first position below the second."""
    pairs = near_pairs(hashes, hashes, threshold)
    return pairs[pairs[:, 0] < pairs[:, 1]]
