"""The report, the console's summary, K's table, and what is said where results are missing or damaged."""

import json
import re

import pytest
from made_rows import grid, row_set, search, write

from unmask_tf.errors import InputError
from unmask_tf.report.compare import compare
from unmask_tf.report.compare_k import compare_k
from unmask_tf.report.model_k import class_table, part_table
from unmask_tf.report.page import write_report
from unmask_tf.report.results import find_model_k
from unmask_tf.report.study import study
from unmask_tf.report.summary import summary
from unmask_tf.report.tables import write_tables

SCORED = {
    "map50": 0.5, "map": 0.25, "per_part": {"wheel": 0.75, "door": 0.25},
    "voc_map50": 0.4, "voc_per_part": {"wheel": 0.7, "door": 0.1}, "image_map50": 0.3,
}  # fmt: skip
BOXES = {f"{name}_bbox": value for name, value in SCORED.items()}
FAILED = {("cs3a", "resnet50", "at", "pgd_l2", 300): "box_kept"}


@pytest.fixture
def run(tmp_path):
    folder = write(tmp_path / "mini", grid=grid(n=20, checks=FAILED))
    (folder / "rows" / "model_k.json").write_text(json.dumps({"map50": 0.71, "map": 0.4, "per_part": {"wheel": 0.9}}))
    return folder


def outputs(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_report_writes_every_table_and_figure_links_to_them_and_says_what_is_missing(run):
    text = write_report(run).read_text()
    tables = {"table2.md", "table3.md", "table4.csv", "table4.md", "auc.csv", "auc.md"}
    by_class = {"per_class.md", "per_class.csv", "confusion.csv", "figure_classes.png"}
    assert set(outputs(run)) == tables | by_class | {"report.md", "figure4.png", "figure5.png"}
    assert all((run / link).exists() for link in re.findall(r"\]\((.*?)\)", text))
    assert all((run / name).read_text() in text for name in tables if name.endswith(".md"))
    assert "| box_kept | failed | attacked pixels lie outside [0, 1] | PGD-L2 ε=300 (ResNet50 CS3a AT) |" in text
    assert "mAP at IoU 0.5: 0.71 (0.56)." in text and "| wheel | 0.900 |" in text
    assert re.search(r"\| UM - AT \(points\) \| \+\d+\.\d\d \| \+31\.78 \|", text)
    assert "the paper's text prints +31.18 and +74.44" in text and "Software: keras 3.15.0." in text
    assert "20 test images per number; one image of 20 is 5.0 points." in text
    assert "`make adversarial-training PROFILE=mini`" in text and "`make study PROFILE=mini`" in text


def test_a_whole_run_is_reported_and_twice_alike(run):
    presets = [row_set("none", "pgd_linf", 8, 3, threat={"preset": name}) for name in ("released", "strong")]
    few = {"models": ("resnet50",), "epsilons": (1, 4)}
    searched = {f"line_search_{recipe}": search(recipe=recipe, **few) for recipe in ("released", "madry")}
    write(run, grid=grid(models=("resnet50",), n=12), study=[row_set(), *presets], **searched)
    text = write_report(run).read_text()
    first = outputs(run)
    write_report(run)
    assert outputs(run) == first
    assert {"study.md", "study.csv", "line_search.md", "figure2.png", "figure3-madry.png"} <= set(first)
    assert "Not made yet" not in text and all((run / link).exists() for link in re.findall(r"\]\((.*?)\)", text))


def test_unknown_models_class_sets_attacks_and_defences_reach_every_output(tmp_path):
    names = {"model": "vgg16", "class_set": "zoo"}
    row_sets = [
        row_set("jpeg", scores=[0] * 10, **names),
        row_set("jpeg", "square", 8, 3, scores=[1] * 10, m_right=0, **names),
    ]
    folder = write(tmp_path, grid=row_sets)
    text = write_report(folder).read_text()
    assert "| vgg16 | zoo | 0.80 | 0.30 |" in text and "| vgg16 | zoo | 1.000 |" in text and "| **jpeg** |" in text
    assert "| jpeg (%) | 30.00 | - |" in text
    assert re.search(r"square ε=8 +0\.30 +1\.000\n", summary(folder))
    assert "vgg16,zoo,square,8,10,0.3000" in (folder / "table4.csv").read_text()
    assert "0 numbers compared" in compare(folder)


def test_a_run_of_benign_rows_alone_is_reported(tmp_path):
    text = write_report(write(tmp_path, grid=[row_set("um", right=3, n=4)])).read_text()
    assert "| ResNet50 | CS3a | 0.75 (0.94) |" in text
    assert "Figure 5" not in text and "Checks of the attacks" not in text


def test_the_summary_fits_a_screen_with_a_line_per_attack_and_the_paper_beside_it(run):
    lines = summary(run).splitlines()
    assert len(lines) <= 30 and max(map(len, lines)) <= 120
    assert lines[2].split() == ["Attack", "None", "AT", "UM", "UM,", "worst", "cell", "AUC"]
    # The paper's mean is over the two M of CS3a: .86 and .86 for AT, .92 and .93 for UM.
    row = r"PGD-L2 ε=300 +0\.\d\d \(0\.0[45]\) +0\.\d\d† \(0\.86\) +0\.\d\d \(0\.9[23]\) +0\.\d\d +0\.\d{3} to 0\.\d{3}"
    assert sum(bool(re.fullmatch(row, line)) for line in lines) == 1
    assert sum("ε=" in line for line in lines) == 8
    assert "K: mAP at IoU 0.5 0.71 (0.56)" in lines
    assert "not trained to convergence" not in summary(run)


def test_adversarial_training_that_ended_at_its_limit_of_epochs_is_said_to_tell_little(tmp_path):
    cut = [
        row_set(name, right=9, model=m, training={"recipe": r, "epochs": n, "stopped": "epochs"})
        for name, r, m, n in (
            ("at", "released", "resnet50", 1),
            ("at", "released", "vgg", 3),
            ("at_madry", "madry", "vgg", 1),
        )
    ]
    folder = write(tmp_path, grid=[row_set(training={"recipe": "none", "epochs": 4, "stopped": "epochs"}), *cut])
    for text in (summary(folder), write_report(folder).read_text()):
        assert "AT not trained to convergence: 1 to 3 epochs, so UM - AT says little.\n" in text
        assert "AT-Madry not trained to convergence: 1 epoch, so UM - AT-Madry says little.\n" in text


@pytest.mark.parametrize(
    ("make", "target"),
    [
        (write_tables, "make reproduce PROFILE=mini"),
        (write_report, "make reproduce PROFILE=mini"),
        (summary, "make reproduce PROFILE=mini"),
        (compare, "make reproduce PROFILE=mini"),
        (study, "make study PROFILE=mini"),
        (compare_k, "make compare PROFILE=mini K_WEIGHTS=file"),
    ],
)
def test_missing_results_are_reported_with_the_command_that_makes_them(tmp_path, make, target):
    with pytest.raises(InputError, match=f"Run: {target}"):
        make(tmp_path / "mini")


def test_a_damaged_bundle_is_reported_and_not_taken_for_a_missing_one(run):
    write(run, study=[row_set()])
    (run / "rows" / "study.csv").write_text("")
    with pytest.raises(InputError, match=r"study\.csv does not belong"):
        write_report(run)


@pytest.mark.parametrize(
    "broken", ['{"map50": 0.5}', '{"map50": NaN, "map": 0.1}', '{"map50": 56, "map": 0.1}', "[]", "{"]
)
def test_a_damaged_evaluation_of_k_is_reported(run, broken):
    assert find_model_k(run)["map50"] == 0.71 and find_model_k(run, "model_k_given") is None
    (run / "rows" / "model_k.json").write_text(broken)
    with pytest.raises(InputError, match=r"model_k\.json"):
        find_model_k(run)


def test_k_s_masks_and_boxes_stand_side_by_side_part_by_part():
    assert part_table({**SCORED, **BOXES, "map_bbox": 0.35, "iou_type": "segm"}).splitlines() == [
        "part   COCO .5  VOC .5  box COCO .5  box VOC .5",
        "-----  -------  ------  -----------  ----------",
        "door     0.250   0.100        0.250       0.100",
        "wheel    0.750   0.700        0.750       0.700",
        "mean     0.500   0.400        0.500       0.400",
        "",
        "mAP over IoU 0.5 to 0.95: 0.250 (boxes 0.350).",
        "",
        "Mean over images at IoU 0.5 (Matterport's compute_ap): 0.300 (boxes 0.300).",
    ]


def test_k_scored_by_boxes_alone_has_the_boxes_columns_once():
    lines = part_table({**SCORED, **BOXES, "iou_type": "bbox"}).splitlines()
    assert lines[0].split() == ["part", "COCO", ".5", "VOC", ".5"] and "boxes" not in "".join(lines)


def test_k_s_instances_stand_beside_its_precision_where_they_were_counted():
    lines = part_table({**SCORED, "instances": {"wheel": 7, "door": 2}}).splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["door", "2", "0.250", "0.100"],
        ["wheel", "7", "0.750", "0.700"],
        ["mean", "9", "0.500", "0.400"],
    ]


