"""What each stage computes for one cell, from files to a file. Heavy libraries are imported where they are needed."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask_tf.data.class_images import ImageSet, load_class_images
from unmask_tf.data.pixels import to_8bit
from unmask_tf.defense.alignment import (
    defend,
    detection_pairs,
    detection_scores,
    predicted_similarity,
    similarities,
)
from unmask_tf.errors import InputError
from unmask_tf.files import write_json
from unmask_tf.reproduce import records
from unmask_tf.reproduce.artefacts import BENIGN, Attacked, Run, listed_sha256, read_parts, write_parts
from unmask_tf.reproduce.records import CellKey, Record

if TYPE_CHECKING:
    import keras

    from unmask_tf.attacks.evidence import CheckedAttack

Progress = Callable[[float], None]
"""Called with the fraction of a unit of work that is done."""

PACKAGES = ("advertorch", "keras", "numpy", "tensorflow", "torch")
_CHUNK = 32


def import_quietly() -> None:
    """Imports Keras without what TensorFlow prints on its way, whatever TF_CPP_MIN_LOG_LEVEL says; 0 or 1 shows it."""
    # With two operations at a time the last bits of DenseNet's training differ from run to run, despite op determinism.
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
    loud = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1")
    with nullcontext() if loud or "tensorflow" in sys.modules else _no_standard_error():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices()  # the search for a GPU prints too


@contextmanager
def _no_standard_error() -> Iterator[None]:
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quiet_and_deterministic(seed: int) -> None:
    """Prepares TensorFlow and Keras: no log noise, deterministic operations, every global seed set."""
    import_quietly()
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)


class Stages:
    """The computations of a run. Each method reads files, writes one artefact, and returns what to tell the user.

    In memory it keeps only the model and the images used last: whoever goes through the cells model by model loads
    each K and M once.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._images = lru_cache(maxsize=2)(self._load_images)
        self._model = lru_cache(maxsize=1)(self._load_model)
        self._module = lru_cache(maxsize=1)(self._port)
        self._extractor = lru_cache(maxsize=1)(self._load_extractor)

    def train_k(self, progress: Progress) -> str:
        """Trains K into the run's K weights; a killed training resumes."""
        run = self.run
        if listed_sha256(run.k_weights) is not None:
            raise InputError(
                f"{run.k_weights} is a shipped file that SHA256SUMS lists, and it is missing or unwanted. Restore it, "
                "or train your own elsewhere: make train-k K_WEIGHTS=file."
            )
        import_quietly()
        from unmask_tf.mrcnn.train import train_from_profile

        workdir = run.folder / "models" / f"k-{run.train_k_key}"
        train_from_profile(run.profile, run.data.root, run.k_weights, run.taxonomy, workdir)
        shutil.rmtree(workdir, ignore_errors=True)
        return f"{run.k_weights.name} is ready"

    def evaluate_k(self, progress: Progress) -> str:
        """Writes model_k.json: K's average precision on the test images with part annotations."""
        run = self.run
        key = run.model_k_key
        import_quietly()
        from unmask_tf.mrcnn.evaluate import evaluate_from_profile

        result = evaluate_from_profile(run.profile, run.data.root, run.k_weights, run.taxonomy)
        content = {**_without_nan(result), "weights_sha256": run.k_hash, "key": key}
        write_json(run.folder / "model_k.json", content)
        return f"mAP at IoU 0.5 {result['map50']:.3f} on {result['n_images']} images"

    def train_m(self, class_set: str, architecture: str, defence: str, progress: Progress) -> str:
        """Trains M benignly (`none`) or adversarially (`at`); a killed training resumes."""
        run, settings = self.run, self.run.profile.classifier
        path, history_path = (place(class_set, architecture, defence) for place in (run.model_path, run.history_path))
        key, labels = run.model_key(class_set, architecture, defence), run.taxonomy.labels(class_set)
        quiet_and_deterministic(settings.seed)
        from unmask_tf.attacks.adversarial_training import adversarial_train
        from unmask_tf.classifiers.build import build_classifier, save_classifier
        from unmask_tf.classifiers.train import train_classifier

        start = time.perf_counter()
        train, val = (self._images(class_set, split) for split in ("train", "val"))
        resumed = defence == "at" and run.profile.adversarial_training.from_benign
        model = build_classifier(
            architecture,
            len(labels),
            input_size=settings.input_size,
            weights="random" if resumed else run.initial_weights(architecture),
            batch_norm_momentum=settings.batch_norm_momentum,
            seed=settings.seed,
        )
        workdir = path.parent / f"{architecture}_{defence}-{key}"
        if defence == "at":
            if resumed:
                model.load_weights(run.model_path(class_set, architecture, "none"))
            history = adversarial_train(model, train, val, settings, run.profile.adversarial_training, workdir)
        else:
            history = train_classifier(model, train, val, settings, workdir)
        # Without its history a file of weights counts as unfinished, so the old history goes first.
        history_path.unlink(missing_ok=True)
        metadata = {"architecture": architecture, "classes": labels, "input_size": settings.input_size, "key": key}
        save_classifier(model, path, metadata)
        wall_s = round(time.perf_counter() - start, 1)
        write_json(history_path, {"key": key, "history": _without_nan(history), "wall_s": wall_s})
        shutil.rmtree(workdir, ignore_errors=True)
        best = max(history, key=lambda row: row["score"])
        return f"validation accuracy {best['val_accuracy']:.2f} after {len(history)} epochs, {wall_s:.0f} s"

    def attack(
        self, class_set: str, architecture: str, target: str, attack: str, epsilon: float, progress: Progress
    ) -> str:
        """Attacks M (target `none`) or its `at` form and keeps both verdicts; attack `none` leaves the images."""
        run, settings = self.run, self.run.profile.attack
        key = run.attacked_key(class_set, architecture, target, attack, epsilon)
        quiet_and_deterministic(settings.seed)
        from unmask_tf.classifiers.train import predict_logits

        start = time.perf_counter()
        test = self._images(class_set, "test")
        clean = test.images.astype(np.float32) / np.float32(255)
        model = self._model(class_set, architecture, target)
        images, checks, nan_images, iterations = clean, {}, 0, 0
        if (attack, epsilon) != BENIGN:
            attacked = self._attacked(class_set, architecture, target, attack, epsilon, progress)
            images, checks, nan_images = attacked.result.images, attacked.checks, attacked.result.nan_images
            iterations = attacked.threat.iterations
        images_8bit = to_8bit(images)
        result = Attacked(
            images_8bit=images_8bit,
            labels=test.labels,
            prediction_float=predict_logits(model, images).argmax(axis=1),
            prediction_8bit=predict_logits(model, images_8bit).argmax(axis=1),
            checks=checks,
            nan_images=nan_images,
            wall_s=round(time.perf_counter() - start, 3),
            iterations=iterations,
        )
        result.write(run.attacked_path(class_set, architecture, target, attack, epsilon), key)
        return f"accuracy {np.mean(result.prediction_float == result.labels):.2f}"

    def _attacked(
        self, class_set: str, architecture: str, target: str, attack: str, epsilon: float, progress: Progress
    ) -> CheckedAttack:
        from unmask_tf.attacks.evidence import checked_attack
        from unmask_tf.attacks.threat_models import threat_model

        settings, test = self.run.profile.attack, self._images(class_set, "test")
        clean = test.images.astype(np.float32) / np.float32(255)
        module = self._module(class_set, architecture, target)
        threat = threat_model(attack, epsilon, preset=settings.preset, iterations=settings.iterations)
        return checked_attack(
            module,
            clean,
            test.labels,
            threat,
            seed=settings.seed,
            batch_size=settings.batch_size,
            progress=progress,
        )

    def extract(self, class_set: str, architecture: str | None, attack: str, epsilon: float, progress: Progress) -> str:
        """Has K name the parts it sees in attacked images (8-bit form) or, for attack `none`, in the benign ones."""
        run = self.run
        key = run.parts_key(class_set, architecture, attack, epsilon)
        test = self._images(class_set, "test")
        images = test.images
        if attack != "none":
            images = Attacked.read(run.attacked_path(class_set, str(architecture), "none", attack, epsilon)).images_8bit
        quiet_and_deterministic(run.profile.attack.seed)
        extractor, start = self._extractor(), time.perf_counter()
        parts: list[frozenset[str]] = []
        for first in range(0, len(images), _CHUNK):
            parts += extractor.extract(images[first : first + _CHUNK])
            progress(len(parts) / len(images))
        wall_s = round(time.perf_counter() - start, 3)
        write_parts(run.parts_path(class_set, architecture, attack, epsilon), key, list(test.files), parts, wall_s)
        return f"{np.mean([len(p) for p in parts]):.1f} parts an image"

    def record(self, cell: CellKey) -> str:
        """Writes one cell's record from attacked images, M's verdicts and K's parts; silent for M alone."""
        run, labels = self.run, self.run.taxonomy.labels(cell.class_set)
        target = "at" if cell.defence == "at" else "none"
        where = (cell.attack, cell.epsilon_255)
        attacked = Attacked.read(run.attacked_path(cell.class_set, cell.model, target, *where))
        wall_s, fields = attacked.wall_s, {}
        if cell.defence == "um":
            predictions, fields, wall_s = self._defended(cell, attacked)
        else:
            predictions = [labels[i] for i in attacked.prediction_float]
            fields["accuracy_float"] = np.mean(attacked.prediction_float == attacked.labels)
            fields["accuracy_8bit"] = np.mean(attacked.prediction_8bit == attacked.labels)
        truth = [labels[i] for i in attacked.labels]
        record = Record(
            key=cell,
            config_hash=run.config_hash,
            n=len(truth),
            correct=sum(a == b for a, b in zip(truth, predictions, strict=True)),
            seeds={"classifier": run.profile.classifier.seed, "attack": run.profile.attack.seed}
            | ({"data": run.profile.synthetic.seed} if run.profile.synthetic else {}),
            versions=versions(),
            wall_s=wall_s,
            checks=attacked.checks,
            nan_images=attacked.nan_images,
            iterations=attacked.iterations or None,
            labels=truth,
            predictions=predictions,
            **fields,
        )
        records.write(record, run.records)
        if cell.defence != "um":
            return ""  # the attack has said it
        pairs = f", {record.pairs} successful attacks" if record.detection_scores is not None else ""
        return f"accuracy {record.accuracy:.2f}{pairs}"

    def _defended(self, cell: CellKey, attacked: Attacked) -> tuple[list[str | None], dict[str, Any], float]:
        """UnMask's answers, the similarities and the detection's pairs, and K's time."""
        run, labels = self.run, self.run.taxonomy.labels(cell.class_set)

        def seen(attack: str, epsilon: float, verdicts: np.ndarray) -> tuple[list[frozenset[str]], np.ndarray, float]:
            parts, wall_s = read_parts(run.parts_path(cell.class_set, cell.model, attack, epsilon))
            return parts, predicted_similarity(similarities(parts, run.taxonomy, labels), verdicts), wall_s

        parts, similarity, wall_s = seen(cell.attack, cell.epsilon_255, attacked.prediction_float)
        fields: dict[str, Any] = {"similarities": similarity}
        if cell.attack != "none":
            benign = Attacked.read(run.attacked_path(cell.class_set, cell.model, "none", *BENIGN))
            _, benign_similarity, _ = seen(*BENIGN, benign.prediction_float)
            fields["detection_scores"], fields["detection_labels"] = detection_pairs(
                detection_scores(similarity),
                detection_scores(benign_similarity),
                attacked.prediction_float,
                attacked.labels,
            )
        return defend(parts, run.taxonomy, cell.class_set), fields, wall_s

    def _load_images(self, class_set: str, split: str) -> ImageSet:
        limit = self.run.profile.limit if split == "test" else None
        size = self.run.profile.classifier.input_size
        return load_class_images(
            self.run.data.root, class_set, split, taxonomy=self.run.taxonomy, size=size, limit=limit
        )

    def _load_model(self, class_set: str, architecture: str, target: str) -> keras.Model:
        from unmask_tf.classifiers.build import load_classifier

        path = self.run.model_path(class_set, architecture, target)
        return load_classifier(path, classes=self.run.taxonomy.labels(class_set))[0]

    def _port(self, class_set: str, architecture: str, target: str) -> Any:
        from unmask_tf.classifiers.torch_port import to_torch

        return to_torch(self._model(class_set, architecture, target), fold_batch_norm=True)

    def _load_extractor(self) -> Any:
        from unmask_tf.defense.extract import PartExtractor

        return PartExtractor.from_profile(self.run.profile, self.run.k_weights, self.run.taxonomy)


def versions() -> dict[str, str]:
    """Package -> installed version, of the packages that decide a result."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: an undefined number becomes null."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
