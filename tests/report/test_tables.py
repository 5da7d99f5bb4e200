"""Tables II, III, IV and the AUCs, ours and the paper's, out of the same code."""

import re

import numpy as np
import pytest
from made_rows import SOUND, grid, row_set, write

from unmask_tf.errors import InputError
from unmask_tf.report.published import DEFAULT_PATH, read_published
from unmask_tf.report.statistics import accuracies, aucs, class_set_means, detections, means, wide
from unmask_tf.report.tables import (
    auc_markdown,
    table2_markdown,
    table3_markdown,
    table4_markdown,
    verdicts_markdown,
    write_tables,
)
from unmask_tf.report.text import aligned, beside, number, span

# M is fooled in the last two images; the attacked scores 1 and .5 meet the twins' .25 and .5: three pairs right, a tie.
SMALL = [
    row_set(right=8, n=8),
    row_set("um", right=7, n=8, scores=[0, 0, 0, 0, 0, 0, 0.25, 0.5], m_right=8),
    row_set("none", "pgd_linf", 8, 2, 8),
    row_set("at", "pgd_linf", 8, 4, 8),
    row_set("um", "pgd_linf", 8, 6, 8, scores=[1, 1, 1, 1, 1, 1, 1, 0.5], m_right=6),
    row_set("um", "mia_linf", 16, 5, 8, scores=[1] * 8, m_right=8),
]


def csvs(tmp_path, row_sets):
    write_tables(write(tmp_path, grid=row_sets))
    return [(tmp_path / name).read_text() for name in ("table4.csv", "auc.csv")]


# --- The paper's own numbers -----------------------------------------------------------------------------------------


def test_the_paper_s_means_are_recomputed_from_its_cells():
    result = means(read_published().accuracy)
    assert result["um - at"] == pytest.approx(31.78, abs=0.005)
    assert result["um - none"] == pytest.approx(74.50, abs=0.005)


def test_the_paper_s_table_4_is_whole():
    table = wide(read_published().accuracy)
    assert table.shape == (8 + 64, 3) and not table.isna().any(axis=None)
    assert table.loc[("densenet121", "cs5b", "mia_linf", 16)].tolist() == [0.0, 0.03, 0.58]
    assert table.loc[("resnet50", "cs3b", "none", 0)].tolist() == [0.97, 0.94, 0.92]


def test_the_paper_s_other_numbers_are_there():
    published = read_published()
    assert len(published.auc) == 8 and published.auc["densenet121", "cs3a", "mia_l2", 300, "um"] == 0.969
    assert (published.operating_point["tpr"], published.operating_point["fpr"]) == (0.9675, 0.0966)
    assert (published.map, published.selected_epsilon, published.searched_epsilons) == (0.56, 4, (1, 2, 4, 6, 8, 16))
    assert published.table3["cs5b"] == {"pgd_linf": 6822, "pgd_l2": 8256, "mia_linf": 8258, "mia_l2": 8258}
    assert not re.search(r"/\w|\w/|\\", DEFAULT_PATH.read_text(encoding="utf-8"))


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


def test_table_2_of_the_paper_follows_from_the_headers_of_its_class_sets():
    text = table2_markdown([row_set(class_set=name) for name in ("cs5b", "cs5a", "cs3b", "cs3a")])
    # The paper cuts 6.896... to 6.89.
    assert text.splitlines()[2:] == [
        "| CS3a | 3 (3) | 29 (29) | 2 | 6.90 (6.89) | 10 (2351) |",
        "| CS3b | 3 (3) | 18 (18) | 9 | 50.00 (50.00) | 10 (2867) |",
        "| CS5a | 5 (5) | 34 (34) | 8 | 23.53 (23.53) | 10 (3179) |",
        "| CS5b | 5 (5) | 34 (34) | 10 | 29.41 (29.41) | 10 (4129) |",
    ]


# --- Ours ------------------------------------------------------------------------------------------------------------


def test_table_4_and_the_aucs_by_hand(tmp_path):
    assert csvs(tmp_path, SMALL[::-1]) == [
        "model,class_set,attack,epsilon_255,n,none,at,um\n"
        "resnet50,cs3a,none,0,8,1.0000,,0.8750\n"
        "resnet50,cs3a,pgd_linf,8,8,0.2500,0.5000,0.7500\n"
        "resnet50,cs3a,mia_linf,16,8,,,0.6250\n",
        "model,class_set,attack,epsilon_255,defence,n,auc\n"
        "resnet50,cs3a,pgd_linf,8,um,4,0.8750\n"
        "resnet50,cs3a,mia_linf,16,um,0,\n",
    ]


