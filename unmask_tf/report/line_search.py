"""Line search over adversarial training's epsilon (Section IV-A): the accuracies, the choice, and their table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import BENIGN, MODELS, attack_label, grouped, in_order, label, setup_labels
from unmask_tf.report.published import read_published
from unmask_tf.report.soundness import meaning, own_failures
from unmask_tf.report.statistics import share
from unmask_tf.report.table import Number, Table, span


@dataclass(frozen=True, eq=False)
class Search:
    """The trainings of one recipe.

    Attributes:
        recipe: `released` or `madry`.
        row_sets: one per training and attack, on validation images, in the paper's order.
        accuracy: (model, class_set) -> frame: a row per epsilon of the training (1/255), a column per (attack,
            epsilon_255), the benign images first.
        suffix: of the files' names; the released recipe's is empty.
        epsilons: every epsilon of a training.
    """

    recipe: str
    row_sets: tuple[RowSet, ...]
    accuracy: dict[tuple[str, str], pd.DataFrame]

    @property
    def suffix(self) -> str:
        return "" if self.recipe == "released" else f"-{self.recipe}"

    @property
    def epsilons(self) -> list[float]:
        return sorted({epsilon for frame in self.accuracy.values() for epsilon in frame.index})


def searches(row_sets: Iterable[RowSet]) -> list[Search]:
    """The line searches of a bundle, one per recipe, the released one first.

    Raises:
        InputError: a training was attacked twice in the same way.
    """
    recipes, found = grouped(in_order(row_sets), lambda r: r.header.training["recipe"]), []
    for recipe in sorted(recipes, key=lambda name: (name != "released", name)):
        tables: dict[tuple, dict] = {}
        for r in recipes[recipe]:
            column = tables.setdefault(r.header.cell[:2], {}).setdefault(r.header.cell[2:], {})
            if column.setdefault(r.header.training["epsilon_255"], r.accuracy) != r.accuracy:
                raise InputError(f"two line searches of recipe `{recipe}` are mixed. Run `make adversarial-training`.")
        frames = {setup: pd.DataFrame(columns).sort_index() for setup, columns in tables.items()}
        found.append(Search(recipe, tuple(recipes[recipe]), frames))
    return found


def choose(frames: Sequence[pd.DataFrame]) -> tuple[float, pd.Series] | None:
    """The paper's rule (captions of Figures 2 and 3): the epsilon with "the best performance on most attacks".

    Where several epsilons share the highest accuracy, each has it; where all do, none. A tie goes to the higher mean
    accuracy over the attacks and the benign images, then to the smaller epsilon.

    Args:
        frames: of `Search.accuracy`, at least one; only epsilons that all of them have are compared.

    Returns:
        The chosen epsilon, and by epsilon the number of attacks it is best on; None where none is common to all.
    """
    common = sorted(set.intersection(*(set(frame.index) for frame in frames)))
    if not common:
        return None
    joined = pd.concat([frame.loc[common] for frame in frames], axis=1)
    attacked = joined.loc[:, [attack != "none" for attack, _ in joined]].to_numpy()
    best = (attacked == attacked.max(axis=0)) & (attacked.max(axis=0) > attacked.min(axis=0))
    best_on, total = pd.Series(best.sum(axis=1), common), joined.sum(axis=1).round(9)
    return min(common, key=lambda e: (-best_on[e], -total[e], e)), best_on


def line_search_tables(search: Search) -> list[Table]:
    """A row per training, and the choice per M and class set beside the paper's."""
    failed: dict[tuple, list[str]] = {}
    for r in search.row_sets:
        if r.header.attack != "none" and (names := own_failures(r)):
            failed[(*r.header.cell, r.header.training["epsilon_255"])] = names
    vectors = [vector for vector in next(iter(search.accuracy.values())) if vector != BENIGN]
    rows, choices, paper, n = [], [], read_published().selected_epsilon, search.row_sets[0].n
    for setup, frame in search.accuracy.items():
        chosen, best_on = choose([frame])
        choices.append([*setup_labels(*setup), Number(chosen, paper, digits=0)])
        for epsilon, row in frame.iterrows():
            numbers = [share(row[v], n, mark="†" * ((*setup, *v, epsilon) in failed)) for v in (BENIGN, *vectors)]
            mean, best = Number(row[vectors].mean()), f"{best_on[epsilon]} of {len(vectors)}"
            chose = "chosen" if epsilon == chosen else ""
            rows.append([*setup_labels(*setup), f"{epsilon:g}", *numbers, mean, best, chose])
    for model in dict.fromkeys(model for model, _ in search.accuracy):
        own = [frame for (name, _), frame in search.accuracy.items() if name == model]
        if len(own) > 1 and (choice := choose(own)) is not None:
            choices.append([label(model, MODELS), "all", Number(choice[0], paper, digits=0)])
    head = ["M", "CS", "ε", "No attack", *(attack_label(*v) for v in vectors), "Mean under attack", "Best on", "Choice"]
    training = [r.header.training for r in search.row_sets]
    notes = [
        f"On {span(r.n for r in search.row_sets)} validation images of M after adversarial training with budget ε (in "
        f"1/255), recipe `{search.recipe}`: step {training[0]['step']:.4g}, {training[0]['iterations']} iterations. "
        f"Epochs: {span(t['epochs'] for t in training)}; the one with the best mean of benign and attacked validation "
        "accuracy is kept. Test images are not read. Chosen: the ε that is best on most attacks; a tie goes to the "
        "higher mean.",
    ]
    for name in sorted({name for names in failed.values() for name in names}):
        where = dict.fromkeys(attack_label(*key[2:4]) for key, names in failed.items() if name in names)
        notes.append(f"† the attack failed {name} ({meaning(name)}): {', '.join(where)}.")
    told = ["The paper prints no accuracy of its search, only its choice."]
    if lacking := sorted(set(read_published().searched_epsilons) - set(search.epsilons)):
        told.append(f"Not computed, though in the paper's search: ε = {', '.join(f'{e:g}' for e in lacking)}.")
    title = f"Line search over the ε of adversarial training ({search.recipe})"
    names = [f"{name}{search.suffix}" for name in ("line_search", "line_search_choice")]
    return [
        Table(names[0], title, head, rows, notes, "line_search"),
        Table(names[1], f"{title}: the choice", ["M", "CS", "Chosen ε"], choices, told, "line_search"),
    ]
