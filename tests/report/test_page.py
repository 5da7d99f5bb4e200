"""The report, the console's summary, K's table, and what is said where results are missing or damaged."""

import json
import re

import pytest
from made_rows import case, grid, results, row_set, search, write

from unmask_tf.errors import InputError
from unmask_tf.files import write_json
from unmask_tf.report.compare import compare
from unmask_tf.report.compare_k import compare_k
from unmask_tf.report.model_k import class_table, part_table
from unmask_tf.report.page import page_data, write_report
from unmask_tf.report.results import Results
from unmask_tf.report.study import write_study
from unmask_tf.report.summary import plain_words, summary
from unmask_tf.report.table import plain
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


def report(folder):
    assert write_report(folder) == folder / "report.html"
    return (folder / "report.md").read_text()


def test_a_report_writes_every_table_and_figure_links_to_them_and_says_what_is_missing(run):
    text = report(run)
    written = outputs(run)
    tables = {name.partition(".")[0] for name in written if name.endswith(".csv")}
    assert tables >= {"table1", "table2", "table3", "table4", "detection", "means", "per_class", "model_k"}
    assert {f"{name}.{suffix}" for name in tables for suffix in ("md", "csv", "tex")} <= set(written)
    assert {"figure4.png", "figure4.pdf", "figure5.png", "figure_classes.pdf"} <= set(written)
    assert all((run / link).exists() for link in re.findall(r"\]\((.*?)\)", text))
    for name in tables:
        assert (run / f"{name}.md").read_text().split("\n\n")[1] in text, name
    assert "| box_kept | failed | attacked pixels lie outside [0, 1] | PGD-L2 ε=300 (ResNet50 CS3a AT) |" in text
    assert "| mean | 0.710 | 0.560 | +0.150 |" in text and "| wheel | 0.900 | - | - |" in text
    assert re.search(r"\| UM - AT \(points\) \| \+\d+\.\d\d \[\+\d+\.\d\d, \+\d+\.\d\d\] \| \+31\.78 \|", text)
    assert "Software: keras 3.15.0." in text
    assert "20 test images per number; one image of 20 is 5.0 points." in text
    for target in ("adversarial-training", "study", "evaluate"):
        assert f"`make {target} PROFILE=mini`" in text


def test_a_whole_run_is_reported_and_twice_alike(run):
    presets = [row_set("none", "pgd_linf", 8, 3, threat={"preset": name}) for name in ("released", "strong")]
    few = {"models": ("resnet50",), "epsilons": (1, 4)}
    searched = {f"line_search_{recipe}": search(recipe=recipe, **few) for recipe in ("released", "madry")}
    row_sets = grid(models=("resnet50",), n=12)
    write(run, grid=row_sets, study=[row_set(), *presets], **searched)
    write_json(run / "rows" / "gallery.json", {"cases": [case(row_sets[-1].header.key)]})
    text = report(run)
    first = outputs(run)
    report(run)
    assert outputs(run) == first
    assert {"study.md", "study.csv", "line_search.md", "figure1.pdf", "figure2.png", "figure3-madry.png"} <= set(first)
    assert text.count("Not made yet") == text.count("Not made yet: an attacker who knows K") == 1
    assert all((run / link).exists() for link in re.findall(r"\]\((.*?)\)", text))


def test_unknown_models_class_sets_attacks_and_defences_reach_every_output(tmp_path):
    names = {"model": "vgg16", "class_set": "zoo"}
    row_sets = [
        row_set("jpeg", scores=[0] * 10, **names),
        row_set("jpeg", "square", 8, 3, scores=[1] * 10, m_right=0, **names),
    ]
    folder = write(tmp_path, grid=row_sets)
    text = report(folder)
    assert "| vgg16 | zoo | square ε=8 | 10 | 0.30 [0.11, 0.60] |" in text
    assert "| vgg16 | zoo | square ε=8 | jpeg | 1.000 [" in text and "| jpeg (%) | 30.00 [10.00, 60.00] |" in text
    assert "Accuracy under attack    jpeg 0.30\n" in summary(folder)
    assert "vgg16,zoo,square ε=8,10,0.3000" in (folder / "table4.csv").read_text()
    assert "0 numbers compared" in compare(folder)


def test_a_run_of_benign_rows_alone_is_reported(tmp_path):
    text = report(write(tmp_path, grid=[row_set("um", right=3, n=4)]))
    assert "| ResNet50 | CS3a | No attack | 4 | 0.75 [0.30, 0.95] | 0.94 | -0.19 |" in text
    assert "## Detection" not in text and "## The attacks" not in text


def test_the_summary_fits_twelve_lines_with_the_paper_beside_it(run):
    lines = summary(run).splitlines()
    assert len(lines) <= 12 and max(map(len, lines)) <= 130
    assert lines[0] == "profile mini, data mini, 2 pairs of M and class set; in parentheses the paper"
    # The paper's mean is over the same cells: the two M of CS3a.
    assert re.fullmatch(
        r"Accuracy under attack    None 0\.\d\d \(0\.07\)   AT 0\.\d\d \(0\.58\)   UM 0\.\d\d \(0\.84\)", lines[2]
    )
    assert any(re.fullmatch(r"UM's worst cell          0\.\d\d \(.*ε=\d+\)", line) for line in lines)
    assert any(re.fullmatch(r"AUC of the detection     0\.\d{3} to .* \(0\.950 to 0\.969\)", line) for line in lines)
    assert "K's mAP at IoU 0.5       0.71 (0.56)" in lines
    assert lines[-1] == "Soundness                23 of 32 attacks passed all their checks (report.html#attacks)"
    assert "not trained to convergence" not in summary(run)


