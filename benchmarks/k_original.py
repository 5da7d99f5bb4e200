"""Matterport's own package at work for bench_k.py and bench_k_training.py. Needs its environment: CPython 3.7."""

import functools
import os
import time
import warnings

warnings.simplefilter("ignore")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import k_served  # noqa: E402
import mrcnn.config  # noqa: E402
import mrcnn.model  # noqa: E402
import numpy as np  # noqa: E402
import skimage.transform  # noqa: E402

# Release 2.1 never smooths before it shrinks an image; PyPI's 0.2 leaves that to scikit-image.
skimage.transform.resize = functools.partial(skimage.transform.resize, anti_aliasing=False)


def configured(settings):
    """Matterport's Config with the benchmark's settings."""

    class Config(mrcnn.config.Config):
        NAME = "bench"

    for name in settings["config"]:
        setattr(Config, name, settings["config"][name])
    return Config()


def build_detection(settings):
    """Answers {"rows": [i, ...]} with the seconds that detecting took and the class ids found in each image."""
    model = mrcnn.model.MaskRCNN("inference", configured(settings), settings["folder"])
    model.load_weights(settings["weights"], by_name=True)
    archive = np.load(settings["images"])
    images = [archive[f"image_{i}"] for i in range(len(archive.files))]

    def detect(chosen):
        return [sorted({int(i) for i in model.detect([image])[0]["class_ids"]}) for image in chosen]

    detect([images[0][:, ::-1]])

    def answer(request):
        start, worked = time.perf_counter(), time.process_time()
        found = detect([images[i] for i in request["rows"]])
        return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - worked, "found": found}

    return answer


def build_training(settings):
    """Answers any request with the seconds of one training step, and its loss."""
    config = configured(settings)
    model = mrcnn.model.MaskRCNN("training", config, settings["folder"])
    model.load_weights(settings["weights"], by_name=True)
    model.set_trainable({"all": ".*", "heads": r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)"}[settings["layers"]])
    model.compile(config.LEARNING_RATE, config.LEARNING_MOMENTUM)
    batch = np.load(settings["batch"])
    names = ["images", "metas", "rpn_match", "rpn_bbox", "gt_class_ids", "gt_boxes", "gt_masks"]
    inputs = [batch[name] for name in names]
    model.keras_model.train_on_batch(inputs, [])

    def answer(request):
        start = time.perf_counter()
        losses = model.keras_model.train_on_batch(inputs, [])
        return {"seconds": time.perf_counter() - start, "loss": float(np.ravel(losses)[0])}

    return answer


if __name__ == "__main__":
    k_served.serve(
        lambda settings: {"detection": build_detection, "training": build_training}[settings["task"]](settings)
    )
