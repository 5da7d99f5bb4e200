"""Algorithm 1 around a stub M and a stub K."""

import dataclasses

import numpy as np
import pytest

from unmask_tf.data.pixels import to_8bit
from unmask_tf.defense.extract import PartSeen
from unmask_tf.defense.unmask import UnMask, Verdict
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import UNMASK, Taxonomy

BIRD = UNMASK.expected("bird")


class StubM:
    """Returns the given class for every image; remembers what it saw. Labels: bird, dog, person."""

    def __init__(self, *labels, classes=3):
        self.labels, self.classes, self.seen = list(labels), classes, []

    def __call__(self, images):
        start = sum(len(batch) for batch in self.seen)
        self.seen.append(images)
        return np.eye(self.classes)[self.labels[start : start + len(images)]]


class StubK:
    def __init__(self, *part_sets):
        self.part_sets, self.seen = list(part_sets), None

    def extract(self, images):
        self.seen = images
        return self.part_sets


def images(n, value=0.5):
    return np.full((n, 4, 5, 3), value, np.float32)


def unmask(m, k, threshold=0.75, **options):
    return UnMask(m, k, UNMASK, "cs3b", threshold, **options)


def test_a_benign_image_keeps_m_s_class():
    # Of the bird's 9 parts K sees 3 and nothing else: s = 1/3, d = 2/3 < 3/4.
    seen = frozenset({"beak", "wing", "tail"})
    (verdict,) = unmask(StubM(0), StubK(seen)).predict(images(1))
    assert verdict == Verdict(
        predicted_class="bird",
        extracted_parts=seen,
        expected_parts=BIRD,
        similarity=1 / 3,
        distance=1 - 1 / 3,
        adversarial=False,
        final_class="bird",
        scores={"person": 0.0, "dog": 1 / 12, "bird": 1 / 3},
    )


def test_a_verdict_holds_what_the_extractor_returned_and_equals_one_with_the_same_parts_elsewhere():
    here, there = {"beak": PartSeen(0.9, ((0, 0, 2, 2),))}, {"beak": PartSeen(0.4, ((1, 1, 3, 3),))}
    (first,), (second,) = (unmask(StubM(0), StubK(found)).predict(images(1)) for found in (here, there))
    assert first.extraction is here
    assert first.extracted_parts == {"beak"}
    assert first == second


def test_an_adversarial_image_gets_the_best_fitting_class():
    # M is made to say person; beak and wing are the bird's alone.
    (verdict,) = unmask(StubM(2), StubK(frozenset({"beak", "wing"}))).predict(images(1))
    assert (verdict.predicted_class, verdict.distance, verdict.adversarial) == ("person", 1.0, True)
    assert verdict.final_class == "bird"


def test_an_adversarial_image_without_any_known_part_gets_no_class():
    (verdict,) = unmask(StubM(1), StubK(frozenset())).predict(images(1))
    assert (verdict.adversarial, verdict.similarity, verdict.final_class) == (True, 0.0, None)


def test_a_benign_verdict_stands_even_where_another_class_fits_better():
    # Algorithm 1, unlike Table IV, asks for the best fit of adversarial images only.
    parts = frozenset({"eye", "head", "leg"})  # bird 3/9, dog 3/10, person 3/13
    (verdict,) = unmask(StubM(2), StubK(parts), threshold=0.8).predict(images(1))
    assert (verdict.adversarial, verdict.final_class) == (False, "person")
    (verdict,) = unmask(StubM(2), StubK(parts), threshold=0.7).predict(images(1))
    assert (verdict.adversarial, verdict.final_class) == (True, "bird")


def test_a_distance_equal_to_the_threshold_is_adversarial():
    parts = frozenset({"beak", "wing", "tail"})
    (verdict,) = unmask(StubM(0), StubK(parts), threshold=2 / 3).predict(images(1))
    assert verdict.adversarial


def test_logits_are_in_alphabetical_order_and_scores_in_the_class_set_s():
    k = StubK(BIRD, BIRD, BIRD)
    verdicts = unmask(StubM(0, 1, 2), k).predict(images(3))
    assert [v.predicted_class for v in verdicts] == ["bird", "dog", "person"]
    assert list(verdicts[0].scores) == ["person", "dog", "bird"]
    assert [v.similarity for v in verdicts] == [verdicts[0].scores[v.predicted_class] for v in verdicts]


