"""Tables I to IV and the detection, ours and the paper's, out of the same code."""

import re

import numpy as np
import pytest
from made_rows import SOUND, grid, published_rows, results, row_set, write

from unmask_tf.errors import InputError
from unmask_tf.places import PUBLISHED
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import accuracies, class_set_means, detections, means, wide, wilson
from unmask_tf.report.table import markdown
from unmask_tf.report.tables import (
    all_tables,
    detection_table,
    means_table,
    table1,
    table2,
    table3,
    table4,
    verdicts_table,
    write_tables,
)

# M is fooled in the last two images; the attacked scores 1 and .5 meet the twins' .25 and .5: three pairs right, a tie.
SMALL = [
    row_set(right=8, n=8),
    row_set("um", right=7, n=8, scores=[0, 0, 0, 0, 0, 0, 0.25, 0.5], m_right=8),
    row_set("none", "pgd_linf", 8, 2, 8),
    row_set("at", "pgd_linf", 8, 4, 8),
    row_set("um", "pgd_linf", 8, 6, 8, scores=[1, 1, 1, 1, 1, 1, 1, 0.5], m_right=6),
    row_set("um", "mia_linf", 16, 5, 8, scores=[1] * 8, m_right=8),
]


def text(make, row_sets):
    return markdown(make(results(row_sets)))


# --- The paper's own numbers -----------------------------------------------------------------------------------------


def test_the_paper_s_numbers_come_out_of_the_same_code_as_table_4_and_the_stated_aucs():
    found, published = results(published_rows()), read_published()
    frame = table4(found).frame()
    assert len(frame) == 8 + 64 and not frame.isna().any(axis=None)
    for defence in ("None", "AT", "UM"):
        assert np.allclose(frame[defence], frame[f"{defence} paper"], atol=1e-12)
    area = detection_table(found).frame().dropna(subset="AUC paper")
    assert len(area) == 8 and np.allclose(area["AUC"], area["AUC paper"], atol=1e-12)
    assert sorted(area["AUC"]) == pytest.approx(sorted(published.auc))
    assert found.auc[published.auc.index].to_numpy() == pytest.approx(published.auc.to_numpy(), abs=1e-12)


def test_the_paper_s_means_are_recomputed_from_its_cells():
    result = means(read_published().accuracy)
    assert result["um - at"] == pytest.approx(31.78, abs=0.005)
    assert result["um - none"] == pytest.approx(74.50, abs=0.005)
    assert "the paper's text prints +31.18 and +74.44." in text(means_table, published_rows(n=100))


def test_the_paper_s_other_numbers_are_there():
    published = read_published()
    assert wide(published.accuracy).loc[("densenet121", "cs5b", "mia_linf", 16)].tolist() == [0.0, 0.03, 0.58]
    assert (published.operating_point["tpr"], published.operating_point["fpr"]) == (0.9675, 0.0966)
    assert (published.map, published.selected_epsilon, published.searched_epsilons) == (0.56, 4, (1, 2, 4, 6, 8, 16))
    assert published.table3["cs5b"] == {"pgd_linf": 6822, "pgd_l2": 8256, "mia_linf": 8258, "mia_l2": 8258}
    assert not re.search(r"/\w|\w/|\\", PUBLISHED.read_text(encoding="utf-8"))


def test_a_broken_file_of_published_numbers_is_refused(tmp_path):
    (tmp_path / "published.json").write_text('{"table2": {"m": {}}}')
    with pytest.raises(InputError, match=r"published\.json lacks"):
        read_published(tmp_path / "published.json")


def test_figure_4_s_means_of_the_paper():
    result = class_set_means(read_published().accuracy)
    assert list(result.index) == ["cs3a", "cs3b", "cs5a", "cs5b"]
    # CS3a, UM, ResNet50 and DenseNet121, over the eight columns of Table IV.
    printed = (85, 72, 92, 91, 82, 68, 92, 91, 86, 74, 93, 91, 83, 69, 92, 90)
    assert result.loc["cs3a", "um"] == pytest.approx(sum(printed) / 16)


