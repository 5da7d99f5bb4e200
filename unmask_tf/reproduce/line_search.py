"""Line search over adversarial training's epsilon (Section IV-A, Figures 2 and 3): settings, records, the choice.

One record per (class set, architecture, epsilon) of a *variant*, in results/<profile>/line_search/<variant>/. A variant
is a recipe and what shortens its trainings, so that a quick look never replaces a whole search.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unmask_tf.attacks.settings import AdversarialTrainingConfig, with_recipe
from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_text
from unmask_tf.reproduce.cells import CLASS_SET_ORDER, MODEL_ORDER, cell_order, order_of

SCHEMA = "unmask-line-search-1"
FOLDER = "line_search"

# (attack, epsilon_255); ("none", 0) for no attack.
Vector = tuple[str, float]
BENIGN: Vector = ("none", 0)


@dataclass(frozen=True, kw_only=True)
class LineSearchConfig:
    """Which adversarial trainings to compare. The defaults are the paper's search.

    Attributes:
        recipe: a name in `config.RECIPES`.
        epsilons_255: Linf budgets of the training attack, units of 1/255.
        class_sets, architectures: which of the profile's; empty: all.
        epochs: of each training; None: the profile's.
        images: most validation images of a class set to attack; None: `attacked_images` of the profile. The epoch to
            keep is chosen on all validation images.
        keep_weights: keep each trained M beside its record (up to 300 MB, with its optimizer).

    Raises:
        InputError: unknown recipe, no epsilon, one that is not positive or given twice, or fewer than one epoch.
    """

    recipe: str = "released"
    epsilons_255: tuple[float, ...] = (1, 2, 4, 6, 8, 16)
    class_sets: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    epochs: int | None = None
    images: int | None = None
    keep_weights: bool = False

    def __post_init__(self) -> None:
        with_recipe(AdversarialTrainingConfig(), self.recipe)
        epsilons = self.epsilons_255
        positive = all(math.isfinite(epsilon) and epsilon > 0 for epsilon in epsilons)
        if not epsilons or not positive or len(set(epsilons)) < len(epsilons):
            shown = ", ".join(f"{e:g}" for e in epsilons)
            raise InputError(f"the epsilons to compare are '{shown}'. Give different positive numbers, such as 1,2,4.")
        whole = tuple(int(epsilon) if float(epsilon).is_integer() else float(epsilon) for epsilon in epsilons)
        object.__setattr__(self, "epsilons_255", whole)  # one spelling in names and records
        if self.epochs is not None and self.epochs < 1:
            raise InputError(f"epochs is {self.epochs}. Train for at least one epoch.")
        if self.images is not None and self.images < 1:
            raise InputError(f"images is {self.images}. Attack at least one validation image of each class.")

    def variant(self, limit: int | None) -> str:
        """Folder of the records: the recipe, then what departs from the profile's own length and data."""
        changes = {"epochs": self.epochs, "images": self.images, "limit": limit}
        return "-".join([self.recipe, *(f"{name}{value}" for name, value in changes.items() if value is not None)])

    def attacked_images(self, profile: str) -> int | None:
        """Most validation images of a class set to attack; None: all of them."""
        return _ATTACKED_IMAGES.get(profile) if self.images is None else self.images


# Eight attacks on each of twelve M would take longer than their trainings.
_ATTACKED_IMAGES = {"mini": 60, "mini-full": 60}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One attack on an adversarially trained M.

    Attributes:
        attack, epsilon_255: the attack and its budget in units of 1/255; `none` and 0 without attack.
        correct: validation images that M gets right.
        checks: attack check -> passed; empty without attack.
        nan_images: images for which the attack gave NaN and was repaired.
    """

    attack: str
    epsilon_255: float
    correct: int
    checks: Mapping[str, bool] = field(default_factory=dict)
    nan_images: int = 0

    @property
    def vector(self) -> Vector:
        """(attack, epsilon_255)."""
        return self.attack, self.epsilon_255


@dataclass(frozen=True, kw_only=True)
class Point:
    """The record of one adversarial training: how M withstands each attack on the validation images.

    Attributes:
        profile, variant, class_set, model: what was trained; `model` is M's architecture.
        epsilon_255, step, iterations: the training attack; epsilon in units of 1/255, step in pixel units of [0, 1].
        config_hash: of all settings and data but class set, architecture and epsilon.
        n: validation images that were attacked.
        outcomes: no attack, then the profile's attacks, in table order.
        best_epoch: the epoch kept, from 1: the best mean of benign and attacked validation accuracy.
        history: one row per epoch (see `train_classifier`).
        seeds, versions, wall_s: as in a `Record`.

    Raises:
        InputError: a value is missing or impossible.
    """

    profile: str
    variant: str
    class_set: str
    model: str
    epsilon_255: float
    step: float
    iterations: int
    config_hash: str
    n: int
    outcomes: tuple[Outcome, ...]
    best_epoch: int
    history: tuple[Mapping[str, Any], ...]
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        vectors = [outcome.vector for outcome in self.outcomes]
        if BENIGN not in vectors or len(vectors) < 2 or len(set(vectors)) < len(vectors):
            raise InputError(f"a point of the line search needs the benign row and attacks, each once, not {vectors}.")
        if self.n < 1 or not all(0 <= outcome.correct <= self.n for outcome in self.outcomes):
            raise InputError(f"correct answers {[o.correct for o in self.outcomes]} do not fit n = {self.n} images.")
        if not self.epsilon_255 > 0 or not self.config_hash or self.best_epoch not in range(1, len(self.history) + 1):
            raise InputError(
                f"one of these is impossible: epsilon_255 {self.epsilon_255!r}, config_hash {self.config_hash!r}, "
                f"best_epoch {self.best_epoch!r} of {len(self.history)}."
            )

    @property
    def setup(self) -> tuple[str, str]:
        """(class_set, model)."""
        return self.class_set, self.model

    def accuracy(self, vector: Vector) -> float:
        """Share of right answers under an attack; NaN where it was not run."""
        return next((o.correct / self.n for o in self.outcomes if o.vector == vector), math.nan)

    @property
    def vectors(self) -> list[Vector]:
        """The attacks, without the benign row, in the paper's order."""
        return sorted((o.vector for o in self.outcomes if o.vector != BENIGN), key=lambda v: cell_order(("", "", *v)))

    @property
    def mean_attacked(self) -> float:
        """Mean accuracy over the attacks."""
        return sum(self.accuracy(vector) for vector in self.vectors) / len(self.vectors)


