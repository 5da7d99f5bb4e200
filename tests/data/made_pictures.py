"""Made pictures and altered copies of them."""

import io

import numpy as np
from PIL import Image


def picture(seed, size=(240, 180)):
    """Random clouds, in which large shapes are strong and small ones weak as in photographs; a PIL image."""
    rng, total = np.random.default_rng(seed), np.zeros((size[1], size[0], 3))
    for cells in (2, 4, 8, 16, 32):
        noise = Image.fromarray(rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize(size, Image.Resampling.BICUBIC)) / cells
    return Image.fromarray((total / total.max() * 255).astype(np.uint8))


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(image, factor):
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BILINEAR)


def cropped(image, left, top, right, bottom):
    w, h = image.size
    return image.crop((round(left * w), round(top * h), round(w - right * w), round(h - bottom * h)))


def copies(image, rng):
    """Name -> a copy: quality 30 to 90, scale .3 to 2, up to 3 % cut off each side, and all three."""
    margins = [rng.uniform(0, 0.03) for _ in range(4)]
    factor, quality = rng.uniform(0.3, 2), rng.randint(30, 90)
    return {
        "encoded": jpeg(image, quality),
        "worst quality": jpeg(image, 30),
        "scaled": scaled(image, factor),
        "smallest": scaled(image, 0.3),
        "cropped": cropped(image, *margins),
        "all three": jpeg(scaled(cropped(image, *margins), factor), quality),
    }
