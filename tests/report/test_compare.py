"""Comparisons: with the paper (claims, listing), of the presets, of two K's."""

import pytest
from made_rows import SOUND, grid, published_rows, results, row_set, write

from unmask_tf.cli import main
from unmask_tf.errors import InputError
from unmask_tf.report.claims import CLAIMS, evaluate_claims, outcome
from unmask_tf.report.compare import TOLERANCES, compare, listing
from unmask_tf.report.compare_k import compare_k
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import series
from unmask_tf.report.study import write_study


def claim(row_sets, start):
    (found,) = [c for c in evaluate_claims(results(row_sets)) if c.statement.startswith(start)]
    return found


# --- With the paper --------------------------------------------------------------------------------------------------


def test_the_paper_s_own_numbers_meet_every_claim_that_they_can_test():
    for statement, test in CLAIMS:
        text, holds = outcome(test, read_published().accuracy, read_published().auc)
        # The paper prints AUCs of CS3a alone.
        assert holds is (None if statement.startswith("Less overlap, better detection") else True), (statement, text)


def test_the_opposite_of_the_paper_fails_every_claim():
    accuracy = 1 - read_published().accuracy  # every order turns round
    for model, class_set, attack, epsilon, defence in accuracy.index:
        key = (model, class_set, attack, epsilon, defence)
        if attack == "none":
            accuracy[key] = {"none": 1.0, "at": 0.5, "um": 0.0}[defence]
        elif defence == "um" and model == "resnet50" and class_set != "cs3a":
            accuracy[key] += 0.1
    auc = series({("resnet50", c, "pgd_linf", 8, "um"): v for c, v in (("cs3a", 0.5), ("cs3b", 0.7), ("cs5a", 0.6))})
    assert [statement for statement, test in CLAIMS if outcome(test, accuracy, auc)[1] is not False] == []


def test_the_paper_s_own_accuracies_are_within_a_tolerance_of_nought():
    row_sets = published_rows()
    table, _, paper_only = listing(results(row_sets), dict.fromkeys(TOLERANCES, 0))
    assert len(table.rows) == 72 * 3 + 8 and paper_only == 1
    assert {row[-1] for row in table.rows} == {"yes (0)"}
    assert claim(row_sets, "UM is more accurate under attack than AT").ours == "+31.78 points"
    assert claim(row_sets, "UM is more accurate than AT in every").ours == "64 of 64 cells"


def test_counts_by_hand():
    cell = {"model": "densenet121", "n": 100}
    row_sets = [
        row_set(right=97, **cell),  # paper .97
        row_set("none", "pgd_linf", 8, 41, **cell),  # .31: 0.41 - 0.31 is more than 0.1 in floating point
        row_set("um", right=80, scores=[0] * 100, **cell),  # .94
        row_set("um", "pgd_linf", 8, 70, scores=[1] * 100, m_right=31, **cell),  # .86; AUC 1.0, paper .95
        row_set("none", "pgd_linf", 4, 10, **cell),  # not in the paper
        row_set("jpeg", "pgd_linf", 8, 10, m_right=31, **cell),  # nor this
    ]
    found = results(row_sets)
    found.model_k = lambda: {"map50": 0.6}
    table, ours_only, paper_only = listing(found)
    assert [row[-1].split()[0] for row in table.rows] == ["yes", "no", "yes", "no", "no", "yes"]
    assert (ours_only, paper_only) == (2, 72 * 3 + 8 + 1 - 6)
    wider = listing(results(row_sets), TOLERANCES | {"accuracy": 0.2, "auc": 0.06})[0]
    assert [row[-1].split()[0] for row in wider.rows] == ["yes"] * 5


def test_claims_a_grid_cannot_test_neither_hold_nor_fail():
    untested = [
        c.statement for c in evaluate_claims(results(grid(("photo3",), ("mobilenet_v2",), n=20))) if c.holds is None
    ]
    assert len(untested) == 9
    assert all("overlap" in s or "different M" in s or "CS3a" in s for s in untested)


def test_the_operating_point_is_the_mean_over_the_models():
    row_sets = []
    for model, attacked in (("resnet50", [0.9, 0.8, 0.1]), ("densenet121", [1, 1, 1])):
        row_sets.append(row_set("um", right=3, n=3, model=model, scores=[0.5, 0.5, 0.0]))
        row_sets.append(row_set("um", "mia_l2", 300, 1, 3, model=model, scores=attacked, m_right=0))
    found = claim(row_sets, "At 9.66 %")
    assert (found.ours, found.paper, found.holds) == ("83.33 %", "96.75 %", False)
    assert claim(row_sets[2:], "At 9.66 %").holds is True


def test_the_comparison_is_written_twice_alike_and_says_what_may_be_expected(tmp_path):
    failed = {("cs3a", "resnet50", "at", "pgd_l2", 300): "box_kept"}
    write(tmp_path, grid=grid(n=20, checks=failed))
    text = compare(tmp_path)
    names = ["compare.md", "compare.csv", "claims.md"]
    first = [(tmp_path / name).read_bytes() for name in names]
    assert compare(tmp_path) == text and [(tmp_path / name).read_bytes() for name in names] == first
    assert text.startswith("Data `mini` is not the paper's") and "†" in text
    lines = first[1].decode().splitlines()
    assert lines[0].startswith("data,M,CS,Attack,Number,Ours,Ours paper,Ours difference,")
    assert len(lines) == 1 + 2 * 27 + 8
    assert compare(write(tmp_path / "paper", grid=published_rows(n=20))).startswith("The paper's data: the numbers may")


