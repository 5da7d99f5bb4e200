"""Running the line search: what is enumerated, kept, resumed after a kill, and that test images are never read."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_search
from fake_stages import FakeStages, _rng, make_run

from unmask_tf.cli import main
from unmask_tf.errors import InputError
from unmask_tf.files import read_json
from unmask_tf.reproduce import line_search_run, run
from unmask_tf.reproduce.line_search import LineSearchConfig, Outcome, read_searches
from unmask_tf.reproduce.line_search_run import LineSearch, run_line_search
from unmask_tf.reproduce.run import run_stages

REPOSITORY = Path(__file__).parents[2]
EPSILONS = (1, 2, 4, 6, 8, 16)


class FakeSearch(LineSearch):
    """Notes each training and draws its accuracies from its name."""

    def train(self, class_set, architecture, epsilon, train, val, workdir, progress):
        FakeStages(self.run).note("search", class_set, architecture, epsilon, self.settings(epsilon).step)
        workdir.mkdir(parents=True)
        (workdir / "checkpoint.npz").write_bytes(b"state")
        progress(1.0)
        row = {"epoch": 1, "loss": 1.0, "val_accuracy": 1.0, "val_attacked_accuracy": 0.5, "score": 0.75}
        return (class_set, architecture, epsilon), [row] * self.settings(epsilon).epochs

    def evaluate(self, model, val, workdir, progress):
        cells = (("none", 0), *self.run.profile.attack.cells())
        counts = _rng(model).integers(0, len(val) + 1, len(cells))
        return [Outcome(attack=a, epsilon_255=e, correct=int(n)) for (a, e), n in zip(cells, counts, strict=True)]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def calls(folder):
    log = folder / "results" / "log.txt"
    return log.read_text().splitlines() if log.exists() else []


def finish(root, config=LineSearchConfig(), **options):  # noqa: B008
    a_run = make_run(root, **options)
    search = FakeSearch(a_run, config)
    run_line_search(a_run, config, search=search, stages=FakeStages(search.run))
    return a_run


def test_a_search_trains_the_benign_models_then_each_architecture_with_each_epsilon(tmp_path):
    a_run = finish(tmp_path)
    benign = ["train-m cs3a resnet50 none", "train-m cs3a densenet121 none"]
    searched = [f"search cs3a {m} {e} 2.0" for m in ("resnet50", "densenet121") for e in EPSILONS]
    assert calls(tmp_path) == benign + searched
    points = read_searches(a_run.folder)["released"]
    assert [(p.model, p.epsilon_255) for p in points] == [(m, e) for m in ("resnet50", "densenet121") for e in EPSILONS]
    # Four validation images a class; K, test images and the grid have no part in it.
    assert {(p.profile, p.class_set, p.n, p.iterations, p.best_epoch) for p in points} == {("mini", "cs3a", 12, 7, 1)}
    assert {len(p.outcomes) for p in points} == {1 + 8}
    assert not (a_run.folder / "records").exists()


def test_a_finished_search_is_a_no_op_and_leaves_records_only(tmp_path):
    a_run = finish(tmp_path)
    first = calls(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (a_run.folder / "line_search").rglob("*")}
    assert {p.suffix for p in before if p.is_file()} == {".json"}
    assert len(before) == 1 + 12  # the variant's folder; no checkpoint stays
    finish(tmp_path)
    assert calls(tmp_path) == first
    assert {p: p.stat().st_mtime_ns for p in (a_run.folder / "line_search").rglob("*")} == before


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:200])])
def test_only_a_lost_or_damaged_record_is_computed_again(tmp_path, damage):
    a_run = finish(tmp_path)
    first = len(calls(tmp_path))
    damage(a_run.folder / "line_search" / "released" / "cs3a__densenet121__eps_6.json")
    finish(tmp_path)
    assert calls(tmp_path)[first:] == ["search cs3a densenet121 6 2.0"]


def test_more_epsilons_keep_what_is_there(tmp_path):
    config = LineSearchConfig(epsilons_255=(4.0, 1.5), architectures=("densenet121",))
    finish(tmp_path, config)
    assert calls(tmp_path) == [
        "train-m cs3a densenet121 none",
        "search cs3a densenet121 4 2.0",
        "search cs3a densenet121 1.5 2.0",
    ]
    a_run = finish(tmp_path)
    assert len(calls(tmp_path)) == 3 + 1 + 6 + 5
    points = read_searches(a_run.folder)["released"]
    assert [p.epsilon_255 for p in points if p.model == "densenet121"] == [1, 1.5, 2, 4, 6, 8, 16]


def test_recipes_and_shortened_searches_stand_beside_the_whole_one(tmp_path):
    finish(tmp_path)
    first = len(calls(tmp_path))
    one = {"epsilons_255": (4,), "architectures": ("resnet50",)}
    finish(tmp_path, LineSearchConfig(recipe="madry", **one))
    finish(tmp_path, LineSearchConfig(epochs=3, images=6, **one))
    a_run = finish(tmp_path, LineSearchConfig(**one), limit=3)
    assert calls(tmp_path)[first:] == [
        f"search cs3a resnet50 4 {2 / 255}",
        "search cs3a resnet50 4 2.0",
        "search cs3a resnet50 4 2.0",
    ]
    found = read_searches(a_run.folder)
    assert {name: len(points) for name, points in found.items()} == {
        **{"released": 12, "madry": 1, "released-epochs3-images6": 1, "released-limit3": 1}
    }
    assert [len(found["released-epochs3-images6"][0].history), found["released-epochs3-images6"][0].n] == [3, 6]
    assert found["released-limit3"][0].n == 3
    assert len({points[0].config_hash for points in found.values()}) == 4


def test_records_of_other_data_are_replaced_not_mixed(tmp_path, capsys):
    a_run = finish(tmp_path)
    hashes = {p.config_hash for p in read_searches(a_run.folder)["released"]}
    (tmp_path / "data" / "classes" / "train" / "car" / "0.png").unlink()
    finish(tmp_path, LineSearchConfig(epsilons_255=(4,)))
    points = read_searches(a_run.folder)["released"]
    assert len(points) == 2
    assert hashes.isdisjoint(p.config_hash for p in points)
    assert "12 records of other settings are replaced" in capsys.readouterr().out


def test_the_grid_does_not_run_the_search(tmp_path):
    a_run = make_run(tmp_path)
    run_stages(a_run, "reproduce", FakeStages(a_run))
    assert not (a_run.folder / "line_search").exists()


def test_a_profile_that_starts_from_initial_weights_trains_no_benign_model(tmp_path):
    a_run = make_run(tmp_path)
    adversarial = replace(a_run.profile.adversarial_training, from_benign=False)
    a_run = replace(a_run, profile=replace(a_run.profile, adversarial_training=adversarial))
    config = LineSearchConfig(epsilons_255=(4,))
    run_line_search(a_run, config, search=FakeSearch(a_run, config), stages=FakeStages(a_run))
    assert calls(tmp_path) == ["search cs3a resnet50 4 2.0", "search cs3a densenet121 4 2.0"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"architectures": ("vgg16",)}, "'vgg16'.*resnet50, densenet121"), ({"class_sets": ("cs5a",)}, "'cs5a'.*cs3a")],
)
def test_what_the_profile_does_not_have_is_named(tmp_path, wrong, named):
    with pytest.raises(InputError, match=named):
        LineSearch(make_run(tmp_path), LineSearchConfig(**wrong))


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """The command's options; the computations behind it are fakes."""
    make_run(tmp_path)
    monkeypatch.setattr(line_search_run, "LineSearch", FakeSearch)
    monkeypatch.setattr(line_search_run, "Stages", FakeStages)
    monkeypatch.setattr(run, "Stages", FakeStages)
    return ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]