def test_tables_1_and_2_of_the_paper_follow_from_the_headers_of_its_class_sets():
    row_sets = [row_set(class_set=name) for name in ("cs5b", "cs5a", "cs3b", "cs3a")]
    frame = table2(results(row_sets)).frame()
    assert frame["CS"].tolist() == ["CS3a", "CS3b", "CS5a", "CS5b"]
    for name in ("Classes", "Parts"):
        assert (frame[name] == frame[f"{name} paper"]).all()
    # The paper cuts 6.896... to 6.89.
    assert frame["Overlap %"].to_numpy() == pytest.approx(frame["Overlap % paper"].to_numpy(), abs=0.01)
    assert frame["Test images paper"].tolist() == [2351, 2867, 3179, 4129]
    matrix = table1(results(row_sets[3:]))
    assert len(matrix.rows) == 29 and matrix.head == ["Part", "car", "person", "train"]
    assert ["headlight", "✓", "", "✓"] in matrix.rows
    assert matrix.notes == ("The parts of 3 of these 3 classes are the paper's.",)


# --- Ours ------------------------------------------------------------------------------------------------------------


def test_table_4_by_hand():
    lines = text(table4, SMALL[::-1]).splitlines()
    assert lines[0].startswith("| M | CS | Attack | n | None | None: paper | None: difference | AT | AT: paper |")
    assert lines[2].startswith("| ResNet50 | CS3a | No attack | 8 | 1.00 [0.68, 1.00] | 0.98 | +0.02 | - | 0.96 | - |")
    assert "| PGD-L∞ ε=8 | 8 | 0.25 [0.07, 0.59] | 0.31 | -0.06 | 0.50 [0.22, 0.78] | 0.71 | -0.21 | 0.75 " in lines[3]
    assert "| MIA-L∞ ε=16 | 8 | - | 0.00 | - | - | 0.00 | - | 0.62 [0.31, 0.86] | 0.68 |" in lines[4]
    assert "†" not in "".join(lines)


def test_the_detection_by_hand():
    frame = detection_table(results(SMALL)).frame()
    assert frame["AUC"].tolist()[:1] == [0.875] and np.isnan(frame["AUC"][1])
    # The twins score .25 and .5: above both lies the attacked 1 alone.
    assert [frame[f"TPR at {rate} % FPR"][0] for rate in ("9.66", "5", "1")] == [0.5, 0.5, 0.5]
    assert text(table3, SMALL).splitlines()[2:4] == [
        "| ResNet50 | CS3a | PGD-L∞ ε=8 | UM | 4 | - | - |",
        "| ResNet50 | CS3a | MIA-L∞ ε=16 | UM | 0 | 4702 | -4702 |",
    ]


def test_the_paper_s_operating_point_stands_beside_ours_where_it_is_stated():
    frame = detection_table(results(published_rows())).frame()
    stated = frame.dropna(subset="TPR at 9.66 % FPR paper")
    assert set(stated["CS"] + stated["Attack"]) == {"CS3aMIA-L2 ε=300"} and len(stated) == 2


def test_an_auc_s_interval_is_delong_s_within_the_bootstrap_s_error():
    rng = np.random.default_rng(0)
    attacked, benign = np.round(rng.beta(3, 1, 300), 1), np.round(rng.beta(1, 2, 300), 1)
    pair = [
        row_set("um", n=300, right=300, scores=benign, m_right=300),
        row_set("um", "pgd_linf", 8, 0, 300, scores=attacked, m_right=0),
    ]
    (found,) = detections(pair)
    # DeLong's variance, with the placements of each attacked and each benign score.
    right = (attacked[:, None] > benign) + 0.5 * (attacked[:, None] == benign)
    variance = right.mean(axis=1).var(ddof=1) / 300 + right.mean(axis=0).var(ddof=1) / 300
    half = 1.96 * np.sqrt(variance)
    assert found.interval == pytest.approx((found.auc - half, found.auc + half), abs=0.006)


