"""Tables II, III, IV and the AUCs, ours and the paper's, out of the same code."""

import re
from dataclasses import replace

import pytest

from unmask_tf.errors import InputError
from unmask_tf.reproduce.cells import by_cell
from unmask_tf.reproduce.published import DEFAULT_PATH, read_published
from unmask_tf.reproduce.records import CellKey, Record
from unmask_tf.reproduce.tables import (
    aligned,
    auc_markdown,
    auc_table,
    beside,
    class_set_means,
    csv,
    means,
    number,
    read_model_k,
    table2,
    table2_markdown,
    table3_markdown,
    table4,
    table4_markdown,
    write_tables,
)
from unmask_tf.taxonomy import UNMASK

HASH = "0123456789ab"


def record(defence, correct, attack="pgd_linf", epsilon=8, model="resnet50", class_set="cs3a", n=8, **fields):
    key = CellKey("mini", class_set, model, defence, attack, epsilon)
    return Record(key=key, config_hash=HASH, n=n, correct=correct, **{"checks": {"budget": True}, **fields})


SMALL = [
    record("none", 8, "none", 0),
    record("um", 7, "none", 0),
    record("none", 2),
    record("at", 4),
    # Pairs (1, .25), (.5, .25), (1, .5), (.5, .5): three right and one tie.
    record("um", 6, detection_scores=[1.0, 0.5, 0.25, 0.5], detection_labels=[1, 1, 0, 0]),
    record("um", 5, "mia_linf", 16, detection_scores=[], detection_labels=[]),
]


# --- The paper's own numbers -----------------------------------------------------------------------------------------


def test_the_paper_s_means_recomputed_from_its_cells(published):
    result = means(published.table4)
    assert result.um_minus_at == pytest.approx(31.78, abs=0.005)
    assert result.um_minus_none == pytest.approx(74.50, abs=0.005)


def test_the_paper_s_table_4_is_whole(published):
    assert len(published.table4) == 8 + 64
    assert len(by_cell(published.table4)) == 72
    assert not published.table4.isna().any().any()
    row = by_cell(published.table4)["densenet121", "cs5b", "mia_linf", 16]
    assert (row["n"], row["none"], row["at"], row["um"]) == (4129, 0.0, 0.03, 0.58)
    row = by_cell(published.table4)["resnet50", "cs3b", "none", 0]
    assert (row["none"], row["at"], row["um"]) == (0.97, 0.94, 0.92)


def test_the_paper_s_other_numbers_are_there(published):
    assert by_cell(published.auc)["densenet121", "cs3a", "mia_l2", 300]["auc"] == 0.969
    assert len(published.auc) == 8
    assert (published.operating_point["tpr"], published.operating_point["fpr"]) == (0.9675, 0.0966)
    assert published.map == 0.56
    assert published.table3["cs5b"] == {"pgd_linf": 6822, "pgd_l2": 8256, "mia_linf": 8258, "mia_l2": 8258}


def test_a_broken_file_of_published_numbers_is_refused(tmp_path):
    (tmp_path / "published.json").write_text('{"table2": {"m": {}}}')
    with pytest.raises(InputError, match=r"published\.json lacks"):
        read_published(tmp_path / "published.json")


def test_table_2_of_the_paper(published):
    frame = table2(UNMASK, ("cs3a", "cs3b", "cs5a", "cs5b"))
    assert frame["classes"].tolist() == [3, 3, 5, 5]
    assert frame["parts"].tolist() == [29, 18, 34, 34]
    assert frame["shared"].tolist() == [2, 9, 8, 10]
    # The paper cuts 6.896... to 6.89.
    assert [f"{overlap:.2f}" for overlap in frame["overlap_percent"]] == ["6.90", "50.00", "23.53", "29.41"]
    for row in frame.to_dict("records"):
        paper = published.table2[row["class_set"]]
        assert (paper["classes"], paper["parts"]) == (row["classes"], row["parts"])
        assert paper["overlap_percent"] == pytest.approx(row["overlap_percent"], abs=0.01)


# --- Ours ------------------------------------------------------------------------------------------------------------


def test_table_4_by_hand():
    frame = table4(reversed(SMALL))
    assert list(frame.columns) == ["model", "class_set", "attack", "epsilon_255", "n", "none", "at", "um"]
    assert csv(frame) == (
        "model,class_set,attack,epsilon_255,n,none,at,um\n"
        "resnet50,cs3a,none,0,8,1.0000,,0.8750\n"
        "resnet50,cs3a,pgd_linf,8,8,0.2500,0.5000,0.7500\n"
        "resnet50,cs3a,mia_linf,16,8,,,0.6250\n"
    )