# --- Of the presets --------------------------------------------------------------------------------------------------


def test_the_study_by_hand(tmp_path):
    def ran(attack, preset, right, **more):
        threat = {"preset": preset, "iterations": 20, "iterations_asked": 20} | more.pop("threat", {})
        return row_set("none", attack, 8, right, 100, threat=threat, **more)

    rights = {"strong": (0, 0), "eq1": (1, 0), "own": (5, 5), "released": (30, 0), "written": (2, 1)}
    row_sets = [ran(a, p, n) for p, both in rights.items() for a, n in zip(("pgd_linf", "mia_linf"), both, strict=True)]
    warned = {"checks": {"deterministic": True, "step_shorter_than_budget": False}, "nan_images": 3}
    row_sets[6] = ran("pgd_linf", "released", 30, **warned)
    row_sets[1] = ran("mia_linf", "strong", 0, threat={"iterations": 40})
    cells, means, checks = write_study(Results(write(tmp_path, study=[row_set(right=97, n=100), *row_sets])))
    assert {"study.md", "study_means.csv", "study_checks.tex"} <= {path.name for path in tmp_path.iterdir()}
    frame = cells.frame()
    assert frame[["No attack", "released", "written", "eq1", "strong", "own"]].to_numpy().tolist() == [
        [0.97, 0.3, 0.02, 0.01, 0.0, 0.05],
        [0.97, 0.0, 0.01, 0.0, 0.0, 0.05],
    ]
    assert frame["released mark"].tolist() == ["†", ""] and frame["released paper"].tolist() == [0.31, 0.0]
    assert means.frame()["released"].tolist() == [0.3, 0.0]
    assert ("released", "pgd_and_mi_agree") in [tuple(row[:2]) for row in checks.rows]
    assert "`released`: 1 of 2 attacks are sound, 1 gave a warning; NaN repaired in 3 images." in means.notes
    assert (
        "`strong`: 2 of 2 attacks are sound, 0 gave a warning. 1 of 2 attacks had not converged after 20 gradient "
        "steps and were given up to 40."
    ) in means.notes


# --- Of two K's ------------------------------------------------------------------------------------------------------


def by_k(extractor, right, parts, attack="none", epsilon=0, **more):
    return row_set("um", attack, epsilon, right, 4, extractor=extractor, parts=parts, **more)


def test_two_k_s_by_hand(tmp_path):
    ours = [by_k("mask_rcnn a1", 3, [{"wheel", "door"}, {"wheel"}, set(), {"head"}], checks=SOUND)]
    given = [by_k("mask_rcnn b2", 2, [{"wheel"}, {"wheel"}, set(), {"leg"}])]
    alone = by_k("mask_rcnn b2", 2, [{"leg"}] * 4, "pgd_linf", 8)
    text = compare_k(write(tmp_path, compare_k=[*ours, *given, alone]))
    assert "Ours: mask_rcnn a1; given: mask_rcnn b2." in text and "there is no mAP" in text
    # Same: the second and the third; Jaccard: 1/2, 1, 1 (two empty sets), 0.
    shown = "| ResNet50 | CS3a | No attack | 4 | 0.50 [0.15, 0.85] | 0.625 | 0.75 [0.30, 0.95] | 0.50 [0.15, 0.85] |"
    assert shown in text and len((tmp_path / "compare_k.csv").read_text().splitlines()) == 2
    for name, value in (("model_k_ours", 0.5), ("model_k_given", 0.6)):
        (tmp_path / "rows" / f"{name}.json").write_text(f'{{"map50": {value}, "map": 0.25}}')
    assert "| mAP at IoU 0.5 | 0.500 | 0.600 |" in compare_k(tmp_path)


def test_one_k_or_different_images_are_no_comparison(tmp_path):
    one = by_k("a", 3, [{"wheel"}] * 4)
    with pytest.raises(InputError, match="compares 1 K's, not two. Run: make compare"):
        compare_k(write(tmp_path, compare_k=[one]))
    with pytest.raises(InputError, match="saw different images"):
        compare_k(write(tmp_path, compare_k=[one, row_set("um", right=3, n=5, extractor="b", parts=[set()] * 5)]))


def test_a_strict_comparison_says_by_its_exit_code_whether_the_claims_hold(tmp_path):
    write(tmp_path / "paper", grid=[r for r in published_rows() if r.header.class_set == "cs3a"])
    write(tmp_path / "mini", grid=grid(n=20))
    assert any(claim.holds is False for claim in evaluate_claims(Results(tmp_path / "mini")))
    for profile, code in (("paper", 0), ("mini", 1)):
        where = ["--profile", profile, "--results", str(tmp_path)]
        assert main(["compare", *where]) == 0
        assert main(["compare", "--strict", *where]) == code
