"""A Matterport-style dataset drawn in memory, for tests of training."""

import numpy as np

from unmask_tf.mrcnn.dataset import Dataset

SIDE = 64


class Shapes(Dataset):
    """Bright squares of three classes from two sources on dark images; image 2 is empty. It counts what is loaded."""

    # image -> (source, class id, box)
    CONTENT = (
        ("one", ((1, (8, 6, 40, 50)), (2, (34, 10, 50, 26)))),
        ("two", ((3, (10, 20, 44, 62)),)),
        ("one", ()),
        ("one", ((2, (2, 2, 30, 40)),)),
        ("two", ((3, (20, 10, 60, 54)),)),
    )

    def __init__(self, count=None):
        super().__init__()
        for source, class_id, name in (("one", 5, "left"), ("one", 6, "right"), ("two", 1, "wheel")):
            self.add_class(source, class_id, name)
        for number, (source, content) in enumerate(self.CONTENT[:count]):
            self.add_image(source, number, path=None, content=content)
        self.loaded = []
        self.prepare()

    def load_image(self, image_id):
        self.loaded.append(image_id)
        pixels = np.random.RandomState(image_id).randint(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
        for class_id, (y1, x1, y2, x2) in self.image_info[image_id]["content"]:
            pixels[y1:y2, x1:x2, class_id - 1] += 150
        return pixels

    def load_mask(self, image_id):
        content = self.image_info[image_id]["content"]
        masks = np.zeros((SIDE, SIDE, len(content)), np.uint8)
        for i, (_, (y1, x1, y2, x2)) in enumerate(content):
            masks[y1:y2, x1:x2, i] = 1
        return masks, np.array([class_id for class_id, _ in content])
