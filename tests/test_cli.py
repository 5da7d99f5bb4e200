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
from unmask_tf.experiment.rows import read_bundle
from unmask_tf.experiment.setup import prepare, read_taxonomy
from unmask_tf.files import read_json, sha256
from unmask_tf.mrcnn import engines
from unmask_tf.taxonomy import Taxonomy

REPOSITORY = Path(__file__).parents[1]
FAKE_SCIENCE = REPOSITORY / "tests" / "experiment"
STAGES = {
    *("data", "train-k", "evaluate-k", "train-m", "attack", "evaluate", "tables", "figures", "report", "compare"),
    *("reproduce", "adversarial-training", "adaptive", "study", "release-k", "release-m", "quantize-k"),
}
DATA_COMMANDS = {"pascal-part", "class-images", "check-data", "croissant"}
OPTIONS = {
    *("profile", "data", "limit", "k-weights", "results", "class-sets", "architectures", "attacks", "attack-preset"),
    *("defences", "extractor", "engine", "plugins", "workers", "threads", "ray"),
}

FETCHES = {"fetch", "flickr", "near-duplicates", "leaks"}


@pytest.fixture
def data(tmp_path):
    """One class image per split and class of cs3a."""
    for split in ("train", "val", "test"):
        for name in ("car", "person", "train"):
            folder = tmp_path / "data" / "classes" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "0.png")
    return tmp_path / "data"


@pytest.fixture
def asked(monkeypatch):
    """The steps that commands ask for; none is run."""
    steps = []

    def run(wanted, *_, **__):
        steps.extend(wanted)
        raise KeyboardInterrupt

    monkeypatch.setattr("unmask_tf.experiment.runner.run", run)
    monkeypatch.setattr("unmask_tf.experiment.publish.run", run)
    return steps