def test_a_class_s_mean_precision_is_over_its_parts_and_compared_with_half_of_the_mean():
    scored = {"map50": 0.5, "per_part": {"wheel": 0.75, "door": 0.25, "arm": 0.2}}
    classes = {"person": ["arm"], "car": ["door", "wheel", "mirror"], "van": ["door"], "boat": ["sail"]}
    assert [line.split() for line in class_table(scored, classes).splitlines()] == [
        ["class", "parts", "scored", "mean", "COCO", ".5", "at", "least", "0.250"],
        ["------", "------------", "------------", "--------------"],
        ["boat", "0", "of", "1", "-", "-"],
        ["car", "2", "of", "3", "0.500", "yes"],
        ["person", "1", "of", "1", "0.200", "NO"],
        ["van", "1", "of", "1", "0.250", "yes"],
    ]


def test_a_run_of_several_class_sets_is_reported_over_their_overlap(tmp_path):
    folder = write(tmp_path / "mini", grid=grid(("cs3a", "cs5b"), ("resnet50",), 20))
    text = write_report(folder).read_text()
    assert all((folder / link).exists() for link in re.findall(r"\]\((.*?)\)", text))
    assert (folder / "overlap.md").read_text() in text and "(figure_overlap.png)" in text
    assert "(2 class sets are too few)" in summary(folder)
