"""Grounding: the published count gate, and every property that the dense score claims."""

import itertools
import math
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reward.boxes_in_text import Box
from reward.ground_truth import GroundTruth, place
from reward.grounding import (
    MOST_EXTRA,
    count_gate_score,
    dense_score,
    distinct,
    iou_matrix,
    matched_ious,
    matched_values,
    quality,
)
from reward.grounding import iou as iou_of
from reward.response import Region

A: Box = (10, 10, 40, 40)
B: Box = (60, 10, 90, 40)
C: Box = (10, 60, 40, 90)
FULL: Box = (0, 0, 100, 100)


def _truth(size: int = 100, coordinates: str = "absolute") -> GroundTruth:
    return GroundTruth.parse(
        {
            "question_type": "closed",
            "answer": "Yes",
            "regions": [],
            "think_regions": [],
            "image_size": [size, size],
            "coordinates": coordinates,
        }
    )


FRAME = _truth()


def _regions(boxes: Sequence[Box | None], names: Sequence[str] = ()) -> list[Region]:
    padded = [*names, *[""] * (len(boxes) - len(names))]
    return [Region(name, box) for name, box in zip(padded, boxes, strict=True)]


def dense_of(given: Sequence[Region], wanted: Sequence[Region], frame: GroundTruth) -> float:
    return dense_score(place(given, frame), place(wanted, frame))


def dense(given: Sequence[Box | None], wanted: Sequence[Box]) -> float:
    return dense_of(_regions(given), _regions(wanted), FRAME)


def paper(given: Sequence[Box | None], wanted: Sequence[Box]) -> float:
    return count_gate_score(place(_regions(given), FRAME), place(_regions(wanted), FRAME), 0.75)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x1, y1 = draw(st.integers(0, 90)), draw(st.integers(0, 90))
    x2, y2 = draw(st.integers(x1 + 5, 100)), draw(st.integers(y1 + 5, 100))
    return (float(x1), float(y1), float(x2), float(y2))


LISTS = st.lists(boxes(), min_size=1, max_size=5)
DISTINCT = st.lists(boxes(), min_size=1, max_size=5, unique=True)


def _shift(box: Box, dx: float) -> Box:
    return (box[0] + dx, box[1], box[2] + dx, box[3])


class TestPaper:
    @pytest.mark.parametrize(
        ("given_boxes", "wanted", "expected"),
        [
            ([A], [A], 1),
            ([B, A], [A, B], 1),  # any order
            ([(10, 10, 40, 37)], [A], 1),  # IoU 0.9
            ([(10, 10, 40, 32.5)], [A], 0),  # IoU 0.75 exactly: not above
            ([(10, 10, 40, 30), B], [A, B], 1),  # mean of 0.67 and 1
            ([(10, 10, 40, 20), B], [A, B], 0),  # mean of 0.33 and 1
            ([A, A], [A], 0),  # one too many
            ([A], [A, B], 0),  # one missing
            ([A, None], [A, B], 0),  # one that is no box
            ([A, A], [A, B], 0),  # the count alone is not enough
            ([], [], 1),
            ([A], [], 0),
            ([], [A], 0),
            ([None], [], 0),
        ],
    )
    def test_count_gate(
        self, given_boxes: list[Box | None], wanted: list[Box], expected: float
    ) -> None:
        assert paper(given_boxes, wanted) == expected


