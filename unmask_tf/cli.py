"""The command line: one command per stage, with the names of the make targets. Nothing heavy is imported for --help."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmask_tf import __version__
from unmask_tf.classifiers.settings import RECIPES
from unmask_tf.cli_data import COMMANDS as DATA_COMMANDS
from unmask_tf.cli_fetch import COMMANDS as FETCH_COMMANDS
from unmask_tf.config import PROFILES
from unmask_tf.errors import InputError
from unmask_tf.inspection.command import demo, inspect
from unmask_tf.memory import keep_freed_memory
from unmask_tf.progress import NO_GPU, Progress, busy

if TYPE_CHECKING:
    from unmask_tf.experiment.runner import Crew
    from unmask_tf.experiment.setup import Run
    from unmask_tf.experiment.step import Output, Step
    from unmask_tf.report.results import Results

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


def _run_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class _Commands(click.Group):
    """A group whose help tells each command's first sentence in full."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        shown = [(name, self.commands[name]) for name in self.list_commands(context)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(200)) for name, one in shown if not one.hidden])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unmask_tf")
def cli() -> None:
    """UnMask: detect and undo adversarial attacks by the parts an image shows.

    Begin with `demo`, or with `inspect photo.jpg` for your own photograph; both work offline. Results go to the folder
    results/, below the checkout or the present folder. COMMAND --help tells a command's options.
    """


for _command in (inspect, demo, *DATA_COMMANDS, *FETCH_COMMANDS):
    cli.add_command(_command)


def _prepared(options: dict[str, Any]) -> Run:
    from unmask_tf.experiment.setup import prepare
    from unmask_tf.experiment.step import import_plugins

    import_plugins(_names(options["plugins"]))
    chosen = {name: _names(value) if name in _LISTS else value for name, value in options.items() if name not in _HOW}
    return prepare(chosen.pop("profile"), **chosen)


def _crew(options: dict[str, Any]) -> Crew:
    """Who runs the steps."""
    from unmask_tf.experiment.runner import InThisProcess, Workers, default_workers

    if options["ray_address"]:
        from unmask_tf.experiment.ray_runner import RayCrew

        return RayCrew(options["ray_address"], options["threads"] or 1)
    workers = default_workers() if options["workers"] is None else options["workers"]
    return Workers(workers, options["threads"]) if workers else InThisProcess()


def _run(run: Run, options: dict[str, Any], steps: Sequence[Step]) -> dict[Step, Output]:
    """Runs steps as the options say where."""
    from unmask_tf.experiment.runner import run as run_steps

    return run_steps(steps, run.folder, crew=_crew(options), plugins=_names(options["plugins"]))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _budgets(text: str) -> list[float]:
    try:
        return [float(name) for name in _names(text)]
    except ValueError as error:
        raise InputError(f"the epsilons to compare are '{text}'. Give numbers, such as 1,2,4.") from error


def _folder(options: dict[str, Any]) -> Path:
    """results/<profile>."""
    from unmask_tf.config import profile
    from unmask_tf.experiment.setup import ROOT

    return Path(options["results"] or ROOT / "results") / profile(options["profile"]).name


@cli.command()
@_run_options
def data(**options: Any) -> None:
    """Draw the embedded dataset, or check the user's folder."""
    run = _prepared(options)
    seen: dict[str, set[str]] = {split: set() for split in ("train", "val", "test")}
    for class_set in run.profile.class_sets:
        for split, names in seen.items():
            files = run.images(class_set, split)
            names.update(files.names)
            click.echo(
                f"[data] {class_set} {split}: {len(files)} images of {len(run.taxonomy.members(class_set))} classes"
            )
    counts = ", ".join(f"{len(names)} {split}" for split, names in seen.items())
    click.echo(f"[data] {run.root}: {counts} images of M in all, each counted once")


def _stage(name: str, text: str, steps: Callable[[Run], list[Step]]) -> None:
    @cli.command(name, help=text)
    @_run_options
    def command(**options: Any) -> None:
        run = _prepared(options)
        _run(run, options, steps(run))


def _trainings(run: Run) -> list[Step]:
    from unmask_tf.experiment.grid import Grid

    return Grid(run).trainings()


def _attacks(run: Run) -> list[Step]:
    from unmask_tf.experiment.grid import Grid

    return [step.inputs["attack"] for step in Grid(run).answers() if "attack" in step.inputs]


_stage("train-m", "Train model M on every class set: benign, then adversarially.", _trainings)
_stage("attack", "Attack every M and check the attacks.", _attacks)


