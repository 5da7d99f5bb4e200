"""Part overlap and number of classes: points, correlations, intervals and the verdict, by hand."""

import numpy as np
import pandas as pd
import pytest
from made_rows import results, row_set

from unmask_tf.defense import alignment
from unmask_tf.experiment.rows import Header
from unmask_tf.report.claims import evaluate_claims
from unmask_tf.report.overlap import Overlap, interval_of, our_overlap, overlap_tables, paper_overlap, stronger
from unmask_tf.report.statistics import Detection

RIGHT = {"cs3a": 18, "cs5a": 16, "cs5b": 12, "cs3b": 8}


def attacked(class_set, right, n=20, model="resnet50", scores=None, attack="pgd_linf"):
    return row_set("um", attack, 8, right, n, class_set=class_set, model=model, scores=scores, m_right=0)


def facts(overlap, classes):
    names = [f"set{i}" for i in range(len(overlap))]
    return pd.DataFrame({"model": "m", "class_set": names, "overlap": overlap, "classes": classes})


def test_points_are_means_over_the_attacks_at_the_class_set_s_overlap():
    row_sets = [attacked(name, right) for name, right in RIGHT.items()]
    row_sets += [attacked(name, right - 2, attack="mia_linf") for name, right in RIGHT.items()]
    found = our_overlap(row_sets)
    points = found.points.assign(um=found.values["um"][0], auc=found.values["auc"][0]).set_index("class_set")
    assert points["overlap"].to_dict() == pytest.approx(
        {"cs3a": 200 / 29, "cs3b": 50, "cs5a": 800 / 34, "cs5b": 1000 / 34}
    )
    assert points["classes"].to_dict() == {"cs3a": 3, "cs3b": 3, "cs5a": 5, "cs5b": 5}
    assert points["um"].to_dict() == pytest.approx({"cs3a": 0.85, "cs3b": 0.35, "cs5a": 0.75, "cs5b": 0.55})
    assert points["auc"].isna().all()


def test_correlations_by_hand():
    # Accuracies fall as overlap rises: rank correlation -1. The mean ranks of 3 and of 5 classes are both 2.5.
    found = our_overlap([attacked(name, right) for name, right in RIGHT.items()])
    assert [of[0] for of in found.correlations("um").values()] == pytest.approx([-1, 0, 1])
    assert found.correlations("um", "Pearson")["overlap"][0] == pytest.approx(
        np.corrcoef([2 / 29, 9 / 18, 8 / 34, 10 / 34], [0.9, 0.4, 0.8, 0.6])[0, 1]
    )
    assert found.correlations("auc") is None


def test_the_paper_s_own_accuracies_go_with_overlap():
    found = paper_overlap()
    assert len(found.points) == 8 and found.points["overlap"].max() == 50
    row = found.correlations("um")
    # Overlap ranks 1.5 (CS3a), 3.5 (CS5a), 5.5 (CS5b), 7.5 (CS3b); accuracies, best first: DenseNet and ResNet of
    # CS3a, ResNet and DenseNet of CS5a, ResNet and DenseNet of CS3b, DenseNet and ResNet of CS5b.
    ranks = [8, 7, 6, 5, 4, 3, 2, 1], [1.5, 1.5, 3.5, 3.5, 7.5, 7.5, 5.5, 5.5]
    assert row["overlap"].tolist() == pytest.approx([np.corrcoef(*ranks)[0, 1]])
    assert row["overlap"].round(2) == -0.78
    assert interval_of(row["overlap"]) is None


def test_an_interval_is_the_binomial_s_and_two_models_share_the_resampled_images():
    row_sets = [attacked(name, 50, 100, model) for name in ("cs3a", "cs3b") for model in ("resnet50", "densenet121")]
    values = our_overlap(row_sets).values["um"]
    ends = [interval_of(of) for of in values.T]
    # 0.5 -+ 1.96 sqrt(0.25 / 100)
    assert np.array(ends) == pytest.approx(np.array([[0.402, 0.598]] * 4), abs=0.02)
    assert np.array_equal(values[:, 0], values[:, 1]) and not np.array_equal(values[:, 0], values[:, 2])


