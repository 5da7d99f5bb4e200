"""K's evaluation writes the scores, and how many instances of each part they rest on."""

from types import SimpleNamespace

import pytest
from PIL import Image

from unmask_tf.data.part_instances import PartImage, PartInstance, write_part_instances
from unmask_tf.experiment.kinds import evaluate_k
from unmask_tf.files import read_json
from unmask_tf.mrcnn.config import Config
from unmask_tf.taxonomy import Taxonomy


@pytest.mark.parametrize(("limit", "instances"), [(None, {"wheel": 3, "door": 1}), (1, {"wheel": 2})])
def test_the_instances_of_the_evaluated_images_are_counted_part_by_part(tmp_path, monkeypatch, limit, instances):
    images = []
    for i, parts in enumerate((["wheel", "wheel"], ["wheel", "door"])):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
        images.append(PartImage(tmp_path / f"{i}.png", 8, 8, tuple(PartInstance(p, (1, 1, 5, 5)) for p in parts)))
    write_part_instances(tmp_path / "parts.json", images, Taxonomy(("wheel", "door"), {}, {}))
    scores = {"map50": 0.5, "map": float("nan"), "n_images": limit or 2}
    monkeypatch.setattr("unmask_tf.mrcnn.evaluate.evaluate_parts", lambda *_, **__: scores)
    evaluate_k.run(
        evaluate_k.Settings(config=Config().to_dict(), parts=("wheel", "door"), limit=limit),
        {
            "weights": tmp_path / "k.h5",
            "annotations": tmp_path / "parts.json",
            "images": SimpleNamespace(root=tmp_path),
        },
        tmp_path / "out.json",
        SimpleNamespace(input_keys={"weights": "abc"}, progress=None),
    )
    assert read_json(tmp_path / "out.json") == {
        "map50": 0.5,
        "map": None,
        "n_images": limit or 2,
        "instances": instances,
        "weights_sha256": "abc",
    }