@cli.command()
@_run_options
def evaluate(**options: Any) -> None:
    """Train, attack, extract parts, and have every defence answer: the rows of Table IV."""
    _evaluate(_prepared(options), options)


def _evaluate(run: Run, options: dict[str, Any]) -> None:
    from unmask_tf.experiment.publish import run_grid

    run_grid(run, _crew(options), _names(options["plugins"]))


@cli.command("evaluate-k")
@_run_options
def evaluate_k(**options: Any) -> None:
    """Model K's average precision on its test images, part by part."""
    from unmask_tf.experiment.grid import Grid
    from unmask_tf.experiment.publish import publish_k
    from unmask_tf.files import read_json
    from unmask_tf.report.model_k import part_table
    from unmask_tf.report.table import plain

    run = _prepared(options)
    step = Grid(run).evaluate_k()
    if step is None:
        click.echo(f"[evaluate-k] {run.root} has no part annotations (parts_test.json) to score K on")
        return
    output = _run(run, options, [step])[step]
    publish_k(run.folder, "model_k", output)
    click.echo(plain(part_table(read_json(output.path))) + f"[evaluate-k] {run.folder / 'rows' / 'model_k.json'}")


@cli.command("train-k")
@_run_options
def train_k(**options: Any) -> None:
    """Train model K on the data, beside any shipped weights, which are never replaced.

    With --k-weights, the new weights and their log are also copied there.
    """
    from unmask_tf.experiment.grid import Grid
    from unmask_tf.experiment.setup import listed_sha256
    from unmask_tf.files import write_bytes, write_json

    target = options.pop("k_weights")
    if target is not None and listed_sha256(target) is not None:
        raise InputError(f"{target} is a shipped file, which no training may replace. Give another place.")
    run = replace(_prepared(options | {"k_weights": None}), k_weights=None)  # a shipped K is passed over
    grid = Grid(run)
    made, training = grid.k_weights(), grid.train_k()
    outputs = _run(run, options, [training, made])
    path = outputs[made].path
    if target is not None:
        write_bytes(target, path.read_bytes())
        path = target
    write_json(path.with_suffix(".log.json"), outputs[training].header()["info"]["log"])
    click.echo(f"[train-k] {path} (use it with K_WEIGHTS=file)")


@cli.command("release-m")
@_run_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the files; default: mask_rcnn_weights/.")
def release_m(out: Path | None, **options: Any) -> None:
    """Write each M of a finished run, with the threshold chosen for it and K, for `inspect` to use."""
    from unmask_tf.experiment.release import release_m as release
    from unmask_tf.experiment.setup import WEIGHTS_FOLDER

    for path, calibration in release(_prepared(options), out or WEIGHTS_FOLDER).items():
        with_k = f"with {calibration.k_file} flags at most {calibration.max_fpr:.0%} of the benign"
        click.echo(f"[release-m] {path}: threshold {calibration.threshold:.4f}, which {with_k}")


@cli.command("release-k")
@_run_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the files; default: mask_rcnn_weights/.")
def release_k(out: Path | None, **options: Any) -> None:
    """Write the run's K with the scores of its parts, chosen on validation images as K detects now."""
    from unmask_tf.experiment.release import release_k as release
    from unmask_tf.experiment.setup import WEIGHTS_FOLDER

    with Progress(
        total=1.0, desc="validation images", leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
    ) as bar:
        path, scores = release(_prepared(options), out or WEIGHTS_FOLDER, lambda share: bar.update(share - bar.n))
    click.echo(f"[release-k] {path}: " + ", ".join(f"{part} {score:g}" for part, score in scores.items()))


@cli.command("quantize-k")
@_run_options
@click.option("--images", default=100, show_default=True, help="How many of K's training images to look at.")
def quantize_k(images: int, **options: Any) -> None:
    """Write the run's K in 8-bit integers beside its weights, for the engine openvino_int8."""
    from unmask_tf.experiment.release import quantize_k as write

    click.echo(f"[quantize-k] {write(_prepared(options), images)}")


@cli.command("adversarial-training")
@_run_options
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), default="released", show_default=True, help="Whose step.")
@click.option("--epsilons", default="1,2,4,6,8,16", show_default=True, help="Budgets to compare, in 1/255.")
@click.option("--images", type=int, help="At most this many validation images to attack; default: 60 if embedded.")
def adversarial_training(recipe: str, epsilons: str, images: int | None, **options: Any) -> None:
    """Line search over adversarial training's epsilon, on validation images: Figures 2 and 3."""
    from unmask_tf.experiment.line_search import line_search
    from unmask_tf.experiment.publish import publish
    from unmask_tf.report.results import Results

    run = _prepared(options)
    steps = line_search(run, recipe, _budgets(epsilons), images)
    publish(run.folder, f"line_search_{recipe}", steps, _run(run, options, steps))
    _tell("adversarial-training", _tables_and_figures(Results(run.folder)))


