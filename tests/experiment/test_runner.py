"""The runner: every step once, nothing twice, and the same rows after any kill, wherever the steps run."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_runs import HERE, smaller

from unmask_tf.errors import InputError
from unmask_tf.experiment.grid import Grid
from unmask_tf.experiment.publish import finished, publish, publish_k
from unmask_tf.experiment.rows import read_bundle
from unmask_tf.experiment.runner import Workers, run
from unmask_tf.experiment.setup import prepare

PLUGINS = ("fake_science",)
# A class set, an architecture, M and its adversarially trained form, one attack at two strengths, three chunks of parts
# and those of the validation images, four defences and the validation images' answers.
STEPS = {"train_m": 2, "attack": 4, "extract": 4, "answer": 4 * 3 + 1, "evaluate_k": 1}


def kinds(lines):
    return dict(Counter(line.split()[0] for line in lines))


def finish(a_run, crew=None):
    grid = Grid(a_run)
    answers, model_k = list(grid.answers()), grid.evaluate_k()
    outputs = run([*answers, model_k], a_run.folder, crew=crew, plugins=PLUGINS)
    publish(a_run.folder, "grid", answers, outputs)
    publish_k(a_run.folder, "model_k", outputs[model_k])
    return outputs


def rows_of(folder):
    return (folder / "rows" / "grid.csv").read_bytes()


@pytest.fixture
def small(make_run):
    return smaller(make_run())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The rows of a run that nobody disturbed, in this process."""
    from small_runs import make_data

    root = tmp_path_factory.mktemp("undisturbed")
    make_data(root / "data")
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parents[1]}", "FAKE_LOG": str(root / "log.txt")}
    subprocess.run([sys.executable, str(HERE / "small_grid.py"), str(root), "0"], env=environment, check=True)
    return rows_of(root / "results" / "mini")


def test_every_step_is_computed_once_and_a_finished_run_is_a_no_op(small, fake, computed, undisturbed):
    finish(small)
    assert kinds(computed()) == STEPS
    before = {p: p.stat().st_mtime_ns for p in small.folder.rglob("*-*.*")}
    assert len(before) == 2 * sum(STEPS.values())
    finish(small)
    assert kinds(computed()) == STEPS
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert rows_of(small.folder) == undisturbed
    assert not list(small.folder.rglob(".lock-*")) and not list(small.folder.rglob(".work-*"))


def test_the_time_of_each_kind_is_told_the_longest_first(small, fake, capsys):
    outputs = finish(small)
    assert outputs
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[time] ")]
    told = dict(part.rsplit(" ", 1) for part in line.removeprefix("[time] ").split(", "))
    assert set(told) == set(STEPS) and all(re.fullmatch(r"\d\d:\d\d", time) for time in told.values())
    finish(small)
    assert "[time]" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["answer", "extract", "attack", "train_m"])
@pytest.mark.parametrize("how", ["lost", "cut", "header lost"])
def test_only_a_lost_or_damaged_output_is_made_again(small, fake, computed, undisturbed, kind, how):
    finish(small)
    first = len(computed())
    path = sorted(p for p in (small.folder / kind).iterdir() if not p.name.endswith(".header.json"))[0]
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        (path if how == "lost" else next((small.folder / kind).glob(f"{path.name.split('.')[0]}.header.json"))).unlink()
    finish(small)
    assert kinds(computed()[first:]) == {kind: 1}
    assert rows_of(small.folder) == undisturbed


def test_one_changed_image_reaches_exactly_what_reads_it(small, fake, computed, home):
    finish(small)
    first = len(computed())
    image = home / "data" / "classes" / "val" / "car" / "0.png"
    from PIL import Image

    Image.new("RGB", (8, 8), (9, 9, 9)).save(image)
    finish(small)
    # M's trainings read validation images, and with them everything but the test images' benign parts and K's score.
    assert kinds(computed()[first:]) == {"train_m": 2, "attack": 4, "extract": 3, "answer": 13}


def test_other_weights_of_k_extract_again_but_attack_nothing(small, fake, computed, home):
    finish(small)
    first = len(computed())
    (home / "k.h5").write_bytes(b"other weights of K")
    finish(small)
    assert kinds(computed()[first:]) == {"extract": 4, "answer": 6, "evaluate_k": 1}


