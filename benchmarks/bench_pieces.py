"""Times the pieces that a run spends its time on: M's verdicts, attack steps on M, and K's extraction.

    make bench [PROFILE=mini]

Images per second on this machine, with random images; the first call of each, which compiles, is not counted.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

import click
import numpy as np

from unmask_tf.config import profile as profile_of
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.setup import WEIGHTS_FOLDER
from unmask_tf.mrcnn.part_names import part_names
from unmask_tf.taxonomy import UNMASK, Taxonomy

CLASSES = 3
SECONDS = 3.0


def images_per_second(work: Callable[[], object], images: int, seconds: float = SECONDS) -> float:
    """Throughput of `work`, which handles `images` images."""
    work()
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < seconds:
        work()
        calls += 1
    return calls * images / (time.perf_counter() - start)


@click.command()
@click.option("--profile", default="mini", show_default=True)
def main(profile: str) -> None:
    """Prints images per second of a profile's models."""
    settings = profile_of(profile)
    quiet_and_deterministic(0)
    from unmask_tf.attacks.module import logits_and_gradients
    from unmask_tf.classifiers.build import build_classifier
    from unmask_tf.classifiers.classifier import Classifier
    from unmask_tf.defense.extract import EXTRACTORS
    from unmask_tf.mrcnn.config import preset
    from unmask_tf.mrcnn.engines import REFERENCE, choose, instruction_sets

    count, size = settings.attack.batch_size, settings.classifier.input_size
    images = np.random.default_rng(0).random((count, size, size, 3), np.float32)
    labels = np.arange(count) % CLASSES
    print(f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores, {', '.join(instruction_sets())}")
    for architecture in settings.architectures:
        classifier = Classifier(build_classifier(architecture, CLASSES, input_size=size, weights="random"))
        module = classifier.torch_module()
        verdicts = images_per_second(lambda c=classifier: c.logits(images), count)
        steps = images_per_second(lambda m=module: logits_and_gradients(m, images, labels, batch_size=count), count)
        print(f"{architecture}: {verdicts:.1f} verdicts/s, {steps:.1f} attack steps/s")
    weights = WEIGHTS_FOLDER / settings.part_detector.weights
    if weights.is_file():
        parts = part_names(weights)
        taxonomy = Taxonomy(parts, {}, {}) if parts else UNMASK
        config = preset(settings.part_detector.preset, NUM_CLASSES=len(taxonomy.parts) + 1)
        bits, chosen = (255 * images[:8]).astype(np.uint8), choose()
        print(f"K: the engine auto is {chosen.engine}: {chosen.why}")
        for engine in dict.fromkeys((REFERENCE, chosen.engine)):
            extractor = EXTRACTORS["mask_rcnn"](weights, taxonomy, {"config": config.to_dict(), "engine": engine})
            print(f"K on {engine}: {images_per_second(lambda e=extractor: e.extract(bits), 8):.1f} extractions/s")


if __name__ == "__main__":
    main()
