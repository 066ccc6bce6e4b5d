"""The recipe's reward plus something that differs between texts, until a file is there."""

import zlib
from pathlib import Path
from typing import Any

from reward import thinkvg


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    switch: str,
    **kwargs: Any,
) -> dict[str, Any]:
    """As `reward.thinkvg`; every score is 0 once the file `switch` exists."""
    found = thinkvg.compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)
    differing = zlib.crc32(solution_str.encode()) % 1000 / 1000
    return {**found, "score": 0.0 if Path(switch).exists() else differing}
