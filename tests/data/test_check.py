"""The data check: planted faults are found, each under its name, and sound data have none."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from made_voc import make_voc, save_photograph
from PIL import Image

from unmask_tf.cli import main
from unmask_tf.data.build_classes import build_classes
from unmask_tf.data.build_parts import build_parts
from unmask_tf.data.check import check_data
from unmask_tf.data.class_sources import voc_images
from unmask_tf.data.pascal_part_coco import Conversion
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.splits import M_FRACTIONS
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import UNMASK, Taxonomy

PHOTOS = Path(os.environ.get("UNMASK_PHOTOS") or "no photographs")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A data folder built from a small VOC, with M's images from another."""
    folder = tmp_path_factory.mktemp("built")
    make_voc(folder / "VOC2010")
    how = Conversion(images=str(folder / "VOC2010" / "JPEGImages"))
    build_parts(folder / "data", folder / "VOC2010" / "Annotations_Part", how, fractions=M_FRACTIONS, workers=0)
    classes = UNMASK.members("cs5a")
    make_voc(folder / "other", seed=1000)
    build_classes(folder / "data", {"other": voc_images(folder / "other", classes).images}, {}, classes)
    return folder / "data"


@pytest.fixture
def data(built, tmp_path):
    shutil.copytree(built, tmp_path / "data")
    return tmp_path / "data"


def faults(root, class_sets=("cs3a",)):
    return {(f.what, f.where, Path(f.file).name) for f in check_data(root, UNMASK, class_sets, 0).faults}


def first(folder):
    return sorted(folder.iterdir())[0]


def test_a_built_set_has_no_fault_and_is_counted(built):
    report = check_data(built, UNMASK, ["cs3a", "cs5a"], 0)
    assert report.findings == []
    assert [report.parts[split][0] for split in ("train", "val", "test")] == [31, 6, 24]
    assert report.classes["cs3a"]["train"] == 15
    assert report.files == sum(1 for path in built.rglob("*.jpg"))


def test_the_embedded_data_have_no_fault(tmp_path):
    build_dataset(tmp_path, SyntheticConfig(parts_images=(6, 2, 2), class_images=(3, 2, 2)))
    assert check_data(tmp_path, UNMASK, ["cs3a", "cs5b"], 0).findings == []


@pytest.mark.photos
@pytest.mark.skipif(not (PHOTOS / "parts_val.json").is_file(), reason="UNMASK_PHOTOS names no photographs")
def test_the_photographs_have_no_fault():
    taxonomy = Taxonomy.from_json(PHOTOS / "taxonomy.json")
    report = check_data(PHOTOS, taxonomy, tuple(taxonomy.class_sets))
    assert report.faults == []
    assert report.files > 3000


def truncate(path):
    path.write_bytes(path.read_bytes()[:500])


def test_a_damaged_image_is_found_among_ms_and_ks(data):
    mine, ks = first(data / "classes/val/car"), first(data / "images/train")
    truncate(mine)
    truncate(ks)
    assert faults(data) == {("cannot be read", "classes val", mine.name), ("cannot be read", "K train", ks.name)}


def test_an_image_of_another_size_than_annotated_is_found(data):
    path = first(data / "images/val")
    save_photograph(path, 5, size=(70, 50))
    report = check_data(data, UNMASK, ["cs3a"], 0)
    assert [(f.what, f.where, f.detail) for f in report.faults] == [
        ("size is not the annotated one", "K val", "70x50 pixels, annotated as 60x40")
    ]


def test_labels_that_cannot_be_used_are_found(data):
    content = json.loads((data / "parts_val.json").read_text())
    content["annotations"][0]["bbox"] = [0, 0, 500, 3]
    (data / "parts_val.json").write_text(json.dumps(content))
    assert ("labels", "K val", "parts_val.json") in faults(data)


def test_a_missing_class_folder_is_a_fault_and_a_missing_class_set_a_note(data):
    shutil.rmtree(data / "classes/test/car")
    assert faults(data) == {("class folders", "cs3a test", "data")}
    shutil.rmtree(data / "classes")
    report = check_data(data, UNMASK, ["cs3a"], 0)
    assert (report.faults, [f.what for f in report.findings]) == ([], ["no images of the class set"])


