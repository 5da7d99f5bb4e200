"""PASCAL-Part to a data folder: masks, names, splits, faults, interruption."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_voc import CLASSES, make_voc, rectangle, save_mat, save_photograph

from unmask_tf.cli import main
from unmask_tf.data import pascal_part_coco
from unmask_tf.data.build_parts import build_parts
from unmask_tf.data.masks import decode_mask
from unmask_tf.data.part_instances import read_part_instances
from unmask_tf.data.pascal_part import read_annotation
from unmask_tf.data.pascal_part_coco import Conversion
from unmask_tf.data.pascal_part_names import part_of
from unmask_tf.data.splits import make_split, read_manifest
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import PARTS, UNMASK

GENUINE = Path(os.environ.get("UNMASK_PHOTOS") or "no photographs") / "pascal_part_mat"
SPLITS = ("train", "val", "test")


@pytest.fixture
def voc(tmp_path):
    make_voc(tmp_path / "VOC2010", per_class=2)
    return tmp_path / "VOC2010"


def build(root, voc, *, how=None, **options):
    how = {"images": str(voc / "JPEGImages"), **(how or {})}
    return build_parts(root, voc / "Annotations_Part", Conversion(**how), **{"workers": 0, **options})


def written(root):
    """file name -> [(part, segmentation, annotation)] of all splits."""
    found = {}
    for split in SPLITS:
        content = json.loads((root / f"parts_{split}.json").read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        found |= {name: [] for name in names.values()}
        for annotation in content["annotations"]:
            found[names[annotation["image_id"]]].append(annotation)
    return found


def test_every_mask_decodes_to_the_original_under_its_parts_name(tmp_path, voc):
    summary = build(tmp_path / "data", voc)
    found = written(tmp_path / "data")
    masks = 0
    for name, annotations in found.items():
        annotation = read_annotation(voc / "Annotations_Part" / f"{name[:-4]}.mat")
        expected = [
            (part_of(entry.name, part.name), entry.name, part.mask)
            for entry in annotation.objects
            for part in entry.parts
            if part_of(entry.name, part.name)
        ]
        assert len(annotations) == len(expected)
        for row, (part, owner, mask) in zip(annotations, expected, strict=True):
            assert (PARTS[row["category_id"]], row["object"]) == (part, owner)
            assert np.array_equal(decode_mask(row["segmentation"], annotation.height, annotation.width), mask)
            assert row["area"] == mask.sum()
            masks += 1
    assert (summary.files, summary.images, summary.masks) == (15, 13, masks)  # boats have no parts
    assert summary.dropped == {"coach_1": 2, "hfrontside": 2}


def test_the_result_is_what_k_is_trained_on(tmp_path, voc):
    build(tmp_path / "data", voc)
    for split in SPLITS:
        folder = tmp_path / "data" / "images" / split
        dataset = read_part_instances(tmp_path / "data" / f"parts_{split}.json", folder, UNMASK)
        assert {image.path.name for image in dataset.images} == {path.name for path in folder.iterdir()}
        for i in range(len(dataset)):
            assert dataset.load_image(i).shape[:2] == (dataset.images[i].height, dataset.images[i].width)
            assert dataset.load_instances(i)[3].all()


def test_the_split_is_that_of_the_sorted_names_and_the_seed(tmp_path, voc):
    build(tmp_path / "data", voc, seed=7)
    names = [f"{path.stem}.jpg" for path in (voc / "Annotations_Part").glob("*.mat")]
    names = [name for name in names if not name.startswith(f"2010_{CLASSES.index('boat'):03d}")]
    manifest = read_manifest(tmp_path / "data" / "splits" / "k.json")
    assert manifest.splits == make_split(names, {"train": 0.8, "val": 0.1, "test": 0.1}, 7)
    assert manifest.seed == 7


def test_as_released_handlebars_are_hands_and_headlights_heads(tmp_path, voc):
    save_mat(
        voc / "Annotations_Part" / "2010_800.mat", [("bicycle", rectangle(0, 0), [("handlebar", rectangle(0, 0))])]
    )
    save_photograph(voc / "JPEGImages" / "2010_800.jpg", 800)
    ours, released = build(tmp_path / "ours", voc), build(tmp_path / "released", voc, how={"as_released": True})
    assert ours.dropped["handlebar"] == 1
    assert ours.by_part["headlight"] == 5
    assert released.by_part == ours.by_part - Counter(headlight=5) + Counter(head=5, hand=1)


def test_polygons_keep_the_masks(tmp_path, voc):
    build(tmp_path / "data", voc, how={"polygons": 2.0})
    rows = [row for annotations in written(tmp_path / "data").values() for row in annotations]
    assert all(isinstance(row["segmentation"], list) for row in rows)
    assert all(decode_mask(row["segmentation"], 40, 60).sum() == row["area"] for row in rows)  # rectangles


def test_a_released_split_is_taken_over(tmp_path, voc):
    names = sorted(f"{path.stem}.jpg" for path in (voc / "Annotations_Part").glob("*.mat"))
    given = {"train": names[4:9], "val": names[:2], "test": names[2:4]}
    (tmp_path / "VOC").mkdir()
    for split, members in given.items():
        (tmp_path / "VOC" / f"{split}.json").write_text(json.dumps({"images": [{"file_name": n} for n in members]}))
    assert build(tmp_path / "data", voc, released=tmp_path / "VOC").in_no_split == 4
    assert {s: list(names) for s, names in read_manifest(tmp_path / "data/splits/k.json").splits.items()} == given
    assert len(written(tmp_path / "data")) == 9


# --- faults --------------------------------------------------------------------------------------------------------


def damage(voc):
    """One fault of each kind; returns name -> (kind, word of the message)."""
    names = sorted(path.stem for path in (voc / "Annotations_Part").glob("*.mat"))
    (voc / "Annotations_Part" / f"{names[0]}.mat").write_bytes(b"no MATLAB file")
    (voc / "JPEGImages" / f"{names[1]}.jpg").unlink()
    save_photograph(voc / "JPEGImages" / f"{names[2]}.jpg", 1, size=(30, 20))
    (voc / "JPEGImages" / f"{names[3]}.jpg").write_bytes(b"no JPEG")
    parts = [("wheel_1", rectangle(0, 0)), ("wing", rectangle(9, 9)), ("cap", rectangle(0, 0))]
    save_mat(voc / "Annotations_Part" / f"{names[4]}.mat", [("car", rectangle(0, 0), parts)])
    kinds = ["annotation", "missing image", "size", "unreadable image", "unknown part"]
    words = ["damaged", "does not exist", "30x20", "cannot be read", "'wing'"]
    return dict(zip(names, zip(kinds, words, strict=True), strict=False))


def test_every_fault_is_named_and_nothing_is_written(tmp_path, voc):
    faults = damage(voc)
    with pytest.raises(InputError) as caught:
        build(tmp_path / "data", voc)
    for name, (_, word) in faults.items():
        assert any(name in line and word in line for line in str(caught.value).splitlines()), name
    assert "6 faults" in str(caught.value)
    assert "--skip" in str(caught.value)
    assert not [path for path in (tmp_path / "data").rglob("*") if ".pascal-part" not in str(path)]


def test_on_request_faults_are_left_out_and_summarised(tmp_path, voc, capsys):
    faults = damage(voc)
    arguments = ["pascal-part", "--voc", str(voc), "--data", str(tmp_path / "data"), "--workers", "0"]
    assert main(arguments) == 2
    assert main([*arguments, "--skip"]) == 0
    out = capsys.readouterr().out
    for name, (kind, word) in faults.items():
        assert any(name in line and word in line for line in out.splitlines())
        assert any(f"left out for: {kind}" in line and name in line for line in out.splitlines())
    found = written(tmp_path / "data")
    assert len(found) == 13 - 4
    partly = sorted(f"{name}.jpg" for name in faults)[4]
    assert [PARTS[row["category_id"]] for row in found[partly]] == ["wheel"]  # the unknown parts alone are left out


def test_masks_without_a_pixel_are_counted_and_left_out(tmp_path, voc):
    parts = [("cap", rectangle(0, 0, 0, 0)), ("body", rectangle(0, 0))]
    save_mat(voc / "Annotations_Part" / "2010_800.mat", [("bottle", rectangle(0, 0), parts)])
    save_photograph(voc / "JPEGImages" / "2010_800.jpg", 800)
    summary = build(tmp_path / "data", voc)
    assert summary.empty == 1
    assert [PARTS[row["category_id"]] for row in written(tmp_path / "data")["2010_800.jpg"]] == ["body"]


def test_a_folder_of_the_users_own_images_is_left_alone(tmp_path, voc):
    save_photograph(tmp_path / "data" / "images" / "train" / "mine.jpg", 1)
    with pytest.raises(InputError, match=r"mine\.jpg"):
        build(tmp_path / "data", voc)
    assert (tmp_path / "data" / "images" / "train" / "mine.jpg").is_file()
    assert not (tmp_path / "data" / "splits").exists()


def test_annotations_of_the_users_own_are_left_alone(tmp_path, voc):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "parts_val.json").write_text("mine")
    with pytest.raises(InputError, match=r"parts_val\.json is from no build"):
        build(tmp_path / "data", voc)
    assert (tmp_path / "data" / "parts_val.json").read_text() == "mine"
    assert not (tmp_path / "data" / "splits").exists()


def test_the_command_takes_the_released_split_where_it_lies_in_the_data_folder(tmp_path, voc, capsys):
    names = sorted(f"{path.stem}.jpg" for path in (voc / "Annotations_Part").glob("*.mat"))
    folder = tmp_path / "data" / "VOC2010"
    folder.mkdir(parents=True)
    for split, members in {"train": names[:3], "val": names[3:4], "test": names[4:6]}.items():
        (folder / f"{split}.json").write_text(json.dumps({"images": [{"file_name": n} for n in members]}))
    arguments = ["pascal-part", "--voc", str(voc), "--data", str(tmp_path / "data"), "--workers", "0"]
    assert main(arguments) == 0
    assert "7 images are in none of the released splits" in capsys.readouterr().out
    assert [len(names) for names in read_manifest(tmp_path / "data/splits/k.json").splits.values()] == [3, 1, 2]


def test_a_complete_pascal_part_is_compared_with_the_papers_counts(tmp_path, voc, capsys, monkeypatch):
    monkeypatch.setattr("unmask_tf.data.pascal_part_names.FILES", 15)
    arguments = ["pascal-part", "--voc", str(voc), "--data", str(tmp_path / "data"), "--workers", "0"]
    assert main(arguments) == 0
    masks = sum(map(len, written(tmp_path / "data").values()))
    assert (
        f"the paper: 9323 images with 180423 masks (difference {13 - 9323} and {masks - 180423})"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("arguments", [("--split", "80/20"), ("--split", "80/10/20"), ("--polygons", "-1")])
def test_options_that_make_no_sense_are_refused(tmp_path, voc, capsys, arguments):
    assert main(["pascal-part", "--voc", str(voc), "--data", str(tmp_path / "data"), *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


# --- going on ------------------------------------------------------------------------------------------------------


def test_an_interrupted_conversion_goes_on_where_it_was(tmp_path, voc, monkeypatch):
    monkeypatch.setattr(pascal_part_coco, "_PIECE", 4)
    real, calls = pascal_part_coco.convert_file, []

    def counted(path, how, stop_at=None):
        calls.append(path.stem)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return real(path, how)

    monkeypatch.setattr(pascal_part_coco, "convert_file", lambda path, how: counted(path, how, 10))
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "data", voc)
    monkeypatch.setattr(pascal_part_coco, "convert_file", counted)
    calls.clear()
    build(tmp_path / "data", voc)
    assert len(calls) == 15 - 8  # two pieces of four were finished
    monkeypatch.setattr(pascal_part_coco, "convert_file", real)
    build(tmp_path / "at once", voc)
    for split in SPLITS:
        name = f"parts_{split}.json"
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()
    assert not (tmp_path / "data" / ".pascal-part").exists()


def test_a_changed_annotation_is_converted_again(tmp_path, voc, monkeypatch):
    how = Conversion(images=str(voc / "JPEGImages"))
    files = sorted((voc / "Annotations_Part").glob("*.mat"))
    before = pascal_part_coco.convert(files, how, tmp_path / "kept", 0)
    save_mat(files[0], [("car", rectangle(0, 0), [("wheel_1", rectangle(0, 0))])])
    after = pascal_part_coco.convert(files, how, tmp_path / "kept", 0)
    assert [part["part"] for part in after[0]["parts"]] == ["wheel"]
    assert after[1:] == before[1:]


def test_processes_give_what_one_process_gives(tmp_path, voc, monkeypatch):
    monkeypatch.setattr(pascal_part_coco, "_PIECE", 4)
    assert build(tmp_path / "one", voc) == build(tmp_path / "two", voc, workers=2)
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_another_build_replaces_the_first_one_whole(tmp_path, voc):
    build(tmp_path / "data", voc)
    (voc / "Annotations_Part" / "2010_000000.mat").unlink()
    build(tmp_path / "data", voc, seed=5)
    images = {path.name for path in (tmp_path / "data" / "images").glob("*/*")}
    assert images == set(written(tmp_path / "data"))
    assert "2010_000000.jpg" not in images


# --- the genuine files ---------------------------------------------------------------------------------------------


@pytest.mark.photos
@pytest.mark.skipif(not GENUINE.is_dir(), reason="UNMASK_PHOTOS names no photographs")
@pytest.mark.parametrize(("polygons", "least"), [(None, 1.0), (0.0, 1.0), (1.0, 0.99), (2.0, 0.99)])
def test_the_genuine_masks_survive(tmp_path, polygons, least):
    how = Conversion(images=str(GENUINE), polygons=polygons)
    summary = build_parts(tmp_path, GENUINE, how, workers=0)
    found, counts = written(tmp_path), Counter()
    for path in sorted(GENUINE.glob("*.mat")):
        annotation = read_annotation(path)
        parts = [(part_of(o.name, p.name), p.mask) for o in annotation.objects for p in o.parts]
        assert len(found.get(f"{path.stem}.jpg", [])) == len(parts)
        for row, (part, mask) in zip(found.get(f"{path.stem}.jpg", []), parts, strict=True):
            decoded = decode_mask(row["segmentation"], annotation.height, annotation.width)
            overlap = (decoded & mask).sum() / (decoded | mask).sum()
            assert overlap == 1 if least == 1 else overlap > least
            assert PARTS[row["category_id"]] == part
            counts[part] += 1
    assert (summary.files, summary.images, summary.masks) == (18, 16, 398)
    assert summary.by_part == counts
