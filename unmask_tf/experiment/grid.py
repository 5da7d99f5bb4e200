"""The grid's steps (Table IV): trainings, attacks, parts and answers, each written down once.

The other experiments (study, line search, comparison of two K's) are lists of the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from unmask_tf.attacks import ATTACKS, ThreatModel, threat_model
from unmask_tf.attacks.adaptive import SEARCHES
from unmask_tf.classifiers import CLASSIFIERS
from unmask_tf.classifiers.settings import AdversarialTrainingConfig, with_recipe
from unmask_tf.data.layout import part_files
from unmask_tf.defense.defences import DEFENCES, Defence, trust
from unmask_tf.defense.extract import EXTRACTORS
from unmask_tf.errors import InputError
from unmask_tf.experiment.kinds import answer, attack, evaluate_k, extract, score_k, train_k, train_m
from unmask_tf.experiment.setup import Run
from unmask_tf.experiment.step import Files, Step
from unmask_tf.mrcnn.config import mirrored_class_ids, preset
from unmask_tf.mrcnn.engines import REFERENCE
from unmask_tf.mrcnn.schedules import SCHEDULES

BENIGN = ("none", 0)


class Grid:
    """Makes the steps of a run; what is asked for twice is the same step.

    Args:
        run: the run.
        k: instead of the run's K: its weights and settings, for the comparison of two.
        recipe: training of the M under those defences that do not name one: `none`, or a name in `RECIPES`.
    """

    def __init__(self, run: Run, k: tuple[Path, Mapping[str, Any]] | None = None, recipe: str = "none") -> None:
        self.run, self.profile, self._k, self._recipe = run, run.profile, k, recipe
        for name in ("images", "model", "attacked", "parts", "answer", "train_k", "score_k"):
            setattr(self, name, lru_cache(maxsize=None)(getattr(self, name)))

    @property
    def cells(self) -> list[tuple[str, float]]:
        """(attack, budget in 1/255) in the profile's order.

        Raises:
            InputError: an unknown attack, or one whose norm has no budgets.
        """
        found, settings = [], self.profile.attack
        for name in settings.attacks:
            if name not in ATTACKS:
                raise InputError(f"unknown attack '{name}'. Choose one of: {', '.join(ATTACKS)}.")
            norm = ATTACKS[name].norm.value
            if norm not in settings.epsilons_255:
                raise InputError(f"profile '{self.profile.name}' has no budgets for the norm {norm} of '{name}'.")
            found += [(name, epsilon) for epsilon in settings.epsilons_255[norm]]
        return found

    @property
    def setups(self) -> list[tuple[str, str]]:
        """(class set, architecture) pairs."""
        return [(c, a) for c in self.profile.class_sets for a in self.profile.architectures]

    def images(self, class_set: str, split: str, limit: int | None = None) -> Files:
        """A split's images; the profile's limit holds for the test split."""
        return self.run.images(class_set, split, self.profile.limit if split == "test" else limit)

    def model(self, class_set: str, architecture: str, recipe: str = "none", epsilon_255: float | None = None) -> Step:
        """M's training: benign (`none`), or adversarial by a recipe; `epsilon_255` instead of the recipe's.

        Raises:
            InputError: unknown architecture, or a folder of images is missing.
        """
        if architecture not in CLASSIFIERS:
            raise InputError(f"unknown architecture '{architecture}'. Choose one of: {', '.join(CLASSIFIERS)}.")
        config, adversarial = self.profile.classifier, None
        inputs: dict[str, Any] = {split: self.images(class_set, split) for split in ("train", "val")}
        if recipe != "none":
            adversarial = self.adversarial(recipe, epsilon_255)
        if adversarial is not None and adversarial.from_benign:
            inputs["benign"] = self.model(class_set, architecture)
        elif config.weights not in ("random", "imagenet"):
            inputs["weights"] = Path(config.weights)
        elif own := self.run.imagenet_weights(architecture):
            inputs["weights"] = own
        settings = train_m.Settings(
            architecture=architecture,
            classes=self.run.taxonomy.labels(class_set),
            classifier=replace(config, weights="file") if "weights" in inputs else config,
            adversarial=adversarial,
            recipe=recipe,
        )
        name = f"{class_set}_{architecture}_{recipe}" + ("" if epsilon_255 is None else f"_eps{epsilon_255:g}")
        return Step("train_m", name, settings, inputs)

    def adversarial(self, recipe: str, epsilon_255: float | None = None) -> AdversarialTrainingConfig:
        """The profile's adversarial training by a recipe."""
        return with_recipe(self.profile.adversarial_training, recipe, epsilon_255)

    def attacked(
        self, class_set: str, model: Step, threat: ThreatModel, split: str, limit: int | None, kind: str
    ) -> Step:
        """Attacked images of a split; `kind` names what the threat model was made by, for reports."""
        config = self.profile.attack
        settings: dict[str, Any] = dict(
            threat=threat,
            preset=kind,
            architecture=model.settings.architecture,
            classes=self.run.taxonomy.labels(class_set),
            size=self.profile.classifier.input_size,
            seed=config.seed,
            batch_size=config.batch_size,
        )
        inputs: dict[str, Any] = {"model": model, "images": self.images(class_set, split, limit)}
        name = f"{model.name}_{threat.attack}_{threat.epsilon_255:g}_{kind}_{split}"
        if "K" not in threat.spec.knows:
            return Step("attack", name, attack.Settings(**settings), inputs)
        if self.profile.part_detector.extractor != "mask_rcnn":
            raise InputError(
                f"{threat.attack} follows the gradient of a Mask R-CNN, but the part extractor is "
                f"'{self.profile.part_detector.extractor}'. Leave the attack out (ATTACKS), or use mask_rcnn."
            )
        inputs["weights"] = self.k_weights()
        settings |= {
            "k_config": self.k_config(),
            "parts": self.run.taxonomy.parts,
            "expected": self.expected(class_set),
            "search": SEARCHES.get(threat.attack.rpartition("_")[0], 1),
        }
        return Step("attack", name, attack.KnowingSettings(**settings), inputs)

    def expected(self, class_set: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(class, expected parts) in the class set's own order."""
        taxonomy = self.run.taxonomy
        return tuple((m, tuple(sorted(taxonomy.expected(m)))) for m in taxonomy.members(class_set))

    def train_k(self) -> Step:
        """K's training on the data's annotated images."""
        detector, taxonomy = self.profile.part_detector, self.run.taxonomy
        inputs: dict[str, Any] = {}
        inputs["annotations"], inputs["images"] = self.run.part_images("train")
        inputs["val_annotations"], inputs["val_images"] = self.run.part_images("val")
        if detector.initial is not None and (initial := self.run.own_weights(detector.initial)):
            inputs["initial"] = initial
        settings = train_k.Settings(
            config=self.k_config(MIRRORED_CLASS_IDS=mirrored_class_ids(taxonomy.parts, taxonomy.mirror)),
            schedule=SCHEDULES[detector.preset],
            parts=taxonomy.parts,
            train_limit=detector.train_limit,
        )
        return Step("train_k", f"k_{self.run.data}", settings, inputs)

    def k_config(self, **more: Any) -> Mapping[str, Any]:
        """K's settings as plain values."""
        if self._k is not None:
            return self._k[1]
        parts = len(self.run.taxonomy.parts)
        return preset(self.profile.part_detector.preset, NUM_CLASSES=parts + 1, **more).to_dict()

    def validation_images(self) -> dict[str, Files]:
        """Class set -> its validation images, of all class sets that the data have, whichever the run is about."""
        images = {}
        for name in sorted(self.run.taxonomy.class_sets):
            with suppress(InputError):
                images[name] = self.run.images(name, "val")
        return images

    def score_k(self, weights: Path | Step) -> Step:
        """The choice of the scores from which a K is believed, on the classes' validation images."""
        taxonomy, images = self.run.taxonomy, self.validation_images()
        settings = score_k.Settings(
            config=self.k_config(),
            parts=taxonomy.parts,
            expected=tuple((name, tuple(sorted(taxonomy.expected(name)))) for name in sorted(taxonomy.classes)),
            class_sets=tuple((name, taxonomy.labels(name)) for name in images),
            size=self.profile.classifier.input_size,
        )
        inputs = {f"images_{name}": files for name, files in images.items()}
        return Step("score_k", f"k_{self.run.data}", settings, {"weights": weights, **inputs})

    def k_weights(self) -> Path | Step:
        """The run's K: a file, or its training, where its settings say so with scores that suit the classes (without
        images of classes: those of its training)."""
        given = self._k[0] if self._k is not None else self.run.k_weights
        if given is not None:
            return given
        scored = self.k_config()["PART_SCORES"] and self.validation_images()
        return self.score_k(self.train_k()) if scored else self.train_k()

    def parts(self, class_set: str, images: Step | Files) -> tuple[Step, ...]:
        """Parts seen in images, in chunks.

        Raises:
            InputError: unknown part extractor.
        """
        detector = self.profile.part_detector
        if detector.extractor not in EXTRACTORS:
            raise InputError(f"unknown extractor '{detector.extractor}'. Choose one of: {', '.join(EXTRACTORS)}.")
        inputs: dict[str, Any] = {"images": images}
        options: Mapping[str, Any] = {}
        if detector.extractor == "mask_rcnn":
            inputs["weights"], options = self.k_weights(), {"config": self.k_config()}
            if detector.engine != REFERENCE:
                options = {**options, "engine": detector.engine}
        split = "" if isinstance(images, Step) else Path(images.names[0]).parts[-3]
        source = images.name if isinstance(images, Step) else f"{class_set}_{split}"
        count = len(images if isinstance(images, Files) else images.inputs["images"])
        # Validation images as they are give thresholds, so the scores of parts must not have been chosen on them.
        held_out = split == "val" and options.get("config", {}).get("PART_SCORES", False)
        return tuple(
            Step(
                "extract",
                f"{source}_{first}",
                (extract.HeldOutSettings if held_out else extract.Settings)(
                    extractor=detector.extractor,
                    options=options,
                    parts=self.run.taxonomy.parts,
                    classes=self.run.taxonomy.labels(class_set),
                    size=self.profile.classifier.input_size,
                    first=first,
                    last=min(first + detector.chunk, count),
                ),
                inputs,
            )
            for first in range(0, count, detector.chunk)
        )

    def answer(
        self,
        class_set: str,
        architecture: str,
        defence: str,
        name: str,
        epsilon_255: float,
        *,
        split: str = "test",
        limit: int | None = None,
        preset: str | None = None,
        at_epsilon_255: float | None = None,
        threat: ThreatModel | None = None,
        source: str | None = None,
    ) -> Step:
        """One cell: a defence's answers to a split's images, attacked or (`none`, 0) benign.

        Args:
            class_set, architecture: M.
            defence: name in `DEFENCES`.
            name, epsilon_255: the attack and its budget in 1/255.
            split, limit: whose images, and at most how many of a split that is not `test`.
            preset: the attack's; None: the profile's.
            at_epsilon_255: budget of adversarial training instead of the recipe's.
            threat: instead of the threat model that the preset gives that attack and budget.
            source: the architecture whose M was attacked, if another one's images are to be answered.

        Raises:
            InputError: unknown defence.
        """
        needs, taxonomy = entry(defence), self.run.taxonomy
        recipe = self._recipe if needs.recipe == "none" else needs.recipe
        model = self.model(class_set, architecture, recipe, at_epsilon_255)
        files = self.images(class_set, split, limit)
        inputs: dict[str, Any] = {"files": files}
        seen: Step | Files = files
        if (name, epsilon_255) != BENIGN:
            kind = preset or self.profile.attack.preset
            if threat is None:
                threat = threat_model(name, epsilon_255, preset=kind, iterations=self.profile.attack.iterations)
            attacked = model if source is None else self.model(class_set, source, recipe)
            seen = inputs["attack"] = self.attacked(class_set, attacked, threat, split, limit, kind)
        plain = next((d for d, e in DEFENCES.items() if e.recipe == needs.recipe and e.answer is trust), defence)
        if needs.classify or defence == plain:
            inputs["model"] = model
        else:
            inputs["base"] = self.answer(
                class_set,
                architecture,
                plain,
                name,
                epsilon_255,
                split=split,
                limit=limit,
                preset=preset,
                threat=threat,
                source=source,
            )
        extractor = ""
        if needs.parts:
            chunks = self.parts(class_set, seen)
            inputs |= {f"parts_{i:06d}": chunk for i, chunk in enumerate(chunks)}
            seen_by = chunks[0].settings
            extractor = " ".join(filter(None, (seen_by.extractor, seen_by.options.get("engine"))))
        if needs.validation:
            inputs["val_base"] = self.answer(class_set, architecture, plain, *BENIGN, split="val")
            if needs.parts:
                chunks = self.parts(class_set, self.images(class_set, "val"))
                inputs |= {f"val_parts_{i:06d}": chunk for i, chunk in enumerate(chunks)}
        settings = answer.Settings(
            defence=defence,
            class_set=class_set,
            expected=self.expected(class_set),
            parts=taxonomy.parts,
            data=self.run.data,
            split=split,
            model=architecture,
            attack=name,
            epsilon_255=epsilon_255,
            size=self.profile.classifier.input_size,
            extractor=extractor,
        )
        return Step("answer", f"{class_set}_{architecture}_{defence}_{name}_{epsilon_255:g}_{split}", settings, inputs)

    def answers(self) -> Iterator[Step]:
        """Every cell of the grid, M by M: first what asks M, so that a worker loads each M once, then the parts."""
        of_m = [d for d in self.profile.defences if not entry(d).parts]
        rest = [d for d in self.profile.defences if d not in of_m]
        for defences in (of_m, rest):
            for class_set, architecture in self.setups:
                for defence in defences:
                    for name, epsilon in (BENIGN, *self.cells):
                        yield self.answer(class_set, architecture, defence, name, epsilon)

    def trainings(self) -> list[Step]:
        """M's trainings that the profile's defences stand on."""
        recipes = dict.fromkeys(entry(name).recipe for name in self.profile.defences)
        return [self.model(*setup, recipe) for setup in self.setups for recipe in recipes]

    def evaluate_k(self) -> Step | None:
        """K's average precision on the test images; None where the data has no part annotations to score it on."""
        if not part_files(self.run.root, "test")[0].is_file() or self.profile.part_detector.extractor != "mask_rcnn":
            return None
        annotations, images = self.run.part_images("test")
        settings = evaluate_k.Settings(
            config=self.k_config(), parts=self.run.taxonomy.parts, limit=self.profile.k_limit
        )
        inputs = {"weights": self.k_weights(), "annotations": annotations, "images": images}
        return Step("evaluate_k", f"k_{self.run.data}_test", settings, inputs)


def entry(defence: str) -> Defence:
    """A defence's entry in `DEFENCES`.

    Raises:
        InputError: there is none.
    """
    if defence not in DEFENCES:
        raise InputError(f"unknown defence '{defence}'. Choose one of: {', '.join(DEFENCES)}.")
    return DEFENCES[defence]
