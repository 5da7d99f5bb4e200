"""What a run is about: a profile with the user's wishes in it, data, class sets, K, and where results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unmask_tf.config import PART_DETECTORS, Profile, profile
from unmask_tf.data.class_images import list_class_images
from unmask_tf.data.images import IMAGE_SUFFIXES
from unmask_tf.data.layout import part_files
from unmask_tf.errors import InputError
from unmask_tf.experiment.step import Files
from unmask_tf.files import sha256
from unmask_tf.mrcnn.part_names import part_names
from unmask_tf.places import ROOT, WEIGHTS_FOLDER
from unmask_tf.taxonomy import UNMASK, Taxonomy

SUMS = "SHA256SUMS"
"""The list of shipped files, beside them."""


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        profile: with the user's wishes in it: limit, class sets, defences and so on.
        root: the data folder.
        taxonomy: parts, classes and class sets.
        folder: results/<profile>.
        k_weights: K's weights file; None: K is trained on the data, as a step of the run.
    """

    profile: Profile
    root: Path
    taxonomy: Taxonomy
    folder: Path
    k_weights: Path | None

    @property
    def data(self) -> str:
        """The data's name, for reports."""
        return self.profile.data

    def images(self, class_set: str, split: str, limit: int | None = None) -> Files:
        """A class set's images of a split, in label order; `limit`: at most this many."""
        names = list_class_images(self.root, class_set, split, taxonomy=self.taxonomy, limit=limit)
        return Files(self.root, names)

    def part_images(self, split: str) -> tuple[Path, Files]:
        """K's annotations and images of a split.

        Raises:
            InputError: they are missing.
        """
        annotations, folder = part_files(self.root, split)
        if not annotations.is_file() or not folder.is_dir():
            raise InputError(
                f"{annotations} and {folder} are needed for model K, and are not both there. dataset/README.md says "
                "what belongs in them; or give K's weights (K_WEIGHTS=file)."
            )
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        return annotations, Files(folder, tuple(names))

    def own_weights(self, *names: str) -> Path | None:
        """The first weights file of these names in the data folder's own, else in mask_rcnn_weights/."""
        folders = (self.root / "weights", WEIGHTS_FOLDER)
        return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)

    def imagenet_weights(self, architecture: str) -> Path | None:
        """M's ImageNet weights where there is a file of them: Keras' `.weights.h5`, or `.npz` of a PyTorch release."""
        return self.own_weights(*(f"{architecture}_imagenet{suffix}" for suffix in (".weights.h5", ".npz")))


def prepare(
    profile_name: str,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    k_weights: str | Path | None = None,
    results: str | Path | None = None,
    class_sets: Sequence[str] = (),
    architectures: Sequence[str] = (),
    attacks: Sequence[str] = (),
    attack_preset: str | None = None,
    defences: Sequence[str] = (),
    extractor: str | None = None,
    k_preset: str | None = None,
    engine: str | None = None,
    at_epochs: int | None = None,
) -> Run:
    """Checks a run's input and makes the embedded dataset where the profile uses it.

    Args:
        profile_name: a name in `config.PROFILES`.
        data: the user's data folder; None: dataset/<profile.data>.
        limit: at most this many test images of a class set.
        k_weights: K's weights; None: the profile's shipped ones, or where they are missing or know other parts than the
            data's, a K that the run trains.
        results: root of results; None: results/ of the checkout.
        class_sets, architectures, attacks, attack_preset, defences, extractor: instead of the profile's; empty or None:
            the profile's.
        k_preset: a name in `config.PART_DETECTORS`, whose K takes the place of the profile's; None: the profile's.
        engine: what computes K when parts are extracted (`mrcnn.engines.choose`); None: TensorFlow.
        at_epochs: at most this many epochs of adversarial training; None: the profile's, which a laptop can wait for.

    Raises:
        InputError: unknown profile or class set, missing folder or file, or a limit below 1.
    """
    settings = profile(profile_name)
    changes = {"class_sets": class_sets, "architectures": architectures, "defences": defences}
    settings = replace(settings, **{name: tuple(value) for name, value in changes.items() if value})
    if attacks:
        settings = replace(settings, attack=replace(settings.attack, attacks=tuple(attacks)))
    if attack_preset:
        settings = replace(settings, attack=replace(settings.attack, preset=attack_preset))
    if k_preset:
        if k_preset not in PART_DETECTORS:
            raise InputError(f"unknown preset '{k_preset}' of K. Choose one of: {', '.join(PART_DETECTORS)}.")
        settings = replace(settings, part_detector=PART_DETECTORS[k_preset])
    if extractor:
        settings = replace(settings, part_detector=replace(settings.part_detector, extractor=extractor))
    if engine:
        settings = replace(settings, part_detector=replace(settings.part_detector, engine=_engine(engine)))
    if at_epochs is not None:
        if at_epochs < 1:
            raise InputError(f"at_epochs is {at_epochs}. Train adversarially for 1 epoch or more.")
        training = replace(settings.adversarial_training, epochs=at_epochs)
        settings = replace(settings, adversarial_training=training)
    if limit is not None:
        if limit < 1:
            raise InputError(f"limit is {limit}. Give a number of test images of a class set, 1 or more.")
        settings = replace(settings, limit=limit, k_limit=limit)
    root = Path(data) if data is not None else ROOT / "dataset" / settings.data
    if data is not None:
        settings = replace(settings, data=root.resolve().name)
    if data is None and settings.synthetic is not None:
        from unmask_tf.data.synthetic import build_dataset

        build_dataset(root, settings.synthetic)
    elif not root.is_dir():
        raise InputError(
            f"the data folder {root} does not exist. Name yours (make DATA=folder, or --data folder); "
            "dataset/README.md says what belongs in it."
        )
    taxonomy = read_taxonomy(root)
    if not settings.class_sets:
        settings = replace(settings, class_sets=tuple(taxonomy.class_sets))
    for class_set in settings.class_sets:
        if limit is not None and limit < len(taxonomy.members(class_set)):
            raise InputError(
                f"limit is {limit}, but class set '{class_set}' has {len(taxonomy.members(class_set))} classes. "
                "Give at least one image a class."
            )
        taxonomy.members(class_set)
    folder = Path(results) if results is not None else ROOT / "results"
    return Run(settings, root, taxonomy, folder / settings.name, _k_weights(settings, taxonomy, k_weights))


