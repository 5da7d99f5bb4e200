"""The line search: its choice of epsilon, its tables, on numbers made up by hand."""

import re

import pytest
from made_rows import SOUND, search, training

from unmask_tf.errors import InputError
from unmask_tf.report.line_search import choose, line_search_tables, searches
from unmask_tf.report.table import markdown


def chosen(rows, *more):
    """Epsilon -> right answers of 10, benign, then under three attacks; and what `choose` makes of it."""
    (found,) = searches([r for e, rights in rows.items() for r in training(e, rights)] + list(more))
    epsilon, best_on = choose(list(found.accuracy.values()))
    return epsilon, best_on.to_dict()


def test_the_epsilon_that_is_best_on_most_attacks_is_chosen():
    # 2 is best without attack and on average, 4 under two attacks of three.
    rows = {1: (9, 1, 1, 1), 2: (10, 5, 3, 9), 4: (8, 6, 4, 2), 6: (7, 2, 3, 2)}
    assert chosen(rows) == (4, {1: 0, 2: 1, 4: 2, 6: 0})


def test_epsilons_that_share_the_best_accuracy_all_have_it_unless_all_do():
    assert chosen({1: (9, 3, 0, 2), 2: (9, 3, 0, 3), 4: (9, 1, 0, 1)}) == (2, {1: 1, 2: 2, 4: 0})


def test_a_tie_goes_to_the_higher_mean_with_benign_images_then_to_the_smaller_epsilon():
    assert chosen({1: (5, 6, 3, 3), 4: (7, 3, 6, 3)})[0] == 4
    assert chosen({4: (7, 3, 6, 3), 1: (7, 6, 3, 3)})[0] == 1


def test_over_several_class_sets_only_common_epsilons_are_compared():
    first = {1: (9, 1, 1, 1), 4: (9, 2, 2, 2), 16: (9, 9, 9, 9)}
    second = training(1, (9, 4, 1, 1), class_set="cs3b") + training(4, (9, 3, 2, 2), class_set="cs3b")
    assert chosen(first, *second) == (4, {1: 1, 4: 5})
    (apart,) = searches(training(1, (9, 1, 1, 1)) + training(4, (9, 1, 1, 1), class_set="cs3b"))
    assert choose(list(apart.accuracy.values())) is None


def texts(row_sets):
    (found,) = searches(row_sets)
    return [markdown(table) for table in line_search_tables(found)]


def test_every_recipe_has_its_own_tables():
    found = searches([*training(4, (8, 6, 4, 2)), *search(recipe="madry")])
    names = [table.name for one in found for table in line_search_tables(one)]
    assert names == ["line_search", "line_search_choice", "line_search-madry", "line_search_choice-madry"]


def test_the_tables_set_the_choice_beside_the_papers_and_name_what_is_missing():
    text, choice = texts([*training(2, (8, 6, 4, 2)), *training(16, (10, 5, 3, 9))])
    assert "On 10 validation images" in text and "step 2, 7 iterations. Epochs: 1;" in text
    assert "| ResNet50 | CS3a | 2 | 0.80 [0.49, 0.94] | 0.60 [0.31, 0.83] |" in text
    assert "| 0.40 | 2 of 3 | chosen |" in text and "| 0.57 | 1 of 3 |  |" in text
    assert "| ResNet50 | CS3a | 2 | 4 | -2 |" in choice
    assert "Not computed, though in the paper's search: ε = 1, 4, 6, 8." in choice
    assert "†" not in text
    whole = texts(search(("cs3a", "cs3b")))[1]
    assert "Not computed" not in whole and "| DenseNet121 | all | 4 | 4 | +0 |" in whole


def test_a_failed_check_marks_its_numbers_and_a_warning_does_not():
    checks = {**SOUND, "doubling_gains_little": False, "step_shorter_than_budget": False}
    _, *attacked = training(4, (8, 6, 4, 2), checks=checks)
    text = texts([training(4, (8, 6, 4, 2))[0], *attacked, *training(2, (8, 6, 4, 1))])[0]
    assert len(re.findall("0.60†|0.40†|0.20†", text)) == 3 and "0.80†" not in text and "0.10†" not in text
    assert "failed doubling_gains_little (twice the iterations" in text
    assert "PGD-L∞ ε=8, PGD-L∞ ε=16, MIA-L2 ε=300." in text
    assert "step_shorter_than_budget" not in text


def test_two_searches_in_one_are_refused():
    with pytest.raises(InputError, match="two line searches of recipe `released` are mixed"):
        searches([*training(2, (8, 6, 4, 2)), *training(2, (8, 6, 4, 3))])
