"""Has a defence answer images: the rows that every table is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask_tf.errors import InputError
from unmask_tf.experiment import rows
from unmask_tf.experiment.kinds.extract import read_parts
from unmask_tf.experiment.kinds.shared import load_m, pixels
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.step import Files, Output, Resources
from unmask_tf.files import write_bytes
from unmask_tf.taxonomy import Taxonomy

if TYPE_CHECKING:
    from unmask_tf.defense.defences import Case

VERSION = 1
SUFFIX = ".csv"
FRESH = False
GPU = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What answers depend on besides images, M and parts; and what the cell is called.

    Attributes:
        defence: name in `DEFENCES`.
        class_set: its name.
        expected: (class, expected parts) in the class set's own order.
        parts: the taxonomy's part names, in their order.
        data, split, model, attack, epsilon_255: as in `rows.Header`.
        size: side of M's input.
        extractor: name in `EXTRACTORS`; empty without parts.
    """

    defence: str
    class_set: str
    expected: tuple[tuple[str, tuple[str, ...]], ...]
    parts: tuple[str, ...]
    data: str
    split: str
    model: str
    attack: str
    epsilon_255: float
    size: int
    extractor: str = ""

    @property
    def taxonomy(self) -> Taxonomy:
        """The class set alone."""
        classes = dict(self.expected)
        return Taxonomy(self.parts, classes, {self.class_set: tuple(classes)})


def cost(settings: Settings, inputs: Mapping[str, Any]) -> float:
    """In forward passes of a ResNet-50 on a 64x64 image."""
    return 500.0 if "model" in inputs else 1.0


def entry(settings: Settings) -> Any:
    """The defence's function in `DEFENCES`."""
    from unmask_tf.defense.defences import DEFENCES

    return DEFENCES[settings.defence].answer if settings.defence in DEFENCES else None


def run(settings: Settings, inputs: Mapping[str, Any], output: Path, resources: Resources) -> dict[str, Any]:
    """Writes the rows as CSV; their header is the step's `info["rows"]`.

    Inputs: `files`, the clean images; `attack`, whose images are answered instead; `model`, M where it is asked, or
    `base`, the answers of M without a defence; `parts_N`, the images' parts in chunks; `val_base` and `val_parts_N`,
    the same of benign validation images.
    """
    from unmask_tf.defense.defences import DEFENCES

    if settings.defence not in DEFENCES:
        raise InputError(f"unknown defence '{settings.defence}'. Choose one of: {', '.join(DEFENCES)}.")
    files: Files = inputs["files"]
    true = [Path(name).parent.name for name in files.names]
    case, accuracy_8bit = _case(settings, inputs, resources, true)
    answers = DEFENCES[settings.defence].answer(case)
    if len(answers.classes) != len(files):
        raise ValueError(f"{settings.defence} gave {len(answers.classes)} answers for {len(files)} images")
    frame = rows.frame(
        files.names,
        true,
        answers.classes,
        case.model_answers,
        answers.similarity,
        answers.score,
        answers.flagged,
        case.parts,
    )
    write_bytes(output, rows.to_csv(frame))
    attack = inputs["attack"].header()["info"] if "attack" in inputs else {}
    made = inputs.get("model", inputs.get("base")).header()["info"]
    training = made["training"] if "model" in inputs else made["rows"]["training"]
    header = rows.Header(
        key="",
        data=settings.data,
        split=settings.split,
        class_set=settings.class_set,
        classes={name: list(parts) for name, parts in settings.expected},
        model=settings.model,
        defence=settings.defence,
        attack=settings.attack,
        epsilon_255=settings.epsilon_255,
        threat=attack.get("threat", {}),
        checks=attack.get("checks", {}),
        nan_images=attack.get("nan_images", 0),
        training=training,
        extractor=_extractor(settings, inputs),
        threshold=answers.threshold,
        accuracy_8bit=accuracy_8bit,
        seeds={"classifier": training["seed"]} | ({"attack": attack["seed"]} if attack else {}),
    )
    right = sum(a == t for a, t in zip(answers.classes, true, strict=True))
    content = rows.header_to_json(header)
    del content["key"], content["versions"], content["seconds"]  # the step's header has them
    said = f"{right} of {len(true)} right" if case.parts is not None else ""  # else the attack has said it
    return {"rows": content, "said": said}


def _extractor(settings: Settings, inputs: Mapping[str, Any]) -> str:
    """The extractor's name, and its weights' key where it has weights."""
    chunk = next((inputs[name] for name in sorted(inputs) if name.startswith("parts_")), None)
    weights = chunk.header()["inputs"].get("weights", "") if chunk is not None else ""
    return f"{settings.extractor} {weights}".strip()


def _case(
    settings: Settings, inputs: Mapping[str, Any], resources: Resources, true: list[str]
) -> tuple[Case, float | None]:
    """What the defence is given, and M's accuracy on the 8-bit form where M is asked."""
    import numpy as np

    from unmask_tf.data.pixels import to_8bit
    from unmask_tf.defense.defences import Case

    labels = settings.taxonomy.labels(settings.class_set)
    images = np.zeros((len(true), 0, 0, 3), np.float32)
    classify, accuracy_8bit = None, None
    if "model" in inputs:
        quiet_and_deterministic(0)
        images = pixels(inputs.get("attack", inputs["files"]), labels, settings.size)
        classify = load_m(inputs["model"], labels, resources, resources.input_keys["model"]).logits

        said = [labels[i] for i in classify(images).argmax(axis=1)]
        said_8bit = [labels[i] for i in classify(to_8bit(images)).argmax(axis=1)]
        accuracy_8bit = float(np.mean([a == t for a, t in zip(said_8bit, true, strict=True)]))
    else:
        said = _answers(inputs["base"])
    validation = None
    if "val_base" in inputs:
        validation = Case(
            images=images[:0],
            model_answers=_answers(inputs["val_base"]),
            labels=labels,
            taxonomy=settings.taxonomy,
            class_set=settings.class_set,
            parts=_parts(inputs, "val_parts_"),
        )
    case = Case(
        images=images,
        model_answers=said,
        labels=labels,
        taxonomy=settings.taxonomy,
        class_set=settings.class_set,
        classify=classify,
        parts=_parts(inputs, "parts_"),
        validation=validation,
    )
    return case, accuracy_8bit


def _answers(base: Output) -> list[str]:
    """M's own answers, from the row set of M without a defence."""
    return list(rows.from_csv(base.path.read_bytes(), str(base.path))["model_answer"])


def _parts(inputs: Mapping[str, Any], prefix: str) -> list[Any] | None:
    """The parts of all chunks, in the images' order; None without any."""
    chunks = sorted(name for name in inputs if name.startswith(prefix))
    return [seen for name in chunks for seen in read_parts(inputs[name].path)] if chunks else None


def read_rows(output: Output) -> rows.RowSet:
    """The row set of a finished step."""
    header = output.header()
    content = {
        **header["info"]["rows"],
        "key": header["key"],
        "versions": header["versions"],
        "seconds": header["seconds"],
    }
    where = str(output.path)
    return rows.RowSet(rows.header_from_json(content, where), rows.from_csv(output.path.read_bytes(), where))
