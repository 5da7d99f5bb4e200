"""The parts, Table I and Table II of the paper, and a user's own taxonomy."""

import json

import numpy as np
import pytest

from unmask_tf.errors import InputError
from unmask_tf.taxonomy import PARTS, RELEASED_NAMES, UNMASK, Taxonomy

SMALL = {
    "parts": ["wheel", "door", "tail"],
    "classes": {"dog": ["tail"], "car": ["wheel", "door"]},
    "class_sets": {"two": ["dog", "car"]},
}


# --- the paper's -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_set", "unique", "shared", "overlap"),
    [("cs3a", 29, 2, 6.90), ("cs3b", 18, 9, 50.00), ("cs5a", 34, 8, 23.53), ("cs5b", 34, 10, 29.41)],
)
def test_unique_parts_shared_parts_and_overlap_are_table_2s(class_set, unique, shared, overlap):
    assert len(UNMASK.unique_parts(class_set)) == unique
    assert len(UNMASK.shared_parts(class_set)) == shared
    assert UNMASK.overlap(class_set) == pytest.approx(overlap, abs=0.005)
    assert UNMASK.overlap(class_set) == 100 * shared / unique


def test_shared_parts_are_the_ones_two_classes_expect():
    assert UNMASK.shared_parts("cs3a") == {"headlight", "head"}
    assert UNMASK.shared_parts("cs3b") == {"ear", "nose", "eye", "foot", "torso", "head", "neck", "tail", "leg"}


def test_there_are_44_parts_in_the_order_of_the_released_category_ids():
    assert len(PARTS) == len(set(PARTS)) == 44
    ids = {"plant": 0, "torso": 1, "wheel": 11, "head": 20, "headlight": 21, "leg": 28, "body": 41, "foot": 43}
    assert {part: UNMASK.parts.index(part) for part in ids} == ids
    assert "handlebar" not in PARTS


def test_the_classes_expect_the_parts_of_table_1():
    counts = {name: len(UNMASK.expected(name)) for name in UNMASK.classes}
    assert counts == {
        "aeroplane": 6, "bicycle": 2, "bird": 9, "boat": 0, "bottle": 2, "bus": 11, "car": 11, "cat": 9, "chair": 0,
        "cow": 9, "diningtable": 0, "dog": 10, "horse": 9, "motorbike": 3, "person": 13, "pottedplant": 2, "sheep": 9,
        "sofa": 0, "train": 7, "tvmonitor": 1,
    }  # fmt: skip
    assert UNMASK.expected("dog") == UNMASK.expected("cat") | {"muzzle"}
    assert UNMASK.expected("horse") == UNMASK.expected("cow") - {"horn"} | {"hoof"}
    assert UNMASK.expected("sheep") == UNMASK.expected("cow")
    assert UNMASK.expected("bus") == UNMASK.expected("car")
    assert UNMASK.expected("bottle") == {"body", "cap"}
    assert UNMASK.expected("train") == {
        "coach_front", "coach_right", "coach_left", "headlight", "coach_top", "head", "coach_back",
    }  # fmt: skip
    assert set(PARTS) == set().union(*UNMASK.classes.values())


def test_members_keep_the_order_that_decides_ties_and_labels_are_alphabetical():
    assert UNMASK.members("cs3a") == ("car", "person", "train")
    assert UNMASK.members("cs3b") == ("person", "dog", "bird")
    assert UNMASK.members("cs5a") == ("dog", "car", "bottle", "train", "person")
    assert UNMASK.members("cs5b") == ("dog", "car", "bird", "train", "person")
    assert UNMASK.labels("cs3b") == ("bird", "dog", "person")
    assert UNMASK.labels("cs5a") == ("bottle", "car", "dog", "person", "train")
    assert UNMASK.labels("cs5b") == ("bird", "car", "dog", "person", "train")


def test_the_released_names_are_accepted():
    assert RELEASED_NAMES == {"cs3-1": "cs3a", "cs3-2": "cs3b", "cs5-1": "cs5a", "cs5-2": "cs5b"}
    for released, name in RELEASED_NAMES.items():
        assert UNMASK.members(released) == UNMASK.members(name)
        assert UNMASK.overlap(released) == UNMASK.overlap(name)


def test_a_mirrored_image_exchanges_the_sides_of_vehicles_alone():
    assert UNMASK.mirror == {
        "vehicle_left": "vehicle_right",
        "vehicle_right": "vehicle_left",
        "coach_left": "coach_right",
        "coach_right": "coach_left",
    }


# --- a user's own ----------------------------------------------------------------------------------------------------


def small(**changes):
    content = {**SMALL, **changes}
    return Taxonomy(tuple(content["parts"]), content["classes"], content["class_sets"])


def test_the_matrix_has_a_row_per_class_and_a_column_per_part():
    matrix = small().matrix(("dog", "car"))
    assert matrix.dtype == bool
    assert np.array_equal(matrix, [[False, False, True], [True, True, False]])
    assert UNMASK.matrix(UNMASK.members("cs5a")).shape == (5, 44)


