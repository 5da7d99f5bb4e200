"""Leaks between splits: planted ones are found, in every layout, and what is no leak is not reported."""

import os

import numpy as np
import pytest
from made_pictures import jpeg, picture, scaled
from PIL import Image

from unmask_tf.cli import main
from unmask_tf.data.leaks import find_leaks, split_images
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.errors import InputError
from unmask_tf.files import write_json


@pytest.fixture
def photographs(tmp_path):
    """A data folder without leaks; a split has two photographs and a square; in test, M also has K's photograph."""
    for number, split in enumerate(("train", "val", "test")):
        for folder, seeds in ((f"images/{split}", (number, number + 10)), (f"classes/{split}/car", (number + 20,))):
            (tmp_path / folder).mkdir(parents=True)
            for seed in seeds:
                picture(seed).save(tmp_path / folder / f"{seed}.png")
    picture(2).save(tmp_path / "classes/test/car/2_0.png")
    write_json(
        tmp_path / "taxonomy.json", {"parts": ["door"], "classes": {"car": ["door"]}, "class_sets": {"a": ["car"]}}
    )
    return tmp_path


def names(pairs):
    return [(first.path.name, second.path.name) for first, second, _ in pairs]


def test_a_test_square_cut_from_a_test_photograph_is_no_leak(photographs):
    found = find_leaks(photographs)
    assert len(found.images) == 10
    assert found.leaks == found.remarks == []


@pytest.mark.parametrize("home", ["images/train", "images/val", "classes/train/car", "classes/val/car"])
@pytest.mark.parametrize("original", [2, 22])  # a test photograph of K, a test square of M
def test_planted_copies_are_found_whoever_saw_them(photographs, home, original):
    jpeg(scaled(picture(original), 0.5), 60).save(photographs / home / "planted.png")
    leaks = names(find_leaks(photographs).leaks)
    assert (f"{original}.png", "planted.png") in leaks
    assert {second for _, second in leaks} == {"planted.png"}


def test_training_images_near_validation_images_are_remarked_on(photographs):
    jpeg(picture(1), 40).save(photographs / "images/train/again.png")
    found = find_leaks(photographs)
    assert found.leaks == []
    assert names(found.remarks) == [("1.png", "again.png")]


def test_class_sets_of_the_released_layout_are_compared_with_themselves_and_with_k(tmp_path):
    for folder, seed in (
        *(("VOC2010/Images/train", 0), ("VOC2010/Images/test", 1)),
        *(("cs3-1/train/car", 2), ("cs3-1/test/car", 3)),
        *(("cs5-1/train/car", 3), ("cs5-1/test/car", 0)),  # cs3-1's test image; K's training image
    ):
        (tmp_path / folder).mkdir(parents=True)
        picture(seed).save(tmp_path / folder / f"{seed}.png")
    (leak,) = find_leaks(tmp_path).leaks
    assert [image.path.relative_to(tmp_path).as_posix() for image in leak[:2]] == [
        "cs5-1/test/car/0.png",
        "VOC2010/Images/train/0.png",
    ]


def test_a_folder_without_splits_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images in folders train, val and test"):
        split_images(tmp_path)


def test_the_command_says_what_leaks_writes_a_page_and_ends_with_one(photographs, tmp_path_factory, capsys):
    out = tmp_path_factory.mktemp("out")
    command = ["leaks", "--profile", "photos", "--data", str(photographs), "--out", str(out)]
    assert main(command) == 0
    picture(22).save(photographs / "images/train/planted.png")
    (photographs / "images/train/broken.png").write_bytes(b"")
    assert main(command) == 1
    told = capsys.readouterr()
    assert "classes/test/car/22.png (classes), train " in told.out
    assert "broken.png" in told.err
    assert "planted.png" in (out / "index.html").read_text()


def test_near_duplicates_of_folders_are_listed_for_a_person(tmp_path, capsys):
    for name, seed in (("a/0.png", 0), ("a/0 again.png", 0), ("b/0.png", 0), ("b/1.png", 1)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(seed).save(tmp_path / name)
    command = ["near-duplicates", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "4 images, 2 pairs" in capsys.readouterr().out
    assert main([*command, "--within"]) == 0
    assert "4 images, 3 pairs" in capsys.readouterr().out
    assert main(["near-duplicates", str(tmp_path / "a"), "--out", str(tmp_path / "out")]) == 0
    assert "2 images, 1 pairs" in capsys.readouterr().out
    assert main(["near-duplicates"]) == 2
    assert main(["near-duplicates", str(tmp_path / "nothing")]) == 2


def test_the_embedded_dataset_has_no_leaks(tmp_path):
    config = SyntheticConfig(parts_images=(60, 12, 12), class_images=(12, 4, 4))
    build_dataset(tmp_path, config)
    assert find_leaks(tmp_path).leaks == []


@pytest.mark.photos
def test_leaks_of_the_photographs_are_copies_of_one_picture():
    """Every pair found must be a copy, not merely alike: the pixels of small versions agree."""
    for first, second, _ in find_leaks(os.environ["UNMASK_PHOTOS"]).leaks:
        small = [np.asarray(Image.open(x.path).convert("L").resize((24, 24)), float).ravel() for x in (first, second)]
        assert np.corrcoef(small)[0, 1] > 0.95, (first, second)
