"""Times the exact comparison of perceptual hashes, and compares its pairs with brute force on a part.

    .venv/bin/python benchmarks/bench_near_duplicates.py [--images 25000]

The hashes are random; a tenth of them are near one of the other list.
"""

from __future__ import annotations

import os
import time

import click
import numpy as np

from unmask_tf.data.near_duplicates import BITS, THRESHOLD, near_pairs


@click.command()
@click.option("--images", default=25_000, show_default=True, help="In each of the two lists.")
def main(images: int) -> None:
    """Seconds to find all near pairs of two lists."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2**64, (2, images, BITS // 64), dtype=np.uint64)
    second[: images // 10] = first[: images // 10] ^ np.uint64(0b1011)
    start = time.perf_counter()
    pairs = near_pairs(first, second)
    seconds = time.perf_counter() - start
    part = first[: images // 100 + 1]
    distances = np.bitwise_count(part[:, None] ^ second[None]).sum(axis=-1)
    i, j = np.nonzero(distances <= THRESHOLD)
    assert np.array_equal(pairs[pairs[:, 0] < len(part)], np.stack([i, j, distances[i, j]], axis=1))
    click.echo(
        f"{images} x {images} hashes of {BITS} bits: {len(pairs)} near pairs in {seconds:.1f} s on "
        f"{os.cpu_count()} cores; those of the first {len(part)} equal brute force"
    )


if __name__ == "__main__":
    main()
