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
from unmask_tf.places import PUBLISHED
from unmask_tf.report.statistics import series


@dataclass(frozen=True, eq=False)
class Published:
    """The paper's numbers (results/published.json).

    Attributes:
        accuracy, auc: Table IV and the AUCs, as in `statistics`.
        table2: class set -> classes, parts, overlap_percent and image counts.
        table3: class set -> attack -> images evaluated for detection (epsilon 16 or 600).
        operating_point: class_set, attack, epsilon_255, tpr, fpr.
        headline: um_minus_at_points and um_minus_none_points as the text prints them; its Table IV gives others.
        map: K's mean average precision.
        searched_epsilons, selected_epsilon: adversarial training's budgets in its line search, units of 1/255, and the
            one used for all class sets.
    """

    accuracy: pd.Series
    auc: pd.Series
    table2: Mapping[str, Mapping[str, Any]]
    table3: Mapping[str, Mapping[str, int]]
    operating_point: Mapping[str, Any]
    headline: Mapping[str, Any]
    map: float
    searched_epsilons: tuple[float, ...]
    selected_epsilon: float


@cache
def read_published(path: Path = PUBLISHED) -> Published:
    """Reads the paper's numbers.

    Raises:
        InputError: the file is missing or is not of that form.
    """
    content = read_json(path)
    try:
        table4, detection = content["table4"]["benign"] + content["table4"]["attacked"], content["detection"]
        return Published(
            accuracy=series(
                {
                    (r["model"], r["class_set"], r.get("attack", "none"), r.get("epsilon_255", 0), defence): value
                    for r in table4
                    for defence, value in r["accuracy"].items()
                }
            ),
            auc=series(
                {
                    ("densenet121", "cs3a", r["attack"], r["epsilon_255"], "um"): r["auc"]
                    for r in detection["auc_cs3a_densenet121"]
                }
            ),
            table2=content["table2"]["m"],
            table3=content["table3_images_evaluated_for_detection"],
            operating_point=detection["operating_point"],
            headline=content["headline"],
            map=content["model_k"]["map"],
            searched_epsilons=tuple(content["adversarial_training"]["epsilon_line_search_255"]),
            selected_epsilon=content["adversarial_training"]["selected_epsilon_255"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} lacks a number of the paper ({error!r}). Restore it from the repository.") from error
