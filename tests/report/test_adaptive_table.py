"""The table of attacks that know K, from rows made by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_rows import grid, row_set, write

from unmask_tf.defense.alignment import jaccard
from unmask_tf.defense.defences import DEFENCES, Case
from unmask_tf.defense.extract import PartSeen
from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet, frame
from unmask_tf.files import write_json
from unmask_tf.report.adaptive import adaptive_tables
from unmask_tf.report.adaptive_checks import check_tables
from unmask_tf.report.adaptive_numbers import adaptive_numbers, effort_numbers, margins, threshold_of
from unmask_tf.report.figures import write_figures
from unmask_tf.report.results import Results
from unmask_tf.report.table import markdown
from unmask_tf.report.tables import write_tables
from unmask_tf.taxonomy import UNMASK

ROOT = Path(__file__).resolve().parents[2]
BENIGN_SCORES = [0.1] * 9 + [0.9]


def cell(attack, epsilon, scores, m_right, right=5):
    """K's answers to ten images, the first `right` of them right, and M's, the first `m_right` of them right."""
    more = {"scores": scores, "m_right": m_right}
    knows = {"parts": ["K"], "pgd": ["M"]}.get(attack.partition("_")[0], ["K", "M"])
    threat = {"threat": {"iterations": 20, "best_iteration_median": 7.0, "knows": knows}} if attack != "none" else {}
    return [row_set("um", attack, epsilon, right, **more, **threat)]


@pytest.fixture
def rows():
    """Thresholds from validation: 1 of 10 is too many at 5 %, so none below 1; at 50 % it lies between .1 and .9."""
    return [
        row_set("um", "none", 0, 10, split="val", scores=BENIGN_SCORES),
        *cell("none", 0, BENIGN_SCORES, 10, right=9),
        *cell("joint_linf", 4, [0.2] * 6 + [0.8] * 4, 0),
        *cell("parts_linf", 4, [0.2] * 10, 8, right=0),
        *cell("pgd_linf", 4, [0.95] * 10, 10),
        *cell("pgd_linf", 8, [0.95] * 7 + [0.3] * 3, 9, right=6),
    ]


def test_a_robust_k_has_tables_of_its_own(tmp_path, rows):
    results = Results(tmp_path / "mini", {"adaptive": rows, "adaptive_robust": rows[:-1]})
    tables = {table.name: table for table in adaptive_tables(results)}
    own, robust = ([f"adaptive{name}", f"adaptive{name}_thresholds"] for name in ("", "_robust"))
    assert list(tables) == [*own, *robust, "adaptive_systems"]
    # Without M alone at 8, and the worst there.
    assert len(tables["adaptive_robust"].rows) == len(tables["adaptive"].rows) - 2
    assert "trained against attacks" in tables["adaptive_robust"].title
    assert results.how_to_make("adaptive_robust") == "make adaptive PROFILE=mini K_PRESET=mini_robust"


def test_numbers_by_hand(rows):
    table = adaptive_numbers(rows).set_index(["attack", "epsilon_255"])
    joint = table.loc["joint_linf", 4]
    # At 5 % nothing is flagged: all ten succeed. At 50 % the threshold is .5, which flags four.
    assert (joint["success_5"], joint["success_50"], joint["wrong"], joint["um"]) == (1.0, 0.6, 1.0, 0.5)
    assert joint["reject_5"] == 0.0 and joint["median_iteration"] == 7
    # Ten attacked images, of which .8 and .2 rank above nine of ten twins: 4 and 6 of them.
    assert joint["auc"] == pytest.approx(0.9)
    parts = table.loc["parts_linf", 4]
    assert (parts["success_5"], parts["success_50"], parts["um"]) == (0.2, 0.2, 0.0)
    assert np.isnan(table.loc["pgd_linf", 4]["auc"]), "M is never wrong"
    assert np.isnan(table.loc["none", 0]["auc"]) and table.loc["none", 0]["wrong"] == 0
    # Images 8 and 9 by K alone, 0 to 5 by the joint attack; UM is wrong on all by K alone.
    assert table.loc["any_linf", 4]["success_50"] == 0.8
    assert (table.loc["any_linf", 4]["um"], table.loc["any_linf", 4]["wrong"]) == (0.0, 1.0)
    # At 8 M alone succeeds on image 9, and what succeeded at 4 still counts.
    assert table.loc["pgd_linf", 8]["success_50"] == 0.1
    assert table.loc["any_linf", 8]["success_50"] == 0.8


def test_the_margin_s_numbers_by_hand():
    """Cars have 11 parts and people 13. Those chosen here are of no other class."""
    car, person = set(UNMASK.classes["car"][4:8]), set(UNMASK.classes["person"][:7])
    benign = [car] * 39 + [{"wheel"}]
    attacked = [car | {"ear", "nose", "eye", "foot"}] * 20 + [{"wheel"} | person] * 15 + [set()] * 5

    def of(parts, answer, right, m_right, attack="none", epsilon=0, **more):
        scores = [1 - jaccard(seen, set(UNMASK.classes[answer])) for seen in parts]
        return row_set("um", attack, epsilon, right, 40, parts=parts, scores=scores, m_right=m_right, **more)

    made = [
        of(benign, "car", 40, 40, split="val"),
        of(benign, "car", 40, 40),
        of(attacked, "person", 20, 0, "joint_linf", 4),
    ]
    assert [r.rows["model_answer"].iloc[0] for r in made] == ["car", "car", "person"]
    np.testing.assert_allclose(margins(made[1]), [-4 / 11] * 39 + [-1 / 11])
    np.testing.assert_allclose(margins(made[2]), [4 / 15 - 4 / 17] * 20 + [1 / 18 - 7 / 14] * 15 + [0.0] * 5)
    # Of forty images two may be flagged, but the others are as one.
    assert threshold_of(made[0], 0.05, margins) == pytest.approx(-5 / 22)
    table = adaptive_numbers(made).set_index(["attack", "epsilon_255"]).loc["joint_linf", 4]
    # 1 - 4/17 is below 1 - 5/22, so that d alone flags the last five only, on which K is wrong, too.
    assert (table["success_5"], table["algorithm1"]) == (35 / 40, 0.0)
    assert (table["margin_5"], table["margin_algorithm1"], table["um"]) == (15 / 40, 0.5, 0.5)


def test_trainings_stand_side_by_side_at_the_budgets_that_all_of_them_met(tmp_path, rows):
    trained = [
        row_set("um", "none", 0, 10, split="val", scores=[0.1] * 9 + [0.9], m_right=9),
        *cell("none", 0, [0.1] * 9 + [0.9], 8, right=9),
        *cell("joint_linf", 4, [0.05] * 3 + [0.9] * 7, 2, right=6),
        *cell("pgd_linf", 4, [0.9] * 10, 6),
        *cell("pgd_linf", 2, [0.9] * 10, 7),
    ]
    trained = [RowSet(replace(r.header, training={"recipe": "madry", "epochs": 6}), r.rows) for r in trained]
    tables = {t.name: t for t in adaptive_tables(Results(tmp_path / "mini", {"adaptive": rows}))}
    assert "adaptive_systems" not in tables, "nothing to compare"
    found = Results(tmp_path / "mini", {"adaptive": rows, "adaptive_robust_madry": trained})
    table = {t.name: t for t in adaptive_tables(found)}["adaptive_systems"]
    assert table.head[2:5] == ["Budget", "M trained", "K trained"]
    shown = {tuple(row[2:5]): [round(cell.ours, 6) for cell in row[5:9]] for row in table.rows}
    assert table.head[9:] == ["Success, margin", "Alg. 1, margin"]
    # At 5 % neither of them may flag any of nine or ten images. Success, right or flagged, Alg. 1, M alone:
    assert shown == {
        ("No attack", "-", "-"): [0.0, 1.0, 1.0, 1.0],
        ("No attack", "AT, 6 epochs", "AT"): [0.2, 0.8, 0.8, 0.8],
        ("L∞ ε=4", "-", "-"): [1.0, 0.0, 0.0, 0.0],
        ("L∞ ε=4", "AT, 6 epochs", "AT"): [0.8, 0.2, 0.2, 0.2],
    }


def test_a_threshold_is_that_of_the_images_that_m_answers_rightly_and_the_system_asks_k_where_it_flags():
    scores = [0.1] * 20 + [0.2] * 14 + [0.5] + [0.9] * 5
    made = [
        # M is wrong on the last five, whose scores say so: they are no false alarms. Of the other 35 at most one may
        # be flagged.
        row_set("um", "none", 0, 40, 40, split="val", scores=scores, m_right=35),
        row_set("um", "none", 0, 40, 40, scores=scores, m_right=35),
        # Ten images: the first three pass, seven are flagged; M is right on one and K on five.
        row_set("um", "joint_linf", 4, 5, 40, scores=[0.1] * 3 + [0.8] * 37, m_right=1),
    ]
    table = adaptive_numbers(made).set_index(["attack", "epsilon_255"])
    assert threshold_of(made[0], 0.05) == pytest.approx(0.35)
    assert table.loc["none", 0]["algorithm1"] == 1.0, "what M gets wrong is flagged, and K answers"
    joint = table.loc["joint_linf", 4]
    assert joint["success_5"] == pytest.approx(2 / 40)
    assert joint["algorithm1"] == pytest.approx(3 / 40), "M's answer of the first, K's of the fourth and the fifth"


def test_the_whole_system_is_algorithm_1():
    """Where M answers all validation images rightly: the numbers' system and the defence say the same."""
    rng = np.random.default_rng(3)
    members = UNMASK.members("cs3a")
    labels = sorted(members)
    parts = sorted(UNMASK.parts)

    def case(n, m_right, moved=0.0, validation=None):
        true = [members[i % 3] for i in range(n)]
        answers = [t if right else members[(members.index(t) + 1) % 3] for t, right in zip(true, m_right, strict=True)]
        seen = []
        for name in true:
            shown = name if rng.random() >= moved else members[(members.index(name) + 1) % 3]
            expected = sorted(UNMASK.expected(shown))
            kept = [p for p in expected if rng.random() < 0.8] + [p for p in parts if rng.random() < 0.02]
            seen.append(dict.fromkeys(kept, PartSeen(0.9, ((0, 0, 4, 4),))))
        given = Case(
            images=np.zeros((n, 8, 8, 3), np.float32),
            model_answers=answers,
            labels=labels,
            taxonomy=UNMASK,
            class_set="cs3a",
            parts=seen,
            validation=validation,
        )
        return true, given

    def rows_of(true, given, split, attack):
        um = DEFENCES["um"].answer(given)
        header = row_set("um", *attack, split=split).header
        names = [f"{split}/{i}.png" for i in range(len(true))]
        return RowSet(header, frame(names, true, um.classes, given.model_answers, um.similarity, um.score, None, None))

    validation = case(60, [True] * 60)
    made = [rows_of(*validation, "val", ("none", 0)), rows_of(*validation, "test", ("none", 0))]
    true, attacked = case(60, rng.random(60) < 0.3, 0.3, validation[1])
    whole = DEFENCES["algorithm1"].answer(attacked)
    numbers = adaptive_numbers([*made, rows_of(true, attacked, "test", ("joint_linf", 4))])
    expected = np.mean([a == t for a, t in zip(whole.classes, true, strict=True)])
    assert 0 < whole.flagged.sum() < 60 and 0 < expected < 1
    assert numbers.set_index("attack").loc["joint_linf", "algorithm1"] == pytest.approx(expected)