def test_the_command_ends_in_figures_2_and_3_and_draws_them_once(tmp_path, faked, capsys):
    command = ["adversarial-training", *faked, "--recipe", "madry", "--epsilons", "2,8", "--architectures", "resnet50"]
    assert main(command) == 0
    folder = tmp_path / "results" / "mini"
    names = {"line_search-madry.csv", "line_search-madry.md", "figure2-madry.png", "figure3-madry.png"}
    assert {path.name for path in folder.iterdir() if path.is_file()} == names | {"taxonomy.json", ".lock"}
    assert calls(tmp_path) == ["train-m cs3a resnet50 none"] + [f"search cs3a resnet50 {e} {2 / 255}" for e in (2, 8)]
    before = {name: (folder / name).stat().st_mtime_ns for name in names}
    assert main(command) == 0
    assert "figure3-madry.png is up to date" in capsys.readouterr().out
    assert {name: (folder / name).stat().st_mtime_ns for name in names} == before
    # Without training: from the records alone.
    (folder / "figure2-madry.png").unlink()
    assert main(["figures", *faked]) == 0
    assert (folder / "figure2-madry.png").stat().st_mtime_ns > before["figure2-madry.png"]
    assert "make evaluate PROFILE=mini" in capsys.readouterr().out
    assert len(calls(tmp_path)) == 3


