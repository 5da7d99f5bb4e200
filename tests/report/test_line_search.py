"""The line search: its choice of epsilon, its tables, on numbers made up by hand."""

import csv

import pytest
from made_rows import SOUND, search, training, write

from unmask_tf.errors import InputError
from unmask_tf.report.line_search import choose, line_search_markdown, searches, write_line_search


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


def test_every_recipe_has_its_own_files_and_the_csv_marks_the_choice(tmp_path):
    released = training(4, (8, 6, 4, 2)) + training(2, (10, 5, 3, 9))
    write(tmp_path, line_search_released=released, line_search_madry=search(recipe="madry"))
    names = [path.name for path in write_line_search(tmp_path)]
    assert names == ["line_search.md", "line_search.csv", "line_search-madry.md", "line_search-madry.csv"]
    with open(tmp_path / "line_search.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        **{"class_set": "cs3a", "model": "resnet50", "epsilon_255": "2", "none": "1.0000", "pgd_linf_8": "0.5000"},
        **{"pgd_linf_16": "0.3000", "mia_l2_300": "0.9000", "mean_attacked": "0.5667", "best_on": "1", "chosen": "0"},
    }
    assert [rows[1][name] for name in ("epsilon_255", "mean_attacked", "best_on", "chosen")] == [
        "4",
        "0.4000",
        "2",
        "1",
    ]


def test_a_run_without_a_line_search_gets_no_file(tmp_path):
    assert write_line_search(tmp_path) == []


def test_the_table_sets_the_choice_beside_the_papers_and_names_what_is_missing():
    text = line_search_markdown(*searches([*training(2, (8, 6, 4, 2)), *training(16, (10, 5, 3, 9))]))
    assert "Accuracy on 10 validation images" in text and "step 2, 7 iterations. Epochs: 1;" in text
    assert "| ResNet50 | CS3a | **2** | 0.80 | 0.60 | 0.40 | 0.20 | 0.40 | 2 of 3 |" in text
    assert "| ResNet50 | CS3a | 16 | 1.00 | 0.50 | 0.30 | 0.90 | 0.57 | 1 of 3 |" in text
    assert "| ResNet50 | CS3a | 2 | 4 |" in text
    assert "Not computed, though in the paper's search: ε = 1, 4, 6, 8." in text
    assert "†" not in text
    whole = line_search_markdown(*searches(search(("cs3a", "cs3b"))))
    assert "Not computed" not in whole and "| DenseNet121 | all | 4 | 4 |" in whole


def test_a_failed_check_marks_its_numbers_and_a_warning_does_not():
    checks = {**SOUND, "doubling_gains_little": False, "step_shorter_than_budget": False}
    benign, *attacked = training(4, (8, 6, 4, 2), checks=checks)
    text = line_search_markdown(*searches([training(4, (8, 6, 4, 2))[0], *attacked, *training(2, (8, 6, 4, 1))]))
    assert "| 0.80 | 0.60† | 0.40† | 0.20† |" in text and "| 0.80 | 0.60 | 0.40 | 0.10 |" in text
    assert "failed doubling_gains_little (twice the iterations" in text
    assert "PGD-L∞ ε=8, PGD-L∞ ε=16, MIA-L2 ε=300." in text
    assert "step_shorter_than_budget" not in text and benign.header.attack == "none"


def test_two_searches_in_one_are_refused():
    with pytest.raises(InputError, match="two line searches of recipe `released` are mixed"):
        searches([*training(2, (8, 6, 4, 2)), *training(2, (8, 6, 4, 3))])
