"""The command line: one command per stage, with the names of the make targets. Nothing heavy is imported for --help."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmask_tf import __version__
from unmask_tf.attacks.settings import RECIPES
from unmask_tf.config import PROFILES
from unmask_tf.errors import InputError
from unmask_tf.memory import keep_freed_memory

if TYPE_CHECKING:
    from unmask_tf.reproduce.artefacts import Run

_OPTIONS = (
    click.option("--profile", default="mini", show_default=True, help=f"One of: {', '.join(PROFILES)}."),
    click.option("--data", type=click.Path(path_type=Path), help="Data folder; default: the profile's in dataset/."),
    click.option("--limit", type=int, help="Most test images of a class set."),
    click.option("--k-weights", type=click.Path(path_type=Path), help="Model K's weights; default: the profile's."),
    click.option("--results", type=click.Path(path_type=Path), help="Root of the results; default: results/."),
)


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unmask_tf")
def cli() -> None:
    """UnMask: detect and undo adversarial attacks by the parts an image shows."""


def _prepared(options: dict[str, Any], **more: Any) -> Run:
    from unmask_tf.reproduce.artefacts import prepare

    return prepare(options.pop("profile"), **options, **more)


def _folder(options: dict[str, Any], *enough: str) -> Path:
    """results/<profile>: all that tables, figures and the comparison are made from; records or one of `enough`."""
    from unmask_tf.config import profile
    from unmask_tf.reproduce.artefacts import ROOT

    folder = Path(options["results"] or ROOT / "results") / profile(options["profile"]).name
    if not any((folder / name).is_dir() for name in ("records", *enough)):
        raise InputError(
            f"{folder} holds no records. Run `make evaluate PROFILE={options['profile']}` first, or name the root of "
            "other results (--results)."
        )
    return folder


@cli.command()
@_run_options
def data(**options: Any) -> None:
    """Draw the embedded dataset, or check the user's folder."""
    from unmask_tf.data.class_images import load_class_images

    run = _prepared(options)
    for class_set in run.profile.class_sets:
        counts = []
        for split in ("train", "val", "test"):
            # One image a class is read, so that a missing or damaged folder is found now.
            few = len(run.taxonomy.members(class_set))
            load_class_images(run.data.root, class_set, split, taxonomy=run.taxonomy, size=32, limit=few)
            counts.append(f"{run.count(split, class_set)} {split}")
        click.echo(f"[data] {class_set} in {run.data.root}: {', '.join(counts)} images")


def _stage(name: str, text: str) -> None:
    @cli.command(name, help=text)
    @_run_options
    def command(**options: Any) -> None:
        from unmask_tf.reproduce.run import run_stages

        run_stages(_prepared(options), name)


_stage("train-m", "Train model M on every class set: benign, then adversarially.")
_stage("attack", "Attack every M; keep the images and M's verdicts.")
_stage("evaluate", "Extract parts with K, detect and defend; write one record per cell.")


@cli.command("evaluate-k")
@_run_options
def evaluate_k(**options: Any) -> None:
    """Model K's average precision on its test images, part by part."""
    from unmask_tf.reproduce.part_table import part_table
    from unmask_tf.reproduce.run import run_stages
    from unmask_tf.reproduce.tables import read_model_k

    run = _prepared(options)
    run_stages(run, "evaluate-k")
    content = read_model_k(run.folder)
    if content is None:
        click.echo(f"[evaluate-k] {run.data.root} has no parts_test.json to score K on")
    else:
        click.echo(part_table(content) + f"[evaluate-k] {run.folder / 'model_k.json'}")


@cli.command("train-k")
@_run_options
def train_k(**options: Any) -> None:
    """Train model K, unless the weights it would write are there.

    Shipped weights are never replaced: for a profile that has them, the new ones go to results/PROFILE/models.
    """
    from dataclasses import replace

    from unmask_tf.reproduce.artefacts import listed_sha256
    from unmask_tf.reproduce.run import run_stages

    own = options["k_weights"]
    run = _prepared(options, need_k_weights=False)
    if own is None and listed_sha256(run.k_weights) is not None:
        run = replace(run, k_weights=run.folder / "models" / run.k_weights.name)
    run_stages(run, "train-k")
    click.echo(f"[train-k] {run.k_weights} (use others with K_WEIGHTS=file)")