def test_ten_sentences_tell_a_newcomer_the_results(run):
    lines = plain_words(Results(run))
    assert len(lines) <= 9 and all(line.endswith(".") for line in lines)
    assert any(line.startswith("Under attack M is right on ") and "the paper: 6 % and 80 %" in line for line in lines)


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
    for text in (summary(folder), report(folder)):
        assert "AT not trained to convergence: 1 to 3 epochs, so UM - AT says little.\n" in text
        assert "AT-Madry not trained to convergence: 1 epoch, so UM - AT-Madry says little.\n" in text


def test_the_page_s_data_hold_the_scores_and_only_cases_of_the_grid_s_own_rows(run):
    row_sets = Results(run).grid
    own, other = case(row_sets[-1].header.key, epsilon_255=16), case("of another run")
    write_json(run / "rows" / "gallery.json", {"cases": [own, other]})
    found = page_data(Results(run))
    assert [one["name"] for one in found["gallery"]] == ["PGD-L∞ ε=16"]
    curve = found["detections"][0]
    assert curve["levels"] == sorted(curve["levels"], reverse=True) and curve["attacked"][-1] == curve["benign"][-1]


@pytest.mark.parametrize(
    ("make", "target"),
    [
        (lambda folder: write_tables(Results(folder)), "make reproduce PROFILE=mini"),
        (write_report, "make reproduce PROFILE=mini"),
        (summary, "make reproduce PROFILE=mini"),
        (compare, "make reproduce PROFILE=mini"),
        (lambda folder: write_study(Results(folder)), "make study PROFILE=mini"),
        (compare_k, "make compare PROFILE=mini K_WEIGHTS=file"),
    ],
)
def test_missing_results_are_reported_with_the_command_that_makes_them(tmp_path, make, target):
    with pytest.raises(InputError, match=f"Run: {target}"):
        make(tmp_path / "mini")


def test_a_damaged_bundle_or_gallery_is_reported_and_not_taken_for_a_missing_one(run):
    write(run, study=[row_set()])
    (run / "rows" / "study.csv").write_text("")
    with pytest.raises(InputError, match=r"study\.csv does not belong"):
        write_report(run)
    write_json(run / "rows" / "gallery.json", [])
    with pytest.raises(InputError, match=r"gallery\.json holds no cases. Delete it, then run: make evaluate"):
        page_data(Results(run))


@pytest.mark.parametrize(
    "broken", ['{"map50": 0.5}', '{"map50": NaN, "map": 0.1}', '{"map50": 56, "map": 0.1}', "[]", "{"]
)
def test_a_damaged_evaluation_of_k_is_reported(run, broken):
    assert Results(run).model_k()["map50"] == 0.71 and Results(run).model_k("model_k_given") is None
    (run / "rows" / "model_k.json").write_text(broken)
    with pytest.raises(InputError, match=r"model_k\.json"):
        Results(run).model_k()


def test_k_s_masks_and_boxes_stand_side_by_side_part_by_part():
    table = part_table({**SCORED, **BOXES, "map_bbox": 0.35, "iou_type": "segm"})
    assert [line.split()[0:1] + line.split()[-1:] for line in plain(table).splitlines()[2:]] == [
        ["door", "0.100"],
        ["wheel", "0.700"],
        ["mean", "0.400"],
    ]
    assert table.head == ["Part", "COCO .5", "VOC .5", "box COCO .5", "box VOC .5"]
    assert table.notes == [
        "mAP over IoU 0.5 to 0.95: 0.250 (boxes 0.350).",
        "Mean over images at IoU 0.5 (Matterport's compute_ap): 0.300 (boxes 0.300).",
    ]


def test_k_scored_by_boxes_alone_has_the_boxes_columns_once():
    table = part_table({**SCORED, **BOXES, "iou_type": "bbox"})
    assert table.head == ["Part", "COCO .5", "VOC .5"] and "boxes" not in "".join(table.notes)


def test_k_s_instances_stand_beside_its_precision_where_they_were_counted():
    rows = part_table({**SCORED, "instances": {"wheel": 7, "door": 2}}).rows
    assert [[str(cell) for cell in row[:3]] for row in rows] == [
        ["door", "2", "0.250"],
        ["wheel", "7", "0.750"],
        ["mean", "9", "0.500"],
    ]


def test_a_class_s_mean_precision_is_over_its_parts_and_compared_with_half_of_the_mean():
    scored = {"map50": 0.5, "per_part": {"wheel": 0.75, "door": 0.25, "arm": 0.2}}
    classes = {"person": ["arm"], "car": ["door", "wheel", "mirror"], "van": ["door"], "boat": ["sail"]}
    table = class_table(scored, classes)
    assert table.head[-1] == "At least 0.250"
    assert [[str(cell) for cell in row] for row in table.rows] == [
        ["boat", "0 of 1", "-", "-"],
        ["car", "2 of 3", "0.500", "yes"],
        ["person", "1 of 1", "0.200", "NO"],
        ["van", "1 of 1", "0.250", "yes"],
    ]


def test_a_run_of_several_class_sets_is_reported_over_their_overlap(tmp_path):
    folder = write(tmp_path / "mini", grid=grid(("cs3a", "cs5b"), ("resnet50",), 20))
    text = report(folder)
    assert all((folder / link).exists() for link in re.findall(r"\]\((.*?)\)", text))
    assert "(figure_overlap.png)" in text and results(grid(n=4)).overlap is None
