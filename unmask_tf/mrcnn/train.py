"""Training of model K: batches, stages, checkpoints after every epoch, resume, validation mAP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from unmask_tf.config import Profile
from unmask_tf.data.part_instances import PartDataset, read_part_instances
from unmask_tf.errors import InputError
from unmask_tf.files import write_json
from unmask_tf.mrcnn.anchors import pyramid_anchors
from unmask_tf.mrcnn.config import Config, preset
from unmask_tf.mrcnn.ground_truth import GroundTruth, load_ground_truth, mirror, training_batch
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import load_weights, named_weights, parts_state, read_state, save_weights
from unmask_tf.taxonomy import Taxonomy

# Matterport's stages: which layers train.
LAYER_SETS = {
    "heads": r"(mrcnn_.*)|(rpn_.*)|(fpn_.*)",
    "3+": r"(res3.*)|(bn3.*)|(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|(mrcnn_.*)|(rpn_.*)|(fpn_.*)",
    "4+": r"(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|(mrcnn_.*)|(rpn_.*)|(fpn_.*)",
    "5+": r"(res5.*)|(bn5.*)|(mrcnn_.*)|(rpn_.*)|(fpn_.*)",
    "all": r".*",
}


@dataclass(frozen=True)
class Stage:
    """One stage of training: `layers` (a key of LAYER_SETS or a regular expression) until epoch `until`, at a rate."""

    layers: str
    until: int
    learning_rate: float


@dataclass(frozen=True)
class ZoomedTruths:
    """Images that are read anew each time, a random part of them each time (`Config.RANDOM_ZOOM`)."""

    dataset: PartDataset
    config: Config

    def __len__(self) -> int:
        return len(self.dataset)

    def draw(self, index: int, rng: np.random.RandomState) -> GroundTruth:
        """A random part of image `index` on the network's canvas."""
        return load_ground_truth(self.dataset, index, self.config, rng)


def epoch_batches(
    truths: Sequence[GroundTruth] | ZoomedTruths, config: Config, epoch: int, anchors: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    """One epoch's batches: shuffled, half of the images mirrored; a function of (SEED, epoch) alone.

    The next batches are prepared while the network trains.
    """
    rng = np.random.RandomState([config.SEED, epoch])
    order = rng.permutation(len(truths))
    batches = [
        order[i : i + config.BATCH_SIZE] for i in range(0, len(order) - config.BATCH_SIZE + 1, config.BATCH_SIZE)
    ]

    def prepare(number: int) -> dict[str, np.ndarray]:
        batch_rng = np.random.RandomState([config.SEED, epoch, number])
        chosen = []
        for i in batches[number]:
            truth = truths.draw(i, batch_rng) if isinstance(truths, ZoomedTruths) else truths[i]
            chosen.append(mirror(truth, config) if batch_rng.randint(2) else truth)
        return training_batch(chosen, anchors, config, batch_rng)

    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(prepare, number) for number in range(min(3, len(batches)))]
        for number in range(len(batches)):
            batch = waiting.pop(0).result()
            if number + 3 < len(batches):
                waiting.append(pool.submit(prepare, number + 3))
            yield batch


def set_trainable(model: keras.Model, layers: str) -> int:
    """Makes exactly the layers whose name matches trainable (nested models are searched); returns their number.

    Raises:
        InputError: no layer matches.
    """
    pattern, count = re.compile(LAYER_SETS.get(layers, layers)), 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            layer.trainable = True
            count += set_trainable_nested(layer, pattern)
        elif layer.weights:
            layer.trainable = bool(pattern.fullmatch(layer.name))
            count += layer.trainable
    if not count:
        raise InputError(f"no layer matches '{layers}'. Choose one of {', '.join(LAYER_SETS)} or a regular expression.")
    return count


def set_trainable_nested(model: keras.Model, pattern: re.Pattern[str]) -> int:
    """`set_trainable` inside a nested model."""
    count = 0
    for layer in model.layers:
        if layer.weights:
            layer.trainable = bool(pattern.fullmatch(layer.name))
            count += layer.trainable
    return count


