"""The one row schema: what is written is read again, and what is damaged is named."""

import json

import numpy as np
import pandas as pd
import pytest

from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import (
    COLUMNS,
    Header,
    RowSet,
    frame,
    from_csv,
    header_from_json,
    header_to_json,
    merge,
    read_bundle,
    to_csv,
    write_bundle,
)

CLASSES = {"train": ["coach_left", "head"], "car": ["wheel"], "NA": []}


def header(**changes):
    fields = {"key": "k1", "data": "mini", "split": "test", "class_set": "cs3a", "classes": CLASSES}
    fields |= {"model": "resnet50", "defence": "um", "attack": "none", "epsilon_255": 0, "seeds": {"classifier": 5}}
    return Header(**(fields | changes))


def rows(**changes):
    """Four images: right, wrong, without an answer, and an answer named as pandas' word for nothing."""
    columns = {
        "images": ["a,1.png", "b.png", 'c"2".png', "d.png"],
        "true": ["car", "car", "train", "NA"],
        "answer": ["car", "train", None, "NA"],
        "model_answer": ["car", "car", "train", "car"],
        "similarity": [0.1 + 0.2, 1 / 3, np.nan, 1.0],
        "score": [1 - 0.1, 2 / 3, np.nan, 5e-324],
        "flagged": [False, True, False, True],
        "parts": [{"wheel", "head"}, {"wheel"}, set(), {"NA"}],
    }
    return frame(**(columns | changes))


def test_numbers_by_hand():
    r = RowSet(header(), rows())
    assert (r.n, r.correct, r.accuracy) == (4, 2, 0.5)
    assert r.right.tolist() == [True, False, False, True]
    assert r.fooled.tolist() == [False, False, False, True]
    assert r.part_sets() == [{"wheel", "head"}, {"wheel"}, set(), {"NA"}]
    assert r.header.cell == ("resnet50", "cs3a", "none", 0)


def test_rows_are_read_as_they_were_written_to_the_last_bit():
    written = rows()
    read = from_csv(to_csv(written), "here")
    pd.testing.assert_frame_equal(read, written, check_exact=True)
    assert to_csv(read) == to_csv(written)
    # Nothing was extracted, which is not the same as no parts.
    none = frame(["a.png"], ["car"], ["car"], ["car"])
    assert from_csv(to_csv(none), "here")["parts"].tolist() == [None]
    assert rows()["parts"].tolist() == ["head wheel", "wheel", "", "NA"]


def test_a_bundle_is_read_as_it_was_written_in_the_order_of_its_row_sets_and_classes(tmp_path):
    attacked = header(key="k2", attack="pgd_linf", epsilon_255=8.5, checks={"finite": True}, threshold={"value": 0.5})
    written = [RowSet(attacked, rows(flagged=[True] * 4)), RowSet(header(), rows())]
    write_bundle(tmp_path, "grid", written)
    read = read_bundle(tmp_path, "grid")
    assert [r.header for r in read] == [attacked, header()]
    assert list(read[0].header.classes) == ["train", "car", "NA"]  # their order decides ties
    for a, b in zip(read, written, strict=True):
        pd.testing.assert_frame_equal(a.rows, b.rows, check_exact=True)
    first = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    write_bundle(tmp_path, "grid", read)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == first


def test_a_write_that_was_killed_between_the_two_files_is_noticed(tmp_path):
    write_bundle(tmp_path, "grid", [RowSet(header(), rows())])
    old = (tmp_path / "grid.json").read_bytes()
    write_bundle(tmp_path, "grid", [RowSet(header(), rows(answer=["car"] * 4))])
    (tmp_path / "grid.json").write_bytes(old)
    with pytest.raises(InputError, match=r"grid\.csv does not belong to grid\.json"):
        read_bundle(tmp_path, "grid")


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("grid.csv", lambda text: text[:-10], "was changed or cut"),
        ("grid.csv", lambda text: text.replace("b.png", "e.png"), "was changed or cut"),
        ("grid.csv", lambda text: None, "cannot be read"),
        ("grid.json", lambda text: text[: len(text) // 2], "is not valid JSON"),
        ("grid.json", lambda text: text.replace("unmask-rows-1", "unmask-rows-0"), "does not hold results"),
        ("grid.json", lambda text: "[]", "does not hold results"),
        ("grid.json", lambda text: text.replace('"attack"', '"atack"'), "missing or unknown fields"),
        ("grid.json", lambda text: text.replace('"epsilon_255": 0', '"epsilon_255": "0"'), "epsilon_255 is '0'"),
        ("grid.json", lambda text: None, "does not exist"),
    ],
)
def test_damage_is_named(tmp_path, name, damage, says):
    write_bundle(tmp_path, "grid", [RowSet(header(), rows())])
    path = tmp_path / name
    damaged = damage(path.read_text())
    if damaged is None:
        path.unlink()
    else:
        assert damaged != path.read_text()
        path.write_text(damaged)
    with pytest.raises(InputError, match=says) as caught:
        read_bundle(tmp_path, "grid")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"image,true\na,b\n", b"\xff\xfe", to_csv(rows()).replace(b"0.9", b"much")])
def test_rows_that_are_none_are_refused(content):
    with pytest.raises(InputError, match="here does not hold rows"):
        from_csv(content, "here")


@pytest.mark.parametrize(
    ("changes", "wrong_rows", "says"),
    [
        ({}, rows()[list(COLUMNS[:-1])], "columns"),
        ({}, rows().iloc[:0], "are none"),
        ({}, rows(images=["a.png"] * 4), "name an image twice"),
        ({}, rows(true=["cat"] * 4), r"classes that the class set does not have: \['cat'\]"),
        ({}, rows(answer=["cat"] * 4), r"\['cat'\]"),
        ({"attack": "pgd_linf"}, rows(), "have a budget of 0"),
        ({"epsilon_255": 8}, rows(), "have a budget of 0"),
    ],
)
def test_rows_and_a_header_that_contradict_each_other_are_refused(changes, wrong_rows, says):
    with pytest.raises(InputError, match=says):
        RowSet(header(**changes), wrong_rows)


@pytest.mark.parametrize("epsilon", [float("nan"), float("inf"), None])
def test_a_budget_that_is_no_number_is_refused(epsilon):
    content = header_to_json(header(attack="pgd_linf")) | {"epsilon_255": epsilon}
    with pytest.raises(InputError, match="epsilon_255"):
        header_from_json(content, "here")
    assert header_from_json(json.loads(json.dumps(header_to_json(header()))), "here") == header()


def test_runs_that_shared_the_cells_out_are_joined_and_may_overlap_where_they_agree():
    a, b = RowSet(header(), rows()), RowSet(header(key="k2", model="vgg16"), rows())
    again = RowSet(header(seconds=9.0), rows())
    assert merge([a], [again, b]) == [a, b]
    with pytest.raises(InputError, match=r"disagree \(2 and 1 of 4 right\)"):
        merge([a], [RowSet(header(), rows(answer=["car", "train", None, None]))])
