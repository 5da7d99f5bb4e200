"""Figures 4 and 5: deterministic bytes, readable content, nothing but records needed."""

import struct
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from unmask_tf.defense.alignment import auc
from unmask_tf.errors import InputError
from unmask_tf.reproduce import figures
from unmask_tf.reproduce.records import CellKey, Record
from unmask_tf.reproduce.tables import class_set_means, table4


def benign_only():
    return [
        Record(key=CellKey("mini", "cs3a", "resnet50", d, "none", 0), config_hash="x", n=4, correct=3)
        for d in ("none", "um")
    ]


def no_success():
    key = CellKey("mini", "cs3a", "resnet50", "um", "pgd_linf", 8)
    return [Record(key=key, config_hash="x", n=4, correct=3, detection_scores=[], detection_labels=[])]


@pytest.fixture
def drawn(monkeypatch):
    """The matplotlib figures that were saved, for a look at what they show."""
    kept: list[Figure] = []
    save = figures._save
    monkeypatch.setattr(figures, "_save", lambda figure, path: (kept.append(figure), save(figure, path))[1])
    return kept


def chunks(png: bytes) -> list[bytes]:
    names, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        names.append(png[at + 4 : at + 8])
        at += 12 + length
    return names


@pytest.mark.parametrize("draw", [figures.figure4, figures.figure5])
def test_a_figure_made_twice_has_the_same_bytes(tmp_path, make_records, published, draw):
    records = make_records(class_sets=("cs3a", "cs3b"))
    draw(records, tmp_path / "a.png", published)
    # A user's own style must not show.
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 20, "axes.facecolor": "red"}):
        draw(list(reversed(records)), tmp_path / "b.png", published)
    png = (tmp_path / "a.png").read_bytes()
    assert png == (tmp_path / "b.png").read_bytes()
    # Neither text (version, time) nor time chunks.
    assert set(chunks(png)) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


def test_drawing_leaves_the_user_s_style_alone(tmp_path, make_records, published):
    with matplotlib.rc_context({"lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        figures.write_figures(make_records(class_sets=("cs3a",)), tmp_path, published)
        assert dict(matplotlib.rcParams) == before


def test_figure_5_has_a_panel_per_attack_and_a_line_per_class_set_and_model(tmp_path, make_records, published, drawn):
    records = make_records(class_sets=("cs3a", "cs5b"))
    figures.figure5(records, tmp_path / "figure5.png", published)
    panels = [axis for axis in drawn[0].axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == [
        *("PGD-L∞ ε=8", "PGD-L∞ ε=16", "PGD-L2 ε=300", "PGD-L2 ε=600"),
        *("MIA-L∞ ε=8", "MIA-L∞ ε=16", "MIA-L2 ε=300", "MIA-L2 ε=600"),
    ]
    for axis in panels:
        chance, *curves = axis.get_lines()
        assert chance.get_linestyle() == ":" and np.array_equal(chance.get_xydata(), [[0, 0], [1, 1]])
        assert len(curves) == 4
        assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == 4
        for line in curves:
            data = line.get_xydata()
            assert data[0].tolist() == [0, 0] and data[-1].tolist() == [1, 1]


def test_figure_5_legends_tell_the_auc_and_the_paper_s_where_published(tmp_path, make_records, published, drawn):
    records = make_records(class_sets=("cs3a", "cs5b"))
    figures.figure5(records, tmp_path / "figure5.png", published)
    texts = [text.get_text() for text in drawn[0].axes[6].get_legend().get_texts()]
    keys = [("cs3a", "resnet50"), ("cs5b", "resnet50"), ("cs3a", "densenet121"), ("cs5b", "densenet121")]
    found = {(r.key.class_set, r.key.model): r for r in records if (r.key.attack, r.key.epsilon_255) == ("mia_l2", 300)}
    areas = [f"{auc(found[key].detection_scores, found[key].detection_labels):.3f}" for key in keys]
    assert texts == [
        f"CS3a ResNet50  {areas[0]}",
        f"CS5b ResNet50  {areas[1]}",
        f"CS3a DenseNet121  {areas[2]} (0.969)",
        f"CS5b DenseNet121  {areas[3]}",
    ]


def test_figure_4_has_the_means_as_bars_and_the_paper_s_as_ticks(tmp_path, make_records, published, drawn):
    records = make_records(class_sets=("cs3b", "zoo"))
    figures.figure4(records, tmp_path / "figure4.png", published)
    axis = drawn[0].axes[0]
    ours = class_set_means(table4(records))
    heights = [[bar.get_height() for bar in container] for container in axis.containers]
    assert heights == [[getattr(ours[name], d) for name in ("cs3b", "zoo")] for d in ("none", "at", "um")]
    ticks = [segment[0][1] for lines in axis.collections for segment in lines.get_segments() if len(segment)]
    paper = class_set_means(published.table4)["cs3b"]
    assert [tick for tick in ticks if not np.isnan(tick)] == [paper.none, paper.at, paper.um]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["CS3b", "zoo"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["None", "AT", "UM", "paper"]


def test_the_paper_s_mean_is_over_the_cells_we_have(tmp_path, make_records, published, drawn):
    records = [r for r in make_records(class_sets=("cs3a",)) if r.key.attack in ("none", "mia_linf")]
    figures.figure4(records, tmp_path / "figure4.png", published)
    ticks = [s[0][1] for lines in drawn[0].axes[0].collections for s in lines.get_segments() if len(s)]
    # Table IV, CS3a, MIA-Linf: UM .82 .68 (ResNet) and .83 .69 (DenseNet).
    assert ticks[2] == pytest.approx((82 + 68 + 83 + 69) / 4)


def test_figures_without_the_paper_s_class_sets_show_no_tick(tmp_path, make_records, published, drawn):
    figures.figure4(make_records(class_sets=("photo3",)), tmp_path / "figure4.png", published)
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()] == ["None", "AT", "UM"]


@pytest.mark.parametrize("records", [benign_only(), no_success()])
def test_a_run_with_next_to_nothing_is_drawn_without_a_warning(tmp_path, published, records, recwarn):
    for path in figures.write_figures(records, tmp_path, published):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert not recwarn.list


def test_a_panel_without_a_successful_attack_says_so(tmp_path, published, drawn):
    figures.figure5(no_success(), tmp_path / "figure5.png", published)
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["no successful attack"]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path, make_records, published):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*figure4\.png"):
        figures.write_figures(make_records(class_sets=("cs3a",)), tmp_path / "file", published)


@pytest.mark.parametrize(
    "module",
    [
        "unmask_tf.defense.alignment",
        "unmask_tf.defense.unmask",
        "unmask_tf.reproduce.records",
        "unmask_tf.reproduce.tables",
        "unmask_tf.reproduce.figures",
        "unmask_tf.reproduce.compare",
        "unmask_tf.reproduce.report",
    ],
)
def test_results_are_read_and_drawn_without_any_deep_learning_library(module):
    code = f"import sys, {module}; print(sorted({{'tensorflow', 'keras', 'torch', 'jax'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
