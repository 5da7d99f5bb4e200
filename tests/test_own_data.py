"""A user's own dataset, as dataset/README.md describes it: three classes, six parts, boxes only. Its files are the
README's, its commands are the README's lines as make hands them on."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from unmask_tf.cli import main
from unmask_tf.data.check import check_data
from unmask_tf.experiment.setup import read_taxonomy
from unmask_tf.mrcnn.part_names import part_names

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "dataset" / "README.md").read_text(encoding="utf-8")
SIZE = (96, 80)
IMAGES = {"train": 5, "val": 2, "test": 2}  # of each class
COLOURS = ("red", "orange", "blue", "cyan", "green", "black")


def block(name):
    """The README's block after a marker."""
    (found,) = re.findall(rf"<!-- own data: {name} -->\n```(?:json)?\n(.*?)```", README, re.DOTALL)
    return found


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The example's folder: a coloured box for each part, never twice in the same place."""
    root = tmp_path_factory.mktemp("own") / "mine"
    root.mkdir()
    (root / "taxonomy.json").write_text(block("taxonomy"))
    example, rng = json.loads(block("parts")), np.random.default_rng(1)
    categories = {category["name"]: category["id"] for category in example["categories"]}
    for split, count in IMAGES.items():
        content = {"categories": example["categories"], "images": [], "annotations": []}
        for class_name, parts in read_taxonomy(root).classes.items():
            for i in range(count):
                image = Image.fromarray(rng.integers(150, 256, (SIZE[1], SIZE[0], 3), np.uint8))
                entry = {"id": len(content["images"]) + 1, "file_name": f"{class_name}_{i}.png"}
                content["images"].append({**entry, "width": SIZE[0], "height": SIZE[1]})
                for k, part in enumerate(parts):
                    x, y = (int(value) for value in rng.integers((2 + 46 * k, 2), (20 + 46 * k, 40)))
                    colour = COLOURS[list(categories).index(part)]
                    ImageDraw.Draw(image).rectangle((x, y, x + 27, y + 34), fill=colour)
                    row = {"id": len(content["annotations"]) + 1, "image_id": entry["id"]}
                    row |= {"category_id": categories[part], "bbox": [x, y, 28, 35]}
                    content["annotations"].append(row)
                for folder in (root / "images" / split, root / "classes" / split / class_name):
                    folder.mkdir(parents=True, exist_ok=True)
                image.save(root / "images" / split / entry["file_name"])
                pixels = np.asarray(image)[8:72, 8:88]
                Image.fromarray(pixels).save(root / "classes" / split / class_name / f"{i}.png")
        (root / f"parts_{split}.json").write_text(json.dumps(content))
    return root


def arguments(line, root):
    """What the command line gets of a line `make ...`, with the example's folder in its place."""
    words = line.replace("mine/results", f"{root}/results").replace("mine/k.h5", f"{root}/k.h5")
    words = words.replace("DATA=mine", f"DATA={root}")
    shown = subprocess.run(f"{words} -n", shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (command,) = [text for text in shown.splitlines() if "-m unmask_tf" in text]
    return [word.strip("'") for word in command.split("-m unmask_tf ")[1].split()]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_examples_files_pass_the_data_check(mine, capsys):
    line, *_ = block("commands").splitlines()
    assert main([*arguments(line, mine), "--workers", "0"]) == 0
    assert "0 faults" in capsys.readouterr().out
    report = check_data(mine, read_taxonomy(mine), ["things"], 0)
    assert report.findings == []
    assert report.parts == {"train": (15, 30), "val": (6, 12), "test": (6, 12)}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_examples_commands_train_k_attack_m_and_make_table_4(mine):
    _, train_k, reproduce = block("commands").splitlines()
    assert main([*arguments(train_k, mine), "--workers", "0"]) == 0
    assert part_names(mine / "k.h5") == ("wheel", "saddle", "handle", "rim", "back", "leg")
    log = json.loads((mine / "k.log.json").read_text())
    assert log[-1]["loss"] < log[0]["loss"]
    assert main([*arguments(reproduce, mine), "--workers", "0", "--attacks", "pgd_linf"]) == 0
    results = mine / "results" / "mini"
    cells = list(csv.DictReader((results / "table4.csv").open(encoding="utf-8")))
    assert [(row["CS"], row["Attack"], row["n"]) for row in cells] == [
        ("things", "No attack", "6"),
        ("things", "PGD-L∞ ε=8", "6"),
        ("things", "PGD-L∞ ε=16", "6"),
    ]
    assert all(0 <= float(row[name]) <= 1 for row in cells for name in ("None", "AT", "UM", "Alg. 1"))
    assert json.loads((results / "rows" / "model_k.json").read_text())["iou_type"] == "bbox"