@cli.command("adversarial-training")
@_run_options
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), default="released", show_default=True, help="Whose step.")
@click.option("--epsilons", default="1,2,4,6,8,16", show_default=True, help="Budgets to compare, in 1/255.")
@click.option("--epochs", type=int, help="Epochs of each training; default: the profile's.")
@click.option("--images", type=int, help="Most validation images to attack; default: 60 of embedded data, else all.")
@click.option("--class-sets", default="", help="Which of the profile's, such as cs3a,cs5a; default: all.")
@click.option("--architectures", default="", help="Which of the profile's, such as resnet50; default: all.")
@click.option("--keep-weights", is_flag=True, help="Keep every trained M beside its record.")
def adversarial_training(
    recipe: str,
    epsilons: str,
    epochs: int | None,
    images: int | None,
    class_sets: str,
    architectures: str,
    keep_weights: bool,
    **options: Any,
) -> None:
    """Line search over adversarial training's epsilon, on validation images: Figures 2 and 3.

    A limit is here the most training and the most validation images of a class set. Searches that a limit or another
    number of epochs shortens stand beside the whole one, under their own names.
    """
    from unmask_tf.reproduce.line_search import LineSearchConfig

    config = LineSearchConfig(
        recipe=recipe,
        epsilons_255=_numbers(epsilons),
        class_sets=_names(class_sets),
        architectures=_names(architectures),
        epochs=epochs,
        images=images,
        keep_weights=keep_weights,
    )
    run = _prepared(options, need_k_weights=False)
    from unmask_tf.reproduce.line_search_run import run_line_search

    run_line_search(run, config)
    for name in ("tables", "figures"):
        _line_search(run.folder, name)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(name) for name in _names(text))
    except ValueError as error:
        raise InputError(f"the epsilons to compare are '{text}'. Give numbers, such as 1,2,4.") from error


def _line_search(folder: Path, name: str) -> bool:
    """Renders `tables` or `figures` of every line search in the folder; returns whether there is one."""
    from unmask_tf.reproduce.figures import write_line_search_figures
    from unmask_tf.reproduce.line_search import read_searches
    from unmask_tf.reproduce.line_search_tables import stem, write_line_search_tables
    from unmask_tf.reproduce.published import read_published
    from unmask_tf.reproduce.run import render_once

    write, kinds = {
        "tables": (write_line_search_tables, {"line_search": ".md"}),
        "figures": (write_line_search_figures, {"figure2": ".png", "figure3": ".png"}),
    }[name]
    files = [stem(kind, variant) + kinds[kind] for variant in read_searches(folder) for kind in kinds]
    if files:
        rendered = render_once(folder, f"line-search-{name}", files, lambda: write(folder, read_published()))
        for file in files:
            _tell(name, folder / file, rendered)
    return bool(files)


@cli.command()
@_run_options
def tables(**options: Any) -> None:
    """Table IV, the AUCs and Tables II and III, and the line search's table, from the records."""
    folder = _folder(options)
    from unmask_tf.reproduce.artefacts import read_taxonomy
    from unmask_tf.reproduce.published import read_published
    from unmask_tf.reproduce.records import read_all
    from unmask_tf.reproduce.run import render_once
    from unmask_tf.reproduce.tables import write_tables

    def render() -> None:
        write_tables(read_all(folder / "records"), folder, read_taxonomy(folder), read_published())

    _tell("tables", folder / "table4.md", render_once(folder, "tables", ("table4.csv", "auc.csv"), render))
    _line_search(folder, "tables")


@cli.command()
@_run_options
def figures(**options: Any) -> None:
    """Figures 2 to 5, from the records."""
    folder = _folder(options, "line_search")
    from unmask_tf.reproduce.figures import write_figures
    from unmask_tf.reproduce.published import read_published
    from unmask_tf.reproduce.records import read_all
    from unmask_tf.reproduce.run import render_once

    def render() -> None:
        write_figures(read_all(folder / "records"), folder, read_published())

    if not _line_search(folder, "figures"):
        click.echo(f"[figures] 2 and 3 are not there yet: make adversarial-training PROFILE={folder.name}")
    if (folder / "records").is_dir():
        _tell("figures", folder / "figure4.png", render_once(folder, "figures", ("figure4.png",), render))
    else:
        click.echo(f"[figures] 4 and 5 are not there yet: make evaluate PROFILE={folder.name}")