def make_optimizer(config: Config, learning_rate: float) -> keras.optimizers.Optimizer:
    """Matterport's SGD (Keras 2's `clipnorm` clips by the global norm), or Adam."""
    clip = config.GRADIENT_CLIP_NORM
    if config.OPTIMIZER == "adam":
        return keras.optimizers.Adam(learning_rate, global_clipnorm=clip)
    return keras.optimizers.SGD(learning_rate, momentum=config.LEARNING_MOMENTUM, global_clipnorm=clip)


class Trainer:
    """Trains K through stages; a killed run resumes after its last finished epoch.

    Args:
        model: K in training mode; its model_dir receives `checkpoint.h5` (weights, optimizer and log) and `log.json`.
        train, validation: annotated images; validation may be None.
    """

    def __init__(self, model: MaskRCNN, train: PartDataset, validation: PartDataset | None = None) -> None:
        self.model, self.config, self.folder = model, model.config, model.model_dir
        self.checkpoint = self.folder / "checkpoint.h5"
        self.validation = validation
        if len(train) < self.config.BATCH_SIZE:
            raise InputError(
                f"K has {len(train)} images to train on, but a batch needs {self.config.BATCH_SIZE}. "
                "Check the training annotations, or lower IMAGES_PER_GPU."
            )
        self.truths: Sequence[GroundTruth] | ZoomedTruths = ZoomedTruths(train, self.config)
        if self.config.RANDOM_ZOOM is None:
            bar = tqdm(range(len(train)), desc="loading parts", unit="img")
            self.truths = [load_ground_truth(train, i, self.config) for i in bar]
        self.anchors = pyramid_anchors(self.config, self.config.IMAGE_SHAPE)

    def fit(self, stages: Sequence[Stage]) -> list[dict[str, Any]]:
        """Runs the stages (their `until` is cumulative, as Matterport's `epochs`); returns one log row per epoch."""
        graph, log, begin = self.model.keras_model, self._resume(), 0
        for number, stage in enumerate(stages):
            if len(log) < stage.until:
                set_trainable(graph, stage.layers)
                graph.compile(optimizer=make_optimizer(self.config, stage.learning_rate), jit_compile=False)
                graph.optimizer.build(graph.trainable_variables)
                if len(log) >= begin and self.checkpoint.is_file():
                    self._restore_state(number)
                while len(log) < stage.until:
                    row = self._run_epoch(len(log), stages[-1].until)
                    log.append({"epoch": len(log) + 1, "layers": stage.layers, **row})
                    self._save(log, number)
            begin = stage.until
        return log

    def _run_epoch(self, epoch: int, last: int) -> dict[str, float]:
        graph, steps = self.model.keras_model, len(self.truths) // self.config.BATCH_SIZE
        logs: list[dict[str, Any]] = []
        with tqdm(total=steps, desc=f"K epoch {epoch + 1}/{last}", unit="step") as bar:
            for batch in epoch_batches(self.truths, self.config, epoch, self.anchors):
                logs.append(graph.train_on_batch(batch, return_dict=True))
                bar.update()
                bar.set_postfix(loss=f"{sum(float(v) for k, v in logs[-1].items() if k.endswith('_loss')):.3f}")
        row = mean_losses(logs)
        if not all(np.isfinite(value) for value in row.values()):
            raise InputError(
                f"K's training diverged in epoch {epoch + 1}: {row}. Lower the learning rate and run again."
            )
        if self.validation is not None:
            from unmask_tf.mrcnn.evaluate import evaluate

            row.update(
                {
                    f"val_{k}": v
                    for k, v in evaluate(self.inference_model(), self.validation).items()
                    if k.startswith("map")
                }
            )
            print({k: round(v, 3) for k, v in row.items()}, flush=True)
        return row

    def inference_model(self) -> MaskRCNN:
        """K in inference mode with the current weights."""
        if not hasattr(self, "_inference"):
            self._inference = MaskRCNN("inference", self.config, self.folder)
        source = named_weights(self.model.keras_model)
        for name, variable in named_weights(self._inference.keras_model).items():
            variable.assign(source[name].value)
        return self._inference

    def _save(self, log: list[dict[str, Any]], stage: int) -> None:
        graph = self.model.keras_model
        generator = graph.get_layer("proposal_targets").seed_generator.state
        state = {
            "log": np.bytes_(json.dumps(log)),
            "stage": np.array(stage),
            "generator": np.asarray(generator.value),
            **{f"optimizer_{i}": np.asarray(v.value) for i, v in enumerate(graph.optimizer.variables)},
        }
        save_weights(graph, self.checkpoint, state)
        write_json(self.folder / "log.json", log)

    def _resume(self) -> list[dict[str, Any]]:
        """The finished epochs' log, with their weights restored."""
        if not self.checkpoint.is_file():
            return []
        load_weights(self.model.keras_model, self.checkpoint)
        log = json.loads(bytes(read_state(self.checkpoint)["log"].item()))
        tqdm.write(f"resuming K after epoch {len(log)}")
        return log

    def _restore_state(self, stage: int) -> None:
        """Restores the sampler of ROIs, and the optimizer where the stage goes on."""
        state, graph = read_state(self.checkpoint), self.model.keras_model
        graph.get_layer("proposal_targets").seed_generator.state.assign(state["generator"])
        if int(state["stage"]) == stage:
            for index, variable in enumerate(graph.optimizer.variables):
                variable.assign(state[f"optimizer_{index}"])


