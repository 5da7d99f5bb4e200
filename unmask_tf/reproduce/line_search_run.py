"""Runs the line search: adversarial trainings and attacks on validation images, one record each. No test image is read.

What is recorded under the same settings is never computed again. A killed training goes on from its last epoch, a
killed evaluation from its last attack.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from unmask_tf.attacks.settings import AdversarialTrainingConfig, with_recipe
from unmask_tf.data.class_images import ImageSet, load_class_images
from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_json
from unmask_tf.reproduce.artefacts import Run, digest
from unmask_tf.reproduce.line_search import (
    BENIGN,
    FOLDER,
    LineSearchConfig,
    Outcome,
    Point,
    point_path,
    read_point,
    write_point,
)
from unmask_tf.reproduce.run import Unit, attack_cost, plan, run_units, training_cost
from unmask_tf.reproduce.stages import Progress, Stages, quiet_and_deterministic, versions

if TYPE_CHECKING:
    import keras

STAGE = "adversarial-training"
_TRAINING_SHARE = 0.5  # of a unit's progress, when training and attacks cost about the same


class LineSearch:
    """The computations of one search, by class set, architecture and epsilon.

    Args:
        run: the run; its limit is taken as the most training and the most validation images of a class set.
        config: which trainings.

    Raises:
        InputError: a class set or architecture that the profile does not have.
    """

    def __init__(self, run: Run, config: LineSearchConfig) -> None:
        self.config = config
        self.class_sets = _chosen("class set", config.class_sets, run.profile.class_sets)
        self.architectures = _chosen("architecture", config.architectures, run.profile.architectures)
        profile = replace(run.profile, class_sets=self.class_sets, architectures=self.architectures)
        self.run = replace(run, profile=profile)
        self.variant = config.variant(run.profile.limit)
        limits = [config.attacked_images(run.profile.name), run.profile.limit]
        self.attacked = min((limit for limit in limits if limit is not None), default=None)
        self.images = lru_cache(maxsize=3)(self._load_images)
        self._known_class_sets = run.profile.class_sets

    def settings(self, epsilon_255: float) -> AdversarialTrainingConfig:
        """The adversarial training of one epsilon."""
        settings = with_recipe(self.run.profile.adversarial_training, self.config.recipe, epsilon_255)
        return settings if self.config.epochs is None else replace(settings, epochs=self.config.epochs)

    @cached_property
    def config_hash(self) -> str:
        """Digest of all that the records depend on, but class set, architecture and epsilon."""
        profile = self.run.profile
        training = asdict(self.settings(1.0))
        del training["epsilon_255"]
        classes = {name: self.run.taxonomy.labels(name) for name in self._known_class_sets}
        settings = [asdict(profile.classifier), training, asdict(profile.attack), profile.limit, self.attacked]
        return digest("line-search", self.run.data.identity, classes, *settings)

    def path(self, class_set: str, architecture: str, epsilon_255: float) -> Path:
        """Where the record goes."""
        return point_path(self.run.folder, self.variant, class_set, architecture, epsilon_255)

    def done(self, class_set: str, architecture: str, epsilon_255: float) -> bool:
        """Whether the record is there, under the present settings, and the weights where they are to be kept."""
        path = self.path(class_set, architecture, epsilon_255)
        if self.config.keep_weights and not path.with_suffix(".weights.h5").is_file():
            return False
        try:
            return path.is_file() and read_point(path).config_hash == self.config_hash
        except InputError:
            return False

    def compute(self, class_set: str, architecture: str, epsilon_255: float, progress: Progress) -> str:
        """Trains, attacks and writes one record; returns what to tell the user."""
        start, where = time.perf_counter(), (class_set, architecture, epsilon_255)
        path, settings = self.path(*where), self.settings(epsilon_255)
        workdir = path.parent / f"{path.stem}-{self.config_hash}"
        quiet_and_deterministic(self.run.profile.classifier.seed)
        limit = self.run.profile.limit
        train, val = (self.images(class_set, split, limit) for split in ("train", "val"))
        attacked = self.images(class_set, "val", self.attacked)
        model, history = self.train(*where, train, val, workdir, lambda done: progress(_TRAINING_SHARE * done))
        outcomes = self.evaluate(
            model, attacked, workdir, lambda done: progress(_TRAINING_SHARE + (1 - _TRAINING_SHARE) * done)
        )
        if self.config.keep_weights:
            self._save(model, path.with_suffix(".weights.h5"), class_set, architecture)
        best = max(history, key=lambda row: row["score"])  # of equal ones the first, as in training
        profile = self.run.profile
        seeds = {"classifier": profile.classifier.seed, "attack": profile.attack.seed}
        point = Point(
            profile=profile.name,
            variant=self.variant,
            class_set=class_set,
            model=architecture,
            epsilon_255=epsilon_255,
            step=settings.step,
            iterations=settings.iterations,
            config_hash=self.config_hash,
            n=len(attacked),
            outcomes=tuple(outcomes),
            best_epoch=best["epoch"],
            history=tuple(history),
            seeds=seeds | ({"data": profile.synthetic.seed} if profile.synthetic else {}),
            versions=versions(),
            wall_s=round(time.perf_counter() - start, 1),
        )
        write_point(point, self.run.folder)
        for old in path.parent.glob(f"{path.stem}-*"):  # checkpoints, also of settings that are gone
            shutil.rmtree(old, ignore_errors=True)
        return f"benign {point.accuracy(BENIGN):.2f}, attacked {point.mean_attacked:.2f}, {point.wall_s:.0f} s"

    def train(
        self,
        class_set: str,
        architecture: str,
        epsilon_255: float,
        train: ImageSet,
        val: ImageSet,
        workdir: Path,
        progress: Progress,
    ) -> tuple[keras.Model, list[dict]]:
        """Adversarial training with its log; returns M with the weights of its best epoch, and the epochs' rows."""
        from unmask_tf.attacks.adversarial_training import adversarial_train
        from unmask_tf.classifiers.build import build_classifier

        run, settings = self.run, self.run.profile.classifier
        adversarial = self.settings(epsilon_255)
        model = build_classifier(
            architecture,
            len(train.classes),
            input_size=settings.input_size,
            weights="random" if adversarial.from_benign else run.initial_weights(architecture),
            batch_norm_momentum=settings.batch_norm_momentum,
            seed=settings.seed,
        )
        if adversarial.from_benign:
            model.load_weights(run.model_path(class_set, architecture, "none"))
        name = f"{class_set} {architecture} {self.variant} eps {epsilon_255:g}"

        def log(history: list[dict]) -> None:
            write_json(workdir / "history.json", history)
            row = history[-1]
            tqdm.write(
                f"[{STAGE}] {name}, epoch {row['epoch']} of {adversarial.epochs}: loss {row['loss']:.3f}, validation "
                f"accuracy {row['val_accuracy']:.3f} benign, {row['val_attacked_accuracy']:.3f} attacked"
            )

        history = adversarial_train(model, train, val, settings, adversarial, workdir, on_epoch=log, progress=progress)
        return model, history

    def evaluate(self, model: keras.Model, val: ImageSet, workdir: Path, progress: Progress) -> list[Outcome]:
        """M's accuracy on the validation images, without attack and under each of the profile's attacks."""
        from unmask_tf.attacks.evidence import checked_attack
        from unmask_tf.attacks.threat_models import threat_model
        from unmask_tf.classifiers.torch_port import to_torch
        from unmask_tf.classifiers.train import predict_logits

        settings, file = self.run.profile.attack, workdir / "outcomes.json"
        clean = val.images.astype(np.float32) / np.float32(255)
        module, cells = to_torch(model, fold_batch_norm=True), settings.cells()

        def correct(images: np.ndarray) -> int:
            return int(np.sum(predict_logits(model, images).argmax(axis=1) == val.labels))

        outcomes = [Outcome(**found) for found in (read_json(file) if file.is_file() else ())]
        for number, (name, epsilon) in enumerate((BENIGN, *cells)):
            if number < len(outcomes):
                continue
            if (name, epsilon) == BENIGN:
                outcomes.append(Outcome(attack=name, epsilon_255=epsilon, correct=correct(clean)))
            else:
                threat = threat_model(name, epsilon, preset=settings.preset, iterations=settings.iterations)
                options = {"seed": settings.seed, "batch_size": settings.batch_size}
                attacked = checked_attack(module, clean, val.labels, threat, **options)
                outcomes.append(
                    Outcome(
                        attack=name,
                        epsilon_255=epsilon,
                        correct=correct(attacked.result.images),
                        checks=attacked.checks,
                        nan_images=attacked.result.nan_images,
                    )
                )
            write_json(file, [asdict(outcome) for outcome in outcomes])
            progress((number + 1) / (1 + len(cells)))
        return outcomes

    def _load_images(self, class_set: str, split: str, limit: int | None) -> ImageSet:
        run = self.run
        return load_class_images(
            run.data.root,
            class_set,
            split,
            taxonomy=run.taxonomy,
            size=run.profile.classifier.input_size,
            limit=limit,
        )

    def _save(self, model: keras.Model, path: Path, class_set: str, architecture: str) -> None:
        from unmask_tf.classifiers.build import save_classifier

        labels = self.run.taxonomy.labels(class_set)
        size = self.run.profile.classifier.input_size
        metadata = {"architecture": architecture, "classes": labels, "input_size": size, "key": self.config_hash}
        save_classifier(model, path, metadata)


