"""The Croissant description: mlcroissant accepts it and reads through it what is on disk."""

import json
import shutil

import mlcroissant as mlc
import pytest

from unmask_tf.cli import main
from unmask_tf.data.croissant import write_croissant
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.errors import InputError
from unmask_tf.files import sha256
from unmask_tf.taxonomy import UNMASK


@pytest.fixture
def data(tmp_path):
    build_dataset(tmp_path / "data", SyntheticConfig(parts_images=(3, 2, 1), class_images=(2, 1, 1)))
    return tmp_path / "data"


def test_the_description_is_valid_and_leads_to_images_and_labels(data):
    assert write_croissant(data, UNMASK) == []
    described = mlc.Dataset(jsonld=data / "croissant.json")
    assert [r.id for r in described.metadata.record_sets] == [
        *("parts_train", "parts_val", "parts_test"),
        *("classes_train", "classes_val", "classes_test"),
    ]
    annotations = json.loads((data / "parts_train.json").read_text())["annotations"]
    records = list(described.records("parts_train"))
    assert [record["parts_train/category_id"] for record in records] == [a["category_id"] for a in annotations]
    assert [record["parts_train/bbox"] for record in records] == [a["bbox"] for a in annotations]
    images = list(described.records("classes_train"))
    assert len(images) == 12
    assert {record["classes_train/class"].decode() for record in images} == set(
        path.name for path in (data / "classes/train").iterdir()
    )
    assert {record["classes_train/image"].size for record in images} == {(64, 64)}


def test_files_are_listed_with_their_hashes(data):
    write_croissant(data, UNMASK)
    content = json.loads((data / "croissant.json").read_text())
    listed = {f["contentUrl"]: f["sha256"] for f in content["distribution"] if f["@type"] == "cr:FileObject"}
    assert listed == {
        name: sha256(data / name) for name in ("parts_train.json", "parts_val.json", "parts_test.json", "taxonomy.json")
    }


def test_the_released_layout_is_described(data, tmp_path):
    for split in ("train", "val", "test"):
        (data / "VOC2010" / "Images").mkdir(parents=True, exist_ok=True)
        (data / f"parts_{split}.json").rename(data / "VOC2010" / f"{split}.json")
        (data / "images" / split).rename(data / "VOC2010" / "Images" / split)
        shutil.copytree(data / "classes" / split, data / "cs3-1" / split)
    shutil.rmtree(data / "classes")
    assert main(["croissant", "--data", str(data)]) == 0
    described = mlc.Dataset(jsonld=data / "croissant.json")
    assert "cs3-1_test" in [r.id for r in described.metadata.record_sets]
    assert len(list(described.records("parts_test"))) > 0


def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="no data to describe"):
        write_croissant(tmp_path, UNMASK)
    assert list(tmp_path.iterdir()) == []
