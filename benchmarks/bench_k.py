"""K and Matterport's original in turn, on the same images with the same weights: seconds an image, memory, part sets.

    make bench-k EXTRA="--images 50 --folder photographs"

Each variant runs in its own process; all of them see image 1, then all see image 2, and so on. The weights are seeded
(tests/golden/weights.py), so that neither side needs a download. Every answer is kept in the record at once: the same
command goes on where it was stopped. The original needs CPython 3.7 with tests/golden/requirements.txt (`make golden`
makes it); without that only ours is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from turns import Worker

from unmask_tf.errors import InputError
from unmask_tf.experiment.quiet import import_quietly
from unmask_tf.files import read_json, sha256, write_json
from unmask_tf.mrcnn.engines import PRECISIONS, QUANTIZED, choose, installed, instruction_sets

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
OURS = [sys.executable, HERE / "k_ours.py"]
CLASSES = 45
GROUP = 4  # images of a larger batch
ORIGINAL = "original"
# Options of PartExtractor; `masks` stands for MaskRCNN.detect.
VARIANTS: dict[str, dict[str, Any]] = {
    ORIGINAL: {},
    "detect": {"masks": True},
    "extract": {"batch_size": 1, "engine": "tensorflow"},
    "extract-batch4": {"batch_size": GROUP, "engine": "tensorflow"},
    "openvino": {"batch_size": 1, "engine": "openvino"},
    "openvino-bfloat16": {"batch_size": 1, "engine": "openvino_bfloat16"},
    "openvino-int8": {"batch_size": 1, "engine": "openvino_int8"},
}


def possible() -> list[str]:
    """The variants for which everything is installed."""
    openvino, nncf = installed("openvino"), installed("nncf")
    engines = {name: options.get("engine", "") for name, options in VARIANTS.items()}
    return [n for n, e in engines.items() if (openvino or e not in PRECISIONS) and (nncf or e != QUANTIZED)]


def agreement(first: dict[str, list[int]], second: dict[str, list[int]], parts: int = CLASSES - 1) -> dict[str, float]:
    """How far the part sets of two variants agree on the images that both have seen.

    Args:
        first, second: image -> class ids of its parts.
        parts: how many there are.

    Returns:
        `images`; `equal_sets`, the share of images with equal sets; `equal_memberships`, the share of (image, part)
        pairs on which both say present or both absent; `jaccard`, the mean over the images (two empty sets: 1).
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        return {"images": 0}
    pairs = [(set(first[key]), set(second[key])) for key in common]
    return {
        "images": len(pairs),
        "equal_sets": sum(a == b for a, b in pairs) / len(pairs),
        "equal_memberships": 1 - sum(len(a ^ b) for a, b in pairs) / (len(pairs) * parts),
        "jaccard": sum(len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs) / len(pairs),
    }


