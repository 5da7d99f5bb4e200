"""The embedded dataset of profile `mini`: drawn scenes of six classes with exact part masks; needs no network.

On disk it looks like any other dataset: `images/{split}/*.png` with `parts_{split}.json` for K,
`classes/{split}/<class>/*.png` for M and D, `taxonomy.json`, and a `manifest.json` that is written last.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unmask_tf.data.masks import encode_mask, tight_box
from unmask_tf.data.part_instances import PartImage, PartInstance, write_part_instances
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic_scenes import CLASSES, Scene, draw_scene
from unmask_tf.data.synthetic_shapes import hsv
from unmask_tf.errors import InputError
from unmask_tf.files import atomic_path, read_json, write_json
from unmask_tf.progress import Progress
from unmask_tf.taxonomy import UNMASK, Taxonomy

__all__ = ["CLASSES", "Scene", "build_dataset", "class_scene", "contact_sheet", "draw_scene", "overlay", "parts_scene"]

SPLITS = ("train", "val", "test")
# Part of the hash: raise it whenever the drawing changes, so that old datasets are rebuilt.
DRAWING_VERSION = 1
_FEW = 200  # images that are drawn before other processes are ready to help
_PARTS_STREAM, _CLASS_STREAM, _SHEET_STREAM = 0, 1, 2


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def parts_scene(config: SyntheticConfig, split: str, index: int) -> tuple[str, str, Scene]:
    """Image `index` of K's split: (class of the object, class of the texture, scene).

    The object's class goes round the six classes; the texture's class is drawn uniformly at random, so that the texture
    says nothing about the parts (the robust distribution of Equation 7).
    """
    rng = _rng(config.seed, _PARTS_STREAM, SPLITS.index(split), index)
    class_name, texture_class = CLASSES[index % len(CLASSES)], CLASSES[int(rng.integers(len(CLASSES)))]
    scene = draw_scene(
        class_name,
        rng,
        size=config.image_size,
        texture_class=texture_class,
        texture_amplitude=config.texture_amplitude,
    )
    return class_name, texture_class, scene


def class_scene(config: SyntheticConfig, split: str, class_name: str, index: int) -> Scene:
    """Image `index` of a class in M's and D's split; its texture is the class's own."""
    position = index * len(CLASSES) + CLASSES.index(class_name)
    return draw_scene(
        class_name,
        _rng(config.seed, _CLASS_STREAM, SPLITS.index(split), position),
        size=config.image_size,
        texture_class=class_name,
        texture_amplitude=config.texture_amplitude,
        opponent_amplitude=config.opponent_amplitude,
        hard_share=config.class_hard_share,
    )