def test_a_run_without_any_detection_has_tables_with_their_columns(tmp_path):
    assert csvs(tmp_path, SMALL[:1])[1] == "model,class_set,attack,epsilon_255,defence,n,auc\n"
    assert csvs(tmp_path, [SMALL[2]])[0].splitlines()[0] == "model,class_set,attack,epsilon_255,n,none"


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
    found = detections([*own, *twins, *SMALL])
    assert {d.header.defence for d in found} == {"um", "blur"}
    text = auc_markdown([*own, *twins, *SMALL])
    assert "| ResNet50 | CS3a | UM | 0.875 | - |" in text and "| ResNet50 | CS3a | blur | 1.000 | - |" in text


def test_means_by_hand():
    # Benign rows do not count; differences are taken over the cells that have both.
    assert means(accuracies(SMALL)) == {"none": 25, "at": 50, "um": 68.75, "um - at": 25, "um - none": 50}


def test_means_of_nothing_are_missing():
    assert {number(value) for value in means(accuracies(SMALL[:2])).values()} == {"-"}


def test_contradicting_row_sets_are_refused():
    with pytest.raises(InputError, match="its 8 images are not the 9 of another"):
        accuracies([*SMALL, row_set("at", "mia_linf", 16, 4, 9)])
    with pytest.raises(InputError, match="two row sets of cs3a resnet50 at under pgd_linf 8"):
        accuracies([*SMALL, row_set("at", "pgd_linf", 8, 4, 8)])


def test_rows_stand_in_the_paper_s_order_and_unknown_names_after():
    names = {"models": ("vgg16", "densenet121", "resnet50"), "class_sets": ("zoo", "cs5a", "cs3a")}
    table = wide(accuracies(grid(**names, n=4, defences=("um", "jpeg", "at_madry", "at", "blur"))))
    setups = list(dict.fromkeys(cell[:2] for cell in table.index))
    assert setups == [(m, c) for m in ("resnet50", "densenet121", "vgg16") for c in ("cs3a", "cs5a", "zoo")]
    assert list(table.columns) == ["at", "at_madry", "um", "blur", "jpeg"]


def test_a_broken_epsilon_does_not_turn_the_others_into_fractions(tmp_path):
    text = csvs(tmp_path, [*SMALL, row_set("none", "pgd_linf", 0.5, 1, 8)])[0]
    assert ",pgd_linf,0.5,8," in text and ",pgd_linf,8,8," in text and ",none,0,8," in text


# --- Rendering -------------------------------------------------------------------------------------------------------


def test_numbers_stand_beside_the_paper_s():
    assert beside(0.314, 0.29, mark="†") == "0.31† (0.29)"
    assert beside(0.314, None) == "0.31"
    assert beside(None, 0.29) == "- (0.29)"
    assert beside(float("nan"), float("nan")) == "-"
    assert (number(-0.001, sign=True), number(-0.006, sign=True)) == ("+0.00", "-0.01")
    assert number(np.float64(0.925)) == number(0.925) == "0.93"
    assert (span([3, 1, 2]), span([2, 2]), span([])) == ("1 to 3", "2", "-")


def test_a_console_table_is_aligned():
    assert aligned(("Name", "n"), [("a", "10"), ("longer", "9")], left=1) == (
        "Name     n\n------  --\na       10\nlonger   9\n"
    )


def test_table_4_markdown_by_hand():
    lines = table4_markdown(SMALL).splitlines()
    assert lines[0] == "| M | CS | No attack |  |  | PGD-L∞ ε=8 |  |  |"
    assert lines[2] == "|  |  | **None** | **AT** | **UM** | **None** | **AT** | **UM** |"
    assert lines[3] == (
        "| ResNet50 | CS3a | 1.00 (0.98) | - (0.96) | 0.88 (0.94) | 0.25 (0.31) | 0.50 (0.71) | 0.75 (0.85) |"
    )
    assert lines[5] == "| M | CS | No attack |  |  | MIA-L∞ ε=16 |  |  |"
    assert lines[8].endswith("| - (0.00) | - (0.00) | 0.62 (0.68) |")
    assert "†" not in "".join(lines)


def test_the_whole_table_4_has_the_paper_s_two_blocks():
    text = table4_markdown(grid(class_sets=("cs3a", "cs3b", "cs5a", "cs5b")))
    heads = [
        re.findall(r"(?:No attack|\w+-L\S+ ε=\d+)", line) for line in text.splitlines() if line.startswith("| M |")
    ]
    assert heads == [
        ["No attack", "PGD-L∞ ε=8", "PGD-L∞ ε=16", "PGD-L2 ε=300", "PGD-L2 ε=600"],
        ["No attack", "MIA-L∞ ε=8", "MIA-L∞ ε=16", "MIA-L2 ε=300", "MIA-L2 ε=600"],
    ]
    rows = [line for line in text.splitlines() if line.startswith(("| ResNet50", "| DenseNet121"))]
    assert len(rows) == 16 and all(row.count("(") == 15 for row in rows)


