"""The orchestration: cells are enumerated, kept, resumed after a kill, and never mixed between settings."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fake_stages
import numpy as np
import pytest
from fake_stages import FakeStages, make_run

from unmask_tf.cli import main
from unmask_tf.config import PROFILES
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.errors import InputError
from unmask_tf.reproduce import artefacts, records, run, tables
from unmask_tf.reproduce.published import read_published
from unmask_tf.reproduce.run import run_stages

REPOSITORY = Path(__file__).parents[2]
# Profile `mini`: 1 class set x 2 architectures; 4 attacks at 2 strengths; M and its adversarially trained form.
UNITS = {"train-m": 4, "attack": 4 + 32, "extract": 1 + 16, "evaluate": 2 * (1 + 8) * 3}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Hundreds of tiny files are synced by a run; no test here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def calls(folder):
    log = folder / "results" / "log.txt"
    return log.read_text().splitlines() if log.exists() else []


def kinds(lines):
    return dict(Counter(line.split()[0] for line in lines))


def finish(a_run):
    run_stages(a_run, "reproduce", FakeStages(a_run))


def table_bytes(a_run):
    paths = tables.write_tables(records.read_all(a_run.records), a_run.folder, a_run.taxonomy, read_published())
    return {path.name: path.read_bytes() for path in paths}


def test_a_run_computes_every_cell_of_the_grid_once(tmp_path):
    a_run = make_run(tmp_path)
    finish(a_run)
    assert kinds(calls(tmp_path)) == UNITS
    assert len(set(calls(tmp_path))) == sum(UNITS.values())
    found = records.read_all(a_run.records, a_run.config_hash)
    assert len(found) == 54
    assert {(r.key.defence, r.key.attack) for r in found if r.detection_scores is not None} == {
        ("um", attack) for attack in ("pgd_linf", "pgd_l2", "mia_linf", "mia_l2")
    }


def test_a_finished_run_is_a_no_op(tmp_path):
    finish(make_run(tmp_path))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "results" / "mini").rglob("*.*") if p.name != ".lock"}
    finish(make_run(tmp_path))
    assert len(calls(tmp_path)) == sum(UNITS.values())
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize(
    ("lost", "redone"),
    [
        ("records/cs3a__resnet50__um__pgd_l2_300.json", {"evaluate": 1}),
        ("parts/cs3a/resnet50/pgd_l2_300.json", {"extract": 1}),
        ("attacked/cs3a/densenet121_at/mia_l2_600.npz", {"attack": 1}),
        ("models/cs3a/densenet121_at.weights.h5", {"train-m": 1}),
    ],
)
def test_only_a_lost_file_is_made_again(tmp_path, lost, redone):
    finish(make_run(tmp_path))
    first = len(calls(tmp_path))
    (tmp_path / "results" / "mini" / lost).unlink()
    finish(make_run(tmp_path))
    assert kinds(calls(tmp_path)[first:]) == redone


def test_a_damaged_file_is_made_again(tmp_path):
    a_run = make_run(tmp_path)
    finish(a_run)
    first = len(calls(tmp_path))
    for name in ("records/cs3a__resnet50__at__none_0.json", "attacked/cs3a/resnet50_at/mia_l2_600.npz"):
        path = a_run.folder / name
        path.write_bytes(path.read_bytes()[:100])
    finish(make_run(tmp_path))
    assert kinds(calls(tmp_path)[first:]) == {"evaluate": 1, "attack": 1}


def test_a_limit_keeps_the_models_and_replaces_the_rest(tmp_path, capsys):
    whole = make_run(tmp_path)
    finish(whole)
    first = len(calls(tmp_path))
    limited = make_run(tmp_path, limit=6)
    assert limited.config_hash != whole.config_hash
    finish(limited)
    assert kinds(calls(tmp_path)[first:]) == {k: v for k, v in UNITS.items() if k != "train-m"}
    assert {record.n for record in records.read_all(limited.records)} == {6}
    assert "54 records of other settings are replaced" in capsys.readouterr().out


def test_records_outside_the_grid_never_reach_the_tables(tmp_path):
    a_run = make_run(tmp_path)
    finish(a_run)
    path = a_run.records / "cs3a__resnet50__um__pgd_l2_300.json"
    (a_run.records / "cs3a__resnet50__um__pgd_l2_900.json").write_bytes(
        path.read_bytes().replace(b'"epsilon_255": 300', b'"epsilon_255": 900')
    )
    finish(a_run)
    assert len(records.read_all(a_run.records)) == 54


def test_other_weights_of_k_extract_again_but_attack_nothing(tmp_path):
    finish(make_run(tmp_path))
    first = len(calls(tmp_path))
    (tmp_path / "other.h5").write_bytes(b"other weights of K")
    finish(make_run(tmp_path, k_weights=tmp_path / "other.h5"))
    assert kinds(calls(tmp_path)[first:]) == {"extract": UNITS["extract"], "evaluate": UNITS["evaluate"]}


def test_a_stage_alone_runs_what_it_needs_and_no_more(tmp_path):
    a_run = make_run(tmp_path)
    run_stages(a_run, "train-m", FakeStages(a_run))
    assert kinds(calls(tmp_path)) == {"train-m": 4}
    run_stages(a_run, "attack", FakeStages(a_run))
    assert kinds(calls(tmp_path)) == {"train-m": 4, "attack": 36}


def test_the_record_follows_from_verdicts_and_parts(tmp_path):
    """Three images by hand: M is fooled on the first two, K sees whole objects."""
    a_run = make_run(tmp_path, limit=3)
    stages = FakeStages(a_run)
    cell = a_run.cell("cs3a", "resnet50", "um", "pgd_linf", 8)
    labels = np.array([0, 1, 2])  # car, person, train

    def put(attack, epsilon, predictions):
        verdict = np.array(predictions)
        images = np.zeros((3, 2, 2, 3), np.uint8)
        path = a_run.attacked_path("cs3a", "resnet50", "none", attack, epsilon)
        artefacts.Attacked(images, labels, verdict, labels, {"finite": True}, 1, 2.5).write(path, "key")
        seen = [a_run.taxonomy.expected(name) for name in ("car", "person")] + [frozenset()]
        parts = a_run.parts_path("cs3a", "resnet50", attack, epsilon)
        artefacts.write_parts(parts, "key", ["a", "b", "c"], seen, 4.0)

    put("none", 0, [0, 0, 2])
    put("pgd_linf", 8, [1, 2, 2])
    stages.record(cell)
    record = records.read(cell.path(a_run.records))
    # K: car and person are named by their parts; where it sees nothing, UnMask has no answer.
    assert record.predictions == ("car", "person", None)
    assert (record.n, record.correct, record.nan_images, record.wall_s) == (3, 2, 1, 4.0)
    # M says person, train, train: the car shares no part with a person, the person only `head` with a train.
    person_train = 1 / (13 + 7 - 1)
    assert record.similarities == pytest.approx((0, person_train, 0))
    # Attacked images whose attack succeeded, then their twins: M was right on the car, wrong on the person.
    car_person = 0
    assert record.detection_labels == (1, 1, 0, 0)
    assert record.detection_scores == pytest.approx((1, 1 - person_train, 0, 1 - car_person))

    stages.record(a_run.cell("cs3a", "resnet50", "none", "pgd_linf", 8))
    none = records.read(a_run.records / "cs3a__resnet50__none__pgd_linf_8.json")
    assert none.predictions == ("person", "train", "train")
    assert (none.accuracy_float, none.accuracy_8bit) == (pytest.approx(1 / 3), 1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The tables of a run that nobody disturbed."""
    a_run = make_run(tmp_path_factory.mktemp("undisturbed"))
    finish(a_run)
    return table_bytes(a_run)