def error_of(capsys, *arguments):
    """The message of a command that must end with 2."""
    assert main([str(argument) for argument in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_there_is_a_command_for_every_stage():
    others = {"inspect", "demo", "claims", "zoo", "contact-sheet", "versions", "tiny"}
    assert set(cli.commands) == STAGES | DATA_COMMANDS | FETCHES | others
    for stage in STAGES:
        names = {option.lstrip("-") for parameter in cli.commands[stage].params for option in parameter.opts}
        assert names >= OPTIONS, stage


def test_help_tells_what_each_command_does_in_full(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert "..." not in listed and "tiny" not in listed
    for name, command in cli.commands.items():
        if not command.hidden:
            sentence = " ".join(command.help.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
            assert f"{name} {sentence}" in " ".join(listed.split())


def test_help_imports_no_heavy_library():
    script = (
        "import sys; from unmask_tf.cli import main\n"
        "for arguments in (['--help'], ['inspect', '--help'], ['pascal-part', '--help'], ['reproduce', '--help']):\n"
        "    main(arguments)\n"
        "print('loaded:', sorted({'tensorflow', 'keras', 'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "loaded: []"
    for stage in STAGES:
        assert re.search(rf"^  {stage}\s", result.stdout, re.MULTILINE), stage
    for option in OPTIONS:
        assert f"--{option} " in result.stdout, option


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
    monkeypatch.setattr("unmask_tf.experiment.setup.ROOT", tmp_path)
    assert "dataset/README.md" in error_of(capsys, "data", "--profile", "paper")


def test_a_class_set_the_data_does_not_know_is_named(capsys, data):
    message = error_of(capsys, "data", "--class-sets", "photo3", "--data", data)
    assert "'photo3'" in message
    assert "cs3a" in message


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("--architectures", "resnet50"),
        ("--attacks", "pgd_linf"),
        ("--attack-preset", "strong"),
        ("--defences", "algorithm1"),
        ("--extractor", "mask_rcnn"),
        ("--engine", "openvino_bfloat16"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones_before_anything_is_run(capsys, data, tmp_path, option, known):
    message = error_of(capsys, "evaluate", option, "nonsense", "--data", data, "--results", tmp_path / "results")
    assert "'nonsense'" in message
    assert known in message
    assert not (tmp_path / "results").exists()


def test_a_plugin_that_cannot_be_imported_is_named(capsys, data):
    message = error_of(capsys, "data", "--plugins", "no_such_module", "--data", data)
    assert "'no_such_module'" in message
    assert "PYTHONPATH" in message


@pytest.mark.parametrize("count", ["-1", "-8"])
def test_a_negative_number_of_workers_is_refused(capsys, data, tmp_path, count):
    message = error_of(capsys, "train-m", "--data", data, "--results", tmp_path, "--workers", count)
    assert f"{count} workers" in message
    assert "WORKERS=n" in message


def test_the_options_replace_the_profiles_names(data, tmp_path, asked):
    chosen = ["--architectures", "vgg16, mobilenet_v2", "--attacks", "mia_l2", "--defences", "none,at_madry"]
    where = ["--data", str(data), "--results", str(tmp_path / "results")]
    assert main(["evaluate", *chosen, "--class-sets", "cs3a", *where]) == 130
    answers = {
        (s.settings.model, s.settings.defence, s.settings.attack, s.settings.epsilon_255)
        for s in asked
        if s.kind == "answer"
    }
    assert answers == {
        (model, defence, attack, epsilon)
        for model in ("vgg16", "mobilenet_v2")
        for defence in ("none", "at_madry")
        for attack, epsilon in (("none", 0), ("mia_l2", 300), ("mia_l2", 600))
    }


def test_each_stage_asks_for_its_own_steps(data, tmp_path, asked):
    where = ["--data", str(data), "--results", str(tmp_path / "results"), "--architectures", "vgg16"]

    def kinds(*command):
        asked.clear()
        assert main([*command, *where]) == 130
        return [step.kind for step in asked]

    assert kinds("train-m") == ["train_m"] * 2  # benign and adversarial
    assert kinds("train-m", "--defences", "none,at,at_madry,um") == ["train_m"] * 3  # by two recipes
    assert kinds("attack", "--defences", "none,um") == ["attack"] * 2 * 8
    assert kinds("evaluate", "--defences", "none,um") == ["answer"] * 2 * 9  # the data has no annotated images
    assert kinds("study") == ["answer"] * (1 + 4 * 8)
    # Of each M 2 row sets of benign validation images, and M's and K's answers to benign test images and to 8 budgets
    # an attack; of the battery 4 attacks have all budgets and 3 have one, and there is no other M to transfer from.
    assert kinds("adaptive") == ["answer"] * (2 + 2 * (1 + 4 * 8 + 6))
    assert kinds("adaptive", "--families", "joint,parts") == ["answer"] * (2 + 2 * (1 + 2 * 8))
    assert kinds("adaptive", "--linf", "8", "--l2", "") == ["answer"] * (2 + 2 * (1 + 5))
    # Validation images: benign, 2 budgets at 6 numbers of steps and at 2 more of runs, and 4 budgets as it is set up,
    # of which 2 are among those.
    assert kinds("adaptive", "--effort") == ["answer"] * (1 + 2 * 8 + 2)
    assert {step.settings.split for step in asked} == {"val"}
    assert kinds("adaptive", "--binarisation") == ["binarise"]
    assert kinds("adversarial-training", "--epsilons", "2,4") == ["answer"] * 2 * 9
    assert [step.settings.split for step in asked] == ["val"] * 18
    assert main(["evaluate-k", *where]) == 0


def test_the_engine_belongs_to_the_steps_and_rows_unless_it_is_the_reference(data, tmp_path, asked, monkeypatch):
    where = ["--data", str(data), "--results", str(tmp_path / "results"), "--architectures", "vgg16"]
    monkeypatch.setattr(engines, "installed", lambda package: True)
    monkeypatch.setattr(engines, "capabilities", lambda: ("FP32",))
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind=None: [])

    def extraction(*options):
        asked.clear()
        assert main(["evaluate", "--defences", "um", *options, *where]) == 130
        answer = next(step for step in asked if step.kind == "answer" and step.settings.defence == "um")
        return answer.settings.extractor, answer.inputs["parts_000000"].settings.options.get("engine")

    assert extraction() == extraction("--engine", "tensorflow") == ("mask_rcnn", None)
    assert extraction("--engine", "auto") == ("mask_rcnn openvino", "openvino")


def test_tables_are_not_made_with_a_quantized_k(capsys, data):
    assert "no step's key covers" in error_of(capsys, "evaluate", "--engine", "openvino_int8", "--data", data)


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


def test_an_unknown_family_of_attacks_is_named(capsys, data):
    assert "nope" in (message := error_of(capsys, "adaptive", "--data", data, "--families", "joint,nope"))
    assert "joint, " in message


def test_missing_weights_of_k_are_named(capsys, data, tmp_path):
    message = error_of(capsys, "evaluate", "--data", data, "--k-weights", tmp_path / "k.h5", "--results", tmp_path)
    assert str(tmp_path / "k.h5") in message


def test_a_release_of_what_was_never_evaluated_is_refused(capsys, data, tmp_path):
    (tmp_path / "k.h5").write_bytes((REPOSITORY / "mask_rcnn_weights" / "unmask_k_mini.h5").read_bytes())
    where = ["--data", data, "--results", tmp_path / "results", "--k-weights", tmp_path / "k.h5"]
    message = error_of(capsys, "release-m", *where, "--out", tmp_path / "out")
    assert "no finished result of train_m cs3a_resnet50_none" in message
    assert "make evaluate PROFILE=mini" in message
    assert not (tmp_path / "out").exists()


def test_tables_without_rows_say_what_to_run(capsys, tmp_path):
    for command in ("tables", "figures", "report", "compare"):
        assert "make reproduce PROFILE=mini-full" in error_of(
            capsys, command, "--profile", "mini-full", "--results", tmp_path
        )


def test_a_results_folder_that_cannot_be_written_is_named(capsys, data, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert str(tmp_path / "file") in error_of(capsys, "train-m", "--data", data, "--results", tmp_path / "file")


@pytest.mark.parametrize("arguments", [["--limit", "many"], ["--colour"]])
def test_wrong_usage_exits_with_2(capsys, arguments):
    assert main(["reproduce", *arguments]) == 2
    assert "Usage" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(capsys, data, tmp_path, asked):
    assert main(["train-m", "--data", str(data), "--results", str(tmp_path)]) == 130
    assert "goes on" in capsys.readouterr().err


def test_a_users_own_classes_need_no_change_of_code(data, capsys):
    Taxonomy(("wheel", "door"), {"car": ("wheel", "door"), "train": ("door",)}, {"cs3a": ("train", "car")}).to_json(
        data / "taxonomy.json"
    )
    assert main(["data", "--data", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "[data] cs3a test: 2 images of 2 classes" in printed
    assert "2 train, 2 val, 2 test images" in printed


def test_data_with_other_parts_than_the_shipped_k_s_gets_a_k_of_its_own(data, tmp_path, monkeypatch):
    shipped = tmp_path / "weights"
    shipped.mkdir()
    weights = shipped / "unmask_k_mini.h5"
    monkeypatch.setattr("unmask_tf.experiment.setup.WEIGHTS_FOLDER", shipped)

    def chosen(parts, **options):
        with h5py.File(weights, "w") as file:
            if parts:
                file["training_state/parts"] = [part.encode() for part in parts]
        (shipped / "SHA256SUMS").write_text(f"{sha256(weights)}  unmask_k_mini.h5\n")
        return prepare("mini", data=data, results=tmp_path / "results", **options).k_weights

    parts = read_taxonomy(data).parts
    assert chosen(parts) == weights
    assert chosen(()) == weights  # such a file does not say
    assert chosen(parts[::-1]) is None  # a K is trained
    assert chosen(parts[::-1], k_weights=weights) == weights  # the user's choice; K itself refuses it


def test_a_shipped_k_that_is_missing_or_damaged_is_not_replaced_in_silence(capsys, data, tmp_path, monkeypatch):
    shipped = tmp_path / "weights"
    shipped.mkdir()
    weights = shipped / "unmask_k_mini.h5"
    monkeypatch.setattr("unmask_tf.experiment.setup.WEIGHTS_FOLDER", shipped)
    (shipped / "SHA256SUMS").write_text(f"{'0' * 64}  unmask_k_mini.h5\n")
    assert f"{weights} is a shipped file, and it is missing" in error_of(capsys, "data", "--data", data)
    weights.write_bytes(b"damaged")
    assert "SHA256SUMS" in error_of(capsys, "data", "--data", data)
    (shipped / "SHA256SUMS").unlink()
    assert f"{weights} cannot be read" in error_of(capsys, "data", "--data", data)


def test_shipped_weights_are_never_trained_over(data, tmp_path, monkeypatch, capsys):
    shipped = tmp_path / "weights"
    shipped.mkdir()
    weights = shipped / "unmask_k_mini.h5"
    weights.write_bytes(b"shipped")
    (shipped / "SHA256SUMS").write_text(f"{sha256(weights)}  unmask_k_mini.h5\n")
    where = ["--data", data, "--results", tmp_path / "results"]
    assert f"{weights} is a shipped file" in error_of(capsys, "train-k", *where, "--k-weights", weights)
    assert weights.read_bytes() == b"shipped"
    assert not (tmp_path / "results").exists()


def test_a_k_to_compare_with_that_does_not_exist_is_named(capsys, data, tmp_path):
    (tmp_path / "k.h5").write_bytes(b"weights")
    missing, where = tmp_path / "missing.h5", ["--data", data, "--results", tmp_path / "results"]
    assert str(missing) in error_of(capsys, "compare", *where, "--k-weights", missing)
    assert str(missing) in error_of(capsys, "compare", *where, "--k-weights", tmp_path / "k.h5", "--ours", missing)
    assert "--k-weights" in error_of(capsys, "compare", *where, "--ours", tmp_path / "k.h5")


# --- a whole run, with made-up science -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Data of four images a class and split, with part annotations, and K's weights."""
    root = tmp_path_factory.mktemp("whole_run")
    for split in ("train", "val", "test"):
        for name in ("car", "person", "train"):
            (root / "data" / "classes" / split / name).mkdir(parents=True)
            for i in range(4):
                image = Image.fromarray(np.full((8, 8, 3), 40 * i + 1, np.uint8))
                image.save(root / "data" / "classes" / split / name / f"{i}.png")
        (root / "data" / "images" / split).mkdir(parents=True)
        image.save(root / "data" / "images" / split / "a.png")
        (root / "data" / f"parts_{split}.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (root / "k.h5").write_bytes(b"weights of K")
    return root


def run_cli(home, command, *more):
    """A command on that data, without workers; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{FAKE_SCIENCE}", "FAKE_LOG": str(home / "log.txt")}
    options = ["--data", home / "data", "--results", home / "results", "--plugins", "fake_science", "--workers", "0"]
    shorter = ["--architectures", "resnet50", "--attacks", "pgd_linf", "--defences", "none,at,um,algorithm1"]
    arguments = [sys.executable, "-m", "unmask_tf", command, *options, *shorter, *more]
    result = subprocess.run(list(map(str, arguments)), env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def computed(home):
    return len((home / "log.txt").read_text().splitlines())


def test_reproduce_goes_from_the_data_to_the_report_and_a_second_time_computes_nothing(home):
    given = ["--k-weights", home / "k.h5"]
    printed = run_cli(home, "reproduce", *given)
    folder = home / "results" / "mini"
    assert printed.splitlines()[-1] == f"The whole report         {folder / 'report.html'}"
    # 2 trainings, 4 attacks, parts of 4 image sets, 12 answers and those of the validation images, K's evaluation.
    assert computed(home) == 2 + 4 + 4 + 13 + 1
    expected = {"rows/grid.csv", "rows/grid.json", "rows/model_k.json", "rows/gallery.json"}
    expected |= {"report.html", "report.md", "table4.md", "table4.tex", "figure1.png", "figure5.pdf"}
    assert all((folder / name).is_file() for name in expected)
    rows = {
        (r.header.key, row["image"]): row for r in read_bundle(folder / "rows", "grid") for _, row in r.rows.iterrows()
    }
    cases = read_json(folder / "rows" / "gallery.json")["cases"]
    assert {case["attack"] for case in cases} == {"none", "pgd_linf"}
    for case in cases:
        row = rows[case["key"], case["image"]]
        assert [case[name] for name in ("true", "answer", "score")] == row[["true", "answer", "score"]].tolist()
        assert [part for part, *_ in case["parts"]] == row["parts"].split()
        assert case["similarities"][case["model_answer"]] == row["similarity"]
    again = run_cli(home, "reproduce", *given)
    assert computed(home) == 24
    assert "[train_m] 2 of 2 finished before" in again
    for command in ("tables", "figures", "report"):
        assert str(folder) in run_cli(home, command)
    assert str(folder / "rows" / "model_k.json") in run_cli(home, "evaluate-k", *given)
    assert computed(home) == 24


def test_a_trained_k_is_kept_and_copied_where_the_user_says(home):
    before = computed(home) if (home / "log.txt").exists() else 0
    printed = run_cli(home, "train-k", "--k-weights", home / "mine.h5")
    assert f"[train-k] {home / 'mine.h5'}" in printed
    (kept,) = (home / "results" / "mini" / "train_k").glob("*.h5")
    assert (home / "mine.h5").read_bytes() == kept.read_bytes()
    assert (home / "mine.log.json").is_file()
    assert computed(home) == before + 1
    assert f"[train-k] {kept}" in run_cli(home, "train-k")
    assert computed(home) == before + 1
