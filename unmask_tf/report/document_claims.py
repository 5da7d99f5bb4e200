"""What README.md and FIDELITY.md say in numbers: the sentence, how to test it, and what is measured from our own rows.

Numbers in blocks between `<!-- NAME: begin -->` and `<!-- NAME: end -->` are generated: `BLOCKS` names the command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask_tf.data.images import MAX_PIXELS
from unmask_tf.data.near_duplicates import BITS, THRESHOLD
from unmask_tf.mrcnn.part_names import part_scores
from unmask_tf.places import WEIGHTS_FOLDER
from unmask_tf.report.adaptive_numbers import adaptive_numbers
from unmask_tf.report.cells import CLASS_SETS
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.soundness import unsound
from unmask_tf.report.statistics import means
from unmask_tf.report.study import by_preset, preset_accuracies
from unmask_tf.report.table import MISSING, Table, number
from unmask_tf.taxonomy import UNMASK

BLOCKS = {
    ("README.md", "summary"): "make report ROWS=results/reference",
    ("FIDELITY.md", "study"): "make tables ROWS=results/reference",
    ("FIDELITY.md", "study photos"): "make tables ROWS=results/reference PROFILE=photos",
}
"""(document, block) -> the command that makes its numbers; a test compares them."""

_HOLDS: dict[str, Callable[[float, float, float], bool]] = {
    "=": lambda value, expected, tolerance: abs(value - expected) <= tolerance,
    "≤": lambda value, expected, tolerance: value <= expected + tolerance,
    "≥": lambda value, expected, tolerance: value >= expected - tolerance,
}


@dataclass(frozen=True)
class Said:
    """A sentence with numbers.

    Attributes:
        document: where it stands.
        text: an excerpt that has the numbers, word for word.
        command: what makes them anew.
        data: on which data.
        expected: the numbers.
        measure: of the folder of reference results: the same numbers measured; None: they take the command, `minutes`.
        relation: of what is measured to what is expected: `=`, `≤` or `≥`.
        tolerance: how far it may be off; half of the last printed digit, except where stated.
        minutes: what the command takes on two cores.
    """

    document: str
    text: str
    command: str
    data: str
    expected: tuple[float, ...]
    measure: Callable[[Path], Sequence[float]] | None = None
    relation: str = "="
    tolerance: float = 1e-9
    minutes: str = "under 1"

    def holds(self, values: Sequence[float]) -> bool:
        """Whether measured numbers are the expected ones."""
        test = _HOLDS[self.relation]
        return len(values) == len(self.expected) and all(
            test(value, wanted, self.tolerance) for value, wanted in zip(values, self.expected, strict=True)
        )


def _disagreement(folder: Path) -> list[float]:
    """Images by which PGD-Linf and MIA-Linf differ at most, under the presets that are not as released."""
    row_sets = Results(folder / "mini").need("study")
    images = max(r.n for r in row_sets)
    found = [study for preset, study in preset_accuracies(row_sets).items() if preset != "released"]
    pairs = [(of.xs("pgd_linf", level="attack"), of.xs("mia_linf", level="attack")) for of in found]
    return [images * max(float((pgd - mia).abs().max()) for pgd, mia in pairs), images]


def _photos_pgd(folder: Path) -> list[float]:
    released = preset_accuracies(Results(folder / "photos").need("study"))["released"]
    paper = read_published().accuracy
    ours = [released.xs(("pgd_linf", epsilon), level=("attack", "epsilon_255")).item() for epsilon in (8, 16)]
    return [*ours, *(paper["resnet50", "cs3a", "pgd_linf", epsilon, "none"] for epsilon in (8, 16))]


def _photos_strong(folder: Path) -> list[float]:
    under = by_preset(Results(folder / "photos").need("study"))["strong"]
    attacked = [r for r in under if r.header.attack != "none"]
    return [max(r.accuracy for r in attacked), len(unsound(under))]


def _paper_pgd(_: Path) -> list[float]:
    none = read_published().accuracy.xs(("cs3a", "none"), level=("class_set", "defence"))
    pgd, mia = (none.xs(name, level="attack") for name in ("pgd_linf", "mia_linf"))
    return [pgd.min(), pgd.max(), mia.max()]


def _written_path(folder: Path) -> list[float]:
    """Steps and budgets of the attacks as written, in L2, in 1/255."""
    found = [r.header for r in Results(folder / "mini").need("study") if r.header.attack == "pgd_l2"]
    written = [h for h in found if h.threat["preset"] == "written"]
    (path,) = {round(255 * h.threat["step"] * h.threat["iterations"], 6) for h in written}
    return [path, *sorted({h.epsilon_255 for h in written})]


def _gaps(_: Path) -> list[float]:
    paper = read_published()
    ours, printed = means(paper.accuracy), paper.headline
    return [ours["um - at"], printed["um_minus_at_points"], ours["um - none"], printed["um_minus_none_points"]]


def _false_positives(folder: Path) -> list[float]:
    found = [r.header.threshold for p in ("mini", "photos") for r in Results(folder / p).grid if r.header.threshold]
    return [100 * max(threshold["fpr_measured"] for threshold in found)]


def _knowing(folder: Path) -> list[float]:
    numbers = adaptive_numbers(Results(folder / "mini").need("adaptive"))
    at = numbers[(numbers["attack"] == "joint_linf") & (numbers["epsilon_255"] >= 8)]
    return [at["success_5"].min()]


def _asked(_: Path) -> list[float]:
    scores = part_scores(WEIGHTS_FOLDER / "unmask_k_photos.h5")
    return [scores["beak"], scores["leg"]]


SAID = (
    Said("README.md", "`make reproduce` takes about 9 minutes", "make reproduce", "embedded", (9,), minutes="9"),
    Said("README.md", "`make test` about 15", "make test", "made by the tests", (15,), minutes="15"),
    Said("README.md", "8 GB of disk", "make setup", "none", (8,), minutes="6"),
    Said("README.md", "AUC, TPR at 9.66, 5 and 1 % FPR", "make compare", "the paper's",
         (9.66,), lambda _: [100 * read_published().operating_point["fpr"]]),
    Said("README.md", "differ in at most 50 of 256 bits", "make near-duplicates", "any",
         (50, 256), lambda _: [THRESHOLD, BITS]),
    Said("README.md", "bitmaps of up to 67 megapixels", "make inspect", "any",
         (67,), lambda _: [MAX_PIXELS / 1e6], tolerance=0.5),
    Said("README.md", "`make adaptive` gives that up, and little of the defence remains",
         "make adaptive ARCHITECTURES=resnet50", "embedded, CS3a", (0.95,), _knowing, "≥", minutes="not measured"),
    *(
        Said("README.md", text, "make bench-full PROFILE=paper", "the paper's numbers of images", numbers,
             minutes="not measured")
        for text, numbers in {
            "benign training of M | 8 | 1.26 million images": (8, 1.26),
            "adversarial training of M, by two recipes | 16 | 20.2 million gradients": (16, 20.2),
            "attacks | 192 | 7.8 million gradients": (192, 7.8),
            "K's training, unless K_WEIGHTS are given | 1 | 0.30 million images": (1, 0.30),
            "K's parts, benign and attacked | 472 | 0.22 million images": (472, 0.22),
        }.items()
    ),
    Said("FIDELITY.md", "overlap 6.90 / 50.00 / 23.53 / 29.41 %", "make tables ROWS=results/reference", "Table I",
         (6.90, 50.00, 23.53, 29.41), lambda _: [UNMASK.overlap(name) for name in CLASS_SETS], tolerance=0.005),
    Said("FIDELITY.md", "the paper prints 6.89", "make compare", "the paper's",
         (6.89,), lambda _: [read_published().table2["cs3a"]["overlap_percent"]]),
    Said("FIDELITY.md", "flags at most 5 % of the benign validation images", "make reproduce", "embedded; photographs",
         (5,), _false_positives, "≤", minutes="9"),
    Said("FIDELITY.md", "31.78 points when recomputed from the printed Table IV (31.18 in the text), and between UM "
         "and None 74.50 (74.44)", "make compare", "the paper's",
         (31.78, 31.18, 74.50, 74.44), _gaps, tolerance=0.005),
    Said("FIDELITY.md", "sixteen times the diameter of the larger L∞ ball (2 x 16/255)", "make claims", "none",
         (16,), lambda _: [2.0 / (2 * 16 / 255)], tolerance=0.1),
    Said("FIDELITY.md", "PGD-L∞ leaves M an accuracy of .22 to .31", "make compare", "the paper's",
         (0.22, 0.31, 0), _paper_pgd, tolerance=0.005),
    Said("FIDELITY.md", "PGD-L∞ and MIA-L∞ agree here to within one image of 72", "make study", "embedded, CS3a",
         (1, 72), _disagreement, "≤", minutes="not measured"),
    Said("FIDELITY.md", "travel at most an L2 distance of 40/255, of a budget of 300/255 or 600/255", "make study",
         "embedded, CS3a", (40, 300, 600), _written_path, minutes="not measured"),
    Said("FIDELITY.md", "PGD-L∞ as released leaves M .38 and .25 (the paper's Table IV prints .31 and .22",
         "make study PROFILE=photos DATA=photos LIMIT=60", "photographs, an earlier set",
         (0.38, 0.25, 0.31, 0.22), _photos_pgd, tolerance=0.005, minutes="not measured"),
    Said("FIDELITY.md", "every attack of preset `strong` leaves it nothing and passes every check",
         "make study PROFILE=photos DATA=photos LIMIT=60", "photographs, an earlier set",
         (0, 0), _photos_strong, minutes="not measured"),
    Said("FIDELITY.md", "polygons on request, with an overlap above .99",
         'UNMASK_PHOTOS=voc_photos make test EXTRA="-m photos -k genuine_masks"', "PASCAL-Part", (0.99,), relation="≥"),
    Said("FIDELITY.md", "the shipped file asks .05 of a beak and .9 of a leg",
         "make release-k PROFILE=photos DATA=voc_photos", "photographs", (0.05, 0.9), _asked, minutes="not measured"),
)  # fmt: skip


def check(folder: Path, documents: Path, said: Sequence[Said] = SAID) -> tuple[Table, list[str]]:
    """Measures what the documents say.

    Args:
        folder: of our own runs' results.
        documents: where the documents lie.
        said: the sentences.

    Returns:
        A table with a row a sentence; and a line for each that its document does not have, or whose numbers are others.

    Raises:
        InputError: rows are missing or damaged.
    """
    rows, missed = [], []
    for one in said:
        text = " ".join((documents / one.document).read_text(encoding="utf-8").split())
        if one.text not in text:
            missed.append(f"{one.document} does not say: {one.text}")
        values = None if one.measure is None else [float(value) for value in one.measure(folder)]
        measured = MISSING if values is None else ", ".join(map(_shown, values))
        if values is not None and not one.holds(values):
            missed.append(f"{one.document}: {one.text}: {measured} measured; expected: {_expected(one)}")
        says = one.text.replace("|", "\\|")
        command = f"`{one.command}`"
        rows.append([one.document, says, command, one.data, one.minutes, _expected(one), measured])
    head = ["Document", "It says", "Command", "Data", "Minutes on 2 cores", "Expected", "Measured by `make claims`"]
    return Table("documents", "", head, rows), missed


def _shown(value: float) -> str:
    return f"{value:g}" if abs(value) >= 1 and float(value).is_integer() else number(value, 3).rstrip("0").rstrip(".")


def _expected(one: Said) -> str:
    off = f" ± {one.tolerance:g}" if one.tolerance > 1e-6 else ""
    return f"{'' if one.relation == '=' else one.relation + ' '}{', '.join(map(_shown, one.expected))}{off}"