def test_auc_table_by_hand():
    assert csv(auc_table(SMALL)) == (
        "model,class_set,attack,epsilon_255,n,auc\nresnet50,cs3a,pgd_linf,8,4,0.8750\nresnet50,cs3a,mia_linf,16,0,\n"
    )


def test_tables_without_any_detection_are_empty_but_have_their_columns():
    assert csv(auc_table(SMALL[:2])) == "model,class_set,attack,epsilon_255,n,auc\n"


def test_means_by_hand():
    # Benign rows do not count; differences are taken over the cells that have both.
    result = means(table4(SMALL))
    assert (result.none, result.at, result.um) == (25.0, 50.0, 68.75)
    assert (result.um_minus_at, result.um_minus_none) == (25.0, 50.0)


def test_means_of_nothing_are_missing():
    result = means(table4(SMALL[:2]))
    assert (result.none, result.at, result.um, result.um_minus_at, result.um_minus_none) == (None,) * 5


def test_class_set_means_are_figure_4_s(published):
    result = class_set_means(published.table4)
    assert list(result) == ["cs3a", "cs3b", "cs5a", "cs5b"]
    # CS3a, UM, ResNet50 and DenseNet121, over the eight columns of Table IV.
    printed = (85, 72, 92, 91, 82, 68, 92, 91, 86, 74, 93, 91, 83, 69, 92, 90)
    assert result["cs3a"].um == pytest.approx(sum(printed) / 16)


def test_defences_scored_on_different_images_are_refused():
    with pytest.raises(InputError, match="scored on 9 images, another defence of its row on 8"):
        table4([*SMALL, record("at", 4, "mia_linf", 16, n=9)])


def test_rows_stand_in_the_paper_s_order_and_unknown_names_after(make_records):
    records = make_records(class_sets=("zoo", "cs5a", "cs3a"), models=("vgg16", "densenet121", "resnet50"))
    frame = table4(records)
    setups = list(dict.fromkeys(zip(frame["model"], frame["class_set"], strict=True)))
    assert setups == [(m, c) for m in ("resnet50", "densenet121", "vgg16") for c in ("cs3a", "cs5a", "zoo")]


def test_a_broken_epsilon_does_not_turn_the_others_into_fractions():
    text = csv(table4([*SMALL, record("um", 1, epsilon=0.5)]))
    assert ",pgd_linf,0.5,8," in text and ",pgd_linf,8,8," in text and ",none,0,8," in text


# --- Rendering -------------------------------------------------------------------------------------------------------


def test_numbers_stand_beside_the_paper_s():
    assert beside(0.314, 0.29, mark="†") == "0.31† (0.29)"
    assert beside(0.314, None) == "0.31"
    assert beside(None, 0.29) == "- (0.29)"
    assert beside(float("nan"), float("nan")) == "-"
    assert number(-0.001, sign=True) == "+0.00"
    assert number(-0.006, sign=True) == "-0.01"


def test_table_4_markdown_by_hand(published):
    lines = table4_markdown(SMALL, published).splitlines()
    assert lines[0] == "| M | CS | No attack |  |  | PGD-L∞ ε=8 |  |  |"
    assert lines[2] == "|  |  | **None** | **AT** | **UM** | **None** | **AT** | **UM** |"
    assert lines[3] == (
        "| ResNet50 | CS3a | 1.00 (0.98) | - (0.96) | 0.88 (0.94) | 0.25 (0.31) | 0.50 (0.71) | 0.75 (0.85) |"
    )
    assert lines[5] == "| M | CS | No attack |  |  | MIA-L∞ ε=16 |  |  |"
    assert lines[8].endswith("| - (0.00) | - (0.00) | 0.62 (0.68) |")
    assert "†" not in "".join(lines)


def test_the_whole_table_4_has_the_paper_s_two_blocks(make_records, published):
    text = table4_markdown(make_records(), published)
    heads = [
        re.findall(r"(?:No attack|\w+-L\S+ ε=\d+)", line) for line in text.splitlines() if line.startswith("| M |")
    ]
    assert heads == [
        ["No attack", "PGD-L∞ ε=8", "PGD-L∞ ε=16", "PGD-L2 ε=300", "PGD-L2 ε=600"],
        ["No attack", "MIA-L∞ ε=8", "MIA-L∞ ε=16", "MIA-L2 ε=300", "MIA-L2 ε=600"],
    ]
    rows = [line for line in text.splitlines() if line.startswith(("| ResNet50", "| DenseNet121"))]
    assert len(rows) == 16
    assert all(row.count("(") == 15 for row in rows)


