"""One Markdown report of a run, and everything it refers to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmask_tf.experiment.rows import RowSet
from unmask_tf.files import write_text
from unmask_tf.report.compare import expectation
from unmask_tf.report.figures import write_figures
from unmask_tf.report.line_search import line_search_markdown, searches, write_line_search
from unmask_tf.report.model_k import part_table
from unmask_tf.report.published import read_published
from unmask_tf.report.results import find, find_model_k, how_to_make, need
from unmask_tf.report.soundness import attacks, checks_markdown
from unmask_tf.report.statistics import detections
from unmask_tf.report.study import study
from unmask_tf.report.summary import MEANS_HEADER, means_rows, training_notes
from unmask_tf.report.tables import (
    auc_markdown,
    table2_markdown,
    table3_markdown,
    table4_markdown,
    verdicts_markdown,
    write_tables,
)
from unmask_tf.report.text import beside, markdown, number


def write_report(folder: Path) -> Path:
    """Writes tables, figures, the study where there is one, and report.md into `<results>/<profile>`.

    Returns:
        The path of report.md.

    Raises:
        InputError: there is no grid, a file is damaged, or the folder cannot be written.
    """
    write_tables(folder)
    write_line_search(folder)
    write_figures(folder)
    if find(folder, "study"):
        study(folder)
    path = folder / "report.md"
    write_text(path, report_markdown(folder))
    return path


def report_markdown(folder: Path) -> str:
    """The whole report. No times: the same rows give the same text."""
    row_sets = need(folder, "grid")
    sections = {
        "Means over the attacked cells": _means(row_sets),
        "Table IV: accuracy of every defence": table4_markdown(row_sets) + "\n" + _images(row_sets),
        "Figure 4: means per class set": "![Accuracy under attack per class set](figure4.png)\n",
        "Checks of the attacks": checks_markdown(row_sets) if attacks(row_sets) else "",
    }
    if detections(row_sets):
        sections |= {
            "Figure 5: detection": "![ROC curves of the detection](figure5.png)\n",
            "AUC of the detection": auc_markdown(row_sets),
            "Detection at a threshold": verdicts_markdown(row_sets),
            "Table III: images evaluated for detection": "Successful attacks and their benign twins. The paper's number, "
            f"in parentheses, names no model.\n\n{table3_markdown(row_sets)}",
        }
    sections |= {"Table II: class sets": table2_markdown(row_sets), "Model K": _model_k(folder)}
    for search in searches(find(folder, "line_search")):
        images = "\n".join(f"![{name}]({name}{search.suffix}.png)\n" for name in ("figure2", "figure3"))
        sections[f"Figures 2 and 3: the ε of adversarial training ({search.recipe})"] = (
            images + "\n" + line_search_markdown(search)
        )
    for name, title in (("line_search", "Figures 2 and 3"), ("study", "The presets of the attacks")):
        if not find(folder, name):
            sections[title] = f"Not made yet: `{how_to_make(folder, name)}`.\n"
    if find(folder, "study"):
        sections["The presets of the attacks"] = "See [study.md](study.md).\n"
    data = row_sets[0].header.data
    head = f"# Results of profile `{folder.name}`\n\n{len(row_sets)} row sets. {expectation(data)}\n\n{_versions(row_sets)}"
    return head + "".join(f"\n## {title}\n\n{text}" for title, text in sections.items() if text)


def _means(row_sets: Sequence[RowSet]) -> str:
    headline = read_published().headline
    return (
        markdown(MEANS_HEADER, means_rows(row_sets), left=1)
        + "".join(f"\n{note}\n" for note in training_notes(row_sets))
        + "\nBoth recomputed from the cells; the paper's text prints "
        f"{number(headline['um_minus_at_points'], sign=True)} and "
        f"{number(headline['um_minus_none_points'], sign=True)}.\n"
    )


def _images(row_sets: Sequence[RowSet]) -> str:
    counts = sorted({r.n for r in row_sets})
    spans = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"{spans} test images per number; one image of {counts[0]} is {100 / counts[0]:.1f} points.\n"
    repaired = sum(r.header.nan_images for r in attacks(row_sets).values())
    return text + (f"\nThe attacks gave NaN for {repaired} images, which were attacked again.\n" if repaired else "")


def _versions(row_sets: Sequence[RowSet]) -> str:
    found = sorted({pair for r in row_sets for pair in r.header.versions.items()})
    return f"Software: {'; '.join(' '.join(pair) for pair in found)}.\n" if found else ""


def _model_k(folder: Path) -> str:
    model_k = find_model_k(folder)
    if model_k is None:
        return f"Not evaluated yet: `{how_to_make(folder, 'model_k')}`.\n"
    return f"mAP at IoU 0.5: {beside(model_k['map50'], read_published().map)}.\n\n{part_table(model_k, markdown)}"
