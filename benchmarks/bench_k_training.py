"""Training steps of K and of Matterport's original in turn: images a second, from the same weights on the same batch.

    make bench-k-training EXTRA="--steps 12"

The batch is prepared beforehand, so that the network's step alone is timed. The original needs the environment that
`make golden` makes; without it only ours is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from bench_k import CLASSES, HERE, ORIGINAL, OURS, ROOT, machine, original_python
from turns import Worker

from unmask_tf.errors import InputError
from unmask_tf.files import write_json


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the steps in turn and returns what they took."""
    work = ROOT / ".cache" / "bench_k"
    work.mkdir(parents=True, exist_ok=True)
    config = {
        "BACKBONE": arguments.backbone,
        "NUM_CLASSES": CLASSES,
        "IMAGE_MIN_DIM": arguments.canvas,
        "IMAGE_MAX_DIM": arguments.canvas,
        "IMAGES_PER_GPU": arguments.batch,
    }
    settings = {
        "config": config,
        "layers": arguments.layers,
        "folder": str(work),
        "weights": str(work / f"seeded_{arguments.backbone}_{CLASSES}.h5"),
        "batch": str(work / f"batch_{arguments.batch}_{arguments.canvas}.npz"),
        "keep_freed_memory": arguments.keep_freed_memory,
    }
    Worker(OURS, {**settings, "task": "preparation"}, work / "preparation.log").close()
    python, workers = original_python(arguments.original_python), {}
    steps: dict[str, list[dict[str, float]]] = {}
    try:
        if python is not None:
            command = [python, HERE / "k_original.py"]
            workers[ORIGINAL] = Worker(command, {**settings, "task": "training"}, work / "training_original.log")
        workers["ours"] = Worker(OURS, {**settings, "task": "training"}, work / "training_ours.log")
        for number in range(arguments.steps):
            for name, worker in workers.items():
                steps.setdefault(name, []).append(worker.ask({}))
            print(f"[bench-k] {number + 1} of {arguments.steps} steps", flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    result: dict[str, Any] = {"config": config, "layers": arguments.layers, "machine": machine(), "steps": steps}
    for name, answers in steps.items():
        seconds = statistics.median(answer["seconds"] for answer in answers)
        result[name] = {
            "seconds_per_step": seconds,
            "images_per_second": arguments.batch / seconds,
            "peak_mb": max(answer["peak_mb"] for answer in answers),
            "loss": [answer["loss"] for answer in answers],
        }
    if ORIGINAL in result:
        result["times_faster"] = result["ours"]["images_per_second"] / result[ORIGINAL]["images_per_second"]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each (default 8)")
    parser.add_argument("--batch", type=int, default=2, help="images a step (default 2)")
    parser.add_argument("--canvas", type=int, default=512, help="side of the images, a multiple of 64 (default 512)")
    parser.add_argument("--backbone", default="resnet50", choices=("resnet50", "resnet101"))
    parser.add_argument("--layers", default="all", choices=("all", "heads"))
    parser.add_argument("--original-python", default=os.environ.get("ORIGINAL_PYTHON", ""), help="its CPython 3.7")
    parser.add_argument("--record", type=Path, default=ROOT / "results" / "bench_k_training.json", help="JSON file")
    parser.add_argument("--keep-freed-memory", action="store_true", help="ours keeps freed memory (glibc's mallopt)")
    arguments = parser.parse_args()
    try:
        if min(arguments.steps, arguments.batch) < 1 or arguments.canvas < 64 or arguments.canvas % 64:
            raise InputError(
                f"steps {arguments.steps}, batch {arguments.batch}, canvas {arguments.canvas}: the first two are at "
                "least 1, the canvas a multiple of 64."
            )
        result = measure(arguments)
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_json(arguments.record, result)
    for name in (ORIGINAL, "ours"):
        if name in result:
            line = result[name]
            print(f"{name:10} {line['images_per_second']:7.3f} images/s  peak {line['peak_mb']:.0f} MB")
    if "times_faster" in result:
        print(f"ours is {result['times_faster']:.2f}x as fast")
    print(f"[bench-k] {arguments.record}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