def read_images(folder: Path | None, count: int, square: int) -> dict[str, np.ndarray]:
    """The first `count` images of a folder by name, RGB uint8; without a folder, drawn ones.

    Args:
        square: scales the shorter side to this and cuts the middle square, as UnMask shows images to K; 0 leaves them.
    """
    if folder is None:
        side = square or 150
        return {f"drawn_{i}": _picture(i, side) for i in range(count)}
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    if not paths:
        raise InputError(f"{folder} holds no .jpg or .png images. Name a folder of images.")
    images = {}
    for path in paths:
        with Image.open(path) as file:
            image = file.convert("RGB")
        if square:
            scale = square / min(image.size)
            image = image.resize([max(square, round(n * scale)) for n in image.size], Image.Resampling.BILINEAR)
            left, top = ((n - square) // 2 for n in image.size)
            image = image.crop((left, top, left + square, top + square))
        images[path.name] = np.asarray(image)
    return images


def _picture(seed: int, side: int) -> np.ndarray:
    """Overlapping shaded rectangles."""
    rng = np.random.RandomState(seed)
    image = np.zeros((side, side, 3), np.int64) + rng.randint(0, 200, 3)
    for _ in range(12):
        y, x = rng.randint(0, side, 2)
        h, w = rng.randint(side // 8, side // 2, 2)
        image[y : y + h, x : x + w] = rng.randint(0, 200, 3) + rng.randint(0, 3) * np.arange(w)[: side - x, None]
    return np.clip(image + rng.randint(-6, 7, image.shape), 0, 255).astype(np.uint8)


def summary(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Per variant: median seconds an image, ratio to the original's median on the same images (by the clock, and by the
    processors' time, which a busy machine disturbs less), memory, agreement."""
    found = {name: {row: r["parts"] for row, r in v["rows"].items()} for name, v in record["variants"].items()}
    reference = ORIGINAL if found.get(ORIGINAL) else "extract"
    lines = {}
    for name, variant in record["variants"].items():
        rows = variant["rows"]
        if not rows:
            continue
        line = {"images": len(rows), "seconds": _median(rows, rows), "peak_mb": round(variant["peak_mb"])}
        common = rows.keys() & record["variants"].get(ORIGINAL, {"rows": {}})["rows"].keys()
        if common and name != ORIGINAL:
            original = record["variants"][ORIGINAL]["rows"]
            line["times_faster"] = _median(original, common) / _median(rows, common)
            if all("cpu_seconds" in source[key] for source in (original, rows) for key in common):
                line["times_less_work"] = _median(original, common, "cpu_seconds") / _median(
                    rows, common, "cpu_seconds"
                )
        if name != reference and found.get(reference):
            line[f"agreement_with_{reference}"] = agreement(found[reference], found[name])
        if name == "extract-batch4" and found.get("extract"):
            line["agreement_with_batch_1"] = agreement(found["extract"], found[name])
        lines[name] = line
    return lines


def _median(rows: dict[str, Any], chosen: Iterable[str], of: str = "seconds") -> float:
    return statistics.median(rows[key][of] for key in chosen)


def show(lines: dict[str, dict[str, Any]]) -> None:
    """Prints the summary as a table."""
    heads = f"{'variant':20} {'images':>6} {'s/image':>8} {'faster':>7} {'CPU':>6} {'peak MB':>8}"
    print(f"{heads}  part sets equal / memberships")
    for name, line in lines.items():
        faster = f"{line['times_faster']:.2f}x" if "times_faster" in line else ""
        work = f"{line['times_less_work']:.2f}x" if "times_less_work" in line else ""
        agrees = [
            f"{v['equal_sets']:.1%} / {v['equal_memberships']:.2%} ({k.removeprefix('agreement_with_')})"
            for k, v in line.items()
            if k.startswith("agreement_with_") and v["images"]
        ]
        print(
            f"{name:20} {line['images']:6} {line['seconds']:8.3f} {faster:>7} {work:>6} {line['peak_mb']:8}  "
            f"{'; '.join(agrees)}"
        )


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "system": platform.system(),
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "instruction_sets": ", ".join(instruction_sets()),
    }


def original_python(given: str) -> Path | None:
    """The original's interpreter, if it is there."""
    path = Path(given) if given else ROOT / ".cache" / "golden" / "bin" / "python"
    if path.is_file():
        return path.absolute()
    print(f"[bench-k] {path} does not exist, so the original is left out (`make golden` makes its environment)")
    return None


def open_record(arguments: argparse.Namespace, work: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes images and weights into the work folder.

    Returns:
        The record to fill, and the settings every worker gets.

    Raises:
        InputError: the record's file was measured with other settings.
    """
    config = {
        "BACKBONE": arguments.backbone,
        "NUM_CLASSES": CLASSES,
        "IMAGE_MIN_DIM": round(arguments.canvas * 800 / 1024),
        "IMAGE_MAX_DIM": arguments.canvas,
        "IMAGES_PER_GPU": 1,
        "DETECTION_MIN_CONFIDENCE": 0,
    }
    work.mkdir(parents=True, exist_ok=True)
    weights = work / f"seeded_{arguments.backbone}_{CLASSES}.h5"
    images = read_images(arguments.folder, arguments.images, arguments.square)
    digest = hashlib.sha256(b"".join(image.tobytes() for image in images.values())).hexdigest()
    archive = work / f"images_{digest[:12]}.npz"
    settings = {"config": config, "weights": str(weights), "folder": str(work), "images": str(archive)}
    if not weights.is_file():
        Worker(OURS, {**settings, "task": "preparation"}, work / "preparation.log").close()
    np.savez(archive, **{f"image_{i}": image for i, image in enumerate(images.values())})
    identity = {
        "config": config,
        "weights_sha256": sha256(weights),
        "images_sha256": digest,
        "square": arguments.square,
    }
    record = read_json(arguments.record) if arguments.record.is_file() else {"identity": identity, "variants": {}}
    if record.get("identity") != identity:
        raise InputError(f"{arguments.record} was measured with other settings. Delete it, or name another (--record).")
    record.update(machine=machine(), images=list(images))
    return record, settings


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures what the record lacks, writes it after every image, and returns it."""
    work = ROOT / ".cache" / "bench_k"
    record, settings = open_record(arguments, work)
    variants, total = record["variants"], len(record["images"])
    python, workers = original_python(arguments.original_python), {}
    deadline = time.monotonic() + (arguments.seconds or float("inf"))
    try:
        for name in arguments.variants:
            stored = variants.setdefault(name, {"rows": {}, "peak_mb": 0.0})
            if len(stored["rows"]) == total or (name == ORIGINAL and python is None):
                continue
            print(f"[bench-k] starting: {name}", flush=True)
            command = [python, HERE / "k_original.py"] if name == ORIGINAL else OURS
            options = {"keep_freed_memory": arguments.keep_freed_memory, **VARIANTS[name]}
            workers[name] = Worker(command, {**settings, "task": "detection", "options": options}, work / f"{name}.log")
        for first in range(0, total if workers else 0, GROUP):
            group = list(range(first, min(first + GROUP, total)))
            for rows in [[row] for row in group] + [group]:
                for name, worker in workers.items():
                    together = VARIANTS[name].get("batch_size", 1) > 1
                    if together == (rows is group) and time.monotonic() < deadline:
                        _ask(worker, variants[name], rows)
                record["summary"] = summary(record)
                write_json(arguments.record, record)
            if time.monotonic() >= deadline:
                print("[bench-k] out of time; the same command goes on from here")
                break
            print(f"[bench-k] {group[-1] + 1} of {total} images", flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    return record


def _ask(worker: Worker, stored: dict[str, Any], rows: list[int]) -> None:
    """Lets a worker see the images that its record lacks."""
    rows = [row for row in rows if str(row) not in stored["rows"]]
    if rows:
        answer = worker.ask({"rows": rows})
        stored["peak_mb"] = max(stored["peak_mb"], answer["peak_mb"])
        for row, parts in zip(rows, answer["found"], strict=True):
            spent = {key: answer[key] / len(rows) for key in ("seconds", "cpu_seconds") if key in answer}
            stored["rows"][str(row)] = {**spent, "parts": parts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=8, help="how many (default 8)")
    parser.add_argument("--folder", type=Path, help="of .jpg and .png images; default: drawn ones")
    parser.add_argument("--square", type=int, default=150, help="side of the middle square K sees; 0: whole images")
    parser.add_argument("--canvas", type=int, default=1024, help="K's canvas, a multiple of 64 (default 1024)")
    parser.add_argument("--backbone", default="resnet101", choices=("resnet50", "resnet101"))
    parser.add_argument("--variants", help="names, comma-separated; default: all that is installed")
    parser.add_argument("--original-python", default=os.environ.get("ORIGINAL_PYTHON", ""), help="its CPython 3.7")
    parser.add_argument("--record", type=Path, default=ROOT / "results" / "bench_k.json", help="JSON file")
    parser.add_argument("--seconds", type=float, default=0, help="stop after about this long; run again to go on")
    parser.add_argument("--keep-freed-memory", action="store_true", help="ours keeps freed memory (glibc's mallopt)")
    arguments = parser.parse_args()
    chosen = arguments.variants.split(",") if arguments.variants else possible()
    arguments.variants = [name.strip() for name in chosen]
    try:
        unknown = [name for name in arguments.variants if name not in VARIANTS]
        if unknown or arguments.images < 1 or arguments.canvas % 64 or arguments.canvas < 64:
            raise InputError(
                f"unknown variants {unknown}, images {arguments.images} or canvas {arguments.canvas}. "
                f"Variants are {', '.join(VARIANTS)}; images at least 1; canvas a multiple of 64."
            )
        record = measure(arguments)
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import_quietly()
    auto = choose()
    print(f"[bench-k] {record['machine']}\n[bench-k] auto is {auto.engine}: {auto.why}")
    show(summary(record))
    print(f"[bench-k] {arguments.record}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
