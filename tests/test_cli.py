"""The command line: its commands, its exit codes, and one clear message for every mistake a user can mend."""

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from unmask_tf.cli import cli, main
from unmask_tf.config import PROFILES
from unmask_tf.reproduce import run
from unmask_tf.reproduce.artefacts import prepare, read_taxonomy
from unmask_tf.taxonomy import Taxonomy

REPOSITORY = Path(__file__).parents[1]
STAGES = {"data", "train-k", "evaluate-k", "train-m", "attack", "evaluate", "tables", "figures", "report", "compare"}


@pytest.fixture
def data(tmp_path):
    """One class image per split and class of cs3a."""
    for split in ("train", "val", "test"):
        for name in ("car", "person", "train"):
            folder = tmp_path / "data" / "classes" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "0.png")
    return tmp_path / "data"


def error_of(capsys, *arguments):
    """The message of a command that must end with 2."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_there_is_a_command_for_every_stage():
    assert set(cli.commands) >= STAGES | {"reproduce", "contact-sheet", "bench", "adversarial-training"}


def test_help_imports_no_heavy_library():
    script = (
        "import sys; from unmask_tf.cli import main\n"
        "for arguments in (['--help'], ['reproduce', '--help']):\n"
        "    main(arguments)\n"
        "print('loaded:', sorted({'tensorflow', 'keras', 'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "loaded: []"
    for stage in STAGES:
        assert re.search(rf"^  {stage} ", result.stdout, re.MULTILINE), stage
    for option in ("--profile", "--data", "--limit", "--k-weights", "--results"):
        assert option in result.stdout


def test_an_unknown_profile_is_named_with_the_known_ones(capsys):
    message = error_of(capsys, "reproduce", "--profile", "nano")
    assert "'nano'" in message
    assert all(name in message for name in PROFILES)


@pytest.mark.parametrize("command", ["data", "train-m", "adversarial-training", "evaluate", "reproduce"])
def test_a_missing_data_folder_is_named(capsys, tmp_path, command):
    missing = tmp_path / "nowhere"
    message = error_of(capsys, command, "--data", missing, "--results", tmp_path)
    assert str(missing) in message
    assert "DATA=" in message
    assert list(tmp_path.iterdir()) == []


def test_a_profile_without_its_data_says_where_data_belongs(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("unmask_tf.reproduce.artefacts.ROOT", tmp_path)
    assert "dataset/README.md" in error_of(capsys, "data", "--profile", "paper")


def test_a_class_set_the_data_does_not_know_is_named(capsys, data):
    message = error_of(capsys, "data", "--profile", "photos", "--data", data)
    assert "'photo3'" in message
    assert "cs3a" in message


def test_a_broken_taxonomy_is_named(capsys, data):
    (data / "taxonomy.json").write_text('{"parts": ["wheel"]')
    assert str(data / "taxonomy.json") in error_of(capsys, "data", "--data", data)


def test_a_missing_class_folder_is_named(capsys, data):
    (data / "classes" / "test" / "train" / "0.png").unlink()
    (data / "classes" / "test" / "train").rmdir()
    assert str(data / "classes" / "test" / "train") in error_of(capsys, "data", "--data", data)


@pytest.mark.parametrize("limit", ["0", "-3", "2"])
def test_a_limit_too_small_is_refused(capsys, data, limit):
    assert f"limit is {limit}" in error_of(capsys, "attack", "--data", data, "--limit", limit)


def test_missing_weights_of_k_are_named(capsys, data, tmp_path):
    message = error_of(capsys, "evaluate", "--data", data, "--k-weights", tmp_path / "k.h5", "--results", tmp_path)
    assert str(tmp_path / "k.h5") in message


def test_tables_without_records_say_what_to_run(capsys, tmp_path):
    for command in ("tables", "figures", "report", "compare"):
        assert "make evaluate PROFILE=mini-full" in error_of(
            capsys, command, "--profile", "mini-full", "--results", tmp_path
        )


def test_a_results_folder_that_cannot_be_written_is_named(capsys, data, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert str(tmp_path / "file") in error_of(capsys, "train-m", "--data", data, "--results", tmp_path / "file")


@pytest.mark.parametrize("arguments", [["--limit", "many"], ["--colour"]])
def test_wrong_usage_exits_with_2(capsys, arguments):
    assert main(["reproduce", *arguments]) == 2
    assert "Usage" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(capsys, data, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_stages", interrupted)
    assert main(["train-m", "--data", str(data), "--results", str(tmp_path)]) == 130
    assert "goes on" in capsys.readouterr().err


def test_a_users_own_classes_need_no_change_of_code(data, capsys):
    Taxonomy(("wheel", "door"), {"car": ("wheel", "door"), "train": ("door",)}, {"cs3a": ("train", "car")}).to_json(
        data / "taxonomy.json"
    )
    assert main(["data", "--data", str(data)]) == 0
    assert "2 train, 2 val, 2 test images" in capsys.readouterr().out


def test_data_with_other_parts_than_the_shipped_k_s_gets_a_k_of_its_own(data, tmp_path, monkeypatch):
    shipped, results = tmp_path / "weights", tmp_path / "results"
    shipped.mkdir()
    weights = shipped / "unmask_k_mini.h5"
    monkeypatch.setattr("unmask_tf.reproduce.artefacts.WEIGHTS_FOLDER", shipped)
    own = results / "mini" / "models" / "unmask_k_mini.h5"

    def chosen(parts, listed):
        with h5py.File(weights, "w") as file:
            if parts:
                file["training_state/parts"] = [part.encode() for part in parts]
        (shipped / "SHA256SUMS").write_text(f"{'0' * 64}  unmask_k_mini.h5\n" if listed else "")
        return prepare("mini", data=data, results=results).k_weights

    parts = read_taxonomy(data).parts
    assert chosen(parts, listed=True) == weights
    assert chosen(parts[::-1], listed=True) == own
    assert chosen((), listed=True) == weights  # such a file does not say
    assert chosen(parts[::-1], listed=False) == weights  # the user's file: a mistake, which is said
    weights.write_bytes(b"damaged")
    (shipped / "SHA256SUMS").write_text(f"{'0' * 64}  unmask_k_mini.h5\n")
    assert prepare("mini", data=data, results=results).k_weights == weights
    assert prepare("mini", data=data, results=results, k_weights=weights).k_weights == weights


def test_shipped_weights_are_never_trained_over(data, tmp_path, monkeypatch, capsys):
    shipped = tmp_path / "weights"
    shipped.mkdir()
    (shipped / "unmask_k_mini.h5").write_bytes(b"shipped")
    (shipped / "SHA256SUMS").write_text(f"{'0' * 64}  unmask_k_mini.h5\n")
    monkeypatch.setattr("unmask_tf.reproduce.artefacts.WEIGHTS_FOLDER", shipped)
    asked = []
    monkeypatch.setattr(run, "run_stages", lambda a_run, command: asked.append(a_run.k_weights))
    assert main(["train-k", "--data", str(data), "--results", str(tmp_path / "results")]) == 0
    assert main(["train-k", "--data", str(data), "--k-weights", str(tmp_path / "mine.h5")]) == 0
    assert asked == [tmp_path / "results" / "mini" / "models" / "unmask_k_mini.h5", tmp_path / "mine.h5"]
