"""Keys: whatever a step can read is covered, and nothing else; changes reach exactly the steps downstream."""

import itertools
import os
from dataclasses import fields, is_dataclass, replace

import pytest
from small_runs import smaller

from unmask_tf import config
from unmask_tf.errors import InputError
from unmask_tf.experiment import setup
from unmask_tf.experiment.adaptive import binarisation
from unmask_tf.experiment.grid import Grid
from unmask_tf.experiment.kinds import KINDS
from unmask_tf.experiment.runner import ordered
from unmask_tf.experiment.step import Files, Keys, Output, Step, canonical, kind_module, resolve
from unmask_tf.files import HashCache
from unmask_tf.mrcnn import config as mrcnn_config
from unmask_tf.mrcnn import schedules


def with_a_trained_k(run):
    """The run, smaller, with a K that it trains and that carries scores of its parts."""
    run = replace(smaller(run), k_weights=None)
    detector = replace(run.profile.part_detector, preset="photos")
    return replace(run, profile=replace(run.profile, part_detector=detector))


def every_kind(run):
    """A small grid whose K is trained by the run, and a kind that the grid does not have."""
    run = with_a_trained_k(run)
    grid = Grid(run)
    return ordered([*grid.answers(), grid.evaluate_k(), *binarisation(run, 3)])


@pytest.fixture
def steps(make_run):
    """Every kind of step."""
    found = every_kind(make_run())
    assert {step.kind for step in found} == set(KINDS)
    return found


def keys_of(steps, cache=None):
    keys = Keys(cache or HashCache(os.devnull))
    return [keys.of(step) for step in steps]


def copied(steps, changed, make):
    """The same graph of steps in which step number `changed` is `make` of it."""
    twins = {}
    for number, step in enumerate(steps):
        inputs = {name: twins.get(id(value), value) for name, value in step.inputs.items()}
        twin = Step(step.kind, step.name, step.settings, inputs)
        twins[id(step)] = make(twin) if number == changed else twin
    return [twins[id(step)] for step in steps]


def downstream(steps, sources):
    """Numbers of the steps that read one of `sources` (numbers), directly or not, and of these."""
    reached = set(sources)
    for number, step in enumerate(steps):
        read = {i for i, other in enumerate(steps) if any(other is value for value in step.inputs.values())}
        if read & reached:
            reached.add(number)
    return reached


def changed_keys(before, after):
    return {number for number, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}


def variants(value):
    """The value with one leaf changed, for every leaf."""
    if is_dataclass(value):
        for field in fields(value):
            for other in variants(getattr(value, field.name)):
                yield object_with(value, **{field.name: other})
    elif isinstance(value, dict):
        for name, item in value.items():
            for other in variants(item):
                yield {**value, name: other}
    elif isinstance(value, (tuple, list)) and value:
        for i, item in enumerate(value):
            for other in itertools.islice(variants(item), 1):
                yield type(value)([*value[:i], other, *value[i + 1 :]])
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield value + 1
    elif isinstance(value, str):
        yield value + "x"
    else:
        yield "x"  # None, or empty


def object_with(value, **changes):
    """`dataclasses.replace` without the checks of a value's range."""
    twin = object.__new__(type(value))
    for field in fields(value):
        object.__setattr__(twin, field.name, changes.get(field.name, getattr(value, field.name)))
    return twin


def test_one_changed_field_of_any_settings_changes_exactly_the_steps_downstream(steps):
    before, seen = keys_of(steps), set()
    for number, step in enumerate(steps):
        if step.kind in seen and step.kind not in ("train_m",):
            continue  # one of each kind, and each training of M
        seen.add(step.kind)
        expected = downstream(steps, [number])
        for other in variants(step.settings):
            after = keys_of(copied(steps, number, lambda twin, other=other: replace(twin, settings=other)))
            assert changed_keys(before, after) == expected, (step.name, other)


def test_one_changed_byte_of_any_file_changes_exactly_the_steps_downstream(steps, home):
    before = keys_of(steps)
    files = sorted(path for path in (home / "data").rglob("*") if path.is_file())
    assert len(files) == 9 * 4 + 3 + 3
    reached_at_all = set()
    for path in files:
        readers = [n for n, step in enumerate(steps) if any(reads(value, path) for value in step.inputs.values())]
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert changed_keys(before, keys_of(steps_again(steps))) == downstream(steps, readers), path
        path.write_bytes(content)
        reached_at_all |= downstream(steps, readers)
    assert reached_at_all == set(range(len(steps)))


def reads(value, path):
    return value == path or (isinstance(value, Files) and any(value.root / name == path for name in value.names))


