"""Tables I to IV, the detection, and every other table of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.adaptive import adaptive_tables
from unmask_tf.report.adaptive_checks import check_tables
from unmask_tf.report.cells import (
    CLASS_SETS,
    DEFENCES,
    OWN_M,
    attack_label,
    axes,
    cell_labels,
    defences_of,
    in_order,
    label,
    ranked,
    setup_labels,
)
from unmask_tf.report.compare import claims_table
from unmask_tf.report.line_search import line_search_tables, searches
from unmask_tf.report.model_k import model_k_tables
from unmask_tf.report.overlap import overlap_tables
from unmask_tf.report.per_class import class_table, part_errors_table
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.soundness import LEGEND, checks_table, mark, threats_table
from unmask_tf.report.statistics import key_of, mean_intervals, means, share, taxonomy_of
from unmask_tf.report.study import study_tables
from unmask_tf.report.table import Number, Table, span
from unmask_tf.taxonomy import UNMASK

INTERVALS = "In brackets: 95 % intervals, Wilson's of shares and a bootstrap over images of AUCs and means."


def _class_sets(row_sets: Sequence[RowSet]) -> dict[str, RowSet]:
    """Class set -> one of its row sets, in the paper's order."""
    found = {r.header.class_set: r for r in row_sets}
    return {name: found[name] for name in ranked(found, CLASS_SETS)}


def _marked(table: Table) -> Table:
    """The table, with a note on its daggers where it has any."""
    marked = any(isinstance(cell, Number) and cell.mark for row in table.rows for cell in row)
    return replace(table, notes=(*table.notes, *[LEGEND] * marked))


def table1(results: Results) -> Table:
    """Table I, the class-feature matrix V, for the classes of the run."""
    classes = {name: parts for r in _class_sets(results.grid).values() for name, parts in r.header.classes.items()}
    parts = sorted(set().union(*classes.values()))
    same = sum(frozenset(UNMASK.classes.get(name, ())) == frozenset(found) for name, found in classes.items())
    rows = [[part, *("✓" if part in found else "" for found in classes.values())] for part in parts]
    note = f"The parts of {same} of these {len(classes)} classes are the paper's."
    return Table("table1", "Table I: the parts expected of each class (matrix V)", ["Part", *classes], rows, (note,))


def table2(results: Results) -> Table:
    """Table II for the class sets of the run."""
    rows = []
    for name, r in _class_sets(results.grid).items():
        paper, classes = read_published().table2.get(name, {}), taxonomy_of(r.header)
        numbers = [
            Number(len(classes.classes), paper.get("classes"), digits=0),
            Number(len(classes.unique_parts("all")), paper.get("parts"), digits=0),
            Number(len(classes.shared_parts("all")), digits=0),
            Number(classes.overlap("all"), paper.get("overlap_percent")),
            Number(r.n, paper.get("flickr_test"), digits=0),
        ]
        rows.append([label(name, CLASS_SETS), *numbers])
    head = ["CS", "Classes", "Parts", "Shared parts", "Overlap %", "Test images"]
    return Table("table2", "Table II: class sets", head, rows)


def table3(results: Results) -> Table:
    """Table III: images evaluated for detection, successful attacks and their benign twins."""
    rows = []
    for d in results.detections:
        h, paper = d.header, read_published().table3.get(d.header.class_set, {})
        known = paper.get(h.attack) if h.epsilon_255 in (16, 600) else None
        shown = Number(len(d.labels), known, digits=0, mark=mark(results.unsound, key_of(h)))
        rows.append([*cell_labels(h.cell), label(h.defence, DEFENCES), shown])
    notes = ("Successful attacks and their benign twins. The paper's number, of ε 16 or 600, names no model.",)
    head = ["M", "CS", "Attack", "By", "Images"]
    return _marked(Table("table3", "Table III: images evaluated for detection", head, rows, notes))


def table4(results: Results) -> Table:
    """Table IV: accuracy of every defence, a row per M, class set and attack."""
    ours, paper = results.accuracy, read_published().accuracy
    setups, attacks = axes(ours.index)
    defences = defences_of(ours.index.get_level_values("defence"))
    sizes = {r.header.cell: r.n for r in results.grid}
    rows = []
    for cell in ((*setup, *attack) for setup in setups for attack in attacks):
        if cell in sizes:
            numbers = [
                share(ours.get(key), sizes[cell], paper.get(key), mark=mark(results.unsound, key))
                for key in ((*cell, defence) for defence in defences)
            ]
            rows.append([*cell_labels(cell), Number(sizes[cell], digits=0), *numbers])
    head = ["M", "CS", "Attack", "n", *(label(name, DEFENCES) for name in defences)]
    return _marked(Table("table4", "Table IV: accuracy of every defence", head, rows, (INTERVALS,)))


