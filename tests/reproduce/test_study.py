"""The study of the four presets: what it makes, what it shares with the run, and its tables."""

from fake_stages import FakeStages, make_run

from unmask_tf.attacks.threat_models import PRESETS
from unmask_tf.reproduce.records import CellKey, Record
from unmask_tf.reproduce.run import run_stages
from unmask_tf.reproduce.study import PresetRun, run_study, study_csv, study_markdown, study_table


def calls(run, stage):
    log = run.folder.parent / "log.txt"
    return [line for line in log.read_text().splitlines() if line.startswith(stage)] if log.is_file() else []


def test_the_study_attacks_the_benign_models_under_every_preset(tmp_path, published):
    run = make_run(tmp_path)
    path = run_study(run, published, FakeStages(run))
    assert path == run.folder / "study.md"
    assert calls(run, "train-m") == ["train-m cs3a resnet50 none", "train-m cs3a densenet121 none"]
    # Two models: no attack once, eight attacks under four presets.
    assert len(calls(run, "attack")) == 2 * (1 + 4 * 8)
    assert all(line.split()[3] == "none" for line in calls(run, "attack"))
    rows = (run.folder / "study.csv").read_text().splitlines()
    assert rows[0] == "model,class_set,attack,epsilon_255,n,benign,released,written,eq1,strong"
    assert len(rows) == 1 + 2 * 8
    assert all(len(row.split(",")) == 10 and "" not in row.split(",") for row in rows)
    assert "| ResNet50 | CS3a | PGD-L∞ ε=8 | 12 |" in path.read_text()


def test_a_finished_study_is_not_made_again_and_what_is_missing_is(tmp_path, published):
    run = make_run(tmp_path)
    first = run_study(run, published, FakeStages(run)).read_bytes()
    before = calls(run, "")
    run_study(run, published, FakeStages(run))
    assert calls(run, "") == before
    strong = PresetRun.of(run, "strong")
    strong.attacked_path("cs3a", "resnet50", "none", "mia_l2", 600).unlink()
    cell = PresetRun.of(run, "eq1").cell("cs3a", "densenet121", "none", "pgd_l2", 300)
    cell.path(PresetRun.of(run, "eq1").records).write_text("{")
    assert run_study(run, published, FakeStages(run)).read_bytes() == first
    assert calls(run, "")[len(before) :] == [
        "attack cs3a resnet50 none mia_l2 600",
        f"evaluate {cell.file_name}",
    ]


def test_the_run_s_own_attacks_and_models_are_not_made_again(tmp_path, published):
    run = make_run(tmp_path)
    run_stages(run, "attack", FakeStages(run))
    done = len(calls(run, "attack"))
    run_study(run, published, FakeStages(run))
    assert len(calls(run, "train-m")) == 4
    assert len(calls(run, "attack")) - done == 2 * 3 * 8
    assert not (run.folder / "study" / "released" / "attacked").exists()


def test_the_study_needs_no_model_k(tmp_path, published):
    run = make_run(tmp_path)
    run.k_weights.unlink()
    assert run_study(run, published, FakeStages(run)).is_file()


def record(attack, epsilon, correct, checks=None, nan_images=0):
    key = CellKey("mini", "cs3a", "resnet50", "none", attack, epsilon)
    checks = {} if attack == "none" else checks or {"finite": True}
    return Record(key=key, config_hash="x", n=100, correct=correct, checks=checks, nan_images=nan_images)


def hand_made():
    correct = {"released": (30, 0), "written": (2, 1), "eq1": (1, 0), "strong": (0, 0)}
    found = {
        preset: [record("none", 0, 97), record("pgd_linf", 8, pgd), record("mia_linf", 8, mia)]
        for preset, (pgd, mia) in correct.items()
    }
    found["released"][1] = record("pgd_linf", 8, 30, {"finite": True, "step_shorter_than_budget": False}, nan_images=3)
    return found


def test_the_table_by_hand():
    assert tuple(PRESETS) == ("released", "written", "eq1", "strong")
    assert study_csv(study_table(hand_made())) == (
        "model,class_set,attack,epsilon_255,n,benign,released,written,eq1,strong\n"
        "resnet50,cs3a,pgd_linf,8,100,0.9700,0.3000,0.0200,0.0100,0.0000\n"
        "resnet50,cs3a,mia_linf,8,100,0.9700,0.0000,0.0100,0.0000,0.0000\n"
    )


def test_unsound_numbers_are_marked_and_explained(published):
    text = study_markdown(hand_made(), published)
    assert "| ResNet50 | CS3a | PGD-L∞ ε=8 | 100 | 0.97 | 0.30† (0.31) | 0.02 | 0.01 | 0.00 |" in text
    assert "| ResNet50 | CS3a | MIA-L∞ ε=8 | 100 | 0.97 | 0.00 (0.00) | 0.01 | 0.00 | 0.00 |" in text
    assert "| PGD-L∞ | 0.30 | 0.02 | 0.01 | 0.00 |" in text
    released = "- `released`: 1 of 2 attacks are sound, 1 were warned of; NaN repaired in 3 images.\n"
    assert released + "  pgd_and_mi_agree (" in text
    assert "- `strong`: 2 of 2 attacks are sound, 0 were warned of.\n" in text
