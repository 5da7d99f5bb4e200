"""Near-duplicates: exact counting, copies that are found, different pictures that are not, and the page."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pictures import copies, picture
from PIL import Image

from unmask_tf.data import near_duplicates
from unmask_tf.data.duplicate_page import write_page
from unmask_tf.data.images import read_image
from unmask_tf.data.near_duplicates import THRESHOLD, near_pairs, pairs_within, perceptual_hash, perceptual_hashes
from unmask_tf.errors import InputError


def brute_force(first, second, threshold):
    bits = [[bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b, strict=True)] for a in first for b in second]
    near = [(k // len(second), k % len(second), sum(row)) for k, row in enumerate(bits) if sum(row) <= threshold]
    return np.asarray(near, np.int64).reshape(-1, 3)


def hashes(count, words, seed):
    """Random hashes, some of them one another's with a few bits flipped."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**64, (count, words), dtype=np.uint64)
    values[count // 2 :] = values[: count - count // 2] ^ (np.uint64(1) << rng.integers(0, 64, (1,), dtype=np.uint64))
    return values


@settings(max_examples=25)
@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from([1, 3, 4]), st.integers(0, 200), st.integers(0, 99))
def test_pairs_equal_brute_force(n, m, words, threshold, seed):
    first, second = hashes(n, words, seed), np.concatenate([hashes(m, words, seed), hashes(m, words, seed + 1)])
    np.testing.assert_array_equal(near_pairs(first, second, threshold), brute_force(first, second, threshold))


def test_pairs_equal_brute_force_across_blocks(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_COLUMNS", 7)
    monkeypatch.setattr(near_duplicates, "_ROWS", 2)
    first, second = hashes(150, 4, 0), hashes(40, 4, 0)
    np.testing.assert_array_equal(near_pairs(first, second, 100), brute_force(first, second, 100))


def test_each_pair_within_a_list_is_given_once():
    values = np.zeros((3, 4), np.uint64)
    assert pairs_within(values).tolist() == [[0, 1, 0], [0, 2, 0], [1, 2, 0]]
    assert pairs_within(values[:0]).tolist() == []


def test_endless_pairs_are_refused(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 100)
    with pytest.raises(InputError, match="more than 100 pairs"):
        near_pairs(np.zeros((11, 4), np.uint64), np.zeros((10, 4), np.uint64))


@pytest.mark.parametrize("name", ["encoded", "worst quality", "scaled", "smallest", "cropped", "all three"])
def test_copies_are_near_and_other_pictures_are_not(name):
    originals = [picture(seed) for seed in range(12)]
    altered = [copies(image, random.Random(seed))[name] for seed, image in enumerate(originals)]
    stacks = [np.stack([perceptual_hash(np.asarray(image)) for image in images]) for images in (originals, altered)]
    assert near_pairs(*stacks)[:, :2].tolist() == [[i, i] for i in range(12)]


def test_damaged_files_are_named_and_the_others_hashed(tmp_path):
    picture(0).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    values, damaged = perceptual_hashes([tmp_path / "bad.png", tmp_path / "good.png"])
    assert list(damaged) == [tmp_path / "bad.png"]
    np.testing.assert_array_equal(values[1], perceptual_hash(read_image(tmp_path / "good.png")))


def test_the_page_shows_the_nearest_pairs_and_the_table_lists_all(tmp_path, monkeypatch):
    monkeypatch.setattr("unmask_tf.data.duplicate_page.MAX_PICTURED", 1)
    files = [tmp_path / name for name in ("a&b.png", "c.png", "d.png")]
    for seed, file in enumerate(files):
        picture(seed).save(file)
    table, page = write_page(tmp_path / "out", [(files[0], files[2], 40), (files[0], files[1], 3)], "Pairs")
    assert [line.split(",")[0] for line in table.read_text().splitlines()] == ["bits", "3", "40"]
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 2
    assert "a&amp;b.png" in html and "c.png" in html and "d.png" not in html
    assert "2 pairs, the nearest 1 of which are shown" in html


@pytest.mark.photos
def test_recall_and_false_matches_on_photographs():
    """The measurement that chose THRESHOLD; UNMASK_EVERY=1 repeats it on all photographs."""
    every = int(os.environ.get("UNMASK_EVERY", "6"))
    paths = sorted((Path(os.environ["UNMASK_PHOTOS"]) / "images").glob("*/*.jpg"))[::every]
    values, damaged = perceptual_hashes(paths)
    assert not damaged
    distances = {}
    for k in range(0, len(paths), 4):
        for name, copy in copies(Image.fromarray(read_image(paths[k])), random.Random(k)).items():
            bits = np.bitwise_count(perceptual_hash(np.asarray(copy)) ^ values[k]).sum()
            distances.setdefault(name, []).append(int(bits))
    pairs = len(paths) * (len(paths) - 1) / 2
    for threshold in (30, 40, THRESHOLD, 60, 70):
        recall = {name: float(np.mean(np.asarray(bits) <= threshold)) for name, bits in distances.items()}
        print(threshold, recall, len(pairs_within(values, threshold)) / pairs)
    recall = {name: float(np.mean(np.asarray(bits) <= THRESHOLD)) for name, bits in distances.items()}
    assert min(recall.values()) >= 0.95, recall
    assert len(pairs_within(values)) / pairs <= 1e-4