class TestDense:
    @pytest.mark.parametrize(
        ("given_boxes", "wanted", "low", "high"),
        [
            ([A], [A], 1, 1),
            ([C, A, B], [A, B, C], 1, 1),  # any order
            ([], [], 1, 1),
            ([], [A], 0, 0),
            ([A], [], 0, 0),
            ([None], [A], 0, 0),  # not four numbers
            ([(200, 200, 300, 300)], [A], 0, 0),  # wholly outside the image
            ([B], [A], 0, 0.05),  # far off
            ([FULL], [A], 0, 0.001),  # all of the image
            ([(5, 5, 95, 95)], [A], 0, 0.01),  # most of it
            ([FULL], [(0, 0, 50, 100)], 0, 0.05),  # truth is half of it
            ([FULL], [(0, 0, 95, 100)], 0.9, 1),  # truth is most of it, too
            ([(15, 10, 45, 40)], [A], 0.6, 0.8),  # a sixth of the width off
            ([A, B], [A], 0.5, 0.5),  # a second guess: the mean of the two
            ([A, A], [A], 0.5, 0.5),  # twice
            ([A, (11, 10, 41, 40)], [A], 0.5, 0.5),  # nearly twice
            ([A, B, C], [A, B], 0.66, 0.67),  # one too many of three
            ([A], [A, B], 0.5, 0.5),  # one missing
            ([A, A], [A, B], 0.5, 0.53),  # a copy adds next to nothing
            ([A, None], [A, B], 0.5, 0.5),
            ([A, None], [A], 0.5, 0.5),
        ],
    )
    def test_values(
        self, given_boxes: list[Box | None], wanted: list[Box], low: float, high: float
    ) -> None:
        assert low <= dense(given_boxes, wanted) <= high

    @given(LISTS, LISTS)
    def test_range(self, given_boxes: list[Box], wanted: list[Box]) -> None:
        assert 0 <= dense(given_boxes, wanted) <= 1

    @given(LISTS)
    def test_the_reference_itself_scores_1(self, wanted: list[Box]) -> None:
        assert dense(wanted, wanted) == pytest.approx(1)

    @given(LISTS, LISTS, st.randoms())
    def test_order_does_not_matter(
        self, given_boxes: list[Box], wanted: list[Box], rng: Random
    ) -> None:
        before = dense(given_boxes, wanted)
        rng.shuffle(given_boxes)
        rng.shuffle(wanted)
        assert dense(given_boxes, wanted) == pytest.approx(before)

    @given(DISTINCT, boxes())
    def test_guesses_at_one_region_are_worth_their_mean(
        self, guesses: list[Box], wanted: Box
    ) -> None:
        """So several guesses get no more in expectation than the likeliest of them."""
        alone = [dense([guess], [wanted]) for guess in guesses]
        assert dense(guesses, [wanted]) <= max(alone) + 1e-9
        assert dense(guesses, [wanted]) == pytest.approx(max(alone) / len(guesses))

    @given(st.lists(st.floats(0.51, 0.99), min_size=1, max_size=3), st.integers(0, 2))
    def test_naming_fewer_regions_than_believed_never_pays(
        self, beliefs: list[float], which: int
    ) -> None:
        """Each region is in the reference with its own probability, whatever the others are."""
        places = (A, B, C)[: len(beliefs)]

        def expected(answer: Sequence[Box]) -> float:
            total = 0.0
            for is_there in itertools.product((True, False), repeat=len(places)):
                wanted = list(itertools.compress(places, is_there))
                odds = (p if there else 1 - p for p, there in zip(beliefs, is_there, strict=True))
                total += math.prod(odds) * dense(answer, wanted)
            return total

        fewer = [place for k, place in enumerate(places) if k != which % len(places)]
        assert expected(fewer) <= expected(places) + 1e-9

    @given(LISTS, LISTS, st.integers(0, 4))
    def test_leaving_a_box_out_never_pays_where_none_is_too_many(
        self, given_boxes: list[Box], wanted: list[Box], which: int
    ) -> None:
        assume(len(given_boxes) <= len(wanted))
        assume(len(set(given_boxes)) == len(given_boxes))
        rest = [box for k, box in enumerate(given_boxes) if k != which % len(given_boxes)]
        assert dense(rest, wanted) <= dense(given_boxes, wanted) + 1e-9

    @given(DISTINCT, boxes())
    def test_an_extra_box_costs_its_share(self, wanted: list[Box], extra: Box) -> None:
        n = len(wanted)
        for extra_box in (extra, wanted[0]):
            assert dense([*wanted, extra_box], wanted) == pytest.approx(n / (n + 1))

    @given(DISTINCT, st.integers(0, 4))
    def test_a_missing_box_costs_its_share(self, wanted: list[Box], which: int) -> None:
        n = len(wanted)
        rest = [box for index, box in enumerate(wanted) if index != which % n]
        assert dense(rest, wanted) == pytest.approx((n - 1) / n)

    @given(boxes(), boxes(), st.lists(boxes(), max_size=2), st.floats(0, 1), st.floats(0, 1))
    def test_sliding_towards_the_partner_never_costs(
        self, box: Box, target: Box, others: list[Box], first: float, second: float
    ) -> None:
        near, far = sorted((first, second))
        centre = ((target[0] + target[2]) / 2, (target[1] + target[3]) / 2)
        width, height = target[2] - target[0], target[3] - target[1]
        half_w = min(width, box[2] - box[0]) / 2
        half_h = min(height, box[3] - box[1]) / 2
        start = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)

        def at(share: float) -> Box:
            x = centre[0] + share * (start[0] - centre[0])
            y = centre[1] + share * (start[1] - centre[1])
            return (x - half_w, y - half_h, x + half_w, y + half_h)

        closer, further = dense([at(near)], [target]), dense([at(far)], [target])
        assert closer >= further - 1e-9

    def test_each_step_of_a_slide_gains_even_before_the_boxes_meet(self) -> None:
        scores = [dense([_shift(A, dx)], [A]) for dx in range(60, -1, -1)]
        gains = [later - earlier for earlier, later in itertools.pairwise(scores)]
        assert min(gains) > 0
        assert max(gains) < 0.1  # smooth: no step of a pixel is a jump

    def test_shrinking_from_the_full_image_gains_at_every_step(self) -> None:
        scores = [dense([(k, k, 100 - k, 100 - k)], [(30, 30, 70, 70)]) for k in range(31)]
        assert all(a < b for a, b in itertools.pairwise(scores))

    @given(LISTS, LISTS, st.integers(2, 9))
    def test_scale_and_coordinate_system_do_not_matter(
        self, given_boxes: list[Box], wanted: list[Box], scale: int
    ) -> None:
        def scaled(items: list[Box], factor: float) -> list[Region]:
            return _regions([tuple(factor * v for v in box) for box in items])  # type: ignore[misc]

        expected = dense(given_boxes, wanted)
        larger = dense_of(scaled(given_boxes, scale), scaled(wanted, scale), _truth(100 * scale))
        thousand = dense_of(
            scaled(given_boxes, 10), scaled(wanted, 10), _truth(7, coordinates="norm1000")
        )
        assert larger == pytest.approx(expected)
        assert thousand == pytest.approx(expected)

    def test_copies_in_the_reference_may_be_copied(self) -> None:
        assert dense([A, A], [A, A]) == 1
        assert dense([A, A, A], [A, A]) < 0.7

    @given(boxes(), st.floats(0, 4), st.floats(0, 4))
    def test_a_box_over_most_of_the_image_is_worth_almost_nothing(
        self, wanted: Box, left: float, top: float
    ) -> None:
        area = (wanted[2] - wanted[0]) * (wanted[3] - wanted[1]) / 100**2
        assume(area < 0.3)
        assert dense([(left, top, 100 - top, 100 - left)], [wanted]) < 0.02

    @given(boxes(), st.floats(-3, 3), st.floats(-3, 3))
    def test_a_small_step_is_a_small_change(self, box: Box, dx: float, dy: float) -> None:
        moved = (box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy)
        step = (abs(dx) + abs(dy)) / min(box[2] - box[0], box[3] - box[1])
        assert dense([moved], [box]) >= 1 - 3 * step - 1e-9

    @given(DISTINCT)
    def test_spam_is_worth_almost_nothing(self, wanted: list[Box]) -> None:
        spam: list[Box | None] = [
            (x, y, x + 10.0, y + 10.0) for x in range(0, 90, 3) for y in range(0, 90, 3)
        ]
        assert dense([*wanted, *spam], wanted) == 0
        assert dense([*wanted, *spam[:MOST_EXTRA]], wanted) < 0.15


