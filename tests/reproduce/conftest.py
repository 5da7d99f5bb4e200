"""Fabricated records: numbers made up from a seed, to show tables and figures without a run."""

import zlib

import numpy as np
import pytest

from unmask_tf.config import AttackConfig
from unmask_tf.defense.alignment import detection_pairs
from unmask_tf.reproduce.published import read_published
from unmask_tf.reproduce.records import CellKey, Record

ACCURACY = {
    "none": {"none": 0.96, "pgd_linf": 0.25, "pgd_l2": 0.02, "mia_linf": 0.0, "mia_l2": 0.01},
    "at": {"none": 0.92, "pgd_linf": 0.5, "pgd_l2": 0.7, "mia_linf": 0.15, "mia_l2": 0.7},
    "um": {"none": 0.93, "pgd_linf": 0.75, "pgd_l2": 0.88, "mia_linf": 0.72, "mia_l2": 0.88},
}


def fabricate(
    class_sets=("cs3a", "cs3b", "cs5a", "cs5b"),
    models=("resnet50", "densenet121"),
    profile="mini",
    n=120,
    config_hash="0123456789ab",
    checks=None,
):
    """Records of a whole grid; `checks` maps (class_set, model, defence, attack, epsilon) to a failing check's name."""
    records = []
    for class_set in class_sets:
        for model in models:
            for attack, epsilon in (("none", 0), *AttackConfig().cells()):
                for defence, level in ACCURACY.items():
                    key = CellKey(profile, class_set, model, defence, attack, epsilon)
                    rng = np.random.default_rng(zlib.crc32(key.file_name.encode()))
                    correct = int(np.clip(round(n * (level[attack] + 0.03 * rng.standard_normal())), 0, n))
                    scored = {}
                    if defence == "um" and attack != "none":
                        # Jaccard distances are few distinct ratios, so ties abound.
                        far, near = (np.round(rng.beta(a, b, n) * 14) / 14 for a, b in ((6, 1.2), (1.6, 5)))
                        scores, labels = detection_pairs(far, near, rng.integers(0, 3, n), np.zeros(n, int))
                        scored = {
                            "similarities": 1 - far,
                            "detection_scores": scores,
                            "detection_labels": labels,
                        }
                    failing = (checks or {}).get((class_set, model, defence, attack, epsilon))
                    records.append(
                        Record(
                            key=key,
                            config_hash=config_hash,
                            n=n,
                            correct=correct,
                            seeds={"attack": 7},
                            versions={"keras": "3.15.0"},
                            wall_s=1.5,
                            checks={"budget": True, **({failing: False} if failing else {})},
                            **scored,
                        )
                    )
    return sorted(records, key=lambda record: record.key.order)


@pytest.fixture
def published():
    return read_published()


@pytest.fixture
def make_records():
    return fabricate
