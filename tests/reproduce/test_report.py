"""The report and the console summary."""

import json
import re
from dataclasses import replace

import pytest

from unmask_tf.errors import InputError
from unmask_tf.reproduce.records import CellKey, Record, write
from unmask_tf.reproduce.report import report_markdown, report_run, summary
from unmask_tf.taxonomy import UNMASK


@pytest.fixture
def run(tmp_path, make_records):
    folder = tmp_path / "mini"
    for record in make_records(class_sets=("cs3a",), checks={("cs3a", "resnet50", "at", "pgd_l2", 300): "box_kept"}):
        write(record, folder / "records")
    (folder / "model_k.json").write_text(json.dumps({"map50": 0.71, "map": 0.4, "per_part": {"wheel": 0.9}}))
    return folder


def test_a_report_writes_every_table_and_figure_and_links_to_them(run, published, capsys):
    path = report_run(run, UNMASK, published)
    names = {p.name for p in run.iterdir() if p.is_file()}
    tables = {"table2.md", "table3.md", "table4.csv", "table4.md", "auc.csv", "auc.md"}
    assert names == tables | {"report.md", "figure4.png", "figure5.png", "model_k.json"}
    text = path.read_text()
    assert all((run / link).exists() for link in re.findall(r"\]\((.*?)\)", text))
    for name in tables - {"table4.csv", "auc.csv"}:
        assert (run / name).read_text() in text
    assert "| box_kept | failed | attacked pixels lie outside [0, 1] | PGD-L2 ε=300 (ResNet50 CS3a AT) |" in text
    assert "mAP at IoU 0.5: 0.71 (0.56); mAP over IoU 0.5 to 0.95: 0.40." in text
    assert "| wheel | 0.90 |" in text
    assert "Profile mini: ours, with the paper's number in parentheses" in capsys.readouterr().out


def test_a_report_made_twice_has_the_same_bytes(run, published):
    report_run(run, UNMASK, published)
    first = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    report_run(run, UNMASK, published)
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == first


def test_the_report_does_not_depend_on_wall_times(make_records, published):
    records = make_records(class_sets=("cs3a",))
    slower = [replace(record, wall_s=record.wall_s + 100) for record in records]
    assert report_markdown(records, UNMASK, published) == report_markdown(slower, UNMASK, published)


def test_the_report_states_both_means_of_the_paper(make_records, published):
    text = report_markdown(make_records(class_sets=("cs3a",)), UNMASK, published)
    assert re.search(r"\| UM - AT \(points\) \| \+\d+\.\d\d \| \+31\.78 \|", text)
    assert "the paper's text prints +31.18 and +74.44" in text
    assert "120 test images per number; one image of 120 is 0.8 points." in text
    assert "Software: keras 3.15.0." in text


def test_the_summary_has_a_line_per_cell_and_the_paper_beside_it(run, make_records, published):
    records = make_records(class_sets=("cs3a",), checks={("cs3a", "resnet50", "at", "pgd_l2", 300): "box_kept"})
    lines = summary(records, published, {"map50": 0.71, "map": 0.4}).splitlines()
    cells = [line for line in lines if line.startswith(("ResNet50", "DenseNet121"))]
    assert len(cells) == 18
    assert len({line.index("CS3a") for line in cells}) == 1
    assert re.fullmatch(
        r"ResNet50 +CS3a +PGD-L2 ε=300 +120 +0\.\d\d \(0\.07\) +0\.\d\d† \(0\.86\) +0\.\d\d \(0\.92\) +0\.\d{3}",
        cells[3],
    )
    assert re.search(r"0\.\d{3}† \(0\.950\)$", cells[10])
    assert any(re.search("^† unsound, .* failed box_kept .*: PGD-L2 ε=300 \\(ResNet50 CS3a AT", line) for line in lines)
    assert lines[-1] == "K: mAP at IoU 0.5 0.71 (0.56)"


def test_a_run_of_benign_rows_alone_is_reported(tmp_path, published, capsys):
    record = Record(key=CellKey("mini", "cs3a", "resnet50", "um", "none", 0), config_hash="x", n=4, correct=3)
    write(record, tmp_path / "records")
    text = report_run(tmp_path, UNMASK, published).read_text()
    assert "| ResNet50 | CS3a | - (0.98) | - (0.96) | 0.75 (0.94) |" in text
    assert "Figure 5" not in text


def test_records_of_another_configuration_are_refused(run, published):
    with pytest.raises(InputError, match="this run's is ffff"):
        report_run(run, UNMASK, published, config_hash="ffff")
    assert not (run / "report.md").exists()
