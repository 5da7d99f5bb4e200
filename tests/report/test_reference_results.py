"""The committed results of our own runs: their rows give the tables and the report, and the documents quote them."""

import re
import shutil
from pathlib import Path

import pytest

from unmask_tf.report.page import write_report
from unmask_tf.report.summary import summary

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
PROFILES = sorted(path.parent.name for path in REFERENCE.glob("*/rows"))


def quoted(document: str, block: str) -> str:
    text = (ROOT / document).read_text("utf-8")
    found = re.search(rf"<!-- {block}: begin -->\n(?:```\n)?(.*?)(?:```\n)?<!-- {block}: end -->", text, re.S)
    assert found is not None, f"{document} has no block {block}"
    return found.group(1)


def test_the_profile_of_make_reproduce_is_among_them_with_its_figures():
    assert "mini" in PROFILES
    assert {"figure4.png", "figure5.png"} <= {p.name for p in (REFERENCE / "mini").iterdir()}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_rows_alone_give_the_committed_tables_and_report(profile, tmp_path):
    folder = tmp_path / profile
    shutil.copytree(REFERENCE / profile / "rows", folder / "rows")
    write_report(folder)
    committed = [path for path in (REFERENCE / profile).iterdir() if path.suffix in (".md", ".csv")]
    assert {"report.md", "table4.csv", "auc.csv"} <= {path.name for path in committed}
    for path in committed:
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    for path in (REFERENCE / profile).glob("*.png"):
        assert (folder / path.name).stat().st_size > 10_000


@pytest.mark.parametrize("profile", PROFILES)
def test_the_committed_files_name_no_folder_of_the_machine_that_ran(profile):
    for path in (REFERENCE / profile).rglob("*"):
        if path.suffix in (".json", ".csv", ".md"):
            assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", path.read_text(encoding="utf-8")), path


def test_the_readme_quotes_the_summary_of_the_reference_run():
    assert quoted("README.md", "summary") == summary(REFERENCE / "mini")


@pytest.mark.parametrize(("profile", "block"), [("mini", "study"), ("photos", "study photos")])
def test_fidelity_quotes_the_committed_study(profile, block):
    assert quoted("FIDELITY.md", block) in (REFERENCE / profile / "study.md").read_text("utf-8")