def test_cells_of_different_images_are_not_joined(rows):
    with pytest.raises(InputError, match="different images"):
        adaptive_numbers([*rows, row_set("um", "joint_linf", 2, 4, 8, scores=[0.1] * 8)])


def test_the_plausibility_line_compares_a_budget_with_its_half(rows, tmp_path):
    table, _ = adaptive_tables(Results(tmp_path / "mini", {"adaptive": rows}))
    assert "ResNet50 CS3a, L∞ ε=8: 0.00, and 0.00 at half of it" in table.notes[1]


EFFORTS = {(10, 1): 3, (20, 1): 2, (40, 1): 6, (40, 2): 5, (40, 4): 7}


@pytest.fixture
def efforts():
    """Steps and runs of which so many of ten images come out wrong and unflagged, at epsilon 2 and one more at 4."""
    made = [row_set("um", "none", 0, 10, split="val", scores=BENIGN_SCORES)]
    for epsilon, more in ((2.0, 0), (4.0, 1)):
        for (iterations, restarts), successes in EFFORTS.items():
            wrong = successes + more
            made.append(
                row_set(
                    *("um", "joint_linf", epsilon, 10 - wrong),
                    **{"scores": [0.0] * 10, "split": "val"},
                    threat={"iterations": iterations, "restarts": restarts, "knows": ["K", "M"]},
                )
            )
    return made


