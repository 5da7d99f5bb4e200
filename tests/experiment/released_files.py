"""Miniatures of the two layouts on which profile `paper` runs, of real-format files, and K's weights for them."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

from made_voc import make_voc, save_photograph

from unmask_tf import config
from unmask_tf.cli import main
from unmask_tf.mrcnn import MaskRCNN
from unmask_tf.mrcnn import backbone as backbone_module
from unmask_tf.mrcnn.config import PaperConfig, preset
from unmask_tf.mrcnn.weights import named_weights
from unmask_tf.taxonomy import UNMASK

SPLITS = ("train", "val", "test")
# What only a test would do: a canvas of 128 pixels instead of 1024, and few proposals.
SMALL = {"IMAGE_MIN_DIM": 128, "IMAGE_MAX_DIM": 128, "POST_NMS_ROIS_INFERENCE": 20, "DETECTION_MAX_INSTANCES": 10}
_spec = importlib.util.spec_from_file_location("stand_in", Path(__file__).parents[1] / "golden" / "stand_in.py")
_stand_in = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_stand_in)


def made(root, *command):
    assert main([*map(str, command), "--data", str(root)]) == 0


def rebuilt(root, raw, class_sets="cs3a"):
    """The layout that `pascal-part` and `class-images` build, with test images of a Flickr folder."""
    make_voc(raw / "VOC2010", per_class=20, together=0)
    for i, name in enumerate(("bird", "bottle", "car", "dog", "person", "train")):
        for k in range(2):
            save_photograph(raw / "flickr" / name / f"{k}.jpg", 5000 + 10 * i + k)
    made(root, "pascal-part", "--voc", raw / "VOC2010", "--split", "85/10/5", "--workers", "0")
    sources = ["--voc", raw / "VOC2010", "--flickr", raw / "flickr"]
    made(root, "class-images", *sources, "--class-sets", class_sets)
    return root


def released(root, raw, class_sets=("cs3-1",)):
    """The released archive's layout: polygons of pycococreator's form, and class folders for each class set."""
    built = raw / "built"
    make_voc(raw / "VOC2010", per_class=10, together=0)
    options = ["--as-released", "--polygons", "2", "--workers", "0"]
    made(built, "pascal-part", "--voc", raw / "VOC2010", *options)
    for split in SPLITS:
        content = json.loads((built / f"parts_{split}.json").read_text())
        for image in content["images"]:
            image |= {"license": 1, "date_captured": "2019-02-11 16:24:51.363", "coco_url": "", "flickr_url": ""}
        sizes = {image["id"]: {"width": image["width"], "height": image["height"]} for image in content["images"]}
        for annotation in content["annotations"]:
            del annotation["object"]
            annotation |= sizes[annotation["image_id"]]
        content |= {"info": {"year": 2019}, "licenses": [{"id": 1, "name": "", "url": ""}]}
        folder = root / "VOC2010"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.json").write_text(json.dumps(content))
        shutil.copytree(built / "images" / split, folder / "Images" / split)
    for i, class_set in enumerate(class_sets):
        for j, split in enumerate(SPLITS):
            for k, name in enumerate(UNMASK.labels(class_set)):
                for n in range(4 if split == "train" else 2):
                    save_photograph(root / class_set / split / name / f"{n}.jpg", 1000 * i + 100 * j + 10 * k + n)
    return root


def small_paper(monkeypatch, *, width):
    """Profile `paper` at a size that a test can wait for: M is a MobileNetV2 of 32 pixels that starts from random
    weights and trains for one epoch; K is its own ResNet-101 with a small canvas, `width` channels wide (released: 64).
    """
    for name, value in SMALL.items():
        monkeypatch.setattr(PaperConfig, name, value)
    blocks, _ = backbone_module.RESNETS["resnet101"]
    monkeypatch.setitem(backbone_module.RESNETS, "resnet101", (blocks, width))
    paper = config.PROFILES["paper"]
    small = replace(
        paper,
        class_sets=("cs3a",),
        architectures=("mobilenet_v2",),
        classifier=replace(paper.classifier, input_size=32, weights="random", epochs=1, batch_size=6),
        adversarial_training=replace(paper.adversarial_training, epochs=1),
        attack=replace(paper.attack, attacks=("pgd_linf", "mia_l2"), iterations=2),
    )
    monkeypatch.setitem(config.PROFILES, "paper", small)


def k_weights(path):
    """K's weights as the original package writes them, with seeded tensors."""
    settings = preset("paper")
    assert (settings.BACKBONE, settings.NUM_CLASSES) == ("resnet101", 45)
    model = MaskRCNN("inference", settings, path.parent)
    shapes = {name: variable.shape for name, variable in named_weights(model.keras_model).items()}
    return _stand_in.write(path, shapes, layout="resnet101")
