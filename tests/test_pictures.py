"""Pictures of numbers show the numbers."""

import numpy as np

from unmask_tf import pictures


def test_bars_are_as_long_as_their_values_from_top_to_bottom():
    figure, axes = pictures.grid(1, 1)
    pictures.draw_bars(axes[0, 0], {"car": 0.25, "dog": 0.75}, "similarity", strong=["dog"])
    assert [bar.get_width() for bar in axes[0, 0].patches] == [0.25, 0.75]
    assert axes[0, 0].patches[0].get_facecolor() != axes[0, 0].patches[1].get_facecolor()
    assert axes[0, 0].yaxis_inverted()
    figure.canvas.draw()


def test_every_score_is_in_one_of_the_two_histograms():
    figure, axes = pictures.grid(1, 1)
    scores, labels = np.array([0.0, 0.5, 1.0, 1.0, 1.0]), np.array([0, 0, 0, 1, 1])
    pictures.draw_scores(axes[0, 0], scores, labels, 0.8, bins=10)
    heights = [bar.get_height() for bar in axes[0, 0].patches]
    assert (sum(heights[:10]), sum(heights[10:])) == (3, 2)
    assert [text.get_text() for text in axes[0, 0].get_legend().get_texts()] == ["benign", "attacked", "t = 0.80"]
    figure.canvas.draw()


def test_points_of_the_roc_are_named_with_their_rates():
    figure, axes = pictures.grid(1, 1)
    pictures.draw_roc(axes[0, 0], np.array([0, 0.1, 1]), np.array([0, 0.9, 1]), {"here": (0.1, 0.9)})
    assert axes[0, 0].get_legend().get_texts()[0].get_text() == "here: FPR 10.0%, TPR 90.0%"
    figure.canvas.draw()
