"""Times the pieces that a run spends its time on: M's verdicts, attack steps on M, and K's extraction."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unmask_tf.config import Profile
from unmask_tf.files import write_json
from unmask_tf.reproduce.stages import quiet_and_deterministic
from unmask_tf.taxonomy import Taxonomy

_CLASSES = 3
_SECONDS = 3.0


def images_per_second(work: Callable[[], object], images: int, seconds: float = _SECONDS) -> float:
    """Throughput of `work`, which handles `images` images; the first call, which compiles, is not counted."""
    work()
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        work()
        calls += 1
    return calls * images / (time.perf_counter() - start)


def benchmark(profile: Profile, k_weights: Path, taxonomy: Taxonomy, path: Path) -> dict[str, Any]:
    """Measures a profile's models on random images, and writes and returns the result.

    Args:
        profile: names the architectures, image size, attack and K.
        k_weights: K's weights; K is left out where they are missing.
        taxonomy: K's parts.
        path: the JSON file to write.

    Returns:
        `images_per_second`: name -> images per second (`attack step`: one forward and backward pass by the image),
        and `machine`.
    """
    quiet_and_deterministic(0)
    from unmask_tf.attacks.advertorch_bridge import logits_and_gradients
    from unmask_tf.classifiers.build import build_classifier
    from unmask_tf.classifiers.torch_port import to_torch

    count, size = profile.attack.batch_size, profile.classifier.input_size
    images = np.random.default_rng(0).random((count, size, size, 3), np.float32)
    labels = np.arange(count) % _CLASSES
    speed: dict[str, float] = {}
    for architecture in profile.architectures:
        model = build_classifier(architecture, _CLASSES, input_size=size, weights="random")
        module = to_torch(model, fold_batch_norm=True)
        speed[f"{architecture} verdict"] = images_per_second(lambda m=model: m.predict_on_batch(images), count)
        speed[f"{architecture} attack step"] = images_per_second(
            lambda m=module: logits_and_gradients(m, images, labels, batch_size=count), count
        )
    if k_weights.is_file():
        from unmask_tf.defense.extract import PartExtractor

        extractor = PartExtractor.from_profile(profile, k_weights, taxonomy)
        seen = iter(range(256))

        def extract() -> None:
            # The extractor remembers images, so each call needs new ones.
            extractor.extract(np.full((8, size, size, 3), next(seen), np.uint8) ^ (255 * images[:8]).astype(np.uint8))

        speed["K extraction"] = images_per_second(extract, 8)
    machine = {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()}
    result = {"images_per_second": {name: round(value, 2) for name, value in speed.items()}, "machine": machine}
    write_json(path, result)
    return result