def units(search: LineSearch, stages: Stages) -> list[Unit]:
    """The benign trainings that the search starts from, where it does, then one unit per record."""
    found = plan(search.run, stages, ["train-m-benign"]) if search.settings(1.0).from_benign else []
    return [*found, *_points(search)]


def _points(search: LineSearch) -> Iterator[Unit]:
    run = search.run
    attacks = len(run.profile.attack.cells())
    for class_set, architecture in run.models:
        train = run.count("train", class_set, run.profile.limit)
        attacked = run.count("val", class_set, search.attacked)
        for epsilon in search.config.epsilons_255:
            where = (class_set, architecture, epsilon)
            cost = training_cost(run, architecture, train, search.settings(epsilon))
            yield Unit(
                STAGE,
                f"{class_set} {architecture} {search.variant} eps {epsilon:g}",
                cost + attacks * attack_cost(run, architecture, attacked),
                partial(search.done, *where),
                partial(search.compute, *where),
            )


def run_line_search(
    run: Run, config: LineSearchConfig, *, search: LineSearch | None = None, stages: Stages | None = None
) -> None:
    """Computes every record of the search that is not there yet, with one progress bar over all of them.

    Args:
        run: the run.
        config: which trainings.
        search, stages: the computations; None: the real ones.

    Raises:
        InputError: from any computation; finished records are kept.
    """
    search = search or LineSearch(run, config)
    work = units(search, stages or Stages(search.run))
    run_units(search.run, work, before={STAGE: lambda: _discard_stale(search)})


def _discard_stale(search: LineSearch) -> None:
    """Removes the variant's records of other settings: a figure never mixes two."""
    stale = []
    for path in sorted((search.run.folder / FOLDER / search.variant).glob("*.json")):
        try:
            fresh = read_point(path).config_hash == search.config_hash
        except InputError:
            fresh = False
        if not fresh and not path.name.startswith("."):
            path.unlink(missing_ok=True)
            path.with_suffix(".weights.h5").unlink(missing_ok=True)
            stale.append(path)
    if stale:
        print(f"[{STAGE}] {len(stale)} records of other settings are replaced", flush=True)


def _chosen(what: str, wanted: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    for name in wanted:
        if name not in known:
            raise InputError(f"the profile has no {what} '{name}'. Choose among: {', '.join(known)}.")
    return tuple(name for name in known if name in wanted or not wanted)
