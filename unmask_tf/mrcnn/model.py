"""Model K with Matterport's interface: `MaskRCNN`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from unmask_tf.errors import InputError
from unmask_tf.files import read_json
from unmask_tf.mrcnn.anchors import normalized_anchors
from unmask_tf.mrcnn.checkpoints import NOTHING, Checkpoint, read_checkpoint
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.detections import box_results, normalized_windows, paste_mask, unmold_boxes
from unmask_tf.mrcnn.fit import fit, validation_losses
from unmask_tf.mrcnn.graphs import build_inference_model, build_training_model, without_xla
from unmask_tf.mrcnn.image import mold_inputs
from unmask_tf.mrcnn.runs import LogFolder, find_last, log_folder
from unmask_tf.mrcnn.samples import Loaded, Stream
from unmask_tf.mrcnn.schedules import Stage
from unmask_tf.mrcnn.weights import WeightReport, load_weights


class MaskRCNN:
    """Mask R-CNN with Matterport's interface.

    Args:
        mode: `training` or `inference`.
        config: the network's settings.
        model_dir: where training writes logs and checkpoints.

    Attributes:
        epoch: epochs that `train` has finished, by the last weights loaded.
    """

    def __init__(self, mode: str, config: Config, model_dir: str | Path) -> None:
        if mode not in ("training", "inference"):
            raise ValueError(f"mode is '{mode}'. Choose 'training' or 'inference'.")
        if not config.USE_RPN_ROIS:
            raise ValueError("USE_RPN_ROIS is False, but the heads train on the RPN's proposals only. Set it True.")
        self.mode, self.config, self.model_dir = mode, config, Path(model_dir)
        self.keras_model = build_training_model(config) if mode == "training" else build_inference_model(config)
        self._anchors: dict[tuple[int, ...], np.ndarray] = {}
        self._detector: keras.Model | None = None
        self.epoch = 0
        self._log_folder: LogFolder | None = None
        self._loaded = NOTHING  # what else the checkpoint holds that the weights come from

    def load_weights(
        self, path: str | Path, by_name: bool = True, exclude: Sequence[str] | None = None
    ) -> WeightReport:
        """Loads a Matterport `.h5`, always by name; `train` goes on at the epoch that a checkpoint's path names.

        Args:
            path: the file.
            by_name: has no effect: a file that does not fit is refused either way.
            exclude: layers to leave as they are (names or regular expressions).

        Returns:
            What became of every tensor.

        Raises:
            InputError: see `weights.load_weights`.
        """
        report = load_weights(self.keras_model, path, exclude=exclude or ())
        if report.missing:
            layers = dict.fromkeys(name.split("/")[0] for name in report.missing)
            print(f"{path} holds only a backbone; these layers keep their weights: {', '.join(layers)}")
        self.set_log_dir(path)
        if self.mode == "training":
            held = read_checkpoint(path)
            self._loaded = held if held.epoch == self.epoch else NOTHING  # a renamed checkpoint starts a new training
        if report.excluded:
            self._forget_optimizer()
        return report

    def get_imagenet_weights(self) -> str:
        """Path of the ImageNet ResNet-50 without its head that Matterport starts from (94 MB), downloaded once.

        Raises:
            InputError: it cannot be downloaded.
        """
        name = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
        url = f"https://github.com/fchollet/deep-learning-models/releases/download/v0.2/{name}"
        try:
            md5 = "a268eb855778b3df3c7506639542a6af"
            return keras.utils.get_file(name, url, cache_subdir="models", file_hash=md5)
        except Exception as error:
            raise InputError(
                f"the ImageNet weights cannot be downloaded from {url}: {error}. Connect to the network, or fetch the "
                "file elsewhere and give its path to load_weights."
            ) from error

    def set_log_dir(self, model_path: str | Path | None = None) -> None:
        """Chooses the folder of a new training or, for a checkpoint in a dated folder, of the one it comes from."""
        self._log_folder = log_folder(self.model_dir, self.config.NAME or "", model_path)
        self.epoch, self._loaded = self._log_folder.epoch, NOTHING

    def log_folder(self) -> LogFolder:
        """The training's folder.

        Raises:
            ValueError: the configuration has no name.
        """
        if not self.config.NAME:
            raise ValueError("Config.NAME is missing; it names the log folder and the checkpoints. Set it.")
        if self._log_folder is None:
            self.set_log_dir()
        assert self._log_folder is not None
        return self._log_folder

    @property
    def log_dir(self) -> str:
        """Folder of the checkpoints and of log.json; it is made when training starts."""
        return str(self.log_folder().path)

    @property
    def checkpoint_path(self) -> str:
        """Path of the checkpoints, with `{epoch:04d}` to be filled in."""
        return self.log_folder().checkpoint

    def find_last(self) -> str:
        """Path of the last checkpoint of the newest training of this configuration's NAME below `model_dir`.

        Raises:
            InputError: there is none; it says what is missing.
            ValueError: the configuration has no name.
        """
        if not self.config.NAME:
            raise ValueError("Config.NAME is missing; checkpoints are found by it. Set it.")
        return find_last(self.model_dir, self.config.NAME)

    def train(
        self,
        train_dataset: Any,
        val_dataset: Any,
        learning_rate: float,
        epochs: int,
        layers: str,
        augmentation: Any = None,
        custom_callbacks: Sequence[keras.callbacks.Callback] | None = None,
        no_augmentation_sources: Sequence[str] | None = None,
    ) -> keras.callbacks.History:
        """Trains until `epochs` are finished in all, those before this call included.

        An epoch has STEPS_PER_EPOCH batches of BATCH_SIZE images, whatever the dataset's size; images without an
        instance are passed over. After each, the losses of VALIDATION_STEPS batches are computed and weights, optimizer
        and log are written to `checkpoint_path`. Batches follow from SEED and the epoch, so that a training that was
        killed, its last checkpoint loaded and the same call made again, ends as if it had never stopped.

        Args:
            train_dataset, val_dataset: a prepared `Dataset`, or a `PartDataset`; the second may be None.
            learning_rate: of this call.
            epochs: cumulative.
            layers: `heads`, `3+`, `4+`, `5+`, `all`, or a regular expression that a layer's whole name matches.
            augmentation: None; `fliplr` for half of the images mirrored; an imgaug augmenter; or a function
                `(image uint8 (H, W, 3), masks bool (H, W, N), rng: np.random.RandomState) -> (image, masks)` that keeps
                the shapes.
            custom_callbacks: Keras callbacks; setting `model.stop_training` ends the training.
            no_augmentation_sources: sources whose images are not augmented.

        Returns:
            The losses of each epoch.

        Raises:
            ValueError, TypeError: inference mode, or arguments or datasets that do not fit.
            InputError: images that cannot be read or show nothing, or a loss that is not finite.
        """
        config, graph, folder = self.config, self.keras_model, self.log_folder()
        if self.mode != "training":
            raise ValueError("training needs a model built with mode='training'.")
        if config.STEPS_PER_EPOCH < 1:
            raise ValueError(f"STEPS_PER_EPOCH is {config.STEPS_PER_EPOCH}. An epoch needs at least 1 step.")
        loaded = Loaded(train_dataset, config, augmentation, no_augmentation_sources or ())
        history = keras.callbacks.History()
        counter = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: self._count(epoch + 1))
        callbacks = keras.callbacks.CallbackList(
            [history, counter, *(custom_callbacks or ())],
            model=graph,
            epochs=epochs,
            steps=config.STEPS_PER_EPOCH,
            verbose=0,
        )
        validate = None
        if val_dataset is not None and config.VALIDATION_STEPS > 0:
            held_out = Stream(Loaded(val_dataset, config), config, config.VALIDATION_STEPS, stream=1)
            validate = functools.partial(validation_losses, graph, held_out, callbacks)
        print(f"epochs {self.epoch + 1} to {epochs} of '{folder.name}', layers {layers}, rate {learning_rate:g}")
        resume = replace(self._loaded, epoch=self.epoch)
        self._forget_optimizer()
        fit(
            graph,
            config,
            [Stage(layers, epochs, learning_rate)],
            Stream(loaded, config, config.STEPS_PER_EPOCH),
            folder.checkpoint,
            resume=resume,
            validate=validate,
            callbacks=callbacks,
        )
        return history

    def _count(self, epoch: int) -> None:
        """Notes that an epoch is finished and logged."""
        self.epoch, self._loaded = epoch, Checkpoint(log=tuple(read_json(self.log_folder().path / "log.json")))

    def _forget_optimizer(self) -> None:
        """The weights change, so that a checkpoint's optimizer does not belong to them any more."""
        self._loaded = Checkpoint(log=self._loaded.log)

    def anchors(self, shape: Sequence[int]) -> np.ndarray:
        """Normalised anchors float32 (A, 4) of a canvas (height, width, ...), computed once per size."""
        key = tuple(int(v) for v in shape[:2])
        if key not in self._anchors:
            self._anchors[key] = normalized_anchors(self.config, key)
        return self._anchors[key]

    def _inputs(self, images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[tuple[int, int, int, int]]]:
        if self.mode != "inference":
            raise ValueError("detection needs a model built with mode='inference'.")
        molded, metas, placements = mold_inputs(images, self.config)
        anchors = np.broadcast_to(self.anchors(molded.shape[1:]), (len(images), *self.anchors(molded.shape[1:]).shape))
        windows = normalized_windows(metas, molded.shape[1:3])
        return [molded, np.ascontiguousarray(anchors), windows], [p.window for p in placements]

    def detect(self, images: Sequence[np.ndarray], verbose: int = 0) -> list[dict[str, np.ndarray]]:
        """Detects objects in RGB uint8 images, each (H, W, 3); any batch size.

        Returns:
            Per image: `rois` int32 (D, 4) pixel boxes, `class_ids` int32 (D,), `scores` float32 (D,), `masks` bool
            (H, W, D).
        """
        inputs, windows = self._inputs(images)
        if verbose:
            print(f"detecting in {len(images)} images on a canvas of {inputs[0].shape[1]}x{inputs[0].shape[2]} pixels")
        return self._results(inputs, [image.shape[:2] for image in images], windows)

    def detect_molded(
        self, molded_images: np.ndarray, image_metas: np.ndarray, verbose: int = 0
    ) -> list[dict[str, np.ndarray]]:
        """`detect` on molded images float32 (N, H, W, 3) with metas (N, IMAGE_META_SIZE), in the canvas' own pixels."""
        if self.mode != "inference":
            raise ValueError("detection needs a model built with mode='inference'.")
        if verbose:
            print(f"detecting in {len(molded_images)} molded images of {molded_images.shape[1:]}")
        shape = molded_images.shape[1:3]
        anchors = np.repeat(self.anchors(shape)[None], len(molded_images), axis=0)
        inputs = [molded_images, anchors, normalized_windows(image_metas, shape)]
        count = len(molded_images)
        return self._results(inputs, [shape] * count, [(0, 0, *shape)] * count)

    def _results(
        self, inputs: list[np.ndarray], shapes: Sequence[tuple[int, int]], windows: Sequence[tuple[int, int, int, int]]
    ) -> list[dict[str, np.ndarray]]:
        """Detections of network inputs, moved from the windows to images of the given shapes."""
        out = self.keras_model.predict_on_batch(inputs)
        detections, masks = np.asarray(out["detections"]), np.asarray(out["mrcnn_mask"])
        results = []
        for index, (shape, window) in enumerate(zip(shapes, windows, strict=True)):
            boxes, rows = unmold_boxes(detections[index], shape, inputs[0].shape[1:3], window)
            ids = detections[index, rows, 4].astype(np.int32)
            pasted = [
                paste_mask(masks[index, row, :, :, class_id], box, shape)
                for row, class_id, box in zip(rows, ids, boxes, strict=True)
            ]
            results.append(
                {
                    "rois": boxes,
                    "class_ids": ids,
                    "scores": detections[index, rows, 5],
                    "masks": np.stack(pasted, axis=-1) if pasted else np.zeros((*shape, 0), bool),
                }
            )
        return results

    def detect_boxes(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """As `detect`, without masks: the mask head and the pasting are never run."""
        if self._detector is None:
            detections = self.keras_model.output["detections"]
            self._detector = without_xla(keras.Model(self.keras_model.inputs, detections))
        inputs, windows = self._inputs(images)
        detections = np.asarray(self._detector.predict_on_batch(inputs))
        return box_results(detections, [image.shape[:2] for image in images], inputs[0].shape[1:3], windows)
