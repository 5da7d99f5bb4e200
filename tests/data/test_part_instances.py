"""Part annotations: literals worked out by hand, round trips, and every fault a user can make."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from unmask_tf.data.part_instances import (
    PartDataset,
    PartImage,
    PartInstance,
    decode_mask,
    encode_mask,
    read_part_instances,
    tight_box,
    write_part_instances,
)
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import Taxonomy

TAXONOMY = Taxonomy(("wheel", "door", "tail"), {"car": ("wheel", "door"), "dog": ("tail",)}, {"two": ("car", "dog")})
HEIGHT, WIDTH = 5, 6
PHOTOS = Path(os.environ.get("UNMASK_PHOTOS") or "no photographs")

# Category ids differ from the taxonomy's positions on purpose.
CATEGORIES = [{"id": 70, "name": "tail"}, {"id": 3, "name": "wheel"}, {"id": 5, "name": "door"}]


def coco(parts, **changes):
    content = {
        "categories": CATEGORIES,
        "images": [
            {"id": 8, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
            {"id": 9, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [
            {"id": i + 1, "image_id": 8, "category_id": 3, "bbox": [1, 1, 2, 3], "iscrowd": 0, **annotation}
            for i, annotation in enumerate(parts)
        ],
    }
    return {**content, **changes}


@pytest.fixture
def folder(tmp_path):
    for value, name in enumerate(("a.png", "b.png")):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 + value, np.uint8)).save(tmp_path / name)
    return tmp_path


def read(folder, content, **arguments):
    (folder / "parts.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_part_instances(folder / "parts.json", folder, TAXONOMY, **arguments)


def instances_of(folder, *annotations):
    """What image b.png (the second in file order) holds."""
    return read(folder, coco(annotations)).load_instances(1)


# --- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "counts"),
    [
        ([2, 3, 1], "231"),
        ([1, 2, 3, 4], "1232"),  # the fourth run is stored as 4 - 2
        ([4, 3, 2, 1], "432N"),  # 1 - 3 = -2 = 0b11110 in five bits; chr(48 + 30) = "N"
        ([100, 1], "T31"),  # 100 = 3 * 32 + 4: "T" = chr(48 + 32 + 4), then "3"
    ],
)
def test_compressed_rle_is_cocos(runs, counts):
    height = sum(runs)
    column = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = column[:, None]
    assert encode_mask(mask) == {"size": [height, 1], "counts": counts}
    assert np.array_equal(decode_mask({"size": [height, 1], "counts": counts}, height, 1), mask)
    assert np.array_equal(decode_mask({"size": [height, 1], "counts": runs}, height, 1), mask)


def test_rle_runs_down_the_columns():
    expected = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert np.array_equal(decode_mask({"size": [2, 3], "counts": [2, 3, 1]}, 2, 3), expected)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_mask_survives_the_rle_round_trip(data):
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    mask = data.draw(arrays(bool, shape))
    encoded = json.loads(json.dumps(encode_mask(mask)))
    decoded = decode_mask(encoded, *shape)
    assert decoded.dtype == bool
    assert np.array_equal(decoded, mask)


def test_encoding_refuses_anything_but_a_boolean_plane():
    with pytest.raises(InputError, match=r"uint8 \(2, 2\)"):
        encode_mask(np.ones((2, 2), np.uint8))
    with pytest.raises(InputError, match=r"bool \(2, 2, 1\)"):
        encode_mask(np.ones((2, 2, 1), bool))


def test_the_tight_box_is_half_open():
    mask = np.zeros((5, 6), bool)
    mask[1, 2] = mask[3, 4] = True
    assert tight_box(mask) == (1, 2, 4, 5)


# --- instances -----------------------------------------------------------------------------------------------------


def test_categories_are_matched_by_name(folder):
    class_ids, *_ = instances_of(folder, {"category_id": 70}, {"category_id": 3}, {"category_id": 5})
    assert class_ids.dtype == np.int32
    assert class_ids.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 4, 1, 4, 3, 1, 3]],
        [[1, 1, 2, 1, 2, 3, 1, 3], [2, 1, 4, 1, 4, 3, 2, 3]],
        {"size": [5, 6], "counts": [6, 2, 3, 2, 3, 2, 12]},
        {"size": [5, 6], "counts": "6230009"},  # 6 2 3, then 2 - 2, 3 - 3, 2 - 2, 12 - 3
    ],
)
def test_polygons_and_both_rle_forms_give_the_same_mask_and_its_tight_box(folder, segmentation):
    class_ids, boxes, masks, has_mask = instances_of(folder, {"bbox": [0, 0, 6, 5], "segmentation": segmentation})
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[1:3, 1:4] = True
    assert (boxes.dtype, masks.dtype, has_mask.dtype) == (np.int32, bool, bool)
    assert np.array_equal(masks[..., 0], expected)
    assert boxes.tolist() == [[1, 1, 3, 4]]
    assert has_mask.tolist() == [True]
    assert class_ids.tolist() == [1]


@pytest.mark.parametrize(
    ("bbox", "box"),
    [
        ([1, 2, 3, 2], [2, 1, 4, 4]),
        ([1.2, 2.5, 3.1, 0.2], [3, 1, 4, 4]),  # y 2.5..2.7 would round to 3..3
        ([5.7, 4.6, 0.3, 0.4], [4, 5, 5, 6]),  # the last pixel, not one beyond it
        ([-1, -0.5, 3, 3], [0, 0, 3, 2]),  # up to one pixel beyond the image is cut off
        ([3, 2, 4, 4], [2, 3, 5, 6]),
    ],
)
def test_a_box_alone_is_rounded_to_whole_pixels_inside_the_image(folder, bbox, box):
    for nothing in ({}, {"segmentation": None}, {"segmentation": []}):
        _, boxes, masks, has_mask = instances_of(folder, {"bbox": bbox, **nothing})
        assert boxes.tolist() == [box]
        assert masks.shape == (HEIGHT, WIDTH, 1)
        assert not masks.any()
        assert has_mask.tolist() == [False]


def test_a_segmentation_without_a_pixel_counts_as_a_box_alone(folder):
    empty = {"size": [5, 6], "counts": [30]}
    _, boxes, masks, has_mask = instances_of(folder, {"segmentation": empty})
    assert boxes.tolist() == [[1, 1, 4, 3]]
    assert not has_mask[0]
    assert not masks.any()


def test_a_polygon_corner_slightly_outside_is_cut_off_at_the_edge(folder):
    _, boxes, masks, _ = instances_of(folder, {"bbox": [0, 0, 6, 5], "segmentation": [[-2, -2, 8, -2, 8, 7, -2, 7]]})
    assert boxes.tolist() == [[0, 0, 5, 6]]
    assert masks.all()


def test_an_image_without_parts_stays_as_a_negative(folder):
    dataset = read(folder, coco([{}]))
    assert [image.path.name for image in dataset.images] == ["a.png", "b.png"]
    class_ids, boxes, masks, has_mask = dataset.load_instances(0)
    assert (class_ids.shape, boxes.shape, masks.shape, has_mask.shape) == ((0,), (0, 4), (HEIGHT, WIDTH, 0), (0,))


def test_the_limit_keeps_the_first_files_in_sorted_order(folder):
    dataset = read(folder, coco([{}]), limit=1)
    assert len(dataset) == 1
    assert dataset.images[0].path == folder / "a.png"
    assert (dataset.load_image(0) == 10).all()
    assert len(read(folder, coco([{}]), limit=5)) == 2


def test_the_owner_of_a_part_is_kept(folder):
    dataset = read(folder, coco([{"object": "car"}, {}]))
    assert [instance.object for instance in dataset.images[1].instances] == ["car", None]


# --- writing -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(folder):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[1:4, 2:5] = True
    mask[1, 2] = False
    images = [
        PartImage(folder / "b.png", HEIGHT, WIDTH, (PartInstance("tail", (0.5, 1.25, 3, 4), None, "dog"),)),
        PartImage(
            folder / "a.png",
            HEIGHT,
            WIDTH,
            (
                PartInstance("door", (0, 0, 5, 6), encode_mask(mask)),
                PartInstance("wheel", (0, 0, 5, 6), [[1, 1, 4, 1, 4, 3, 1, 3]], "car"),
            ),
        ),
    ]
    write_part_instances(folder / "parts.json", images, TAXONOMY)
    dataset = read_part_instances(folder / "parts.json", folder, TAXONOMY)
    assert [image.path for image in dataset.images] == [folder / "a.png", folder / "b.png"]
    class_ids, boxes, masks, has_mask = dataset.load_instances(0)
    assert class_ids.tolist() == [2, 1]
    assert boxes.tolist() == [[1, 2, 4, 5], [1, 1, 3, 4]]
    assert np.array_equal(masks[..., 0], mask)
    assert has_mask.all()
    assert dataset.images[1].instances == (PartInstance("tail", (0.5, 1.25, 3.0, 4.0), None, "dog"),)
    assert [instance.object for instance in dataset.images[0].instances] == [None, "car"]

    content = json.loads((folder / "parts.json").read_text())
    assert content["categories"][2] == {"id": 2, "name": "tail", "supercategory": "part"}
    # The tail has no mask: 2.5 x 2.75 pixels. The door has 9 - 1.
    assert [(a["category_id"], a["area"], a["bbox"]) for a in content["annotations"]] == [
        (1, 8, [2, 1, 3, 3]),
        (0, 6, [1, 1, 3, 2]),
        (2, 6.875, [1.25, 0.5, 2.75, 2.5]),
    ]
    assert all(isinstance(a["segmentation"]["counts"], str) for a in content["annotations"][:2])


@pytest.mark.parametrize(
    ("instance", "complaint"),
    [
        (PartInstance("wing", (0, 0, 1, 1)), "'wing' is not in the taxonomy"),
        (PartInstance("tail", (0, 0, 9, 1)), "outside its image"),
        (PartInstance("tail", (2, 2, 2, 3)), "no area"),
        (PartInstance("tail", (0, 0, 1, 1), {"size": [6, 5], "counts": [30]}), r"size \[6, 5\]"),
    ],
)
def test_writing_refuses_what_reading_would_refuse_and_keeps_the_old_file(folder, instance, complaint):
    (folder / "parts.json").write_text("old")
    with pytest.raises(InputError, match=complaint):
        write_part_instances(folder / "parts.json", [PartImage(folder / "a.png", HEIGHT, WIDTH, (instance,))], TAXONOMY)
    assert (folder / "parts.json").read_text() == "old"


def test_two_images_of_one_name_are_refused_when_written(tmp_path):
    images = [PartImage(tmp_path / sub / "a.png", 5, 6) for sub in ("x", "y")]
    with pytest.raises(InputError, match=r"'a\.png', as another image does"):
        write_part_instances(tmp_path / "parts.json", images, TAXONOMY)


# --- faults --------------------------------------------------------------------------------------------------------


def image(**changes):
    return {"id": 8, "file_name": "b.png", "height": HEIGHT, "width": WIDTH, **changes}


def rle(counts, size=(5, 6)):
    return {"segmentation": {"size": list(size), "counts": counts}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            coco([{"bbox": [4, 1, 3.5, 2]}]),
            r"annotation 1 has the bbox \[4, 1, 3.5, 2\] outside its image 'b.png' of 6x5",
        ),
        (coco([{}, {"bbox": [-1.5, 1, 3, 2]}]), r"annotation 2 has the bbox \[-1.5, 1, 3, 2\] outside"),
        (coco([{"bbox": [6, 1, 1, 2]}]), "outside its image"),  # within the tolerance, but no pixel is left
        (coco([{"bbox": [1, 1, 0, 2]}]), r"annotation 1 has the bbox \[1, 1, 0, 2\], which has no area"),
        (coco([{"bbox": [3, 1, -2, 2]}]), r"\[3, 1, -2, 2\], which has no area"),
        (coco([{"bbox": [1, 1, float("nan"), 2]}]), "bbox .*nan"),
        (coco([{"bbox": [1, 1, float("inf"), 2]}]), "bbox .*inf"),
        (coco([{"bbox": [1, 1, 10**400, 2]}]), "bbox"),
        (coco([{"bbox": [1, 1, 2]}]), r"annotation 1 has the bbox \[1, 1, 2\]; give"),
        (coco([{"bbox": None}]), "annotation 1 has the bbox None"),
        (coco([{"category_id": 4}]), "annotation 1 has the category id 4, which 'categories' lacks"),
        (coco([{"category_id": "3"}]), "annotation 1 has the category_id '3'"),
        (coco([{"image_id": 77}]), "annotation 1 belongs to the image 77"),
        (coco([{}, {"id": 1}]), "annotation 1 occurs twice"),
        (coco([{"id": None}]), "an annotation has the id None"),
        (coco([{"iscrowd": 1}]), "annotation 1 is a crowd"),
        (coco([{"object": 4}]), "annotation 1 has the object 4"),
        (coco([rle([30], (6, 5))]), r"annotation 1: the RLE has the size \[6, 5\]; its image has \[5, 6\]"),
        (coco([rle([6, 2, 3])]), "annotation 1: the RLE covers 11 pixels; its image has 30"),
        (coco([rle([31, -1])]), "annotation 1: the RLE's counts are damaged"),
        (coco([rle("62300")]), "annotation 1: the RLE covers 16 pixels"),
        (coco([rle("623000T")]), "annotation 1: the RLE's counts are damaged"),  # "T" says that more follows
        (coco([rle("6 23")]), "annotation 1: the RLE's counts are damaged"),
        (coco([{"segmentation": {"counts": [30]}}]), "annotation 1: the segmentation is a dict"),
        (coco([{"segmentation": "left"}]), "annotation 1: the segmentation is a str"),
        (coco([{"segmentation": [[1, 1, 4, 1]]}]), r"annotation 1: the polygon \[1, 1, 4, 1\] is not"),
        (coco([{"segmentation": [[1, 1, 4, 1, 4, 3, 1]]}]), "annotation 1: the polygon"),
        (coco([{"segmentation": [1, 1, 4, 1, 4, 3]}]), "annotation 1: the polygon 1 is not"),
        (
            coco([{"segmentation": [[1, 1, 9, 1, 4, 3]]}]),
            r"annotation 1: the polygon spans x 1\.\.9, y 1\.\.3, outside",
        ),
        (coco([], categories=[{"id": 1, "name": "wing"}]), "category 1 is the unknown part 'wing'.*wheel, door, tail"),
        (coco([], categories=[{"id": 1}]), "category 1 is the unknown part None"),
        (coco([], categories=[CATEGORIES[0], {"id": 70, "name": "door"}]), "category id 70 occurs twice"),
        (coco([], images=[image(), image(file_name="a.png")]), "image 8 occurs twice"),
        (coco([], images=[image(), image(id=9)]), r"image 9 names the file 'b\.png', as another"),
        (
            coco([], images=[image(), image(id=9, file_name="./b.png")]),
            r"image 9 names the file '\./b\.png', as another",
        ),
        (coco([], images=[{"id": 8, "file_name": "b.png"}]), r"image 8 \(b\.png\) has the height None"),
        (coco([], images=[image(width=0)]), r"image 8 \(b\.png\) has the width 0"),
        (coco([], images=[image(width=10**9)]), r"image 8 \(b\.png\) has more than \d+ pixels"),
        (coco([], images=[image(file_name="../b.png")]), r"image 8 has the file_name '\.\./b\.png'"),
        (coco([], images=[image(file_name="/b.png")]), "image 8 has the file_name '/b.png'"),
        (coco([], images=[image(file_name="gone.png")]), r"names the image .*gone\.png, which does not exist"),
        (coco([], images=[]), "lists no images"),
        (coco([], annotations=None), "lacks the list 'annotations'"),
        ([1, 2], "holds a list"),
    ],
)
def test_a_faulty_file_is_refused_with_its_name_and_the_value(folder, content, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        read(folder, content)
    assert str(folder / "parts.json") in str(caught.value)


def test_a_json_cut_in_half_is_refused(folder):
    whole = json.dumps(coco([{}]))
    with pytest.raises(InputError, match=r"parts\.json is not valid JSON"):
        read(folder, whole[: len(whole) // 2])


def test_a_missing_json_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json does not exist"):
        read_part_instances(tmp_path / "gone.json", tmp_path, TAXONOMY)


def test_a_limit_below_one_is_refused(folder):
    with pytest.raises(InputError, match="limit is 0"):
        read(folder, coco([{}]), limit=0)


def test_an_image_of_another_size_than_annotated_is_refused_when_loaded(folder):
    dataset = read(folder, coco([{}]))
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "b.png")
    with pytest.raises(InputError, match=r"b\.png has 5x6 pixels, but its annotations say 6x5"):
        dataset.load_image(1)


# --- real photographs ----------------------------------------------------------------------------------------------


@pytest.mark.photos
@pytest.mark.skipif(not (PHOTOS / "parts_train.json").is_file(), reason="UNMASK_PHOTOS names no photographs")
@pytest.mark.parametrize(("split", "count"), [("train", 1702), ("val", 187), ("test", 374)])
def test_the_real_photographs_load(split, count):
    taxonomy = Taxonomy.from_json(PHOTOS / "taxonomy.json")
    dataset = read_part_instances(PHOTOS / f"parts_{split}.json", PHOTOS / "images" / split, taxonomy)
    assert len(dataset) == count
    masked = [i for i, image in enumerate(dataset.images) if any(part.segmentation for part in image.instances)]
    assert masked
    for i in [*range(0, count, 97), *masked]:
        image = dataset.images[i]
        class_ids, boxes, masks, has_mask = dataset.load_instances(i)
        assert masks.shape == (image.height, image.width, len(image.instances))
        assert has_mask.tolist() == [part.segmentation is not None for part in image.instances]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes[:, 2:] <= (image.height, image.width)).all()
        assert set(class_ids) <= set(range(1, len(taxonomy.parts) + 1))
        # The drawn polygon and the annotated box tell of the same part.
        for box, instance in zip(boxes, image.instances, strict=True):
            assert np.abs(box - instance.box).max() < 4
    for i in range(0, count, 97):
        assert dataset.load_image(i).shape == (dataset.images[i].height, dataset.images[i].width, 3)


def test_spread_takes_images_evenly_in_file_order() -> None:
    dataset = PartDataset(Taxonomy(("wheel",), {"car": ("wheel",)}, {}), tuple(range(10)))  # type: ignore[arg-type]
    assert dataset.spread(4).images == (0, 2, 5, 7)
    assert dataset.spread(None) is dataset
    assert dataset.spread(10) is dataset
