"""Profile `paper`, end to end, on miniatures of the released layout and of the rebuilt one."""

import csv
import json

import pytest
from released_files import k_weights, rebuilt, released, small_paper

from unmask_tf.cli import main
from unmask_tf.data.check import check_data
from unmask_tf.experiment.grid import Grid
from unmask_tf.experiment.setup import prepare
from unmask_tf.taxonomy import UNMASK

LAYOUTS = {"released": released, "rebuilt": rebuilt}


@pytest.fixture(params=LAYOUTS)
def data(request, tmp_path):
    return LAYOUTS[request.param](tmp_path / "data", tmp_path / "raw")


def test_all_of_the_papers_steps_are_planned_and_k_is_scored_on_the_test_split(data, tmp_path, monkeypatch):
    assert check_data(data, UNMASK, ["cs3a"], 0).faults == []
    planned = Grid(prepare("paper", data=data, class_sets=["cs3a"], results=tmp_path / "all"))
    assert len(list(planned.answers())) == 2 * 5 * 9  # models, defences, attacks with the benign images
    assert planned.train_k().inputs["annotations"].is_file()
    small_paper(monkeypatch, width=4)
    weights = k_weights(tmp_path / "k.h5")
    command = ["evaluate-k", "--profile", "paper", "--data", data, "--results", tmp_path, "--workers", "0"]
    assert main([*map(str, command), "--k-weights", str(weights)]) == 0
    scores = json.loads((tmp_path / "paper" / "rows" / "model_k.json").read_text())
    assert scores["iou_type"] == "segm"
    assert scores["n_images"] == 6
    assert sum(scores["instances"].values()) > 0


@pytest.mark.slow
def test_the_whole_profile_runs_from_data_to_tables(data, tmp_path, monkeypatch):
    small_paper(monkeypatch, width=64)
    weights = k_weights(tmp_path / "k.h5")
    assert weights.stat().st_size > 240e6  # the real K's own size
    command = ["reproduce", "--profile", "paper", "--data", data, "--results", tmp_path, "--workers", "0"]
    assert main([*map(str, command), "--k-weights", str(weights)]) == 0
    table = list(csv.DictReader((tmp_path / "paper" / "table4.csv").open(encoding="utf-8")))
    assert [row["n"] for row in table] == ["6"] * 5
    assert {"None", "AT", "AT-Madry", "UM", "Alg. 1"} <= table[0].keys()
    report = (tmp_path / "paper" / "report.md").read_text()
    assert "CS3a" in report
    assert json.loads((tmp_path / "paper" / "rows" / "model_k.json").read_text())["n_images"] == 6