class TestCited:
    """Boxes of a reasoning: repeats say nothing, others cost their share."""

    @pytest.mark.parametrize(
        ("given_boxes", "wanted", "low", "high"),
        [
            ([A], [A], 1, 1),
            ([A, A, A], [A], 1, 1),  # cited again
            ([A, (10.5, 10, 40.5, 40)], [A], 1, 1),  # a hair off
            ([A], [A, A], 1, 1),  # the reference's repeats
            ([B, A], [A], 0.5, 0.5),  # compared with another place
            ([B, C, A], [A], 1 / 3, 1 / 3),
            ([A], [A, B], 0.5, 0.5),
            ([], [A], 0, 0),
            ([FULL], [A], 0, 0.001),
            ([None, A], [A], 0.5, 0.5),
        ],
    )
    def test_values(
        self, given_boxes: list[Box | None], wanted: list[Box], low: float, high: float
    ) -> None:
        score = self.score(given_boxes, wanted)
        assert low - 1e-9 <= score <= high + 1e-9

    @staticmethod
    def score(given_boxes: Sequence[Box | None], wanted: Sequence[Box | None]) -> float:
        placed, target = (distinct(place(_regions(b), FRAME)) for b in (given_boxes, wanted))
        return dense_score(placed, target)

    @given(LISTS, LISTS)
    def test_range(self, given_boxes: list[Box], wanted: list[Box]) -> None:
        assert 0 <= self.score(given_boxes, wanted) <= 1

    @given(LISTS, st.integers(0, 4))
    def test_a_repeat_changes_nothing(self, wanted: list[Box], which: int) -> None:
        again = [*wanted, wanted[which % len(wanted)]]
        assert self.score(again, wanted) == pytest.approx(self.score(wanted, wanted)) == 1

    def test_citing_everything_is_worth_little(self) -> None:
        spam = [(float(x), float(y), x + 20.0, y + 20.0) for x in (0, 25, 50) for y in (0, 25, 50)]
        assert self.score([A, *spam], [A]) <= 0.1
        many = [(float(x), 0.0, x + 2.0, 9.0) for x in range(0, 90, 2)]
        assert self.score([A, *many], [A]) == 0  # more than MOST_EXTRA


