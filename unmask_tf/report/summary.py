"""A run's results in a few lines: for the console, and in plain words for the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from unmask_tf.report.cells import DEFENCES, cell_labels, label
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.soundness import attacks
from unmask_tf.report.statistics import attacked, benign, means, wide
from unmask_tf.report.table import beside, number, span
from unmask_tf.report.tables import cut_short


def _accuracies(results: Results, part: Callable[[pd.Series], pd.Series]) -> list[str]:
    """Each defence's mean accuracy, with the paper's over the same cells in parentheses."""
    numbers, published = results.accuracy, read_published().accuracy
    same = published[published.index.isin(numbers.index)]
    ours, paper = (wide(part(of)).mean() for of in (numbers, same))
    return [f"{label(name, DEFENCES)} {beside(value, paper.get(name))}" for name, value in ours.items()]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _worst(results: Results) -> tuple[float, str] | None:
    """The lowest accuracy of UM, and where."""
    um = results.accuracy[results.accuracy.index.get_level_values("defence") == "um"]
    if not len(um):
        return None
    key = um.idxmin()
    return float(um.min()), "{} {}, {}".format(*cell_labels(key))


def _sound(results: Results) -> str:
    found, failed = attacks(results.grid), results.unsound
    return f"{len(found) - len(failed)} of {len(found)} attacks passed all their checks"


def summary(folder: Path) -> str:
    """The results of `<results>/<profile>` on one screen; the paper's numbers over the same cells in parentheses.

    Raises:
        InputError: there is no grid, or a file is damaged.
    """
    results = Results(folder)
    setups = {r.header.cell[:2] for r in results.grid}
    lines = [
        f"{results.data()}, {len(setups)} pairs of M and class set; in parentheses the paper".replace("`", ""),
        f"Accuracy without attack  {'   '.join(_accuracies(results, benign))}",
        f"Accuracy under attack    {'   '.join(_accuracies(results, attacked))}",
    ]
    ours, paper = means(results.accuracy), means(read_published().accuracy)
    gains = [
        f"{text} {number(ours[name], sign=True)} points ({number(paper[name], sign=True)})"
        for name, text in (("um - at", "UM - AT"), ("um - none", "UM - None"))
        if number(ours[name]) != number(None)
    ]
    lines += [f"Gain                     {'   '.join(gains)}"] if gains else []
    if worst := _worst(results):
        lines.append(f"UM's worst cell          {number(worst[0])} ({worst[1]})")
    if len(area := results.auc.dropna()):
        lines.append(f"AUC of the detection     {span(area, 3)} ({span(read_published().auc, 3)})")
    if model_k := results.model_k():
        lines.append(f"K's mAP at IoU 0.5       {beside(model_k['map50'], read_published().map)}")
    lines += cut_short(results)
    lines.append(f"Soundness                {_sound(results)} (report.html#attacks)")
    return "\n".join(lines) + "\n"


def plain_words(results: Results) -> list[str]:
    """The results for a reader who knows neither the paper nor its terms; at most nine sentences."""
    before, under = (wide(part(results.accuracy)).mean().to_dict() for part in (benign, attacked))
    lines = [
        "M is a classifier. An attack changes an image so little that a person sees no difference, and M takes it for "
        "something else.",
        "UnMask (UM) asks a second model, K, which parts the image shows. Parts that do not fit M's answer give the "
        "attack away, and the class whose parts fit best is UnMask's answer.",
    ]
    paper = means(read_published().accuracy)
    if {"none", "um"} <= {*before} & {*under}:
        lines += [
            f"Without an attack M is right on {_percent(before['none'])} of the images, UnMask on "
            f"{_percent(before['um'])}.",
            f"Under attack M is right on {_percent(under['none'])}, UnMask on {_percent(under['um'])} (means over all "
            f"attacks; the paper: {paper['none']:.0f} % and {paper['um']:.0f} %).",
        ]
    if "at" in under:
        lines.append(f"The usual defence, adversarial training (AT), is right on {_percent(under['at'])} under attack.")
    if worst := _worst(results):
        lines.append(f"Where it does worst, UnMask is right on {_percent(worst[0])} ({worst[1]}).")
    if len(area := results.auc.dropna()):
        lines.append(
            f"Of an attacked and a benign image UnMask finds the attacked one the more suspicious in "
            f"{100 * area.min():.0f} to {100 * area.max():.0f} % of the pairs (AUC)."
        )
    lines.append(f"How far to trust the attacks: {_sound(results)}; see the section on them.")
    return lines
