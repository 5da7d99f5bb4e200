"""K as the extractor of parts: their names, highest scores and boxes, image by image."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from unmask_tf.defense.extract import EXTRACTORS, PartExtractor, PartSeen
from unmask_tf.defense.unmask import UnMask
from unmask_tf.errors import InputError
from unmask_tf.mrcnn import fast, part_names, weights
from unmask_tf.mrcnn.config import Config, preset
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.part_names import FOLDS, fold
from unmask_tf.mrcnn.weights import named_weights, save_weights
from unmask_tf.taxonomy import UNMASK, Taxonomy

PARTS = Taxonomy(("wheel", "door", "tail"), {"car": ("wheel", "door")}, {"one": ("car",)})


def image(*class_ids, size=(4, 4)):
    """An image whose first row of pixels names what the stub K finds in it."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels.reshape(-1)[: len(class_ids)] = class_ids
    return pixels


class StubK:
    """Finds the class indices written into the image, with the scores 0.9, 0.7, 0.5, ... and boxes in their order."""

    def __init__(self, config, weights, engine):
        self.config, self.weights, self.engine, self.calls = config, weights, engine, []

    def canvas(self, height, width):
        return (64, 64) if self.config.IMAGE_RESIZE_MODE == "square" else (height, width)

    def detect_boxes(self, images):
        self.calls.append([found.tobytes() for found in images])
        results = []
        for found in images:
            ids = found[found > 0].astype(np.int32)
            scores = np.float32(0.9 - 0.2 * np.arange(len(ids)))
            boxes = np.array([(0, i, 2, i + 1) for i in range(len(ids))], np.int32).reshape(-1, 4)
            results.append({"class_ids": ids, "scores": scores, "rois": boxes})
        return results


@pytest.fixture
def extractor(monkeypatch):
    """Makes an extractor around the stub."""
    monkeypatch.setattr(fast, "FastDetector", StubK)
    monkeypatch.setattr(weights, "check_parts", lambda path, parts: None)
    monkeypatch.setattr(part_names, "part_scores", lambda path: {})
    monkeypatch.setattr(part_names, "held_out_scores", lambda path: np.zeros((0, 0)))

    def make(batch_size=2, taxonomy=PARTS, mode="square", scores=None, held_out=None, **options):
        if held_out is not None:
            monkeypatch.setattr(part_names, "held_out_scores", lambda path: held_out)
        if scores is not None:
            monkeypatch.setattr(part_names, "part_scores", lambda path: scores)
        return PartExtractor(Config(NUM_CLASSES=4, IMAGE_RESIZE_MODE=mode), "k.h5", taxonomy, batch_size, **options)

    return make


def sets(extractions):
    return [frozenset(found) for found in extractions]


def test_class_index_i_is_the_part_at_position_i_minus_1(extractor):
    found = extractor().extract(np.stack([image(1), image(3, 2)]))
    assert sets(found) == [{"wheel"}, {"tail", "door"}]
    assert [list(parts) for parts in found] == [["wheel"], ["door", "tail"]], "in the taxonomy's order"


def test_a_part_needs_the_score_that_the_weights_ask_of_it(extractor):
    # The stub's scores are .9, .7 and .5, in the order of the pixels.
    pixels = np.stack([image(1, 2, 3), image(3, 2, 1), image(2, 2, 2)])
    found = extractor(scores={"wheel": 0.8, "door": 0.6, "tail": 0.2}).extract(pixels)
    assert sets(found) == [{"wheel", "door", "tail"}, {"door", "tail"}, {"door"}]
    assert found[2]["door"].boxes == ((0, 0, 2, 1), (0, 1, 2, 2))


