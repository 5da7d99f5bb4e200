"""The Makefile: its targets, how it passes options on, and what `setup` and `clean` may touch."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TARGETS = [
    *("help", "setup", "data", "train-k", "evaluate-k", "train-m", "attack", "evaluate", "tables", "figures"),
    *("report", "claims", "zoo"),
    *("reproduce", "compare", "notebooks", "test", "lint", "bench", "clean", "golden", "contact-sheet"),
    "notebooks-env",
    *("inspect", "demo", "docs", "release-k", "release-m", "quantize-k", "fetch", "flickr", "near-duplicates", "leaks"),
    *("pascal-part", "class-images", "check-data", "croissant", "bench-full"),
    *("adversarial-training", "adaptive", "study", "bench-k", "bench-k-training", "bench-attacks"),
    *("versions", "test-kernels"),
]
RUN_TARGETS = [
    *("data", "train-k", "evaluate-k", "train-m", "attack", "evaluate", "tables", "figures", "report", "reproduce"),
    *("compare", "adversarial-training", "adaptive", "study", "release-k", "release-m", "quantize-k"),
]
OPTIONS = {
    "PROFILE": ("photos", "--profile"),
    "DATA": ("../my photos", "--data"),
    "LIMIT": ("20", "--limit"),
    "K_WEIGHTS": ("k.h5", "--k-weights"),
    "WORKERS": ("3", "--workers"),
    "RAY": ("auto", "--ray"),
    "PLUGINS": ("mine,yours", "--plugins"),
    "CLASS_SETS": ("cs3a,cs5a", "--class-sets"),
    "ARCHITECTURES": ("vgg16,resnet50", "--architectures"),
    "ATTACKS": ("pgd_linf,mia_l2", "--attacks"),
    "ATTACK_PRESET": ("strong", "--attack-preset"),
    "DEFENCES": ("none,um", "--defences"),
    "EXTRACTOR": ("mine", "--extractor"),
    "K_PRESET": ("mini_robust", "--k-preset"),
    "ENGINE": ("openvino", "--engine"),
    "AT_EPOCHS": ("30", "--at-epochs"),
}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments, cwd=REPOSITORY, **environment):
    """Runs make as a user's shell would, without what a surrounding make has set."""
    clean = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=cwd, env=clean | environment, capture_output=True, text=True
    )


