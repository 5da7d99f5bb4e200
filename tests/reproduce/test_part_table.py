"""The console's table of K's average precisions."""

from unmask_tf.reproduce.part_table import part_table

SCORED = {
    "map50": 0.5, "map": 0.25, "per_part": {"wheel": 0.75, "door": 0.25},
    "voc_map50": 0.4, "voc_per_part": {"wheel": 0.7, "door": 0.1}, "image_map50": 0.3,
}  # fmt: skip
BOXES = {f"{name}_bbox": value for name, value in SCORED.items()}


def test_masks_and_boxes_stand_side_by_side_part_by_part():
    content = {**SCORED, **BOXES, "map_bbox": 0.35, "iou_type": "segm"}
    assert part_table(content).splitlines() == [
        "part   COCO .5  VOC .5  box COCO .5  box VOC .5",
        "-----  -------  ------  -----------  ----------",
        "door     0.250   0.100        0.250       0.100",
        "wheel    0.750   0.700        0.750       0.700",
        "mean     0.500   0.400        0.500       0.400",
        "mAP over IoU 0.5 to 0.95: 0.250 (boxes 0.350)",
        "Mean over images at IoU 0.5 (Matterport's compute_ap): 0.300 (boxes 0.300)",
    ]


def test_box_only_data_has_the_boxes_columns_once():
    lines = part_table({**SCORED, **BOXES, "iou_type": "bbox"}).splitlines()
    assert lines[0].split() == ["part", "COCO", ".5", "VOC", ".5"]
    assert lines[-2:] == [
        "mAP over IoU 0.5 to 0.95: 0.250",
        "Mean over images at IoU 0.5 (Matterport's compute_ap): 0.300",
    ]


def test_a_file_of_an_earlier_version_shows_what_it_has():
    lines = part_table({"map50": 0.5, "map": 0.25, "per_part": {"wheel": 0.5}}).splitlines()
    assert lines[0].split() == ["part", "COCO", ".5"]
    assert lines[2].split() == ["wheel", "0.500"]
    assert len(lines) == 5