def test_disjoint_classes_and_classes_without_parts_have_no_overlap():
    assert small().overlap("two") == 0.0
    bare = small(classes={"dog": [], "car": []})
    assert bare.unique_parts("two") == frozenset()
    assert bare.overlap("two") == 0.0


def test_names_outside_the_taxonomy_are_refused_with_the_choices():
    with pytest.raises(InputError, match=r"unknown class set 'cs9'\. Choose one of: cs3a, cs3b, cs5a, cs5b"):
        UNMASK.members("cs9")
    with pytest.raises(InputError, match=r"unknown class 'cat'\. Choose one of: car, dog"):
        small().expected("cat")


@pytest.mark.parametrize("taxonomy", [UNMASK, small()])
def test_a_taxonomy_survives_the_round_trip_through_its_file(tmp_path, taxonomy):
    taxonomy.to_json(tmp_path / "taxonomy.json")
    loaded = Taxonomy.from_json(tmp_path / "taxonomy.json")
    assert loaded.parts == taxonomy.parts
    assert {name: tuple(parts) for name, parts in taxonomy.classes.items()} == loaded.classes
    for class_set in taxonomy.class_sets:
        assert loaded.members(class_set) == taxonomy.members(class_set)
    loaded.to_json(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "taxonomy.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"parts": []}, "names no parts"),
        ({"parts": ["wheel", "door", "tail", "door"]}, "list of parts names 'door' 2 times"),
        ({"parts": ["wheel", "door", "tail", ""]}, "list of parts holds ''"),
        ({"parts": ["wheel", "door", "tail", 4]}, "list of parts holds 4"),
        ({"parts": "abc", "classes": {}, "class_sets": {}}, "'abc' is not a list of names"),
        ({"classes": {"dog": ["wing"], "car": []}}, "class 'dog' expects the part 'wing', which is not among 'parts'"),
        ({"classes": {"dog": ["tail", "tail"], "car": []}}, "class 'dog' names 'tail' 2 times"),
        ({"class_sets": {"two": ["dog", "cat"]}}, "class set 'two' names the class 'cat', which 'classes' lacks"),
        ({"class_sets": {"two": ["dog", "dog"]}}, "class set 'two' names 'dog' 2 times"),
        ({"class_sets": {"two": []}}, "class set 'two' names no classes"),
        ({"mirror": {"wheel": "door"}}, "'mirror' turns 'wheel' into 'door', but both"),
        ({"mirror": {"wheel": "wing", "wing": "wheel"}}, "'mirror' turns 'wing' into 'wheel', but both"),
        ({"classes": ["dog", "car"]}, "in the expected form"),
        ({"parts": None}, "in the expected form"),
        ({"class_sets": {"two": 3}}, "in the expected form"),
    ],
)
def test_an_inconsistent_taxonomy_is_refused_with_its_file(tmp_path, changes, complaint):
    path = tmp_path / "taxonomy.json"
    path.write_text(json.dumps({**SMALL, **changes}))
    with pytest.raises(InputError, match=complaint) as caught:
        Taxonomy.from_json(path)
    assert str(path) in str(caught.value)


def _read(tmp_path, **content):
    (tmp_path / "taxonomy.json").write_text(json.dumps({**SMALL, **content}))
    return Taxonomy.from_json(tmp_path / "taxonomy.json")


def test_a_file_may_name_its_mirrored_parts(tmp_path):
    mirror = {"door": "wheel", "wheel": "door"}
    loaded = _read(tmp_path, mirror=mirror)
    assert loaded.mirror == mirror
    loaded.to_json(tmp_path / "again.json")
    assert Taxonomy.from_json(tmp_path / "again.json").mirror == mirror


def test_a_file_without_mirrored_parts_exchanges_those_sides_of_the_paper_s_that_it_has(tmp_path):
    assert _read(tmp_path).mirror == {}
    parts = [*SMALL["parts"], "coach_left", "coach_right", "vehicle_left"]
    assert _read(tmp_path, parts=parts).mirror == {"coach_left": "coach_right", "coach_right": "coach_left"}
    assert _read(tmp_path, parts=parts, mirror={}).mirror == {}


@pytest.mark.parametrize("key", ["parts", "classes", "class_sets"])
def test_a_missing_key_is_refused(tmp_path, key):
    path = tmp_path / "taxonomy.json"
    path.write_text(json.dumps({name: value for name, value in SMALL.items() if name != key}))
    with pytest.raises(InputError, match=rf"taxonomy\.json lacks .*'{key}'"):
        Taxonomy.from_json(path)


def test_a_taxonomy_file_that_is_missing_or_cut_or_no_object_is_refused(tmp_path):
    path = tmp_path / "taxonomy.json"
    with pytest.raises(InputError, match="does not exist"):
        Taxonomy.from_json(path)
    path.write_text(json.dumps(SMALL)[:30])
    with pytest.raises(InputError, match="not valid JSON"):
        Taxonomy.from_json(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="in the expected form"):
        Taxonomy.from_json(path)
