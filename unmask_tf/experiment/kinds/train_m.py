"""Trains model M: benignly, or adversarially (Section IV-A, Equation 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unmask_tf.classifiers.settings import AdversarialTrainingConfig, ClassifierConfig
from unmask_tf.experiment.kinds.shared import forward_cost, without_nan
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.step import Output, Resources

VERSION = 1
SUFFIX = ".weights.h5"
FRESH = True
GPU = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a training of M depends on besides its images and initial weights.

    Attributes:
        architecture: name in `CLASSIFIERS`.
        classes: class names in label order.
        classifier: the benign training's settings; `weights` is `file` where the input `weights` gives them.
        adversarial: None: benign.
        recipe: whose adversarial training it is, for reports: `none`, `released`, `madry`.
    """

    architecture: str
    classes: tuple[str, ...]
    classifier: ClassifierConfig
    adversarial: AdversarialTrainingConfig | None = None
    recipe: str = "none"


def cost(settings: Settings, inputs: Mapping[str, Any]) -> float:
    """In forward passes of a ResNet-50 on a 64x64 image."""
    epochs, iterations = settings.classifier.epochs, 0
    if settings.adversarial is not None:
        epochs, iterations = settings.adversarial.epochs, settings.adversarial.iterations
    step = 5.0 + 2.5 * iterations
    return 5000.0 + len(inputs["train"]) * epochs * step * forward_cost(
        settings.architecture, settings.classifier.input_size
    )


def entry(settings: Settings) -> Any:
    """The architecture's builder in `CLASSIFIERS`."""
    from unmask_tf.classifiers import CLASSIFIERS

    return CLASSIFIERS.get(settings.architecture)


def run(settings: Settings, inputs: Mapping[str, Any], output: Path, resources: Resources) -> dict[str, Any]:
    """Inputs: `train` and `val` (images), and for what it starts from `benign` (a trained M), `weights` (a file) or
    nothing. Writes M's weights, which `load_classifier` reads."""
    quiet_and_deterministic(settings.classifier.seed)
    from unmask_tf.attacks.adversarial_training import adversarial_train
    from unmask_tf.classifiers.build import build_classifier, save_classifier
    from unmask_tf.classifiers.train import train_classifier
    from unmask_tf.data.class_images import read_class_images

    config, adversarial = settings.classifier, settings.adversarial
    train, val = (
        read_class_images(files.root, files.names, settings.classes, config.input_size)
        for files in (inputs["train"], inputs["val"])
    )
    benign: Output | None = inputs.get("benign")
    weights = str(inputs["weights"]) if "weights" in inputs else config.weights
    model = build_classifier(
        settings.architecture,
        len(settings.classes),
        input_size=config.input_size,
        weights="random" if benign else weights,
        batch_norm_momentum=config.batch_norm_momentum,
        seed=config.seed,
    )
    if benign is not None:
        model.load_weights(benign.path)
    if adversarial is None:
        history = train_classifier(model, train, val, config, resources.workdir, progress=resources.progress)
    else:
        history = adversarial_train(
            model, train, val, config, adversarial, resources.workdir, progress=resources.progress
        )
    metadata = {
        "architecture": settings.architecture,
        "classes": list(settings.classes),
        "input_size": config.input_size,
    }
    save_classifier(model, output, metadata)
    history = without_nan(history)
    best = max(history, key=lambda row: row["score"])  # of equal ones the first, as in training
    attacked = f", {best['val_attacked_accuracy']:.2f} under attack" if adversarial else ""
    return {
        "training": {
            "recipe": settings.recipe,
            **(
                {}
                if adversarial is None
                else {k: asdict(adversarial)[k] for k in ("epsilon_255", "step", "iterations")}
            ),
            "epochs": len(history),
            "best_epoch": best["epoch"],
            "stopped": history[-1].get("stopped", "epochs"),
            "seed": config.seed,
            **{name: best[name] for name in ("val_accuracy", "val_attacked_accuracy") if name in best},
        },
        "history": history,
        "said": f"validation accuracy {best['val_accuracy']:.2f}{attacked} after {len(history)} epochs",
    }
