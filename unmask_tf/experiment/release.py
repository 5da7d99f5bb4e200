"""Releases trained models: M with its threshold and the K that it was chosen with, and K with its parts' scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unmask_tf.classifiers import CLASSIFIERS
from unmask_tf.defense.calibration import Calibration, of_class_set
from unmask_tf.errors import InputError
from unmask_tf.experiment.grid import BENIGN, Grid
from unmask_tf.experiment.publish import finished
from unmask_tf.experiment.setup import SUMS, Run
from unmask_tf.experiment.step import Output, Step
from unmask_tf.files import sha256, write_json, write_text
from unmask_tf.mrcnn.part_names import part_names, write_part_scores

LARGEST = 15_000_000
"""Bytes of a released M's float32 weights, at most: the files are kept in the repository."""


def released_name(class_set: str, architecture: str) -> str:
    """File name of a released M."""
    return f"unmask_m_{class_set}_{architecture}.weights.h5"


def released(folder: Path) -> dict[tuple[str, str], Path]:
    """(class set, architecture) -> file, of the released M's in a folder."""
    return {
        (path.name.removeprefix("unmask_m_").removesuffix(f"_{architecture}.weights.h5"), architecture): path
        for architecture in CLASSIFIERS
        for path in folder.glob(released_name("*", architecture))
    }


def release_m(run: Run, folder: Path) -> dict[Path, Calibration]:
    """Writes each benign M of a finished run with the threshold of `algorithm1`, and refreshes the folder's SHA256SUMS.

    Nothing is trained or evaluated, and nothing is written unless all fit together.

    Args:
        run: its profile names the class sets and architectures; `evaluate` was run on it with `algorithm1`.
        folder: where the files go.

    Returns:
        File -> what it says of its defence.

    Raises:
        InputError: a step is not finished, K knows other parts than the data, M is too large, or a file cannot be
            written.
    """
    from unmask_tf.classifiers.build import save_classifier

    grid, k = Grid(run), _k(run)
    made = {setup: _made(grid, *setup, k) for setup in grid.setups}
    written = {}
    for setup, (model, metadata, calibration) in made.items():
        path = folder / released_name(*setup)
        # The model was built anew, so the file holds weights and no state of an optimizer.
        save_classifier(model, path, metadata | calibration.to_metadata())
        _list_sum(path)
        written[path] = calibration
    return written


def release_k(run: Run, folder: Path, progress: Callable[[float], None]) -> tuple[Path, dict[str, float]]:
    """Writes the run's K with the scores of its parts chosen anew, with the log of its training where the run trained
    it, and refreshes the folder's SHA256SUMS. K's tensors are copied as they are.

    Args:
        run: names K: a file, or a training that it has finished.
        folder: where the files go, under the name that the profile has for K.
        progress: called with the share of the work that is done.

    Returns:
        The file, and part -> the score from which K is believed: by F1 on annotated images (`choose_part_scores`), and
        from there by how well it tells the classes apart (`separating_scores`).

    Raises:
        InputError: a step is not finished, K knows other parts than the data, there are no annotated validation images,
            or a file cannot be read.
    """
    from unmask_tf.data.part_instances import read_part_instances
    from unmask_tf.experiment.kinds.score_k import class_scores
    from unmask_tf.mrcnn.config import Config
    from unmask_tf.mrcnn.fast import FastDetector
    from unmask_tf.mrcnn.part_scores import choose_part_scores

    grid = Grid(run)
    k, config = _k(run), Config.from_dict(dict(grid.k_config()))
    annotations, images = run.part_images("val")
    validation = read_part_instances(annotations, images.root, run.taxonomy)
    detector = FastDetector(config.replace(DETECTION_MIN_CONFIDENCE=0.05), k)
    scores = choose_part_scores(detector, validation, progress=lambda share: progress(share / 2))
    step = grid.score_k(k)
    images = {name.removeprefix("images_"): files for name, files in step.inputs.items() if name != "weights"}
    held_out: list[dict[str, float]] = []
    if images:
        scores, held_out = class_scores(step.settings, k, images, scores, lambda share: progress((1 + share) / 2))
    progress(1.0)
    path = folder / run.profile.part_detector.weights
    write_part_scores(k, path, scores, held_out)
    if run.k_weights is None:
        write_json(path.with_suffix(".log.json"), Output(_finished(run, grid.train_k()), "").header()["info"]["log"])
    _list_sum(path)
    return path, scores


