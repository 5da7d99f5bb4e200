"""PASCAL-Part: what is read from a `.mat` file, and what its parts are called."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from made_voc import HEIGHT, WIDTH, rectangle, save_mat, struct

from unmask_tf.data.pascal_part import read_annotation
from unmask_tf.data.pascal_part_names import RAW_PARTS, part_of
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import PARTS, UNMASK

GENUINE = Path(os.environ.get("UNMASK_PHOTOS") or "no photographs") / "pascal_part_mat"


def test_objects_and_parts_are_read_with_their_masks(tmp_path):
    car, wheel, door = rectangle(0, 0, 30, 40), rectangle(20, 5), rectangle(10, 15)
    chair = rectangle(5, 45)
    save_mat(tmp_path / "a.mat", [("car", car, [("wheel_1", wheel), ("door_1", door)]), ("chair", chair, [])])
    annotation = read_annotation(tmp_path / "a.mat")
    assert (annotation.image, annotation.height, annotation.width) == ("a", HEIGHT, WIDTH)
    assert [(o.name, [p.name for p in o.parts]) for o in annotation.objects] == [
        ("car", ["wheel_1", "door_1"]),
        ("chair", []),
    ]
    mask = annotation.objects[0].parts[1].mask
    assert mask.dtype == bool
    assert np.array_equal(mask, door.astype(bool))


def test_one_object_with_one_part_is_read(tmp_path):
    save_mat(tmp_path / "a.mat", [("bottle", rectangle(0, 0), [("cap", rectangle(0, 0, 1, 1))])])
    (bottle,) = read_annotation(tmp_path / "a.mat").objects
    assert [(part.name, int(part.mask.sum())) for part in bottle.parts] == [("cap", 1)]


def bad_mask(value):
    return [("car", rectangle(0, 0), [("wheel_1", value)])]


@pytest.mark.parametrize(
    ("objects", "image", "words"),
    [
        (bad_mask(rectangle(0, 0, shape=(8, 8))), None, ["different sizes", "8x8", f"{WIDTH}x{HEIGHT}"]),
        (bad_mask(3 * rectangle(0, 0)), None, ["damaged"]),
        (bad_mask("wheel"), None, ["damaged"]),
        ([("car", rectangle(0, 0), [])], "b", ["'b'", "name"]),
        ([], None, ["none"]),
    ],
    ids=["sizes", "values", "text", "another image", "no object"],
)
def test_a_wrong_annotation_is_named(tmp_path, objects, image, words):
    save_mat(tmp_path / "a.mat", objects, image)
    with pytest.raises(InputError) as caught:
        read_annotation(tmp_path / "a.mat")
    for word in (str(tmp_path / "a.mat"), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_named(tmp_path, share):
    save_mat(tmp_path / "a.mat", [("car", rectangle(0, 0), [("wheel_1", rectangle(0, 0))])])
    content = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "a.mat").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"a\.mat is damaged"):
        read_annotation(tmp_path / "a.mat")


def test_a_mat_file_of_something_else_is_named(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"anno": struct([(1,)], "other")})
    with pytest.raises(InputError, match=r"no annotation of PASCAL-Part"):
        read_annotation(tmp_path / "a.mat")
    with pytest.raises(InputError, match="does not exist"):
        read_annotation(tmp_path / "b.mat")


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_name", "raw", "part"),
    [
        ("cow", "lfuleg", "leg"),
        ("dog", "rfpa", "paw"),
        ("horse", "lbho", "hoof"),
        ("person", "lebrow", "eyebrow"),
        ("person", "rear", "ear"),
        ("person", "ruarm", "arm"),
        ("bus", "fliplate", "licenseplate"),
        ("car", "roofside", "vehicle_top"),
        ("car", "window_12", "window"),
        ("train", "cbackside_3", "coach_back"),
        ("train", "coach_1", None),
        ("train", "hleftside", None),
        ("bicycle", "chainwheel", "wheel"),
        ("bicycle", "handlebar", None),
        ("motorbike", "headlight_2", "headlight"),
        ("aeroplane", "lwing", "wing"),
    ],
)
def test_raw_names_become_parts_by_class(class_name, raw, part):
    assert part_of(class_name, raw) == part


def test_every_class_gets_the_parts_that_table_1_expects_of_it():
    for class_name, parts in UNMASK.classes.items():
        found = {part for part in RAW_PARTS[class_name].values() if part}
        not_in_table_1 = {"headlight"} if class_name == "bicycle" else set()
        assert found == set(parts) | not_in_table_1, class_name
    assert {part for table in RAW_PARTS.values() for part in table.values() if part} == set(PARTS)


def test_the_release_matches_substrings():
    assert part_of("motorbike", "handlebar", as_released=True) == "hand"
    assert part_of("car", "headlight_1", as_released=True) == "head"
    assert part_of("train", "coach_2", as_released=True) is None
    changed = {
        (class_name, raw)
        for class_name, table in RAW_PARTS.items()
        for raw in table
        if part_of(class_name, raw.replace("#", "1"), as_released=True) != table[raw]
    }
    assert {raw for _, raw in changed} == {"handlebar", "headlight_#"}


@pytest.mark.parametrize(
    ("class_name", "raw", "words"),
    [("zebra", "tail", ["zebra"]), ("car", "wing", ["a car has no part 'wing'"]), ("dog", "tail_1", ["'tail_1'"])],
)
def test_an_unknown_class_or_part_is_named(class_name, raw, words):
    with pytest.raises(InputError) as caught:
        part_of(class_name, raw)
    assert all(word in str(caught.value) for word in words)


def test_pascal_parts_table_is_vocs_diningtable():
    with pytest.raises(InputError, match="a diningtable has no part 'leg'"):
        part_of("table", "leg")


# --- the genuine files ---------------------------------------------------------------------------------------------


@pytest.mark.photos
@pytest.mark.skipif(not GENUINE.is_dir(), reason="UNMASK_PHOTOS names no photographs")
def test_the_genuine_files_are_read_and_every_part_is_known():
    counts = Counter()
    files = sorted(GENUINE.glob("*.mat"))
    for path in files:
        for entry in read_annotation(path).objects:
            counts.update(part_of(entry.name, part.name) for part in entry.parts)
    assert len(files) == 18
    assert (counts.total(), counts["torso"], counts["leg"], counts["wheel"]) == (398, 29, 43, 16)
