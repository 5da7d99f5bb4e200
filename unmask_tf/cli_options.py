"""The options that all commands of a run share, and what they come to. Nothing heavy is imported for --help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmask_tf.config import PROFILES
from unmask_tf.errors import InputError

if TYPE_CHECKING:
    from unmask_tf.experiment.runner import Crew
    from unmask_tf.experiment.setup import Run
    from unmask_tf.experiment.step import Output, Step

_OPTIONS = (
    click.option("--profile", default="mini", show_default=True, help=f"One of: {', '.join(PROFILES)}."),
    click.option("--data", type=click.Path(path_type=Path), help="Data folder; default: the profile's in dataset/."),
    click.option("--limit", type=int, help="At most this many test images of a class set."),
    click.option("--k-weights", type=click.Path(path_type=Path), help="Model K's weights; default: the profile's."),
    click.option("--results", type=click.Path(path_type=Path), help="Root of the results; default: results/."),
    click.option("--class-sets", default="", help="Such as cs3a,cs5a; default: the profile's, or all of the data's."),
    click.option("--architectures", default="", help="M's, such as resnet50; default: the profile's."),
    click.option("--attacks", default="", help="Such as pgd_linf,mia_l2; default: the profile's."),
    click.option("--attack-preset", help="released, written, eq1 or strong; default: the profile's."),
    click.option("--defences", default="", help="Such as none,at,um; default: the profile's."),
    click.option("--extractor", help="The part extractor; default: the profile's."),
    click.option("--k-preset", help="Another K, such as mini_robust; default: the profile's."),
    click.option("--engine", help="What computes K: tensorflow (default), openvino, openvino_bfloat16 or auto."),
    click.option("--at-epochs", type=int, help="At most this many epochs of adversarial training; default: profile's."),
    click.option("--plugins", default="", help="Your modules, imported first, which add entries to the tables."),
    click.option("--workers", type=int, help="Worker processes; default: one a core, at most 4; 0: none."),
    click.option("--threads", type=int, help="Threads of each worker; default: the cores shared out."),
    click.option("--ray", "ray_address", help="Run on Ray: auto, local, or an address."),
)
_HOW = ("plugins", "workers", "threads", "ray_address")
_LISTS = ("class_sets", "architectures", "attacks", "defences")


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the shared options to a command, which receives them as keywords."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def prepared(options: dict[str, Any]) -> Run:
    """The run that the options describe, checked; the plugins are imported."""
    from unmask_tf.experiment.setup import prepare
    from unmask_tf.experiment.step import import_plugins

    import_plugins(comma_list(options["plugins"]))
    chosen = {
        name: comma_list(value) if name in _LISTS else value for name, value in options.items() if name not in _HOW
    }
    return prepare(chosen.pop("profile"), **chosen)


def crew_of(options: dict[str, Any]) -> Crew:
    """Who runs the steps."""
    from unmask_tf.experiment.runner import InThisProcess, Workers, default_workers

    if options["ray_address"]:
        from unmask_tf.experiment.ray_runner import RayCrew

        return RayCrew(options["ray_address"], options["threads"] or 1)
    workers = default_workers() if options["workers"] is None else options["workers"]
    return Workers(workers, options["threads"]) if workers else InThisProcess()


def run_steps(run: Run, options: dict[str, Any], steps: Sequence[Step]) -> dict[Step, Output]:
    """Runs steps as the options say where."""
    from unmask_tf.experiment import runner

    return runner.run(steps, run.folder, crew=crew_of(options), plugins=comma_list(options["plugins"]))


def comma_list(text: str) -> tuple[str, ...]:
    """`a, b` -> (a, b)."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def budgets(text: str) -> list[float]:
    """`1,2` -> [1.0, 2.0]."""
    try:
        return [float(name) for name in comma_list(text)]
    except ValueError as error:
        raise InputError(f"the epsilons to compare are '{text}'. Give numbers, such as 1,2,4.") from error


def folder_of(options: dict[str, Any]) -> Path:
    """results/<profile>."""
    from unmask_tf.config import profile
    from unmask_tf.experiment.setup import ROOT

    return Path(options["results"] or ROOT / "results") / profile(options["profile"]).name