def point_path(folder: Path, variant: str, class_set: str, model: str, epsilon_255: float) -> Path:
    """The record's path below results/<profile>."""
    return folder / FOLDER / variant / f"{class_set}__{model}__eps_{epsilon_255:g}.json"


def write_point(point: Point, folder: Path) -> Path:
    """Writes a record atomically, one line per field; returns its path.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    path = point_path(folder, point.variant, point.class_set, point.model, point.epsilon_255)
    content = {"schema": SCHEMA, **asdict(point)}
    lines = [f" {json.dumps(k)}: {json.dumps(v, sort_keys=True, allow_nan=False)}" for k, v in sorted(content.items())]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def read_point(path: Path) -> Point:
    """Reads what `write_point` wrote.

    Raises:
        InputError: the file is missing, damaged or of another form.
    """
    content = read_json(path)
    try:
        if content.pop("schema") != SCHEMA:
            raise InputError(f"its schema is not {SCHEMA}.")
        content["outcomes"] = tuple(Outcome(**outcome) for outcome in content["outcomes"])
        content["history"] = tuple(content["history"])
        return Point(**content)
    except (InputError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a record of the line search ({error}). Delete it and run `make adversarial-training` again."
        ) from error


def read_searches(folder: Path) -> dict[str, list[Point]]:
    """All records below results/<profile>, by variant, in the paper's order; variants by name.

    Raises:
        InputError: a record is damaged, or two of a variant stem from different settings or data.
    """
    searches = {}
    for place in sorted(path for path in (folder / FOLDER).glob("*") if path.is_dir()):
        paths = sorted(path for path in place.glob("*.json") if not path.name.startswith("."))
        points = sorted((read_point(path) for path in paths), key=_order)
        if len({(p.config_hash, p.variant) for p in points}) > 1:
            raise InputError(
                f"{place} mixes records of different settings or data. Run `make adversarial-training` again; it "
                "replaces the old ones."
            )
        if points:
            searches[points[0].variant] = points
    return searches


def _order(point: Point) -> tuple:
    return order_of(point.class_set, CLASS_SET_ORDER), order_of(point.model, MODEL_ORDER), point.epsilon_255


def by_setup(points: Iterable[Point]) -> dict[tuple[str, str], list[Point]]:
    """(class set, architecture) -> its points by rising epsilon, in the paper's order."""
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(points, key=_order):
        groups.setdefault(point.setup, []).append(point)
    return groups


@dataclass(frozen=True)
class Choice:
    """The epsilon a search ends in.

    Attributes:
        epsilon_255: the chosen one.
        best_on: epsilon -> attacks (over all setups) under which no other epsilon has a higher accuracy, some a lower.
        attacks: how many attacks there are, over all setups.
    """

    epsilon_255: float
    best_on: Mapping[float, int]
    attacks: int


def choose(points: Sequence[Point]) -> Choice | None:
    """The paper's rule (captions of Figures 2 and 3): the epsilon with "the best performance on most attacks".

    Attacks at each strength count once per class set and architecture. Where several epsilons share the highest
    accuracy, each has it; where all do, none. A tie goes to the higher mean accuracy over the attacks and the benign
    images, then to the smaller epsilon.

    Args:
        points: of one variant. Only epsilons that every setup among them has are compared.

    Returns:
        The choice; None where no epsilon is common to all setups.
    """
    groups = [{point.epsilon_255: point for point in group} for group in by_setup(points).values()]
    common = sorted(set.intersection(*(set(group) for group in groups))) if groups else []
    if not common:
        return None
    best_on, totals, attacks = dict.fromkeys(common, 0), dict.fromkeys(common, 0.0), 0
    for group in groups:
        vectors = group[common[0]].vectors
        attacks += len(vectors)
        for vector in (BENIGN, *vectors):
            accuracies = {epsilon: group[epsilon].accuracy(vector) for epsilon in common}
            best, worst = max(accuracies.values()), min(accuracies.values())
            for epsilon, value in accuracies.items():
                totals[epsilon] += value
                best_on[epsilon] += vector != BENIGN and value == best > worst
    chosen = min(common, key=lambda epsilon: (-best_on[epsilon], -round(totals[epsilon], 9), epsilon))
    return Choice(chosen, best_on, attacks)
