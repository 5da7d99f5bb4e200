"""Commands that run steps: from the data to the rows. Nothing heavy is imported for --help."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from unmask_tf.classifiers.settings import RECIPES
from unmask_tf.cli_options import budgets, comma_list, crew_of, prepared, run_options, run_steps
from unmask_tf.cli_report import show_report, tables_and_figures, tell
from unmask_tf.errors import InputError

if TYPE_CHECKING:
    from unmask_tf.experiment.setup import Run


@click.command("data")
@run_options
def data(**options: Any) -> None:
    """Draw the embedded dataset, or check the user's folder."""
    run = prepared(options)
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


@click.command("train-m")
@run_options
def train_m(**options: Any) -> None:
    """Train model M on every class set: benign, then adversarially."""
    from unmask_tf.experiment.grid import Grid

    run = prepared(options)
    run_steps(run, options, Grid(run).trainings())


@click.command("attack")
@run_options
def attack(**options: Any) -> None:
    """Attack every M and check the attacks."""
    from unmask_tf.experiment.grid import Grid

    run = prepared(options)
    run_steps(run, options, [step.inputs["attack"] for step in Grid(run).answers() if "attack" in step.inputs])


@click.command("evaluate")
@run_options
def evaluate(**options: Any) -> None:
    """Train, attack, extract parts, and have every defence answer: the rows of Table IV."""
    _evaluate(prepared(options), options)


def _evaluate(run: Run, options: dict[str, Any]) -> None:
    from unmask_tf.experiment.publish import run_grid

    run_grid(run, crew_of(options), comma_list(options["plugins"]))


@click.command("evaluate-k")
@run_options
def evaluate_k(**options: Any) -> None:
    """Model K's average precision on its test images, part by part."""
    from unmask_tf.experiment.grid import Grid
    from unmask_tf.experiment.publish import publish_k
    from unmask_tf.files import read_json
    from unmask_tf.report.model_k import part_table
    from unmask_tf.report.table import plain

    run = prepared(options)
    step = Grid(run).evaluate_k()
    if step is None:
        click.echo(f"[evaluate-k] {run.root} has no part annotations (parts_test.json) to score K on")
        return
    output = run_steps(run, options, [step])[step]
    publish_k(run.folder, "model_k", output)
    click.echo(plain(part_table(read_json(output.path))) + f"[evaluate-k] {run.folder / 'rows' / 'model_k.json'}")


@click.command("train-k")
@run_options
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
    run = replace(prepared(options | {"k_weights": None}), k_weights=None)  # a shipped K is passed over
    grid = Grid(run)
    made, training = grid.k_weights(), grid.train_k()
    outputs = run_steps(run, options, [training, made])
    path = outputs[made].path
    if target is not None:
        write_bytes(target, path.read_bytes())
        path = target
    write_json(path.with_suffix(".log.json"), outputs[training].header()["info"]["log"])
    click.echo(f"[train-k] {path} (use it with K_WEIGHTS=file)")


@click.command("adversarial-training")
@run_options
@click.option("--recipe", type=click.Choice(sorted(RECIPES)), default="released", show_default=True, help="Whose step.")
@click.option("--epsilons", default="1,2,4,6,8,16", show_default=True, help="Budgets to compare, in 1/255.")
@click.option("--images", type=int, help="At most this many validation images to attack; default: 60 if embedded.")
def adversarial_training(recipe: str, epsilons: str, images: int | None, **options: Any) -> None:
    """Line search over adversarial training's epsilon, on validation images: Figures 2 and 3."""
    from unmask_tf.experiment.line_search import line_search
    from unmask_tf.experiment.publish import publish
    from unmask_tf.report.results import Results

    run = prepared(options)
    steps = line_search(run, recipe, budgets(epsilons), images)
    publish(run.folder, f"line_search_{recipe}", steps, run_steps(run, options, steps))
    tell("adversarial-training", tables_and_figures(Results(run.folder)))


@click.command("study")
@run_options
def study(**options: Any) -> None:
    """M's accuracy under the four presets of the attacks: where the paper's numbers come from."""
    from unmask_tf.experiment.publish import publish
    from unmask_tf.experiment.study import study as steps_of
    from unmask_tf.report.results import Results
    from unmask_tf.report.study import write_study
    from unmask_tf.report.table import plain

    run = prepared(options)
    steps = steps_of(run)
    publish(run.folder, "study", steps, run_steps(run, options, steps))
    for table in write_study(Results(run.folder)):
        click.echo("\n".join([f"{table.title}\n", plain(table), *table.notes]) + "\n")


@click.command("adaptive")
@run_options
@click.option("--families", default="", help="Attacks without their norm, such as joint,parts; default: the battery.")
@click.option("--iterations", type=int, help="Steps of one run of an attack; default: as chosen on validation images.")
@click.option("--restarts", type=int, help="Runs of an attack that knows K; default: likewise.")
@click.option("--linf", default="1,2,4,8,16", show_default=True, help="Budgets in 1/255; an empty text: none.")
@click.option("--l2", default="150,300,600", show_default=True, help="The same in L2.")
@click.option("--m-recipe", default="none", help="Training of M against attacks: released or madry; default: none.")
@click.option("--effort", is_flag=True, help="Instead: what more steps and runs gain, on validation images.")
@click.option("--binarisation", is_flag=True, help="Instead: problems whose solution is known, on validation images.")
def adaptive(
    families: str,
    iterations: int | None,
    restarts: int | None,
    linf: str,
    l2: str,
    m_recipe: str,
    effort: bool,
    binarisation: bool,
    **options: Any,
) -> None:
    """The defence against an attacker who knows K: rows, table and curves."""
    from unmask_tf.experiment import adaptive as experiment
    from unmask_tf.experiment.publish import publish, publish_all
    from unmask_tf.report.adaptive import adaptive_tables, bundle_name
    from unmask_tf.report.adaptive_checks import check_tables
    from unmask_tf.report.figures import write_figures
    from unmask_tf.report.results import Results
    from unmask_tf.report.tables import write_tables

    run = prepared(options)
    if effort:
        steps = experiment.effort(run)
        publish(run.folder, "adaptive_effort", steps, run_steps(run, options, steps))
    if binarisation:
        steps = experiment.binarisation(run)
        outputs = run_steps(run, options, steps)
        publish_all(run.folder, "binarisation", [outputs[step] for step in steps])
    if not effort and not binarisation:
        epsilons = {"linf": budgets(linf), "l2": budgets(l2)}
        asked = {"iterations": iterations, "restarts": restarts, "recipe": m_recipe}
        given = {name: value for name, value in asked.items() if value is not None}
        steps = experiment.adaptive(run, comma_list(families), epsilons_255=epsilons, **given)
        publish(run.folder, bundle_name(bool(options["k_preset"]), m_recipe), steps, run_steps(run, options, steps))
    results = Results(run.folder)
    made = write_tables(results, {table.name: table for table in (*adaptive_tables(results), *check_tables(results))})
    curves = results.find("adaptive") or results.find("adaptive_effort")
    tell("adaptive", [*made, *(write_figures(results) if curves else [])])


@click.command("reproduce")
@run_options
def reproduce(**options: Any) -> None:
    """Everything, from the data to the summary beside the paper's numbers."""
    run = prepared(options)
    _evaluate(run, options)
    show_report(run.folder)


COMMANDS = (
    *(data, train_k, evaluate_k, train_m, attack, evaluate),
    *(adversarial_training, study, adaptive, reproduce),
)
