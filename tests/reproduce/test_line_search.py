"""The line search's records, its choice of epsilon, its tables and Figures 2 and 3, on numbers made up by hand."""

import csv
import io
import json
import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from line_search_points import EPSILONS, point, search
from matplotlib.figure import Figure

from unmask_tf.errors import InputError
from unmask_tf.reproduce import figures
from unmask_tf.reproduce.line_search import LineSearchConfig, choose, read_point, read_searches, write_point
from unmask_tf.reproduce.line_search_tables import line_search_csv, line_search_markdown, write_line_search_tables
from unmask_tf.reproduce.report import report_markdown
from unmask_tf.taxonomy import UNMASK

NONE, WEAK, STRONG, L2 = ("none", 0), ("pgd_linf", 8), ("pgd_linf", 16), ("mia_l2", 300)


def points(rows, **changes):
    """Epsilon -> right answers of 10: benign, then under three attacks."""
    return [point(e, dict(zip((NONE, WEAK, STRONG, L2), row, strict=True)), **changes) for e, row in rows.items()]


def test_the_epsilon_that_is_best_on_most_attacks_is_chosen():
    # 2 is best without attack and on average, 4 under two attacks of three.
    choice = choose(points({1: (9, 1, 1, 1), 2: (10, 5, 3, 9), 4: (8, 6, 4, 2), 6: (7, 2, 3, 2)}))
    assert choice.epsilon_255 == 4
    assert choice.best_on == {1: 0, 2: 1, 4: 2, 6: 0}
    assert choice.attacks == 3


def test_epsilons_that_share_the_best_accuracy_all_have_it_unless_all_do():
    choice = choose(points({1: (9, 3, 0, 2), 2: (9, 3, 0, 3), 4: (9, 1, 0, 1)}))
    assert choice.best_on == {1: 1, 2: 2, 4: 0}
    assert choice.epsilon_255 == 2


def test_a_tie_goes_to_the_higher_mean_with_benign_images_then_to_the_smaller_epsilon():
    assert choose(points({1: (5, 6, 3, 3), 4: (7, 3, 6, 3)})).epsilon_255 == 4
    assert choose(points({4: (7, 3, 6, 3), 1: (7, 6, 3, 3)})).epsilon_255 == 1


def test_over_several_class_sets_only_common_epsilons_are_compared():
    first = points({1: (9, 1, 1, 1), 4: (9, 2, 2, 2), 16: (9, 9, 9, 9)})
    second = points({1: (9, 4, 1, 1), 4: (9, 3, 2, 2)}, class_set="cs3b")
    choice = choose(first + second)
    assert choice.best_on == {1: 1, 4: 5}
    assert choice.attacks == 6
    assert choose(first + points({6: (9, 1, 1, 1)}, class_set="cs3b")) is None
    assert choose([]) is None


def test_a_record_is_read_as_it_was_written(tmp_path):
    for one in search():
        path = write_point(one, tmp_path)
        assert read_point(path) == one
    assert path == tmp_path / "line_search" / "released" / "cs3a__densenet121__eps_16.json"
    assert read_searches(tmp_path) == {"released": search()}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("unmask-line-search-1", "unmask-line-search-9"),
        lambda text: text.replace('"correct": 57', '"correct": 61'),
        lambda text: text.replace('"correct": 57', '"correct": "many"'),
        lambda text: text.replace('"best_epoch": 1', '"best_epoch": 2'),
        lambda text: re.sub(r' "n": 60,?\n', "", text),
        lambda text: "[]",
    ],
)
def test_a_damaged_record_is_named(tmp_path, damage):
    path = write_point(search()[0], tmp_path)
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_searches(tmp_path)


def test_records_of_two_settings_are_never_mixed(tmp_path):
    first, second = search()[:2]
    write_point(first, tmp_path)
    write_point(replace(second, config_hash="other"), tmp_path)
    with pytest.raises(InputError, match="different settings"):
        read_searches(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"recipe": "free"}, {"epsilons_255": ()}, {"epsilons_255": (-4,)}, {"epsilons_255": (float("nan"),)}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        LineSearchConfig(**wrong)


def test_the_papers_search_is_the_default(published):
    assert LineSearchConfig().epsilons_255 == published.searched_epsilons == EPSILONS
    assert published.selected_epsilon == 4
    assert LineSearchConfig().attacked_images("paper") is None


def test_the_csv_holds_every_accuracy_and_marks_the_choice():
    chosen = points({4: (8, 6, 4, 2), 2: (10, 5, 3, 9)})
    rows = list(csv.DictReader(io.StringIO(line_search_csv(chosen))))
    assert rows[0] == {
        **{"class_set": "cs3a", "model": "resnet50", "epsilon_255": "2", "n": "10", "none": "1", "pgd_linf_8": "0.5"},
        **{"pgd_linf_16": "0.3", "mia_l2_300": "0.9", "mean_attacked": "0.566667", "best_on": "1", "chosen": "0"},
    }
    assert [rows[1][name] for name in ("epsilon_255", "mean_attacked", "best_on", "chosen")] == ["4", "0.4", "2", "1"]


