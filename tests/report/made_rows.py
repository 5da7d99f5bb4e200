"""Row sets with made-up numbers: by hand, or a whole grid from a seed."""

import zlib

import numpy as np

from unmask_tf.experiment.rows import Header, RowSet, frame, write_bundle
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.taxonomy import UNMASK

ATTACKS = [
    (f"{family}_{norm}", e)
    for family in ("pgd", "mia")
    for norm, es in (("linf", (8, 16)), ("l2", (300, 600)))
    for e in es
]
SOUND = {"deterministic": True, "step_shorter_than_budget": True}
_ACCURACY = {
    "none": {"none": 0.96, "pgd_linf": 0.25, "pgd_l2": 0.02, "mia_linf": 0.0, "mia_l2": 0.01},
    "at": {"none": 0.92, "pgd_linf": 0.5, "pgd_l2": 0.7, "mia_linf": 0.15, "mia_l2": 0.7},
    "um": {"none": 0.93, "pgd_linf": 0.75, "pgd_l2": 0.88, "mia_linf": 0.72, "mia_l2": 0.88},
}


def row_set(
    defence="none", attack="none", epsilon=0, right=8, n=10, *, model="resnet50", class_set="cs3a", m_right=None, **more
):
    """A row set whose first `right` images are answered rightly, and the first `m_right` (default: as many) by M.

    `scores`, `flagged`, `parts` are columns; the rest of `more` are fields of the header.
    """
    members = UNMASK.class_sets.get(class_set, ("cat", "cow"))
    classes = {name: list(UNMASK.classes[name]) for name in members}
    true, false = members[0], members[1]
    columns = {name: more.pop(name, None) for name in ("scores", "flagged", "parts")}
    answers = [true] * right + [false] * (n - right)
    model_answers = answers if m_right is None else [true] * m_right + [false] * (n - m_right)
    images = [f"test/{true}/{i:03d}.png" for i in range(n)]
    rows = frame(
        images, [true] * n, answers, model_answers, None, columns["scores"], columns["flagged"], columns["parts"]
    )
    benign = attack == "none"
    fields = {
        "key": repr((defence, attack, epsilon, model, class_set, sorted(map(str, more.items())))),
        "data": "mini",
        "split": "test",
        "threat": {} if benign else {"preset": "released", "iterations": 20, "iterations_asked": 20},
        "checks": {} if benign else SOUND,
        "training": {"recipe": "released" if defence == "at" else "none", "epochs": 3, "stopped": "no_gain"},
        "versions": {"keras": "3.15.0"},
        **more,
    }
    cell = {"class_set": class_set, "model": model, "attack": attack, "epsilon_255": epsilon}
    return RowSet(Header(classes=classes, defence=defence, **cell, **fields), rows)


def grid(class_sets=("cs3a",), models=("resnet50", "densenet121"), n=60, defences=_ACCURACY, checks=None):
    """A whole grid; `checks` maps (class_set, model, defence, attack, epsilon) to the check that the attack failed."""
    made = []
    for class_set in class_sets:
        for model in models:
            for attack, epsilon in (("none", 0), *ATTACKS):
                for defence in defences:
                    key = (class_set, model, defence, attack, epsilon)
                    level = _ACCURACY.get(defence, _ACCURACY["um"])[attack]
                    rng = np.random.default_rng(zlib.crc32(repr(key).encode()))
                    right, m_right = (
                        int(np.clip(round(n * (level + noise)), 0, n)) if level else 0
                        for level, noise in ((level, 0.02 * rng.standard_normal()), (_ACCURACY["none"][attack], 0))
                    )
                    scored = {}
                    if defence not in ("none", "at"):
                        # Jaccard distances are few distinct ratios, so ties abound.
                        shape = (1.6, 5) if attack == "none" else (6, 1.2)
                        scored = {"scores": np.round(rng.beta(*shape, n) * 14) / 14, "m_right": m_right}
                    failing = {"checks": {**SOUND, checks[key]: False}} if key in (checks or {}) else {}
                    made.append(
                        row_set(
                            defence, attack, epsilon, right, n, model=model, class_set=class_set, **scored, **failing
                        )
                    )
    return made


