"""Attacks that know K as steps: their keys cover K, and their rows say what they knew."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from unmask_tf.defense.extract import EXTRACTORS
from unmask_tf.errors import InputError
from unmask_tf.experiment.adaptive import (
    DEFENCES,
    EPSILONS_255,
    FAMILIES,
    ITERATIONS,
    RESTARTS,
    adaptive,
    adaptive_threat,
    binarisation,
    effort,
)
from unmask_tf.experiment.grid import Grid
from unmask_tf.experiment.kinds.answer import read_rows
from unmask_tf.experiment.kinds.shared import read_attacked
from unmask_tf.experiment.runner import InThisProcess
from unmask_tf.experiment.runner import run as run_steps
from unmask_tf.experiment.step import Keys
from unmask_tf.files import HashCache


def test_every_attack_and_budget_is_answered_by_every_defence(tiny_release):
    steps = adaptive(tiny_release[0], FAMILIES)
    cells = {
        (s.settings.defence, s.settings.attack, s.settings.epsilon_255) for s in steps if s.settings.split == "test"
    }
    budgets = [(f"{family}_{norm}", e) for family in FAMILIES for norm, es in EPSILONS_255.items() for e in es]
    assert cells == {(defence, *cell) for defence in DEFENCES for cell in [("none", 0), *budgets]}
    assert [s.settings.split for s in steps].count("val") == 2, "whose scores give the thresholds"


def test_k_can_stand_beside_an_m_that_was_trained_against_attacks(tiny_release):
    steps = adaptive(tiny_release[0], ("joint", "parts"), epsilons_255={"linf": (4,)}, recipe="madry")
    for step in (s for s in steps if s.settings.defence in DEFENCES):
        asked = step.inputs.get("base", step)
        assert asked.inputs["model"].settings.recipe == "madry"
        if "attack" in asked.inputs:
            assert asked.inputs["attack"].inputs["model"].settings.recipe == "madry", "the attack knows that M"
    with pytest.raises(InputError, match="recipe"):
        adaptive(tiny_release[0], ("joint",), recipe="none such")


def test_without_names_the_battery_is_run_at_its_own_budgets_among_those_asked_for(tiny_release):
    def cells(**options):
        return {(s.settings.attack, s.settings.epsilon_255) for s in adaptive(tiny_release[0], **options)}

    everything = cells()
    assert {("joint_l2", 150), ("noise_linf", 16), ("square_linf", 4), ("selective_linf", 4)} < everything
    assert not {("square_linf", 8), ("selective_l2", 300), ("transfer_linf", 4)} & everything
    assert cells(epsilons_255={"linf": (8,)}) == {
        ("none", 0),
        *((f"{f}_linf", 8) for f in ("joint", "margin", "pgd", "parts", "noise")),
    }


def test_transfer_gives_an_m_the_images_of_the_other(tiny_release):
    run = tiny_release[0]
    both = replace(run, profile=replace(run.profile, architectures=("mobilenet_v2", "resnet50")))
    steps = {
        (s.settings.model, s.settings.attack): s
        for s in adaptive(both, ["joint", "transfer"], epsilons_255={"linf": (4,)})
        if s.settings.defence == "none" and "attack" in s.inputs
    }
    keys = Keys(HashCache(os.devnull))
    for model, other in (("mobilenet_v2", "resnet50"), ("resnet50", "mobilenet_v2")):
        given, own = steps[model, "transfer_linf"], steps[other, "joint_linf"]
        assert keys.of(given.inputs["attack"]) == keys.of(own.inputs["attack"])
        assert given.inputs["model"].settings.architecture == model
        assert given.inputs["attack"].settings.architecture == other
    assert not [s for s in adaptive(run, ["transfer"]) if s.settings.attack.startswith("transfer")], "one M alone"


def test_efforts_and_problems_are_those_of_validation_images(tiny_release):
    run = tiny_release[0]
    steps = effort(run, 6)
    assert {s.settings.split for s in steps} == {"val"} and {s.settings.defence for s in steps} == {"um"}
    threats = [s.inputs["base"].inputs["attack"].settings.threat for s in steps[1:]]
    assert len(set(threats)) == len(threats)
    efforts = {(t.epsilon_255, t.iterations, t.restarts) for t in threats}
    assert {(e, n, 1) for e in (2, 4) for n in (10, 20, 40, 100, 200, 400)} < efforts
    assert {(2, 40, 4), (4, 40, 2), (1, ITERATIONS, RESTARTS), (3, ITERATIONS, RESTARTS)} < efforts
    (step,) = binarisation(run, 6)
    assert step.kind == "binarise" and len(step.inputs["images"]) == 6
    assert all("/val/" in name for name in step.inputs["images"].names)


def test_the_key_of_an_attack_covers_the_k_that_it_knows_and_of_no_other(tiny_release, tmp_path):
    run = tiny_release[0]
    other = tmp_path / "k.h5"
    shutil.copy(run.k_weights, other)
    with other.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"\0")

    def keys(run):
        fresh = Keys(HashCache(os.devnull))
        attacks = {s.inputs["attack"] for s in adaptive(run, FAMILIES) if "attack" in s.inputs}
        threats = {a: (a.settings.threat.attack, a.settings.threat.epsilon_255) for a in attacks}
        return {threats[a]: fresh.of(a) for a in attacks}

    before, after = keys(run), keys(replace(run, k_weights=other))
    assert len(before) == 48
    assert {cell for cell in before if before[cell] == after[cell]} == {c for c in before if c[0].startswith("pgd")}


def test_an_attack_that_knows_k_runs_as_a_step_and_its_rows_say_so(tiny_release):
    run = tiny_release[0]
    grid, threat = Grid(run), adaptive_threat("joint_linf", 8.0, iterations=2)
    step = grid.answer("cs3a", "mobilenet_v2", "um", "joint_linf", 8.0, preset="adaptive", threat=threat)
    outputs = run_steps([step, step.inputs["base"]], run.folder, crew=InThisProcess())
    rows = read_rows(outputs[step])
    assert rows.header.threat["knows"] == ["K", "M"] and rows.header.threat["preset"] == "adaptive"
    assert (rows.header.threat["step"], rows.header.threat["restarts"]) == (pytest.approx(7.5 * 8 / 255 / 2), 2)
    assert 0 <= rows.header.threat["best_iteration_median"] <= 4
    assert rows.header.checks["deterministic"] and rows.header.checks["outputs_reproduced"]
    (path,) = run.folder.glob("attack/*joint_linf*.h5")
    images = read_attacked(path) * np.float32(255)
    assert np.abs(images - np.rint(images)).max() < 1e-3, "images of 8 bits"
    base = read_rows(outputs[step.inputs["base"]])
    assert base.header.accuracy_8bit == base.accuracy


def test_a_part_extractor_without_gradients_is_refused(tiny_release, monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "colours", None)
    run = tiny_release[0]
    profile = run.profile
    detector = replace(profile.part_detector, extractor="colours")
    with pytest.raises(InputError, match="Mask R-CNN"):
        adaptive(replace(run, profile=replace(profile, part_detector=detector)), ["joint"])


def test_another_search_gives_attacks_that_know_k_alone_another_key(tiny_release):
    keys, found = Keys(HashCache(os.devnull)), {}
    for step in adaptive(tiny_release[0], ("joint", "pgd"), epsilons_255={"linf": (4,)}):
        if "attack" in step.inputs:
            attack = step.inputs["attack"]
            knows = hasattr(attack.settings, "search")
            assert knows == (step.settings.attack == "joint_linf")
            if knows:
                other = replace(attack, settings=replace(attack.settings, search=attack.settings.search + 1))
                found[step.settings.attack] = keys.of(other) != keys.of(attack)
    assert found == {"joint_linf": True}