def test_an_image_that_is_drawn_twice_counts_twice_in_the_auc_with_its_twin():
    scores = np.array([0.9, 0.5, 0.3, 0.2, 0.5, 0.4])
    d = Detection(Header(**vars(attacked("cs3a", 1).header)), scores, np.repeat([1, 0], 3))
    whole, twice, none = d.weighted_auc(np.array([[1, 1, 1], [2, 0, 1], [0, 0, 0]]))
    # Nine pairs: 0.9 beats all three; 0.5 beats 0.2 and 0.4 and ties; 0.3 beats 0.2.
    assert whole == pytest.approx(6.5 / 9) == alignment.auc(scores, d.labels)
    repeated = [0.9, 0.9, 0.3, 0.2, 0.2, 0.4]
    assert twice == pytest.approx(alignment.auc(repeated, d.labels)) == pytest.approx(8 / 9)
    assert np.isnan(none)


@pytest.mark.parametrize(
    ("overlap", "classes", "verdict"),
    [([1, 2, 3, 4], [3, 5, 5, 3], "part overlap"), ([3, 5, 5, 3], [1, 2, 3, 4], "number of classes")],
)
def test_the_stronger_factor_is_named_where_all_resamples_agree(overlap, classes, verdict):
    values = np.array([[0.9, 0.8, 0.7, 0.6]] * 50)
    found = Overlap(facts(overlap, classes), {"um": values})
    assert stronger(found.correlations("um")) == verdict


def test_no_factor_is_named_where_the_interval_includes_0():
    values = np.array([[0.9, 0.7, 0.8], [0.9, 0.7, 0.8], [0.7, 0.8, 0.9], [0.9, 0.8, 0.7], [0.7, 0.9, 0.8]])
    row = Overlap(facts([1, 2, 3], [3, 5, 2]), {"um": values}).correlations("um")
    # Ranks of the estimate, 3 1 2: with overlap (1 2 3) and with classes (2 3 1), -0.5 each.
    assert [of[0] for of in row.values()] == pytest.approx([-0.5, -0.5, 0])
    low, high = interval_of(row["difference"])
    assert low <= 0 <= high and stronger(row) == "not decided"


def test_the_tables_have_the_points_and_set_the_paper_s_correlations_beside_ours():
    row_sets = [attacked(name, right, scores=[1] * 20) for name, right in RIGHT.items()]
    row_sets += [row_set("um", right=20, n=20, class_set=name, scores=[0] * 20) for name in RIGHT]
    points, told = overlap_tables(our_overlap(row_sets))
    assert [str(cell) for cell in points.rows[0]][:5] == ["ResNet50", "CS3a", "3", "6.90", "1.000 [1.000, 1.000]"]
    frame = told.frame().set_index("Coefficient")
    assert frame.loc["Spearman", ["part overlap", "part overlap paper"]].tolist() == pytest.approx(
        [-1, -0.78], abs=0.005
    )
    assert "Even a perfect rank correlation over 4 class sets has a two-sided p of 0.083." in told.notes[0]


def test_what_does_not_vary_has_no_correlation():
    assert our_overlap([attacked("cs3a", 8), row_set("none", "pgd_linf", 8, class_set="cs3b")]) is None
    same = our_overlap([attacked("cs3a", 18), attacked("cs3b", 8)])  # three classes each
    assert same.correlations("um") is None and len(overlap_tables(same)) == 1 and overlap_tables(None) == []


def test_the_claim_holds_only_where_the_intervals_say_so():
    def claim(rights, n):
        row_sets = [attacked(name, round(right * n), n) for name, right in rights.items()]
        return next(
            c for c in evaluate_claims(results(row_sets)) if c.statement.startswith("UM's accuracy under attack falls")
        )

    apart = {"cs3a": 0.9, "cs5a": 0.7, "cs5b": 0.5, "cs3b": 0.3}
    found = claim(apart, 800)
    assert (found.ours, found.paper, found.holds) == (
        "-1.00 [-1.00, -1.00] and +0.00 [+0.00, +0.00]",
        "-0.78 and -0.44",
        True,
    )
    assert claim(apart, 10).holds is False and claim(dict.fromkeys(apart, 0.5), 800).holds is None
    assert claim({"cs3a": 0.9, "cs5a": 0.7, "cs3b": 0.3}, 800).holds is None