# In the middle of writing a model's history, attacked images, parts, and a record.
@pytest.mark.parametrize("unit", [2, 17, 50, 80])
def test_a_killed_run_goes_on_and_gives_the_same_tables(tmp_path, undisturbed, unit):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, fake_stages.__file__, str(tmp_path), str(unit)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 60
    while not (tmp_path / "paused").exists():
        assert process.poll() is None, "the run ended before it was to be killed"
        assert time.monotonic() < patience, "the run did not reach the unit"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed = calls(tmp_path)
    assert len(killed) == unit + 1
    assert list((tmp_path / "results").rglob(".partial-*")), "the kill was to hit a write"

    a_run = make_run(tmp_path)
    finish(a_run)
    # Only the unit at work is computed twice.
    assert calls(tmp_path)[unit + 1] == killed[-1]
    assert len(calls(tmp_path)) == sum(UNITS.values()) + 1
    assert not list((tmp_path / "results").rglob(".partial-*"))
    assert table_bytes(a_run) == undisturbed


def test_a_full_disk_leaves_no_partial_record(tmp_path, monkeypatch, capsys):
    a_run = make_run(tmp_path)
    options = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    options += ["--k-weights", str(tmp_path / "k.h5")]
    monkeypatch.setattr(run, "Stages", FakeStages)
    write = Path.write_bytes

    def full(path, content):
        if path.parent.name == "records" and len(list(path.parent.glob("[!.]*"))) == 5:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["evaluate", *options]) == 2
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(message) == 1
    assert "No space left on device" in message[0]
    assert len(list(a_run.records.iterdir())) == 5
    monkeypatch.setattr(Path, "write_bytes", write)
    assert main(["evaluate", *options]) == 0
    assert len(list(a_run.records.iterdir())) == 54
    assert kinds(calls(tmp_path)) == UNITS | {"evaluate": UNITS["evaluate"] + 1}


