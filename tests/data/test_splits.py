"""Splits: a pure function of the set of names and the seed, stored once."""

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask_tf.data.splits import make_split, read_manifest, released_split, shares, write_manifest
from unmask_tf.errors import InputError

THIRDS = {"train": 0.8, "val": 0.1, "test": 0.1}
TEN = [f"{i}.jpg" for i in range(10)]


@pytest.mark.parametrize(
    ("count", "fractions", "sizes"),
    [
        (10, THIRDS, [8, 1, 1]),
        (9323, THIRDS, [7458, 933, 932]),  # ends at 7458.4 and 8390.7
        (5, {"train": 0.5, "val": 0.1, "test": 0.4}, [3, 0, 2]),  # ends at 2.5 -> 3, 3.0
        (3, THIRDS, [2, 1, 0]),  # ends at 2.4, 2.7 -> 3
        (15, {"train": 0.3, "val": 0.6, "test": 0.1}, [5, 9, 1]),  # 4.5 -> 5; 13.5 -> 14, though 0.3 + 0.6 < 0.9
        (4, {"all": 1}, [4]),
    ],
)
def test_the_sizes_are_the_rounded_cumulative_shares(count, fractions, sizes):
    splits = make_split([f"{i}" for i in range(count)], fractions, 1)
    assert list(splits) == list(fractions)
    assert [len(names) for names in splits.values()] == sizes


def test_the_split_is_pythons_seeded_shuffle_of_the_sorted_names():
    shuffled = sorted(TEN)
    random.Random(100).shuffle(shuffled)
    splits = make_split(TEN, THIRDS, 100)
    assert splits == {"train": tuple(sorted(shuffled[:8])), "val": (shuffled[8],), "test": (shuffled[9],)}
    # A literal: a change of the generator would silently make another data set.
    assert (splits["val"], splits["test"]) == (("7.jpg",), ("2.jpg",))
    assert make_split(TEN, THIRDS, 101) != splits


@settings(max_examples=150, deadline=None)
@given(
    st.sets(st.text(min_size=1, max_size=6), min_size=1, max_size=60),
    st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(sum),
    st.integers(0, 2**32),
    st.randoms(use_true_random=False),
)
def test_a_split_covers_every_name_once_whatever_the_input_order(names, shares, seed, order):
    fractions = {f"split{i}": share / sum(shares) for i, share in enumerate(shares)}
    one = sorted(names)
    order.shuffle(one)
    splits = make_split(one, fractions, seed)
    members = [name for split in splits.values() for name in split]
    assert sorted(members) == sorted(names)
    assert splits == make_split(iter(sorted(names, reverse=True)), fractions, seed)
    for split, fraction in fractions.items():
        assert abs(len(splits[split]) - fraction * len(names)) <= 1.0 + 1e-6
        assert fraction or not splits[split]