def steps_again(steps):
    return copied(steps, None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_version_changes_exactly_its_kind_and_what_reads_it(steps, kind, monkeypatch):
    before = keys_of(steps)
    monkeypatch.setattr(kind_module(kind), "VERSION", kind_module(kind).VERSION + 1)
    expected = downstream(steps, [n for n, step in enumerate(steps) if step.kind == kind])
    assert changed_keys(before, keys_of(steps)) == expected


def test_a_file_replaced_by_one_of_equal_size_and_time_is_noticed_through_the_cache(steps, home, tmp_path):
    cache = HashCache(tmp_path / "hashes.json")
    image = home / "data" / "classes" / "test" / "car" / "0.png"
    for path in (home / "data").rglob("*"):
        os.utime(path, (1e9, 1e9))
    before = keys_of(steps, cache)
    cache.save()
    other = tmp_path / "other.png"
    content = image.read_bytes()
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(other, (1e9, 1e9))
    os.replace(other, image)  # the same size and time, another inode
    assert changed_keys(before, keys_of(steps_again(steps), HashCache(tmp_path / "hashes.json")))


def test_a_file_that_has_just_changed_is_never_remembered(tmp_path):
    path, cache = tmp_path / "a", HashCache(tmp_path / "hashes.json")
    path.write_bytes(b"one")
    first = cache.sha256(path)
    state = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert cache.sha256(path) != first


def test_the_name_of_a_step_and_the_place_of_its_files_are_no_part_of_the_key(steps, make_run, home):
    renamed = copied(steps, None, None)
    renamed = [Step(s.kind, s.name + "x", s.settings, s.inputs) for s in renamed]
    os.rename(home / "data", home / "elsewhere")
    moved = every_kind(make_run(data=home / "elsewhere"))
    # Rows name the data, so answers differ; all else is the same.
    differ = changed_keys(keys_of(moved), keys_of(moved))
    assert differ == set()
    assert [s.kind for s in moved] == [s.kind for s in renamed]


def k_is_read_anew(steps, run):
    grid = Grid(run)
    return changed_keys(keys_of(steps), keys_of(ordered([*grid.answers(), grid.evaluate_k()])))


def of_kind(steps, *kinds):
    return {n for n, step in enumerate(steps) if step.kind in kinds}


def with_parts(steps):
    return {n for n, step in enumerate(steps) if any(name.startswith("parts_") for name in step.inputs)}


@pytest.mark.parametrize(
    ("name", "value"), [("IMAGE_MAX_DIM", 192), ("DETECTION_MIN_CONFIDENCE", 0.5), ("POST_NMS_ROIS_INFERENCE", 50)]
)
def test_ks_canvas_and_threshold_are_in_the_keys_of_what_k_sees(make_run, monkeypatch, name, value):
    run = smaller(make_run())
    grid = Grid(run)
    steps = ordered([*grid.answers(), grid.evaluate_k()])
    before = keys_of(steps)
    changed = type("Changed", (mrcnn_config.PRESETS["mini"],), {name: value})
    monkeypatch.setitem(mrcnn_config.PRESETS, "mini", changed)
    grid = Grid(run)
    after = keys_of(ordered([*grid.answers(), grid.evaluate_k()]))
    assert changed_keys(before, after) == of_kind(steps, "extract", "evaluate_k") | with_parts(steps)


def test_another_step_of_a_preset_attacks_again(make_run, monkeypatch):
    from unmask_tf.attacks import threat_models

    run = smaller(make_run())
    steps = ordered(Grid(run).answers())
    before = keys_of(steps)
    released = threat_models.PRESETS["released"]
    monkeypatch.setitem(threat_models.PRESETS, "released", replace(released, step=lambda epsilon, iterations: 1.0))
    after = keys_of(ordered(Grid(run).answers()))
    assert changed_keys(before, after) == downstream(steps, of_kind(steps, "attack"))


def test_another_schedule_of_k_trains_k_again(make_run, monkeypatch):
    run = replace(smaller(make_run()), k_weights=None)
    before = Keys(HashCache(os.devnull)).of(Grid(run).train_k())
    monkeypatch.setitem(schedules.SCHEDULES, "mini", schedules.SCHEDULES["mini"][:1])
    assert Keys(HashCache(os.devnull)).of(Grid(run).train_k()) != before


def test_imagenet_weights_of_equal_size_are_told_apart(make_run, home):
    folder = home / "data" / "weights"
    folder.mkdir()
    path = folder / "resnet50_imagenet.weights.h5"
    path.write_bytes(b"one")
    run = make_run()
    step = Grid(run).model("cs3a", "resnet50")
    assert step.inputs["weights"] == path
    before = keys_of([step])
    path.write_bytes(b"two")
    assert keys_of([Grid(run).model("cs3a", "resnet50")]) != before
    assert "weights" not in Grid(run).model("cs3a", "densenet121").inputs


def test_imagenet_weights_of_the_data_come_before_the_checkout_s_and_may_be_npz(make_run, home, monkeypatch):
    monkeypatch.setattr(setup, "WEIGHTS_FOLDER", home / "weights")
    own, shipped = home / "data" / "weights", home / "weights"
    for folder, suffix in ((own, ".npz"), (shipped, ".npz"), (shipped, ".weights.h5")):
        folder.mkdir(exist_ok=True)
        (folder / f"efficientnet_lite0_imagenet{suffix}").write_bytes(b"one")
    run = make_run()
    assert run.imagenet_weights("efficientnet_lite0") == own / "efficientnet_lite0_imagenet.npz"
    assert Grid(run).model("cs3a", "efficientnet_lite0").inputs["weights"] == own / "efficientnet_lite0_imagenet.npz"
    assert run.imagenet_weights("vgg16") is None


def test_a_k_trained_for_profile_paper_does_not_take_the_authors_file_name(make_run, home, monkeypatch):
    monkeypatch.setattr(setup, "WEIGHTS_FOLDER", home / "weights")
    (home / "weights").mkdir()
    run = setup.prepare("paper", data=home / "data", results=home / "results", class_sets=("cs3a",))
    assert run.k_weights is None
    step = Grid(run).k_weights()
    assert step.kind == "train_k"
    output = resolve(step, run.folder, Keys(HashCache(os.devnull))).output.path
    assert output.is_relative_to(home / "results" / "paper" / "train_k")
    assert "mask_rcnn_parts_0040" not in output.name


def test_every_setting_of_a_profile_that_decides_a_result_is_in_some_key(make_run):
    """What is left out decides only where results go, how many images a batch has, or what is listed."""
    run = smaller(make_run())
    free = {"name", "data", "synthetic", "batch_size", "chunk", "weights", "initial"}
    base = set(keys_of(ordered([*Grid(run).answers(), Grid(run).evaluate_k()])))
    for field in (f for f in fields(config.ClassifierConfig) if f.name not in free):
        for other in variants(getattr(run.profile.classifier, field.name)):
            classifier = object_with(run.profile.classifier, **{field.name: other})
            changed = replace(run, profile=replace(run.profile, classifier=classifier))
            assert not set(keys_of([Grid(changed).model("cs3a", "resnet50")])) & base, field.name


def test_canonical_json_has_one_text_for_a_value_and_refuses_what_is_none():
    assert canonical({"b": (1, 2.5), "a": None}) == '{"a":null,"b":[1,2.5]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))
    with pytest.raises(TypeError):
        canonical(object())


def test_an_output_is_done_only_whole_and_under_its_key(tmp_path):
    from unmask_tf.files import sha256, write_json

    path = tmp_path / "answer" / "a-123.csv"
    path.parent.mkdir()
    path.write_bytes(b"rows")
    output, cache = Output(path, "123abc"), HashCache(os.devnull)
    assert not output.done(cache)
    header = {"schema": "unmask-step-1", "key": "123abc", "output_sha256": sha256(path)}
    write_json(output.header_path, header)
    assert output.done(cache)
    assert not Output(path, "other").done(cache)
    path.write_bytes(b"rowz")
    assert not output.done(cache)
    path.unlink()
    assert not output.done(cache)


def test_a_missing_input_file_is_named(make_run, home):
    run = make_run()
    step = Grid(run).model("cs3a", "resnet50")
    (home / "data" / "classes" / "val" / "car" / "0.png").unlink()
    with pytest.raises(InputError, match=r"val/car/0\.png"):
        keys_of([step])


def test_the_embedded_dataset_of_two_class_sets_counts_each_image_once(make_run, home, capsys):
    from unmask_tf.cli import main

    arguments = ["data", "--data", str(home / "data"), "--results", str(home / "results")]
    content = '{"parts": ["wheel", "arm"], "classes": {"car": ["wheel"], "person": ["arm"], "train": ["wheel"]},'
    content += '"class_sets": {"all": ["car", "person", "train"], "two": ["car", "train"]}}'
    (home / "data" / "taxonomy.json").write_text(content)
    assert main([*arguments, "--class-sets", "all,two", "--k-weights", str(home / "k.h5")]) == 0
    assert "12 train, 12 val, 12 test images of M in all, each counted once" in capsys.readouterr().out


def test_a_k_without_images_of_classes_keeps_the_scores_of_its_training(make_run, home):
    run = with_a_trained_k(make_run())
    assert Grid(run).k_weights().kind == "score_k"
    os.rename(home / "data" / "classes", home / "elsewhere")
    assert Grid(run).k_weights().kind == "train_k"
