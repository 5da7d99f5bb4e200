"""The paper's numbers, in the form of our own tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from unmask_tf.errors import InputError
from unmask_tf.files import read_json
from unmask_tf.reproduce.cells import AUC_COLUMNS, TABLE4_COLUMNS, frame_of

DEFAULT_PATH = Path(__file__).parents[2] / "results" / "published.json"


@dataclass(frozen=True, eq=False)
class Published:
    """The paper's numbers (results/published.json).

    Attributes:
        table2: class set -> classes, parts, overlap_percent and image counts.
        table3: class set -> attack -> images evaluated for detection (epsilon 16 or 600).
        table4: frame of `TABLE4_COLUMNS`; n is the class set's number of test images.
        auc: frame of `AUC_COLUMNS`; n is not published (NaN).
        operating_point: class_set, attack, epsilon_255, tpr, fpr.
        headline: um_minus_at_points and um_minus_none_points as the text prints them; its Table IV gives others.
        map: K's mean average precision.
        searched_epsilons, selected_epsilon: adversarial training's budgets in its line search, units of 1/255, and the
            one used for all class sets.
    """

    table2: Mapping[str, Mapping[str, Any]]
    table3: Mapping[str, Mapping[str, int]]
    table4: pd.DataFrame
    auc: pd.DataFrame
    operating_point: Mapping[str, Any]
    headline: Mapping[str, Any]
    map: float
    searched_epsilons: tuple[float, ...]
    selected_epsilon: float


def read_published(path: str | Path | None = None) -> Published:
    """Reads the paper's numbers.

    Args:
        path: published.json; None: the one in the repository's results/.

    Raises:
        InputError: the file is missing or is not of that form.
    """
    path = Path(path) if path is not None else DEFAULT_PATH
    content = read_json(path)
    try:
        table2 = content["table2"]["m"]
        rows = [
            {**{"attack": "none", "epsilon_255": 0}, **row, **row["accuracy"]}
            for row in content["table4"]["benign"] + content["table4"]["attacked"]
        ]
        for row in rows:
            row["n"] = table2[row["class_set"]]["flickr_test"]
        detection = content["detection"]
        aucs = [
            {"model": "densenet121", "class_set": "cs3a", "n": float("nan"), **row}
            for row in detection["auc_cs3a_densenet121"]
        ]
        return Published(
            table2=table2,
            table3={k: v for k, v in content["table3_images_evaluated_for_detection"].items() if k != "note"},
            table4=frame_of(rows, TABLE4_COLUMNS),
            auc=frame_of(aucs, AUC_COLUMNS),
            operating_point=detection["operating_point"],
            headline=content["headline"],
            map=content["model_k"]["map"],
            searched_epsilons=tuple(content["adversarial_training"]["epsilon_line_search_255"]),
            selected_epsilon=content["adversarial_training"]["selected_epsilon_255"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} lacks a number of the paper ({error!r}). Restore it from the repository.") from error