def test_an_image_that_scores_were_chosen_on_is_judged_by_those_chosen_without_it(extractor):
    scores = {"wheel": 0.8, "door": 0.6, "tail": 0.2}
    held_out = np.full((FOLDS, 3), 0.1)
    held_out[fold("car/1.jpg")] = 0.6, 0.6, 0.6
    k = extractor(scores=scores, held_out=held_out)
    other = next(f"car/{i}.jpg" for i in range(2, 50) if fold(f"car/{i}.jpg") != fold("car/1.jpg"))
    pixels = np.stack([image(3, 2, 1)] * 2)  # scores .9, .7, .5
    assert sets(k.extract(pixels, ["classes/val/car/1.jpg", other])) == [{"tail", "door"}, {"tail", "door", "wheel"}]
    assert sets(k.extract(pixels)) == [{"door", "tail"}] * 2, "new images: by the scores chosen on all"
    without = extractor(scores=scores, held_out=np.zeros((0, 0)))
    assert sets(without.extract(pixels, [other] * 2)) == [{"door", "tail"}] * 2


def test_a_part_has_its_highest_score_and_all_its_boxes_by_falling_score(extractor):
    (found,) = extractor().extract(image(3, 1, 3)[None])
    assert found.keys() == {"wheel", "tail"}
    assert found["wheel"] == PartSeen(pytest.approx(0.7), ((0, 1, 2, 2),))
    assert found["tail"] == PartSeen(pytest.approx(0.9), ((0, 0, 2, 1), (0, 2, 2, 3)))
    assert {type(side) for box in found["tail"].boxes for side in box} == {int}
    assert type(found["tail"].score) is float


def test_detections_that_do_not_come_by_score_are_put_in_order():
    result = {
        "class_ids": np.array([2, 2]),
        "scores": np.float32([0.5, 0.75]),
        "rois": np.array([[0, 0, 1, 1], [2, 2, 3, 3]]),
    }
    made = object.__new__(PartExtractor)
    made.taxonomy = PARTS
    assert made._parts(result, np.zeros(4)) == {"door": PartSeen(0.75, ((2, 2, 3, 3), (0, 0, 1, 1)))}


def test_nothing_found_is_the_empty_extraction(extractor):
    assert extractor().extract(image()[None]) == [{}]


def test_every_call_of_k_is_a_full_batch(extractor):
    found = extractor(batch_size=3)
    images = [image(i % 3 + 1, i // 3) for i in range(4)]
    found.extract(np.stack(images))
    first, second = found.model.calls
    assert first == [i.tobytes() for i in images[:3]]
    assert second == [images[3].tobytes()] * 3


def test_an_array_and_the_list_of_its_images_are_the_same(extractor):
    found = extractor()
    images = np.stack([image(1), image(2)])
    assert found.extract(images) == found.extract(list(images))


def test_a_list_of_images_of_several_sizes_shares_the_square_canvas(extractor):
    found = extractor(batch_size=3)
    images = [image(1, size=(4, 4)), image(2, size=(5, 9)), image(3, size=(8, 2))]
    assert sets(found.extract(images)) == [{"wheel"}, {"door"}, {"tail"}]
    assert len(found.model.calls) == 1


def test_batches_hold_one_canvas_size_where_canvases_follow_the_images(extractor):
    found = extractor(mode="none", batch_size=2)
    images = [image(1, size=(8, 8)), image(2, size=(8, 16)), image(3, size=(8, 8)), image(1, 2, size=(8, 16))]
    assert sets(found.extract(images)) == [{"wheel"}, {"door"}, {"tail"}, {"wheel", "door"}]
    assert found.model.calls == [[images[i].tobytes() for i in rows] for rows in ((0, 2), (1, 3))]


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
    with pytest.raises(ValueError, match=words):
        extractor().extract(bad)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([image(1), np.zeros((4, 4, 3))], r"float64 \(4, 4, 3\) \(image 1 of the list\)"),
        ([np.zeros((4, 4), np.uint8)], r"uint8 \(4, 4\) \(image 0"),
        ([np.zeros((0, 4, 3), np.uint8)], r"uint8 \(0, 4, 3\)"),
        (["photo.jpg"], r"str \(\)"),
    ],
    ids=["float", "grey", "empty", "path"],
)
def test_a_list_with_anything_but_8_bit_rgb_is_refused_by_position(extractor, bad, words):
    with pytest.raises(ValueError, match=words):
        extractor().extract(bad)