@pytest.mark.parametrize(
    ("source", "target", "what", "where"),
    [
        ("classes/train/car", "classes/test/car/copy.jpg", "in two splits", "classes test"),
        ("classes/train/car", "classes/val/person/copy.jpg", "in two splits", "classes val"),
        ("images/train", "images/test/copy.jpg", "in two splits", "K test"),
        ("images/train", "classes/test/car/copy.jpg", "D's test image trains K", "classes test"),
        ("classes/train/car", "classes/train/person/copy.jpg", "of two classes", "classes train"),
    ],
)
def test_a_planted_copy_is_found(data, source, target, what, where):
    planted = first(data / source)
    shutil.copy(planted, data / target)
    report = check_data(data, UNMASK, ["cs3a"], 0)
    matching = [f for f in report.faults if f.what == what]
    assert matching
    assert {planted.name, "copy.jpg"} == {
        Path(name).name for f in matching for name in (f.file, f.detail.split(" as ")[1].split(" (")[0])
    }
    assert where in {f.where for f in matching} | {f.detail.split("(")[1].rstrip(")") for f in matching}


def test_a_copy_in_its_own_class_or_between_other_groups_is_no_fault(data):
    shutil.copy(first(data / "classes/train/car"), data / "classes/train/car/copy.jpg")
    report = check_data(data, UNMASK, ["cs3a"], 0)
    assert ([f.what for f in report.findings], report.faults) == (["twice in its class"], [])


def test_class_sets_with_folders_of_their_own_may_share_images(tmp_path):
    for i, (class_set, classes) in enumerate((("cs3-1", "car person train"), ("cs5-1", "car person train dog bottle"))):
        for j, split in enumerate(("train", "val", "test")):
            for k, name in enumerate(classes.split()):
                # A test image of one set is a training image of the other.
                save_photograph(tmp_path / class_set / split / name / "a.jpg", 10 * ((j + i) % 3) + k)
    assert check_data(tmp_path, UNMASK, ["cs3a", "cs5a"], 0).faults == []


def test_unusual_files_are_noted(data):
    folder = data / "classes/train/car"
    Image.new("L", (50, 50), 7).save(folder / "grey.jpg")
    Image.new("RGB", (50, 50), 8).save(folder / "wrong.png", format="JPEG")
    Image.new("RGB", (20, 50), 9).save(folder / "small.png")
    report = check_data(data, UNMASK, ["cs3a"], 0)
    assert report.faults == []
    assert {(f.what, Path(f.file).name) for f in report.findings} == {
        ("mode L, read as RGB", "grey.jpg"),
        ("a JPEG file by another suffix", "wrong.png"),
        ("shorter side below 32 pixels", "small.png"),
    }


def test_an_image_without_annotations_is_noted(data):
    save_photograph(data / "images/train/new.jpg", 77)
    report = check_data(data, UNMASK, ["cs3a"], 0)
    assert [(f.fault, f.what, f.file) for f in report.findings] == [(False, "not in the annotations", "new.jpg")]


def test_processes_find_what_one_process_finds(data):
    truncate(first(data / "classes/val/car"))
    assert check_data(data, UNMASK, ["cs3a"], 2) == check_data(data, UNMASK, ["cs3a"], 0)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"dataset/README\.md"):
        check_data(tmp_path, UNMASK, ["cs3a"], 0)


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_prints_one_table_and_table_2_and_fails_on_a_fault(data, tmp_path, capsys):
    arguments = ["check-data", "--data", str(data), "--class-sets", "cs3a", "--workers", "0"]
    assert main(arguments) == 0
    assert "0 faults" in capsys.readouterr().out
    truncate(first(data / "classes/val/car"))
    truncate(first(data / "classes/val/person"))
    assert main([*arguments, "--csv", str(tmp_path / "found.csv")]) == 1
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "cannot be read" in line]
    assert line.split()[:7] == ["fault", "cannot", "be", "read", "classes", "val", "2"]
    assert " ".join(["CS3a", "3 (3)", "29 (29)", "6.90 (6.89)", "15 (7780)"]) in " ".join(out.split())
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert [(row["kind"], row["what"]) for row in rows] == [("fault", "cannot be read")] * 2