def test_wilson_s_interval_by_hand():
    # (0.5 + 1.92073 / 10 -+ 1.95996 sqrt(0.025 + 0.96036 / 100)) / 1.38415
    assert wilson(0.5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson(0.5, 0) is wilson(float("nan"), 4) is None


def test_a_twin_counts_even_where_m_is_wrong_on_it_and_is_found_by_its_image():
    attacked = row_set("um", "pgd_linf", 8, n=2, right=0, m_right=0, scores=[0.9, 0.2])
    benign = row_set("um", n=2, right=0, m_right=0, scores=[0.1, 0.3])
    benign.rows[:] = benign.rows[::-1].to_numpy()
    (found,) = detections([attacked, benign])
    assert found.scores.tolist() == [0.9, 0.2, 0.1, 0.3]
    assert found.labels.tolist() == [1, 1, 0, 0]
    assert found.auc == 0.75


def test_scores_without_benign_twins_are_refused():
    with pytest.raises(InputError, match="not all images have a score without attack"):
        detections([SMALL[4]])
    with pytest.raises(InputError, match="not all images"):
        detections([row_set("um", n=7, right=7, scores=[0] * 7), SMALL[4]])


def test_a_row_set_with_an_image_without_a_score_is_no_detector():
    holes = row_set("jpeg", "pgd_linf", 8, 2, 8, scores=[np.nan] + [1] * 7)
    assert [d.header.defence for d in detections([*SMALL, holes])] == ["um", "um"]


def test_a_detector_with_another_s_scores_is_left_out_and_one_with_its_own_is_kept():
    twins = [
        row_set("algorithm1", *r.header.cell[2:], 4, 8, scores=r.rows["score"], m_right=8 - r.fooled.sum())
        for r in SMALL
        if r.header.defence == "um"
    ]
    own = [row_set("blur", right=8, n=8, scores=[0] * 8), row_set("blur", "pgd_linf", 8, 2, 8, scores=[1] * 8)]
    frame = detection_table(results([*own, *twins, *SMALL])).frame()
    assert frame[["By", "AUC"]].dropna().to_numpy().tolist() == [["UM", 0.875], ["blur", 1.0]]


def test_means_by_hand():
    # Benign rows do not count; differences are taken over the cells that have both.
    assert means(accuracies(SMALL)) == {"none": 25, "at": 50, "um": 68.75, "um - at": 25, "um - none": 50}
    assert np.isnan(list(means(accuracies(SMALL[:2])).values())).all()


def test_contradicting_row_sets_are_refused():
    with pytest.raises(InputError, match="its 8 images are not the 9 of another"):
        accuracies([*SMALL, row_set("at", "mia_linf", 16, 4, 9)])
    with pytest.raises(InputError, match="two row sets of cs3a resnet50 at under pgd_linf 8"):
        accuracies([*SMALL, row_set("at", "pgd_linf", 8, 4, 8)])


def test_rows_stand_in_the_paper_s_order_and_unknown_names_after():
    names = {"models": ("vgg16", "densenet121", "resnet50"), "class_sets": ("zoo", "cs5a", "cs3a")}
    table = table4(results(grid(**names, n=4, defences=("um", "jpeg", "at_madry", "at", "blur"))))
    setups = list(dict.fromkeys((row[0], row[1]) for row in table.rows))
    assert setups == [(m, c) for m in ("ResNet50", "DenseNet121", "vgg16") for c in ("CS3a", "CS5a", "zoo")]
    assert table.head[4:] == ["AT", "AT-Madry", "UM", "blur", "jpeg"]


def test_other_models_class_sets_and_budgets_have_no_number_of_the_paper():
    others = grid(class_sets=("photo3",), models=("mobilenet_v2",))
    assert not any("paper" in text(make, others).splitlines()[0] for make in (table3, table4, detection_table))
    weak = text(table4, [row_set("um", "pgd_linf", 0.5, 1, 8)]).splitlines()[2]
    assert weak.startswith("| ResNet50 | CS3a | PGD-L∞ ε=0.5 | 8 | 0.12 [")


def test_numbers_of_a_failed_attack_carry_a_dagger_and_those_of_the_defences_behind_it():
    failed = {"checks": {**SOUND, "loss_rises": False}}
    shown = text(table4, [*SMALL[:3], row_set("at", "pgd_linf", 8, 4, 8, **failed), *SMALL[4:]])
    assert re.search(r"\| 0\.25 \[.*\| 0\.50† \[.*\| 0\.75 \[", shown) and "† The attack failed a check" in shown
    benign_m = [*SMALL[:2], row_set("none", "pgd_linf", 8, 2, 8, **failed), *SMALL[3:]]
    assert re.search(r"\| 0\.25† \[.*\| 0\.50 \[.*\| 0\.75† \[", text(table4, benign_m))
    assert "| UM | 0.875†" in text(detection_table, benign_m) and "| UM | 4† |" in text(table3, benign_m)


def test_verdicts_at_a_threshold_are_shares_of_images_with_where_the_threshold_comes_from():
    threshold = {"value": 0.75, "fpr": 0.1, "fpr_measured": 0.08, "split": "val", "n": 50}
    benign = row_set("algorithm1", flagged=[True] + [False] * 9, threshold=threshold)
    attacked = row_set("algorithm1", "pgd_l2", 300, flagged=[True] * 9 + [False], threshold=threshold)
    shown = text(verdicts_table, [benign, attacked, *SMALL])
    assert "| Alg. 1 | No attack | 0.10 [0.02, 0.40] |" in shown and "| PGD-L2 ε=300 | 0.90 [0.60, 0.98] |" in shown
    assert (
        "ResNet50 CS3a Alg. 1: d ≥ 0.75, chosen on 50 val images for at most 10 % false positives (there 8 %)." in shown
    )
    never = row_set("algorithm1", threshold={**threshold, "value": 1.000001, "fpr_measured": 0.0})
    assert "Alg. 1: d > 1, which no image has, chosen on 50 val images" in text(verdicts_table, [never])
    assert verdicts_table(results(SMALL)).rows == []


def test_every_table_names_its_data_and_embedded_and_paper_data_are_told_apart(tmp_path):
    presets = [row_set(data="earlier"), row_set("none", "pgd_linf", 8, 3, data="earlier", threat={"preset": "strong"})]
    for name, row_sets in (("a", SMALL), ("b", published_rows(n=100))):
        paths = write_tables(Results(write(tmp_path / name, grid=row_sets, study=presets)))
        for path in paths:
            own = "earlier" if path.stem.startswith("study") else row_sets[0].header.data
            assert f"profile {name}, data {own}" in path.read_text().replace("`", ""), path


def test_tables_made_twice_have_the_same_bytes(tmp_path):
    row_sets = grid(class_sets=("cs3a", "cs3b"), n=20)
    first = {path.name: path.read_bytes() for path in write_tables(Results(write(tmp_path / "a", grid=row_sets)))}
    (tmp_path / "other").mkdir()
    second = write_tables(Results(write(tmp_path / "other" / "a", grid=row_sets[::-1])))
    assert {path.name: path.read_bytes() for path in second} == first
    assert {"table1.tex", "table2.md", "table3.csv", "table4.md", "detection.csv", "overlap.md"} <= set(first)


def test_a_table_without_a_row_is_left_out():
    assert set(all_tables(results(SMALL[:1]))) == {"table1", "table2", "table4", "means", "claims"}
