"""The engines of a trained K in turn on the same images: do they see the same parts, and how long do they take?

    python benchmarks/k_engines.py --profile mini
    python benchmarks/k_engines.py --profile photos --data ../photos --engines openvino,openvino_int8

The images are the class images of the validation split as K sees them. TensorFlow in float32 is what the others are
compared with. `AUC` is how well the similarity (Equation 4) tells an image's own class from another one, drawn by a
seed: the detection's AUC if M were always fooled and the parts always stayed. Memory is not measured here, because all
engines share the process: `make bench-k` does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_k import agreement, machine

from unmask_tf.errors import InputError
from unmask_tf.experiment.quiet import import_quietly
from unmask_tf.files import write_json
from unmask_tf.mrcnn.engines import PRECISIONS, REFERENCE, choose
from unmask_tf.taxonomy import Taxonomy

_SEED = 0


def compare(reference: Sequence[Any], other: Sequence[Any], parts: Sequence[str]) -> dict[str, float]:
    """How two engines' extractions agree: part sets, and the scores of the parts that both have seen."""
    index = {part: i for i, part in enumerate(parts)}
    sets = [{str(i): [index[p] for p in found] for i, found in enumerate(rows)} for rows in (reference, other)]
    pairs = list(zip(reference, other, strict=True))
    gaps = [abs(a[part].score - b[part].score) for a, b in pairs for part in a.keys() & b.keys()]
    return {**agreement(*sets, parts=len(parts)), "score_gap": max(gaps, default=0.0)}


def separation(extractions: Sequence[Any], labels: Sequence[int], taxonomy: Taxonomy, classes: Sequence[str]) -> float:
    """AUC of the similarity to each image's own class against that to another."""
    from unmask_tf.defense.alignment import auc, similarities

    found, rng = similarities([set(e) for e in extractions], taxonomy, classes), np.random.RandomState(_SEED)
    own, rows = np.asarray(labels), np.arange(len(labels))
    other = (own + rng.randint(1, len(classes), len(own))) % len(classes)
    scores = 1 - np.concatenate([found[rows, own], found[rows, other]])
    return auc(scores, np.repeat([0, 1], len(own)))


def extract_in_turn(
    extractors: dict[str, Any], images: np.ndarray, batch: int
) -> tuple[dict[str, list[Any]], dict[str, dict[str, float]]]:
    """Every engine sees a batch, then all see the next.

    Returns:
        Per engine its extractions, and the median seconds an image, by the clock and of the processors.
    """
    found, clock, work = ({name: [] for name in extractors} for _ in range(3))
    for name in extractors:
        extractors[name].extract(images[:batch])  # what compiles is not counted
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch]
        for name, extractor in extractors.items():
            started, worked = time.perf_counter(), time.process_time()
            found[name] += extractor.extract(chunk)
            clock[name].append((time.perf_counter() - started) / len(chunk))
            work[name].append((time.process_time() - worked) / len(chunk))
    middle = statistics.median
    return found, {n: {"seconds": middle(clock[n]), "cpu_seconds": middle(work[n])} for n in extractors}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed."""
    import_quietly()
    from unmask_tf.data.class_images import load_class_images
    from unmask_tf.defense.extract import EXTRACTORS
    from unmask_tf.experiment.grid import Grid
    from unmask_tf.experiment.setup import prepare

    run = prepare(arguments.profile, data=arguments.data)
    if run.k_weights is None:
        raise InputError("there is no trained K for this data. Name a profile whose K is shipped.")
    class_set, grid = run.profile.class_sets[-1], Grid(run)
    size = run.profile.classifier.input_size
    shown = load_class_images(run.root, class_set, "val", taxonomy=run.taxonomy, size=size, limit=arguments.images)
    images, labels = shown.images, shown.labels
    names = [REFERENCE, *(name for name in arguments.engines if name != REFERENCE)]
    options = {"config": grid.k_config(), "batch_size": arguments.batch}
    extractors = {n: EXTRACTORS["mask_rcnn"](run.k_weights, run.taxonomy, {**options, "engine": n}) for n in names}
    found, seconds = extract_in_turn(extractors, images, arguments.batch)
    classes, reference = run.taxonomy.labels(class_set), found[REFERENCE]
    chosen = choose()
    return {
        "machine": machine(),
        "auto": f"{chosen.engine}: {chosen.why}",
        "profile": arguments.profile,
        "images": len(images),
        "batch": arguments.batch,
        "engines": {
            name: {
                **seconds[name],
                "times_faster": seconds[REFERENCE]["seconds"] / seconds[name]["seconds"],
                "times_less_work": seconds[REFERENCE]["cpu_seconds"] / seconds[name]["cpu_seconds"],
                **compare(reference, found[name], run.taxonomy.parts),
                "auc": separation(found[name], labels, run.taxonomy, classes),
            }
            for name in names
        },
    }


def show(record: dict[str, Any]) -> None:
    """Prints a record as a table, and what is slower than the reference."""
    print(f"{record['machine']}\nauto: {record['auto']}")
    print(f"{record['profile']}: {record['images']} images in batches of {record['batch']}")
    heads = zip(
        ("ms", "CPU ms", "faster", "CPU", "sets", "members", "gap", "AUC"), (8, 8, 7, 6, 7, 8, 8, 7), strict=True
    )
    print(f"{'engine':18} " + " ".join(f"{head:>{width}}" for head, width in heads))
    for name, line in record["engines"].items():
        print(
            f"{name:18} {1e3 * line['seconds']:8.1f} {1e3 * line['cpu_seconds']:8.1f} {line['times_faster']:6.2f}x "
            f"{line['times_less_work']:5.2f}x {line['equal_sets']:7.1%} {line['equal_memberships']:8.2%} "
            f"{line['score_gap']:8.1e} {line['auc']:7.4f}"
        )
    for name, line in record["engines"].items():
        if line["times_less_work"] < 1:
            print(f"{name} is slower than {REFERENCE} on this machine, by the processors' time")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--engines", default=",".join(PRECISIONS), help="names, comma-separated")
    parser.add_argument("--images", type=int, default=200, help="at most (default 200)")
    parser.add_argument("--batch", type=int, default=1, help="images a call (default 1)")
    parser.add_argument("--record", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    arguments.engines = [name.strip() for name in arguments.engines.split(",")]
    try:
        record = measure(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(record)
    if arguments.record:
        write_json(arguments.record, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
