"""Dataset behaves as Matterport's `mrcnn.utils.Dataset`; the literals are what that class answered."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unmask_tf.errors import InputError
from unmask_tf.mrcnn.dataset import Dataset

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def dataset():
    data = Dataset()
    data.add_class("toys", 1, "car, auto")
    data.add_class("toys", 1, "again")
    data.add_class("coco", 12, "dog")
    data.add_class("toys", "7", "str")
    data.add_image("toys", "a/1", "/x/1.png", width=3, extra=[1])
    data.add_image("coco", 5, "/x/2.png")
    return data


def test_a_new_dataset_knows_the_background_alone():
    data = Dataset()
    assert data.class_info == [{"source": "", "id": 0, "name": "BG"}]
    assert data.image_info == [] and data.source_class_ids == {} and len(data.image_ids) == 0
    data.prepare()
    assert (data.num_classes, data.class_names, data.num_images) == (1, ["BG"], 0)


def test_classes_and_images_are_numbered_in_the_order_of_their_adding(dataset):
    dataset.prepare()
    assert dataset.num_classes == 4 and dataset.class_ids.tolist() == [0, 1, 2, 3]
    assert dataset.class_names == ["BG", "car", "dog", "str"]
    assert dataset.num_images == 2 and dataset.image_ids.tolist() == [0, 1]
    assert isinstance(dataset.image_ids, np.ndarray) and isinstance(dataset.class_ids, np.ndarray)
    assert dataset.class_from_source_map == {".0": 0, "toys.1": 1, "coco.12": 2, "toys.7": 3}
    assert dataset.image_from_source_map == {"toys.a/1": 0, "coco.5": 1}
    assert dataset.sources == ["", "coco", "toys"]
    assert dataset.source_class_ids == {"": [0], "coco": [0, 2], "toys": [0, 1, 3]}
    assert dataset.image_info == [
        {"id": "a/1", "source": "toys", "path": "/x/1.png", "width": 3, "extra": [1]},
        {"id": 5, "source": "coco", "path": "/x/2.png"},
    ]
    assert [info["name"] for info in dataset.class_info] == ["BG", "car, auto", "dog", "str"]


def test_ids_are_translated_between_source_and_dataset(dataset):
    dataset.prepare()
    assert dataset.map_source_class_id("coco.12") == 2
    assert dataset.get_source_class_id(2, "coco") == 12
    assert dataset.source_image_link(0) == "/x/1.png" and dataset.image_reference(0) == ""
    with pytest.raises(KeyError, match="x.1"):
        dataset.map_source_class_id("x.1")
    with pytest.raises(ValueError, match="'dog'.*'coco', not 'toys'"):
        dataset.get_source_class_id(2, "toys")


def test_a_source_with_a_dot_is_refused(dataset):
    with pytest.raises(ValueError, match="'a.b'.*dot"):
        dataset.add_class("a.b", 1, "x")


def test_preparing_again_takes_in_what_was_added_since(dataset):
    dataset.prepare()
    dataset.add_class("coco", 13, "cat")
    dataset.add_image("coco", 6, "/x/3.png")
    dataset.prepare()
    assert dataset.num_classes == 5 and dataset.source_class_ids["coco"] == [0, 2, 4] and dataset.num_images == 3


def test_there_are_no_masks_without_an_override(dataset):
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape == (0, 0, 0) and class_ids.shape == (0,) and class_ids.dtype == np.int32


PIXELS = np.random.RandomState(0).randint(0, 256, (6, 5, 4)).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "image", "first"),
    [
        ("rgba.png", Image.fromarray(PIXELS), [172, 47, 117]),
        ("grey.png", Image.fromarray(PIXELS[..., 0]), [172, 172, 172]),
        ("palette.png", Image.fromarray(PIXELS[..., :3]).convert("P"), [153, 51, 102]),
    ],
)
def test_images_of_every_kind_become_rgb(dataset, tmp_path, name, image, first):
    image.save(tmp_path / name)
    dataset.image_info[0]["path"] = tmp_path / name
    loaded = dataset.load_image(0)
    assert loaded.shape == (6, 5, 3) and loaded.dtype == np.uint8
    assert loaded[0, 0].tolist() == first


def test_an_exif_orientation_is_not_applied(dataset, tmp_path):
    """Annotation coordinates of a user's data were made on the stored pixels, as Matterport loads them."""
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(PIXELS[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    dataset.image_info[0]["path"] = str(tmp_path / "turned.jpg")
    assert dataset.load_image(0).shape == (6, 5, 3)


def test_a_missing_image_is_named(dataset):
    with pytest.raises(InputError, match="/x/1.png does not exist"):
        dataset.load_image(0)


def test_the_package_imports_no_tensorflow_until_it_is_needed():
    script = (
        "import sys, unmask_tf.mrcnn as m\n"
        "heavy = lambda: sorted({'tensorflow', 'keras', 'torch'} & set(sys.modules))\n"
        "print(heavy()); m.Config, m.Dataset; print(heavy()); m.MaskRCNN; print('keras' in sys.modules)\n"
        "assert {'Config', 'Dataset', 'MaskRCNN'} <= set(dir(m))\n"
        "try: m.Nothing\n"
        "except AttributeError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert lines == ["[]", "[]", "True", "module 'unmask_tf.mrcnn' has no attribute 'Nothing'"]
