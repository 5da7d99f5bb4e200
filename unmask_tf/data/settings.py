"""Settings of the embedded dataset."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """The embedded dataset.

    Attributes:
        image_size: side of the square images, pixels.
        parts_images: K's images in train, val, test, over all classes.
        class_images: M's and D's images per class in train, val, test.
        texture_amplitude: peak of the class texture's luminance, in units of 1/255; in K's images its class is random.
        opponent_amplitude: peak of the class texture's colour-opponent grating, which only class images have.
        class_hard_share: share of hard scenes (dark, small, cropped, hidden or alike) among the class images.
        seed: root of every image's own seed.
    """

    image_size: int = 64
    parts_images: tuple[int, int, int] = (3000, 180, 300)
    class_images: tuple[int, int, int] = (360, 40, 24)
    texture_amplitude: float = 6.0
    opponent_amplitude: float = 10.0
    class_hard_share: float = 0.5
    seed: int = 2020
