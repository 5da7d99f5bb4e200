"""Settings of model K, with Matterport's names and defaults (release 2.1), and the presets of this project."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


class Config:
    """Settings of Mask R-CNN. Subclass it and override attributes, or pass them: `Config(NUM_CLASSES=45)`.

    Names and defaults are Matterport's. Beyond those:

    Attributes:
        RPN_FEATURES, MASK_FEATURES: channels of the RPN's shared convolution and of the mask head.
        OPTIMIZER: `sgd` (Matterport's) or `adam`.
        PER_CLASS_DETECTIONS: every class of an ROI may be a detection, as in Fast R-CNN; else, as in Matterport's, only
            the class with the highest score, and none where that is the background.
        DROP_EMPTY_ROIS: leave boxes without area out of the detections; Matterport keeps them, one pixel large.
        RANDOM_ZOOM, RANDOM_SIDE, RANDOM_NOISE: `train_parts` shows random views of the images (mrcnn/views.py):
            windows, enlarged by up to the first; half of them with as few pixels as the second's range (least, most)
            says and noise of up to the third's levels. None: whole images, as sharp as they are. `MaskRCNN.train` has
            its argument `augmentation` instead.
        RARE_SHARE: `train_parts` shows an image oftener if it has a part that less than this share of the images has
            (see `rare_repeats`); None: every image once an epoch.
        ADVERSARIAL_SHARE, ADVERSARIAL_AFTER, ADVERSARIAL_EPSILON, ADVERSARIAL_BLOCK: `train_parts` attacks this share
            of every batch (mrcnn/adversarial.py) after that many epochs, each image with a budget of up to the third's
            levels. K's canvas is an image enlarged by the fourth, and an attacker changes the small one, so one of its
            pixels is a block of the canvas. Share 0: none.
        ADVERSARIAL_STEPS, ADVERSARIAL_LOSSES: the steps of that attack, and the terms of the loss that it raises.
        PART_SCORES: a trained K carries a score for each part, from which it is believed (see `choose_part_scores`),
            instead of DETECTION_MIN_CONFIDENCE for all.
        MIRRORED_CLASS_IDS: class index -> class index after a left-right flip (a mirrored image shows a car's other
            side); empty as released.
    """

    NAME: str | None = None
    GPU_COUNT = 1
    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 1000
    VALIDATION_STEPS = 50

    BACKBONE: str | Callable[..., Any] = "resnet101"
    COMPUTE_BACKBONE_SHAPE: Callable[..., Any] | None = None
    BACKBONE_STRIDES: tuple[int, ...] = (4, 8, 16, 32, 64)
    FPN_CLASSIF_FC_LAYERS_SIZE = 1024
    TOP_DOWN_PYRAMID_SIZE = 256
    NUM_CLASSES = 1
    RPN_FEATURES = 512
    MASK_FEATURES = 256

    RPN_ANCHOR_SCALES: tuple[int, ...] = (32, 64, 128, 256, 512)
    RPN_ANCHOR_RATIOS: tuple[float, ...] = (0.5, 1, 2)
    RPN_ANCHOR_STRIDE = 1
    RPN_NMS_THRESHOLD = 0.7
    RPN_TRAIN_ANCHORS_PER_IMAGE = 256
    PRE_NMS_LIMIT = 6000
    POST_NMS_ROIS_TRAINING = 2000
    POST_NMS_ROIS_INFERENCE = 1000

    USE_MINI_MASK = True
    MINI_MASK_SHAPE: tuple[int, int] = (56, 56)

    IMAGE_RESIZE_MODE = "square"
    IMAGE_MIN_DIM = 800
    IMAGE_MAX_DIM = 1024
    IMAGE_MIN_SCALE = 0
    IMAGE_CHANNEL_COUNT = 3
    MEAN_PIXEL: Any = (123.7, 116.8, 103.9)

    TRAIN_ROIS_PER_IMAGE = 200
    ROI_POSITIVE_RATIO = 0.33
    POOL_SIZE = 7
    MASK_POOL_SIZE = 14
    MASK_SHAPE: tuple[int, int] = (28, 28)
    MAX_GT_INSTANCES = 100
    RPN_BBOX_STD_DEV: Any = (0.1, 0.1, 0.2, 0.2)
    BBOX_STD_DEV: Any = (0.1, 0.1, 0.2, 0.2)

    DETECTION_MAX_INSTANCES = 100
    DETECTION_MIN_CONFIDENCE = 0.7
    DETECTION_NMS_THRESHOLD = 0.3

    DROP_EMPTY_ROIS = False
    PER_CLASS_DETECTIONS = False

    OPTIMIZER = "sgd"
    LEARNING_RATE = 0.001
    LEARNING_MOMENTUM = 0.9
    WEIGHT_DECAY = 0.0001
    GRADIENT_CLIP_NORM = 5.0
    LOSS_WEIGHTS: dict[str, float] = {  # noqa: RUF012 - Matterport's public name and form
        "rpn_class_loss": 1.0,
        "rpn_bbox_loss": 1.0,
        "mrcnn_class_loss": 1.0,
        "mrcnn_bbox_loss": 1.0,
        "mrcnn_mask_loss": 1.0,
    }
    USE_RPN_ROIS = True
    TRAIN_BN: bool | None = False
    RANDOM_ZOOM: float | None = None
    RANDOM_SIDE: tuple[int, int] | None = None
    RANDOM_NOISE = 0.0
    RARE_SHARE: float | None = None
    ADVERSARIAL_SHARE = 0.0
    ADVERSARIAL_AFTER = 0
    ADVERSARIAL_EPSILON = 8.0
    ADVERSARIAL_BLOCK = 2
    ADVERSARIAL_STEPS = 1
    ADVERSARIAL_LOSSES: tuple[str, ...] = tuple(LOSS_WEIGHTS)
    PART_SCORES = False
    MIRRORED_CLASS_IDS: dict[int, int] = {}  # noqa: RUF012
    SEED = 100

    def __init__(self, **overrides: Any) -> None:
        """Raises TypeError for an unknown setting, ValueError for a value out of range."""
        self._override(overrides)

    def _override(self, overrides: Mapping[str, Any]) -> None:
        for name, value in overrides.items():
            if name not in self._names():
                raise TypeError(f"Config has no setting '{name}'. Check its spelling against Matterport's Config.")
            setattr(self, name, value)
        if self.IMAGE_RESIZE_MODE == "square" and self.IMAGE_MAX_DIM % 64:
            raise ValueError(
                f"IMAGE_MAX_DIM is {self.IMAGE_MAX_DIM}, but the pyramid halves the image six times: "
                "choose a multiple of 64, such as 128, 512 or 1024."
            )
        if self.RANDOM_ZOOM is not None and not self.RANDOM_ZOOM >= 1:
            raise ValueError(f"RANDOM_ZOOM is {self.RANDOM_ZOOM}. Give a factor of 1 or more, or None.")
        side = self.RANDOM_SIDE
        if side is not None and not (len(side) == 2 and 1 <= side[0] <= side[1]):
            raise ValueError(f"RANDOM_SIDE is {side}. Give (least, most) pixels, or None.")
        if self.RARE_SHARE is not None and not 0 < self.RARE_SHARE <= 1:
            raise ValueError(f"RARE_SHARE is {self.RARE_SHARE}. Give a share of the images above 0, up to 1, or None.")
        if not 0 <= self.ADVERSARIAL_SHARE <= 1:
            raise ValueError(
                f"ADVERSARIAL_SHARE is {self.ADVERSARIAL_SHARE}. Give a share of a batch's images, 0 to 1."
            )
        if self.ADVERSARIAL_STEPS < 1:
            raise ValueError(f"ADVERSARIAL_STEPS is {self.ADVERSARIAL_STEPS}. Give 1 step or more.")
        if not self.ADVERSARIAL_LOSSES or set(self.ADVERSARIAL_LOSSES) - set(self.LOSS_WEIGHTS):
            raise ValueError(
                f"ADVERSARIAL_LOSSES is {self.ADVERSARIAL_LOSSES}. Name one or more of: {', '.join(self.LOSS_WEIGHTS)}."
            )

    @property
    def BATCH_SIZE(self) -> int:
        """Images a step."""
        return self.IMAGES_PER_GPU * self.GPU_COUNT

    @property
    def IMAGE_SHAPE(self) -> np.ndarray:
        """(height, width, channels) of the molded image in the square and crop modes."""
        side = self.IMAGE_MIN_DIM if self.IMAGE_RESIZE_MODE == "crop" else self.IMAGE_MAX_DIM
        return np.array([side, side, self.IMAGE_CHANNEL_COUNT])

    @property
    def IMAGE_META_SIZE(self) -> int:
        """Length of the image meta vector: id, shapes, window, scale, active classes."""
        return 1 + 3 + 3 + 4 + 1 + self.NUM_CLASSES

    @classmethod
    def _names(cls) -> list[str]:
        """The settings: what is in capitals and not computed from other settings."""
        return [name for name in sorted(dir(cls)) if name.isupper() and not isinstance(getattr(cls, name), property)]

    def replace(self, **overrides: Any) -> Config:
        """A copy with other values of some settings; raises as the constructor."""
        copied = copy.copy(self)
        copied._override(overrides)
        return copied

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, as JSON has them: tuples and arrays are lists, the keys of dictionaries are text.

        Raises:
            ValueError: a setting (a backbone that is a function) has no such form.
        """
        return {name: _to_json(name, getattr(self, name)) for name in self._names()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Config:
        """The configuration that `to_dict` described; settings left out have this class's values.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        overrides = {name: _tuples(value) for name, value in settings.items()}
        if "MIRRORED_CLASS_IDS" in overrides:
            overrides["MIRRORED_CLASS_IDS"] = {int(k): v for k, v in overrides["MIRRORED_CLASS_IDS"].items()}
        return cls(**overrides)

    def display(self) -> None:
        """Prints every setting, and the sizes that follow from them."""
        print("\nConfigurations:")
        for name in sorted(name for name in dir(self) if name.isupper()):
            print(f"{name:30} {getattr(self, name)}")


def _to_json(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_to_json(name, item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _to_json(name, item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name} is {value!r}, which cannot be written down as data.")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else copy.copy(value)


class PaperConfig(Config):
    """The released settings of K (Section IV-A): 44 parts, ResNet-101, 1024x1024, every detection kept."""

    NAME = "paper"
    NUM_CLASSES = 45
    IMAGES_PER_GPU = 4
    DETECTION_MIN_CONFIDENCE = 0.0


class MiniConfig(Config):
    """A slim K for the embedded 64x64 scenes, scaled to 128x128 as the released system scales 150 to 800."""

    NAME = "mini"
    NUM_CLASSES = 45
    BACKBONE = "resnet_slim"
    IMAGES_PER_GPU = 8
    FPN_CLASSIF_FC_LAYERS_SIZE = 256
    TOP_DOWN_PYRAMID_SIZE = 64
    RPN_FEATURES = 128
    MASK_FEATURES = 32
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_TRAIN_ANCHORS_PER_IMAGE = 128
    PRE_NMS_LIMIT = 1000
    POST_NMS_ROIS_TRAINING = 300
    POST_NMS_ROIS_INFERENCE = 150
    MINI_MASK_SHAPE = (28, 28)
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 128
    TRAIN_ROIS_PER_IMAGE = 64
    MAX_GT_INSTANCES = 32
    DETECTION_MAX_INSTANCES = 50
    DETECTION_MIN_CONFIDENCE = 0.3
    DROP_EMPTY_ROIS = True
    OPTIMIZER = "adam"
    TRAIN_BN = None


class PhotosConfig(Config):
    """K for photographs on a small machine: an ImageNet EfficientNet-Lite0 under Matterport's pyramid and heads."""

    NAME = "photos"
    NUM_CLASSES = 28
    BACKBONE = "efficientnet_lite0"
    IMAGES_PER_GPU = 8
    FPN_CLASSIF_FC_LAYERS_SIZE = 384
    TOP_DOWN_PYRAMID_SIZE = 80
    RPN_FEATURES = 64
    MASK_FEATURES = 32
    RPN_ANCHOR_SCALES = (12, 24, 48, 96, 192)
    PRE_NMS_LIMIT = 2000
    POST_NMS_ROIS_TRAINING = 500
    POST_NMS_ROIS_INFERENCE = 300
    MINI_MASK_SHAPE = (28, 28)
    IMAGE_MIN_DIM = 320
    IMAGE_MAX_DIM = 320
    TRAIN_ROIS_PER_IMAGE = 128
    DETECTION_MIN_CONFIDENCE = 0.05
    DROP_EMPTY_ROIS = True
    PER_CLASS_DETECTIONS = True
    OPTIMIZER = "adam"
    TRAIN_BN = False
    RANDOM_ZOOM = 3.0
    RANDOM_SIDE = (96, 192)
    RANDOM_NOISE = 16.0
    ADVERSARIAL_SHARE = 0.5
    ADVERSARIAL_AFTER = 11
    RARE_SHARE = 0.25
    PART_SCORES = True


class MiniRobustConfig(MiniConfig):
    """The K of `mini`, trained on against attacks on itself."""

    NAME = "mini_robust"
    ADVERSARIAL_SHARE = 1.0
    ADVERSARIAL_STEPS = 3
    ADVERSARIAL_LOSSES = ("rpn_class_loss", "mrcnn_class_loss")


PRESETS: dict[str, type[Config]] = {
    "paper": PaperConfig,
    "mini": MiniConfig,
    "mini_robust": MiniRobustConfig,
    "photos": PhotosConfig,
}


def preset(name: str, **overrides: Any) -> Config:
    """The named preset, with overrides.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}' of K. Choose one of: {', '.join(PRESETS)}.")
    return PRESETS[name](**overrides)


def mirrored_class_ids(parts: Sequence[str], mirror: Mapping[str, str]) -> dict[int, int]:
    """MIRRORED_CLASS_IDS of a K with these parts.

    Args:
        parts: in K's class order; class index 0 is the background.
        mirror: part -> its name in the left-right mirrored image, for those whose name changes. Pairs of which `parts`
            lacks one are passed over.
    """
    index = {part: i + 1 for i, part in enumerate(parts)}
    pairs = [(part, mirror.get(part, part)) for part in parts]
    return {index[part]: index[other] for part, other in pairs if other != part and other in index}
