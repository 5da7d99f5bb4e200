"""M's and D's images from VOC, ImageNet, Flickr and folders: one class an image, a split by names and seed."""

import pytest
from made_voc import make_voc, save_photograph

from unmask_tf.cli import main
from unmask_tf.data.build_classes import build_classes
from unmask_tf.data.class_images import list_class_images
from unmask_tf.data.class_sources import folder_images, imagenet_images, voc_images
from unmask_tf.data.splits import make_split, read_manifest, write_manifest
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import UNMASK

CS3A = UNMASK.members("cs3a")
HALVES = {"train": 0.5, "val": 0.1, "test": 0.4}


@pytest.fixture
def voc(tmp_path):
    make_voc(tmp_path / "VOC2010", per_class=10, together=2)
    return tmp_path / "VOC2010"


def folder(root, classes=CS3A, count=4, seed=1000, suffix=".jpg"):
    for i, name in enumerate(classes):
        for k in range(count):
            save_photograph(root / name / f"{k:03d}{suffix}", seed + 100 * i + k)
    return root


def targets(root):
    """split -> class -> file names."""
    return {
        split.name: {c.name: sorted(p.name for p in c.iterdir()) for c in split.iterdir()}
        for split in (root / "classes").iterdir()
    }


# --- sources -------------------------------------------------------------------------------------------------------


def test_vocs_single_class_images_are_found(voc):
    found = voc_images(voc, CS3A)
    assert {name: len(files) for name, files in found.images.items()} == {"car": 10, "person": 10, "train": 10}
    assert found.several == 2
    assert not any("2010_900" in path.name for files in found.images.values() for path in files)


def test_the_other_class_of_an_image_need_not_be_in_the_class_set(voc):
    assert "2010_900000.jpg" not in [path.name for path in voc_images(voc, ["car"]).images["car"]]


def test_a_difficult_object_counts_as_shown(voc):
    lists = voc / "ImageSets" / "Main"
    text = (lists / "boat_trainval.txt").read_text().replace("2010_000000 -1", "2010_000000  0")
    (lists / "boat_trainval.txt").write_text(text)
    found = voc_images(voc, CS3A)
    assert (len(found.images["car"]), found.several) == (9, 3)


def test_where_xml_and_lists_disagree_the_image_is_left_out_and_named(voc):
    xml = "<annotation><object><name>car</name></object><object><name>dog</name></object></annotation>"
    (voc / "Annotations" / "2010_000003.xml").write_text(xml)
    found = voc_images(voc, CS3A)
    assert found.conflicts == ["2010_000003"]
    assert len(found.images["car"]) == 9
    (voc / "Annotations" / "2010_000003.xml").unlink()
    assert len(voc_images(voc, CS3A).images["car"]) == 10


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda voc: (voc / "ImageSets/Main/car_trainval.txt").unlink(), "car_trainval.txt"),
        (lambda voc: (voc / "ImageSets/Main/car_trainval.txt").write_text("2010_000000 2\n"), "line 1"),
        (lambda voc: (voc / "JPEGImages/2010_000000.jpg").unlink(), "2010_000000.jpg"),
        (lambda voc: (voc / "Annotations/2010_000000.xml").write_text("<a>"), "2010_000000.xml"),
    ],
)
def test_a_damaged_voc_is_named(voc, spoil, word):
    spoil(voc)
    with pytest.raises(InputError, match=word):
        voc_images(voc, CS3A)


def test_imagenets_synset_folders_are_found_and_missing_ones_named(tmp_path):
    folder(tmp_path, ["n02958343", "n00007846"], 3, suffix=".JPEG")
    images, missing = imagenet_images(tmp_path, CS3A)
    assert {name: [path.name for path in files] for name, files in images.items()} == {
        "car": ["000.JPEG", "001.JPEG", "002.JPEG"],
        "person": ["000.JPEG", "001.JPEG", "002.JPEG"],
    }
    assert missing == ["n04468005"]
    with pytest.raises(InputError, match="--synsets cat="):
        imagenet_images(tmp_path, ["cat"])
    assert list(imagenet_images(tmp_path, ["cat"], {"cat": ("n00007846",)})[0]) == ["cat"]
    with pytest.raises(InputError, match="n04468005"):
        imagenet_images(tmp_path, ["train"])


def test_a_folder_per_class_is_read_and_one_without_any_refused(tmp_path):
    folder(tmp_path / "mine", ["car", "zebra"], 2)
    assert {name: len(files) for name, files in folder_images(tmp_path / "mine", CS3A).items()} == {"car": 2}
    with pytest.raises(InputError, match="car, person, train"):
        folder_images(tmp_path, CS3A)


# --- building ------------------------------------------------------------------------------------------------------


def test_each_class_of_each_source_is_split_by_itself(tmp_path, voc):
    images = voc_images(voc, CS3A).images
    mine = folder_images(folder(tmp_path / "mine", count=5), CS3A)
    built = build_classes(tmp_path / "data", {"voc": images, "folder": mine}, {}, CS3A)
    found = targets(tmp_path / "data")
    for name in CS3A:
        parts = [(f"{source}_", files[name]) for source, files in (("voc", images), ("folder", mine))]
        for split in HALVES:
            expected = [p + n for p, files in parts for n in make_split([f.name for f in files], HALVES, 4)[split]]
            assert found[split].get(name, []) == sorted(expected)
            assert built.counts[split][name] == len(expected)
    manifest = read_manifest(tmp_path / "data" / "splits" / "m.json", tmp_path / "data" / "classes")
    assert (manifest.seed, manifest.fractions) == (4, HALVES)
    assert sum(map(len, manifest.splits.values())) == 45


