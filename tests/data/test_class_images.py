"""Class folders: layouts, order, torchvision's geometry, and faults."""

import numpy as np
import pytest
from PIL import Image

from unmask_tf.data.class_images import list_class_images, load_class_images, read_class_images, resize_and_crop
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import UNMASK, Taxonomy

TAXONOMY = Taxonomy(("wheel", "tail"), {"dog": ("tail",), "car": ("wheel",)}, {"two": ("dog", "car")})


def put(path, value, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def tree(folder, value=0):
    """dog: b, a (made in this order); car: c. Their grey values tell them apart."""
    put(folder / "dog" / "b.png", value + 2)
    put(folder / "dog" / "a.png", value + 1)
    put(folder / "car" / "c.png", value + 3)


def load(root, **arguments):
    arguments = {"class_set": "two", "split": "train", "taxonomy": TAXONOMY, "size": 4, **arguments}
    return load_class_images(root, arguments.pop("class_set"), arguments.pop("split"), **arguments)


# --- order and layouts ---------------------------------------------------------------------------------------------


def test_labels_are_alphabetical_and_files_sorted(tmp_path):
    tree(tmp_path / "classes" / "train")
    loaded = load(tmp_path)
    assert loaded.classes == ("car", "dog")
    assert loaded.labels.tolist() == [0, 1, 1]
    assert loaded.labels.dtype == np.int64
    assert loaded.images.dtype == np.uint8
    assert loaded.images.shape == (3, 4, 4, 3)
    assert loaded.images[:, 0, 0, 0].tolist() == [3, 1, 2]
    assert loaded.files == ("classes/train/car/c.png", "classes/train/dog/a.png", "classes/train/dog/b.png")
    assert len(loaded) == 3


def test_classes_comes_before_the_class_set_and_that_before_the_bare_split(tmp_path):
    tree(tmp_path / "train", 30)
    assert load(tmp_path).images[0, 0, 0, 0] == 33
    tree(tmp_path / "two" / "train", 20)
    assert load(tmp_path).images[0, 0, 0, 0] == 23
    tree(tmp_path / "classes" / "train", 10)
    assert load(tmp_path).images[0, 0, 0, 0] == 13


@pytest.mark.parametrize("folder", ["cs3-1", "cs3a"])
@pytest.mark.parametrize("asked", ["cs3-1", "cs3a"])
def test_released_and_own_names_of_a_class_set_find_each_others_folder(tmp_path, folder, asked):
    for value, name in enumerate(("car", "person", "train")):
        put(tmp_path / folder / "test" / name / "x.jpg", 100 * value)
    loaded = load_class_images(tmp_path, asked, "test", taxonomy=UNMASK, size=4)
    assert loaded.classes == ("car", "person", "train")
    assert loaded.files[0] == f"{folder}/test/car/x.jpg"


def test_folders_of_other_classes_and_other_files_are_ignored(tmp_path):
    tree(tmp_path / "train")
    put(tmp_path / "train" / "cat" / "a.png", 9)
    (tmp_path / "train" / "dog" / "notes.txt").write_text("mine")
    (tmp_path / "train" / "dog" / ".partial-x.png").write_bytes(b"half")
    put(tmp_path / "train" / "dog" / "Z.PNG", 7)
    loaded = load(tmp_path)
    assert [file.rsplit("/", 1)[1] for file in loaded.files] == ["c.png", "Z.PNG", "a.png", "b.png"]


@pytest.mark.parametrize(("limit", "kept"), [(2, 1), (3, 1), (4, 2), (100, 5)])
def test_the_limit_keeps_an_equal_share_of_the_first_files_of_each_class(tmp_path, limit, kept):
    for name in ("car", "dog"):
        for i in range(5):
            put(tmp_path / "train" / name / f"{i}.png", i)
    loaded = load(tmp_path, limit=limit)
    assert loaded.images[:, 0, 0, 0].tolist() == [*range(kept), *range(kept)]
    assert loaded.labels.tolist() == [0] * kept + [1] * kept


def test_listing_reads_no_image(tmp_path):
    for name in ("b.png", "a.png"):
        path = tmp_path / "two" / "val" / "dog" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    put(tmp_path / "two" / "val" / "car" / "c.png", 1)
    assert list_class_images(tmp_path, "two", "val", taxonomy=TAXONOMY) == (
        "two/val/car/c.png",
        "two/val/dog/a.png",
        "two/val/dog/b.png",
    )
    assert list_class_images(str(tmp_path), "two", "val", taxonomy=TAXONOMY, limit=3) == (
        "two/val/car/c.png",
        "two/val/dog/a.png",
    )


def test_listed_images_are_read_in_the_given_order_and_labelled_by_their_folder(tmp_path):
    tree(tmp_path / "train")
    names = ("train/dog/b.png", "train/car/c.png", "train/dog/a.png")
    read = read_class_images(tmp_path, names, ("car", "dog"), 4)
    assert read.images[:, 0, 0, 0].tolist() == [2, 3, 1]
    assert read.labels.tolist() == [1, 0, 1]
    assert read.files == names
    assert read.classes == ("car", "dog")
    none = read_class_images(tmp_path, (), ("car", "dog"), 4)
    assert len(none) == 0
    assert none.images.shape == (0, 4, 4, 3)


def test_reading_part_of_a_list_gives_that_part_of_the_whole(tmp_path):
    tree(tmp_path / "train")
    whole = load(tmp_path)
    part = read_class_images(tmp_path, whole.files[1:], whole.classes, 4)
    assert np.array_equal(part.images, whole.images[1:])
    assert part.labels.tolist() == whole.labels[1:].tolist()


# --- geometry ------------------------------------------------------------------------------------------------------


def columns(*values, height):
    row = np.array(values, np.uint8)
    return np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)


