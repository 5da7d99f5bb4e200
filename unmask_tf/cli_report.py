"""Commands that make tables, figures and reports from rows. Nothing heavy is imported for --help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unmask_tf.cli_options import folder_of, prepared, run_options, run_steps
from unmask_tf.errors import InputError
from unmask_tf.progress import busy

if TYPE_CHECKING:
    from unmask_tf.report.results import Results


@click.command("tables")
@run_options
def tables(**options: Any) -> None:
    """Tables I to IV, the detection, and every other table that there are rows for: Markdown, CSV and LaTeX."""
    with busy("making tables"):
        from unmask_tf.report.results import Results
        from unmask_tf.report.tables import write_tables

        paths = write_tables(Results(folder_of(options)))
    tell("tables", paths)


@click.command("figures")
@run_options
def figures(**options: Any) -> None:
    """Figures 1 to 5 as far as there are rows for them: PNG and PDF."""
    with busy("drawing figures"):
        from unmask_tf.report.figures import write_figures
        from unmask_tf.report.results import Results

        paths = write_figures(Results(folder_of(options)))
    tell("figures", paths)


def tables_and_figures(results: Results) -> list[Path]:
    """Makes every table and figure that there are rows for; returns the files."""
    with busy("making tables and figures"):
        from unmask_tf.report.figures import write_figures
        from unmask_tf.report.tables import write_tables

        return [*write_tables(results), *write_figures(results)]


def tell(name: str, paths: Sequence[Path]) -> None:
    """Prints the files that a command wrote."""
    for path in paths:
        click.echo(f"[{name}] {path}")


@click.command("report")
@run_options
def report(**options: Any) -> None:
    """Tables, figures, report.html, report.md and the summary, from the rows."""
    show_report(folder_of(options))


def show_report(folder: Path) -> None:
    """Writes the whole report of results/<profile>, and prints its summary."""
    with busy("making tables, figures and the report"):
        from unmask_tf.report.page import write_report
        from unmask_tf.report.summary import summary

        path, lines = write_report(folder), summary(folder)
    click.echo(lines + f"The whole report         {path}")


@click.command("compare")
@run_options
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
        click.echo(rendering.compare(folder_of(options)))
        return int(strict and rendering.some_claim_fails(folder_of(options)))
    from unmask_tf.experiment.compare import compare_k
    from unmask_tf.experiment.publish import publish, publish_k
    from unmask_tf.report.compare_k import compare_k as render

    run = prepared(options | {"k_weights": None})
    answers, evaluations = compare_k(run, given, ours, canvas)
    outputs = run_steps(run, options, [*answers, *evaluations])
    publish(run.folder, "compare_k", answers, outputs)
    for name, step in zip(("model_k_ours", "model_k_given"), evaluations, strict=False):
        publish_k(run.folder, name, outputs[step])
    click.echo(render(run.folder))
    return 0


@click.command("claims")
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


COMMANDS = (tables, figures, report, compare, claims)