def test_m_sees_the_float_image_and_k_its_floor():
    m, k = StubM(0), StubK(BIRD)
    unmask(m, k).predict(images(1, 0.999))  # 254.745
    assert m.seen[0].dtype == np.float32 and (m.seen[0] == np.float32(0.999)).all()
    assert k.seen.dtype == np.uint8 and (k.seen == 254).all()


def test_8_bit_images_reach_k_unchanged_and_m_divided_by_255():
    m, k = StubM(0), StubK(BIRD)
    pixels = np.arange(60, dtype=np.uint8).reshape(1, 4, 5, 3) * 4
    unmask(m, k).predict(pixels)
    assert (k.seen == pixels).all()
    assert m.seen[0].dtype == np.float32
    np.testing.assert_allclose(m.seen[0], pixels / 255, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_8_bit_value_survives_the_way_to_float_and_back(dtype):
    values = np.arange(256)
    assert (to_8bit((values / 255).astype(dtype)) == values).all()


def test_m_is_given_small_batches_without_mixing_the_images():
    m = StubM(0, 1, 2, 1, 0)
    verdicts = unmask(m, StubK(*[BIRD] * 5), batch_size=2).predict(images(5))
    assert [len(batch) for batch in m.seen] == [2, 2, 1]
    assert [v.predicted_class for v in verdicts] == ["bird", "dog", "person", "dog", "bird"]


def test_a_keras_tensor_serves_as_logits():
    from keras import ops

    m = unmask(lambda batch: ops.convert_to_tensor([[0.0, 2.0, 1.0]]), StubK(BIRD))
    assert m.predict(images(1))[0].predicted_class == "dog"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), r"images\[None\]"),
        (np.zeros((1, 4, 5, 4), np.float32), "height, width, 3"),
        (np.zeros((0, 4, 5, 3), np.float32), "at least one image"),
        (np.zeros((1, 0, 5, 3), np.float32), "they are empty"),
        (np.zeros((1, 4, 5, 3), np.int64), "int64"),
        (np.zeros((1, 4, 5, 3), bool), "bool"),
        (np.full((2, 4, 5, 3), np.nan, np.float32), "2 of 2 images hold NaN"),
        (np.full((1, 4, 5, 3), 1.01), "Divide by 255"),
        (np.full((1, 4, 5, 3), -0.01), r"\[0, 1\] was expected"),
        (np.full((1, 4, 5, 3), np.inf), r"\[0, 1\] was expected"),
        (np.array([["a.png"]]), "was expected"),
    ],
)
def test_images_of_another_form_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        unmask(StubM(0, 0), StubK(BIRD)).predict(bad)


def test_a_classifier_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 5\).*'cs3b' has 3 classes"):
        unmask(StubM(0, classes=5), StubK(BIRD)).predict(images(1))


def test_nan_logits_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        unmask(lambda batch: np.full((1, 3), np.nan), StubK(BIRD)).predict(images(1))


def test_an_extractor_that_loses_an_image_is_refused():
    with pytest.raises(ValueError, match="1 part sets for 2 images"):
        unmask(StubM(0, 0), StubK(BIRD)).predict(images(2))


def test_an_extractor_of_another_taxonomy_is_refused():
    with pytest.raises(ValueError, match="gearbox"):
        unmask(StubM(0), StubK(frozenset({"gearbox"}))).predict(images(1))


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_a_threshold_that_is_no_distance_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        unmask(StubM(0), StubK(BIRD), threshold=threshold)


def test_unknown_and_empty_class_sets_and_batches_are_refused():
    with pytest.raises(InputError, match="cs9"):
        UnMask(StubM(0), StubK(BIRD), UNMASK, "cs9", 0.5)
    with pytest.raises(InputError, match="no classes"):
        UnMask(StubM(0), StubK(BIRD), Taxonomy(("leg",), {}, {"none": ()}), "none", 0.5)
    with pytest.raises(ValueError, match="batch_size"):
        unmask(StubM(0), StubK(BIRD), batch_size=0)