class TestNames:
    def test_a_wrong_name_costs_a_little(self) -> None:
        wanted = _regions([A], ["left lung"])
        right = dense_of(_regions([A], ["The left lung"]), wanted, FRAME)
        side = dense_of(_regions([A], ["right lung"]), wanted, FRAME)
        other = dense_of(_regions([A], ["spine"]), wanted, FRAME)
        assert right == 1
        assert 0.89 < other < side < right

    def test_an_absent_name_costs_nothing(self) -> None:
        assert dense_of(_regions([A]), _regions([A], ["left lung"]), FRAME) == 1
        assert dense_of(_regions([A], ["left lung"]), _regions([A]), FRAME) == 1

    @pytest.mark.parametrize("name", [".", "-", "the", "12"])
    def test_a_name_that_says_nothing_is_a_wrong_name(self, name: str) -> None:
        wanted = _regions([A], ["left lung"])
        assert dense_of(_regions([A], [name]), wanted, FRAME) == pytest.approx(0.9)

    def test_swapped_names_do_not_outweigh_the_boxes(self) -> None:
        wanted = _regions([A, B], ["left lung", "right lung"])
        swapped = _regions([A, B], ["right lung", "left lung"])
        assert dense_of(swapped, wanted, FRAME) > 0.9


class TestGeometry:
    @pytest.mark.parametrize(
        ("box", "other", "iou", "giou", "excess"),
        [
            ((0, 0, 1, 1), (0, 0, 1, 1), 1, 1, 0),
            ((0, 0, 0.5, 1), (0, 0, 1, 1), 0.5, 0.5, 0),
            ((0, 0, 1, 1), (0, 0, 0.5, 1), 0.5, 0.5, 0.5),
            ((0, 0, 0.5, 1), (0.5, 0, 1, 1), 0, 0, 0.5),  # they touch
            ((0, 0, 0.25, 1), (0.75, 0, 1, 1), 0, -0.5, 0.25),  # apart
        ],
    )
    def test_quality(self, box: Box, other: Box, iou: float, giou: float, excess: float) -> None:
        near = 0.9 * iou + 0.05 * (1 + giou)
        assert iou_matrix([box], [other]) == [[pytest.approx(iou)]]
        assert quality(box, other) == pytest.approx(near / (1 + (excess / 0.35) ** 8))

    @given(boxes(), boxes())
    def test_the_matrix_holds_the_iou_of_each_pair(self, box: Box, other: Box) -> None:
        expected = [[1.0, iou_of(box, other)], [iou_of(other, box), 1.0]]
        assert iou_matrix([box, other], [box, other]) == [pytest.approx(row) for row in expected]

    @given(boxes(), boxes())
    def test_quality_is_1_only_for_equal_boxes(self, box: Box, other: Box) -> None:
        unit, target = (tuple(v / 100 for v in item) for item in (box, other))
        value = quality(unit, target)  # type: ignore[arg-type]
        assert (value > 0.9999) == (box == other)

    def test_matching_is_optimal_where_greedy_is_not(self) -> None:
        assert sorted(matched_values([[0.9, 0.8], [0.8, 0.0]])) == [0.8, 0.8]

    @given(
        st.integers(1, 4).flatmap(
            lambda n: st.lists(
                st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=1, max_size=4
            )
        )
    )
    def test_matching_is_the_best_of_all(self, values: list[list[float]]) -> None:
        if len(values) <= len(values[0]):
            rows = values
        else:
            rows = [list(column) for column in zip(*values, strict=True)]
        best = max(
            sum(row[column] for row, column in zip(rows, columns, strict=True))
            for columns in itertools.permutations(range(len(rows[0])), len(rows))
        )
        assert sum(matched_values(values)) == pytest.approx(best)

    def test_unmatched_boxes_have_iou_0(self) -> None:
        box, other = (0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0)
        assert sorted(matched_ious([box, other, None], [box])) == [0, 0, 1]
        assert matched_ious([], []) == []
