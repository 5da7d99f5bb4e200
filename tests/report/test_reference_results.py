"""The committed results of our own runs: their rows give the tables and the report, and the documents quote them."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from unmask_tf.files import read_json
from unmask_tf.report.results import Results
from unmask_tf.report.study import study_tables
from unmask_tf.report.summary import summary
from unmask_tf.report.table import markdown

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
PROFILES = sorted(path.parent.name for path in REFERENCE.glob("*/rows"))
# What `make tables figures report` runs.
BUILD = """
import sys
from unmask_tf.cli import main
codes = [main([name, "--profile", sys.argv[1], "--results", sys.argv[2]]) for name in ("tables", "figures", "report")]
loaded = {"tensorflow", "keras", "torch", "jax"} & set(sys.modules)
sys.exit(f"{codes} {loaded}" if any(codes) or loaded else 0)
"""


def quoted(document: str, block: str) -> str:
    text = (ROOT / document).read_text("utf-8")
    found = re.search(rf"<!-- {block}: begin -->\n(?:```\n)?(.*?)(?:```\n)?<!-- {block}: end -->", text, re.S)
    assert found is not None, f"{document} has no block {block}"
    return found.group(1)


def test_the_profile_of_make_reproduce_is_among_them_with_its_figures():
    assert "mini" in PROFILES
    assert {"figure4.png", "figure5.pdf"} <= {p.name for p in (REFERENCE / "mini").iterdir()}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_rows_alone_give_the_committed_files_without_a_deep_learning_library(profile, tmp_path):
    shutil.copytree(REFERENCE / profile / "rows", tmp_path / profile / "rows")
    subprocess.run([sys.executable, "-c", BUILD, profile, tmp_path], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    committed = [p for p in (REFERENCE / profile).iterdir() if p.is_file() and p.name != "report.html"]
    built = {p.name for p in (tmp_path / profile).iterdir() if p.is_file()}
    assert built == {p.name for p in committed} | {"report.html"}
    # Another matplotlib may draw a figure's last pixel otherwise.
    drawn_alike = f"matplotlib=={version('matplotlib')};" in (ROOT / "requirements.txt").read_text().replace(" ", "")
    for path in committed:
        if path.suffix in (".md", ".csv", ".tex") or (path.suffix == ".png" and drawn_alike):
            assert (tmp_path / profile / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("profile", PROFILES)
def test_only_embedded_images_are_committed_and_at_least_48_cases_of_them(profile):
    gallery = REFERENCE / profile / "rows" / "gallery.json"
    assert Results(REFERENCE / profile).grid[0].header.data == "mini" or not gallery.exists()
    if gallery.exists():
        cases = Results(REFERENCE / profile).gallery
        assert len(cases) == len(read_json(gallery)["cases"]) >= 48
        assert {case["true"] == case["answer"] for case in cases} == {True, False}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_committed_files_name_no_folder_of_the_machine_that_ran(profile):
    for path in (REFERENCE / profile).rglob("*"):
        if path.suffix in (".json", ".csv", ".md", ".tex"):
            assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", path.read_text(encoding="utf-8")), path


def test_the_readme_quotes_the_summary_of_the_reference_run():
    assert quoted("README.md", "summary") == summary(REFERENCE / "mini")


@pytest.mark.parametrize(("profile", "block"), [("mini", "study"), ("photos", "study photos")])
def test_fidelity_quotes_the_committed_study(profile, block):
    (means,) = [table for table in study_tables(Results(REFERENCE / profile)) if table.name == "study_means"]
    assert quoted("FIDELITY.md", block) == markdown(means)