def test_other_models_class_sets_and_budgets_have_no_number_of_the_paper(make_records, published):
    records = make_records(class_sets=("photo3",), models=("mobilenet_v2",))
    # Below the rows, notes name unsound cells.
    assert "(" not in table4_markdown(records, published).split("\n†")[0]
    assert "(" not in auc_markdown(records, published)
    weak = table4_markdown([record("um", 1, epsilon=4)], published).splitlines()[3]
    assert weak == "| ResNet50 | CS3a | - (0.98) | - (0.96) | - (0.94) | - | - | 0.12 |"
    vgg = make_records(class_sets=("cs3a",), models=("vgg16",))
    assert "(" not in auc_markdown(vgg, published)


def test_numbers_of_a_failed_attack_carry_a_dagger_and_a_note(published):
    records = [replace(r, checks={"a": False, "b": True, "c": False}) if r.key.defence == "at" else r for r in SMALL]
    text = table4_markdown(records, published)
    assert "0.25 (0.31) | 0.50† (0.71) | 0.75 (0.85)" in text
    assert text.splitlines()[-3:] == [
        "† unsound, so it says little of robustness: the attack failed a: PGD-L∞ ε=8 (ResNet50 CS3a AT).",
        "",
        "† unsound, so it says little of robustness: the attack failed c: PGD-L∞ ε=8 (ResNet50 CS3a AT).",
    ]


def test_detections_of_an_unsound_attack_carry_a_dagger(published):
    records = [replace(r, checks={"a": r.key.attack != "pgd_linf"}) for r in SMALL if r.key.defence != "at"]
    assert "| ResNet50 | CS3a | 0.875† | - |" in auc_markdown(records, published)
    assert "| ResNet50 | CS3a | 4† | 0 (4702) |" in table3_markdown(records, published)
    for text in (auc_markdown(records, published), table3_markdown(records, published)):
        assert text.endswith("\n† unsound: the attack failed a check, which stands below Table IV.\n")
    assert "†" not in auc_markdown(SMALL, published) + table3_markdown(SMALL, published)


def test_auc_and_table_3_stand_beside_the_paper_s(make_records, published):
    records = make_records(class_sets=("cs3a",))
    auc_rows = auc_markdown(records, published).splitlines()[2:4]
    assert [row.count("(") for row in auc_rows] == [0, 8]
    assert re.search(r"\| \d\.\d{3}† \(0\.950\) \|", auc_rows[1])
    count_rows = table3_markdown(records, published).splitlines()[2:4]
    # The paper prints the counts of the stronger attacks only.
    assert [re.findall(r"\((\d+)\)", row) for row in count_rows] == [["3648", "4702", "4702", "4702"]] * 2
    evaluated = by_cell(auc_table(records))["resnet50", "cs3a", "pgd_linf", 16]["n"]
    assert f"| {evaluated}† (3648) |" in count_rows[0]


def test_table_2_markdown(make_records, published):
    text = table2_markdown(make_records(class_sets=("cs3b",), n=50), UNMASK, published)
    assert text.splitlines()[2] == "| CS3b | 3 (3) | 18 (18) | 9 | 50.00 (50.00) | 50 (2867) |"


def test_a_console_table_is_aligned():
    assert aligned(("Name", "n"), [("a", "10"), ("longer", "9")], left=1) == (
        "Name     n\n------  --\na       10\nlonger   9\n"
    )


# --- Files -----------------------------------------------------------------------------------------------------------


def test_tables_made_twice_have_the_same_bytes(tmp_path, make_records, published):
    records = make_records()
    first = {path.name: path.read_bytes() for path in write_tables(records, tmp_path / "a", UNMASK, published)}
    second = write_tables(list(reversed(records)), tmp_path / "b", UNMASK, published)
    assert {path.name: path.read_bytes() for path in second} == first
    assert set(first) == {"table2.md", "table3.md", "table4.csv", "table4.md", "auc.csv", "auc.md"}


def test_model_k_s_evaluation_is_read_and_checked(tmp_path):
    assert read_model_k(tmp_path) is None
    path = tmp_path / "model_k.json"
    path.write_text('{"map50": 0.5, "map": 0.25, "per_part": {"wheel": 1.0}}')
    assert read_model_k(tmp_path) == {"map50": 0.5, "map": 0.25, "per_part": {"wheel": 1.0}}
    for broken in ('{"map50": 0.5}', '{"map50": NaN, "map": 0.1}', '{"map50": 56, "map": 0.1}', "[]", "{"):
        path.write_text(broken)
        with pytest.raises(InputError, match=r"model_k\.json"):
            read_model_k(tmp_path)


def test_published_numbers_name_no_path_of_a_machine():
    assert not re.search(r"/\w|\w/|\\", DEFAULT_PATH.read_text(encoding="utf-8"))
