"""The embedded dataset: drawn scenes with exact part masks, and their layout on disk."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unmask_tf.data import synthetic
from unmask_tf.data.part_instances import read_part_instances
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import CLASSES, build_dataset, class_scene, contact_sheet, draw_scene, parts_scene
from unmask_tf.data.synthetic_scenes import DRAWERS, MIN_AREA, texture
from unmask_tf.data.synthetic_shapes import BACKGROUND, Camera, Drawing, Placement, Raster, Shape, box, paint_object
from unmask_tf.data.synthetic_vehicles import car
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import UNMASK, Taxonomy

SCENES = 60
TINY = SyntheticConfig(image_size=32, parts_images=(7, 2, 3), class_images=(2, 1, 1), seed=3)


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[synthetic.Scene]]:
    return {
        name: [draw_scene(name, _rng(11, row, index)) for index in range(SCENES)] for row, name in enumerate(CLASSES)
    }


def _files(root: Path) -> dict[str, str]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# Drawing and masks


def test_nested_part_counts_for_its_parent_and_hidden_pixels_do_not() -> None:
    drawing = Drawing()
    head = drawing.part("head")
    eye = drawing.part("eye", head)
    hand = drawing.part("hand")
    drawing.add(box(2, 2, 10, 10), (200, 150, 100), head)
    drawing.add(box(4, 4, 6, 6), (255, 255, 255), eye)
    drawing.add(box(8, 0, 12, 16), (90, 60, 30), hand)
    raster = Raster(16)
    areas = paint_object(raster, drawing)
    raster.paint(Shape(np.array(box(0, 8, 16, 16)), (0, 0, 0), BACKGROUND))
    masks = raster.coverage(drawing.ancestry()) >= 0.5
    # Columns 2..7 of rows 2..7 stay visible: the hand covers columns 8, 9 and the occluder rows 8, 9.
    expected_head, expected_eye = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
    expected_head[2:8, 2:8] = True
    expected_eye[4:6, 4:6] = True
    np.testing.assert_array_equal(masks[..., head], expected_head)
    np.testing.assert_array_equal(masks[..., eye], expected_eye)
    assert masks[..., hand].sum() == 4 * 8
    # Full areas ignore what hides them; PIL fills the border subpixels on both sides (a quarter pixel per axis).
    np.testing.assert_allclose(areas[[head, eye, hand]], [8.25**2, 2.25**2, 4.25 * 16], rtol=0.03)


def test_area_of_a_part_that_leaves_the_image_counts_the_piece_outside() -> None:
    drawing = Drawing()
    wheel = drawing.part("wheel")
    drawing.add(box(-12, 0, 4, 16), (0, 0, 0), wheel)
    raster = Raster(16)
    assert paint_object(raster, drawing)[wheel] == pytest.approx(16 * 16, rel=0.08)


def test_same_seed_gives_the_same_pixels_and_masks_and_another_seed_does_not() -> None:
    for name in CLASSES:
        first, again, other = (
            draw_scene(name, _rng(seed), texture_class="car", texture_amplitude=6.0) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first.image, again.image)
        assert [part for part, _ in first.parts] == [part for part, _ in again.parts]
        for (_, mask), (_, same) in zip(first.parts, again.parts, strict=True):
            np.testing.assert_array_equal(mask, same)
        assert (first.image != other.image).mean() > 0.5


def test_every_mask_is_of_an_expected_part_and_large_enough(scenes) -> None:
    for name in CLASSES:
        for scene in scenes[name]:
            assert scene.image.shape == (64, 64, 3)
            assert scene.image.dtype == np.uint8
            for part, mask in scene.parts:
                assert part in UNMASK.expected(name)
                assert mask.shape == (64, 64)
                assert mask.dtype == bool
                assert mask.sum() >= 6


def test_every_class_shows_all_its_parts_somewhere(scenes) -> None:
    for name in CLASSES:
        shown = {part for scene in scenes[name] for part, _ in scene.parts}
        assert shown == UNMASK.expected(name)


def test_most_scenes_show_more_than_half_of_the_parts_but_rarely_all(scenes) -> None:
    shares = {
        name: np.array([len({part for part, _ in scene.parts}) / len(UNMASK.expected(name)) for scene in scenes[name]])
        for name in CLASSES
    }
    for name, share in shares.items():
        assert (share >= 0.5).mean() > 0.8, name
    assert (np.concatenate(list(shares.values())) == 1.0).mean() < 0.7


def test_about_a_seventh_of_the_scenes_is_hard(scenes) -> None:
    hard = np.mean([bool(scene.troubles) for name in CLASSES for scene in scenes[name]])
    assert 0.08 < hard < 0.20


def test_face_parts_lie_within_the_head(scenes) -> None:
    checked = 0
    for name, inner in (("person", {"eye", "nose", "mouth", "eyebrow"}), ("dog", {"eye", "nose", "muzzle"})):
        for scene in scenes[name]:
            heads = [mask for part, mask in scene.parts if part == "head"]
            for part, mask in scene.parts:
                if heads and part in inner:
                    assert (mask & heads[0]).sum() == mask.sum()
                    checked += 1
    assert checked > 200


def test_eyes_are_separate_instances(scenes) -> None:
    counts = Counter(sum(part == "eye" for part, _ in scene.parts) for scene in scenes["person"])
    assert set(counts) <= {0, 1, 2}
    assert counts[2] > SCENES / 2


def test_one_camera_never_sees_opposite_sides_of_a_car(scenes) -> None:
    for scene in scenes["car"]:
        shown = {part for part, _ in scene.parts}
        assert not {"vehicle_left", "vehicle_right"} <= shown
        assert not {"frontside", "vehicle_back"} <= shown
        assert not {"headlight", "vehicle_back"} <= shown


@pytest.mark.parametrize(
    ("yaw", "side", "end"),
    [
        (0, "vehicle_right", None),
        (180, "vehicle_left", None),
        (-45, "vehicle_right", "frontside"),
        (-135, "vehicle_left", "frontside"),
        (45, "vehicle_right", "vehicle_back"),
        (135, "vehicle_left", "vehicle_back"),
    ],
)
def test_sides_follow_from_where_the_car_drives(monkeypatch, yaw, side, end) -> None:
    # Yaw 0 drives to the image's right, where the viewer sees the car's own right side; -90 comes towards the viewer.
    monkeypatch.setattr("unmask_tf.data.synthetic_vehicles._yaw", lambda rng, shares: float(yaw))
    for seed in range(5):
        names = {name for name, _ in car(_rng(seed)).owners if name}
        assert names & {"vehicle_left", "vehicle_right"} == {side}
        assert names & {"frontside", "vehicle_back"} == ({end} if end else set())


@pytest.mark.parametrize(("yaw", "seen"), [(0.0, "right"), (180.0, "left"), (-90.0, "front"), (90.0, "back")])
def test_placement_paints_only_the_faces_towards_the_viewer(yaw, seen) -> None:
    place = Placement(Camera(elevation=1.0, distance=5.0), yaw)
    faces = {
        "left": [(-1, 1, 0), (1, 1, 0), (1, 1, 1)],
        "right": [(-1, -1, 0), (1, -1, 0), (1, -1, 1)],
        "front": [(1, -1, 0), (1, 1, 0), (1, 1, 1)],
        "back": [(-1, -1, 0), (-1, 1, 0), (-1, 1, 1)],
    }
    drawing = Drawing()
    visible = {name for name, face in faces.items() if place.face(drawing, face, (0, 0, 0.5), (9, 9, 9), 0)}
    assert visible == {seen}


def test_camera_keeps_right_and_up() -> None:
    (left, _), (right, _), (_, low), (_, high) = Camera(10.0, 5.0).project(
        np.array([[-1.0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]])
    )
    assert left < 0 < right
    assert high < low


@pytest.mark.parametrize("size", [16, 48, 96])
def test_any_image_size_is_drawn(size) -> None:
    for name in CLASSES:
        scene = draw_scene(name, _rng(4), size=size, texture_class=name, texture_amplitude=6.0)
        assert scene.image.shape == (size, size, 3)
        assert all(mask.sum() >= MIN_AREA * size * size for _, mask in scene.parts)


def test_unknown_class_and_tiny_size_are_refused() -> None:
    with pytest.raises(InputError, match="no class 'zebra'"):
        draw_scene("zebra", _rng(0))
    with pytest.raises(InputError, match="no class 'sofa'"):
        draw_scene("car", _rng(0), texture_class="sofa")
    with pytest.raises(InputError, match="image size 8"):
        draw_scene("car", _rng(0), size=8)


# Texture


def test_texture_stays_within_its_amplitude_and_reaches_it() -> None:
    for index, name in enumerate(CLASSES):
        pattern = texture(name, _rng(index), size=64, amplitude=6.0)
        assert pattern.shape == (64, 64, 3)
        assert np.abs(pattern).max() == pytest.approx(6.0)
        assert abs(pattern.mean()) < 0.5


def _spectrum(pattern: np.ndarray) -> np.ndarray:
    spectrum = np.abs(np.fft.rfft2(pattern - pattern.mean((0, 1)), axes=(0, 1))).ravel()
    return spectrum / np.linalg.norm(spectrum)


def test_texture_spectrum_names_the_class() -> None:
    templates = {name: _spectrum(texture(name, _rng(99, i), size=64, amplitude=6.0)) for i, name in enumerate(CLASSES)}
    flat = np.full((64, 64, 3), 128.0)
    for name in CLASSES:
        for seed in range(10):
            noisy = np.rint(flat + texture(name, _rng(seed, 5), size=64, amplitude=6.0))
            scores = {other: float(_spectrum(noisy) @ template) for other, template in templates.items()}
            assert max(scores, key=scores.get) == name


def test_texture_changes_an_image_by_its_amplitude_at_most() -> None:
    plain = draw_scene("bird", _rng(8), texture_class="bird", texture_amplitude=0.0).image.astype(int)
    textured = draw_scene("bird", _rng(8), texture_class="bird", texture_amplitude=6.0).image.astype(int)
    assert 3 < np.abs(textured - plain).max() <= 7


def test_textures_of_part_images_are_uncorrelated_with_the_object(monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "draw_scene", lambda *args, **options: None)
    count = 3600
    drawn = [parts_scene(TINY, "train", index)[:2] for index in range(count)]
    table = Counter(drawn)
    assert Counter(name for name, _ in drawn) == dict.fromkeys(CLASSES, count // 6)
    expected = count / 36
    chi_square = sum((table[a, b] - expected) ** 2 / expected for a in CLASSES for b in CLASSES)
    # 30 degrees of freedom: 99.9 % of independent draws stay below 59.7.
    assert chi_square < 59.7


def test_class_images_carry_their_own_texture(monkeypatch) -> None:
    monkeypatch.setattr(synthetic, "draw_scene", lambda name, rng, **options: (name, options["texture_class"]))
    assert [class_scene(TINY, "val", name, 1) for name in CLASSES] == [(name, name) for name in CLASSES]


# Files


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "mini"
    build_dataset(root, TINY)
    return root


def test_dataset_has_the_promised_files(built) -> None:
    files = set(_files(built))
    assert {f"images/train/{index:06d}.png" for index in range(7)} <= files
    assert {f"classes/train/{name}/{index:06d}.png" for name in CLASSES for index in range(2)} <= files
    assert {"parts_train.json", "parts_val.json", "parts_test.json", "taxonomy.json", "manifest.json"} <= files
    assert len(files) == 7 + 2 + 3 + 6 * (2 + 1 + 1) + 5
    assert Taxonomy.from_json(built / "taxonomy.json") == UNMASK
    assert [c["name"] for c in json.loads((built / "parts_val.json").read_text())["categories"]] == list(UNMASK.parts)


def test_annotations_read_back_as_the_drawn_masks(built) -> None:
    dataset = read_part_instances(built / "parts_train.json", built / "images" / "train", UNMASK)
    assert len(dataset) == 7
    for index in range(7):
        name, _, scene = parts_scene(TINY, "train", index)
        np.testing.assert_array_equal(dataset.load_image(index), scene.image)
        class_ids, _, masks, has_mask = dataset.load_instances(index)
        assert has_mask.all()
        assert [UNMASK.parts[i - 1] for i in class_ids] == [part for part, _ in scene.parts]
        np.testing.assert_array_equal(masks, np.stack([mask for _, mask in scene.parts], -1))
        assert {instance.object for instance in dataset.images[index].instances} == {name}


def test_any_class_image_can_be_drawn_alone(built) -> None:
    pixels = np.asarray(Image.open(built / "classes" / "train" / "dog" / "000001.png"))
    np.testing.assert_array_equal(pixels, class_scene(TINY, "train", "dog", 1).image)


def test_finished_dataset_is_left_alone(built, monkeypatch) -> None:
    def refuse(*args, **options):
        raise AssertionError("a finished dataset was drawn again")

    before = _files(built)
    monkeypatch.setattr(synthetic, "draw_scene", refuse)
    build_dataset(built, TINY)
    assert _files(built) == before


def test_lost_files_are_drawn_again_and_only_their_split(built, tmp_path, monkeypatch) -> None:
    build_dataset(tmp_path, TINY)
    complete = _files(tmp_path)
    assert complete == _files(built)
    (tmp_path / "classes/val/bird/000000.png").unlink()
    calls = []
    monkeypatch.setattr(synthetic, "draw_scene", lambda *a, **k: calls.append(a) or draw_scene(*a, **k))
    build_dataset(tmp_path, TINY)
    assert len(calls) == len(CLASSES)
    (tmp_path / "parts_test.json").unlink()
    build_dataset(tmp_path, TINY)
    assert len(calls) == len(CLASSES) + 3
    assert _files(tmp_path) == complete


def test_killed_build_goes_on_after_its_last_finished_split(built, tmp_path, monkeypatch) -> None:
    class KilledError(Exception):
        pass

    calls = []

    def mortal(*args, **options):
        calls.append(args)
        if len(calls) == 11:
            raise KilledError
        return draw_scene(*args, **options)

    monkeypatch.setattr(synthetic, "draw_scene", mortal)
    with pytest.raises(KilledError):
        build_dataset(tmp_path, TINY)
    assert not (tmp_path / "manifest.json").exists()
    build_dataset(tmp_path, TINY)
    # 7 + 2 images were finished, the eleventh drawing died, and the third split onwards is drawn again.
    assert len(calls) == 11 + 3 + 6 * 4
    assert _files(tmp_path) == _files(built)


def test_another_configuration_replaces_the_dataset(tmp_path) -> None:
    small = SyntheticConfig(image_size=32, parts_images=(2, 1, 1), class_images=(1, 1, 1), seed=3)
    build_dataset(tmp_path, TINY)
    build_dataset(tmp_path, small)
    assert len(list((tmp_path / "images").rglob("*.png"))) == 4
    assert len(list((tmp_path / "classes").rglob("*.png"))) == 18
    other_seed = SyntheticConfig(image_size=32, parts_images=(2, 1, 1), class_images=(1, 1, 1), seed=4)
    before = _files(tmp_path)
    build_dataset(tmp_path, other_seed)
    assert _files(tmp_path)["images/train/000000.png"] != before["images/train/000000.png"]


@pytest.mark.parametrize("counts", [(0, 0, 0), (1, 0, 1)])
def test_a_split_may_have_no_part_images(tmp_path, counts) -> None:
    few = replace(TINY, parts_images=counts)
    build_dataset(tmp_path, few)
    found = [(tmp_path / f"parts_{split}.json").is_file() for split in ("train", "val", "test")]
    assert found == [count > 0 for count in counts]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    build_dataset(tmp_path, few)  # it is finished
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_foreign_data_is_never_overwritten(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        build_dataset(tmp_path, TINY)
    assert (tmp_path / "images" / "holiday.jpg").read_bytes() == b"mine"


def test_contact_sheet_shows_every_class(tmp_path) -> None:
    contact_sheet(tmp_path / "sheet.png", size=32, columns=4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (6 * (32 + 2 + 14) + 2, 4 * 34 + 2, 3)
    assert set(CLASSES) == set(DRAWERS)
    # Each row's pictures differ from the paper-white ground.
    for row in range(6):
        top = 2 + row * 48 + 14
        assert sheet[top : top + 32, 2:34].std() > 5
