"""Frozen configuration: a `Profile` names what an experiment consists of. Every random choice has its seed here.

Profiles: `mini` (embedded data, CS3a), `mini-full` (embedded data, all four class sets), `photos` (a user's
photographs), `paper` (the released settings).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from unmask_tf.classifiers.settings import AdversarialTrainingConfig, ClassifierConfig
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """The attacks of the grid, untargeted.

    Attributes:
        attacks: names in `ATTACKS`.
        epsilons_255: norm (`linf`, `l2`, `l1`) -> budgets in units of 1/255.
        preset: `released`, `written`, `eq1` or `strong` (see attacks/threat_models.py).
        iterations: gradient steps of one run.
        batch_size: images attacked together; it changes nothing.
        seed: of random starts, which are drawn per image.
    """

    attacks: tuple[str, ...] = ("pgd_linf", "pgd_l2", "mia_linf", "mia_l2")
    epsilons_255: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: {"linf": (8, 16), "l2": (300, 600)})
    preset: str = "released"
    iterations: int = 20
    batch_size: int = 32
    seed: int = 7


@dataclass(frozen=True, kw_only=True)
class PartDetectorConfig:
    """Which part extractor a profile uses.

    Attributes:
        extractor: name in `EXTRACTORS`.
        preset: name of a configuration in mrcnn/config.py.
        weights: file name inside mask_rcnn_weights/.
        initial: file that K's training starts from, in mask_rcnn_weights/ or in the data's weights/; None: none.
        train_limit: at most this many images to train K on (None: all).
        chunk: images of one step of extraction.
        engine: what computes mask_rcnn; its name belongs to the steps' keys (`mrcnn.engines`).
    """

    extractor: str = "mask_rcnn"
    preset: str
    weights: str
    initial: str | None = None
    train_limit: int | None = None
    chunk: int = 512
    engine: str = "tensorflow"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What an experiment consists of.

    Attributes:
        name: profile name; results go to results/<name>/.
        data: folder under dataset/ (or the user's folder, when DATA is given).
        synthetic: the embedded dataset's settings, or None where the data is the user's.
        class_sets: empty: all that the data's taxonomy.json names.
        architectures: names in `CLASSIFIERS`.
        defences: names in `DEFENCES`; Table IV's columns.
        adversarial_training: epochs, start and learning rate of adversarial training; a recipe gives its attack.
        limit: at most this many test images of a class set (None: all).
        k_limit: at most this many of K's test images (None: all).
    """

    name: str
    data: str
    synthetic: SyntheticConfig | None = None
    class_sets: tuple[str, ...] = ("cs3a", "cs3b", "cs5a", "cs5b")
    architectures: tuple[str, ...] = ("resnet50", "densenet121")
    defences: tuple[str, ...] = ("none", "at", "um", "algorithm1")
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    adversarial_training: AdversarialTrainingConfig = field(default_factory=AdversarialTrainingConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    part_detector: PartDetectorConfig
    limit: int | None = None
    k_limit: int | None = None


_MINI = Profile(
    name="mini",
    data="mini",
    synthetic=SyntheticConfig(),
    class_sets=("cs3a",),
    classifier=ClassifierConfig(
        input_size=64,
        weights="random",
        epochs=4,
        batch_size=16,
        optimizer="adam",
        schedule="cosine",
        mirror=False,  # a mirrored texture is not the class's own
        trainer="torch",
    ),
    adversarial_training=AdversarialTrainingConfig(epochs=1, patience=3, from_benign=True, learning_rate=3e-4),
    part_detector=PartDetectorConfig(preset="mini", weights="unmask_k_mini.h5"),
)

PROFILES: dict[str, Profile] = {
    "mini": _MINI,
    "mini-full": replace(_MINI, name="mini-full", class_sets=("cs3a", "cs3b", "cs5a", "cs5b")),
    "photos": Profile(
        name="photos",
        data="photos",
        class_sets=(),
        architectures=("mobilenet_v2",),
        classifier=ClassifierConfig(
            input_size=160,
            epochs=4,
            optimizer="adam",  # SGD's steps are too long for a backbone whose batch normalisation is folded
            schedule="cosine",
            learning_rate=1e-4,
            freeze_batch_norm=True,
            trainer="torch",
        ),
        adversarial_training=AdversarialTrainingConfig(epochs=1, patience=3, from_benign=True, learning_rate=5e-5),
        part_detector=PartDetectorConfig(
            preset="photos", weights="unmask_k_photos.h5", initial="efficientnet_lite0_imagenet.npz"
        ),
        limit=60,
    ),
    "paper": Profile(
        name="paper",
        data="unmask",
        defences=("none", "at", "at_madry", "um", "algorithm1"),
        part_detector=PartDetectorConfig(
            preset="paper", weights="mask_rcnn_parts_0040.h5", initial="mask_rcnn_coco.h5"
        ),
    ),
}

PART_DETECTORS: dict[str, PartDetectorConfig] = {
    "mini_robust": PartDetectorConfig(
        preset="mini_robust", weights="unmask_k_mini_robust.h5", initial="unmask_k_mini.h5"
    ),
}
"""K's that take the place of a profile's (K_PRESET): trained on from the profile's own, to withstand attacks."""


def profile(name: str) -> Profile:
    """The named profile.

    Raises:
        InputError: there is no such profile.
    """
    if name not in PROFILES:
        raise InputError(f"unknown profile '{name}'. Choose one of: {', '.join(PROFILES)}.")
    return PROFILES[name]
