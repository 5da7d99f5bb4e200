"""Training data with Matterport's `Dataset` interface: images and classes from several sources under one numbering."""

from __future__ import annotations

from typing import Any

import numpy as np

from unmask_tf.data.images import read_image


class Dataset:
    """Images with instance masks. Subclass it, override `load_mask` (and `load_image` where pixels are no files).

    Call `add_class` and `add_image`, then `prepare`. Class 0 is the background, `BG` of source "".

    Attributes:
        image_info: one dictionary per image: id, source, path, and what `add_image` was given besides.
        class_info: one dictionary per class: source, id, name.
        num_classes, class_ids, class_names: after `prepare`; class ids are positions in `class_info`, and a name ends
            at its first comma.
        num_images, image_ids: after `prepare`; image ids are positions in `image_info`.
        sources: after `prepare`; the classes' sources.
        source_class_ids: after `prepare`; source -> class ids it knows, the background included. Only these take part
            in the class loss of the source's images.
        class_from_source_map, image_from_source_map: after `prepare`; "source.id" -> class or image id.
    """

    num_classes: int
    class_ids: np.ndarray
    class_names: list[str]
    num_images: int
    sources: list[str]
    class_from_source_map: dict[str, int]
    image_from_source_map: dict[str, int]

    def __init__(self, class_map: Any = None) -> None:
        self._image_ids: np.ndarray = np.array([], int)
        self.image_info: list[dict[str, Any]] = []
        self.class_info: list[dict[str, Any]] = [{"source": "", "id": 0, "name": "BG"}]
        self.source_class_ids: dict[str, list[int]] = {}

    def add_class(self, source: str, class_id: Any, class_name: str) -> None:
        """Adds a class of a source; one that is there already (same source and id) is left as it is.

        Raises:
            ValueError: the source's name has a dot, which separates it from the id.
        """
        if "." in source:
            raise ValueError(f"the source '{source}' of class '{class_name}' has a dot in its name. Leave it out.")
        if not any(info["source"] == source and info["id"] == class_id for info in self.class_info):
            self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source: str, image_id: Any, path: Any, **kwargs: Any) -> None:
        """Adds an image; further arguments stand in its `image_info`."""
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def prepare(self, class_map: Any = None) -> None:
        """Numbers classes and images; call it after the last `add_class` or `add_image`."""
        self.num_classes, self.num_images = len(self.class_info), len(self.image_info)
        self.class_ids, self._image_ids = np.arange(self.num_classes), np.arange(self.num_images)
        self.class_names = [info["name"].split(",")[0] for info in self.class_info]
        self.class_from_source_map = {f"{c['source']}.{c['id']}": i for i, c in enumerate(self.class_info)}
        self.image_from_source_map = {f"{c['source']}.{c['id']}": i for i, c in enumerate(self.image_info)}
        self.sources = sorted({info["source"] for info in self.class_info})
        self.source_class_ids = {
            source: [i for i, info in enumerate(self.class_info) if i == 0 or info["source"] == source]
            for source in self.sources
        }

    @property
    def image_ids(self) -> np.ndarray:
        """Ids of all images: int (num_images,); empty before `prepare`."""
        return self._image_ids

    def map_source_class_id(self, source_class_id: str) -> int:
        """Class id of "source.id", such as "coco.12"; KeyError where there is none."""
        return self.class_from_source_map[source_class_id]

    def get_source_class_id(self, class_id: int, source: str) -> Any:
        """The id that a class has in its source.

        Raises:
            ValueError: the class is of another source.
        """
        info = self.class_info[class_id]
        if info["source"] != source:
            raise ValueError(f"class {class_id} ('{info['name']}') is of source '{info['source']}', not '{source}'.")
        return info["id"]

    def source_image_link(self, image_id: int) -> Any:
        """Path or URL of an image; override it to show another."""
        return self.image_info[image_id]["path"]

    def image_reference(self, image_id: int) -> str:
        """A hint for people who look for the image; override it."""
        return ""

    def load_image(self, image_id: int) -> np.ndarray:
        """Pixels uint8 (H, W, 3), RGB, as they are stored: an EXIF orientation is not applied, as in Matterport's.

        Raises:
            InputError: the file is missing, damaged or not an image.
        """
        return read_image(self.image_info[image_id]["path"], upright=False)

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Instance masks bool (H, W, N) and their class ids int32 (N,); without an override there are none.

        A negative class id marks a crowd, which nothing is trained against.
        """
        return np.empty((0, 0, 0), bool), np.empty(0, np.int32)