def quantize_k(run: Run, count: int) -> Path:
    """Writes the quantised form of the run's K beside its weights.

    Args:
        run: names K: a file, or a training that it has finished.
        count: of K's training images, spread evenly, on which the ranges of activations are measured.

    Returns:
        The folder.

    Raises:
        InputError: as `release_k` and `mrcnn.quantize.quantize`, and for a count below 1.
    """
    from unmask_tf.data.part_instances import read_part_instances
    from unmask_tf.mrcnn.config import Config
    from unmask_tf.mrcnn.quantize import quantize

    if count < 1:
        raise InputError(f"images is {count}. Look at 1 training image or more.")
    annotations, images = run.part_images("train")
    training = read_part_instances(annotations, images.root, run.taxonomy).spread(count)
    shown = [training.load_image(i) for i in range(len(training.images))]
    return quantize(Config.from_dict(dict(Grid(run).k_config())), _k(run), shown)


def _k(run: Run) -> Path:
    """The weights of the run's K.

    Raises:
        InputError: K is not trained yet, it knows other parts than the data, or the run uses no K.
    """
    extractor = run.profile.part_detector.extractor
    if extractor != "mask_rcnn":
        raise InputError(f"the part extractor is '{extractor}'. Only mask_rcnn has weights to release or to name.")
    weights = Grid(run).k_weights()
    k = weights if isinstance(weights, Path) else _finished(run, weights)
    _refuse_other_parts(k, run.taxonomy.parts)
    return k


def _made(grid: Grid, class_set: str, architecture: str, k: Path) -> tuple[Any, dict[str, Any], Calibration]:
    """A trained M, the metadata of its file, and its calibration."""
    from unmask_tf.classifiers.build import load_classifier

    run = grid.run
    trained = _finished(run, grid.model(class_set, architecture))
    answers = _finished(run, grid.answer(class_set, architecture, "algorithm1", *BENIGN))
    chosen = Output(answers, "").header()["info"]["rows"]["threshold"]
    calibration = Calibration(
        class_set=class_set,
        taxonomy=of_class_set(run.taxonomy, class_set),
        threshold=chosen["value"],
        max_fpr=chosen["fpr"],
        k_file=k.name,
        k_sha256=sha256(k),
        k_config=dict(grid.k_config()),
    )
    model, metadata = load_classifier(trained, classes=run.taxonomy.labels(class_set))
    if (size := 4 * model.count_params()) > LARGEST:
        raise InputError(
            f"{trained} holds {size / 1e6:.0f} MB of weights; a released M has at most {LARGEST / 1e6:.0f}. Choose a "
            "smaller architecture, such as mobilenet_v2."
        )
    return model, metadata, calibration


def _finished(run: Run, step: Step) -> Path:
    """The output of a step.

    Raises:
        InputError: the run has not finished it.
    """
    path = finished(run, step)
    if path is None:
        raise InputError(
            f"{run.folder} has no finished result of {step.kind} {step.name} with these data, settings and weights of "
            f"K. Make it first, with the same options: make evaluate PROFILE={run.profile.name}"
        )
    return path


def _refuse_other_parts(k: Path, parts: tuple[str, ...]) -> None:
    held = part_names(k)
    if held and held != parts:
        raise InputError(
            f"{k} knows the parts {', '.join(held)}; the data's taxonomy.json has {', '.join(parts)}. Name a K that "
            "was trained with this taxonomy (K_WEIGHTS=file)."
        )


def _list_sum(path: Path) -> None:
    """Puts a file's hash into the SHA256SUMS beside it, in the names' order."""
    sums = path.parent / SUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    names = {line.split()[1].lstrip("*"): line for line in lines if line.strip()}
    names[path.name] = f"{sha256(path)}  {path.name}"
    write_text(sums, "".join(f"{names[name]}\n" for name in sorted(names)))
