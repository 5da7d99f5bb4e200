"""A small VOC 2010 with PASCAL-Part, as the real ones are laid out: drawn photographs, `.mat` files, lists, XML."""

import numpy as np
import scipy.io
from PIL import Image

HEIGHT, WIDTH = 40, 60
# Class -> raw part names, of one object each.
OBJECTS = {
    "car": ("frontside", "wheel_1", "wheel_2", "headlight_1", "fliplate"),
    "person": ("head", "torso", "lhand", "ruleg"),
    "train": ("head", "headlight_1", "coach_1", "cfrontside_1", "hfrontside"),
    "dog": ("head", "lear", "lfleg", "rbpa"),
    "bird": ("head", "beak", "lwing"),
    "bottle": ("cap", "body"),
}
CLASSES = (*OBJECTS, "boat")


def rectangle(y, x, height=8, width=10, shape=(HEIGHT, WIDTH)):
    mask = np.zeros(shape, np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def struct(rows, *names):
    """A MATLAB struct array with one element a row."""
    array = np.zeros(len(rows), dtype=[(name, object) for name in names])
    for i, row in enumerate(rows):
        array[i] = tuple(row)
    return array


def save_mat(path, objects, image=None):
    """Writes one annotation: `objects` are (class, mask, [(part name, mask)])."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        (name, float(i + 1), mask, struct(parts, "part_name", "mask")) for i, (name, mask, parts) in enumerate(objects)
    ]
    anno = {"imname": image or path.stem, "objects": struct(entries, "class", "class_ind", "mask", "parts")}
    scipy.io.savemat(path, {"anno": anno}, do_compression=True)


def save_photograph(path, seed, size=(WIDTH, HEIGHT)):
    """Coloured noise, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def objects_of(class_name):
    """One object with its parts beside each other."""
    parts = [(raw, rectangle(4 + 3 * i, 2 + 9 * i)) for i, raw in enumerate(OBJECTS.get(class_name, ()))]
    return [(class_name, rectangle(2, 1, 36, 58), parts)]


def make_voc(root, per_class=10, together=1, seed=0):
    """`per_class` images of each class alone, and `together` of a car with a person; another seed, other pixels."""
    shown = {}
    for i, class_name in enumerate(CLASSES):
        for k in range(per_class):
            shown[f"2010_{i:03d}{k:03d}"] = (class_name,)
    for k in range(together):
        shown[f"2010_900{k:03d}"] = ("car", "person")
    for i, (name, classes) in enumerate(shown.items()):
        save_photograph(root / "JPEGImages" / f"{name}.jpg", seed + i)
        save_mat(root / "Annotations_Part" / f"{name}.mat", [o for c in classes for o in objects_of(c)])
        xml = "".join(f"<object><name>{c}</name></object>" for c in classes)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{xml}</annotation>")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for class_name in CLASSES:
        lines = [f"{name} {'1' if class_name in classes else '-1':>2}\n" for name, classes in shown.items()]
        (lists / f"{class_name}_trainval.txt").write_text("".join(lines))
    return shown
