"""Table II from what is on disk, and what it says of differences from the paper."""

from unmask_tf.files import read_json
from unmask_tf.places import PUBLISHED
from unmask_tf.report.dataset_table import table2_on_disk
from unmask_tf.taxonomy import UNMASK, Taxonomy

PAPER = read_json(PUBLISHED)
K = {"train": (7457, 180000), "val": (930, 400), "test": (936, 23)}
COLUMNS = {"train": "voc_imagenet_train", "val": "voc_imagenet_val", "test": "flickr_test"}
M = {name: {split: row[column] for split, column in COLUMNS.items()} for name, row in PAPER["table2"]["m"].items()}


def notes(*arguments):
    return list(table2_on_disk(*arguments).notes)


def test_the_papers_own_counts_stand_beside_ours():
    rows = table2_on_disk(K, M, UNMASK).rows
    assert ["K", "-", "44 (44)", "-", "7457 (7457)", "930 (930)", "936 (936)"] in rows
    assert ["CS5b", "5 (5)", "34 (34)", "29.41 (29.41)", "13011 (13011)", "1928 (1928)", "4129 (4129)"] in rows


def test_with_the_papers_counts_only_its_rounding_is_explained():
    assert notes(K, M, UNMASK) == ["CS3a: 2 of 29 parts are 6.897 %; the paper prints 6.89."]


def test_another_split_of_the_same_images_is_explained():
    moved = {"train": (7458, 180000), "val": (933, 400), "test": (932, 23)}
    assert "in another split" in notes(moved, M, UNMASK)[0]


def test_fewer_images_are_counted():
    found = notes({"train": (10, 99)}, {"cs3a": {**M["cs3a"], "test": 7}}, UNMASK)
    assert found[0] == "K: 10 images with 99 parts; the paper has 9,323 with 180,423."
    assert found[-1].startswith("M and D: the paper's images")


def test_other_parts_than_the_papers_are_said():
    mine = Taxonomy(("wheel",), {"car": ("wheel",), "dog": ("wheel",)}, {"cs3a": ("car", "dog"), "own": ("dog",)})
    table = table2_on_disk({"train": (1, 1)}, {"cs3a": {"train": 1}, "own": {"train": 2, "val": 3}}, mine)
    assert any("other parts than the paper's" in note for note in table.notes)
    assert ["own", "1", "1", "0.00", "2", "3", "-"] in table.rows
