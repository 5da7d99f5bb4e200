"""`make compare K_WEIGHTS=file`: the given K and ours on the same test images."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unmask_tf.cli import main
from unmask_tf.config import PROFILES
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.errors import InputError
from unmask_tf.reproduce import artefacts, compare_k
from unmask_tf.reproduce.artefacts import Attacked
from unmask_tf.reproduce.compare_k import KComparison, Row, our_weights, to_csv, to_markdown, to_text

_spec = importlib.util.spec_from_file_location("stand_in", Path(__file__).parents[1] / "golden" / "stand_in.py")
stand_in = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stand_in)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three test images of classes, two with parts, of the embedded dataset; results are written beside."""
    root = tmp_path_factory.mktemp("compare")
    build_dataset(root / "data", SyntheticConfig(parts_images=(1, 1, 2), class_images=(1, 1, 2)))
    return root / "data"


def make_run(data, root, weights, **options):
    return artefacts.prepare("mini", data=data, results=root / "results", k_weights=weights, **options)


def weights_file(path, content=b"K"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class Scripted:
    """In place of a K: part sets and mAP by hand."""

    def __init__(self, run, weights, canvas, profile_preset):
        self.taxonomy, self.given = run.taxonomy, not profile_preset
        self.title = weights.name

    def parts(self, images, where, files):
        everything = [self.taxonomy.expected(Path(file).parent.name) for file in files]
        if self.given and where[2] == "none":
            return everything
        # Two images of each of car, person, train. Ours takes the cars for trains and sees nothing of one person.
        train = self.taxonomy.expected("train")
        return [train, train, everything[2], frozenset(), everything[4], everything[5]]

    def evaluate(self):
        return dict.fromkeys(("map50", "map", "map50_bbox", "map_bbox"), 0.5 if self.given else 0.25)


def attack_cell(run):
    """Writes one attacked cell of the run's grid."""
    cell = ("cs3a", "resnet50", "none", "mia_linf", 8)
    labels = np.repeat(np.arange(3), 2)
    images = np.zeros((6, 64, 64, 3), np.uint8)
    attacked = Attacked(images, labels, labels, labels, checks={}, nan_images=0, wall_s=0.0)
    attacked.write(run.attacked_path(*cell), run.attacked_key(*cell))


def test_the_numbers_by_hand(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare_k, "_Detector", Scripted)
    run = make_run(data, tmp_path, weights_file(tmp_path / "given.h5"))
    attack_cell(run)
    result = compare_k.compare_k(run, weights_file(tmp_path / "ours.h5"))

    assert len(result.rows) == 2
    car, train = run.taxonomy.expected("car"), run.taxonomy.expected("train")
    overlap = len(car & train) / len(car | train)
    assert result.rows[0] == Row(
        class_set="cs3a", model="", attack="none", epsilon_255=0, n=6, same=3, given=6, ours=3,
        overlap=pytest.approx((2 * overlap + 3) / 6),
    )  # fmt: skip
    assert result.rows[1] == Row(
        class_set="cs3a", model="resnet50", attack="mia_linf", epsilon_255=8, n=6, same=6, given=3, ours=3, overlap=1.0
    )
    table = pd.read_csv(run.folder / "compare_k.csv")
    assert table["kind"].tolist() == ["map50", "map", "map50_bbox", "map_bbox", "um", "um"]
    assert table["given"].tolist() == [0.5] * 4 + [1.0, 0.5] and table["ours"].tolist() == [0.25] * 4 + [0.5, 0.5]
    assert table["same_parts"].tolist()[4:] == [0.5, 1.0]
    written = (run.folder / "compare_k.md").read_text()
    assert "| mAP at IoU 0.5 | 0.500 | 0.250 |" in written
    assert (
        "| CS3a | - | no attack | 6 | 50.0 % |" in written
        and "| MIA-L∞ ε=8 | 6 | 100.0 % | 1.000 | 0.50 | 0.50 |" in written
    )
    assert "given: given.h5" in capsys.readouterr().out


def test_data_without_part_annotations_has_no_map():
    row = Row(class_set="cs3a", model="", attack="none", epsilon_255=0, n=4, same=4, overlap=1.0, given=4, ours=2)
    result = KComparison(given="a", ours="b", map_given=None, map_ours=None, rows=(row,))
    for text in (to_text(result), to_markdown(result, "mini")):
        assert "no part annotations" in text and "mAP at" not in text
    assert to_csv(result).splitlines()[1:] == ["um,cs3a,,none,0,4,1.0000,0.5000,1.0000,1.0000"]


def test_ours_is_the_profile_s_k_unless_that_is_the_given_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_k, "WEIGHTS_FOLDER", tmp_path / "shipped")
    given = weights_file(tmp_path / "given.h5", b"released")
    run = make_run(data, tmp_path, given)
    with pytest.raises(InputError, match=r"no K of ours.*make train-k PROFILE=mini"):
        our_weights(run)
    shipped = weights_file(tmp_path / "shipped" / "unmask_k_mini.h5", b"released")
    trained = weights_file(tmp_path / "results" / "mini" / "models" / "unmask_k_mini.h5", b"trained")
    assert our_weights(run) == trained
    weights_file(shipped, b"shipped")
    assert our_weights(run) == shipped


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A released K's stand-in (ResNet-50's depth, narrow, 45 classes) and a K of profile `mini` with random weights."""
    from unmask_tf.mrcnn import MaskRCNN, backbone
    from unmask_tf.mrcnn.config import PaperConfig, preset
    from unmask_tf.mrcnn.weights import named_weights, save_weights

    root = tmp_path_factory.mktemp("weights")
    narrow = {"TOP_DOWN_PYRAMID_SIZE": 8, "RPN_FEATURES": 8, "FPN_CLASSIF_FC_LAYERS_SIZE": 8, "MASK_FEATURES": 4}
    config = PaperConfig(BACKBONE="resnet50", IMAGE_MAX_DIM=64, IMAGE_MIN_DIM=64, **narrow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbone.RESNETS, "resnet50", ((3, 4, 6, 3), 4))
        patch.setitem(PROFILES, "mini", replace(PROFILES["mini"], architectures=("resnet50",)))
        model = MaskRCNN("inference", config, root)
        shapes = {name: tuple(variable.shape) for name, variable in named_weights(model.keras_model).items()}
        stand_in.write(root / "mask_rcnn_parts_0040.h5", shapes)
        save_weights(MaskRCNN("inference", preset("mini"), root).keras_model, root / "unmask_k_mini.h5")
        yield root


def command(data, files, tmp_path, *more):
    options = ["--k-weights", files / "mask_rcnn_parts_0040.h5", "--ours", files / "unmask_k_mini.h5", "--canvas", 64]
    return main([str(v) for v in ("compare", "--data", data, "--results", tmp_path, *options, *more)])


def test_the_released_file_format_is_evaluated_beside_ours(data, files, tmp_path, capsys):
    assert command(data, files, tmp_path, "--limit", 3) == 0
    out = capsys.readouterr().out
    assert "given: mask_rcnn_parts_0040.h5 (resnet50, canvas 64, scores from 0)" in out
    assert "ours:  unmask_k_mini.h5 (resnet_slim, canvas 128, scores from 0.3)" in out
    table = pd.read_csv(tmp_path / "mini" / "compare_k.csv").set_index("kind")
    assert table.loc["um", "n"] == 3 and set(table.index) == {"map50", "map", "map50_bbox", "map_bbox", "um"}
    assert table[["given", "ours"]].stack().between(0, 1).all()
    kept = sorted(path.name for path in (tmp_path / "mini" / "compare_k").rglob("benign.json"))
    assert kept == ["benign.json", "benign.json"]


def test_a_k_of_other_parts_is_refused_before_anything_is_computed(data, files, tmp_path, capsys):
    from unmask_tf.mrcnn import MaskRCNN
    from unmask_tf.mrcnn.config import preset
    from unmask_tf.mrcnn.weights import save_weights

    other = tmp_path / "coco.h5"
    save_weights(MaskRCNN("inference", preset("mini", NUM_CLASSES=5), tmp_path).keras_model, other)
    assert command(data, files, tmp_path, "--k-weights", other) == 2
    assert f"{other} has 5 classes with the background, but the taxonomy has 44 parts" in capsys.readouterr().err
    assert not (tmp_path / "mini").exists()


def test_a_web_page_in_place_of_the_weights_is_refused(data, files, tmp_path, capsys):
    page = tmp_path / "mask_rcnn_parts_0040.h5"
    page.write_text("<html>Sign in to download</html>")
    assert command(data, files, tmp_path, "--k-weights", page) == 2
    assert "It is a web page, not weights" in capsys.readouterr().err


def test_options_of_the_given_k_need_one(tmp_path, capsys):
    assert main(["compare", "--canvas", "64", "--results", str(tmp_path)]) == 2
    assert "--k-weights" in capsys.readouterr().err
