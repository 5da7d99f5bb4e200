"""One Markdown report of a run, and everything it refers to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmask_tf.experiment.rows import RowSet
from unmask_tf.files import write_text
from unmask_tf.report import tables
from unmask_tf.report.adaptive import write_adaptive
from unmask_tf.report.compare import expectation
from unmask_tf.report.figures import write_figures
from unmask_tf.report.line_search import line_search_markdown, searches
from unmask_tf.report.model_k import class_table, part_table
from unmask_tf.report.overlap import our_overlap, overlap_markdown
from unmask_tf.report.per_class import class_accuracies, confusions
from unmask_tf.report.published import read_published
from unmask_tf.report.results import find, find_model_k, how_to_make, need
from unmask_tf.report.soundness import attacks, checks_markdown, threats_markdown
from unmask_tf.report.statistics import detections
from unmask_tf.report.study import study
from unmask_tf.report.summary import means_table, training_notes
from unmask_tf.report.text import beside, markdown, number, span


def write_report(folder: Path) -> Path:
    """Writes tables, figures, the study and the attacks that know K where there are any, and report.md.

    Args:
        folder: `<results>/<profile>`.

    Returns:
        The path of report.md.

    Raises:
        InputError: there is no grid, a file is damaged, or the folder cannot be written.
    """
    tables.write_tables(folder)
    write_figures(folder)
    if find(folder, "study"):
        study(folder)
    if find(folder, "adaptive"):
        write_adaptive(folder)
    write_text(folder / "report.md", report_markdown(folder))
    return folder / "report.md"


def report_markdown(folder: Path) -> str:
    """The whole report. No times: the same rows give the same text."""
    row_sets = need(folder, "grid")
    sections = {
        "Means over the attacked cells": _means(row_sets),
        "Table IV: accuracy of every defence": f"{tables.table4_markdown(row_sets)}\n{_images(row_sets)}",
        "Figure 4: means per class set": "![Accuracy under attack per class set](figure4.png)\n",
        "Attacks": threats_markdown(row_sets) if attacks(row_sets) else "",
        "Checks of the attacks": checks_markdown(row_sets) if attacks(row_sets) else "",
    }
    if detections(row_sets):
        about = "Successful attacks and their benign twins. The paper's number, in parentheses, names no model.\n\n"
        sections |= {
            "Figure 5: detection": "![ROC curves of the detection](figure5.png)\n",
            "AUC of the detection": tables.auc_markdown(row_sets),
            "Table III: images evaluated for detection": about + tables.table3_markdown(row_sets),
        }
    sections |= {
        "Detection at a threshold": tables.verdicts_markdown(row_sets),
        "Table II: class sets": tables.table2_markdown(row_sets),
        "Model K": _model_k(folder, row_sets),
    }
    if known := our_overlap(row_sets):
        sections["Part overlap and number of classes"] = (
            f"![AUC and accuracy over the overlap of parts](figure_overlap.png)\n\n{overlap_markdown(known)}"
        )
    if len(class_accuracies(row_sets)):
        image = "![UM's answers under attack](figure_classes.png)\n\n" * bool(confusions(row_sets))
        sections["Class by class"] = f"{image}Accuracies, confusions and K's errors: [per_class.md](per_class.md).\n"
    for search in searches(find(folder, "line_search")):
        images = "".join(f"![{name}]({name}{search.suffix}.png)\n\n" for name in ("figure2", "figure3"))
        sections[f"Figures 2 and 3: the ε of adversarial training ({search.recipe})"] = images + line_search_markdown(
            search
        )
    if find(folder, "study"):
        sections["The presets of the attacks"] = "The other presets beside the released one: [study.md](study.md).\n"
    if find(folder, "adaptive"):
        sections["An attacker who knows K"] = "Attacks on M, on K and on both: [adaptive.md](adaptive.md).\n"
    absent = {"line_search": "Figures 2 and 3", "study": "The presets of the attacks"}
    sections |= {t: f"Not made yet: `{how_to_make(folder, n)}`.\n" for n, t in absent.items() if not find(folder, n)}
    versions = sorted({" ".join(pair) for r in row_sets for pair in r.header.versions.items()})
    intro = (
        f"# Results of profile `{folder.name}`\n\n{len(row_sets)} row sets. {expectation(row_sets[0].header.data)}\n"
    )
    intro += f"\nSoftware: {'; '.join(versions)}.\n" if versions else ""
    return intro + "".join(f"\n## {title}\n\n{text}" for title, text in sections.items() if text)


def _means(row_sets: Sequence[RowSet]) -> str:
    printed = [number(read_published().headline[f"um_minus_{name}_points"], sign=True) for name in ("at", "none")]
    text = f"Both recomputed from the cells; the paper's text prints {' and '.join(printed)}.\n"
    return "\n".join(part for part in (means_table(row_sets, markdown), training_notes(row_sets), text) if part)


def _images(row_sets: Sequence[RowSet]) -> str:
    least, repaired = min(r.n for r in row_sets), sum(r.header.nan_images for r in attacks(row_sets).values())
    text = f"{span(r.n for r in row_sets)} test images per number; one image of {least} is {100 / least:.1f} points.\n"
    return text + (f"\nThe attacks gave NaN for {repaired} images, which were attacked again.\n" if repaired else "")


def _model_k(folder: Path, row_sets: Sequence[RowSet]) -> str:
    model_k = find_model_k(folder)
    if model_k is None:
        return f"Not evaluated yet: `{how_to_make(folder, 'model_k')}`.\n"
    classes = {name: parts for r in row_sets for name, parts in r.header.classes.items()}
    parts = [
        f"mAP at IoU 0.5: {beside(model_k['map50'], read_published().map)}.\n",
        part_table(model_k, markdown),
        "By class; each is to reach half of the mean over all parts:\n",
        class_table(model_k, classes, markdown),
    ]
    return "\n".join(parts)
