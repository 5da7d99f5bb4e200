"""The training half of generate.py: targets, mini-masks, losses, regulariser, gradients, optimiser, ground truth.

Runs only in the reference environment; see generate.py.
"""

import keras
import mrcnn.model
import mrcnn.utils
import numpy as np
import tensorflow as tf
import weights
from reference import Config, K, build, configured, start_session

LOSSES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")


def random_boxes(generator, count, height, width):
    """float32 boxes (count, 4) y1, x1, y2, x2 in pixels, none empty, on integer coordinates."""
    y1, x1 = generator.randint(0, height - 8, count), generator.randint(0, width - 8, count)
    y2 = np.minimum(y1 + generator.randint(6, height // 2, count), height)
    x2 = np.minimum(x1 + generator.randint(6, width // 2, count), width)
    return np.stack([y1, x1, y2, x2], axis=1).astype(np.float32)


def _pixel_anchors(config, shape):
    shapes = mrcnn.model.compute_backbone_shapes(config, shape)
    return mrcnn.utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, shapes, config.BACKBONE_STRIDES, config.RPN_ANCHOR_STRIDE
    )


def masks():
    """extract_bboxes, minimize_mask, expand_mask, unmold_mask, resize_mask."""
    shape = (90, 120)
    instances = weights.blobs(60, shape[0], shape[1], 8)
    instances[:, :, 6] = False
    instances[30, 40, 6] = True  # a single pixel
    boxes = mrcnn.utils.extract_bboxes(instances)
    empty = mrcnn.utils.extract_bboxes(np.zeros((*shape, 1), bool))
    mini = mrcnn.utils.minimize_mask(boxes, instances, (56, 56))
    small = mrcnn.utils.minimize_mask(boxes, instances, (14, 14))
    expanded = mrcnn.utils.expand_mask(boxes, mini, shape)
    generator = np.random.RandomState(61)
    soft = generator.uniform(size=(6, 28, 28)).astype(np.float32)
    targets = np.array(
        [[0, 0, 90, 120], [10, 20, 50, 60], [5, 5, 12, 90], [3, 4, 4, 5], [20, 30, 48, 58], [0, 0, 9, 7]]
    )
    unmolded = [mrcnn.utils.unmold_mask(soft[i], targets[i], shape) for i in range(6)]
    padding = [(3, 4), (5, 6), (0, 0)]
    arrays = dict(
        boxes=boxes, empty_box=empty, mini=np.packbits(mini), small=np.packbits(small), soft=soft,
        expanded=np.packbits(expanded), unmold_boxes=np.array(targets),
        unmolded=np.packbits(np.stack(unmolded, axis=-1)),
    )  # fmt: skip
    sizes = {}
    for scale in (1.28, 0.64, 2):
        resized = mrcnn.utils.resize_mask(instances, scale, padding)
        arrays[f"resized_{scale}"] = np.packbits(resized)
        sizes[str(scale)] = list(resized.shape)
    return arrays, dict(seed=60, shape=shape, count=8, single_pixel=[30, 40, 6], padding=padding, resized_shapes=sizes)


def rpn_targets():
    """build_rpn_targets with and without subsampling, with a crowd, with more positives than fit; on the released
    system's canvas, and on an oblong one.
    """
    arrays, cases = {}, []
    generator = np.random.RandomState(70)
    few = random_boxes(generator, 5, 128, 128).astype(np.int32)
    jitter = generator.randint(-2, 3, (60, 4)) + np.array([40, 40, 72, 72])
    many = np.concatenate([few, jitter.astype(np.int32)])
    small, large = (8, 16, 32, 64, 128), (32, 64, 128, 256, 512)
    five, two = np.arange(1, 6, dtype=np.int32), np.array([1, 2], np.int32)
    oblong, wide = (random_boxes(generator, 5, *side).astype(np.int32) for side in ((64, 192), (1024, 1024)))
    for name, boxes, ids, budget, side, scales in [
        ("few", few, five, 256, (128, 128), small),
        ("few_all", few, five, 100000, (128, 128), small),
        ("crowd_all", few, np.array([3, -1, 4, 5, -2], np.int32), 100000, (128, 128), small),
        ("many", many, np.ones(len(many), np.int32), 16, (128, 128), small),
        ("tiny_all", np.array([[60, 60, 62, 63], [0, 0, 128, 128]], np.int32), two, 100000, (128, 128), small),
        ("oblong", oblong, five, 256, (64, 192), small),
        ("released", wide, five, 256, (1024, 1024), large),
        ("released_all", wide, five, 1000000, (1024, 1024), large),
    ]:
        config = configured(RPN_TRAIN_ANCHORS_PER_IMAGE=budget, RPN_ANCHOR_SCALES=scales)
        anchors = _pixel_anchors(config, (*side, 3))
        np.random.seed(71)
        match, deltas = mrcnn.model.build_rpn_targets((*side, 3), anchors, ids, boxes, config)
        positive = int(np.sum(match == 1))
        arrays.update({name + "_boxes": boxes, name + "_ids": ids, name + "_match": match.astype(np.int8)})
        arrays[name + "_deltas"] = deltas[:positive]
        cases.append(dict(name=name, budget=budget, seed=71, shape=side, anchor_scales=scales, positive=positive,
                          negative=int(np.sum(match == -1))))  # fmt: skip
    return arrays, cases


def _proposals(generator, boxes, near, far, height, width):
    """float32 pixel boxes: `near` jittered copies of each true box (IoU >= 0.5), then `far` random ones."""
    jitter = np.repeat(boxes, near, axis=0) + generator.uniform(-1.5, 1.5, (len(boxes) * near, 4))
    return np.concatenate([jitter, random_boxes(generator, far, height, width)]).astype(np.float32)


def detection_targets():
    """detection_targets_graph with so few candidates that its shuffling only permutes rows; rows are sorted here."""
    arrays, cases = {}, []
    generator = np.random.RandomState(80)
    full = weights.blobs(81, 128, 128, 4)
    boxes = mrcnn.utils.extract_bboxes(full)
    mini = mrcnn.utils.minimize_mask(boxes, full, (56, 56))
    pixels = _proposals(generator, boxes, 3, 20, 128, 128)
    for name, use_mini, ids in [
        ("mini", True, [7, 44, 2, 2]),
        ("full", False, [7, 44, 2, 2]),
        ("crowd", True, [7, -1, 2, 2]),
    ]:
        start_session()
        config = Config()
        config.USE_MINI_MASK, config.TRAIN_ROIS_PER_IMAGE = use_mini, 100
        # A crowd takes positives away, and with them room for negatives.
        given = 22 if name == "crowd" else len(pixels)
        proposals = np.zeros((40, 4), np.float32)
        proposals[:given] = mrcnn.utils.norm_boxes(pixels[:given], (128, 128))
        true_ids, true_boxes = np.zeros(6, np.int32), np.zeros((6, 4), np.float32)
        true_ids[:4], true_boxes[:4] = ids, mrcnn.utils.norm_boxes(boxes, (128, 128))
        source = mini if use_mini else full
        true_masks = np.zeros((*source.shape[:2], 6), bool)
        true_masks[:, :, :4] = source
        outputs = mrcnn.model.detection_targets_graph(
            tf.constant(proposals), tf.constant(true_ids), tf.constant(true_boxes), tf.constant(true_masks), config
        )
        rois, class_ids, deltas, targets = K.get_session().run(outputs)
        filled = int(np.sum(np.any(rois != 0, axis=1)))
        positive = int(np.sum(class_ids > 0))
        order = np.lexsort(np.concatenate([rois[:filled].T, (class_ids[:filled] == 0)[None]]))
        if filled >= int(positive / config.ROI_POSITIVE_RATIO):
            raise RuntimeError("the sampling may have left ROIs out, so the rows would depend on its shuffle")
        arrays["boxes"], arrays[name + "_proposals"], arrays[name + "_ids"] = boxes, proposals, true_ids
        arrays[name + "_rois"], arrays[name + "_class_ids"] = rois[order], class_ids[order]
        arrays[name + "_deltas"] = deltas[order][:positive]
        arrays[name + "_masks"] = np.packbits(targets[order][:positive].astype(bool))
        cases.append(dict(name=name, use_mini=use_mini, positive=positive, filled=filled, mask_seed=81, budget=100))
    return arrays, dict(cases=cases, filled_by_positives=_filled_by_positives())


def _filled_by_positives():
    """Rows that are not padding, for a number of positives and a surplus of negatives, with the default settings."""
    start_session()
    config = Config()
    config.USE_MINI_MASK = False
    negatives = np.tile(np.array([[0.6, 0.6, 0.9, 0.9]], np.float32), (300, 1))
    proposals = K.placeholder(shape=(None, 4))
    outputs = mrcnn.model.detection_targets_graph(
        proposals, tf.constant([1]), tf.constant([[0.1, 0.1, 0.4, 0.4]]), tf.constant(np.ones((8, 8, 1), bool)), config
    )
    counts = {}
    for positives in (0, 1, 2, 3, 5, 10, 21, 33, 50, 65, 66, 90):
        positive = np.tile(np.array([[0.1, 0.1, 0.4, 0.4]], np.float32), (positives, 1))
        rois = K.get_session().run(outputs[0], {proposals: np.concatenate([positive, negatives])})
        counts[positives] = int(np.sum(np.any(rois != 0, axis=1)))
    return counts


def losses():
    """The five loss functions on a batch of two, and on a batch without a positive."""
    start_session()
    generator = np.random.RandomState(90)

    def normal(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    match = generator.choice([-1, 0, 1], (2, 30, 1), p=[0.5, 0.3, 0.2]).astype(np.int32)
    ids = generator.randint(0, 6, (2, 12)).astype(np.int32)
    ids[:, 9:] = 0
    active = np.ones((2, 6), np.float32)
    active[:, 4] = 0
    inputs = dict(
        match=match, logits=normal(2, 30, 2), rpn_target=normal(2, 16, 4), rpn_bbox=2 * normal(2, 30, 4), ids=ids,
        class_logits=2 * normal(2, 12, 6), active=active, bbox_target=normal(2, 12, 4),
        bbox=2 * normal(2, 12, 6, 4), mask_target=(normal(2, 12, 5, 5) > 0).astype(np.float32),
        mask=generator.uniform(0, 1, (2, 12, 5, 5, 6)).astype(np.float32),
    )  # fmt: skip
    inputs["mask"][0, 0, 0, 0], inputs["mask"][0, 0, 0, 1] = 0.0, 1.0  # where the cross-entropy is clipped
    cases = {}
    for name in ("usual", "no_positive"):
        given = dict(inputs)
        if name == "no_positive":
            given["match"], given["ids"] = np.where(match > 0, 0, match), np.zeros_like(ids)

        class Batch:
            IMAGES_PER_GPU = 2

        t = {key: tf.constant(value) for key, value in given.items()}
        tensors = [
            mrcnn.model.rpn_class_loss_graph(t["match"], t["logits"]),
            mrcnn.model.rpn_bbox_loss_graph(Batch, t["rpn_target"], t["match"], t["rpn_bbox"]),
            mrcnn.model.mrcnn_class_loss_graph(t["ids"], t["class_logits"], t["active"]),
            mrcnn.model.mrcnn_bbox_loss_graph(t["bbox_target"], t["ids"], t["bbox"]),
            mrcnn.model.mrcnn_mask_loss_graph(t["mask_target"], t["ids"], t["mask"]),
        ]
        values = K.get_session().run(tensors)
        cases[name] = {LOSSES[i]: float(values[i]) for i in range(5)}
    return inputs, cases


def optimiser():
    """Three steps of Keras 2's SGD on two variables: clipnorm is the norm over ALL gradients."""
    start_session()
    start = [np.array([3.0, -4.0], np.float32), np.array([[12.0]], np.float32)]
    variables = [K.variable(value) for value in start]
    loss = K.sum(K.square(variables[0])) + 3 * K.sum(K.square(variables[1]))
    sgd = keras.optimizers.SGD(lr=0.1, momentum=0.9, clipnorm=5.0)
    step = K.function([], [loss], updates=sgd.get_updates(loss, variables))
    path = []
    for _ in range(3):
        step([])
        path.append([value.tolist() for value in K.batch_get_value(variables)])
    return dict(start=[value.tolist() for value in start], lr=0.1, momentum=0.9, clipnorm=5.0, path=path)


class _Toy(mrcnn.utils.Dataset):
    """One picture with its masks."""

    def __init__(self, image, instances, ids):
        super().__init__()
        self.toy = image, instances, ids
        for number in range(1, 45):
            self.add_class("toy", number, str(number))
        self.add_image("toy", 0, "")
        self.prepare()

    def load_image(self, image_id):
        return self.toy[0]

    def load_mask(self, image_id):
        return self.toy[1], self.toy[2]


def ground_truth():
    """load_image_gt: scaled up, and scaled down so far that one instance disappears."""
    arrays, cases = {}, []
    for height, width in [(60, 80), (300, 420)]:
        image = weights.picture(100 + height, height, width)
        instances = weights.blobs(101 + height, height, width, 5)
        instances[:, :, 2] = False
        instances[7, 11, 2] = True
        ids = np.array([3, 9, 1, 44, 3], np.int32)
        loaded, meta, class_ids, boxes, mini = mrcnn.model.load_image_gt(
            _Toy(image, instances, ids), Config(), 0, use_mini_mask=True
        )
        number = len(cases)
        found = dict(image=loaded[::8], meta=meta, class_ids=class_ids, boxes=boxes, mini=np.packbits(mini))
        arrays.update({f"{key}_{number}": value for key, value in found.items()})
        cases.append(dict(height=height, width=width, picture_seed=100 + height, mask_seed=101 + height, row_step=8,
                          single_pixel=[7, 11, 2], class_ids=ids.tolist()))  # fmt: skip
    return arrays, cases


def _regulariser(model):
    """The L2 term of the model's compile(), with the layers that are trainable now."""
    terms = [
        keras.regularizers.l2(model.config.WEIGHT_DECAY)(w) / tf.cast(tf.size(w), tf.float32)
        for w in model.keras_model.trainable_weights
        if "gamma" not in w.name and "beta" not in w.name
    ]
    return tf.add_n(terms)


STAGES = {
    "heads": r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)",
    "4+": r"(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)",
    "all": ".*",
}
# So small for all layers that rounding does not grow from step to step: at 0.0005, noise of one part in ten million in
# the image moves the third step's losses by 0.1 %.
LEARNING_RATES = {"heads": 0.0005, "4+": 0.0005, "all": 0.00002}


def train_steps(stages, **settings):
    """One image with given ROIs: losses, gradient norms and three optimiser steps for each training stage, and digests
    of what the steps changed in every weight.

    The ROIs are few enough that the sampling keeps all positives and all negatives, so that losses do not depend on
    the shuffle.
    """
    original = mrcnn.model.norm_boxes_graph
    # The package cannot normalise the integer ROIs that it asks for.
    mrcnn.model.norm_boxes_graph = lambda boxes, shape: original(tf.cast(boxes, tf.float32), shape)
    config = configured(USE_RPN_ROIS=False, POST_NMS_ROIS_TRAINING=27, TRAIN_ROIS_PER_IMAGE=32, **settings)
    model = build("training", config)
    net = model.keras_model
    generator = np.random.RandomState(120)
    image = weights.picture(121, 128, 128)
    full = weights.blobs(122, 128, 128, 3)
    ids = np.array([5, 17, config.NUM_CLASSES - 1], np.int32)
    boxes = mrcnn.utils.extract_bboxes(full)
    # No ROI shares an edge with its box: rounding would decide whether the outermost samples lie inside the mask.
    near = np.repeat(boxes, 3, axis=0) + generator.choice([-2, -1, 1, 2], (9, 4))
    rois = np.concatenate([near, random_boxes(generator, 18, 128, 128)]).astype(np.int32)
    active = np.ones(config.NUM_CLASSES, np.int32)
    molded, meta, _ = model.mold_inputs([image])
    meta[0, 12:] = active
    np.random.seed(123)
    match, deltas = mrcnn.model.build_rpn_targets(
        (128, 128, 3), _pixel_anchors(config, (128, 128, 3)), ids, boxes, config
    )
    mini = mrcnn.utils.minimize_mask(boxes, full, config.MINI_MASK_SHAPE)
    batch = [molded, meta, match[None, :, None], deltas[None], ids[None], boxes[None].astype(np.float32),
             mini[None], rois[None]]  # fmt: skip
    arrays = dict(
        match=match.astype(np.int8), deltas=deltas[: int(np.sum(match == 1))], boxes=boxes, ids=ids, rois=rois
    )
    target_layer = net.get_layer("proposal_targets")
    targets = K.function(net.inputs, [*target_layer.output, net.get_layer("mrcnn_class_logits").output])(batch)
    sampled, class_ids = targets[0][0], targets[1][0]
    filled = int(np.sum(np.any(sampled != 0, axis=1)))
    positive = int(np.sum(class_ids > 0))
    if filled != len(rois):
        raise RuntimeError("the sampling left ROIs out, so the losses would depend on its shuffle")
    order = np.concatenate([np.lexsort(sampled[:positive].T), positive + np.lexsort(sampled[positive:filled].T),
                            np.arange(filled, len(sampled))])  # fmt: skip
    arrays.update(sampled=sampled[order], class_ids=class_ids[order], class_logits=targets[4][0][order])
    arrays.update(bbox_targets=targets[2][0][order], mask_targets=np.packbits(targets[3][0][order].astype(bool)))
    result = dict(backbone=config.BACKBONE, classes=config.NUM_CLASSES, picture_seed=121, mask_seed=122,
                  positive=positive, filled=filled,
                  momentum=config.LEARNING_MOMENTUM, clipnorm=config.GRADIENT_CLIP_NORM,
                  weight_decay=config.WEIGHT_DECAY, stages={})  # fmt: skip
    initial = [(w, K.get_value(w)) for w in net.weights]
    names = ["/".join(w.name.split(":")[0].split("/")[-2:]) for w in net.weights]
    result["weights"] = names
    for stage in stages:
        K.batch_set_value(initial)
        model.set_trainable(STAGES[stage], verbose=0)
        model.compile(LEARNING_RATES[stage], config.LEARNING_MOMENTUM)
        trainable = net.trainable_weights
        gradients = K.gradients(net.total_loss, trainable)
        tensors = [net.total_loss, _regulariser(model)] + [net.get_layer(name).output for name in LOSSES]
        first = K.function(net.inputs, tensors + gradients)(batch)
        values = [float(np.mean(value)) for value in first[: len(tensors)]]
        norms = {w.name: float(np.linalg.norm(g)) for w, g in zip(trainable, first[len(tensors) :])}  # noqa: B905
        steps = [[float(v) for v in net.train_on_batch(batch, [])] for _ in range(3)]
        # The model lists its trainable weights first, so that the order differs from stage to stage.
        moved = [K.get_value(w) - before for w, before in initial]
        digests = [weights.digest(name, change) for name, change in zip(names, moved)]  # noqa: B905
        arrays["moved_" + stage] = np.array(digests, np.float32)
        result["stages"][stage] = dict(
            learning_rate=LEARNING_RATES[stage], total=values[0], regulariser=values[1],
            losses={LOSSES[i]: values[2 + i] for i in range(5)},
            trainable_weights=len(trainable), gradient_norms=norms,
            global_norm=float(np.sqrt(sum(n * n for n in norms.values()))), steps=steps,
            metrics=list(net.metrics_names),
        )  # fmt: skip
    mrcnn.model.norm_boxes_graph = original
    return arrays, result