# Of the bird's 9 parts K sees so many and nothing else; M says bird, so d = 1 - seen / 9.
def birds(*seen):
    return StubM(*[0] * len(seen)), StubK(*[frozenset(sorted(BIRD)[:count]) for count in seen])


@pytest.mark.parametrize(
    ("max_fpr", "threshold"),
    [
        (0.0, 1.0 + 1e-6),  # nothing may be flagged
        (0.2, (8 / 9 + 6 / 9) / 2),  # the image at 8/9 alone
        (0.5, (8 / 9 + 6 / 9) / 2),  # two images lie at 6/9: flagging one of them means flagging both
        (0.6, (6 / 9 + 3 / 9) / 2),
        (1.0, 0.0),
    ],
)
def test_calibrate_chooses_the_lowest_threshold_that_keeps_the_false_positive_rate(max_fpr, threshold):
    calibrated = unmask(*birds(9, 6, 3, 3, 1), threshold=None).calibrate(images(5), max_fpr)
    assert calibrated.threshold == pytest.approx(threshold, abs=1e-12)


@pytest.mark.parametrize("max_fpr", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_calibrated_unmask_flags_at_most_that_share_of_the_images_it_was_calibrated_on(max_fpr):
    m, k = birds(9, 6, 3, 1)
    calibrated = unmask(m, k, threshold=None).calibrate(images(4), max_fpr)
    m.seen = []
    flagged = [verdict.adversarial for verdict in calibrated.predict(images(4))]
    assert np.mean(flagged) == max_fpr  # the four distances differ, so that every share is reached


def test_calibrate_aims_at_5_percent_and_leaves_the_rest_as_it_was():
    before = unmask(*birds(*[9] * 19, 1), threshold=None, batch_size=20)
    after = before.calibrate(images(20))
    assert after.threshold == pytest.approx(4 / 9, abs=1e-12)  # 1 of 20 images is flagged, at 8/9; the others lie at 0
    assert before.threshold is None and dataclasses.replace(after, threshold=None) == before


def test_calibrate_refuses_bad_images_and_what_is_no_rate():
    with pytest.raises(InputError, match="Divide by 255"):
        unmask(*birds(9), threshold=None).calibrate(images(1, 2.0))
    with pytest.raises(ValueError, match="max_fpr"):
        unmask(*birds(9), threshold=None).calibrate(images(1), 5)


def test_by_the_margin_the_class_that_fits_best_counts():
    # Of bird, dog and person 1/3, 1/12 and 0 are seen. M answers bird, dog and person.
    seen = [frozenset({"beak", "wing", "tail"})] * 3
    verdicts = unmask(StubM(0, 1, 2), StubK(*seen), 0.3, by_margin=True).predict(images(3))
    assert [verdict.margin for verdict in verdicts] == pytest.approx([1 / 12 - 1 / 3, 1 / 3 - 1 / 12, 1 / 3])
    assert [verdict.adversarial for verdict in verdicts] == [False, False, True]
    assert [verdict.final_class for verdict in verdicts] == ["bird", "dog", "bird"]
    assert [verdict.distance for verdict in verdicts] == pytest.approx([2 / 3, 11 / 12, 1.0])
    by_distance = unmask(StubM(0, 1, 2), StubK(*seen), 0.8).predict(images(3))
    assert [verdict.margin for verdict in by_distance] == [verdict.margin for verdict in verdicts]
    assert [verdict.adversarial for verdict in by_distance] == [False, True, True]


def test_a_threshold_of_the_margin_is_calibrated_and_may_be_negative():
    calibrated = unmask(StubM(0, 0), StubK({"beak"}, {"beak", "wing"}), None, by_margin=True).calibrate(images(2), 0.5)
    assert calibrated.threshold == pytest.approx(-(1 / 9 + 2 / 9) / 2) and calibrated.by_margin
    with pytest.raises(ValueError, match="margin of -1"):
        unmask(StubM(0), StubK({"beak"}), -1.5, by_margin=True)


def test_predict_without_a_threshold_says_how_to_choose_one():
    with pytest.raises(ValueError, match="calibrate"):
        unmask(*birds(9), threshold=None).predict(images(1))


def test_a_verdict_cannot_be_altered():
    (verdict,) = unmask(StubM(0), StubK(BIRD)).predict(images(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.final_class = "dog"