def test_another_run_at_work_keeps_its_temporary_files(tmp_path):
    a_run = make_run(tmp_path)
    finish(a_run)
    leftover = a_run.records / ".partial-x.json"
    leftover.touch()
    with run._at_work(a_run.folder):
        assert not leftover.exists()
        leftover.touch()
        finish(a_run)
        assert leftover.exists()


def test_weights_that_differ_from_their_listing_are_refused_first(tmp_path):
    a_run = make_run(tmp_path)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  k.h5\n")
    with pytest.raises(InputError, match="SHA256SUMS"):
        finish(a_run)
    assert calls(tmp_path) == []


def test_tables_are_made_once_from_the_same_inputs(tmp_path):
    a_run = make_run(tmp_path)
    finish(a_run)
    made = []

    def render():
        made.append(1)
        (a_run.folder / "t.csv").touch()

    results = [run.render_once(a_run.folder, "tables", ("t.csv",), render) for _ in range(2)]
    assert results == [True, False]
    (a_run.records / "cs3a__resnet50__um__pgd_l2_300.json").unlink()
    assert run.render_once(a_run.folder, "tables", ("t.csv",), render)
    (a_run.folder / "t.csv").unlink()
    assert run.render_once(a_run.folder, "tables", ("t.csv",), render)
    assert len(made) == 3


def test_data_identity_follows_names_and_sizes_but_not_the_place(tmp_path):
    one = artefacts.scan(fake_stages.make_data(tmp_path / "a"))
    two = artefacts.scan(fake_stages.make_data(tmp_path / "b"))
    assert one.identity == two.identity
    assert one.counts["train", "car"] == fake_stages.IMAGES
    (tmp_path / "b" / "classes" / "train" / "car" / "0.png").unlink()
    assert artefacts.scan(tmp_path / "b").identity != one.identity


def test_the_data_folders_taxonomy_is_used(tmp_path):
    make_run(tmp_path)
    taxonomy = artefacts.UNMASK
    artefacts.Taxonomy(taxonomy.parts, taxonomy.classes, {"cs3a": ("train", "car")}).to_json(
        tmp_path / "data" / "taxonomy.json"
    )
    assert make_run(tmp_path).taxonomy.members("cs3a") == ("train", "car")


