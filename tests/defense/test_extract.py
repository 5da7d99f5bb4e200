"""K as the extractor of parts: sets of names, remembered by the image's content."""

import keras
import numpy as np
import pytest

from unmask_tf.config import profile
from unmask_tf.defense import extract as module
from unmask_tf.defense.extract import PartExtractor
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import named_weights, save_weights
from unmask_tf.taxonomy import UNMASK, Taxonomy

PARTS = Taxonomy(("wheel", "door", "tail"), {"car": ("wheel", "door")}, {"one": ("car",)})


def image(*class_ids, size=(4, 4)):
    """An image whose first row of pixels names what the stub K finds in it."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels.reshape(-1)[: len(class_ids)] = class_ids
    return pixels


class StubK:
    """Finds the class indices written into the image; remembers the calls."""

    built = None

    def __init__(self, mode, config, model_dir):
        StubK.built, self.calls = self, []
        self.mode, self.config, self.keras_model = mode, config, "graph"

    def detect_boxes(self, images):
        self.calls.append([found.tobytes() for found in images])
        found = [image[image > 0] for image in images]
        return [{"class_ids": ids, "scores": np.linspace(1, 0.5, len(ids))} for ids in found]


@pytest.fixture
def extractor(monkeypatch):
    """Makes an extractor around the stub."""
    monkeypatch.setattr(module, "MaskRCNN", StubK)
    monkeypatch.setattr(module, "load_weights", lambda graph, path: None)
    monkeypatch.setattr(module, "check_parts", lambda path, parts: None)

    def make(batch_size=2, taxonomy=PARTS):
        return PartExtractor(Config(NUM_CLASSES=4), "k.h5", taxonomy, batch_size)

    return make


def test_class_index_i_is_the_part_at_position_i_minus_1(extractor):
    found = extractor().extract(np.stack([image(1), image(3, 2)]))
    assert found == [{"wheel"}, {"tail", "door"}]
    assert all(isinstance(parts, frozenset) for parts in found)


def test_a_part_found_twice_counts_once_and_nothing_found_is_the_empty_set(extractor):
    assert extractor().extract(np.stack([image(2, 2, 2), image()])) == [{"door"}, frozenset()]


def test_every_call_of_k_is_a_full_batch(extractor):
    found = extractor(batch_size=3)
    images = [image(i % 3 + 1, i // 3) for i in range(4)]
    found.extract(np.stack(images))
    first, second = found.model.calls
    assert first == [i.tobytes() for i in images[:3]]
    assert second == [images[3].tobytes()] * 3


def test_an_image_seen_before_is_not_shown_to_k_again(extractor):
    found = extractor()
    images = np.stack([image(1), image(2)])
    first = found.extract(images)
    assert found.extract(images) == first == [{"wheel"}, {"door"}]
    assert found.extract(images[::-1]) == first[::-1]
    assert len(found.model.calls) == 1


def test_duplicates_inside_a_batch_are_shown_to_k_once_and_answered_each(extractor):
    found = extractor(batch_size=2)
    images = np.stack([image(1), image(2), image(1), image(3), image(1)])
    assert found.extract(images) == [{"wheel"}, {"door"}, {"wheel"}, {"tail"}, {"wheel"}]
    shown = [key for call in found.model.calls for key in call]
    assert len(found.model.calls) == 2
    assert set(shown) == {images[i].tobytes() for i in (0, 1, 3)}


def test_an_image_that_differs_in_one_bit_is_another_image(extractor):
    found = extractor()
    changed = image(1)
    changed[-1, -1, -1] = 2
    found.extract(np.stack([image(1)]))
    assert found.extract(np.stack([changed])) == [{"wheel", "door"}]


def test_equal_bytes_in_another_shape_are_another_image(extractor):
    found = extractor()
    found.extract(image(1, size=(2, 8))[None])
    found.extract(image(1, size=(8, 2))[None])
    assert len(found.model.calls) == 2


def test_no_images_give_no_sets_and_no_call(extractor):
    found = extractor()
    assert found.extract(np.zeros((0, 4, 4, 3), np.uint8)) == []
    assert found.model.calls == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), r"float32 \(2, 4, 4, 3\).*floor\(255 \* x\)"),
        (np.zeros((4, 4, 3), np.uint8), r"uint8 \(4, 4, 3\)"),
        (np.zeros((2, 4, 4, 4), np.uint8), r"uint8 \(2, 4, 4, 4\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"uint8 \(2, 3, 4, 4\)"),
    ],
    ids=["float", "one image", "alpha", "channels first"],
)
def test_anything_but_8_bit_rgb_batches_is_refused(extractor, bad, words):
    with pytest.raises(InputError, match=words):
        extractor().extract(bad)


def test_a_taxonomy_of_another_size_is_refused_with_both_numbers(extractor):
    with pytest.raises(InputError, match=r"4 outputs.*44 parts"):
        extractor(taxonomy=UNMASK)


def test_a_profile_names_the_preset_and_the_taxonomy_the_number_of_outputs(monkeypatch):
    monkeypatch.setattr(module, "MaskRCNN", StubK)
    loaded = []
    monkeypatch.setattr(module, "load_weights", lambda graph, path: loaded.append((graph, path)))
    monkeypatch.setattr(module, "check_parts", lambda path, parts: None)
    found = PartExtractor.from_profile(profile("paper"), "some/k.h5")
    assert (StubK.built.mode, StubK.built.config.NAME, StubK.built.config.NUM_CLASSES) == ("inference", "paper", 45)
    assert StubK.built.config.DETECTION_MIN_CONFIDENCE == 0, "every detection counts, as released"
    assert loaded == [("graph", "some/k.h5")]
    assert PartExtractor.from_profile(profile("mini"), "k.h5", PARTS).model.config.NUM_CLASSES == 4
    assert found.taxonomy is UNMASK


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A tiny real K with random weights under which it detects: (config, weights file)."""
    config = Config(
        NUM_CLASSES=4,
        BACKBONE="resnet_slim",
        FPN_CLASSIF_FC_LAYERS_SIZE=8,
        TOP_DOWN_PYRAMID_SIZE=8,
        RPN_FEATURES=8,
        MASK_FEATURES=4,
        RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128),
        PRE_NMS_LIMIT=50,
        POST_NMS_ROIS_INFERENCE=12,
        IMAGE_MIN_DIM=64,
        IMAGE_MAX_DIM=64,
        DETECTION_MAX_INSTANCES=6,
        DETECTION_MIN_CONFIDENCE=0.0,
    )
    folder = tmp_path_factory.mktemp("extractor")
    keras.utils.set_random_seed(0)
    graph = MaskRCNN("inference", config, folder).keras_model
    weights = named_weights(graph)
    for name in ("rpn_bbox_pred/kernel", "mrcnn_bbox_fc/kernel"):
        weights[name].assign(np.zeros(weights[name].shape))
    # Never background; which part, the image decides.
    weights["mrcnn_class_logits/kernel"].assign(np.random.RandomState(0).normal(0, 1, (8, 4)))
    weights["mrcnn_class_logits/bias"].assign([-1e6, 0, 0, 0])
    save_weights(graph, folder / "k.h5")
    return config, folder / "k.h5"


def test_the_real_k_gives_the_names_of_all_its_detections(real):
    config, weights = real
    blocks = np.random.RandomState(1).randint(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    images = blocks.repeat(8, axis=1).repeat(8, axis=2)
    extractor = PartExtractor(config, weights, PARTS, batch_size=2)
    found = extractor.extract(images)
    for number in (0, 2):
        detected = extractor.model.detect_boxes([images[number], images[number]])[0]["class_ids"]
        assert len(detected) > 0
        assert found[number] == {PARTS.parts[i - 1] for i in detected}


def test_a_missing_weights_file_is_refused(real, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        PartExtractor(real[0], tmp_path / "none.h5", PARTS)
