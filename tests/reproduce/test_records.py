"""Records: schema, atomic writing, and refusing what is no record of this run."""

import errno
import json
import os
import resource
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask_tf.errors import InputError
from unmask_tf.reproduce.records import CellKey, Record, merge, read, read_all, write

KEY = CellKey("mini", "cs3a", "resnet50", "um", "pgd_linf", 8)
BENIGN = CellKey("mini", "cs3a", "resnet50", "none", "none", 0)


def full_record(**changes):
    fields = {
        "key": KEY,
        "config_hash": "0123456789ab",
        "n": 4,
        "correct": 2,
        "seeds": {"attack": 7},
        "versions": {"keras": "3.15.0"},
        "wall_s": 1.25,
        "checks": {"budget_kept": True},
        "nan_images": 1,
        "iterations": 40,
        "labels": ["car", "car", "train", "person"],
        "predictions": ["car", None, "train", "car"],
        "accuracy_float": 0.5,
        "accuracy_8bit": 0.25,
        "similarities": [0.1, 1 / 3, 0.0, 1.0],
        "detection_scores": [0.9, 2 / 3, 1 / 3, 0.0],
        "detection_labels": [1, 1, 0, 0],
    }
    return Record(**{**fields, **changes})


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = full_record()
    path = write(record, tmp_path / "records")
    assert path == tmp_path / "records" / "cs3a__resnet50__um__pgd_linf_8.json"
    assert read(path) == record
    assert (record.accuracy, record.sound, record.pairs) == (0.5, True, 2)


def test_a_bare_record_comes_back_too(tmp_path):
    record = Record(key=BENIGN, config_hash="x", n=3, correct=3)
    assert read(write(record, tmp_path)) == record


def test_numpy_values_are_taken_and_become_plain(tmp_path):
    record = full_record(
        n=np.int64(4),
        correct=np.int32(2),
        wall_s=np.float32(1.25),
        accuracy_float=np.float64(0.5),
        checks={"budget_kept": np.True_},
        labels=np.array(["car", "car", "train", "person"]),
        similarities=np.array([0.1, 1 / 3, 0.0, 1.0]),
        detection_scores=np.array([0.9, 2 / 3, 1 / 3, 0.0]),
        detection_labels=np.array([1, 1, 0, 0], np.int8),
    )
    assert record == full_record()
    assert read(write(record, tmp_path)) == full_record()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=5))
def test_scores_come_back_to_the_last_bit(tmp_path_factory, pairs):
    scores = [a for a, _ in pairs] + [b for _, b in pairs]
    record = Record(
        key=KEY,
        config_hash="x",
        n=5,
        correct=0,
        detection_scores=scores,
        detection_labels=[1] * len(pairs) + [0] * len(pairs),
    )
    back = read(write(record, tmp_path_factory.mktemp("records")))
    assert back.detection_scores == tuple(scores) and back.pairs == len(pairs)


def test_the_same_record_gives_the_same_bytes_in_any_order_of_keys(tmp_path):
    first = write(full_record(seeds={"a": 1, "b": 2}), tmp_path).read_bytes()
    assert write(full_record(seeds={"b": 2, "a": 1}), tmp_path).read_bytes() == first


def test_soundness_needs_checks_that_all_hold():
    assert full_record(checks={"a": True, "b": True}).sound
    assert not full_record(checks={"a": True, "b": False}).sound
    assert not full_record(checks={}).sound
    assert Record(key=BENIGN, config_hash="x", n=1, correct=1).sound