def test_attacks_of_no_known_family_have_a_block_of_their_own_and_defences_their_columns():
    text = table4_markdown([*SMALL, row_set("jpeg", "square", 8, 3, 8), row_set("algorithm1", right=8, n=8)])
    assert "| M | CS | No attack |  |  |  |  | square ε=8 |" in text
    assert "| **None** | **AT** | **UM** | **Alg. 1** | **jpeg** |" in text


def test_other_models_class_sets_and_budgets_have_no_number_of_the_paper():
    others = grid(class_sets=("photo3",), models=("mobilenet_v2",))
    assert "(" not in table4_markdown(others) + auc_markdown(others) + table3_markdown(others)
    weak = table4_markdown([row_set("um", "pgd_linf", 4, 1, 8)]).splitlines()[3]
    assert weak == "| ResNet50 | CS3a | - (0.94) | 0.12 |"


def test_numbers_of_a_failed_attack_carry_a_dagger_and_those_of_the_defences_behind_it():
    failed = {"checks": {**SOUND, "loss_rises": False}}
    text = table4_markdown([*SMALL[:3], row_set("at", "pgd_linf", 8, 4, 8, **failed), *SMALL[4:]])
    assert "0.25 (0.31) | 0.50† (0.71) | 0.75 (0.85)" in text
    assert text.endswith("report.md names the checks.\n")
    benign_m = [*SMALL[:2], row_set("none", "pgd_linf", 8, 2, 8, **failed), *SMALL[3:]]
    assert "0.25† (0.31) | 0.50 (0.71) | 0.75† (0.85)" in table4_markdown(benign_m)
    assert "| ResNet50 | CS3a | 0.875† | - |" in auc_markdown(benign_m)
    assert "| ResNet50 | CS3a | 4† | 0 (4702) |" in table3_markdown(benign_m)
    assert "†" not in auc_markdown(SMALL) + table3_markdown(SMALL)


def test_aucs_and_table_3_stand_beside_the_paper_s():
    row_sets = grid()
    assert [row.count("(") for row in auc_markdown(row_sets).splitlines()[2:4]] == [0, 8]
    rows = table3_markdown(row_sets).splitlines()[2:4]
    # The paper prints the counts of the stronger attacks only.
    assert [re.findall(r"\((\d+)\)", row) for row in rows] == [["3648", "4702", "4702", "4702"]] * 2
    # M is right on a quarter of the 60 images under PGD-Linf: 45 pairs.
    assert "| ResNet50 | CS3a | 90† | 90† (3648) | 118 | 118 (4702) |" in rows[0]


def test_verdicts_at_a_threshold_are_shares_of_images_with_where_the_threshold_comes_from():
    threshold = {"value": 0.75, "fpr": 0.1, "fpr_measured": 0.08, "split": "val", "n": 50}
    benign = row_set("algorithm1", flagged=[True] + [False] * 9, threshold=threshold)
    attacked = row_set("algorithm1", "pgd_l2", 300, flagged=[True] * 9 + [False], threshold=threshold)
    text = verdicts_markdown([benign, attacked, *SMALL])
    assert "| M | CS | No attack | PGD-L2 ε=300 |" in text and "| ResNet50 | CS3a | 10.0 | 90.0 |" in text
    assert (
        "- ResNet50 CS3a Alg. 1: d ≥ 0.75, chosen on 50 val images for at most 10 % false positives (there 8 %)."
        in text
    )
    never = row_set("algorithm1", threshold={**threshold, "value": 1.000001, "fpr_measured": 0.0})
    assert "Alg. 1: d > 1, which no image has, chosen on 50 val images" in verdicts_markdown([never])
    assert verdicts_markdown(SMALL) == ""


def test_tables_made_twice_have_the_same_bytes(tmp_path):
    row_sets = grid(class_sets=("cs3a", "cs3b"))
    first = {path.name: path.read_bytes() for path in write_tables(write(tmp_path / "a", grid=row_sets))}
    second = write_tables(write(tmp_path / "b", grid=row_sets[::-1]))
    assert {path.name: path.read_bytes() for path in second} == first
    tables = {"table2.md", "table3.md", "table4.csv", "table4.md", "auc.csv", "auc.md"}
    more = {"overlap.md", "overlap.csv", "overlap_correlations.csv", "per_class.md", "per_class.csv", "confusion.csv"}
    assert set(first) == tables | more
    assert aucs(detections(row_sets)).notna().all()
