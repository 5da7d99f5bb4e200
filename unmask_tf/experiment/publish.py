"""Runs the grid and collects rows, and cases to look at, where reports read them: results/<profile>/rows/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unmask_tf.experiment.gallery import write_gallery
from unmask_tf.experiment.grid import Grid
from unmask_tf.experiment.kinds.answer import read_rows
from unmask_tf.experiment.rows import write_bundle
from unmask_tf.experiment.runner import Crew, run
from unmask_tf.experiment.setup import Run
from unmask_tf.experiment.step import Keys, Output, Step, resolve
from unmask_tf.files import HashCache, read_json, write_json
from unmask_tf.progress import busy

FOLDER = "rows"


def publish(folder: Path, name: str, steps: Sequence[Step], outputs: Mapping[Step, Output]) -> None:
    """Writes the rows of some answers as the bundle `name`.

    Raises:
        InputError: an output is damaged, or the folder cannot be written.
    """
    write_bundle(folder / FOLDER, name, [read_rows(outputs[step]) for step in steps])


def publish_k(folder: Path, name: str, output: Output) -> None:
    """Writes K's evaluation as `<name>.json`."""
    write_json(folder / FOLDER / f"{name}.json", read_json(output.path))


def publish_all(folder: Path, name: str, outputs: Sequence[Output]) -> None:
    """Writes what some steps found, each a JSON document, as a list `<name>.json`."""
    write_json(folder / FOLDER / f"{name}.json", [read_json(output.path) for output in outputs])


def run_grid(wanted: Run, crew: Crew | None = None, plugins: Sequence[str] = ()) -> None:
    """Runs a run's grid and publishes its rows, K's evaluation and cases to look at.

    Raises:
        InputError: from any step.
    """
    grid = Grid(wanted)
    answers, model_k = list(grid.answers()), grid.evaluate_k()
    outputs = run([*answers, *([model_k] if model_k else [])], wanted.folder, crew=crew, plugins=plugins)
    with busy("gathering rows and cases to look at"):
        publish(wanted.folder, "grid", answers, outputs)
        write_gallery(wanted, outputs)
    if model_k is not None:
        publish_k(wanted.folder, "model_k", outputs[model_k])


def finished(wanted: Run, step: Step) -> Path | None:
    """A step's output, where the run has it whole and up to date, else None; nothing is run or written.

    Raises:
        InputError: an input file is missing or cannot be read.
    """
    keys = Keys(HashCache(wanted.folder / ".hashes.json"))
    output = resolve(step, wanted.folder, keys).output
    return output.path if output.done(keys.cache) else None
