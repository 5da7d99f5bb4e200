"""Model K: Matterport's Mask R-CNN in Keras 3.

Coming from Matterport
----------------------
`from unmask_tf.mrcnn import Config, Dataset, MaskRCNN` replaces `mrcnn.config.Config`, `mrcnn.utils.Dataset` and
`mrcnn.model.MaskRCNN`. A subclass of Config (NAME, NUM_CLASSES, ...) and of Dataset (load_mask, ...) stays as it is,
and so do these lines::

    model = MaskRCNN(mode="training", config=config, model_dir="logs")
    heads = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
    model.load_weights("mask_rcnn_coco.h5", by_name=True, exclude=heads)
    model.train(train, val, learning_rate=config.LEARNING_RATE, epochs=20, layers="heads")
    model.train(train, val, learning_rate=config.LEARNING_RATE / 10, epochs=40, layers="all")  # 20 more

    model = MaskRCNN(mode="inference", config=config, model_dir="logs")
    model.load_weights(model.find_last(), by_name=True)
    result = model.detect([image])[0]  # rois, class_ids, scores, masks

Weight files, checkpoint names (`<model_dir>/<name><YYYYMMDDTHHMM>/mask_rcnn_<name>_NNNN.h5`), box order (y1, x1, y2,
x2), class 0 as background and the cumulative `epochs` are Matterport's. What differs:

- `load_weights` refuses a file that does not fit, where Keras skips layers in silence. It returns a report of every
  tensor. `exclude` also takes regular expressions.
- `detect` takes any number of images, whatever IMAGES_PER_GPU says.
- `train` also takes `augmentation="fliplr"` (half of the images mirrored; MIRRORED_CLASS_IDS are swapped) or a function
  `(image, masks, rng) -> (image, masks)`. Without `augmentation` nothing is mirrored, as in Matterport's.
- Batches, crops and sampled ROIs follow from SEED and the epoch.
- A checkpoint also holds the optimizer. A training that was killed, its last checkpoint loaded and the same call made
  again, ends with the weights that it would have had.
- The losses go to `log.json` beside the checkpoints, not to TensorBoard; pass `custom_callbacks` for more.
- Multi-GPU models, `USE_RPN_ROIS = False` and `run_graph` are not here; `unmask_tf.mrcnn.inspect` shows inner tensors.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask_tf.mrcnn.config import Config
    from unmask_tf.mrcnn.dataset import Dataset
    from unmask_tf.mrcnn.model import MaskRCNN

__all__ = ["Config", "Dataset", "MaskRCNN"]


def __getattr__(name: str) -> Any:
    # On demand: the package alone imports neither TensorFlow nor Keras.
    if name == "Config":
        from unmask_tf.mrcnn.config import Config

        return Config
    if name == "Dataset":
        from unmask_tf.mrcnn.dataset import Dataset

        return Dataset
    if name == "MaskRCNN":
        from unmask_tf.mrcnn.model import MaskRCNN

        return MaskRCNN
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
