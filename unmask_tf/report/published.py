"""The paper's numbers, in the form of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from unmask_tf.errors import InputError
from unmask_tf.files import read_json
from unmask_tf.report.statistics import number_frame

DEFAULT_PATH = Path(__file__).parents[2] / "results" / "published.json"


@dataclass(frozen=True, eq=False)
class Published:
    """The paper's numbers (results/published.json).

    Attributes:
        numbers: Table IV, the AUCs and K's mAP, as `statistics.NUMBERS`.
        table2: class set -> classes, parts, overlap_percent and image counts.
        table3: class set -> attack -> images evaluated for detection (epsilon 16 or 600).
        operating_point: class_set, attack, epsilon_255, tpr, fpr.
        headline: um_minus_at_points and um_minus_none_points as the text prints them; its Table IV gives others.
        map: K's mean average precision.
        searched_epsilons, selected_epsilon: adversarial training's budgets in its line search, units of 1/255, and the
            one used for all class sets.
    """

    numbers: pd.DataFrame
    table2: Mapping[str, Mapping[str, Any]]
    table3: Mapping[str, Mapping[str, int]]
    operating_point: Mapping[str, Any]
    headline: Mapping[str, Any]
    map: float
    searched_epsilons: tuple[float, ...]
    selected_epsilon: float


@cache
def read_published(path: Path = DEFAULT_PATH) -> Published:
    """Reads the paper's numbers.

    Raises:
        InputError: the file is missing or is not of that form.
    """
    content = read_json(path)
    try:
        table2, detection = content["table2"]["m"], content["detection"]
        table4 = [{"attack": "none", "epsilon_255": 0, **row} for row in content["table4"]["benign"]]
        rows = [
            {**row, "kind": "accuracy", "defence": d, "n": table2[row["class_set"]]["flickr_test"], "value": value}
            for row in table4 + content["table4"]["attacked"]
            for d, value in row["accuracy"].items()
        ]
        at = {"kind": "auc", "model": "densenet121", "class_set": "cs3a", "defence": "um", "n": float("nan")}
        rows += [{**at, **row, "value": row["auc"]} for row in detection["auc_cs3a_densenet121"]]
        # The paper names no IoU threshold; Matterport's mAP, which it used, is taken at 0.5.
        rows.append({"kind": "map50", "value": content["model_k"]["map"]})
        return Published(
            numbers=number_frame(rows),
            table2=table2,
            table3={k: v for k, v in content["table3_images_evaluated_for_detection"].items() if k != "note"},
            operating_point=detection["operating_point"],
            headline=content["headline"],
            map=content["model_k"]["map"],
            searched_epsilons=tuple(content["adversarial_training"]["epsilon_line_search_255"]),
            selected_epsilon=content["adversarial_training"]["selected_epsilon_255"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} lacks a number of the paper ({error!r}). Restore it from the repository.") from error
