"""The commands `inspect` and `demo`. Nothing heavy is imported for --help."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmask_tf.config import PROFILES, AttackConfig
from unmask_tf.errors import InputError
from unmask_tf.progress import busy

if TYPE_CHECKING:
    from unmask_tf.attacks import ThreatModel
    from unmask_tf.defense.unmask import Verdict
    from unmask_tf.inspection.system import Look, System

_PATH = click.Path(path_type=Path)
_PROFILE = PROFILES["photos"]
CLASS_SET = "cs5b"
_DEMO_CLASS_SET = "cs3a"  # car, person, train: few shared parts, so that the defence is at its best
SUFFIX = ".unmask.png"

_OPTIONS = (
    click.option("--class-set", help=f"M's classes; default: {CLASS_SET}, or the only ones released."),
    click.option("--architecture", help=f"M's; default: {_PROFILE.architectures[0]}, or the only one released."),
    click.option("--m-weights", type=_PATH, help="A file of `release-m`, instead of a shipped one."),
    click.option(
        "--k-weights", type=_PATH, help="Model K's weights; default: those that M's threshold was chosen with."
    ),
    click.option("--threshold", type=float, help="Distance from which an image is doubted; default: that of M's file."),
    click.option("--attack", help="Attack M on each image first, such as mia_linf."),
    click.option("--epsilon", type=float, help="The attack's budget in 1/255; default: the smaller one of the grid."),
    click.option("--out", type=_PATH, help="Folder of the pictures; default: results/inspect."),
    click.option("--pictures/--no-pictures", default=True, help="Whether to draw them."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a line an image."),
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("inspect")
@click.argument("images", nargs=-1, required=True, type=_PATH, metavar="IMAGE...")
@_options
def inspect(images: tuple[Path, ...], **options: Any) -> int:
    """Classify photographs, extract parts, align both, and draw a picture of each.

    Works offline with the shipped weights. The exit status is 1 if an image could not be inspected.
    """
    return _inspect(images, **options)


@click.command("demo")
@_options
def demo(**options: Any) -> int:
    """Inspect the photographs that the installed packages bundle, as they are and attacked."""
    from unmask_tf.experiment.setup import ROOT
    from unmask_tf.inspection.bundled import bundled_photographs

    options["attack"] = options["attack"] or "mia_linf"
    if not (options["class_set"] or options["m_weights"]):
        options["class_set"] = _DEMO_CLASS_SET
    options["out"] = options["out"] or ROOT / "results" / "demo"
    return _inspect(bundled_photographs(options["out"]), **options)


def _inspect(
    images: Sequence[Path],
    *,
    out: Path | None,
    pictures: bool,
    as_json: bool,
    attack: str | None,
    epsilon: float | None,
    **choice: Any,
) -> int:
    """Returns the exit status. What is wrong with one image is told at the end, and the others are inspected."""
    started = time.perf_counter()
    with busy("loading the package"):
        from unmask_tf.experiment.setup import ROOT
        from unmask_tf.inspection.system import read_photo

        threat, folder = _threat(attack, epsilon), out or ROOT / "results" / "inspect"
    system: System | None = None
    records: list[dict[str, Any]] = []
    ready = started
    for path in images:
        try:
            photo = read_photo(path)
        except InputError as error:
            records.append({"file": str(path), "error": str(error)})
            continue
        if system is None:  # not before, so that a mistyped name is told at once
            with busy("loading TensorFlow, M and K"):
                system, ready = _system(threat, **choice), time.perf_counter()
        with busy(f"looking at {path.name}"):
            look = system.look(photo)
        record = {"file": str(path), "benign": _verdict(look.benign)}
        if look.verdict is not None:
            record["attacked"] = _verdict(look.verdict)
        if pictures:
            taken = {other.get("picture") for other in records}
            record["picture"] = str(_draw(system, look, path, _free_name(folder, path, threat, taken)))
        records.append(record)
        if not as_json:
            _tell(record, system)
    failed = [record for record in records if "error" in record]
    if as_json:
        click.echo(json.dumps({"system": _described(system), "images": records}, indent=1))
    elif system is not None:
        took, done = time.perf_counter() - ready, len(records) - len(failed)
        click.echo(f"[inspect] {done} of {len(records)} images in {took:.1f} s, after {ready - started:.1f} s to start")
    for record in failed:
        click.echo(f"error: {record['error']}", err=True)
    return 1 if failed else 0


def _threat(attack: str | None, epsilon: float | None) -> ThreatModel | None:
    """The attack as it is usually made to be strong: its best iterate, and short steps."""
    from unmask_tf.attacks import ATTACKS, threat_model

    if attack is None:
        if epsilon is not None:
            raise InputError("--epsilon is the budget of an attack. Name one as well, such as --attack mia_linf.")
        return None
    if attack not in ATTACKS:
        raise InputError(f"unknown attack '{attack}'. Choose one of: {', '.join(ATTACKS)}.")
    if epsilon is None:
        budgets = AttackConfig().epsilons_255.get(ATTACKS[attack].norm.value)
        if budgets is None:
            raise InputError(f"attack '{attack}' has no usual budget. Give one in units of 1/255: --epsilon number.")
        epsilon = budgets[0]
    return threat_model(attack, epsilon, preset="strong")


def _system(
    threat: ThreatModel | None,
    *,
    class_set: str | None,
    architecture: str | None,
    m_weights: Path | None,
    k_weights: Path | None,
    threshold: float | None,
) -> System:
    from unmask_tf.experiment.quiet import quiet_and_deterministic
    from unmask_tf.experiment.setup import WEIGHTS_FOLDER
    from unmask_tf.inspection.system import System, released_m

    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "2":
        # oneDNN calls it an error that a processor lacks AVX-512, and would say so between the answers.
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    quiet_and_deterministic(0)
    if m_weights is None:
        preferred = CLASS_SET, _PROFILE.architectures[0]
        m_weights = released_m(WEIGHTS_FOLDER, class_set, architecture, preferred)
    elif class_set or architecture:
        raise InputError("--m-weights names a file, which has its class set and architecture. Leave those options out.")
    return System(m_weights, k_weights, WEIGHTS_FOLDER, threshold=threshold, threat=threat)


def _free_name(folder: Path, image: Path, threat: ThreatModel | None, taken: set[str | None]) -> Path:
    """Where an image's picture goes: no image has this suffix, and images of one name get numbers."""
    attack = "" if threat is None else f".{threat.attack}_{threat.epsilon_255:g}"
    number, path = 1, folder / f"{image.stem}{attack}{SUFFIX}"
    while str(path) in taken:
        number += 1
        path = folder / f"{image.stem}-{number}{attack}{SUFFIX}"
    return path


