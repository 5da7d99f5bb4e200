"""The line search as tables: every accuracy, the chosen epsilon, and the paper's choice beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from unmask_tf.attacks.checks import WARNINGS
from unmask_tf.files import write_text
from unmask_tf.reproduce.cells import attack_label, class_set_label, model_label
from unmask_tf.reproduce.line_search import BENIGN, Point, by_setup, choose, read_searches
from unmask_tf.reproduce.published import Published
from unmask_tf.reproduce.soundness import meaning
from unmask_tf.reproduce.tables import markdown, number


def stem(name: str, variant: str) -> str:
    """File name of a search's output: that of the released recipe bears the name alone."""
    return name if variant == "released" else f"{name}-{variant}"


def line_search_csv(points: Sequence[Point]) -> str:
    """One row per training: accuracies (0 to 1) without attack and under each, and whether its epsilon is chosen."""
    vectors = points[0].vectors
    columns = ["class_set", "model", "epsilon_255", "n", "none", *(f"{a}_{e:g}" for a, e in vectors)]
    lines = [",".join([*columns, "mean_attacked", "best_on", "chosen"])]
    for (class_set, model), group in by_setup(points).items():
        choice = choose(group)
        for p in group:
            values = [p.accuracy(v) for v in (BENIGN, *vectors)] + [p.mean_attacked]
            row = [class_set, model, f"{p.epsilon_255:g}", str(p.n), *(f"{v:.6g}" for v in values)]
            row += [str(choice.best_on[p.epsilon_255]), str(int(p.epsilon_255 == choice.epsilon_255))]
            lines.append(",".join(row))
    return "\n".join(lines) + "\n"


def line_search_markdown(points: Sequence[Point], published: Published) -> str:
    """The search's table, its choice per class set and architecture beside the paper's, and failed attack checks.

    Args:
        points: of one variant, at least one.
        published: the paper's numbers.
    """
    first, vectors = points[0], points[0].vectors
    header = ("Model", "CS", "ε", "No attack", *(attack_label(*v) for v in vectors), "Mean under attack", "Best on")
    rows, failed = [], {}
    for (class_set, model), group in by_setup(points).items():
        choice = choose(group)
        for p in group:
            epsilon = f"{p.epsilon_255:g}"
            row = [model_label(model), class_set_label(class_set)]
            row += [f"**{epsilon}**" if p.epsilon_255 == choice.epsilon_255 else epsilon, number(p.accuracy(BENIGN))]
            for outcome in (next(o for o in p.outcomes if o.vector == v) for v in vectors):
                wrong = [name for name, holds in outcome.checks.items() if not holds and name not in WARNINGS]
                for name in wrong:
                    failed.setdefault(name, {})[attack_label(*outcome.vector)] = None
                row.append(number(p.accuracy(outcome.vector)) + ("†" if wrong else ""))
            rows.append([*row, number(p.mean_attacked), f"{choice.best_on[p.epsilon_255]} of {len(vectors)}"])
    parts = [
        f"Accuracy on {_span(p.n for p in points)} validation images of M after adversarial training with budget ε (in "
        f"1/255), recipe `{first.variant}`: step {first.step:.4g}, {first.iterations} iterations. Epochs: "
        f"{_span(len(p.history) for p in points)}; the one with the best mean of benign and attacked validation "
        "accuracy is kept. Test images are not read. Bold: the ε that is best on most attacks; a tie goes to the "
        "higher mean.\n",
        markdown(header, rows),
        *(f"† the attack failed {name} ({meaning(name)}): {', '.join(at)}.\n" for name, at in failed.items()),
        _choices(points, published),
    ]
    return "\n".join(parts)


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _choices(points: Sequence[Point], published: Published) -> str:
    paper = f"{published.selected_epsilon:g}"
    setups, rows = by_setup(points), []
    for (class_set, model), group in setups.items():
        rows.append([model_label(model), class_set_label(class_set), f"{choose(group).epsilon_255:g}", paper])
    for model in dict.fromkeys(model for _, model in setups):
        own = [p for p in points if p.model == model]
        choice = choose(own)
        if len(by_setup(own)) > 1 and choice is not None:
            rows.append([model_label(model), "all", f"{choice.epsilon_255:g}", paper])
    text = markdown(("Model", "CS", "Chosen ε", "Paper"), rows)
    lacking = sorted(set(published.searched_epsilons) - {p.epsilon_255 for p in points})
    if lacking:
        text += f"\nNot computed, though in the paper's search: ε = {', '.join(f'{e:g}' for e in lacking)}.\n"
    return text + "\nThe paper prints no accuracy of its search, only its choice.\n"


def write_line_search_tables(folder: Path, published: Published) -> list[Path]:
    """Writes line_search.csv and .md of every variant into results/<profile>; returns their paths.

    Raises:
        InputError: a record is damaged, or the folder cannot be written.
    """
    paths = []
    for variant, points in read_searches(folder).items():
        name = stem("line_search", variant)
        write_text(folder / f"{name}.csv", line_search_csv(points))
        title = f"# Line search over adversarial training's ε: profile `{points[0].profile}`\n\n"
        write_text(folder / f"{name}.md", title + line_search_markdown(points, published))
        paths += [folder / f"{name}.csv", folder / f"{name}.md"]
    return paths