def _tell(name: str, path: Path, rendered: bool) -> None:
    click.echo(f"[{name}] {path}" + ("" if rendered else " is up to date"))


@cli.command()
@_run_options
def report(**options: Any) -> None:
    """Tables, figures, report.md and the summary, from the records."""
    _report(_folder(options), None)


def _report(folder: Path, config_hash: str | None) -> None:
    from unmask_tf.reproduce.artefacts import read_taxonomy
    from unmask_tf.reproduce.published import read_published
    from unmask_tf.reproduce.report import report_run

    path = report_run(folder, read_taxonomy(folder), read_published(), config_hash)
    click.echo(f"\nThe whole report, with figures: {path}")


@cli.command()
@_run_options
@click.option("--ours", type=click.Path(path_type=Path), help="With --k-weights: our K; default: the profile's.")
@click.option("--canvas", type=int, help="With --k-weights: side of that K's canvas; default: its architecture's.")
def compare(ours: Path | None, canvas: int | None, **options: Any) -> None:
    """The results beside the paper's: its claims, then number by number.

    With --k-weights instead: that K (such as the released one) beside ours, on the same test images.
    """
    if options["k_weights"] is not None:
        run = _prepared(options)
        from unmask_tf.reproduce.compare_k import compare_k
        from unmask_tf.reproduce.stages import import_quietly

        import_quietly()
        compare_k(run, ours, canvas)
        click.echo(f"\n[compare] {run.folder / 'compare_k.md'}")
        return
    if ours is not None or canvas is not None:
        raise InputError("--ours and --canvas need the K to compare with: --k-weights file (make: K_WEIGHTS=file).")
    folder = _folder(options)
    from unmask_tf.reproduce.compare import compare_run
    from unmask_tf.reproduce.published import read_published

    compare_run(folder, read_published())


@cli.command()
@_run_options
def reproduce(**options: Any) -> None:
    """Everything, from the data to the summary beside the paper's numbers."""
    from unmask_tf.reproduce.run import run_stages

    run = _prepared(options)
    run_stages(run, "reproduce")
    _report(run.folder, run.config_hash)


@cli.command()
@_run_options
def study(**options: Any) -> None:
    """M's accuracy under the four presets of the attacks: where the paper's numbers come from."""
    from unmask_tf.reproduce.published import read_published
    from unmask_tf.reproduce.study import run_study

    click.echo(f"[study] {run_study(_prepared(options, need_k_weights=False), read_published())}")


@cli.command()
@_run_options
def bench(**options: Any) -> None:
    """Time K, M and an attack step on this machine, with random images."""
    from unmask_tf.config import profile
    from unmask_tf.reproduce.artefacts import ROOT, WEIGHTS_FOLDER, read_taxonomy
    from unmask_tf.reproduce.bench import benchmark

    settings = profile(options["profile"])
    weights = options["k_weights"] or WEIGHTS_FOLDER / settings.part_detector.weights
    taxonomy = read_taxonomy(Path(options["data"] or ROOT / "dataset" / settings.data))
    path = Path(options["results"] or ROOT / "results") / settings.name / "bench.json"
    for name, value in benchmark(settings, weights, taxonomy, path)["images_per_second"].items():
        click.echo(f"[bench] {name}: {value:g} images/s")
    click.echo(f"[bench] {path}")


@cli.command("contact-sheet")
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write; default: docs/contact_sheet.png.")
def contact_sheet(out: Path | None) -> None:
    """Redraw the overview of the embedded dataset."""
    from unmask_tf.data.synthetic import contact_sheet as draw
    from unmask_tf.reproduce.artefacts import ROOT

    path = out or ROOT / "docs" / "contact_sheet.png"
    draw(path)
    click.echo(f"[contact-sheet] {path}")


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 2 for input a user can mend, 130 when interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    keep_freed_memory()
    try:
        cli.main(args=arguments, prog_name="unmask_tf", standalone_mode=False)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