def mean_losses(batches: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each loss's mean over the batches: Keras reports every batch by itself."""
    return {name: float(np.mean([float(logs[name]) for logs in batches])) for name in batches[0]}


def mirrored_class_ids(taxonomy: Taxonomy) -> dict[int, int]:
    """Class index -> class index in the mirrored image, for sided parts."""
    index = {part: i + 1 for i, part in enumerate(taxonomy.parts)}
    return {index[p]: index[taxonomy.mirrored(p)] for p in taxonomy.parts if taxonomy.mirrored(p) != p}


SCHEDULES: dict[str, tuple[Stage, ...]] = {
    "mini": (Stage("all", 9, 1e-3), Stage("all", 12, 1e-4)),
    "photos": (Stage("heads", 2, 1e-3), Stage("all", 11, 3e-4), Stage("all", 14, 5e-5)),
    "paper": (Stage("heads", 20, 1e-3), Stage("4+", 32, 1e-3), Stage("all", 40, 1e-4)),
}


def load_initial_weights(model: MaskRCNN, data_root: Path, weights_folder: Path) -> None:
    """Where training starts: COCO weights without the heads for a full ResNet (released), ImageNet for MobileNetV2,
    random for the slim ResNet.

    Raises:
        InputError: the weights cannot be had.
    """
    backbone = model.config.BACKBONE
    if backbone in ("resnet50", "resnet101"):
        heads = ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask")
        load_weights(model.keras_model, weights_folder / "mask_rcnn_coco.h5", exclude=heads)
    elif backbone == "mobilenet_v2":
        own = data_root / "weights" / "mobilenet_v2_imagenet.weights.h5"
        try:
            imagenet = keras.applications.MobileNetV2(weights=str(own) if own.is_file() else "imagenet")
        except Exception as error:
            raise InputError(
                f"MobileNetV2's ImageNet weights cannot be loaded: {error}. Put a Keras weights file at {own}."
            ) from error
        source = named_weights(imagenet)
        for name, variable in named_weights(model.keras_model.get_layer("mobilenet_v2")).items():
            variable.assign(source[name].value)


def train_from_profile(profile: Profile, data_root: Path, weights_out: Path, taxonomy: Taxonomy, workdir: Path) -> None:
    """Trains a profile's K and writes its weights, with the log beside them; resumes after a kill.

    Args:
        profile: names the preset and schedule (`part_detector.preset`) and how many images to train on.
        data_root: folder with images/ and parts_{train,val}.json.
        weights_out: final weights file.
        taxonomy: parts, in K's class order.
        workdir: checkpoints and log.
    """
    name = profile.part_detector.preset
    config = preset(name, NUM_CLASSES=len(taxonomy.parts) + 1, MIRRORED_CLASS_IDS=mirrored_class_ids(taxonomy))
    train, validation = (
        read_part_instances(data_root / f"parts_{split}.json", data_root / "images" / split, taxonomy)
        for split in ("train", "val")
    )
    keras.utils.set_random_seed(config.SEED)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    model = MaskRCNN("training", config, workdir)
    load_initial_weights(model, data_root, weights_out.parent)
    log = Trainer(model, train.spread(profile.part_detector.train_limit), validation).fit(SCHEDULES[name])
    save_weights(model.keras_model, weights_out, parts_state(taxonomy.parts))
    write_json(weights_out.with_suffix(".log.json"), log)
