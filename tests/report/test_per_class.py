"""Results class by class, by hand: accuracies and intervals, confusions, the parts that K misses and invents."""

from dataclasses import replace

import pytest
from made_rows import results, row_set

from unmask_tf.experiment.rows import RowSet, frame
from unmask_tf.report.per_class import class_table, confusions, part_errors_table
from unmask_tf.report.statistics import wilson

CLASSES = {"car": ["wheel", "door"], "person": ["arm"]}


def answered(answers, parts=None, attack="none", epsilon=0, defence="um", **more):
    """A row set of images of (true class, answer)."""
    true, said = zip(*answers, strict=True)
    images = [f"{name}/{i}" for i, name in enumerate(true)]
    made = row_set(defence, attack, epsilon, **more)
    return RowSet(replace(made.header, classes=CLASSES), frame(images, true, said, true, parts=parts))


ROWS = [
    answered([("car", "car"), ("car", "person"), ("person", "person")], [{"wheel", "arm"}, set(), {"arm"}]),
    answered([("car", "car"), ("car", "car"), ("person", None)], attack="pgd_linf", epsilon=8),
    answered([("car", "car"), ("car", "person"), ("person", "car")], attack="pgd_linf", epsilon=16),
    answered([("car", "person"), ("car", "person"), ("person", "person")], defence="none"),
]


def test_accuracies_by_class_their_mean_over_the_attacks_and_the_wrong_answers():
    frame = class_table(results(ROWS)).frame().set_index("Class")
    assert frame["n"].to_dict() == {"car": 2, "person": 1} and set(frame["By"]) == {"UM"}
    assert frame["No attack"].to_dict() == {"car": 0.5, "person": 1}
    assert frame["Mean over attacks"].to_dict() == {"car": 0.75, "person": 0}
    # The interval is of two images, not of the four answers to them.
    assert frame.loc["car", ["No attack low", "No attack high"]].tolist() == pytest.approx(wilson(0.5, 2))
    assert frame["Under attack taken for"].to_dict() == {"car": "person 25 %", "person": "car 50 %, no answer 50 %"}
    assert class_table(results(ROWS[3:])).rows == []


def test_confusions_count_um_s_answers_over_the_attacks_and_images_without_an_answer():
    counts = confusions(ROWS)["resnet50", "cs3a"]
    assert counts.loc["car"].to_dict() == {"car": 3, "person": 1, "no answer": 0}
    assert counts.loc["person"].to_dict() == {"car": 1, "person": 0, "no answer": 1}
    assert "no answer" not in confusions(ROWS[2:])["resnet50", "cs3a"]
    assert confusions(ROWS[:1]) == {}


def test_missed_parts_are_expected_ones_and_invented_parts_the_others():
    rows = [[str(cell) for cell in row] for row in part_errors_table(results(ROWS)).rows]
    assert rows == [
        ["CS3a", "car", "2", "1.50", "0.50", "door 100 %, wheel 50 %", "arm 50 %"],
        ["CS3a", "person", "1", "0.00", "0.00", "", ""],
    ]


def test_an_image_that_several_models_share_counts_once():
    again = answered([("car", "car"), ("car", "person"), ("person", "person")], [{"wheel", "arm"}, set(), {"arm"}])
    other = RowSet(replace(again.header, model="densenet121"), again.rows)
    assert part_errors_table(results([*ROWS, other])) == part_errors_table(results(ROWS))