def _hash(config: SyntheticConfig, taxonomy: Taxonomy) -> str:
    classes = {name: sorted(taxonomy.expected(name)) for name in CLASSES}
    text = json.dumps([DRAWING_VERSION, asdict(config), list(taxonomy.parts), classes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _units(root: Path, config: SyntheticConfig) -> Iterator[tuple[str, str, str, list[Path]]]:
    """(name, stream, split, files): the pieces of a build; an interrupted one keeps those that are finished."""
    for split, count in zip(SPLITS, config.parts_images, strict=True):
        files = [root / "images" / split / f"{index:06d}.png" for index in range(count)]
        yield f"images/{split}", "images", split, files
    for split, count in zip(SPLITS, config.class_images, strict=True):
        files = [root / "classes" / split / name / f"{index:06d}.png" for name in CLASSES for index in range(count)]
        yield f"classes/{split}", "classes", split, files


def _save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        Image.fromarray(image).save(path, format="PNG")
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Free some space or choose a writable folder, "
            "then run the same command again; finished work is kept."
        ) from error


def _draw_parts(path: Path, config: SyntheticConfig, split: str, taxonomy: Taxonomy) -> PartImage:
    """Draws and writes one of K's images; returns it with its parts."""
    class_name, _, scene = parts_scene(config, split, int(path.stem))
    _save(scene.image, path)
    instances = tuple(
        PartInstance(part, tuple(float(v) for v in tight_box(mask)), encode_mask(mask), class_name)
        for part, mask in scene.parts
        if part in taxonomy.parts
    )
    return PartImage(path, config.image_size, config.image_size, instances)


def _draw_class(path: Path, config: SyntheticConfig, split: str) -> None:
    """Draws and writes one of M's images."""
    _save(class_scene(config, split, path.parent.name, int(path.stem)).image, path)


def _draw(work: Callable[[Path], Any], files: list[Path], bar: Progress) -> list[Any]:
    """`work` of every file, in order; of many files in as many processes as there are cores, at most four."""
    processes = min(4, os.cpu_count() or 1)
    # A process that has loaded TensorFlow has threads, and must not be forked.
    forks = sys.platform.startswith("linux") and not {"tensorflow", "torch"} & set(sys.modules)
    if not forks or processes == 1 or len(files) < _FEW:
        return [_told(work(path), bar) for path in files]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return [_told(result, bar) for result in pool.imap(work, files, chunksize=16)]


def _told(result: Any, bar: Progress) -> Any:
    bar.update()
    return result


def _known_state(root: Path, digest: str) -> list[str]:
    """Names of this dataset's finished units; removes files of another configuration."""
    states = [root / "manifest.json", root / "building.json"]
    content = [root / "images", root / "classes", *(root / f"parts_{split}.json" for split in SPLITS)]
    if not any(state.exists() for state in states):
        for path in content:
            if path.exists():
                raise InputError(
                    f"{path} exists, but {root} holds no manifest.json of the embedded dataset. Choose an empty folder "
                    "for the embedded dataset, or move these files away."
                )
        return []
    for state in states:
        if state.exists():
            known = read_json(state)
            if isinstance(known, dict) and known.get("hash") == digest:
                return list(known.get("done", []))
    for path in [*content, *states]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return []


def build_dataset(root: str | Path, config: SyntheticConfig, taxonomy: Taxonomy = UNMASK) -> None:
    """Draws the embedded dataset below `root`.

    A finished dataset of the same configuration is kept (missing files are drawn again), one of another configuration
    is replaced, and an interrupted build continues after its last finished split. Every image has its own seed,
    (seed, stream, split, index), and does not depend on how much of the dataset is drawn. A split without part images
    gets no `parts_<split>.json`.

    Args:
        root: folder of the dataset; made if needed.
        config: sizes, counts, texture and seed.
        taxonomy: names the parts and must know the six classes.

    Raises:
        InputError: the folder holds other data or cannot be written, or the taxonomy lacks a class.
    """
    root = Path(root)
    digest = _hash(config, taxonomy)
    done = set(_known_state(root, digest))
    units = list(_units(root, config))
    for name, stream, split, files in units:
        expected = [*files, root / f"parts_{split}.json"] if files and stream == "images" else files
        if not all(path.is_file() for path in expected):
            done.discard(name)
    if (root / "manifest.json").exists():
        if len(done) == len(units) and (root / "taxonomy.json").is_file():
            return
        (root / "manifest.json").unlink()
    progress = {"hash": digest, "done": sorted(done)}
    write_json(root / "building.json", progress)
    taxonomy.to_json(root / "taxonomy.json")
    todo = [unit for unit in units if unit[0] not in done]
    with Progress(
        total=sum(len(files) for *_, files in todo), desc="drawing the embedded dataset", unit="image"
    ) as bar:
        for name, stream, split, files in todo:
            if files and stream == "images":
                images = _draw(partial(_draw_parts, config=config, split=split, taxonomy=taxonomy), files, bar)
                write_part_instances(root / f"parts_{split}.json", images, taxonomy)
            elif files:
                _draw(partial(_draw_class, config=config, split=split), files, bar)
            done.add(name)
            write_json(root / "building.json", {"hash": digest, "done": sorted(done)})
    write_json(root / "manifest.json", {"hash": digest, "config": asdict(config), "done": sorted(done)})
    (root / "building.json").unlink(missing_ok=True)


def overlay(scene: Scene, taxonomy: Taxonomy = UNMASK) -> np.ndarray:
    """The scene's image with its part masks in colour, one hue per part: uint8 (S, S, 3)."""
    image = scene.image.astype(np.float64) * 0.45
    for part, mask in sorted(scene.parts, key=lambda entry: -int(entry[1].sum())):
        position = taxonomy.parts.index(part)
        colour = np.array(hsv(position * 0.381966, 0.75 if position % 2 else 0.95, 1.0))
        image[mask] = 0.45 * scene.image[mask] + 0.55 * colour
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def contact_sheet(path: str | Path, *, size: int = 128, columns: int = 8, seed: int = 0) -> None:
    """Draws an overview PNG: one row per class; even columns are scenes, odd ones the same scenes with part masks.

    Args:
        path: the PNG to write.
        size: side of one scene, pixels.
        columns: number of pictures per row.
        seed: of the scenes.
    """
    gap, label = max(2, size // 32), 14
    sheet = Image.new("RGB", (columns * (size + gap) + gap, len(CLASSES) * (size + gap + label) + gap), (250, 250, 250))
    pen = ImageDraw.Draw(sheet)
    for row, class_name in enumerate(CLASSES):
        top = gap + row * (size + gap + label)
        pen.text((gap, top), class_name, fill=(40, 40, 40))
        for column in range(columns):
            if column % 2 == 0:
                scene = draw_scene(class_name, _rng(seed, _SHEET_STREAM, row, column // 2), size=size)
            picture = overlay(scene) if column % 2 else scene.image
            sheet.paste(Image.fromarray(picture), (gap + column * (size + gap), top + label))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