def test_figures_without_a_search_say_what_to_run(tmp_path, faked, capsys):
    a_run = make_run(tmp_path)
    run_stages(a_run, "reproduce", FakeStages(a_run))
    assert main(["figures", *faked]) == 0
    assert "make adversarial-training PROFILE=mini" in capsys.readouterr().out
    assert (a_run.folder / "figure4.png").is_file()
    assert not (a_run.folder / "figure2.png").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--epsilons", "1,two"], "'1,two'"),
        (["--epsilons", "0,4"], "'0, 4'"),
        (["--epsilons", "4,4"], "'4, 4'"),
        (["--epsilons", ","], "''"),
        (["--epochs", "0"], "epochs is 0"),
        (["--images", "0"], "images is 0"),
        (["--images", "2"], "3 classes"),
        (["--architectures", "resnet50,alexnet"], "'alexnet'"),
        (["--limit", "2"], "limit is 2"),
    ],
)
def test_bad_options_are_refused_with_one_message(tmp_path, faked, capsys, options, named):
    assert main(["adversarial-training", *faked, *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert named in lines[0]


def content(root):
    """Every record of the search without its wall time."""
    paths = sorted(path for path in (root / "results").rglob("*.json") if "line_search" in path.parts)
    return {path.name: {k: v for k, v in read_json(path).items() if k != "wall_s"} for path in paths}


def start(root, number):
    """Starts the tiny search in a process of its own, as every user's is; it pauses while it writes file `number`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, tiny_search.__file__, str(root), str(number)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def run_to_its_end(root):
    """Runs the tiny search to its end; returns what it printed."""
    process = start(root, 10**9)
    said, _ = process.communicate()
    assert process.returncode == 0
    return said


def kill_at(root, number):
    """Runs the tiny search until it writes file `number`, and kills it there with SIGKILL."""
    process = start(root, number)
    patience = time.monotonic() + 600
    try:
        while not (root / "paused").exists():
            assert process.poll() is None, "the search ended before it was to be killed"
            assert time.monotonic() < patience, "the search did not reach the file"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list((root / "results").rglob(".partial-*")), "the kill was to hit a write"
    (root / "paused").unlink()


def test_a_killed_search_goes_on_and_gives_the_same_records(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    said = run_to_its_end(tmp_path / "whole")
    assert said.count("epoch 1 of 2") == said.count("epoch 2 of 2") == 2

    # In the checkpoint of the first training's second epoch; then, that training over, in the second one's last attack.
    benign, epoch, outcomes = tiny_search.BENIGN_FILES, tiny_search.EPOCH_FILES, tiny_search.OUTCOME_FILES
    kill_at(tmp_path / "killed", benign + epoch)
    kill_at(tmp_path / "killed", (epoch + outcomes + 1) + 2 * epoch + outcomes - 1)
    assert ", epoch " not in run_to_its_end(tmp_path / "killed"), "a finished training was run again"
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert sorted(content(tmp_path / "whole")) == ["cs3a__resnet50__eps_16.json", "cs3a__resnet50__eps_2.json"]
    assert not list((tmp_path / "killed" / "results").rglob(".partial-*"))
    # Nothing of it was faked: the attacks were run and checked.
    for point in content(tmp_path / "whole").values():
        assert [len(outcome["checks"]) > 10 for outcome in point["outcomes"]] == [False, True, True]
        assert [row["epoch"] for row in point["history"]] == [1, 2]