def test_a_record_from_before_iterations_were_recorded_is_read(tmp_path):
    path = write(full_record(), tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["iterations"]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert read(path) == full_record(iterations=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": 4.0}, "whole number"),
        ({"n": True}, "whole number"),
        ({"correct": 5}, r"\[0, 4\]"),
        ({"correct": -1}, "correct is -1"),
        ({"correct": 3}, "2 predictions equal"),
        ({"config_hash": ""}, "config_hash"),
        ({"wall_s": float("nan")}, "wall_s"),
        ({"accuracy_float": 1.5}, "accuracy_float"),
        ({"nan_images": 5}, "nan_images"),
        ({"iterations": 0}, "iterations"),
        ({"checks": {"budget_kept": "yes"}}, "true or false"),
        ({"checks": ["budget_kept"]}, "mapping"),
        ({"seeds": {"attack": 1.5}}, "seeds.attack"),
        ({"labels": ["car"]}, "1 rows for n = 4"),
        ({"labels": "cars"}, "list"),
        ({"labels": [None] * 4}, "text"),
        ({"similarities": [0.0, 0.0, 0.0, float("nan")]}, "similarities"),
        ({"similarities": [0.0, 0.0, 0.0, 1.1]}, "similarities"),
        ({"detection_labels": None}, "together"),
        ({"detection_labels": [1, 1, 1, 0]}, "half"),
        ({"detection_labels": [2, 0, 0, 0]}, "half"),
        ({"detection_labels": [1, 0]}, "half"),
        ({"detection_scores": [0.5] * 10, "detection_labels": [0, 1] * 5}, "more than two"),
        ({"key": replace(KEY, defence="at")}, "detection belongs to defence um"),
    ],
)
def test_inconsistent_records_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        full_record(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"defence": "distillation"},
        {"attack": "none"},
        {"epsilon_255": 0},
        {"epsilon_255": -8},
        {"epsilon_255": float("inf")},
        {"epsilon_255": "8"},
        {"class_set": "../cs3a"},
        {"class_set": ""},
        {"model": "res__net"},
        {"model": "resnet50_"},
        {"profile": "mini/.."},
    ],
)
def test_keys_outside_the_grid_are_refused(changes):
    with pytest.raises(InputError):
        replace(KEY, **changes)


def test_whole_and_broken_epsilons_have_their_own_files():
    names = {replace(KEY, epsilon_255=e).file_name for e in (8, 8.0, 8.5, 1234567, 1234568)}
    assert len(names) == 4
    assert "cs3a__resnet50__um__pgd_linf_8.json" in names and "cs3a__resnet50__um__pgd_linf_8.5.json" in names


# --- Damaged and foreign files ---------------------------------------------------------------------------------------


def test_a_record_cut_anywhere_is_refused_by_name(tmp_path):
    path = write(full_record(), tmp_path)
    content = path.read_bytes()
    # Only the last newline is not needed. A step of 3 keeps it quick and still cuts within every field.
    for length in [*range(0, len(content) - 1, 3), len(content) - 2]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"pgd_linf_8\.json"):
            read(path)


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"schema": "other"}', "3", '{"accuracy": 1}', "\xff"])
def test_a_foreign_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / KEY.file_name
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"pgd_linf_8\.json"):
        read(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accuracy", 0.75),
        ("sound", False),
        ("pairs", 1),
        ("n", "4"),
        ("correct", 1),
        ("defence", "none"),
        ("detection_scores", [0.9]),
        ("checks", None),
        ("schema", "unmask-record-0"),
        ("epsilon_255", 16),
        ("extra", 1),
    ],
)
def test_an_edited_record_is_refused_by_name(tmp_path, field, value):
    path = write(full_record(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(InputError, match=r"pgd_linf_8\.json"):
        read(path)


def test_a_missing_field_is_named(tmp_path):
    path = write(full_record(), tmp_path)
    content = json.loads(path.read_text())
    del content["wall_s"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="wall_s"):
        read(path)


def test_a_record_under_another_cell_s_name_is_refused(tmp_path):
    path = write(full_record(), tmp_path)
    other = path.with_name("cs3a__resnet50__um__pgd_linf_16.json")
    path.rename(other)
    with pytest.raises(InputError, match=r"holds the record of the cell cs3a__resnet50__um__pgd_linf_8\.json"):
        read(other)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / KEY.file_name)
    (tmp_path / KEY.file_name).mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / KEY.file_name)
    with pytest.raises(InputError, match="no records"):
        read_all(tmp_path / "nowhere")


