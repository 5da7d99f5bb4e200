"""Figure 1: the idea of UnMask on a real case of the run."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from unmask_tf.report.drawing import panels, styled


@styled
def figure1(case: Mapping[str, Any]) -> Figure:
    """Figure 1, from a case of the gallery: the image, what the attack added, what K sees, and the alignment."""
    figure, grid = panels(1, 4, 11.5, 3.3, share=False)
    added = f"What the attack added, x{case['gain']:.0f}"
    attacked = f"Attacked: M says {case['model_answer']}"
    titles = {"clean": f"Clean: a {case['true']}", "added": added, "attacked": attacked}
    for axis, (name, title) in zip(grid[0], titles.items(), strict=False):
        axis.imshow(_decoded(case[name]), interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(title)
    expected, axis = set(case["expected"]), grid[0, 2]
    for part, _, boxes in case["parts"]:
        y1, x1, y2, x2 = boxes[0]
        line = ("#56B4E9", "-") if part in expected else ("#E69F00", "--")
        style = {"fill": False, "edgecolor": line[0], "linestyle": line[1], "linewidth": 1.5}
        axis.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, **style))
        text = axis.text(x1, y1, part, fontsize=6, color="black", va="bottom", clip_on=True)
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
    axis, similarities = grid[0, 3], case["similarities"]
    told = {case["model_answer"]: "what M says", case["answer"]: "UnMask's answer"}
    colours = ["#0072B2" if name == case["answer"] else "#999999" for name in similarities]
    axis.barh(list(similarities), list(similarities.values()), color=colours)
    for i, (name, value) in enumerate(similarities.items()):
        axis.text(value + 0.02, i, f"{value:.2f} {told.get(name, '')}", va="center", fontsize=8)
    axis.set(xlim=(0, 1.5), xticks=(0, 0.5, 1), title="Similarity of the seen parts\nwith each class's")
    axis.invert_yaxis()
    seen = {part for part, *_ in case["parts"]}
    lines = [
        f"K sees: {', '.join(sorted(seen))}",
        f"a {case['model_answer']} should show: {', '.join(sorted(expected))}",
    ]
    figure.supxlabel("\n".join("\n".join(textwrap.wrap(line, 150)) for line in lines), fontsize=8, x=0.01, ha="left")
    return figure


def _decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def first_case(gallery: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """For Figure 1: an attack that fools M, and that the parts give away most clearly; None where there is none."""
    fitting = [c for c in gallery if "attacked" in c and c["true"] == c["answer"] != c["model_answer"]]
    return max(fitting, key=lambda c: (c["score"], c["similarities"][c["answer"]], c["image"]), default=None)
