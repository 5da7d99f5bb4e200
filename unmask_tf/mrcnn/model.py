"""Model K: Matterport's Mask R-CNN, assembled. Only wiring lives here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from unmask_tf.errors import InputError
from unmask_tf.mrcnn import losses
from unmask_tf.mrcnn.anchors import normalized_anchors
from unmask_tf.mrcnn.backbone import build_backbone, feature_pyramid
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.detections import DetectionLayer, normalized_windows, paste_mask, unmold_boxes
from unmask_tf.mrcnn.heads import class_and_box_head, mask_head
from unmask_tf.mrcnn.image import mold_inputs
from unmask_tf.mrcnn.rpn import ProposalLayer, build_rpn
from unmask_tf.mrcnn.runs import LogFolder, find_last, log_folder
from unmask_tf.mrcnn.targets import DetectionTargetLayer

if TYPE_CHECKING:
    from unmask_tf.mrcnn.weights import WeightReport

LOSSES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")


def _features_and_rpn(image: Any, config: Config) -> tuple[list[Any], Any, Any, Any]:
    """P2..P5, and the RPN's logits, probabilities and deltas over all levels."""
    pyramid = feature_pyramid(build_backbone(image, config), config.TOP_DOWN_PYRAMID_SIZE)
    rpn = build_rpn(config)
    levels = [rpn(level) for level in pyramid]
    names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
    logits, probabilities, deltas = (
        keras.layers.Concatenate(axis=1, name=name)(list(parts))
        for name, parts in zip(names, zip(*levels, strict=True), strict=True)
    )
    return pyramid[:4], logits, probabilities, deltas


def build_inference_model(config: Config) -> keras.Model:
    """Image (B, H, W, 3), anchors (B, A, 4) and windows (B, 4) to detections, masks and inner outputs, by name."""
    shape = tuple(config.IMAGE_SHAPE) if config.IMAGE_RESIZE_MODE in ("square", "crop") else (None, None, 3)
    image = keras.Input(shape, name="input_image")
    anchors = keras.Input((None, 4), name="input_anchors")
    window = keras.Input((4,), name="input_window")
    pyramid, _, probabilities, deltas = _features_and_rpn(image, config)
    rois = ProposalLayer(config, config.POST_NMS_ROIS_INFERENCE, name="ROI")([probabilities, deltas, anchors])
    _, classes, boxes = class_and_box_head(rois, image, pyramid, config)
    detections = DetectionLayer(config, name="mrcnn_detection")([rois, classes, boxes, window])
    masks = mask_head(detections[..., :4], image, pyramid, config)
    outputs = {
        "detections": detections,
        "mrcnn_mask": masks,
        "rois": rois,
        "mrcnn_class": classes,
        "mrcnn_bbox": boxes,
        "rpn_class": probabilities,
        "rpn_bbox": deltas,
    }
    return _without_xla(keras.Model([image, anchors, window], outputs, name="mask_rcnn"))


def _without_xla(model: keras.Model) -> keras.Model:
    """TensorFlow's own kernels are faster on the CPU, and the results do not depend on the number of images as much."""
    if keras.backend.backend() == "tensorflow":
        model.jit_compile = False
    return model


class TrainingModel(keras.Model):
    """The training graph: its output is the dictionary of the five losses; the fit minimises their weighted sum."""

    config: Config

    def prepare(self, config: Config) -> TrainingModel:
        """Sets the loss weights and the trackers that report each loss."""
        self.config = config
        self.trackers = {name: keras.metrics.Mean(name=name) for name in LOSSES}
        return self

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        total = losses.weight_decay(self.trainable_variables, self.config.WEIGHT_DECAY)
        for name in LOSSES:
            self.trackers[name].update_state(y_pred[name])
            total = total + self.config.LOSS_WEIGHTS[name] * y_pred[name]
        return total


