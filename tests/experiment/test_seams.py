"""One real run from data to tables, and the README's own entries in every table, run as a user would write them."""

import json
import os
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_step import changed_keys, downstream

from unmask_tf.attacks import ATTACKS
from unmask_tf.classifiers import CLASSIFIERS
from unmask_tf.defense.defences import DEFENCES
from unmask_tf.errors import InputError
from unmask_tf.experiment.grid import Grid
from unmask_tf.experiment.publish import run_grid
from unmask_tf.experiment.rows import read_bundle
from unmask_tf.experiment.runner import Workers, ordered
from unmask_tf.experiment.step import Keys, import_plugins
from unmask_tf.experiment.tiny import tiny_run
from unmask_tf.files import HashCache, read_json, write_json
from unmask_tf.report import cells
from unmask_tf.report.page import write_report
from unmask_tf.report.summary import summary

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
NAMES = ("noise_attack", "jpeg_defence", "colour_parts", "small_classifier")


def block(marker, language):
    """The README's code block after a marker."""
    (found,) = re.findall(rf"<!-- {re.escape(marker)} -->\n```{language}\n(.*?)```", README, re.DOTALL)
    return found


def lines_of_code(text):
    return [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("import", "from", "#"))
    ]


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """The README's blocks as modules that Python finds; the tables are as they were afterwards."""
    from unmask_tf.defense.extract import EXTRACTORS

    folder = tmp_path / "plugins"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(block(f"plugin: {name}", "python"))
        sys.modules.pop(name, None)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[2]}")
    tables = (ATTACKS, CLASSIFIERS, DEFENCES, EXTRACTORS)
    before = [dict(table) for table in tables]
    yield NAMES
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_takes_at_most_ten_lines(name):
    assert len(lines_of_code(block(f"plugin: {name}", "python"))) <= 10


def with_class_set(folder):
    """Adds the README's class set to the data's taxonomy.json."""
    path = folder / "data" / "taxonomy.json"
    content = read_json(path)
    content["class_sets"] |= json.loads(block("class set", "json"))["class_sets"]
    write_json(path, content)


def test_entries_from_outside_reach_every_table_and_figure_without_an_edit(tmp_path, plugins):
    import_plugins(plugins)
    defences = ("none", "jpeg", "um", "algorithm1")
    wishes = {"architectures": ("small",), "attacks": ("pgd_linf", "noise"), "defences": defences}
    tiny_run(tmp_path, **wishes)  # draws the data
    with_class_set(tmp_path)
    run = tiny_run(tmp_path, **wishes, class_sets=("animals",))
    run_grid(run, plugins=plugins)

    found = read_bundle(run.folder / "rows", "grid")
    assert {(r.header.model, r.header.class_set) for r in found} == {("small", "animals")}
    assert {(r.header.defence, r.header.attack) for r in found} == {
        (defence, attack) for defence in defences for attack in ("none", "pgd_linf", "noise")
    }
    assert {r.n for r in found} == {4}
    by_cell = {(r.header.defence, r.header.attack): r for r in found}
    noise = by_cell["none", "noise"].header
    assert noise.threat["knows"] == [] and noise.threat["norm"] == "linf" and noise.checks
    assert by_cell["um", "none"].rows["parts"].notna().all()
    threshold = by_cell["algorithm1", "none"].header.threshold
    assert threshold["split"] == "val" and threshold["n"] == 4 and threshold["fpr_measured"] <= threshold["fpr"] == 0.05

    report = write_report(run.folder).read_text()
    table4 = pd.read_csv(run.folder / "table4.csv")
    assert {name.partition(" ")[0] for name in table4["Attack"]} == {"No", "PGD-L∞", "noise"}
    assert {cells.label(name, cells.DEFENCES) for name in defences} <= set(table4.columns)
    assert any("noise" in name for name in pd.read_csv(run.folder / "detection.csv")["Attack"])
    for name in ("noise", "jpeg", "small", "animals"):
        assert name in report
    assert "jpeg" in summary(run.folder)
    drawn = {path.stem for path in run.folder.glob("*.png")}
    assert drawn - {"figure1"} == {"figure4", "figure5", "figure_classes"}  # Figure 1 where a case fits it
    gallery = read_json(run.folder / "rows" / "gallery.json")["cases"]
    assert {case["attack"] for case in gallery} == {"none", "pgd_linf", "noise"} and len(gallery) == 12


def test_a_part_detector_from_outside_needs_no_weights_and_works_in_worker_processes(tmp_path, plugins):
    import_plugins(plugins)
    wishes = {"architectures": ("small",), "attacks": ("noise",), "defences": ("none", "um"), "extractor": "colours"}
    run = tiny_run(tmp_path, **wishes)
    run_grid(run, Workers(1, threads=1), plugins)
    found = [r for r in read_bundle(run.folder / "rows", "grid") if r.header.defence == "um"]
    assert {r.header.extractor for r in found} == {"colours"}
    assert {part for r in found for parts in r.part_sets() for part in parts} <= {"coach_front", "leg", "window"}
    assert all(len(parts) == 1 for r in found for parts in r.part_sets())


def test_an_edited_plugin_makes_exactly_the_steps_that_use_it_run_again(tmp_path, plugins):
    import_plugins(plugins)
    wishes = {"architectures": ("small", "resnet50"), "attacks": ("pgd_linf", "noise"), "defences": ("none", "jpeg")}
    steps = ordered(Grid(tiny_run(tmp_path, **wishes)).answers())

    def keys():
        fresh = Keys(HashCache(os.devnull))
        return [fresh.of(step) for step in steps]

    def own(name):
        """The steps that call a plugin's entry themselves."""
        uses = {
            "noise_attack": lambda s: s.kind == "attack" and s.settings.threat.attack == "noise",
            "jpeg_defence": lambda s: s.kind == "answer" and s.settings.defence == "jpeg",
            "small_classifier": lambda s: s.kind == "train_m" and s.settings.architecture == "small",
        }
        return [number for number, step in enumerate(steps) if uses[name](step)]

    for name in ("noise_attack", "jpeg_defence", "small_classifier"):
        before, path = keys(), tmp_path / "plugins" / f"{name}.py"
        path.write_text(path.read_text() + "\n# edited\n")
        assert own(name)
        assert changed_keys(before, keys()) == downstream(steps, own(name)), name


def test_a_plugin_that_is_not_there_is_named():
    with pytest.raises(InputError, match="PLUGINS=my_module"):
        import_plugins(["no_such_plugin"])


@pytest.mark.parametrize(
    ("wish", "known"),
    [({"attacks": ("nope",)}, "pgd_linf"), ({"defences": ("nope",)}, "algorithm1")],
)
def test_an_unknown_entry_is_named_with_the_known_ones(tmp_path, wish, known):
    with pytest.raises(InputError, match=known):
        run_grid(tiny_run(tmp_path, **wish))