def test_a_batch_size_of_0_is_refused(extractor):
    with pytest.raises(ValueError, match="batch_size is 0"):
        extractor(batch_size=0)


def test_a_taxonomy_of_another_size_is_refused_with_both_numbers(extractor):
    with pytest.raises(ValueError, match=r"4 outputs.*44 parts"):
        extractor(taxonomy=UNMASK)


def test_mask_rcnn_is_made_of_plain_settings(extractor):
    config = preset("mini", NUM_CLASSES=4, DETECTION_MIN_CONFIDENCE=0.5)
    settings = json.loads(json.dumps({"config": config.to_dict(), "batch_size": 3}))
    made = EXTRACTORS["mask_rcnn"](Path("k.h5"), PARTS, settings)
    assert made.batch_size == 3 and made.taxonomy is PARTS and made.model.weights == Path("k.h5")
    assert made.model.config.to_dict() == config.to_dict()
    assert made.model.engine == "tensorflow", "what the tables are made with"
    assert EXTRACTORS["mask_rcnn"](Path("k.h5"), PARTS, {"config": config.to_dict()}).batch_size == 8
    assert EXTRACTORS["mask_rcnn"](Path("k.h5"), PARTS, {**settings, "engine": "openvino"}).model.engine == "openvino"


def test_the_engine_is_chosen_by_itself_where_none_is_named(extractor):
    assert extractor().model.engine == "auto"


def test_mask_rcnn_needs_weights_and_no_other_settings(extractor):
    settings = {"config": Config(NUM_CLASSES=4).to_dict()}
    with pytest.raises(InputError, match="needs the weights"):
        EXTRACTORS["mask_rcnn"](None, PARTS, settings)
    with pytest.raises(ValueError, match=r"\['batchsize'\]"):
        EXTRACTORS["mask_rcnn"](Path("k.h5"), PARTS, {**settings, "batchsize": 3})


def test_unmask_takes_extractions_for_sets_of_parts(extractor):
    unmask = UnMask(lambda images: np.zeros((len(images), 1)), extractor(), PARTS, "one", threshold=0.75)
    (verdict,) = unmask.predict(image(1, 3)[None])
    assert verdict.extracted_parts == {"wheel", "tail"}
    assert verdict.similarity == pytest.approx(1 / 3), "the wheel, of wheel, door and tail"


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


def blocks(count, seed=1):
    """Images of random 8x8 blocks, uint8 (count, 64, 64, 3)."""
    small = np.random.RandomState(seed).randint(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)


def test_the_real_k_gives_all_its_detections_whatever_the_batch(real):
    config, weights = real
    k = MaskRCNN("inference", config, weights.parent)  # with its normalisations, and masks
    k.load_weights(weights)
    images = blocks(6)
    expected = []
    for result in k.detect_boxes(list(images)):
        rows = zip(result["class_ids"], result["rois"].tolist(), strict=True)
        expected.append(sorted((PARTS.parts[i - 1], tuple(box)) for i, box in rows))
    assert all(expected) and len({tuple(rows) for rows in expected}) > 1, "the images must differ in their parts"
    for batch_size in (1, 4):
        found = PartExtractor(config, weights, PARTS, batch_size).extract(images)
        assert [sorted((part, box) for part, seen in row.items() for box in seen.boxes) for row in found] == expected


def test_a_missing_weights_file_is_refused(real, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        PartExtractor(real[0], tmp_path / "none.h5", PARTS)


def resident_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat_over_10000_images(real):
    found = PartExtractor(*real, PARTS, batch_size=50)
    sizes = []
    for chunk in range(20):
        found.extract(blocks(500, seed=chunk))
        sizes.append(resident_mb())
    # 8,000 images of 64x64 are 98 MB, their canvases 1.5 GB: a leak of either, or of the results, shows.
    assert sizes[-1] - sizes[3] < 30, sizes