@pytest.fixture
def checkout(tmp_path):
    """Makefile and requirements.txt in a folder whose interpreter only logs what it is asked to do."""
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    python = tmp_path / "fake-python"
    python.write_text(
        '#!/bin/sh\necho "$@" >> log\ncase "$1 $2" in "-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def pip_calls(checkout):
    log = checkout / "log"
    return sum("pip install" in line for line in log.read_text().splitlines()) if log.exists() else 0


def test_help_lists_every_target_with_a_text():
    result = make("help")
    assert result.returncode == 0, result.stderr
    listed = [line.split() for line in result.stdout.splitlines() if re.match(r"  \S", line)]
    assert sorted(words[0] for words in listed) == sorted(TARGETS)
    assert all(len(words) > 1 for words in listed)


def test_help_names_every_option():
    before_the_list = make("help").stdout.split("\n  help")[0]
    assert set(re.findall(r"\[([A-Z_]+)=", before_the_list)) == {*OPTIONS, "IMAGE", "EXTRA"}


def test_help_is_the_default_target():
    assert make().stdout == make("help").stdout


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_parses(target):
    result = make("-n", target)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("target", RUN_TARGETS)
def test_every_option_reaches_the_command(target):
    given = [f"{name}={value}" for name, (value, _) in OPTIONS.items()]
    line = make("-n", target, *given, "EXTRA=--results elsewhere").stdout.splitlines()[-1]
    expected = " ".join(f"{option} '{value}'" for value, option in OPTIONS.values())
    assert " ".join(line.split()).endswith(f"-m unmask_tf {target} {expected} --results elsewhere")


@pytest.mark.parametrize("target", RUN_TARGETS)
def test_the_command_line_has_the_command_and_every_option(target):
    from unmask_tf.cli import cli

    known = {option for parameter in cli.commands[target].params for option in parameter.opts}
    assert known >= {option for _, option in OPTIONS.values()}


@pytest.mark.parametrize("target", ["tables", "figures", "report"])
def test_what_is_made_from_rows_makes_the_rows_first(target):
    lines = [line for line in make("-n", target, "LIMIT=20").stdout.splitlines() if "-m unmask_tf" in line]
    assert [re.search(r"-m unmask_tf (\S+)", line)[1] for line in lines] == ["evaluate", target]
    assert all("--limit '20'" in line for line in lines)


@pytest.mark.parametrize("target", ["tables", "figures", "report"])
def test_committed_rows_are_enough_and_nothing_is_run_first(target):
    lines = make("-n", target, "ROWS=results/reference", "PROFILE=photos").stdout.splitlines()
    told = [" ".join(line.split()) for line in lines if "-m unmask_tf" in line]
    assert [line.partition("-m ")[2] for line in told] == [
        f"unmask_tf {target} --profile 'photos' --results 'results/reference'"
    ]


def test_the_recipe_reaches_adversarial_training_alone():
    line = make("-n", "adversarial-training", "RECIPE=madry", "LIMIT=30").stdout.splitlines()[-1]
    assert " ".join(line.split()).endswith("adversarial-training --profile 'mini' --limit '30' --recipe 'madry'")
    assert "madry" not in make("-n", "reproduce", "RECIPE=madry").stdout


def test_images_to_inspect_and_their_options_reach_the_command():
    line = make("-n", "inspect", "IMAGE='my dog.jpg' b.png", "K_WEIGHTS=k.h5", "EXTRA=--json").stdout.splitlines()[-1]
    assert line.endswith("-m unmask_tf inspect 'my dog.jpg' b.png --k-weights 'k.h5' --json")
    assert make("-n", "demo", "EXTRA=--json").stdout.splitlines()[-1].split()[-3:] == ["unmask_tf", "demo", "--json"]


def test_sources_and_options_reach_the_commands_that_build_data():
    line = make("-n", "pascal-part", "DATA=my data", "VOC=/VOC 2010", "EXTRA=--skip").stdout.splitlines()[-1]
    assert line.endswith("-m unmask_tf pascal-part --data 'my data' --voc '/VOC 2010' --skip")
    sources = ["VOC=v", "IMAGENET=i", "FLICKR=f", "CLASS_SETS=cs3a"]
    line = make("-n", "class-images", "DATA=d", *sources).stdout.splitlines()[-1]
    expected = "class-images --data 'd' --class-sets 'cs3a' --voc 'v' --imagenet 'i' --flickr 'f'"
    assert " ".join(line.split()).endswith(expected)
    for target in ("check-data", "croissant"):
        line = make("-n", target, "PROFILE=paper", "DATA=d").stdout.splitlines()[-1]
        assert line.split()[-5:] == [target, "--profile", "'paper'", "--data", "'d'"]


def test_without_options_the_profile_is_mini():
    line = make("-n", "reproduce").stdout.splitlines()[-1]
    assert " ".join(line.split()).endswith("reproduce --profile 'mini'")


def test_notebooks_are_run_on_the_chosen_profile_data_and_k_beside_its_results():
    text = make("-n", "notebooks", "PROFILE=photos", "DATA=../my photos", "K_WEIGHTS=k.h5").stdout
    assert "UNMASK_PROFILE='photos' UNMASK_DATA='../my photos' UNMASK_K_WEIGHTS='k.h5'" in text
    assert "notebooks/execute.py --output 'results/photos/notebooks'" in text
    assert "notebooks/execute.py --commit" in make("-n", "notebooks", "EXTRA=--commit").stdout


def test_tests_that_need_photographs_run_only_with_them():
    assert "not slow and not photos" in make("-n", "test").stdout
    with_photos = make("-n", "test", UNMASK_PHOTOS="/photos").stdout
    assert "not slow" in with_photos
    assert "not photos" not in with_photos


def test_setup_installs_once_and_again_only_for_new_requirements(checkout):
    for _ in range(2):
        result = make("setup", "PYTHON=./fake-python", cwd=checkout)
        assert result.returncode == 0, result.stderr
    assert pip_calls(checkout) == 1
    os.utime(checkout / "requirements.txt", (2**31, 2**31))  # touched, not changed
    make("setup", "PYTHON=./fake-python", cwd=checkout)
    assert pip_calls(checkout) == 1
    with open(checkout / "requirements.txt", "a") as file:
        file.write("another==1.0\n")
    os.utime(checkout / "requirements.txt", (2**31, 2**31))  # later than the stamp, whatever the clock's grain
    make("setup", "PYTHON=./fake-python", cwd=checkout)
    assert pip_calls(checkout) == 2


def test_a_failed_installation_is_not_taken_for_done(checkout):
    python = checkout / "fake-python"
    working = python.read_text()
    python.write_text(working + 'case "$3" in install) exit 1;; esac\n')
    assert make("setup", "PYTHON=./fake-python", cwd=checkout).returncode != 0
    python.write_text(working)
    shutil.copy(python, checkout / ".venv/bin/python")
    assert make("setup", "PYTHON=./fake-python", cwd=checkout).returncode == 0
    assert pip_calls(checkout) == 2


def test_without_python_setup_says_what_is_missing(checkout):
    result = make("setup", "PYTHON=", cwd=checkout)
    assert result.returncode != 0
    assert "no CPython 3.10 or newer" in result.stderr


def test_setup_writes_inside_the_checkout_only(checkout, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    make("setup", "PYTHON=./fake-python", cwd=checkout, HOME=str(home))
    assert list(home.iterdir()) == []
    recipe = make("-n", "-p", "setup", cwd=checkout).stdout
    for variable in ("TMPDIR", "XDG_CACHE_HOME", "PIP_CACHE_DIR", "KERAS_HOME", "MPLCONFIGDIR", "TORCH_HOME"):
        assert f"export {variable}" in (REPOSITORY / "Makefile").read_text()
        assert f"{variable} := {checkout}" in recipe


@pytest.mark.parametrize("profile", ["", ".", "..", "../dataset", "reference", "mini/rows"])
def test_clean_refuses_what_is_no_profile(checkout, profile):
    (checkout / "results" / "reference").mkdir(parents=True)
    (checkout / "results" / "mini" / "rows").mkdir(parents=True)
    assert make("clean", f"PROFILE={profile}", cwd=checkout).returncode != 0
    assert (checkout / "results" / "reference").is_dir()
    assert (checkout / "results" / "mini" / "rows").is_dir()


def test_clean_removes_a_profiles_results_only(checkout):
    for folder in ("results/mini", "results/reference", "dataset/mini", ".venv", "unmask_tf", "tests"):
        (checkout / folder).mkdir(parents=True)
    assert make("clean", cwd=checkout).returncode == 0
    assert not (checkout / "results" / "mini").exists()
    assert (checkout / "results" / "reference").is_dir()
    assert (checkout / "dataset" / "mini").is_dir()
    assert (checkout / ".venv").is_dir()


def test_continuous_integration_runs_the_test_target():
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make --no-print-directory test" in script.read_text()
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_no_package_index_is_named():
    for name in ("Makefile", "requirements.txt", ".ci/run"):
        assert "://" not in (REPOSITORY / name).read_text()
