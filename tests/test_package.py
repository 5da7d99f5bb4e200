"""The installed package: dependencies, public names, and a wheel that works far from the checkout."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import unmask_tf

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_pinned_versions_are_among_those_that_an_installation_allows(project):
    runtime = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("# Development")[0]
    pins = [Requirement(line) for line in runtime.splitlines() if line and not line.startswith("#")]
    allowed = {item.name: item.specifier for item in map(Requirement, project["project"]["dependencies"])}
    assert {pin.name for pin in pins} == set(allowed)
    for pin in pins:
        (version,) = (part.version for part in pin.specifier)
        assert version in allowed[pin.name], pin


def test_every_package_is_listed(project):
    listed = set(project["tool"]["setuptools"]["packages"])
    moved = set(project["tool"]["setuptools"]["package-dir"])
    found = {".".join(path.relative_to(ROOT).parent.parts) for path in (ROOT / "unmask_tf").rglob("__init__.py")}
    assert listed == found | moved


def test_public_names_are_there_and_documented():
    assert set(unmask_tf.__all__) == set(unmask_tf._HOMES) <= set(dir(unmask_tf))
    for name in unmask_tf.__all__:
        assert getattr(unmask_tf, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'load_everything'"):
        _ = unmask_tf.load_everything


def test_importing_the_package_brings_no_tensorflow():
    code = (
        "import sys, unmask_tf, unmask_tf.cli; print([n for n in ('tensorflow', 'keras', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_reference_documents_every_public_name(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "docs/build_reference.py", tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Warn" not in done.stderr
    page = (tmp_path / "unmask_tf.html").read_text(encoding="utf-8")
    for name in unmask_tf.__all__:
        assert f'id="{name}"' in page, name
    assert (tmp_path / "unmask_tf/defense/alignment.html").is_file()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The contents of the wheel, as `pip install .` would lay them out."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the wheel, is not installed")
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    # A copy, because setuptools leaves its build folder in the source.
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = files.stdout.split("\0") if files.returncode == 0 else []
    wanted = [n for n in names if n.startswith(("unmask_tf/", "mask_rcnn_weights/", "results/")) or "/" not in n]
    if not wanted:
        pytest.skip("not a git checkout")
    for name in filter(None, wanted):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    build = [
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("unmask_tf-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_holds_the_shipped_files_and_a_command(installed):
    assert (installed / "unmask_tf/published/published.json").read_bytes() == (
        ROOT / "results/published.json"
    ).read_bytes()
    rows = sorted(path.name for path in (ROOT / "results/reference/mini/rows").iterdir())
    assert sorted(path.name for path in (installed / "unmask_tf/published/reference/mini/rows").iterdir()) == rows
    listed = re.findall(r"  (\S+)$", (ROOT / "mask_rcnn_weights/SHA256SUMS").read_text(), re.M)
    assert listed
    for name in listed:
        assert (installed / "unmask_tf/mask_rcnn_weights" / name).stat().st_size > 1_000_000
    (scripts,) = installed.glob("*.dist-info/entry_points.txt")
    assert "unmask = unmask_tf.cli:main" in scripts.read_text()


def test_the_wheel_gives_a_verdict_on_a_photograph_far_from_the_checkout(installed, tmp_path):
    from PIL import Image

    Image.new("RGB", (200, 160), (90, 120, 90)).save(tmp_path / "photo.png")
    block = re.search(
        r"<!-- five lines -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S
    )[1]
    assert len([line for line in block.splitlines() if line]) <= 5
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    logged = re.findall(r"^(?:[IWE]\d{4} |WARNING: All log).*", done.stderr, re.M)
    assert logged == [], "TensorFlow's log stands between the verdicts"
    (line,) = done.stdout.splitlines()
    said = line.split()
    assert said[0] in ("bird", "car", "dog", "person", "train")
    assert said[1] in ("True", "False")