def _draw(system: System, look: Look, image: Path, path: Path) -> Path:
    from unmask_tf.inspection.picture import draw, save
    from unmask_tf.report.cells import attack_label

    attack = "" if system.threat is None else attack_label(system.threat.attack, system.threat.epsilon_255)
    captions = (
        f"M: {system.architecture}, of {', '.join(system.labels)}.",
        f"K: {system.k_weights.name}.",
    )
    return save(draw(look, image.name, system.unmask.threshold, attack, captions), path)


def _tell(record: dict[str, Any], system: System) -> None:
    """A line for each verdict."""
    for key in ("benign", "attacked"):
        if key not in record:
            continue
        verdict, threat = record[key], system.threat
        how = f" under {threat.attack} {threat.epsilon_255:g}/255" if key == "attacked" and threat else ""
        said = f"M says {verdict['predicted_class']}, similarity {verdict['similarity']:.2f}"
        judged = (
            f"adversarial, corrected: {verdict['final_class'] or 'no class'}" if verdict["adversarial"] else "benign"
        )
        click.echo(f"{record['file']}{how}: {said}: {judged}")
    if "picture" in record:
        click.echo(f"  {record['picture']}")


def _verdict(verdict: Verdict) -> dict[str, Any]:
    """JSON of a verdict; boxes are (y1, x1, y2, x2) in pixels of the square that M and K see."""
    return {
        "predicted_class": verdict.predicted_class,
        "adversarial": verdict.adversarial,
        "final_class": verdict.final_class,
        "similarity": verdict.similarity,
        "distance": verdict.distance,
        "scores": dict(verdict.scores),
        "expected_parts": sorted(verdict.expected_parts),
        "extracted_parts": {
            part: {"score": seen.score, "boxes": [list(box) for box in seen.boxes]}
            for part, seen in sorted(verdict.extraction.items())
        },
    }


def _described(system: System | None) -> dict[str, Any] | None:
    """JSON of what gave the verdicts."""
    if system is None:
        return None
    threat = system.threat
    return {
        "m_weights": str(system.m_weights),
        "k_weights": str(system.k_weights),
        "class_set": system.calibration.class_set,
        "classes": list(system.labels),
        "architecture": system.architecture,
        "input_size": system.size,
        "threshold": system.unmask.threshold,
        "attack": None if threat is None else {"name": threat.attack, "epsilon_255": threat.epsilon_255},
    }


COMMANDS = (inspect, demo)
