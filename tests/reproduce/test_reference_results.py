"""The committed results of our own runs: their records give the tables and the report, and the README quotes them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from unmask_tf.attacks.threat_models import PRESETS
from unmask_tf.reproduce.artefacts import read_taxonomy
from unmask_tf.reproduce.published import read_published
from unmask_tf.reproduce.records import read_all
from unmask_tf.reproduce.report import report_run, summary
from unmask_tf.reproduce.study import study_csv, study_markdown, study_table
from unmask_tf.reproduce.tables import read_model_k

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference"
PROFILES = sorted(path.name for path in REFERENCE.iterdir() if (path / "records").is_dir())
# What the report is made of; a line search where one was run.
PARTS = ("records", "taxonomy.json", "model_k.json", "line_search")
TEXTS = ("table4.csv", "table4.md", "auc.csv", "auc.md", "table2.md", "table3.md", "report.md")


def test_the_profile_of_make_reproduce_is_among_them_with_all_figures() -> None:
    assert "mini" in PROFILES
    assert {f"figure{number}.png" for number in range(2, 6)} <= {p.name for p in (REFERENCE / "mini").iterdir()}
    assert (REFERENCE / "mini" / "line_search.md").is_file()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_records_alone_give_the_committed_tables_and_report(profile: str, tmp_path: Path) -> None:
    folder = REFERENCE / profile
    for source in (folder / name for name in PARTS if (folder / name).exists()):
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / source.name)
    report_run(tmp_path, read_taxonomy(tmp_path), read_published())
    for name in TEXTS:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    for name in (path.name for path in folder.glob("line_search*.*")):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    for name in (path.name for path in folder.glob("figure*.png")):
        assert (tmp_path / name).stat().st_size > 10_000


@pytest.mark.parametrize("profile", PROFILES)
def test_the_committed_files_name_no_folder_of_the_machine_that_ran(profile: str) -> None:
    for path in (REFERENCE / profile).rglob("*"):
        if path.suffix in (".json", ".csv", ".md"):
            assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users)/", path.read_text(encoding="utf-8")), path


def test_the_readme_quotes_the_summary_of_the_reference_run() -> None:
    folder = REFERENCE / "mini"
    quoted = re.search(
        r"<!-- summary: begin -->\n```\n(.*?)```\n<!-- summary: end -->", (ROOT / "README.md").read_text("utf-8"), re.S
    )
    assert quoted is not None
    assert quoted.group(1) == summary(read_all(folder / "records"), read_published(), read_model_k(folder))


@pytest.mark.parametrize(("profile", "block"), [("mini", "study"), ("photos", "study photos")])
def test_the_records_alone_give_the_committed_study_and_fidelity_quotes_it(profile: str, block: str) -> None:
    folder = REFERENCE / profile
    found = {preset: read_all(folder / "study" / preset / "records") for preset in PRESETS}
    text = study_markdown(found, read_published())
    assert (folder / "study.md").read_text("utf-8") == text
    assert (folder / "study.csv").read_text("utf-8") == study_csv(study_table(found))
    quoted = re.search(
        rf"<!-- {block}: begin -->\n(.+?)<!-- {block}: end -->", (ROOT / "FIDELITY.md").read_text("utf-8"), re.S
    )
    assert quoted is not None
    assert quoted.group(1) in text
