"""Figures 2 to 5: deterministic bytes, readable content, nothing but rows needed."""

import struct

import matplotlib
import numpy as np
import pytest
from made_rows import case, grid, published_rows, results, row_set, search, training, write
from scipy import stats

from unmask_tf.errors import InputError
from unmask_tf.report.drawing import save
from unmask_tf.report.figure1 import figure1, first_case
from unmask_tf.report.figures import (
    figure2,
    figure3,
    figure4,
    figure5,
    figure_classes,
    figure_overlap,
    write_figures,
)
from unmask_tf.report.line_search import searches
from unmask_tf.report.overlap import our_overlap
from unmask_tf.report.per_class import confusions
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import (
    accuracies,
    class_set_intervals,
    class_set_means,
    detections,
    mean_intervals,
    means,
)


def chunks(png: bytes) -> set[bytes]:
    names, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        names.append(png[at + 4 : at + 8])
        at += 12 + length
    return set(names)


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_figures_made_twice_have_the_same_bytes_and_leave_the_user_s_style_alone(tmp_path):
    row_sets, points = grid(("cs3a", "cs5b"), ("resnet50",), 12), search(models=("resnet50",), epsilons=(1, 4))
    first = write_figures(Results(write(tmp_path / "a", grid=row_sets, line_search_released=points)))
    # A user's own style must not show.
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        second = write_figures(Results(write(tmp_path / "b", grid=row_sets[::-1], line_search_released=points[::-1])))
        assert dict(matplotlib.rcParams) == before
    names = ["figure2", "figure3", "figure4", "figure5", "figure_classes", "figure_overlap"]
    assert [path.name for path in first] == [f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
        # Neither text (version, time) nor time chunks.
        if a.suffix == ".png":
            assert chunks(a.read_bytes()) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
        else:
            assert a.read_bytes().startswith(b"%PDF") and b"CreationDate" not in a.read_bytes()


def test_figure_4_has_the_means_as_bars_and_the_paper_s_as_ticks():
    row_sets = grid(("cs3b", "zoo"), n=20, defences=("none", "at", "um", "jpeg"))
    axis, ours = figure4(accuracies(row_sets)).axes[0], class_set_means(accuracies(row_sets))
    heights = [[bar.get_height() for bar in container] for container in axis.containers]
    assert heights == [ours[defence].tolist() for defence in ("none", "at", "um", "jpeg")]
    ticks = [line[0][1] for lines in axis.collections for line in lines.get_segments() if len(line)]
    assert [t for t in ticks if not np.isnan(t)] == class_set_means(read_published().accuracy).loc["cs3b"].tolist()
    assert [text.get_text() for text in axis.get_xticklabels()] == ["CS3b", "zoo"]
    assert legend(axis) == ["None", "AT", "UM", "jpeg", "paper"]
    assert legend(figure4(accuracies(grid(("zoo",), n=20))).axes[0]) == ["None", "AT", "UM"]


def test_figure_4_has_intervals_of_images_that_count_alike_in_all_their_cells():
    n = 100
    one = [row_set("um", "pgd_linf", 8, 70, n), row_set("none", "pgd_linf", 8, 0, n)]
    found = class_set_intervals(one)
    expected = stats.binom.ppf([0.025, 0.975], n, 0.7)
    assert found["cs3a", "um"] == pytest.approx(expected, abs=1.1) and found["cs3a", "none"] == (0, 0)
    # The same images again, with another M: no new images, so nothing gets surer.
    assert class_set_intervals([*one, row_set("um", "pgd_linf", 8, 70, n, model="densenet121")]) == found
    # 70 and 30 right: the mean of an image is 1, 1/2 or 0.
    mixed = class_set_intervals([*one, row_set("um", "mia_linf", 8, 30, n)])["cs3a", "um"]
    spread = np.std([100] * 30 + [50] * 40 + [0] * 30) / np.sqrt(n)
    assert mixed == pytest.approx((50 - 1.96 * spread, 50 + 1.96 * spread), abs=2)
    axis = figure4(accuracies(one), found).axes[0]
    drawn = [line[:, 1].tolist() for lines in axis.collections for line in lines.get_segments() if len(line)]
    assert list(found["cs3a", "um"]) in drawn and legend(axis)[-1] == "95 % interval"


def test_means_have_intervals_and_a_difference_that_of_the_same_images():
    n = 100
    # The 20 images that AT answers rightly are among UM's 70: their difference varies like a share of 50.
    sets = [row_set("um", "pgd_linf", 8, 70, n), row_set("at", "pgd_linf", 8, 20, n), row_set("um", "none", 0, 90, n)]
    found, estimates = mean_intervals(sets), means(accuracies(sets))
    assert set(found) == {name for name, value in estimates.items() if not np.isnan(value)} == {"at", "um", "um - at"}
    assert all(low < estimates[name] < high for name, (low, high) in found.items())
    expected = stats.binom.ppf([0.025, 0.975], n, 0.5)
    assert found["um - at"] == pytest.approx(expected, abs=1.1)
    # Two class sets are drawn independently, so the mean over both varies less.
    more = [*sets, row_set("um", "pgd_linf", 8, 70, n, class_set="cs5b")]
    (low, high), (l_one, h_one) = mean_intervals(more)["um"], found["um"]
    assert (high - low) / (h_one - l_one) == pytest.approx(1 / np.sqrt(2), abs=0.08)
    assert mean_intervals([row_set("um", "pgd_linf", 8, 1, 1)]) == class_set_intervals(sets[2:]) == {}


def test_the_paper_s_mean_is_over_the_cells_we_have():
    row_sets = [r for r in grid(n=20) if r.header.attack in ("none", "mia_linf")]
    ticks = [line[0][1] for lines in figure4(accuracies(row_sets)).axes[0].collections for line in lines.get_segments()]
    # Table IV, CS3a, MIA-Linf: UM .82 .68 (ResNet) and .83 .69 (DenseNet).
    assert ticks[2] == pytest.approx((82 + 68 + 83 + 69) / 4)


def test_figure_5_has_a_panel_per_attack_and_a_line_per_class_set_model_and_detector():
    row_sets = grid(("cs3a", "cs5b"), n=20, defences=("none", "um", "blur"))
    panels = [axis for axis in figure5(detections(row_sets)).axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == [
        *("PGD-L∞ ε=8", "PGD-L∞ ε=16", "PGD-L2 ε=300", "PGD-L2 ε=600"),
        *("MIA-L∞ ε=8", "MIA-L∞ ε=16", "MIA-L2 ε=300", "MIA-L2 ε=600"),
    ]
    for axis in panels:
        chance, *curves = axis.get_lines()
        assert chance.get_linestyle() == ":" and np.array_equal(chance.get_xydata(), [[0, 0], [1, 1]])
        assert len(curves) == len({(c.get_color(), c.get_linestyle(), c.get_linewidth()) for c in curves}) == 8
        for line in curves:
            data = line.get_xydata()
            assert data[0].tolist() == [0, 0] and data[-1].tolist() == [1, 1]


def test_figure_5_legends_tell_the_auc_and_the_paper_s_where_published():
    row_sets = grid(("cs3a", "cs5b"), n=20)
    area = {d.header.cell[:2]: f"{d.auc:.3f}" for d in detections(row_sets) if d.header.cell[2:] == ("mia_l2", 300)}
    assert sorted(legend(figure5(detections(row_sets)).axes[6])) == sorted(
        [
            f"CS3a ResNet50  {area['resnet50', 'cs3a']}",
            f"CS5b ResNet50  {area['resnet50', 'cs5b']}",
            f"CS3a DenseNet121  {area['densenet121', 'cs3a']} (0.969)",
            f"CS5b DenseNet121  {area['densenet121', 'cs5b']}",
        ]
    )


@pytest.mark.parametrize(
    "row_sets",
    [
        [row_set(), row_set("um")],
        [row_set("um", scores=[0] * 10), row_set("um", "pgd_linf", 8, 3, scores=[1] * 10, m_right=10)],
    ],
)
def test_a_run_with_next_to_nothing_is_drawn_without_a_warning(tmp_path, row_sets, recwarn):
    for path in write_figures(Results(write(tmp_path, grid=row_sets))):
        assert path.read_bytes().startswith((b"\x89PNG", b"%PDF"))
    assert not recwarn.list
    if len(detections(row_sets)):
        assert [text.get_text() for text in figure5(detections(row_sets)).axes[0].texts] == ["no successful attack"]


def test_figure_2_rings_the_choice_in_every_panel():
    (found,) = searches([*training(2, (10, 5, 3, 9)), *training(4, (8, 6, 4, 2))])
    panels = figure2(found).axes
    assert [axis.get_title() for axis in panels] == ["ResNet50: Benign", "ResNet50: PGD-L∞", "ResNet50: Mean of both"]
    for axis, values in zip(panels, ([100, 80], [40, 50], [70, 65]), strict=True):
        paper, line, ring = axis.get_lines()[:3]
        assert paper.get_label() == "the paper's choice" and list(paper.get_xdata()) == [1, 1]
        assert line.get_ydata() == pytest.approx(values)
        assert ring.get_xdata() == [1] and ring.get_ydata() == pytest.approx(values[1:])


def test_figure_3_puts_a_dot_over_the_best_bars_where_not_all_are_equal():
    (found,) = searches([*training(1, (9, 3, 0, 2)), *training(2, (9, 3, 0, 3))])
    axis = figure3(found).axes[0]
    assert [bar.get_height() for bar in axis.containers[1]] == pytest.approx([90, 30, 0, 30])
    dots = [
        line.get_ydata().tolist() for line in axis.get_lines() if line.get_marker() == "o" and len(line.get_xdata())
    ]
    assert dots == [[34.0]]
    assert axis.get_title() == "ResNet50 CS3a: chosen ε=2 (the paper: 4)"


def test_the_overlap_figure_has_a_marker_per_class_set_and_model_whose_corners_count_the_classes():
    row_sets = grid(("cs3a", "cs5a", "zoo"), n=20)
    found = our_overlap(row_sets)
    area, accuracy = figure_overlap(found).axes
    assert (area.get_ylabel(), accuracy.get_ylabel()) == ("AUC of the detection", "UM's accuracy under attack")
    for axis, measure in ((area, "auc"), (accuracy, "um")):
        drawn = [line for line in axis.get_lines() if len(line.get_xdata()) == 1]
        assert sorted(line.get_ydata()[0] for line in drawn) == sorted(found.values[measure][0])
        corners = [line.get_marker()[0] if isinstance(line.get_marker(), tuple) else 2 for line in drawn]
        assert sorted(corners) == [2, 2, 3, 3, 5, 5]
        assert [text.get_text() for text in axis.texts] == ["CS3a", "CS5a", "zoo"]


def test_the_confusions_are_shares_of_the_true_class():
    rows = [row_set("um", "pgd_linf", e, right, 4, scores=[0] * 4) for e, right in ((8, 4), (16, 2))]
    (axis,) = figure_classes(confusions(rows)).axes
    # Six of the eight answers to a car are right, the others are `person`; there is no person and no train.
    assert [text.get_text() for text in axis.texts] == ["75", "25", "0", *["0"] * 6]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["car", "person", "train"]


def test_a_folder_without_anything_to_draw_or_that_cannot_be_written_is_reported(tmp_path):
    with pytest.raises(InputError, match=f"make reproduce PROFILE={tmp_path.name}"):
        write_figures(Results(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*figure4\.png"):
        save(figure4(accuracies(grid(n=4))), tmp_path / "file", "figure4")


def test_figure_5_states_the_paper_s_aucs_where_ours_are_its_own():
    for axis in figure5(results(published_rows()).detections).axes:
        (told,) = [text for text in legend(axis) if "(" in text]
        ours, paper = told.removeprefix("CS3a DenseNet121  ").split(" ")
        assert f"({ours})" == paper


def test_figure_1_shows_the_attack_that_the_parts_give_away_most_clearly():
    cases = [
        case("a", score=0.8),
        case("b", score=0.9),
        case("c", score=1.0, answer="train"),
        case("d", attacked=False),
    ]
    found = first_case(cases)
    assert found["key"] == "b" and first_case(cases[2:]) is None
    titles = [axis.get_title() for axis in figure1(found).axes]
    assert titles[:3] == ["Clean: a car", "What the attack added, x8", "Attacked: M says person"]
    boxes = [patch for patch in figure1(found).axes[2].patches]
    assert [(box.get_x(), box.get_y(), box.get_width(), box.get_height()) for box in boxes] == [
        (1.5, 0.5, 38, 29),
        (4.5, 4.5, 4, 4),
    ]
    assert [box.get_linestyle() for box in boxes] == ["--", "-"]  # a person has a head and no wheel
