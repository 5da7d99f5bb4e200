"""mAP of K: perfect, absent and half-right detections worked out by hand, and the path of box-only data."""

import numpy as np
import pytest
from PIL import Image

from unmask_tf.data.part_instances import PartImage, PartInstance, encode_mask, read_part_instances
from unmask_tf.errors import InputError
from unmask_tf.mrcnn import evaluate as module
from unmask_tf.mrcnn.evaluate import detections_as_coco, evaluate, ground_truth, mean_average_precision
from unmask_tf.mrcnn.weights import parts_state, save_weights
from unmask_tf.taxonomy import Taxonomy

PARTS = Taxonomy(("wheel", "door", "tail"), {"car": ("wheel", "door")}, {"one": ("car",)})


def mask_of(*box, side=100):
    mask = np.zeros((side, side), bool)
    mask[box[0] : box[2], box[1] : box[3]] = True
    return mask


def rounded(value):
    """Scores to nine digits: pycocotools adds the smallest float to its denominators."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 9) if isinstance(value, float) else value


class Drawn:
    """A data set of annotated 100x100 images without files: per image a list of (part, box, has a mask)."""

    def __init__(self, *images, taxonomy=PARTS):
        self.taxonomy, self.parts = taxonomy, images
        self.images = tuple(PartImage(None, 100, 100) for _ in images)
        self.places = list(range(len(images)))

    def __len__(self):
        return len(self.parts)

    def spread(self, count):
        """Evenly spaced images, as `PartDataset.spread`; an image's pixels keep telling its place in the whole."""
        size = len(self.parts)
        if count is None or count >= size:
            return self
        part = Drawn(*(self.parts[i * size // count] for i in range(count)), taxonomy=self.taxonomy)
        part.places = [self.places[i * size // count] for i in range(count)]
        return part

    def load_image(self, index):
        return np.full((100, 100, 3), self.places[index], np.uint8)

    def load_instances(self, index):
        rows = self.parts[index]
        ids = np.array([self.taxonomy.parts.index(part) + 1 for part, _, _ in rows], np.int32)
        boxes = np.array([box for _, box, _ in rows], np.int32).reshape(-1, 4)
        masks = np.stack([mask_of(*box) & drawn for _, box, drawn in rows] or [mask_of(0, 0, 0, 0)], axis=-1)
        return ids, boxes, masks[..., : len(rows)], np.array([drawn for _, _, drawn in rows], bool)


def result(*rows, masks=True):
    """What `MaskRCNN.detect` gives, from (class index, box, score)."""
    found = {
        "rois": np.array([box for _, box, _ in rows], np.int32).reshape(-1, 4),
        "class_ids": np.array([i for i, _, _ in rows], np.int32),
        "scores": np.array([score for _, _, score in rows], np.float32),
    }
    if masks:
        found["masks"] = np.stack([mask_of(*box) for _, box, _ in rows] or [mask_of(0, 0, 0, 0)], -1)[..., : len(rows)]
    return found


def score(images, results, kind="bbox"):
    truth, _ = ground_truth(Drawn(*images), len(images))
    rows = [row for i, found in enumerate(results) for row in detections_as_coco([found], i)]
    return rounded(mean_average_precision(truth, rows, kind))


A, B, C = (10, 10, 30, 40), (50, 10, 90, 40), (10, 50, 90, 90)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_perfect_detections_score_one(kind):
    images = [[("wheel", A, True), ("door", B, True)], [("wheel", C, True)]]
    found = [result((1, A, 0.9), (2, B, 0.8)), result((1, C, 0.3))]
    assert score(images, found, kind) == {"map50": 1.0, "map": 1.0, "per_part": {"wheel": 1.0, "door": 1.0}}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_no_detection_scores_zero(kind):
    images = [[("wheel", A, True), ("door", B, True)]]
    assert score(images, [result()], kind) == {"map50": 0.0, "map": 0.0, "per_part": {"wheel": 0.0, "door": 0.0}}


def test_detections_in_the_wrong_place_or_of_the_wrong_part_score_zero():
    images = [[("wheel", A, True), ("door", B, True)]]
    assert score(images, [result((1, B, 0.9), (2, A, 0.9))])["map50"] == 0


def test_one_of_two_parts_found_perfectly_scores_a_half():
    images = [[("wheel", A, True), ("door", B, True)]]
    expected = {"map50": 0.5, "map": 0.5, "per_part": {"wheel": 1.0, "door": 0.0}}
    assert score(images, [result((1, A, 0.9))]) == expected


def test_a_false_detection_ranked_first_halves_the_precision():
    images = [[("wheel", A, True)]]
    assert score(images, [result((1, C, 0.9), (1, A, 0.8))])["map50"] == pytest.approx(0.5)
    # Ranked last, it costs nothing.
    assert score(images, [result((1, C, 0.7), (1, A, 0.8))])["map50"] == pytest.approx(1.0)


def test_one_of_two_instances_found_covers_51_of_101_recall_points():
    images = [[("wheel", A, True)], [("wheel", C, True)]]
    assert score(images, [result((1, A, 0.9)), result()])["map50"] == pytest.approx(51 / 101)


def test_a_second_detection_of_one_instance_is_false():
    images = [[("wheel", A, True), ("wheel", C, True)]]
    # Ranked: true, false, true. Precision 1 up to recall 1/2, then 2/3.
    found = [result((1, A, 0.9), (1, A, 0.8), (1, C, 0.7))]
    assert score(images, found)["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_map_averages_over_the_ten_overlap_thresholds():
    # An overlap of 62 of 100 columns passes .50, .55 and .60.
    found = [result((1, (0, 0, 10, 62), 0.9))]
    scores = score([[("wheel", (0, 0, 10, 100), True)]], found)
    assert scores["map50"] == pytest.approx(1.0) and scores["map"] == pytest.approx(0.3)


def test_masks_and_boxes_are_scored_apart():
    images = [[("wheel", (0, 0, 40, 40), True)]]
    found = result((1, (0, 0, 40, 40), 0.9))
    found["masks"] = mask_of(0, 0, 40, 10)[..., None]
    assert score(images, [found], "bbox")["map50"] == 1 and score(images, [found], "segm")["map50"] == 0


def test_parts_without_ground_truth_do_not_count():
    images = [[("wheel", A, True)]]
    assert score(images, [result((1, A, 0.9), (3, C, 0.99))])["per_part"] == {"wheel": 1.0}


def test_images_without_any_part_are_refused():
    with pytest.raises(InputError, match="no annotated part"):
        score([[], []], [result((1, A, 0.9)), result()])


def test_detections_become_coco_rows_with_x_y_width_height():
    (row,) = detections_as_coco([result(), result((2, (10, 20, 40, 25), 0.5), masks=False)], 7)
    assert row == {"image_id": 8, "category_id": 2, "bbox": [20, 10, 5, 30], "score": 0.5}


def test_ground_truth_uses_class_indices_and_tells_whether_every_part_has_a_mask():
    truth, all_masks = ground_truth(Drawn([("door", A, True)], [("tail", B, True)]), 2)
    assert all_masks
    assert [(a["image_id"], a["category_id"], a["bbox"], a["area"]) for a in truth.dataset["annotations"]] == [
        (0, 2, [10, 10, 30, 20], 600.0),
        (1, 3, [10, 50, 30, 40], 1200.0),
    ]
    truth, all_masks = ground_truth(Drawn([("door", A, True)], [("tail", B, False)]), 2)
    assert not all_masks
    assert truth.dataset["annotations"][1]["area"] == 1200.0, "a box-only part covers its box"
    assert ground_truth(Drawn([("door", A, True)], [("tail", B, False)]), 1)[1], "only the first images count"


class Oracle:
    """A K that knows the answer: it finds the parts of image i by the pixel value i."""

    def __init__(self, dataset):
        self.dataset, self.calls = dataset, []

    def _find(self, kind, images):
        self.calls.append((kind, [int(image[0, 0, 0]) for image in images]))
        for image in images:
            ids, boxes, *_ = self.dataset.load_instances(int(image[0, 0, 0]))
            yield result(*[(i, box, 0.9) for i, box in zip(ids, boxes, strict=True)], masks=kind == "masks")

    def detect(self, images):
        return list(self._find("masks", images))

    def detect_boxes(self, images):
        return list(self._find("boxes", images))


def run(*arguments, **options):
    return rounded(evaluate(*arguments, **options))


def test_masked_data_is_scored_by_masks_and_by_boxes_in_full_batches():
    """The last batch is filled up, so that K compiles once."""
    data = Drawn([("wheel", A, True)], [("door", B, True)], [("wheel", C, True)])
    oracle = Oracle(data)
    scores = run(oracle, data, batch_size=2)
    assert oracle.calls == [("masks", [0, 1]), ("masks", [2, 2])], (
        "the last batch is filled up, so that K compiles once"
    )
    parts, names = {"wheel": 1.0, "door": 1.0}, ("map50", "map", "voc_map50", "image_map50")
    assert scores == {
        **dict.fromkeys(names, 1.0),
        **dict.fromkeys((f"{name}_bbox" for name in names), 1.0),
        **dict.fromkeys(("per_part", "voc_per_part", "per_part_bbox", "voc_per_part_bbox"), parts),
        **{"iou_type": "segm", "n_images": 3},
    }


def test_data_with_a_box_only_part_is_scored_by_boxes_without_the_mask_head():
    data = Drawn([("wheel", A, True)], [("door", B, False)])
    oracle = Oracle(data)
    scores = run(oracle, data, batch_size=2)
    assert oracle.calls == [("boxes", [0, 1])]
    assert (scores["iou_type"], scores["map50"], scores["map50_bbox"]) == ("bbox", 1.0, 1.0)


def test_a_limit_takes_evenly_spaced_images():
    """Two of five are the images 0 and 2, three of five 0, 1 and 3: each source of a sorted file has its share."""
    data = Drawn(*([(part, A, True)] for part in ("wheel", "door", "tail", "door", "tail")))
    for limit, places, found in ((2, [0, 2], {"wheel", "tail"}), (3, [0, 1, 3], {"wheel", "door"})):
        oracle = Oracle(data)
        scores = run(oracle, data, limit=limit, batch_size=3)
        assert [place for _, batch in oracle.calls for place in batch][:limit] == places
        assert scores["n_images"] == limit and set(scores["per_part"]) == found
        assert scores["map50"] == 1.0, "each detection is held against its own image's parts"
    assert run(Oracle(data), data, limit=9)["n_images"] == 5


def test_a_weights_file_is_scored_with_every_detection_kept(detector, tiny_config, parts, taxonomy, tmp_path, eager):
    save_weights(detector.keras_model, tmp_path / "k.h5", parts_state(taxonomy.parts))
    config, told = tiny_config(DETECTION_MIN_CONFIDENCE=0.99), []
    scores = module.evaluate_parts(config, tmp_path / "k.h5", parts, limit=2, progress=told.append)
    # Two of four are the images 0 and 2; image 2 has a wheel without a mask, so that boxes are scored.
    assert scores["n_images"] == 2 and scores["iou_type"] == "bbox"
    assert set(scores["per_part"]) == {"wheel", "vehicle_left"}, "image 1 shows the right side"
    assert scores == evaluate(detector, parts, limit=2)
    assert told == [1.0] and config.DETECTION_MIN_CONFIDENCE == 0.99


def test_weights_of_other_parts_are_not_scored(detector, tiny_config, parts, tmp_path):
    save_weights(detector.keras_model, tmp_path / "k.h5", parts_state(("wheel", "door", "tail")))
    with pytest.raises(
        InputError, match="trained on other parts: it has 'wheel' where the taxonomy has 'vehicle_left'"
    ):
        module.evaluate_parts(tiny_config(), tmp_path / "k.h5", parts)


def test_real_annotations_are_read_with_their_masks(tmp_path):
    from unmask_tf.data.part_instances import write_part_instances

    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(tmp_path / "a.png")
    parts = (PartInstance("door", A, encode_mask(mask_of(*A))), PartInstance("tail", B))
    write_part_instances(tmp_path / "p.json", [PartImage(tmp_path / "a.png", 100, 100, parts)], PARTS)
    truth, all_masks = ground_truth(read_part_instances(tmp_path / "p.json", tmp_path, PARTS), 1)
    assert not all_masks
    assert [a["category_id"] for a in truth.dataset["annotations"]] == [2, 3]
    rows = detections_as_coco([result((2, A, 0.9), (3, B, 0.9), masks=False)], 0)
    assert rounded(mean_average_precision(truth, rows, "bbox"))["map"] == 1.0