def test_an_image_of_the_final_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    assert np.array_equal(resize_and_crop(image, 7), image)


@pytest.mark.parametrize(
    ("width", "left"),
    [(3, 0), (4, 1), (5, 2), (6, 2), (7, 2), (9, 4)],  # (width - 2) / 2 = .5 1 1.5 2 2.5 3.5, halves to even
)
def test_the_crop_is_centred_with_halves_to_even(width, left):
    wide = columns(*range(width), height=2)
    assert resize_and_crop(wide, 2)[0, :, 0].tolist() == [left, left + 1]
    tall = wide.transpose(1, 0, 2)
    assert resize_and_crop(tall, 2)[:, 0, 0].tolist() == [left, left + 1]


def test_downscaling_is_antialiased():
    # One pixel from four: the triangle filter weighs them 5/8, 7/8, 7/8, 5/8 (sum 3). 240 * 5 / 24 = 50; plain
    # bilinear interpolation would look at the two middle columns only and answer 0.
    assert resize_and_crop(columns(240, 0, 0, 0, height=4), 1).tolist() == [[[50, 50, 50]]]
    assert resize_and_crop(columns(0, 240, 0, 0, height=4), 1).tolist() == [[[70, 70, 70]]]


def test_the_longer_side_is_truncated_before_the_crop():
    # 10 x 19 to 5: the longer side is int(9.5) = 9, the crop starts at 2.
    image = np.random.default_rng(1).integers(0, 256, (10, 19, 3), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(image).resize((9, 5), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_and_crop(image, 5), resized[:, 2:7])
    tall = np.ascontiguousarray(image.transpose(1, 0, 2))
    resized = np.asarray(Image.fromarray(tall).resize((5, 9), Image.Resampling.BILINEAR))
    assert np.array_equal(resize_and_crop(tall, 5), resized[2:7])


def test_loading_scales_and_crops(tmp_path):
    put(tmp_path / "train" / "car" / "a.png", 50, size=(9, 4))
    put(tmp_path / "train" / "dog" / "a.png", 60, size=(3, 20))
    loaded = load(tmp_path, size=6)
    assert loaded.images.shape == (2, 6, 6, 3)
    assert (loaded.images[0] == 50).all()
    assert (loaded.images[1] == 60).all()


# --- faults --------------------------------------------------------------------------------------------------------


def test_a_missing_split_names_every_place_it_could_be(tmp_path):
    with pytest.raises(InputError, match=r"split 'train'.*car, dog") as caught:
        load(tmp_path)
    for place in ("classes/train", "two/train", "train"):
        assert str(tmp_path / place) in str(caught.value)


def test_a_missing_class_folder_is_named_with_what_was_expected(tmp_path):
    put(tmp_path / "train" / "dog" / "a.png", 1)
    with pytest.raises(InputError, match=r"train/car is missing\. Expected one folder for each of car, dog"):
        load(tmp_path)


def test_an_empty_class_folder_is_refused(tmp_path):
    tree(tmp_path / "train")
    (tmp_path / "train" / "car" / "c.png").unlink()
    with pytest.raises(InputError, match=r"train/car is empty"):
        load(tmp_path)


def test_a_class_folder_without_a_known_suffix_is_refused(tmp_path):
    tree(tmp_path / "train")
    (tmp_path / "train" / "car" / "c.png").rename(tmp_path / "train" / "car" / "c.heic")
    with pytest.raises(InputError, match=r"train/car holds no image \(.*\.jpg.*\), only files such as c\.heic"):
        load(tmp_path)


def test_a_truncated_image_is_refused_with_its_path(tmp_path):
    tree(tmp_path / "train")
    path = tmp_path / "train" / "dog" / "c.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"dog/c\.jpg is damaged or truncated"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"size": 0}, "image size is 0"),
        ({"size": -3}, "image size is -3"),
        ({"limit": 1}, "limit is 1; keep at least one image for each of the 2 classes"),
        ({"class_set": "three"}, "unknown class set 'three'"),
        ({"split": "dev"}, "split 'dev'"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, complaint):
    tree(tmp_path / "train")
    with pytest.raises(InputError, match=complaint):
        load(tmp_path, **arguments)


def test_an_image_in_no_folder_of_a_class_is_refused(tmp_path):
    put(tmp_path / "train" / "cat" / "a.png", 1)
    with pytest.raises(InputError, match=r"cat/a\.png lies in no folder of a class \(car, dog\)"):
        read_class_images(tmp_path, ("train/cat/a.png",), ("car", "dog"), 4)


def test_a_listed_image_that_has_gone_is_refused_with_its_path(tmp_path):
    tree(tmp_path / "train")
    names = list_class_images(tmp_path, "two", "train", taxonomy=TAXONOMY)
    (tmp_path / "train" / "dog" / "a.png").unlink()
    with pytest.raises(InputError, match=r"dog/a\.png"):
        read_class_images(tmp_path, names, ("car", "dog"), 4)
