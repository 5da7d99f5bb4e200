"""Reading photographs of every kind; M, K and the threshold that belong together; looking at one image."""

import warnings

import h5py
import numpy as np
import pytest
from photo_files import READ, REFUSED, photo
from PIL import Image

from unmask_tf.attacks import threat_model
from unmask_tf.classifiers.build import build_classifier, load_classifier, save_classifier
from unmask_tf.data.class_images import resize_and_crop
from unmask_tf.data.pixels import to_8bit
from unmask_tf.errors import InputError
from unmask_tf.experiment.setup import WEIGHTS_FOLDER
from unmask_tf.inspection.system import System, read_photo, released_m

# --- photographs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READ)
def test_every_kind_of_photograph_is_read_upright_as_8_bit_rgb(tmp_path, name):
    READ[name](tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_photo(tmp_path / name)
    assert (read.shape, read.dtype) == ((60, 80, 3), np.uint8)
    expected = photo().astype(int)
    if "grey" in name:
        grey = photo()[..., 0] if "16" in name else np.asarray(Image.fromarray(photo()).convert("L"))
        expected = np.repeat(grey[..., None], 3, axis=2).astype(int)
    # Lossless kinds are exact; JPEG, CMYK and WebP are near, palettes of few colours less so.
    exact = name.endswith(".png") and "palette" not in name
    assert np.abs(read - expected).mean() <= (0 if exact else 20)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_inspected_is_refused_in_one_line_that_says_how_to_mend_it(tmp_path, name):
    make, message = REFUSED[name]
    make(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=message) as error:
            read_photo(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


# --- the system ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def system(tiny_release, tmp_path_factory):
    """With an M of random weights, whose gradients do not vanish as those of one trained on 18 images do."""
    _, metadata = load_classifier(tiny_release[1])
    path = tmp_path_factory.mktemp("random") / "m.weights.h5"
    model = build_classifier("mobilenet_v2", 3, input_size=64, weights="random", seed=1)
    save_classifier(model, path, metadata)
    threat = threat_model("mia_linf", 8, preset="strong", iterations=5)
    return System(path, None, WEIGHTS_FOLDER, threshold=0.9, threat=threat)


def test_an_attacker_who_knows_k_gets_k_and_keeps_his_budget(system):
    threat = threat_model("joint_linf", 16, iterations=4)
    knowing = System(system.m_weights, None, WEIGHTS_FOLDER, threshold=0.9, threat=threat)
    look = knowing.look(photo(90, 140))
    assert look.benign == system.look(photo(90, 140)).benign
    change = np.abs(look.attacked - look.seen / np.float32(255)).max()
    assert 0 < change <= 16 / 255 + 1e-6
    assert look.verdict.distance <= look.benign.distance or look.verdict.predicted_class != look.benign.predicted_class


def test_the_square_is_the_evaluation_s_and_m_and_k_see_the_same(system):
    image = photo(90, 140)
    look = system.look(image)
    assert np.array_equal(look.seen, resize_and_crop(image, 64))
    (expected,) = system.unmask.predict(look.seen[None])
    assert look.benign == expected
    assert look.benign.extraction == expected.extraction
    assert look.benign.extraction.keys() == look.benign.extracted_parts
    (attacked,) = system.unmask.predict(to_8bit(look.attacked[None]))
    assert look.verdict.extraction == attacked.extraction


def test_the_attack_stays_in_its_budget_and_leads_away_from_what_m_says(system):
    look = system.look(photo(64, 64, seed=3))
    clean = look.seen / np.float32(255)
    difference = np.abs(look.attacked - clean)
    assert 0 < difference.max() <= 8 / 255 + 1e-6
    assert look.attacked.min() >= 0 and look.attacked.max() <= 1
    label = system.labels.index(look.benign.predicted_class)

    def margin(image):
        logits = system.classifier.logits(image[None])[0]
        return logits[label] - np.delete(logits, label).max()

    assert margin(look.attacked) < margin(clean)


def test_a_look_is_repeated_exactly_and_does_not_depend_on_earlier_ones(system):
    first = system.look(photo(seed=1))
    system.look(photo(seed=2))
    again = system.look(photo(seed=1))
    assert np.array_equal(first.attacked, again.attacked)
    assert (first.benign, first.verdict) == (again.benign, again.verdict)


def test_without_an_attack_there_is_one_verdict_and_the_threshold_is_the_file_s(tiny_release):
    _, path = tiny_release
    plain = System(path, None, WEIGHTS_FOLDER)
    assert plain.unmask.threshold == plain.calibration.threshold
    assert plain.k_weights == WEIGHTS_FOLDER / "unmask_k_mini.h5"
    look = plain.look(photo())
    assert look.attacked is None and look.verdict is None


def test_no_graph_is_traced_for_another_image(system, monkeypatch):
    """Images of other shapes reach the networks in the one shape that the start has traced."""
    shapes = set()
    for owner, name in ((system.classifier.model, "predict_on_batch"), (system.unmask.extractor.model, "_function")):
        original = getattr(owner, name)

        def spy(x, original=original, name=name):
            shapes.add((name, np.shape(x[0] if name == "_function" else x)))
            return original(x)

        monkeypatch.setattr(owner, name, spy)
    for image in (photo(), photo(200, 100), photo(64, 64)):
        system.look(image)
    assert shapes == {("predict_on_batch", (1, 64, 64, 3)), ("_function", (1, 128, 128, 3))}


def copied(path, folder, **changes):
    """M's file with other metadata."""
    model, metadata = load_classifier(path)
    made = folder / "m.weights.h5"
    save_classifier(model, made, {k: v for k, v in (metadata | changes).items() if v is not None})
    return made


def test_an_m_without_its_defence_is_refused(tiny_release, tmp_path):
    made = copied(tiny_release[1], tmp_path, threshold=None)
    with pytest.raises(
        InputError, match=r"m\.weights\.h5 holds a classifier without its defence \(threshold.*release-m"
    ):
        System(made, None, WEIGHTS_FOLDER, threshold=0.5)


def test_a_threshold_chosen_with_another_k_is_not_used(tiny_release, tmp_path):
    other = tmp_path / "k.h5"
    other.write_bytes((WEIGHTS_FOLDER / "unmask_k_mini.h5").read_bytes())
    with h5py.File(other, "r+") as file:
        file.attrs["note"] = "another file"
    with pytest.raises(InputError, match=r"chosen with another K than .*k\.h5.*unmask_k_mini\.h5.*--threshold"):
        System(tiny_release[1], other, WEIGHTS_FOLDER)
    # A K of that name beside M comes before the shipped one; with a threshold, any K will do.
    beside = other.rename(tmp_path / "unmask_k_mini.h5")
    found = System(copied(tiny_release[1], tmp_path), None, WEIGHTS_FOLDER, threshold=0.5)
    assert (found.k_weights, found.unmask.threshold) == (beside, 0.5)


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_a_threshold_that_is_no_distance_is_refused(tiny_release, threshold):
    with pytest.raises(InputError, match="Give a distance"):
        System(tiny_release[1], None, WEIGHTS_FOLDER, threshold=threshold)


def test_missing_and_altered_weights_are_refused(tiny_release, tmp_path):
    with pytest.raises(InputError, match=r"nothing\.h5 do not exist"):
        System(tmp_path / "nothing.h5", None, WEIGHTS_FOLDER)
    with pytest.raises(InputError, match=r"nothing\.h5 do not exist"):
        System(tiny_release[1], tmp_path / "nothing.h5", WEIGHTS_FOLDER)
    made = copied(tiny_release[1], tmp_path)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {made.name}\n")
    with pytest.raises(InputError, match="SHA256SUMS"):
        System(made, None, WEIGHTS_FOLDER)


# --- which M -------------------------------------------------------------------------------------------------------

PREFERRED = ("cs5b", "mobilenet_v2")


@pytest.fixture
def weights(tmp_path):
    """A folder with named, empty files."""

    def make(*names):
        for name in names:
            (tmp_path / f"unmask_m_{name}.weights.h5").touch()
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("there", "wish", "chosen"),
    [
        (("cs3a_mobilenet_v2", "cs5b_mobilenet_v2"), (None, None), "cs5b_mobilenet_v2"),
        (("cs3a_mobilenet_v2", "cs5b_mobilenet_v2"), ("cs3a", None), "cs3a_mobilenet_v2"),
        (("cs3a_mobilenet_v2", "cs5b_mobilenet_v2"), ("cs5-2", None), "cs5b_mobilenet_v2"),
        (("cs3a_resnet50",), (None, None), "cs3a_resnet50"),
        (("cs5b_resnet50", "cs5b_mobilenet_v2"), (None, None), "cs5b_mobilenet_v2"),
        (("cs5b_resnet50", "cs5b_mobilenet_v2"), (None, "resnet50"), "cs5b_resnet50"),
        (("my_own_set_densenet121", "cs5b_mobilenet_v2"), ("my_own_set", None), "my_own_set_densenet121"),
    ],
)
def test_the_released_m_is_the_wished_one_or_the_preferred_or_the_only_one(weights, there, wish, chosen):
    assert released_m(weights(*there), *wish, PREFERRED).name == f"unmask_m_{chosen}.weights.h5"


@pytest.mark.parametrize(
    ("there", "wish", "message"),
    [
        ((), (None, None), "no released classifiers.*none"),
        (("cs3a_resnet50",), ("cs5b", None), "no released classifiers for class set cs5b.*--class-set cs3a"),
        (("cs3a_resnet50", "cs3a_vgg16"), (None, None), "2 released classifiers.*resnet50; .*vgg16"),
        (("cs3a_resnet50",), (None, "vgg16"), "architecture vgg16"),
    ],
)
def test_a_wish_that_no_file_or_several_fulfil_is_refused_with_what_is_there(weights, there, wish, message):
    with pytest.raises(InputError, match=message):
        released_m(weights(*there), *wish, PREFERRED)
