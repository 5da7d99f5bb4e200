"""Seeded weights and pictures: the same name gives the same array everywhere, so golden files hold no weights.

Runs on CPython 3.7 (the reference environment) and on the project's own Python. numpy only.
"""

import zlib

import numpy as np

# A random ReLU network forgets its input unless its kernels sum to zero and its residual branches are damped; the
# heads are scaled so that scores and classes vary from box to box.
_GAIN = {
    "conv1": 0.02,  # pixels have a standard deviation near 60
    "rpn_class_raw": 0.5,
    "rpn_bbox_pred": 0.4,
    "mrcnn_class_logits": 1.5,
    "mrcnn_bbox_fc": 0.4,
    "mrcnn_mask": 2.0,
}
_RESIDUAL_GAIN = 0.3


def _generator(name):
    return np.random.RandomState(zlib.crc32(name.encode("ascii")) & 0xFFFFFFFF)


def weight(layer, name, shape):
    """One weight array.

    Args:
        layer: Matterport's layer name, e.g. `res2a_branch2a`.
        name: `kernel`, `bias`, `gamma`, `beta`, `moving_mean` or `moving_variance`.
        shape: of the array, Keras convention (a transposed convolution's kernel is (h, w, out, in)).

    Returns:
        float32 array of that shape.

    Raises:
        ValueError: the name is none of the six.
    """
    noise = _generator(layer + "/" + name).standard_normal(tuple(int(n) for n in shape))
    if name == "kernel":
        if layer == "mrcnn_mask_deconv":
            inputs, gain = (3,), 1.0
        else:
            inputs = tuple(range(noise.ndim - 1))
            gain = _RESIDUAL_GAIN if layer.endswith("_branch2c") else _GAIN.get(layer, 1.0)
        fan_in = np.prod([noise.shape[axis] for axis in inputs])
        noise -= noise.mean(axis=inputs, keepdims=True)
        values = noise * gain * np.sqrt(2.0 / fan_in)
    elif name in ("bias", "beta", "moving_mean"):
        values = 0.05 * noise
    elif name == "gamma":
        values = 1.0 + 0.1 * noise
    elif name == "moving_variance":
        values = 1.0 + 0.2 * np.tanh(noise)
    else:
        raise ValueError(f"unknown weight name '{name}' of layer '{layer}'")
    return values.astype(np.float32)


def digest(name, values):
    """Few numbers that tell a tensor from any other: its norm, its product with a seeded direction of entries near 1,
    and six of its entries, evenly spaced.

    Returns:
        float64 array (8,).
    """
    flat = np.asarray(values, np.float64).ravel()
    direction = _generator("digest/" + name).standard_normal(flat.size)
    entries = flat[np.arange(6) * (flat.size - 1) // 5]
    return np.concatenate([[np.sqrt(np.sum(flat * flat)), np.sum(flat * direction)], entries])


def picture(seed, height, width, low=0, high=255):
    """A picture of overlapping rectangles with shading and a little noise; integer arithmetic only.

    Args:
        seed: any int; the same seed gives the same picture.
        height, width: pixels.
        low, high: smallest and largest value a pixel may have.

    Returns:
        uint8 array (height, width, 3), RGB.
    """
    generator = np.random.RandomState(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.zeros((height, width, 3), np.int64)
    for channel in range(3):
        a, b, c = generator.randint(1, 90, 3)
        image[:, :, channel] = c + (a * rows) // height + (b * columns) // width
    for _ in range(12):
        y, x = generator.randint(0, height), generator.randint(0, width)
        h, w = generator.randint(height // 8 + 1, height // 2 + 2), generator.randint(width // 8 + 1, width // 2 + 2)
        colour, slope = generator.randint(0, 200, 3), generator.randint(0, 4, 3)
        patch = image[y : y + h, x : x + w]
        patch[:] = colour + slope * np.arange(patch.shape[1])[None, :, None]
    image += generator.randint(-6, 7, image.shape)
    return (low + np.clip(image, 0, 255) * (high - low) // 255).astype(np.uint8)


def blobs(seed, height, width, count):
    """Instance masks: filled ellipses and rectangles, inside the image, none empty.

    Returns:
        bool array (height, width, count).
    """
    generator = np.random.RandomState(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    masks = np.zeros((height, width, count), bool)
    for i in range(count):
        h, w = generator.randint(4, height // 2), generator.randint(4, width // 2)
        y, x = generator.randint(0, height - h), generator.randint(0, width - w)
        if i % 2:
            # (r - centre)^2 / (h / 2)^2 + ... <= 1, in integers
            inside = (2 * rows - 2 * y - h) ** 2 * w * w + (2 * columns - 2 * x - w) ** 2 * h * h <= h * h * w * w
        else:
            inside = (rows >= y) & (rows < y + h) & (columns >= x) & (columns < x + w)
        masks[:, :, i] = inside
    return masks