def detection_table(results: Results) -> Table:
    """AUC, and the share of attacks found at the paper's false positive rate, at 5 % and at 1 %."""
    published, rows = read_published(), []
    point = published.operating_point
    where = (point["class_set"], point["attack"], point["epsilon_255"], "um")
    rates = (point["fpr"], 0.05, 0.01)
    for d in results.detections:
        key, dagger = key_of(d.header), mark(results.unsound, key_of(d.header))
        numbers = [Number(d.auc, published.auc.get(key), d.interval, 3, mark=dagger)]
        for rate in rates:
            paper = point["tpr"] if rate == point["fpr"] and key[1:] == where else None
            numbers.append(share(d.tpr(rate), len(d.labels) // 2, paper, 3, dagger))
        rows.append([*cell_labels(key), label(key[4], DEFENCES), *numbers])
    head = ["M", "CS", "Attack", "By", "AUC", *(f"TPR at {100 * rate:.3g} % FPR" for rate in rates)]
    notes = (INTERVALS, "TPR: share of successful attacks found where at most that share of benign images is flagged.")
    return _marked(Table("detection", "Detection: AUC and operating points", head, rows, notes))


def verdicts_table(results: Results) -> Table:
    """Share of images judged adversarial at each defence's threshold, without an attack and under each."""
    rows, notes = [], {}
    for r in (r for r in in_order(results.grid) if r.header.threshold):
        h, t = r.header, r.header.threshold
        where = [*setup_labels(h.model, h.class_set), label(h.defence, DEFENCES)]
        shown = share(float(r.rows["flagged"].mean()), r.n, mark=mark(results.unsound, key_of(h)))
        rows.append([*where, attack_label(*h.cell[2:]), shown])
        above = f"d ≥ {t['value']:.3g}" if t["value"] <= 1 else "d > 1, which no image has"
        notes[" ".join(where)] = (
            f"{above}, chosen on {t['n']} {t['split']} images for at most {100 * t['fpr']:.3g} % false positives "
            f"(there {100 * t['fpr_measured']:.3g} %)."
        )
    told = [f"{where}: {note}" for where, note in notes.items()]
    head, title = ["M", "CS", "By", "Attack", "Judged adversarial"], "Images judged adversarial at a threshold"
    first = "Without an attack these are false positives."
    return _marked(Table("verdicts", title, head, rows, (first, INTERVALS, *told)))


def means_table(results: Results) -> Table:
    """The means of every defence and the paper's two headlines, in percent and in points."""
    paper, rows, intervals = means(read_published().accuracy), [], mean_intervals(results.grid)
    for name, value in means(results.accuracy).items():
        text = " - ".join(label(part, DEFENCES) for part in name.split(" - "))
        difference = name.startswith("um - ")
        unit = "points" if difference else "%"
        rows.append([f"{text} ({unit})", Number(value, paper.get(name), intervals.get(name), sign=difference)])
    printed = [f"{read_published().headline[f'um_minus_{name}_points']:+.2f}" for name in ("at", "none")]
    notes = [
        INTERVALS,
        f"Both recomputed from the cells; the paper's text prints {' and '.join(printed)}.",
        *cut_short(results),
    ]
    return Table("means", "Means over the attacked cells", ["Defence", "Mean over attacked cells"], rows, notes)


def cut_short(results: Results) -> list[str]:
    """A sentence per defence whose adversarial training ended at its limit of epochs: its numbers say little."""
    found = []
    for defence in OWN_M:
        training = [r.header.training for r in results.grid if r.header.defence == defence]
        if cut := [t["epochs"] for t in training if t.get("stopped") == "epochs"]:
            name, epochs = label(defence, DEFENCES), span(cut) + (" epoch" if max(cut) == 1 else " epochs")
            found.append(f"{name} not trained to convergence: {epochs}, so UM - {name} says little.")
    return found


def all_tables(results: Results) -> dict[str, Table]:
    """Every table that the run has rows for, by name; one without a row is left out.

    Raises:
        InputError: there is neither a grid nor another bundle, or one is damaged.
    """
    tables: list[Table] = []
    if results.find("grid") or not (results.find("study") or results.find("line_search")):
        made = (table1, table2, table3, table4, detection_table, means_table, verdicts_table)
        made += (claims_table, class_table, part_errors_table)
        tables += [make(results) for make in made]
        tables += [threats_table(results.grid), checks_table(results.grid)]
        tables += [*model_k_tables(results), *overlap_tables(results.overlap)]
    tables += study_tables(results) + adaptive_tables(results) + check_tables(results)
    for search in searches(results.find("line_search")):
        tables += line_search_tables(search)
    return {table.name: table for table in tables if table.rows}


def write_tables(results: Results, tables: Mapping[str, Table] | None = None) -> list[Path]:
    """Writes every table (or those given) as Markdown, CSV and LaTeX into `<results>/<profile>`.

    Raises:
        InputError: as `all_tables`; the folder cannot be written.
    """
    return results.write((tables or all_tables(results)).values())
