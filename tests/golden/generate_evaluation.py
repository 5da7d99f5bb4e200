"""The evaluation half of generate.py: average precision.

Runs only in the reference environment; see generate.py.
"""

import mrcnn.utils
import numpy as np

SIDE = 24


def _mask(box):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[box[0] : box[2], box[1] : box[3]] = True
    return mask


def _boxes(generator, count):
    low = generator.randint(0, SIDE - 8, (count, 2))
    return np.concatenate([low, np.minimum(low + generator.randint(5, 13, (count, 2)), SIDE)], axis=1)


def average_precisions():
    """compute_ap of one image's rectangles; detections lie near them or astray, have a wrong class, come twice.

    `rematched`: the package counted a second detection of the instance that the best detection had found.
    """
    arrays, cases = {}, []
    for seed in range(24):
        count, classes, threshold = 1 + seed % 7, 1 + seed % 4, (0.5, 0.75)[seed % 2]
        near, astray = 2 * (seed % 5), 1 + seed % 3
        generator = np.random.RandomState(200 + seed)
        true = _boxes(generator, count)
        ids = generator.randint(1, classes + 1, count)
        copied = generator.randint(0, count, near)
        found = np.clip(true[copied] + generator.randint(-1, 2, (near, 4)), 0, SIDE)
        found = np.concatenate([found, _boxes(generator, astray)])
        wrong = generator.uniform(size=near) < 0.2
        found_ids = np.where(wrong, generator.randint(1, classes + 1, near), ids[copied])
        found_ids = np.concatenate([found_ids, generator.randint(1, classes + 1, astray)])
        scores = (1 + generator.permutation(len(found))) / 100.0  # no two alike
        true_masks = np.stack([_mask(box) for box in true], axis=-1)
        masks = np.stack([_mask(box) for box in found], axis=-1)
        given = (true, ids, true_masks, found, found_ids, scores, masks, threshold)
        precision, _, _, overlaps = mrcnn.utils.compute_ap(*given)
        _, matched, _ = mrcnn.utils.compute_matches(*given)
        rematched = len(matched) > 0 and matched[0] > -1 and int(np.sum(matched == matched[0])) > 1
        values = dict(true=true, ids=ids, found=found, found_ids=found_ids, scores=scores)
        arrays.update({f"{key}_{seed}": value for key, value in values.items()})
        arrays[f"overlaps_{seed}"] = np.zeros_like(overlaps)
        arrays[f"overlaps_{seed}"][np.argsort(scores)[::-1]] = overlaps  # the package answers by falling score
        cases.append(dict(seed=seed, threshold=threshold, average_precision=float(precision),
                          rematched=bool(rematched)))  # fmt: skip
    return arrays, dict(side=SIDE, cases=cases)
