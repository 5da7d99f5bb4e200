"""The table of shipped weights is of those very files, and current."""

import json
import re
import shutil

import pytest

from unmask_tf.errors import InputError
from unmask_tf.places import REFERENCE, WEIGHTS_FOLDER
from unmask_tf.report.table import MISSING, markdown
from unmask_tf.report.zoo import ABOUT, write_zoo, zoo_table


def test_the_committed_table_is_what_hashes_logs_and_rows_give():
    text = (WEIGHTS_FOLDER / "README.md").read_text("utf-8")
    table = zoo_table(WEIGHTS_FOLDER, REFERENCE)
    assert f"<!-- zoo: begin -->\n{markdown(table)}<!-- zoo: end -->" in text
    listed = [line.split()[1] for line in (WEIGHTS_FOLDER / "SHA256SUMS").read_text("utf-8").splitlines()]
    assert [re.search("`(.*?)`", row[0])[1] for row in table.rows] == listed
    log = json.loads((WEIGHTS_FOLDER / "unmask_k_mini.log.json").read_text("utf-8"))
    assert f"mAP at IoU 0.5 {log[-1]['val_map50']:.3f}" in table.rows[listed.index("unmask_k_mini.h5")][3]


@pytest.fixture
def folder(tmp_path):
    """The shipped files, to be changed."""
    shutil.copytree(WEIGHTS_FOLDER, tmp_path / "weights")
    return tmp_path / "weights"


def test_a_metric_of_another_file_is_left_out(folder):
    listing = folder / "SHA256SUMS"
    listing.write_text(re.sub("^....", "0000", listing.read_text("utf-8"), flags=re.M))
    tests = {row[1]: row[4] for row in zoo_table(folder, REFERENCE).rows}
    assert tests["K of profile `mini`"] == tests["K of profile `photos`"] == MISSING
    other, this = (folder / f"unmask_m_{name}_mobilenet_v2.weights.h5" for name in ("cs3a", "cs5b"))
    assert tests["M of CS3a, MobileNetV2"] != MISSING
    with_threshold(other, 0.5)
    tests = {row[1]: row[4] for row in zoo_table(folder, REFERENCE).rows}
    assert tests["M of CS3a, MobileNetV2"] == MISSING != tests["M of CS5b, MobileNetV2"] and this.is_file()


def with_threshold(path, value):
    import h5py

    with h5py.File(path, "r+") as file:
        file.attrs["unmask_tf"] = json.dumps(json.loads(file.attrs["unmask_tf"]) | {"threshold": value})


def test_an_unknown_file_and_a_lost_place_are_named(folder):
    about = json.loads((folder / ABOUT).read_text("utf-8"))
    (folder / ABOUT).write_text(json.dumps({k: v for k, v in about.items() if "photos" not in k}))
    with pytest.raises(InputError, match=r"says nothing of unmask_k_photos\.h5"):
        zoo_table(folder, REFERENCE)
    (folder / ABOUT).write_text(json.dumps(about))
    (folder / "README.md").write_text("# Weights\n")
    with pytest.raises(InputError, match="no place for the table"):
        write_zoo(folder, REFERENCE)
