"""Results class by class, by hand: accuracies and intervals, confusions, the parts that K misses and invents."""

from dataclasses import replace

import pytest
from made_rows import row_set

from unmask_tf.experiment.rows import RowSet, frame
from unmask_tf.report.per_class import class_accuracies, confusions, part_errors, per_class_files
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


def test_wilson_s_interval_by_hand():
    # (0.5 + 1.92073 / 10 -+ 1.95996 sqrt(0.025 + 0.96036 / 100)) / 1.38415
    assert wilson(0.5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)


def test_accuracies_by_class_and_their_mean_over_the_attacks():
    table = class_accuracies(ROWS).set_index("class")
    assert table["n"].to_dict() == {"car": 2, "person": 1}
    assert table["benign"].to_dict() == {"car": 0.5, "person": 1} and set(table["defence"]) == {"um"}
    assert table["attacked"].to_dict() == {"car": 0.75, "person": 0}
    # The interval is of two images, not of the four answers to them.
    assert table.loc["car", ["attacked_low", "attacked_high"]].tolist() == pytest.approx(wilson(0.75, 2))


def test_confusions_count_um_s_answers_over_the_attacks_and_images_without_an_answer():
    counts = confusions(ROWS)["resnet50", "cs3a"]
    assert counts.loc["car"].to_dict() == {"car": 3, "person": 1, "no answer": 0}
    assert counts.loc["person"].to_dict() == {"car": 1, "person": 0, "no answer": 1}
    assert "no answer" not in confusions(ROWS[2:])["resnet50", "cs3a"]
    assert confusions(ROWS[:1]) == {}


def test_missed_parts_are_expected_ones_and_invented_parts_the_others():
    rows = [tuple(row)[1:] for row in part_errors(ROWS).itertuples(index=False)]
    assert rows == [
        ("car", 2, "door", 1, 1.0),
        ("car", 2, "wheel", 1, 0.5),
        ("car", 2, "arm", 0, 0.5),
        ("person", 1, "arm", 1, 0.0),
    ]


def test_an_image_that_several_models_share_counts_once():
    again = answered([("car", "car"), ("car", "person"), ("person", "person")], [{"wheel", "arm"}, set(), {"arm"}])
    other = RowSet(replace(again.header, model="densenet121"), again.rows)
    assert part_errors([*ROWS, other]).equals(part_errors(ROWS))


def test_the_files_hold_what_there_is():
    files = per_class_files(ROWS)
    assert list(files) == ["per_class.md", "per_class.csv", "confusion.csv", "part_errors.csv"]
    text = files["per_class.md"]
    assert "| ResNet50 | CS3a | UM | car | 2 | 0.50 [0.09, 0.91] | 0.75 [0.20, 0.97] |" in text
    assert "| person | 1 | 0 | 1 |" in text
    assert "| CS3a | car | door 100 %, wheel 50 % | arm 50 % | 2 | 1.50 | 0.50 |" in text
    assert files["confusion.csv"].iloc[0].tolist() == ["resnet50", "cs3a", "car", "car", 3]
    assert list(per_class_files(ROWS[1:2])) == ["per_class.md", "per_class.csv", "confusion.csv"]
    assert per_class_files(ROWS[3:]) == {}
