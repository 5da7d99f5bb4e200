"""What a profile's whole run takes on this machine: its steps' work, worked out from the grid, over measured rates.

    make bench-full [PROFILE=paper] [DATA=folder]

Without DATA the steps are planned on empty files in the numbers of the paper's Table II. Work is counted in images: of
M, those of a training step or of a gradient of the attacks (which cost about the same), of K, those it looks at. A
training step of K is taken for three looks: forwards, and backwards for the features and for the weights.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections import defaultdict
from pathlib import Path

import click
import numpy as np
from bench_pieces import images_per_second

from unmask_tf.config import Profile
from unmask_tf.data.splits import SPLITS
from unmask_tf.experiment.grid import Grid
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.setup import prepare
from unmask_tf.experiment.step import Step
from unmask_tf.files import read_json, write_text
from unmask_tf.report.published import DEFAULT_PATH
from unmask_tf.report.table import Table, plain
from unmask_tf.taxonomy import UNMASK

CHECKS = 6  # gradient steps with which the checks of an attack are made, as in the kind's cost
LOOKS = 3  # of K, that a training step on an image costs
FLOAT = 4  # bytes


def empty_files(root: Path) -> Path:
    """A data folder with as many (empty) images as the paper has."""
    paper = read_json(DEFAULT_PATH)["table2"]
    columns = ("voc_imagenet_train", "voc_imagenet_val", "flickr_test")
    for name, row in paper["m"].items():
        classes = UNMASK.labels(name)
        for split, column in zip(SPLITS, columns, strict=True):
            for i in range(row[column]):
                path = root / name / split / classes[i % len(classes)] / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    for split, count in paper["k"]["pascal_part"].items():
        (root / "images" / split).mkdir(parents=True)
        write_text(root / f"parts_{split}.json", "{}")
        for i in range(count):
            (root / "images" / split / f"{i}.jpg").touch()
    return root


def work(step: Step) -> tuple[str, str, float]:
    """(stage, whose rate counts, images) of a step."""
    settings = step.settings
    if step.kind == "train_k":
        return "K: training", "k", LOOKS * len(step.inputs["images"]) * settings.schedule[-1].until
    if step.kind == "train_m":
        images, adversarial = len(step.inputs["train"]), settings.adversarial
        epochs = settings.classifier.epochs if adversarial is None else adversarial.epochs
        gradients = 1 if adversarial is None else 1 + adversarial.iterations
        stage = "M: benign training" if adversarial is None else "M: adversarial training"
        return stage, settings.architecture, images * epochs * gradients
    if step.kind == "attack":
        gradients = settings.threat.iterations * settings.threat.restarts + CHECKS
        return "M: attacks", settings.architecture, len(step.inputs["images"]) * gradients
    if step.kind == "extract":
        return "K: parts of the images", "k", settings.last - settings.first
    if step.kind == "evaluate_k":
        return "K: average precision", "k", len(step.inputs["images"])
    return "answers", "", 0.0


def every_step(profile_name: str, data: Path) -> tuple[Grid, list[Step]]:
    """The run's steps, each once, after those it needs."""
    grid = Grid(prepare(profile_name, data=data))
    found: dict[int, Step] = {}

    def visit(step: Step) -> None:
        if id(step) not in found:
            for before in step.before():
                visit(before)
            found[id(step)] = step

    for step in (*grid.answers(), grid.evaluate_k()):
        if step is not None:
            visit(step)
    return grid, list(found.values())


def rates(profile: Profile, seconds: float) -> dict[str, float]:
    """Images per second: of each M's gradients, and of K (`k`)."""
    quiet_and_deterministic(0)
    from unmask_tf.attacks.module import logits_and_gradients
    from unmask_tf.classifiers.build import build_classifier
    from unmask_tf.classifiers.classifier import Classifier
    from unmask_tf.mrcnn import MaskRCNN
    from unmask_tf.mrcnn.config import preset

    count, size = profile.attack.batch_size, profile.classifier.input_size
    images = np.random.default_rng(0).random((count, size, size, 3), np.float32)
    found = {}
    for architecture in profile.architectures:
        module = Classifier(build_classifier(architecture, 5, input_size=size, weights="random")).torch_module()
        labels = np.arange(count) % 5
        work_of_m = lambda m=module, y=labels: logits_and_gradients(m, images, y, batch_size=count)  # noqa: E731
        found[architecture] = images_per_second(work_of_m, count, seconds)
    with tempfile.TemporaryDirectory() as folder:
        model = MaskRCNN("inference", preset(profile.part_detector.preset), folder)
        seen = [np.uint8(255 * image) for image in images[:1]]
        found["k"] = images_per_second(lambda: model.detect(seen), 1, seconds)
    return found


@click.command()
@click.option("--profile", default="paper", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Plan the steps on this folder.")
@click.option("--seconds", default=10.0, show_default=True, help="How long each rate is measured, at least.")
def main(profile: str, data: Path | None, seconds: float) -> None:
    """Prints the stages of a run with work, rate and hours."""
    with tempfile.TemporaryDirectory() as folder:
        grid, steps = every_step(profile, data or empty_files(Path(folder)))
        measured = rates(grid.profile, seconds)
        hours: dict[int, float] = {}
        ends: dict[int, float] = {}
        stages: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
        stored = 0.0
        for step in steps:
            stage, whose, images = work(step)
            hours[id(step)] = images / measured[whose] / 3600 if whose else 0.0
            ends[id(step)] = hours[id(step)] + max((ends[id(before)] for before in step.before()), default=0.0)
            if whose:
                row = stages[stage, whose]
                row[:] = row[0] + 1, row[1] + images, row[2] + hours[id(step)]
            if step.kind == "attack":
                stored += len(step.inputs["images"]) * 3 * step.settings.size**2 * FLOAT
    print(f"{platform.machine()}, {os.cpu_count()} cores; profile {profile}")
    rows = [
        [stage, whose, str(count), f"{images / 1e6:.3f}", f"{measured[whose]:.2f}", f"{took:.1f}"]
        for (stage, whose), (count, images, took) in stages.items()
    ]
    head = ["Stage", "Model", "Steps", "Million images", "Images/s", "Hours"]
    print(plain(Table("hours", "Hours of a whole run", head, list(rows))))
    print(
        f"all steps one after another: {sum(hours.values()):.0f} h; the longest chain of steps that wait for each other"
    )
    print(f"(with as many workers as can be used): {max(ends.values()):.0f} h; attacked images before compression:")
    print(f"{stored / 1e9:.0f} GB")


if __name__ == "__main__":
    main()
