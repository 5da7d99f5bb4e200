"""The report of a run: the same sections as report.md and as report.html, which needs no other file and no network."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from unmask_tf.files import write_text
from unmask_tf.report.cells import ATTACKS, DEFENCES, attack_label, cell_labels, label
from unmask_tf.report.compare import expectation
from unmask_tf.report.figures import write_figures
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import Detection
from unmask_tf.report.summary import plain_words
from unmask_tf.report.table import Table, markdown, span
from unmask_tf.report.tables import all_tables, write_tables

_FILES = Path(__file__).parent / "assets"
_FOLDED = ("part_errors", "model_k", "study_checks", "table3")
"""Tables that the page shows folded."""
_FIGURES = {
    "figure1": "An attacked image, what K sees in it, and the verdict",
    "figure2": "Validation accuracy over the ε of adversarial training",
    "figure3": "Validation accuracy under each attack",
    "figure4": "Accuracy under attack per class set",
    "figure5": "ROC curves of the detection",
    "figure_adaptive": "Success of attacks that know K",
    "figure_effort": "Success over the effort of the attack that knows K",
    "figure_classes": "UM's answers under attack",
    "figure_overlap": "AUC and accuracy over the overlap of parts",
}
# Anchor -> heading, and the figures and tables that stand there.
_SECTIONS = {
    "idea": ("The idea on a real case", "figure1"),
    "accuracy": ("Accuracy", "means figure4 table4"),
    "claims": ("Claims of the paper", "claims"),
    "detection": ("Detection", "figure5 detection verdicts table3"),
    "attacks": ("The attacks and their checks", "attacks checks"),
    "overlap": ("Class sets and the overlap of parts", "table2 table1 figure_overlap overlap overlap_correlations"),
    "classes": ("Class by class", "figure_classes per_class part_errors"),
    "model_k": ("Model K", "model_k model_k_classes"),
    "line_search": (
        "The ε of adversarial training",
        "figure2 figure3 line_search_choice line_search "
        "figure2-madry figure3-madry line_search_choice-madry line_search-madry",
    ),
    "adaptive": (
        "An attacker who knows K",
        "figure_adaptive adaptive adaptive_thresholds adaptive_robust adaptive_robust_thresholds "
        "adaptive_madry adaptive_madry_thresholds adaptive_robust_madry adaptive_robust_madry_thresholds "
        "adaptive_systems figure_effort adaptive_effort binarisation",
    ),
    "study": ("The presets of the attacks", "study_means study study_checks"),
}


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        name: its anchor.
        title: its heading.
        parts: texts, tables, and figures, by their file's name without a suffix, with a description.
    """

    name: str
    title: str
    parts: Sequence[str | Table | tuple[str, str]]


def sections(results: Results, tables: Mapping[str, Table], figures: Collection[str]) -> list[Section]:
    """The report of a run. No times: the same rows give the same text.

    Args:
        tables: by name.
        figures: names of those that were drawn.
    """
    there = {name: (name, _FIGURES[name.partition("-")[0]]) for name in figures} | dict(tables)
    found = [
        Section(name, title, [there[part] for part in wanted.split() if part in there])
        for name, (title, wanted) in _SECTIONS.items()
    ]
    absent = {
        "adaptive": "an attacker who knows K",
        "study": "the presets of the attacks",
        "line_search": "Figures 2 and 3",
    }
    absent = {name: what for name, what in absent.items() if not results.find(name)}
    absent |= {} if "figure1" in figures else {"gallery": "Figure 1 and the gallery"}
    lines = [f"Not made yet: {what} (`{results.how_to_make(name)}`)." for name, what in absent.items()]
    software = sorted({" ".join(pair) for r in results.grid for pair in r.header.versions.items()})
    least, sizes = min(r.n for r in results.grid), span(r.n for r in results.grid)
    lines.append(f"{sizes} test images per number; one image of {least} is {100 / least:.1f} points.")
    if repaired := sum(r.header.nan_images for r in results.grid if r.header.defence == "none"):
        lines.append(f"The attacks gave NaN for {repaired} images, which were attacked again.")
    lines += [f"Software: {'; '.join(software)}."] if software else []
    return [section for section in found if section.parts] + [Section("about", "About these numbers", lines)]


def write_report(folder: Path) -> Path:
    """Writes tables, figures, report.md and report.html into `<results>/<profile>`.

    Returns:
        The path of report.html.

    Raises:
        InputError: there is no grid, a file is damaged, or the folder cannot be written.
    """
    results = Results(folder)
    results.need("grid")
    tables = all_tables(results)
    write_tables(results, tables)
    figures = [path.stem for path in write_figures(results) if path.suffix == ".png"]
    made = sections(results, tables, figures)
    intro = [expectation(results.grid[0].header.data), *plain_words(results)]
    write_text(folder / "report.md", report_markdown(results, intro, made))
    write_text(folder / "report.html", report_html(results, intro, made))
    return folder / "report.html"


def report_markdown(results: Results, intro: Sequence[str], made: Sequence[Section]) -> str:
    """The sections as Markdown, with links to the figures beside it."""
    text = f"# Results: {results.data()}\n\n" + "".join(f"{line}\n" for line in intro[:1])
    text += "\n" + "".join(f"- {line}\n" for line in intro[1:])
    for section in made:
        text += f"\n## {section.title}\n"
        for part in section.parts:
            if isinstance(part, Table):
                text += f"\n**{part.title}** ({results.data(part.bundle)})\n\n{markdown(part)}"
            else:
                text += f"\n{part}\n" if isinstance(part, str) else f"\n![{part[1]}]({part[0]}.png)\n"
    return text


def report_html(results: Results, intro: Sequence[str], made: Sequence[Section]) -> str:
    """One page that needs nothing else: tables that sort, figures, and a threshold over detection and gallery."""

    def image(name: str) -> str:
        return "data:image/png;base64," + base64.b64encode((results.folder / f"{name}.png").read_bytes()).decode()

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FILES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["table"] = lambda part: isinstance(part, Table)
    content = json.dumps(page_data(results), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return environment.get_template("report.html").render(
        title=results.folder.name,
        data=results.data,
        intro=intro,
        sections=made,
        image=image,
        folded=_FOLDED,
        content=content.replace("<", "\\u003c"),  # nothing in it may end the script element
        style=(_FILES / "report.css").read_text("utf-8"),
        script=(_FILES / "report.js").read_text("utf-8"),
    )


def page_data(results: Results) -> dict[str, Any]:
    """What the page computes with: the detection's scores, thresholds, and the gallery."""
    thresholds = {" ".join(r.header.cell[:2]): r.header.threshold["value"] for r in results.grid if r.header.threshold}
    gallery = [case | {"name": attack_label(case["attack"], case["epsilon_255"])} for case in results.gallery]
    return {
        "detections": [_curve(d) for d in results.detections if len(d.labels)],
        "thresholds": thresholds,
        "gallery": gallery,
        "attacks": ATTACKS,
    }


def _curve(d: Detection) -> dict[str, Any]:
    """The distinct scores, falling, and how many attacked and benign images have at least each."""
    levels = np.unique(d.scores)[::-1]
    attacked, benign = (d.scores[d.labels == kind] for kind in (1, 0))
    h = d.header
    return {
        "name": ", ".join([*cell_labels(h.cell), label(h.defence, DEFENCES)]),
        "setup": f"{h.model} {h.class_set}",
        "levels": levels.tolist(),
        "attacked": [int((attacked >= level).sum()) for level in levels],
        "benign": [int((benign >= level).sum()) for level in levels],
        "auc": d.auc,
    }