def _k_weights(settings: Profile, taxonomy: Taxonomy, given: str | Path | None) -> Path | None:
    """The weights file to use, or None where K must be trained.

    Raises:
        InputError: a given file is missing, or a shipped one is not what SHA256SUMS lists.
    """
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise InputError(f"K's weights {path} do not exist. Check the path, or leave the option out.")
        verify_weights(path)
        return path
    path = WEIGHTS_FOLDER / settings.part_detector.weights
    if not path.is_file():
        if listed_sha256(path) is not None:
            raise InputError(
                f"{path} is a shipped file, and it is missing. Restore it (git checkout), or name your "
                "own (K_WEIGHTS=file)."
            )
        return None
    verify_weights(path)
    try:
        held = part_names(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}). Restore it.") from error
    return None if held and held != taxonomy.parts else path  # a K of other parts than the data's is passed over


def read_taxonomy(folder: Path) -> Taxonomy:
    """The taxonomy.json of a data folder; the paper's taxonomy where there is none."""
    path = folder / "taxonomy.json"
    return Taxonomy.from_json(path) if path.is_file() else UNMASK


def verify_weights(weights: Path) -> None:
    """Compares a weights file with the SHA256SUMS beside it, where that lists it.

    Raises:
        InputError: it differs.
    """
    expected = listed_sha256(weights)
    if expected is not None and (actual := sha256(weights)) != expected:
        raise InputError(
            f"{weights} is not the file that SHA256SUMS beside it lists (SHA-256 {actual}, expected {expected}). "
            "Restore it, or give your own weights another place (K_WEIGHTS=file)."
        )


def listed_sha256(weights: Path) -> str | None:
    """What the SHA256SUMS beside a weights file says of it."""
    sums = weights.parent / SUMS
    for line in sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else ():
        expected, _, name = line.partition(" ")
        if name.strip().lstrip("*") == weights.name:
            return expected
    return None


def _engine(wanted: str) -> str:
    """The engine by its own name, because steps are kept under it."""
    from unmask_tf.experiment.quiet import import_quietly
    from unmask_tf.mrcnn.engines import AUTO, ENGINES, QUANTIZED, choose

    if wanted not in (AUTO, *ENGINES):
        raise InputError(f"unknown engine '{wanted}'. Choose one of: {', '.join((AUTO, *ENGINES))}.")
    if wanted == QUANTIZED:
        raise InputError(
            f"tables are not made with {QUANTIZED}, whose networks no step's key covers. Choose another engine "
            "(ENGINE), or use it from Python: PartExtractor(..., engine='openvino_int8')."
        )
    import_quietly()
    return choose(wanted).engine
