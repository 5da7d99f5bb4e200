"""Commands that keep what the repository ships: weights, their table, the lock of code. Nothing heavy for --help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from unmask_tf.cli_options import prepared, run_options
from unmask_tf.progress import Progress


@click.command("release-m")
@run_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the files; default: mask_rcnn_weights/.")
def release_m(out: Path | None, **options: Any) -> None:
    """Write each M of a finished run, with the threshold chosen for it and K, for `inspect` to use."""
    from unmask_tf.experiment.release import release_m as release
    from unmask_tf.experiment.setup import WEIGHTS_FOLDER

    for path, calibration in release(prepared(options), out or WEIGHTS_FOLDER).items():
        with_k = f"with {calibration.k_file} flags at most {calibration.max_fpr:.0%} of the benign"
        click.echo(f"[release-m] {path}: threshold {calibration.threshold:.4f}, which {with_k}")


@click.command("release-k")
@run_options
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the files; default: mask_rcnn_weights/.")
def release_k(out: Path | None, **options: Any) -> None:
    """Write the run's K with the scores of its parts, chosen on validation images as K detects now."""
    from unmask_tf.experiment.release import release_k as release
    from unmask_tf.experiment.setup import WEIGHTS_FOLDER

    with Progress(
        total=1.0, desc="validation images", leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
    ) as bar:
        path, scores = release(prepared(options), out or WEIGHTS_FOLDER, lambda share: bar.update(share - bar.n))
    click.echo(f"[release-k] {path}: " + ", ".join(f"{part} {score:g}" for part, score in scores.items()))


@click.command("quantize-k")
@run_options
@click.option("--images", default=100, show_default=True, help="How many of K's training images to look at.")
def quantize_k(images: int, **options: Any) -> None:
    """Write the run's K in 8-bit integers beside its weights, for the engine openvino_int8."""
    from unmask_tf.experiment.release import quantize_k as write

    click.echo(f"[quantize-k] {write(prepared(options), images)}")


@click.command("zoo")
def zoo() -> None:
    """Renew the table of shipped weights in mask_rcnn_weights/README.md."""
    from unmask_tf.places import REFERENCE, WEIGHTS_FOLDER
    from unmask_tf.report.zoo import write_zoo

    click.echo(f"[zoo] {write_zoo(WEIGHTS_FOLDER, REFERENCE)}")


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
def tiny(folder: Path) -> None:
    """Run the tiny grid in a folder, for `versions`."""
    from unmask_tf.experiment.publish import run_grid
    from unmask_tf.experiment.tiny import tiny_run

    run_grid(tiny_run(folder))


@click.command("versions")
@click.option("--other-results", is_flag=True, help="Accept kinds whose VERSION was raised.")
@click.option("--same-results", is_flag=True, help="Accept changed code after the tiny grid gave the same rows.")
def versions(other_results: bool, same_results: bool) -> None:
    """Compare the code of each kind of step with the lock, and update the lock."""
    from unmask_tf.experiment import fingerprint

    click.echo(fingerprint.update(other_results=other_results, same_results=same_results))


@click.command("contact-sheet")
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write; default: docs/contact_sheet.png.")
def contact_sheet(out: Path | None) -> None:
    """Redraw the overview of the embedded dataset."""
    from unmask_tf.data.synthetic import contact_sheet as draw
    from unmask_tf.experiment.setup import ROOT

    path = out or ROOT / "docs" / "contact_sheet.png"
    draw(path)
    click.echo(f"[contact-sheet] {path}")


COMMANDS = (release_m, release_k, quantize_k, zoo, tiny, versions, contact_sheet)