@cli.command()
@_run_options
def study(**options: Any) -> None:
    """M's accuracy under the four presets of the attacks: where the paper's numbers come from."""
    from unmask_tf.experiment.publish import publish
    from unmask_tf.experiment.study import study as steps_of
    from unmask_tf.report.results import Results
    from unmask_tf.report.study import write_study
    from unmask_tf.report.table import plain

    run = _prepared(options)
    steps = steps_of(run)
    publish(run.folder, "study", steps, _run(run, options, steps))
    for table in write_study(Results(run.folder)):
        click.echo("\n".join([f"{table.title}\n", plain(table), *table.notes]) + "\n")


@cli.command()
@_run_options
@click.option("--families", default="", help="Attacks without their norm, such as joint,parts; default: the battery.")
@click.option("--iterations", type=int, help="Steps of one run of an attack; default: as chosen on validation images.")
@click.option("--restarts", type=int, help="Runs of an attack that knows K; default: likewise.")
@click.option("--linf", default="1,2,4,8,16", show_default=True, help="Budgets in 1/255; an empty text: none.")
@click.option("--l2", default="150,300,600", show_default=True, help="The same in L2.")
@click.option("--effort", is_flag=True, help="Instead: what more steps and runs gain, on validation images.")
@click.option("--binarisation", is_flag=True, help="Instead: problems whose solution is known, on validation images.")
def adaptive(
    families: str,
    iterations: int | None,
    restarts: int | None,
    linf: str,
    l2: str,
    effort: bool,
    binarisation: bool,
    **options: Any,
) -> None:
    """The defence against an attacker who knows K: rows, table and curves."""
    from unmask_tf.experiment import adaptive as experiment
    from unmask_tf.experiment.publish import publish, publish_all
    from unmask_tf.report.adaptive import NAME, ROBUST, adaptive_tables
    from unmask_tf.report.adaptive_checks import check_tables
    from unmask_tf.report.figures import write_figures
    from unmask_tf.report.results import Results
    from unmask_tf.report.tables import write_tables

    run = _prepared(options)
    if effort:
        steps = experiment.effort(run)
        publish(run.folder, "adaptive_effort", steps, _run(run, options, steps))
    if binarisation:
        steps = experiment.binarisation(run)
        outputs = _run(run, options, steps)
        publish_all(run.folder, "binarisation", [outputs[step] for step in steps])
    if not effort and not binarisation:
        budgets = {"linf": _budgets(linf), "l2": _budgets(l2)}
        efforts = {"iterations": iterations, "restarts": restarts}
        given = {name: value for name, value in efforts.items() if value is not None}
        steps = experiment.adaptive(run, _names(families), epsilons_255=budgets, **given)
        bundle = ROBUST if options["k_preset"] else NAME
        publish(run.folder, bundle, steps, _run(run, options, steps))
    results = Results(run.folder)
    made = write_tables(results, {table.name: table for table in (*adaptive_tables(results), *check_tables(results))})
    curves = results.find("adaptive") or results.find("adaptive_effort")
    _tell("adaptive", [*made, *(write_figures(results) if curves else [])])


@cli.command()
@_run_options
def tables(**options: Any) -> None:
    """Tables I to IV, the detection, and every other table that there are rows for: Markdown, CSV and LaTeX."""
    with busy("making tables"):
        from unmask_tf.report.results import Results
        from unmask_tf.report.tables import write_tables

        paths = write_tables(Results(_folder(options)))
    _tell("tables", paths)


@cli.command()
@_run_options
def figures(**options: Any) -> None:
    """Figures 1 to 5 as far as there are rows for them: PNG and PDF."""
    with busy("drawing figures"):
        from unmask_tf.report.figures import write_figures
        from unmask_tf.report.results import Results

        paths = write_figures(Results(_folder(options)))
    _tell("figures", paths)


def _tables_and_figures(results: Results) -> list[Path]:
    with busy("making tables and figures"):
        from unmask_tf.report.figures import write_figures
        from unmask_tf.report.tables import write_tables

        return [*write_tables(results), *write_figures(results)]


def _tell(name: str, paths: Sequence[Path]) -> None:
    for path in paths:
        click.echo(f"[{name}] {path}")


@cli.command()
@_run_options
def report(**options: Any) -> None:
    """Tables, figures, report.html, report.md and the summary, from the rows."""
    _report(_folder(options))


