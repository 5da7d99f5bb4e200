"""One Markdown report of a run, and its summary for the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unmask_tf.files import write_text
from unmask_tf.reproduce.cells import DEFENCE_LABELS, DEFENCES, attack_label, by_cell, class_set_label, model_label
from unmask_tf.reproduce.compare import header
from unmask_tf.reproduce.figures import write_figures, write_line_search_figures
from unmask_tf.reproduce.line_search import Point, read_searches
from unmask_tf.reproduce.line_search_tables import line_search_markdown, stem, write_line_search_tables
from unmask_tf.reproduce.published import Published
from unmask_tf.reproduce.records import Record, read_all
from unmask_tf.reproduce.soundness import checks_markdown, failed_checks, longer_attacks, unsound_notes
from unmask_tf.reproduce.tables import (
    aligned,
    auc_markdown,
    auc_table,
    beside,
    markdown,
    means,
    number,
    read_model_k,
    table2_markdown,
    table3_markdown,
    table4,
    table4_markdown,
    write_tables,
)
from unmask_tf.taxonomy import Taxonomy


def report_markdown(
    records: Sequence[Record],
    taxonomy: Taxonomy,
    published: Published,
    model_k: Mapping[str, Any] | None = None,
    searches: Mapping[str, Sequence[Point]] | None = None,
) -> str:
    """The whole report: headline, Table IV, Figures 4 and 5, AUCs, Tables III and II, K. No times: the same records
    give the same text.

    Args:
        records: the run's records, at least one.
        taxonomy: the run's taxonomy.
        published: the paper's numbers.
        model_k: K's evaluation (`read_model_k`), or None.
        searches: the line searches (`read_searches`), or None.
    """
    key = records[0].key
    parts = [
        f"# Results of profile `{key.profile}`\n",
        f"Configuration {records[0].config_hash}; {len(records)} records. {header(key.profile)}\n",
        _versions(records),
        "## Means over the attacked cells\n",
        _means_markdown(records, published),
        "## Table IV: accuracy without defence, with adversarial training, with UnMask\n",
        table4_markdown(records, published),
        _images(records),
        "## Figure 4: means per class set\n",
        "![Accuracy under attack per class set](figure4.png)\n",
    ]
    if any(record.key.attack != "none" for record in records):
        parts += ["## Checks of the attacks\n", checks_markdown(records)]
    if any(record.detection_scores is not None for record in records):
        parts += [
            "## Figure 5: detection\n",
            "![ROC curves of the detection](figure5.png)\n",
            "## AUC of the detection\n",
            auc_markdown(records, published),
            "## Table III: images evaluated for detection\n",
            "Successful attacks and their benign twins. The paper's number, in parentheses, names no model.\n",
            table3_markdown(records, published),
        ]
    parts += ["## Table II: class sets\n", table2_markdown(records, taxonomy, published)]
    if model_k is not None:
        parts += ["## Model K\n", _model_k_markdown(model_k, published)]
    for variant, points in (searches or {}).items():
        parts += [f"## Figures 2 and 3: the ε of adversarial training ({variant})\n"]
        parts += [f"![{name}]({stem(name, variant)}.png)\n" for name in ("figure2", "figure3")]
        parts += [line_search_markdown(points, published)]
    return "\n".join(parts)


def _versions(records: Sequence[Record]) -> str:
    found: dict[str, set[str]] = {}
    for record in records:
        for package, version in record.versions.items():
            found.setdefault(package, set()).add(version)
    listed = "; ".join(f"{package} {', '.join(sorted(found[package]))}" for package in sorted(found))
    return f"Software: {listed}.\n" if listed else ""


def _images(records: Sequence[Record]) -> str:
    counts = sorted({record.n for record in records})
    repaired = sum(record.nan_images for record in records if record.key.defence == "none")
    span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    text = f"{span} test images per number; one image of {counts[0]} is {100 / counts[0]:.1f} points.\n"
    if repaired:
        text += f"\nThe attacks on M gave NaN for {repaired} images, which were attacked again.\n"
    longer = longer_attacks(records)
    return text + (f"\n{longer}.\n" if longer else "")


def _means_rows(records: Sequence[Record], published: Published) -> list[list[str]]:
    ours, paper = means(table4(records)), means(published.table4)
    rows = [[f"{DEFENCE_LABELS[d]} (%)", number(getattr(ours, d)), number(getattr(paper, d))] for d in DEFENCES]
    for name, label in (("um_minus_at", "UM - AT (points)"), ("um_minus_none", "UM - None (points)")):
        rows.append([label, *(number(getattr(side, name), sign=True) for side in (ours, paper))])
    return rows


_MEANS_HEADER = ("Mean", "Ours", "Paper's Table IV")


def _means_markdown(records: Sequence[Record], published: Published) -> str:
    return (
        markdown(_MEANS_HEADER, _means_rows(records, published), left=1)
        + "\nBoth recomputed from the cells; the paper's text prints "
        f"{number(published.headline['um_minus_at_points'], sign=True)} and "
        f"{number(published.headline['um_minus_none_points'], sign=True)}.\n"
    )


def _model_k_markdown(model_k: Mapping[str, Any], published: Published) -> str:
    at_half = beside(model_k["map50"], published.map)
    text = f"mAP at IoU 0.5: {at_half}; mAP over IoU 0.5 to 0.95: {number(model_k['map'])}.\n"
    per_part = model_k.get("per_part")
    if isinstance(per_part, Mapping) and per_part:
        rows = [[part, number(value)] for part, value in sorted(per_part.items())]
        text += "\n" + markdown(("Part", "AP at IoU 0.5"), rows, left=1)
    return text


def summary(records: Sequence[Record], published: Published, model_k: Mapping[str, Any] | None = None) -> str:
    """The results for the console: one aligned line per cell, ours with the paper's in parentheses, then the means.

    Args:
        records: the run's records, at least one.
        published: the paper's numbers.
        model_k: K's evaluation, or None.
    """
    ours, paper = by_cell(table4(records)), by_cell(published.table4)
    aucs, paper_aucs = by_cell(auc_table(records)), by_cell(published.auc)
    failed = failed_checks(records)
    rows = []
    for cell, row in ours.items():
        model, class_set, attack, epsilon = cell
        rows.append(
            [model_label(model), class_set_label(class_set), attack_label(attack, epsilon), str(row["n"])]
            + [beside(row[d], paper.get(cell, {}).get(d), mark="†" if (cell, d) in failed else "") for d in DEFENCES]
            + [
                beside(
                    *(side.get(cell, {}).get("auc") for side in (aucs, paper_aucs)),
                    digits=3,
                    mark="†" if cell in aucs and (cell, "um") in failed else "",
                )
            ]
        )
    columns = ("M", "CS", "Attack", "n", *(DEFENCE_LABELS[d] for d in DEFENCES), "AUC")
    parts = [
        f"Profile {records[0].key.profile}: ours, with the paper's number in parentheses\n",
        aligned(columns, rows, left=3),
    ]
    notes = unsound_notes(records)
    if notes:
        parts.append("".join(f"† {note}\n" for note in notes))
    parts.append(aligned(_MEANS_HEADER, _means_rows(records, published), left=1))
    if model_k is not None:
        parts.append(f"K: mAP at IoU 0.5 {beside(model_k['map50'], published.map)}\n")
    return "\n".join(parts)


def report_run(results: str | Path, taxonomy: Taxonomy, published: Published, config_hash: str | None = None) -> Path:
    """Writes tables, figures and report.md of the run in a results folder, and prints the summary.

    Args:
        results: results/<profile>, with records/ and perhaps model_k.json.
        taxonomy: the run's taxonomy.
        published: the paper's numbers.
        config_hash: the configuration the records must stem from; None: any one.

    Returns:
        The report's path.

    Raises:
        InputError: no or broken records, mixed configurations, or the folder cannot be written.
    """
    results = Path(results)
    records, model_k = read_all(results / "records", config_hash), read_model_k(results)
    write_tables(records, results, taxonomy, published)
    write_figures(records, results, published)
    searches = read_searches(results)
    write_line_search_tables(results, published)
    write_line_search_figures(results, published)
    path = results / "report.md"
    write_text(path, report_markdown(records, taxonomy, published, model_k, searches))
    print(summary(records, published, model_k), end="")
    return path
