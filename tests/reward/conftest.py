"""Ground truths and responses that several tests use."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from reward.ground_truth import GroundTruth


@pytest.fixture(scope="session")
def make_truth() -> Callable[..., GroundTruth]:
    """A factory of ground truths on a 100 x 100 image; boxes become regions without a name."""

    def make(boxes: Sequence[Sequence[float]] = (), **changes: Any) -> GroundTruth:
        regions = [{"ref": "", "box": list(box)} for box in boxes]
        data: dict[str, Any] = {
            "question_type": "closed",
            "answer": "Yes",
            "choices": None,
            "regions": regions,
            "think_regions": regions,
            "image_size": [100, 100],
            "coordinates": "absolute",
        }
        return GroundTruth.parse(data | changes)

    return make
