import numpy as np
import pytest

from data_prep.frames import ThinEvidence, infer_frame


def boxes(largest, count=400, size=(2544, 3056), seed=0):
    """Boxes whose corners reach from 0 to `largest` (width, height), in pictures of `size`."""
    rng = np.random.default_rng(seed)
    starts = rng.uniform(0, 0.5, (count, 2)) * largest
    ends = starts + rng.uniform(0.1, 0.5, (count, 2)) * largest
    corners = np.hstack([starts, ends])
    corners[0] = [0, 0, *np.array(largest) * 0.995]
    corners[1] = corners[0]
    return [(tuple(float(side) for side in row), size) for row in corners]


@pytest.mark.parametrize("side", [224, 336])
def test_a_known_frame_is_recognised(side):
    size, evidence = infer_frame(boxes((side, side)))
    assert size == (side, side)
    assert "400 boxes" in evidence
    assert str(side) in evidence


def test_original_pixels_are_recognised():
    size, evidence = infer_frame(boxes((2544, 3056)))
    assert size is None
    assert "original" in evidence


def test_a_single_stray_does_not_change_the_verdict():
    stray = ((0.0, 0.0, 2000.0, 2000.0), (2544, 3056))
    assert infer_frame([*boxes((336, 336), count=2000), stray])[0] == (336, 336)


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (boxes((336, 336), count=50), "50"),  # too few
        (boxes((270, 270)), "no known frame"),  # between the two
        (boxes((500, 500)), "no known frame"),  # too large for both, far from the pictures' edges
        (boxes((336, 336), size=(336, 336)), "two frames"),  # pictures of the frame's own size
        ([], "0"),
    ],
)
def test_thin_evidence_is_refused(evidence, reason):
    with pytest.raises(ThinEvidence, match=reason) as caught:
        infer_frame(evidence)
    assert "name the frame" in str(caught.value)