def test_efforts_by_hand(efforts):
    table = effort_numbers(efforts).set_index(["epsilon_255", "iterations", "restarts"])
    assert table["success_5"].loc[2.0].to_dict() == {effort: n / 10 for effort, n in EFFORTS.items()}
    # Who makes 20 steps may make 10 as well; rows are wrong from the last image on, so the larger set counts.
    assert table["success_so_far"].loc[2.0].to_dict() == {
        **{(10, 1): 0.3, (20, 1): 0.3, (40, 1): 0.6},
        **{(40, 2): 0.6, (40, 4): 0.7},
    }
    with pytest.raises(InputError, match="--effort"):
        effort_numbers(efforts[1:])


def trial(image, solved=True, distance=0.2):
    return {"image": image, "solved": solved, "by_chance": False, "distance": distance, "iterations": 9}


def test_the_tables_of_effort_and_of_the_binarisation_test(efforts, tmp_path):
    threat = {"attack": "joint_linf", "epsilon_255": 4.0, "iterations": 40, "restarts": 2}
    trials = {
        "normal": [trial(str(n), n != 0) for n in range(20)],
        "inverted": [trial(str(n), distance=0.0) for n in range(20)],
    }
    write_json(
        tmp_path / "mini" / "rows" / "binarisation.json", [{"threat": threat, "model": "resnet50", "trials": trials}]
    )
    results = Results(tmp_path / "mini", {"adaptive_effort": efforts})
    effort, problems = check_tables(results)
    assert "| ResNet50 | CS3a | M and K, joint, L∞ ε=2 | 20 | 1 | 0.20 [0.06, 0.51] | 0.30 | 0.20 | 0.20 |" in markdown(
        effort
    )
    text = markdown(problems)
    assert "| ResNet50 | normal | M and K, joint, L∞ ε=4 | 40 | 2 | 0.95 [0.76, 0.99] | 0.00 | 1.00 |" in text
    assert "| ResNet50 | inverted | M and K, joint, L∞ ε=4 | 40 | 2 | 1.00 [0.84, 1.00] | 0.00 | 0.00 |" in text
    (figure,) = {path for path in write_figures(results) if path.suffix == ".png"}
    assert figure.name == "figure_effort.png"
    write_json(tmp_path / "mini" / "rows" / "binarisation.json", [{"trials": 3}])
    with pytest.raises(InputError, match="holds no trials"):
        check_tables(results)