def test_the_result_is_what_m_is_trained_on(tmp_path, voc):
    build_classes(tmp_path / "data", {"voc": voc_images(voc, CS3A).images}, {}, CS3A)
    names = list_class_images(tmp_path / "data", "cs3a", "train", taxonomy=UNMASK)
    assert len(names) == 15
    # The image itself, unchanged.
    for name in names:
        source = voc / "JPEGImages" / name.rsplit("voc_", 1)[1]
        assert (tmp_path / "data" / name).read_bytes() == source.read_bytes()


def test_with_flickr_only_flickr_is_tested_on(tmp_path, voc):
    flickr = folder_images(folder(tmp_path / "flickr", count=3), CS3A)
    built = build_classes(tmp_path / "data", {"voc": voc_images(voc, CS3A).images}, {"flickr": flickr}, CS3A)
    assert all(name.startswith("flickr_") for names in targets(tmp_path / "data")["test"].values() for name in names)
    assert built.counts["test"] == {"car": 3, "person": 3, "train": 3}
    assert built.left_out == 12


@pytest.mark.parametrize("with_flickr", [False, True])
def test_neither_k_nor_m_sees_a_test_image_of_the_other(tmp_path, voc, with_flickr):
    images = voc_images(voc, CS3A).images
    m = {name: make_split([f.name for f in files], HALVES, 4) for name, files in images.items()}
    k = {
        "train": [m["car"]["test"][0], m["car"]["train"][0], m["train"]["test"][1]],
        "val": [m["person"]["test"][0], m["car"]["train"][1]],
        "test": [m["person"]["train"][2], m["person"]["test"][1], m["person"]["train"][3]],
    }
    write_manifest(tmp_path / "data/splits/k.json", k, seed=1, fractions={"train": 0.8, "val": 0.1, "test": 0.1})
    flickr = {"flickr": folder_images(folder(tmp_path / "flickr", count=3), CS3A)} if with_flickr else {}
    built = build_classes(tmp_path / "data", {"voc": images}, flickr, CS3A)
    found = {
        split: {name for names in classes.values() for name in names if name.startswith("voc_")}
        for split, classes in targets(tmp_path / "data").items()
    }
    assert not found["test"] & {f"voc_{name}" for split in ("train", "val") for name in k[split]}
    assert not (found["train"] | found["val"]) & {f"voc_{name}" for name in k["test"]}
    assert built.seen_by_k == (2 if with_flickr else 5)
    assert built.left_out == (12 if with_flickr else 0)
    assert sum(map(len, found.values())) == 30 - built.seen_by_k - built.left_out


def test_another_build_leaves_nothing_of_the_first(tmp_path, voc):
    images = voc_images(voc, CS3A).images
    build_classes(tmp_path / "data", {"voc": images}, {}, CS3A)
    build_classes(tmp_path / "data", {"voc": images}, {}, CS3A, seed=9)
    manifest = read_manifest(tmp_path / "data" / "splits" / "m.json")
    files = {
        path.relative_to(tmp_path / "data/classes").as_posix() for path in (tmp_path / "data/classes").rglob("*.jpg")
    }
    assert files == {name for names in manifest.splits.values() for name in names}


def test_a_folder_of_the_users_own_is_left_alone(tmp_path, voc):
    folder(tmp_path / "data" / "classes" / "train", count=1)
    with pytest.raises(InputError, match=r"data/classes holds 3 files .*000\.jpg"):
        build_classes(tmp_path / "data", {"voc": voc_images(voc, CS3A).images}, {}, CS3A)
    assert (tmp_path / "data" / "classes" / "train" / "car" / "000.jpg").is_file()


def test_a_class_without_images_in_a_split_is_named(tmp_path):
    mine = folder_images(folder(tmp_path / "mine", ["car", "person"], 10), CS3A)
    with pytest.raises(InputError, match="no train image of 'train'"):
        build_classes(tmp_path / "data", {"folder": mine}, {}, CS3A)
    assert not (tmp_path / "data").exists()


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_gathers_class_sets_from_all_sources(tmp_path, voc, capsys):
    folder(tmp_path / "net", ["n02958343", "n02084071", "n00007846", "n01503061"], 4, suffix=".JPEG")
    folder(tmp_path / "flickr", ["person", "dog", "bird", "car", "train", "bottle"], 2)
    arguments = ["--voc", tmp_path / "VOC2010", "--imagenet", tmp_path / "net", "--flickr", tmp_path / "flickr"]
    command = ["class-images", "--data", tmp_path / "data", *arguments, "--class-sets", "cs3b,cs5a"]
    assert main([str(argument) for argument in command]) == 0
    out = capsys.readouterr().out
    assert "no folder n02876657, n04468005" in out
    assert "train: 38 images (bird 7, bottle 5, car 7, dog 7, person 7, train 5)" in out
    for class_set in ("cs3a", "cs3b", "cs5a", "cs5b"):  # they share their images
        for split in HALVES:
            assert list_class_images(tmp_path / "data", class_set, split, taxonomy=UNMASK)


@pytest.mark.parametrize(
    ("arguments", "word"), [([], "--voc"), (["--imagenet", "x", "--synsets", "car"], "class=n01234567")]
)
def test_a_command_without_a_source_or_with_a_wrong_synset_is_refused(tmp_path, capsys, arguments, word):
    assert main(["class-images", "--data", str(tmp_path / "data"), *arguments]) == 2
    assert word in capsys.readouterr().err