def training(epsilon, rights, model="resnet50", class_set="cs3a", n=10, recipe="released", vectors=None, **more):
    """The line search's row sets of one training: benign, then under PGD-Linf 8, 16 and MIA-L2 300."""
    vectors = vectors or (("none", 0), ("pgd_linf", 8), ("pgd_linf", 16), ("mia_l2", 300))
    trained = {"recipe": recipe, "epsilon_255": epsilon, "step": 2.0, "iterations": 7, "epochs": 1}
    return [
        row_set("at", *vector, right, n, model=model, class_set=class_set, split="val", training=trained, **more)
        for vector, right in zip(vectors, rights, strict=True)
    ]


def search(class_sets=("cs3a",), models=("resnet50", "densenet121"), epsilons=(1, 2, 4, 6, 8, 16), **more):
    """A whole line search; accuracy under attack peaks near an epsilon of 4."""
    made = []
    for class_set in class_sets:
        for model in models:
            for epsilon in epsilons:
                peak = np.exp(-(np.log2(epsilon / 4) ** 2) / 4)
                rights = [round(60 * (0.97 - 0.02 * epsilon)), *(round(60 * peak * f) for f in (0.5, 0.3, 0.7))]
                made += training(epsilon, rights, model, class_set, 60, **more)
    return made


def write(folder, **bundles):
    """Writes bundles into `folder/rows` and returns the folder."""
    for name, row_sets in bundles.items():
        write_bundle(folder / "rows", name, row_sets)
    return folder


def results(row_sets, name="mini", **bundles):
    """The results of a grid, and of other bundles, that lies in no folder."""
    return Results(name, {"grid": row_sets, **bundles})


def published_rows(data="paper", n=1000):
    """Row sets with exactly the paper's accuracies and, where it prints them, AUCs.

    Each benign score is 0.5. Where every attack succeeds, the AUC is the share of attacked scores above it.
    """
    made = []
    for (model, class_set, attack, epsilon, defence), accuracy in read_published().accuracy.items():
        scores = None
        if defence == "um":
            area = read_published().auc.get((model, class_set, attack, epsilon, defence), 0.9)
            above = n if attack == "none" else round(n * area)
            scores = [0.5 if attack == "none" else 0.75] * above + [0.25] * (n - above)
        cell = {"model": model, "class_set": class_set, "data": data, "scores": scores}
        fooled = {} if attack == "none" or defence != "um" else {"m_right": 0}
        made.append(row_set(defence, attack, epsilon, round(accuracy * n), n, **cell, **fooled))
    return made


def case(key, score=0.9, model_answer="person", answer="car", attacked=True, true="car", **more):
    """A case of the gallery, of a grey image; `key` is that of its row set."""
    pixel = "data:image/gif;base64,R0lGODlhAQABAIAAAICAgAAAACwAAAAAAQABAAACAkQBADs="
    images = {"attacked": pixel, "added": pixel, "gain": 8.0} if attacked else {}
    return {
        **{"key": key, "class_set": "cs3a", "model": "resnet50", "image": "a.png", "true": true, "score": score},
        **{
            "attack": "pgd_linf" if attacked else "none",
            "epsilon_255": 8 if attacked else 0,
            "clean": pixel,
            "size": 64,
        },
        **{"model_answer": model_answer, "answer": answer, "expected": ["arm", "head"], **images},
        "similarities": {"car": 0.5, "person": 0.25, "train": 0.0},
        "parts": [["wheel", 0.9, [[1, 2, 30, 40]]], ["head", 0.4, [[5, 5, 9, 9]]]],
        **more,
    }
