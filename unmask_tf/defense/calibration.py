"""What a released M carries besides its weights: its classes' parts, the threshold chosen for it, and with which K."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Algorithm 1's threshold for one M and one K, and all that it depends on. It is kept in the metadata of M's file.

    Attributes:
        class_set: M's classes.
        taxonomy: K's parts in its order, and V and the order of that class set alone.
        threshold: t; an image at distance t or more is judged adversarial.
        max_fpr: the share of benign validation images that it was allowed to flag.
        k_file: name of K's weights file.
        k_sha256: of that file: with another K the threshold would be another.
        k_config: K's settings, of `mrcnn.config.Config.to_dict`.
    """

    class_set: str
    taxonomy: Taxonomy
    threshold: float
    max_fpr: float
    k_file: str
    k_sha256: str
    k_config: Mapping[str, Any]

    def to_metadata(self) -> dict[str, Any]:
        """JSON values, to be merged into the metadata that `save_classifier` writes."""
        return asdict(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], where: str) -> Calibration:
        """The calibration in the metadata that `load_classifier` returned.

        Args:
            metadata: of M's file.
            where: the file, for the message.

        Raises:
            InputError: there is none, or it is inconsistent.
        """
        lacking = [name for name in cls.__dataclass_fields__ if name not in metadata]
        if lacking:
            raise InputError(
                f"{where} holds a classifier without its defence ({', '.join(lacking)} missing from its metadata). "
                "Release it from a finished run: make release-m PROFILE=... DATA=... CLASS_SETS=..."
            )
        held, taxonomy = {name: metadata[name] for name in cls.__dataclass_fields__}, metadata["taxonomy"]
        try:
            taxonomy = Taxonomy(
                parts=tuple(taxonomy["parts"]),
                classes={name: tuple(parts) for name, parts in taxonomy["classes"].items()},
                class_sets={name: tuple(members) for name, members in taxonomy["class_sets"].items()},
            )
            found = cls(**{**held, "taxonomy": taxonomy})
            labels = list(taxonomy.labels(found.class_set))
        except (InputError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{where}: the metadata of its defence are inconsistent ({error}). Release it again."
            ) from error
        if labels != list(metadata["classes"]):
            raise InputError(
                f"{where}: its classes are {', '.join(metadata['classes'])}, but class set '{found.class_set}' has "
                f"{', '.join(labels)}. Release it again."
            )
        return found


def of_class_set(taxonomy: Taxonomy, class_set: str) -> Taxonomy:
    """All parts, but one class set and its classes alone."""
    members = taxonomy.members(class_set)
    classes = {name: tuple(taxonomy.classes[name]) for name in members}
    return Taxonomy(parts=taxonomy.parts, classes=classes, class_sets={class_set: members})