def _report(folder: Path) -> None:
    with busy("making tables, figures and the report"):
        from unmask_tf.report.page import write_report
        from unmask_tf.report.summary import summary

        path, lines = write_report(folder), summary(folder)
    click.echo(lines + f"The whole report         {path}")


@cli.command()
@_run_options
def reproduce(**options: Any) -> None:
    """Everything, from the data to the summary beside the paper's numbers."""
    run = _prepared(options)
    _evaluate(run, options)
    _report(run.folder)


@cli.command()
@_run_options
@click.option("--ours", type=click.Path(path_type=Path), help="With --k-weights: our K; default: the profile's.")
@click.option("--canvas", type=int, help="With --k-weights: side of that K's canvas; default: its architecture's.")
@click.option("--strict", is_flag=True, help="Exit with 1 where a claim of the paper does not hold.")
def compare(ours: Path | None, canvas: int | None, strict: bool, **options: Any) -> int:
    """The results beside the paper's: its claims, then number by number.

    With --k-weights instead: that K (such as the released one) beside ours, on the same test images.
    """
    from unmask_tf.report import compare as rendering

    given = options["k_weights"]
    if given is None:
        if ours is not None or canvas is not None:
            raise InputError("--ours and --canvas need the K to compare with: --k-weights file (make: K_WEIGHTS=file).")
        click.echo(rendering.compare(_folder(options)))
        return int(strict and rendering.some_claim_fails(_folder(options)))
    from unmask_tf.experiment.compare import compare_k
    from unmask_tf.experiment.publish import publish, publish_k
    from unmask_tf.report.compare_k import compare_k as render

    run = _prepared(options | {"k_weights": None})
    answers, evaluations = compare_k(run, given, ours, canvas)
    outputs = _run(run, options, [*answers, *evaluations])
    publish(run.folder, "compare_k", answers, outputs)
    for name, step in zip(("model_k_ours", "model_k_given"), evaluations, strict=False):
        publish_k(run.folder, name, outputs[step])
    click.echo(render(run.folder))
    return 0


@cli.command()
@click.option("--results", type=click.Path(path_type=Path), help="Root of the results; default: results/reference.")
def claims(results: Path | None) -> int:
    """Test every claim on the rows there are, and fail where one comes out otherwise than expected."""
    with busy("testing claims"):
        from unmask_tf.experiment.setup import ROOT
        from unmask_tf.report.claims_list import write_claims

        reference = ROOT / "results" / "reference"
        folder = results or reference
        said, missed = write_claims(folder, ROOT / "CLAIMS.md" if folder == reference else folder / "claims.md")
    click.echo("\n".join([*missed, said]))
    return 1 if missed else 0


@cli.command()
def zoo() -> None:
    """Renew the table of shipped weights in mask_rcnn_weights/README.md."""
    from unmask_tf.places import REFERENCE, WEIGHTS_FOLDER
    from unmask_tf.report.zoo import write_zoo

    click.echo(f"[zoo] {write_zoo(WEIGHTS_FOLDER, REFERENCE)}")


@cli.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
def tiny(folder: Path) -> None:
    """Run the tiny grid in a folder, for `versions`."""
    from unmask_tf.experiment.publish import run_grid
    from unmask_tf.experiment.tiny import tiny_run

    run_grid(tiny_run(folder))


@cli.command()
@click.option("--other-results", is_flag=True, help="Accept kinds whose VERSION was raised.")
@click.option("--same-results", is_flag=True, help="Accept changed code after the tiny grid gave the same rows.")
def versions(other_results: bool, same_results: bool) -> None:
    """Compare the code of each kind of step with the lock, and update the lock."""
    from unmask_tf.experiment import fingerprint

    click.echo(fingerprint.update(other_results=other_results, same_results=same_results))


@cli.command("contact-sheet")
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write; default: docs/contact_sheet.png.")
def contact_sheet(out: Path | None) -> None:
    """Redraw the overview of the embedded dataset."""
    from unmask_tf.data.synthetic import contact_sheet as draw
    from unmask_tf.experiment.setup import ROOT

    path = out or ROOT / "docs" / "contact_sheet.png"
    draw(path)
    click.echo(f"[contact-sheet] {path}")


def _called() -> str:
    """How the user calls this program: the installed command, or the module."""
    return "unmask" if Path(sys.argv[0]).stem == "unmask" else "python -m unmask_tf"


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: the command's own, 2 for input a user can fix, 130 when interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    keep_freed_memory()
    warnings.filterwarnings("ignore", NO_GPU)
    try:
        return cli.main(args=arguments, prog_name=_called(), standalone_mode=False) or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