def build_training_model(config: Config) -> TrainingModel:
    """Batches of `train.training_batch` to the five losses."""
    image = keras.Input(tuple(config.IMAGE_SHAPE), name="input_image")
    active = keras.Input((config.NUM_CLASSES,), name="input_active_class_ids")
    count = config.MAX_GT_INSTANCES
    mask_shape = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else tuple(config.IMAGE_SHAPE[:2])
    anchors = normalized_anchors(config, config.IMAGE_SHAPE)
    match = keras.Input((len(anchors),), dtype="int32", name="input_rpn_match")
    rpn_target = keras.Input((config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), name="input_rpn_bbox")
    gt_ids = keras.Input((count,), dtype="int32", name="input_gt_class_ids")
    gt_boxes = keras.Input((count, 4), name="input_gt_boxes")
    gt_masks = keras.Input((*mask_shape, count), dtype="bool", name="input_gt_masks")
    has_mask = keras.Input((count,), dtype="bool", name="input_gt_has_mask")

    pyramid, logits, probabilities, deltas = _features_and_rpn(image, config)
    proposal_layer = ProposalLayer(config, config.POST_NMS_ROIS_TRAINING, anchors, name="ROI")
    proposals = proposal_layer([probabilities, deltas])
    targets = DetectionTargetLayer(config, name="proposal_targets")
    rois, ids, target_deltas, target_masks, target_has_mask = targets([proposals, gt_ids, gt_boxes, gt_masks, has_mask])
    class_logits, _, boxes = class_and_box_head(rois, image, pyramid, config)
    # Only positives have a mask loss, and they come first: the mask head needs no other ROI.
    masks = mask_head(rois[:, : targets.positives], image, pyramid, config)
    outputs = {
        "rpn_class_loss": losses.rpn_class_loss(match, logits),
        "rpn_bbox_loss": losses.rpn_bbox_loss(rpn_target, match, deltas),
        "mrcnn_class_loss": losses.mrcnn_class_loss(ids, class_logits, active[0]),
        "mrcnn_bbox_loss": losses.mrcnn_bbox_loss(target_deltas, ids, boxes),
        "mrcnn_mask_loss": losses.mrcnn_mask_loss(target_masks, ids[:, : targets.positives], target_has_mask, masks),
    }
    inputs = {
        tensor.name: tensor for tensor in (image, active, match, rpn_target, gt_ids, gt_boxes, gt_masks, has_mask)
    }
    return TrainingModel(inputs, outputs, name="mask_rcnn").prepare(config)


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
            raise InputError(f"mode is '{mode}'. Choose 'training' or 'inference'.")
        if not config.USE_RPN_ROIS:
            raise InputError("USE_RPN_ROIS is False, but the heads train on the RPN's proposals only. Set it True.")
        self.mode, self.config, self.model_dir = mode, config, Path(model_dir)
        self.keras_model = build_training_model(config) if mode == "training" else build_inference_model(config)
        self._anchors: dict[tuple[int, ...], np.ndarray] = {}
        self._detector: keras.Model | None = None
        self.epoch = 0
        self._log_folder: LogFolder | None = None

    def load_weights(
        self, path: str | Path, by_name: bool = True, exclude: Sequence[str] | None = None
    ) -> WeightReport:
        """Loads a Matterport `.h5`, always by name, and goes on at the epoch that a checkpoint's path names.

        Args:
            path: the file.
            by_name: has no effect: a file that does not fit is refused either way.
            exclude: layers to leave as they are (names or regular expressions).

        Returns:
            What became of every tensor.

        Raises:
            InputError: see `weights.load_weights`.
        """
        from unmask_tf.mrcnn.weights import load_weights

        report = load_weights(self.keras_model, path, exclude=exclude or ())
        if report.missing:
            layers = dict.fromkeys(name.split("/")[0] for name in report.missing)
            print(f"{path} holds a backbone alone; left as they were: {', '.join(layers)}")
        self.set_log_dir(path)
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
        self.epoch = self._log_folder.epoch

    def log_folder(self) -> LogFolder:
        """The training's folder.

        Raises:
            InputError: the configuration has no name.
        """
        if not self.config.NAME:
            raise InputError("Config.NAME is missing; it names the log folder and the checkpoints. Set it.")
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
        """
        if not self.config.NAME:
            raise InputError("Config.NAME is missing; checkpoints are found by it. Set it.")
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
        instance are passed over. After each, the losses of VALIDATION_STEPS batches are computed and the weights are
        written to `checkpoint_path`. Batches follow from SEED and the epoch.

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
            InputError: inference mode, unfit data or arguments, or a loss that is not finite.
        """
        from unmask_tf.mrcnn.fit import train

        return train(
            self,
            train_dataset,
            val_dataset,
            learning_rate,
            epochs,
            layers,
            augmentation,
            custom_callbacks,
            no_augmentation_sources,
        )

    def anchors(self, shape: Sequence[int]) -> np.ndarray:
        """Normalised anchors float32 (A, 4) of a canvas (height, width, ...), computed once per size."""
        key = tuple(int(v) for v in shape[:2])
        if key not in self._anchors:
            self._anchors[key] = normalized_anchors(self.config, key)
        return self._anchors[key]

    def _inputs(self, images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[tuple[int, int, int, int]]]:
        if self.mode != "inference":
            raise InputError("detection needs a model built with mode='inference'.")
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
            print(f"K looks at {len(images)} images on a canvas of {inputs[0].shape[1]}x{inputs[0].shape[2]} pixels")
        return self._results(inputs, [image.shape[:2] for image in images], windows)

    def detect_molded(
        self, molded_images: np.ndarray, image_metas: np.ndarray, verbose: int = 0
    ) -> list[dict[str, np.ndarray]]:
        """`detect` on molded images float32 (N, H, W, 3) with metas (N, IMAGE_META_SIZE), in the canvas' own pixels."""
        if self.mode != "inference":
            raise InputError("detection needs a model built with mode='inference'.")
        if verbose:
            print(f"K looks at {len(molded_images)} molded images of {molded_images.shape[1:]}")
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
            self._detector = _without_xla(keras.Model(self.keras_model.inputs, detections))
        inputs, windows = self._inputs(images)
        detections = np.asarray(self._detector.predict_on_batch(inputs))
        results = []
        for index, image in enumerate(images):
            boxes, rows = unmold_boxes(detections[index], image.shape[:2], inputs[0].shape[1:3], windows[index])
            results.append(
                {
                    "rois": boxes,
                    "class_ids": detections[index, rows, 4].astype(np.int32),
                    "scores": detections[index, rows, 5],
                }
            )
        return results
