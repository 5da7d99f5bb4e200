"""Releasing a trained M: what its file says, and what is refused."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from unmask_tf.classifiers.build import load_classifier
from unmask_tf.defense.calibration import Calibration
from unmask_tf.errors import InputError
from unmask_tf.experiment import release
from unmask_tf.experiment.grid import BENIGN, Grid
from unmask_tf.experiment.publish import finished
from unmask_tf.experiment.release import release_k, release_m, released
from unmask_tf.experiment.setup import verify_weights
from unmask_tf.experiment.step import Output
from unmask_tf.files import sha256
from unmask_tf.mrcnn.part_names import held_out_scores, part_names, part_scores, write_part_scores
from unmask_tf.mrcnn.weights import read_weights
from unmask_tf.taxonomy import UNMASK


def test_a_released_m_is_the_trained_one_with_the_threshold_that_algorithm1_chose(tiny_release):
    run, path = tiny_release
    grid = Grid(run)
    trained, _ = load_classifier(finished(run, grid.model("cs3a", "mobilenet_v2")))
    model, metadata = load_classifier(path)
    for before, after in zip(trained.variables, model.variables, strict=True):
        assert np.array_equal(before, after)
    header = Output(finished(run, grid.answer("cs3a", "mobilenet_v2", "algorithm1", *BENIGN)), "").header()
    chosen = header["info"]["rows"]["threshold"]
    found = Calibration.from_metadata(metadata, str(path))
    assert (found.threshold, found.max_fpr) == (chosen["value"], 0.05)
    assert (found.k_file, found.k_sha256) == ("unmask_k_mini.h5", sha256(run.k_weights))
    assert found.k_config == grid.k_config()
    assert found.taxonomy.parts == UNMASK.parts
    assert found.taxonomy.members("cs3a") == ("car", "person", "train")
    assert found.taxonomy.classes == {name: UNMASK.classes[name] for name in ("car", "person", "train")}


def test_a_released_file_is_named_listed_and_holds_float32_weights_alone(tiny_release):
    _, path = tiny_release
    assert path.name == "unmask_m_cs3a_mobilenet_v2.weights.h5"
    assert released(path.parent) == {("cs3a", "mobilenet_v2"): path}
    assert (path.parent / "SHA256SUMS").read_text() == f"{sha256(path)}  {path.name}\n"
    verify_weights(path)
    assert path.stat().st_size < 15_000_000
    names, dtypes = [], set()

    def visit(name, item):
        names.append(name)
        if isinstance(item, h5py.Dataset):
            dtypes.add(str(item.dtype))

    with h5py.File(path) as file:
        file.visititems(visit)
    assert not [name for name in names if "optimizer" in name]
    assert dtypes == {"float32"}


def test_the_list_of_hashes_keeps_its_other_lines(tiny_release, tmp_path):
    run, path = tiny_release
    (tmp_path / "SHA256SUMS").write_text(f"{'1' * 64}  zebra.h5\n{'0' * 64}  {path.name}\n{'2' * 64}  apple.h5\n")
    release_m(run, tmp_path)
    made = tmp_path / path.name
    assert (tmp_path / "SHA256SUMS").read_text().splitlines() == [
        f"{'2' * 64}  apple.h5",
        f"{sha256(made)}  {made.name}",
        f"{'1' * 64}  zebra.h5",
    ]


def test_a_released_k_has_the_same_tensors_and_scores_for_its_parts(tiny_release, tmp_path):
    run, _ = tiny_release
    shares = []
    path, scores = release_k(run, tmp_path, shares.append)
    assert path == tmp_path / "unmask_k_mini.h5"
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert part_names(path) == run.taxonomy.parts
    assert part_scores(path) == scores
    assert all(0.05 <= score <= 0.9 for score in scores.values())
    tensors, before = read_weights(path), read_weights(run.k_weights)
    assert tensors.keys() == before.keys()
    assert all(np.array_equal(tensors[name], before[name]) for name in tensors)
    assert (tmp_path / "SHA256SUMS").read_text() == f"{sha256(path)}  {path.name}\n"
    verify_weights(path)


def test_the_scores_of_folds_are_kept_in_the_order_of_the_parts_and_go_with_new_scores(tmp_path, tiny_release):
    run, _ = tiny_release
    path, parts = tmp_path / "k.h5", run.taxonomy.parts
    scores = dict.fromkeys(parts, 0.5)
    folds = [{part: (i + n) / 100 for i, part in enumerate(parts)} for n in range(3)]
    write_part_scores(run.k_weights, path, scores, [dict(reversed(fold.items())) for fold in folds])
    assert held_out_scores(path).tolist() == [[fold[part] for part in parts] for fold in folds]
    write_part_scores(path, path, scores)
    assert held_out_scores(path).shape == (0, 0)
    assert part_scores(path) == scores


def refused(run, folder, match):
    with pytest.raises(InputError, match=match):
        release_m(run, folder)
    assert not folder.exists() or list(folder.iterdir()) == []


def with_profile(run, **changes):
    return replace(run, profile=replace(run.profile, **changes))


def test_what_is_not_finished_is_named_and_not_made(tiny_release, tmp_path):
    run, _ = tiny_release
    refused(
        with_profile(run, class_sets=("cs3a", "cs3b")),
        tmp_path / "out",
        r"no finished result of train_m cs3b_mobilenet_v2_none .*make evaluate PROFILE=mini",
    )


def test_another_k_than_the_evaluated_one_is_refused(tiny_release, tmp_path):
    run, _ = tiny_release
    other = tmp_path / "k.h5"
    other.write_bytes(run.k_weights.read_bytes())
    with h5py.File(other, "r+") as file:
        file.attrs["note"] = "another file"
    refused(replace(run, k_weights=other), tmp_path / "out", "no finished result of answer .*algorithm1")


def test_a_k_of_other_parts_is_refused(tiny_release, tmp_path):
    run, _ = tiny_release
    other = tmp_path / "k.h5"
    with h5py.File(other, "w") as file:
        file["training_state/parts"] = [b"wheel", b"sail"]
    refused(replace(run, k_weights=other), tmp_path / "out", r"k\.h5 knows the parts wheel, sail")


def test_an_m_too_large_for_the_repository_is_refused(tiny_release, tmp_path, monkeypatch):
    run, _ = tiny_release
    monkeypatch.setattr(release, "LARGEST", 1_000_000)
    refused(run, tmp_path / "out", "holds 9 MB of weights; a released M has at most 1")


def test_an_extractor_without_weights_is_refused(tiny_release, tmp_path):
    run, _ = tiny_release
    other = replace(run.profile.part_detector, extractor="colours")
    refused(with_profile(run, part_detector=other), tmp_path / "out", "'colours'. Only mask_rcnn")


def test_the_calibration_survives_the_metadata(tiny_release):
    _, path = tiny_release
    _, metadata = load_classifier(path)
    found = Calibration.from_metadata(metadata, "m")
    assert Calibration.from_metadata(json.loads(json.dumps(metadata | found.to_metadata())), "m") == found


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"threshold": None}, "threshold missing"),
        ({"taxonomy": {"parts": ["wheel"]}}, "inconsistent"),
        ({"class_set": "cs9"}, "inconsistent.*cs9"),
        ({"classes": ["cat", "dog"]}, "its classes are cat, dog"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(tiny_release, change, match):
    _, path = tiny_release
    _, metadata = load_classifier(path)
    metadata = {name: value for name, value in (metadata | change).items() if value is not None}
    with pytest.raises(InputError, match=rf"some\.h5.*{match}"):
        Calibration.from_metadata(metadata, "some.h5")
