"""Frozen configuration: one `Profile` decides a whole run. Every random choice has its seed here.

Profiles: `mini` (embedded data, CS3a), `mini-full` (embedded data, all four class sets), `photos` (a user's
photographs), `paper` (the released settings).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace

from unmask_tf.attacks.settings import AdversarialTrainingConfig
from unmask_tf.classifiers.settings import ClassifierConfig
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """The attack grid: four attacks at two strengths, untargeted.

    Attributes:
        attacks: names among pgd_linf, pgd_l2, mia_linf, mia_l2.
        epsilons_linf_255, epsilons_l2_255: budgets in units of 1/255.
        preset: `released`, `written`, `eq1` or `strong` (see attacks/threat_models.py).
    """

    attacks: tuple[str, ...] = ("pgd_linf", "pgd_l2", "mia_linf", "mia_l2")
    epsilons_linf_255: tuple[int, ...] = (8, 16)
    epsilons_l2_255: tuple[int, ...] = (300, 600)
    preset: str = "released"
    iterations: int = 20
    batch_size: int = 32
    seed: int = 7

    def cells(self) -> tuple[tuple[str, int], ...]:
        """(attack, epsilon_255) pairs in table order."""
        return tuple(
            (attack, epsilon)
            for attack in self.attacks
            for epsilon in (self.epsilons_linf_255 if attack.endswith("linf") else self.epsilons_l2_255)
        )


@dataclass(frozen=True, kw_only=True)
class PartDetectorConfig:
    """Which K a profile uses.

    Attributes:
        preset: name of a configuration in mrcnn/config.py.
        weights: file name inside mask_rcnn_weights/.
        train_limit: most images K trains on (None: all).
    """

    preset: str
    weights: str
    train_limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything one run depends on.

    Attributes:
        name: profile name; results go to results/<name>/.
        data: folder under dataset/ (or the user's folder, when DATA is given).
        synthetic: the embedded dataset's settings, or None where the data is the user's.
        class_sets, architectures: the grid's rows.
        detection_threshold: t of Algorithm 1, on d = 1 - similarity.
        limit: most test images of a class set (None: all).
    """

    name: str
    data: str
    synthetic: SyntheticConfig | None = None
    class_sets: tuple[str, ...] = ("cs3a", "cs3b", "cs5a", "cs5b")
    architectures: tuple[str, ...] = ("resnet50", "densenet121")
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    adversarial_training: AdversarialTrainingConfig = field(default_factory=AdversarialTrainingConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    part_detector: PartDetectorConfig
    detection_threshold: float = 0.75
    limit: int | None = None

    def hash(self) -> str:
        """Twelve hex digits over every setting; stands in each record."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


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
    ),
    adversarial_training=AdversarialTrainingConfig(epochs=1, from_benign=True, learning_rate=3e-4),
    part_detector=PartDetectorConfig(preset="mini", weights="unmask_k_mini.h5"),
)

PROFILES: dict[str, Profile] = {
    "mini": _MINI,
    "mini-full": replace(_MINI, name="mini-full", class_sets=("cs3a", "cs3b", "cs5a", "cs5b")),
    "photos": Profile(
        name="photos",
        data="photos",
        class_sets=("photo3",),
        architectures=("mobilenet_v2",),
        classifier=ClassifierConfig(
            input_size=128,
            epochs=4,
            optimizer="adam",  # SGD's steps are too long for a backbone whose batch normalisation is folded
            schedule="cosine",
            learning_rate=1e-4,
            freeze_batch_norm=True,
        ),
        adversarial_training=AdversarialTrainingConfig(epochs=1, from_benign=True, learning_rate=5e-5),
        part_detector=PartDetectorConfig(preset="photos", weights="unmask_k_photos.h5"),
    ),
    "paper": Profile(
        name="paper",
        data="unmask",
        part_detector=PartDetectorConfig(preset="paper", weights="mask_rcnn_parts_0040.h5"),
    ),
}


def profile(name: str) -> Profile:
    """The named profile.

    Raises:
        InputError: there is no such profile.
    """
    if name not in PROFILES:
        raise InputError(f"unknown profile '{name}'. Choose one of: {', '.join(PROFILES)}.")
    return PROFILES[name]