def test_tensorflow_is_imported_without_its_log_lines():
    script = "import sys; from unmask_tf.reproduce.stages import quiet_and_deterministic as q; q(0)\n"
    script += "import tensorflow as tf; tf.constant(1.0); print('ours', file=sys.stderr)"
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stderr == "ours\n"


def test_stages_run_one_tensorflow_operation_at_a_time():
    """The order in which concurrent operations end changed DenseNet's last bits from run to run."""
    script = "from unmask_tf.reproduce.stages import quiet_and_deterministic as q; q(0)\n"
    script += "import os, tensorflow as tf\n"
    script += "print(os.environ['TF_NUM_INTEROP_THREADS'], tf.config.threading.get_inter_op_parallelism_threads())"
    environment = {k: v for k, v in os.environ.items() if k != "TF_NUM_INTEROP_THREADS"} | {
        "PYTHONPATH": str(REPOSITORY)
    }
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "1 0\n", "TensorFlow follows the variable where its own setting is 0"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A whole run with real models, as small as they come; K's weights are random."""
    from unmask_tf.mrcnn.config import preset
    from unmask_tf.mrcnn.model import MaskRCNN
    from unmask_tf.mrcnn.weights import save_weights

    root = tmp_path_factory.mktemp("real")
    mini = PROFILES["mini"]
    synthetic = SyntheticConfig(parts_images=(1, 1, 3), class_images=(6, 2, 2), image_size=64)
    tiny = replace(
        mini,
        architectures=("mobilenet_v2",),
        synthetic=synthetic,
        classifier=replace(mini.classifier, epochs=1, batch_size=8),
        adversarial_training=replace(mini.adversarial_training, epochs=1, iterations=2),
        attack=replace(mini.attack, iterations=2, attacks=("pgd_linf", "mia_l2"), epsilons_l2_255=(300,)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "mini", tiny)
        patch.setattr(artefacts, "ROOT", root)
        for name, classes in (("k.h5", 45), ("other.h5", 5)):
            save_weights(MaskRCNN("inference", preset("mini", NUM_CLASSES=classes), root).keras_model, root / name)
        yield root, ["--k-weights", str(root / "k.h5"), "--results", str(root / "results")]


@pytest.mark.slow
def test_the_real_stages_run_from_data_to_tables_and_repeat_themselves(real, capsys):
    root, options = real
    assert main(["reproduce", *options]) == 0
    assert "AUC" in capsys.readouterr().out
    folder = root / "results" / "mini"
    found = records.read_all(folder / "records")
    assert len(found) == 4 * 3
    assert {record.n for record in found} == {6}
    before = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix in (".csv", ".md", ".png")}
    assert len(before) >= 8

    for lost in ("models/cs3a/mobilenet_v2_at.weights.h5", "attacked/cs3a/mobilenet_v2_none/pgd_linf_8.npz"):
        (folder / lost).unlink()
    (folder / "parts" / "cs3a" / "mobilenet_v2" / "mia_l2_300.json").unlink()
    shutil.rmtree(folder / "records")
    assert main(["reproduce", *options]) == 0
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.slow
def test_weights_for_another_number_of_classes_are_refused(real, capsys):
    root, options = real
    assert main(["reproduce", *options]) == 0
    capsys.readouterr()
    other = ["--k-weights", str(root / "other.h5"), *options[2:]]
    assert main(["evaluate", *other]) == 2
    assert str(root / "other.h5") in capsys.readouterr().err.splitlines()[-1]

    from unmask_tf.classifiers.build import build_classifier, save_classifier

    model = build_classifier("mobilenet_v2", 2, input_size=64, weights="random")
    path = root / "results" / "mini" / "models" / "cs3a" / "mobilenet_v2_none.weights.h5"
    save_classifier(model, path, {"architecture": "mobilenet_v2", "classes": ("car", "dog"), "input_size": 64})
    (root / "results" / "mini" / "attacked" / "cs3a" / "mobilenet_v2_none" / "pgd_linf_8.npz").unlink()
    assert main(["attack", *options]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "2 classes (car, dog)" in message
    path.unlink()
