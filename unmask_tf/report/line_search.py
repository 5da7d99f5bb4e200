"""Line search over adversarial training's epsilon (Section IV-A): the accuracies, the choice, and their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet
from unmask_tf.files import write_text
from unmask_tf.report.cells import BENIGN, attack_label, cell_rank, setup_labels
from unmask_tf.report.published import read_published
from unmask_tf.report.results import find
from unmask_tf.report.soundness import by_check, meaning, own_failures
from unmask_tf.report.text import csv, markdown, number, span


@dataclass(frozen=True, eq=False)
class Search:
    """The trainings of one recipe.

    Attributes:
        recipe: `released` or `madry`.
        row_sets: one per training and attack, on validation images.
        accuracy: (model, class_set) -> frame: a row per epsilon of the training (1/255), a column per (attack,
            epsilon_255), the benign images first.
    """

    recipe: str
    row_sets: tuple[RowSet, ...]
    accuracy: dict[tuple[str, str], pd.DataFrame]

    @property
    def suffix(self) -> str:
        """Of the files' names: the released recipe's bear none."""
        return "" if self.recipe == "released" else f"-{self.recipe}"

    @property
    def epsilons(self) -> list[float]:
        """Every epsilon of a training."""
        return sorted({epsilon for frame in self.accuracy.values() for epsilon in frame.index})


def searches(row_sets: Iterable[RowSet]) -> list[Search]:
    """The line searches of a bundle, one per recipe, in the paper's order.

    Raises:
        InputError: a training was attacked twice in the same way.
    """
    recipes: dict[str, list[RowSet]] = {}
    for r in sorted(row_sets, key=lambda r: (cell_rank(r.header.cell), r.header.training["epsilon_255"])):
        recipes.setdefault(r.header.training["recipe"], []).append(r)
    found = []
    for recipe in sorted(recipes, key=lambda name: (name != "released", name)):
        tables: dict[tuple[str, str], dict] = {}
        for r in recipes[recipe]:
            h = r.header
            column = tables.setdefault(h.cell[:2], {}).setdefault(h.cell[2:], {})
            if column.setdefault(h.training["epsilon_255"], r.accuracy) != r.accuracy:
                raise InputError(f"two line searches of recipe `{recipe}` are mixed. Run `make adversarial-training`.")
        frames = {setup: pd.DataFrame(columns).sort_index() for setup, columns in tables.items()}
        found.append(Search(recipe, tuple(recipes[recipe]), frames))
    return found


@dataclass(frozen=True, eq=False)
class Choice:
    """The epsilon a search ends in, and by epsilon under how many attacks no other is better and some are worse."""

    epsilon_255: float
    best_on: pd.Series


def choose(frames: Sequence[pd.DataFrame]) -> Choice | None:
    """The paper's rule (captions of Figures 2 and 3): the epsilon with "the best performance on most attacks".

    Where several epsilons share the highest accuracy, each has it; where all do, none. A tie goes to the higher mean
    accuracy over the attacks and the benign images, then to the smaller epsilon.

    Args:
        frames: of `Search.accuracy`; only epsilons that all of them have are compared.

    Returns:
        The choice; None where no epsilon is common to all.
    """
    common = sorted(set.intersection(*(set(frame.index) for frame in frames))) if frames else []
    if not common:
        return None
    joined = pd.concat([frame.loc[common] for frame in frames], axis=1)
    attacked = joined.loc[:, [attack != "none" for attack, _ in joined]].to_numpy()
    best = (attacked == attacked.max(axis=0)) & (attacked.max(axis=0) > attacked.min(axis=0))
    best_on, total = pd.Series(best.sum(axis=1), common), joined.sum(axis=1).round(9)
    return Choice(min(common, key=lambda e: (-best_on[e], -total[e], e)), best_on)


def line_search_csv(search: Search) -> str:
    """One row per training: accuracies without attack and under each, and whether its epsilon is chosen."""
    frames = []
    for (model, class_set), frame in search.accuracy.items():
        choice = choose([frame])
        flat = frame.set_axis([f"{a}_{e:g}" if a != "none" else a for a, e in frame], axis=1)
        flat = flat.assign(mean_attacked=frame.drop(columns=[BENIGN]).mean(axis=1), best_on=choice.best_on)
        flat = flat.assign(chosen=(flat.index == choice.epsilon_255).astype(int))
        frames.append(flat.rename_axis("epsilon_255").reset_index().assign(class_set=class_set, model=model))
    table = pd.concat(frames, ignore_index=True)
    return csv(table[["class_set", "model", *(name for name in table if name not in ("class_set", "model"))]])


def line_search_markdown(search: Search) -> str:
    """The search's table, its choice per model and class set beside the paper's, and failed attack checks."""
    failed = {
        (r.header.cell, r.header.training["epsilon_255"]): names
        for r in search.row_sets
        if r.header.attack != "none" and (names := own_failures(r))
    }
    vectors = [vector for vector in next(iter(search.accuracy.values())) if vector != BENIGN]
    rows, choices, paper = [], [], f"{read_published().selected_epsilon:g}"
    for setup, frame in search.accuracy.items():
        choice = choose([frame])
        choices.append([*setup_labels(*setup), f"{choice.epsilon_255:g}", paper])
        for epsilon, row in frame.iterrows():
            shown = f"**{epsilon:g}**" if epsilon == choice.epsilon_255 else f"{epsilon:g}"
            values = [number(row[v]) + "†" * (((*setup, *v), epsilon) in failed) for v in (BENIGN, *vectors)]
            best = f"{choice.best_on[epsilon]} of {len(vectors)}"
            rows.append([*setup_labels(*setup), shown, *values, number(row[vectors].mean()), best])
    for model in dict.fromkeys(model for model, _ in search.accuracy):
        own = [frame for (name, _), frame in search.accuracy.items() if name == model]
        if len(own) > 1 and (choice := choose(own)) is not None:
            choices.append([setup_labels(model, "")[0], "all", f"{choice.epsilon_255:g}", paper])
    training = [r.header.training for r in search.row_sets]
    header = ["M", "CS", "ε", "No attack", *(attack_label(*v) for v in vectors), "Mean under attack", "Best on"]
    notes = by_check({(cell, "at"): names for (cell, _), names in failed.items()}, [(c, "at") for c, _ in failed])
    lacking = sorted(set(read_published().searched_epsilons) - set(search.epsilons))
    parts = [
        f"Accuracy on {span(r.n for r in search.row_sets)} validation images of M after adversarial training with "
        f"budget ε (in 1/255), recipe `{search.recipe}`: step {training[0]['step']:.4g}, {training[0]['iterations']} "
        f"iterations. Epochs: {span(t['epochs'] for t in training)}; the one with the best mean of benign and attacked "
        "validation accuracy is kept. Test images are not read. Bold: the ε that is best on most attacks; a tie goes "
        "to the higher mean.\n",
        markdown(header, rows),
        *(f"† the attack failed {name} ({meaning(name)}): {', '.join(where)}.\n" for name, where in notes.items()),
        markdown(["M", "CS", "Chosen ε", "Paper"], choices),
        *(
            [f"Not computed, though in the paper's search: ε = {', '.join(f'{e:g}' for e in lacking)}.\n"]
            * bool(lacking)
        ),
        "The paper prints no accuracy of its search, only its choice.\n",
    ]
    return "\n".join(parts)


def write_line_search(folder: Path) -> list[Path]:
    """Writes line_search.md and .csv of every recipe into `<results>/<profile>`; returns their paths."""
    paths = []
    for search in searches(find(folder, "line_search")):
        stem = folder / f"line_search{search.suffix}"
        title = f"# Line search over adversarial training's ε: profile `{folder.name}`\n\n"
        write_text(stem.with_suffix(".md"), title + line_search_markdown(search))
        write_text(stem.with_suffix(".csv"), line_search_csv(search))
        paths += [stem.with_suffix(".md"), stem.with_suffix(".csv")]
    return paths