def test_the_table_sets_the_choice_beside_the_papers_and_names_what_is_missing(published):
    text = line_search_markdown(points({2: (8, 6, 4, 2), 16: (10, 5, 3, 9)}), published)
    assert "| ResNet50 | CS3a | **2** | 0.80 | 0.60 | 0.40 | 0.20 | 0.40 | 2 of 3 |" in text
    assert "| ResNet50 | CS3a | 16 | 1.00 | 0.50 | 0.30 | 0.90 | 0.57 | 1 of 3 |" in text
    assert "| ResNet50 | CS3a | 2 | 4 |" in text
    assert "Not computed, though in the paper's search: ε = 1, 4, 6, 8." in text
    assert "†" not in text
    whole = line_search_markdown(search(("cs3a", "cs3b")), published)
    assert "Not computed" not in whole
    assert "| DenseNet121 | all |" in whole


def test_a_failed_check_marks_its_numbers_and_a_warning_does_not(published):
    failing = points({4: (8, 6, 4, 2)}, checks={"doubling_gains_little": False, "step_shorter_than_budget": False})
    text = line_search_markdown(failing, published)
    assert "| 0.80 | 0.60† | 0.40† | 0.20† |" in text
    assert "failed doubling_gains_little (twice the iterations" in text
    assert "PGD-L∞ ε=8, PGD-L∞ ε=16, MIA-L2 ε=300." in text
    assert "step_shorter_than_budget" not in text


def test_each_variant_has_its_own_tables_and_figures(tmp_path, published):
    for changes in ({}, {"variant": "madry", "step": 2 / 255}):
        for one in search(models=("resnet50",), **changes):
            write_point(one, tmp_path)
    tables = write_line_search_tables(tmp_path, published)
    pictures = figures.write_line_search_figures(tmp_path, published)
    assert {path.name for path in tables} == {f"line_search{v}.{s}" for v in ("", "-madry") for s in ("csv", "md")}
    assert {path.name for path in pictures} == {f"figure{i}{v}.png" for v in ("", "-madry") for i in (2, 3)}
    assert all(path.is_file() for path in (*tables, *pictures))
    assert "step 0.007843" in (tmp_path / "line_search-madry.md").read_text()


def test_the_report_shows_the_search_where_there_is_one(make_records, published):
    records = make_records(class_sets=("cs3a",))
    text = report_markdown(records, UNMASK, published, None, {"madry": search(variant="madry")})
    assert "![figure2](figure2-madry.png)" in text
    assert "| ResNet50 | CS3a | 4 | 4 |" in text
    assert "figure2" not in report_markdown(records, UNMASK, published)


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that were saved."""
    kept: list[Figure] = []
    save = figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: (kept.append(figure), save(figure, path))[1])
    return kept


@pytest.mark.parametrize("draw", [figures.figure2, figures.figure3])
def test_a_figure_made_twice_has_the_same_bytes(tmp_path, published, draw):
    found = search(("cs3a", "cs3b"))
    draw(found, tmp_path / "a.png", published)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20}):
        draw(found[::-1], tmp_path / "b.png", published)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_figure_2_plots_accuracy_over_epsilon_and_rings_the_choice(tmp_path, published, drawn):
    figures.figure2(points({1: (9, 1, 2, 1), 4: (8, 6, 4, 2), 16: (7, 5, 3, 1)}), tmp_path / "2.png", published)
    panels = drawn[0].axes
    assert [axis.get_title() for axis in panels] == [f"ResNet50: {n}" for n in ("Benign", "PGD-L∞", "Mean of both")]
    expected = [[90, 80, 70], [15, 50, 40], [52.5, 65, 55]]  # the means over PGD's two strengths
    for axis, heights in zip(panels, expected, strict=True):
        paper, line, ring, *_ = axis.get_lines()
        assert list(paper.get_xdata()) == [1, 1]  # the position of 4, the paper's choice
        assert np.allclose(line.get_ydata(), heights)
        assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([1], [heights[1]])
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "4", "16"]


def test_figure_3_has_a_bar_per_epsilon_and_attack_and_dots_on_the_best(tmp_path, published, drawn):
    figures.figure3(points({1: (9, 1, 0, 1), 4: (8, 6, 0, 2)}), tmp_path / "3.png", published)
    (axis,) = drawn[0].axes
    assert axis.get_title() == "CS3a ResNet50: chosen ε=4 (the paper: 4)"
    assert [[bar.get_height() for bar in bars] for bars in axis.containers] == [[90, 10, 0, 10], [80, 60, 0, 20]]
    dots = [line for line in axis.get_lines() if line.get_markersize() == 2.8 and len(line.get_xdata())]
    left, right = (sorted(round(float(x)) for x in line.get_xdata()) for line in dots)
    assert (left, right) == ([0], [1, 3])  # 1 is best without attack, 4 under the first and third; nobody at 0
    assert [label.get_text() for label in axis.get_xticklabels()][:2] == ["No attack", "PGD-L∞\nε=8"]


def test_a_search_that_is_not_finished_can_be_drawn(tmp_path, published):
    some = [p for p in search(("cs3a", "cs3b")) if p.setup != ("cs3b", "resnet50") or p.epsilon_255 in (2, 16)]
    figures.figure2(some, tmp_path / "2.png", published)
    figures.figure3(some, tmp_path / "3.png", published)
    assert "CS3b" in line_search_markdown(some, published)


def test_records_are_one_field_a_line_and_plain_json(tmp_path):
    text = write_point(search()[0], tmp_path).read_text()
    assert json.loads(text)["schema"] == "unmask-line-search-1"
    assert len(text.splitlines()) == 2 + len(json.loads(text))