def test_worker_processes_give_the_rows_of_one_process_and_each_training_its_own(small, computed, undisturbed):
    finish(small, Workers(2, threads=1))
    assert rows_of(small.folder) == undisturbed
    assert kinds(computed()) == STEPS
    processes = [line.split()[2] for line in computed() if line.startswith("train_m")]
    assert len(set(processes)) == 2


def start(home, *arguments, **variables):
    environment = {**os.environ, **variables}
    command = [sys.executable, str(HERE / "small_grid.py"), str(home), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(path, process, seconds=120):
    patience = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the run ended before it was to be killed"
        assert time.monotonic() < patience, "the run did not get so far"
        time.sleep(0.02)


@pytest.mark.parametrize("step", [0, 3, 11, 20])
def test_a_driver_killed_in_the_middle_of_a_write_goes_on_and_gives_the_same_rows(home, computed, undisturbed, step):
    process = start(home, "0", FAKE_PAUSE=str(step))
    wait_for(home / "log.paused", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = computed()
    assert len(killed) == step + 1
    assert list((home / "results").rglob(".partial-*")), "the kill was to hit a write"
    assert start(home, "0").wait() == 0
    # Only the step at work is computed twice.
    assert computed()[step + 1].split()[:2] == killed[-1].split()[:2]
    assert len(computed()) == sum(STEPS.values()) + 1
    assert not list((home / "results").rglob(".partial-*"))
    assert rows_of(home / "results" / "mini") == undisturbed


def test_a_driver_killed_takes_its_workers_along(home, computed, undisturbed):
    process = start(home, "2", FAKE_PAUSE="5")
    wait_for(home / "log.paused", process)
    workers = {int(line.split()[2]) for line in computed()}
    process.send_signal(signal.SIGKILL)
    process.wait()
    patience = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert start(home, "2").wait() == 0
    assert rows_of(home / "results" / "mini") == undisturbed


def test_a_killed_worker_is_replaced_and_its_step_begun_again(home, computed, undisturbed):
    process = start(home, "2", FAKE_PAUSE="4")
    wait_for(home / "log.paused", process)
    os.kill(int(computed()[4].split()[2]), signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert len(computed()) == sum(STEPS.values()) + 1
    assert rows_of(home / "results" / "mini") == undisturbed


@pytest.mark.slow
def test_ten_kills_at_random_moments_of_workers_or_driver_lose_nothing(home, computed, undisturbed):
    draw = random.Random(0)
    for _ in range(10):
        process = start(home, "2", FAKE_SLOW="0.1")
        time.sleep(draw.uniform(1.0, 8.0))
        workers = [int(line.split()[2]) for line in computed()[-2:]]
        victim = draw.choice([process.pid, *workers])
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
        if victim != process.pid:
            time.sleep(0.5)
            process.kill()
        process.wait()
    assert start(home, "2").wait() == 0
    assert rows_of(home / "results" / "mini") == undisturbed


def test_a_step_whose_worker_dies_twice_fails_with_advice_and_keeps_the_rest(small, monkeypatch, computed):
    monkeypatch.setenv("FAKE_DIE", "attack")
    with pytest.raises(InputError, match="WORKERS=1"):
        finish(small, Workers(1, threads=1))
    assert kinds(computed())["train_m"] == 1
    monkeypatch.delenv("FAKE_DIE")
    finish(small, Workers(1, threads=1))
    assert kinds(computed())["train_m"] == 2


def test_a_full_disk_leaves_no_half_written_file(small, fake, monkeypatch, undisturbed):
    write = Path.write_bytes

    def full(path, content):
        if path.parent.name == "answer" and len(list(path.parent.glob("[!.]*.csv"))) == 3:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        finish(small)
    assert len(list((small.folder / "answer").glob("[!.]*.csv"))) == 3
    monkeypatch.setattr(Path, "write_bytes", write)
    finish(small)
    assert rows_of(small.folder) == undisturbed


def test_a_folder_that_cannot_be_written_is_named(make_run, home):
    (home / "results").write_text("a file")
    with pytest.raises(InputError, match="--results"):
        finish(smaller(make_run()))


def test_no_worker_at_all_is_refused():
    with pytest.raises(InputError, match="WORKERS"):
        Workers(0)


def test_chunks_of_extraction_give_the_same_rows_in_the_images_order(small, fake):
    from dataclasses import replace

    detector = replace(small.profile.part_detector, chunk=5)
    chunked = replace(small, profile=replace(small.profile, part_detector=detector))
    finish(chunked)
    found = read_bundle(chunked.folder / "rows", "grid")
    um = next(r for r in found if r.header.defence == "um" and r.header.attack == "none")
    assert len(list((chunked.folder / "extract").glob("*.header.json"))) == 4 * 3
    assert list(um.rows["image"]) == [
        f"classes/test/{name}/{i}.png" for name in ("car", "person", "train") for i in range(4)
    ]
    assert um.rows["parts"].notna().all()


def test_the_driver_of_workers_imports_neither_tensorflow_nor_torch(home):
    script = (
        "import sys; from pathlib import Path; from unmask_tf.experiment.setup import prepare\n"
        "from unmask_tf.experiment.grid import Grid; from unmask_tf.experiment.runner import Workers, run\n"
        f"grid = Grid(prepare('mini', data='{home}/data', results='{home}/results', k_weights='{home}/k.h5'))\n"
        "list(grid.answers()); grid.evaluate_k()\n"
        "print(sorted({'tensorflow', 'keras', 'torch'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_a_limit_keeps_the_models_and_makes_the_rest_again(fake, make_run, computed):
    finish(smaller(make_run()))
    first = len(computed())
    limited = smaller(make_run(limit=6))
    finish(limited)
    assert kinds(computed()[first:]) == {"attack": 4, "extract": 3, "answer": 12, "evaluate_k": 1}
    assert {rows.n for rows in read_bundle(limited.folder / "rows", "grid")} == {6}


def test_a_step_counts_as_finished_while_its_output_is_whole_and_up_to_date(fake, make_run, home):
    a_run = make_run()
    step = Grid(a_run).model("cs3a", "resnet50")
    assert finished(a_run, step) is None
    assert not a_run.folder.exists()
    output = run([step], a_run.folder)[step]
    assert finished(a_run, Grid(a_run).model("cs3a", "resnet50")) == output.path
    assert finished(a_run, Grid(a_run).model("cs3a", "vgg16")) is None
    output.path.write_bytes(b"damaged")
    assert finished(a_run, step) is None
    run([step], a_run.folder)
    (home / "data" / "classes" / "train" / "car" / "0.png").unlink()
    assert finished(a_run, Grid(a_run).model("cs3a", "resnet50")) is None


def test_prepare_names_what_is_missing(home):
    for options, text in (
        ({"limit": 0}, "limit is 0"),
        ({"limit": 2}, "at least one image a class"),
        ({"data": home / "no"}, "DATA="),
        ({"k_weights": home / "no.h5"}, "no.h5"),
        ({"class_sets": ("cs9",)}, "cs9"),
    ):
        defaults = {"data": home / "data", "results": home / "results", "k_weights": home / "k.h5"}
        with pytest.raises(InputError, match=text):
            prepare("mini", **(defaults | options))


def test_a_weights_file_that_differs_from_its_listing_is_refused_first(home, make_run):
    (home / "SHA256SUMS").write_text(f"{'0' * 64}  k.h5\n")
    with pytest.raises(InputError, match="SHA256SUMS"):
        make_run()


def test_no_more_workers_start_than_there_are_tasks_and_they_share_all_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    crew = Workers(4)
    for tasks, workers, threads in ((0, 1, 8), (1, 1, 8), (3, 3, 2), (9, 4, 2)):
        given = [SimpleNamespace(output=SimpleNamespace(key=str(i)), input_keys={}) for i in range(tasks)]
        monkeypatch.setattr(Workers, "_hand_out", lambda *_: None)
        assert not list(crew.run(given, None))
        assert (crew.count, crew.threads) == (workers, threads)