# --- Full disk -------------------------------------------------------------------------------------------------------


def assert_write_fails_cleanly(folder, before):
    with pytest.raises(InputError, match=r"cannot write .*pgd_linf_8\.json"):
        write(full_record(correct=2, seeds={"attack": 8}), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("earlier", [False, True])
def test_a_write_that_the_system_cuts_short_leaves_the_folder_as_it_was(tmp_path, earlier):
    if earlier:
        write(full_record(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        assert_write_fails_cleanly(tmp_path, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_found_full_at_the_last_moment_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    write(full_record(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert_write_fails_cleanly(tmp_path, before)


# --- Many records ----------------------------------------------------------------------------------------------------


def test_all_records_come_in_the_paper_s_order(tmp_path, make_records):
    records = make_records(class_sets=("cs3a", "cs5b"))
    for record in reversed(records):
        write(record, tmp_path)
    (tmp_path / ".partial-x.json").write_text("half a rec")
    assert read_all(tmp_path) == records
    assert read_all(tmp_path, "0123456789ab") == records
    keys = [(r.key.model, r.key.class_set, r.key.attack, r.key.epsilon_255, r.key.defence) for r in records]
    assert keys[:4] == [
        ("resnet50", "cs3a", "none", 0, "none"),
        ("resnet50", "cs3a", "none", 0, "at"),
        ("resnet50", "cs3a", "none", 0, "um"),
        ("resnet50", "cs3a", "pgd_linf", 8, "none"),
    ]
    assert [k[2:4] for k in keys[3:27:3]] == [
        ("pgd_linf", 8),
        ("pgd_linf", 16),
        ("pgd_l2", 300),
        ("pgd_l2", 600),
        ("mia_linf", 8),
        ("mia_linf", 16),
        ("mia_l2", 300),
        ("mia_l2", 600),
    ]
    assert [k[:2] for k in keys[::27]] == [
        ("resnet50", "cs3a"),
        ("resnet50", "cs5b"),
        ("densenet121", "cs3a"),
        ("densenet121", "cs5b"),
    ]


def test_a_mix_of_configurations_is_refused_with_both_named(tmp_path):
    write(full_record(config_hash="aaaa"), tmp_path)
    write(full_record(key=replace(KEY, epsilon_255=16), config_hash="bbbb"), tmp_path)
    with pytest.raises(InputError, match=r"2 configurations: aaaa in \S+linf_8.json; bbbb in \S+linf_16.json"):
        read_all(tmp_path)


def test_a_mix_of_profiles_is_refused(tmp_path):
    write(full_record(), tmp_path)
    write(full_record(key=replace(KEY, profile="photos", epsilon_255=16)), tmp_path)
    with pytest.raises(InputError, match=r"2 profiles: mini in .*; photos in"):
        read_all(tmp_path)


def test_records_of_another_configuration_than_the_run_s_are_refused(tmp_path):
    write(full_record(config_hash="aaaa"), tmp_path)
    with pytest.raises(InputError, match="configuration aaaa, but this run's is bbbb"):
        read_all(tmp_path, "bbbb")


def test_merging_joins_shards_and_drops_equal_copies(make_records):
    records = make_records(class_sets=("cs3a",))
    elsewhere = [replace(record, wall_s=9.0, versions={"keras": "3.14.0"}) for record in records[5:]]
    assert merge(records[:10], elsewhere) == records[:10] + elsewhere[5:]


def test_merging_refuses_copies_that_disagree():
    with pytest.raises(InputError, match=r"disagree \(accuracy 0.5000 and 0.2500\)"):
        merge([full_record()], [full_record(correct=1, predictions=None)])


def test_merging_refuses_mixed_configurations():
    with pytest.raises(InputError, match="2 configurations"):
        merge([full_record()], [full_record(key=replace(KEY, epsilon_255=16), config_hash="other")])