def test_another_process_with_another_hash_seed_makes_the_same_split():
    code = (
        "from unmask_tf.data.splits import make_split\n"
        "print(sorted(make_split({f'{i}.jpg' for i in range(10)}, {'a': 0.5, 'b': 0.5}, 7)['a']))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert answers == {f"{sorted(make_split(TEN, {'a': 0.5, 'b': 0.5}, 7)['a'])}\n"}


@pytest.mark.parametrize(
    ("names", "fractions", "complaint"),
    [
        (["a", "b", "a"], THIRDS, "'a' occurs twice"),
        ([], THIRDS, "no names to split"),
        (["a"], {"train": 0.8, "val": 0.1}, "sum to 0.9"),
        (["a"], {"train": 1.5, "val": -0.5}, "'train' has the fraction 1.5"),
        (["a"], {"train": float("nan"), "val": 1.0}, "'train' has the fraction nan"),
        (["a"], {}, "sum to 0"),
    ],
)
def test_names_and_fractions_that_make_no_split_are_refused(names, fractions, complaint):
    with pytest.raises(InputError, match=complaint):
        make_split(names, fractions, 1)


# --- manifests -----------------------------------------------------------------------------------------------------


def test_a_manifest_keeps_the_split_its_seed_and_the_order_of_its_fractions(tmp_path):
    splits = make_split(TEN, THIRDS, 4)
    write_manifest(tmp_path / "split.json", splits, seed=4, fractions=THIRDS)
    manifest = read_manifest(tmp_path / "split.json")
    assert manifest.splits == splits
    assert (manifest.seed, manifest.fractions) == (4, THIRDS)
    assert list(manifest.fractions) == list(manifest.splits) == ["train", "val", "test"]
    everything = [name for names in manifest.splits.values() for name in names]
    assert make_split(everything, manifest.fractions, manifest.seed) == splits


def test_a_manifest_is_the_same_bytes_every_time(tmp_path):
    for name, names in (("a", TEN), ("b", TEN[::-1])):
        write_manifest(tmp_path / name, make_split(names, THIRDS, 4), seed=4, fractions=THIRDS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_names_must_exist_where_a_root_is_given(tmp_path):
    for name in TEN:
        (tmp_path / name).touch()
    write_manifest(tmp_path / "split.json", make_split(TEN, THIRDS, 4), seed=4, fractions=THIRDS)
    assert sum(map(len, read_manifest(tmp_path / "split.json", tmp_path).splits.values())) == 10
    (tmp_path / "3.jpg").unlink()
    with pytest.raises(InputError, match=r"split\.json puts '3\.jpg' into '\w+', but .*3\.jpg does not exist"):
        read_manifest(tmp_path / "split.json", tmp_path)
    read_manifest(tmp_path / "split.json")


GOOD = {"names": {"train": ["a"], "val": ["b"]}, "seed": 1, "fractions": [["train", 0.5], ["val", 0.5]]}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"names": {"train": ["a", "b"], "val": ["b"]}}, "'b' in 'train' and in 'val'"),
        ({"names": {"train": ["a", "a"], "val": ["b"]}}, "'a' in 'train' and in 'train'"),
        ({"names": {"train": ["a"]}}, "must list the same splits"),
        ({"names": {"train": "a", "val": ["b"]}}, "'train' is not a list of names"),
        ({"names": {"train": [1], "val": ["b"]}}, "'train' is not a list of names"),
        ({"seed": "1"}, "has the seed '1'"),
        ({"fractions": [["train", 0.5], ["val", 0.6]]}, "sum to 1.1"),
        ({"fractions": 3}, "has the fractions 3"),
        ({"fractions": [["train", "x"], ["val", 0.5]]}, "'train' has the fraction 'x'"),
    ],
)
def test_a_faulty_manifest_is_refused(tmp_path, changes, complaint):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(GOOD))
    assert read_manifest(path).splits == {"train": ("a",), "val": ("b",)}
    path.write_text(json.dumps({**GOOD, **changes}))
    with pytest.raises(InputError, match=complaint):
        read_manifest(path)


def test_a_manifest_cut_in_half_or_without_its_keys_or_missing_is_refused(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(GOOD)[:40])
    with pytest.raises(InputError, match="not valid JSON"):
        read_manifest(path)
    for content in ({"names": {}}, [1]):
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"split\.json lacks"):
            read_manifest(path)
    with pytest.raises(InputError, match="does not exist"):
        read_manifest(tmp_path / "gone.json")


def test_overlapping_splits_are_not_written(tmp_path):
    with pytest.raises(InputError, match="'a' in 'x' and in 'y'"):
        write_manifest(tmp_path / "s.json", {"x": ["a"], "y": ["a"]}, seed=1, fractions={"x": 0.5, "y": 0.5})
    assert not list(tmp_path.iterdir())


# --- a given split -------------------------------------------------------------------------------------------------


def released(folder, **names):
    for split in ("train", "val", "test"):
        content = {"images": [{"id": i, "file_name": name} for i, name in enumerate(names.get(split, ()))]}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def test_the_released_split_is_read_from_the_part_annotations(tmp_path):
    found = released_split(released(tmp_path, train=["b.jpg", "a.jpg"], val=["c.jpg"]))
    assert found == {"train": ("a.jpg", "b.jpg"), "val": ("c.jpg",), "test": ()}
    assert shares(found) == {"train": pytest.approx(2 / 3), "val": pytest.approx(1 / 3), "test": 0}
    write_manifest(tmp_path / "k.json", found, seed=None, fractions=shares(found))
    assert read_manifest(tmp_path / "k.json").seed is None


def test_a_released_split_that_repeats_an_image_or_lacks_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"names 'a\.jpg', which train\.json names as well"):
        released_split(released(tmp_path, train=["a.jpg"], test=["a.jpg"]))
    (tmp_path / "test.json").write_text('{"images": [1]}')
    with pytest.raises(InputError, match=r"test\.json is no COCO JSON"):
        released_split(tmp_path)
    (tmp_path / "val.json").unlink()
    with pytest.raises(InputError, match=r"val\.json does not exist"):
        released_split(tmp_path)