def test_the_tables_say_that_a_threshold_flags_nothing(rows, tmp_path):
    table, thresholds = adaptive_tables(Results(tmp_path / "mini", {"adaptive": rows}))
    text = markdown(table)
    assert "| ResNet50 | CS3a | M and K, joint, L∞ ε=4 | 1.00 [0.72, 1.00] | 0.60 | 1.00 | 0.50 |" in text
    text = markdown(thresholds)
    assert "| ResNet50 | CS3a | d | 5% | none: nothing is flagged | 0.0 | 0.0 |" in text
    assert "| ResNet50 | CS3a | d | 50% | 0.500 | 10.0 | 10.0 |" in text


def test_tables_and_figure_are_written_the_same_every_time(rows, tmp_path):
    folder = write(tmp_path / "mini", adaptive=rows, grid=grid(n=10))

    def files():
        paths = [*write_tables(Results(folder)), *write_figures(Results(folder))]
        return {path.name: path.read_bytes() for path in paths if "adaptive" in path.name}

    first = files()
    assert {"adaptive.md", "adaptive.csv", "adaptive_thresholds.tex", "figure_adaptive.png"} <= first.keys()
    assert files() == first


def test_missing_rows_are_named(rows, tmp_path):
    with pytest.raises(InputError, match="make adaptive"):
        adaptive_numbers(rows[1:])
    assert adaptive_tables(Results(tmp_path / "mini")) == []


@pytest.mark.parametrize(
    ("block", "tables"),
    [
        ("adaptive", ["adaptive"]),
        ("robust", ["adaptive_robust"]),
        ("systems", ["adaptive_systems"]),
        ("checks", ["adaptive_effort", "binarisation"]),
    ],
)
def test_the_documentation_quotes_the_reference_run(block, tables):
    text = (ROOT / "docs" / "adaptive_attacks.md").read_text(encoding="utf-8")
    quoted = text.split(f"<!-- {block}: begin -->\n")[1].split(f"<!-- {block}: end -->")[0].split("\n\n")
    assert len(quoted) == len(tables)
    for rows, name in zip(quoted, tables, strict=True):
        assert rows.count("\n") >= 3
        assert rows.strip() in (ROOT / "results" / "reference" / "mini" / f"{name}.md").read_text(encoding="utf-8")
