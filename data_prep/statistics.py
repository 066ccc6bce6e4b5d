"""Counts over the accepted rows of each split, added up part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Lengths are counted in steps of so many characters, words or tokens.
STEPS = {
    "response_chars": 100,
    "reasoning_words": 10,
    "prompt_tokens": 32,
    "response_tokens": 32,
}
IOU_STEP = 0.1
# The columns of `convert.FLAT` that are counted.
TALLIED = (
    *("patient", "question_type", "answer", "regions"),
    *("think_boxes", "cited_boxes", "cited_iou", *STEPS),
)


@dataclass
class Tally:
    """Counts of the rows of one split."""

    rows: int = 0
    patients: set[str] = field(default_factory=set)
    question_types: Counter[str] = field(default_factory=Counter)
    boxes_per_row: Counter[int] = field(default_factory=Counter)
    cited_per_row: Counter[int] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Counter[str]] = field(default_factory=dict)
    lengths: dict[str, Counter[int]] = field(default_factory=lambda: {n: Counter() for n in STEPS})
    without_reasoning: int = 0
    final_boxes: int = 0
    cited_exactly: int = 0
    cited_iou: Counter[int] = field(default_factory=Counter)  # by tenths

    def add(self, flat: pa.Table) -> None:
        """Counts rows by their columns `TALLIED`."""
        if not flat.num_rows:
            return
        self.rows += flat.num_rows
        self.patients.update(pc.unique(flat["patient"]).to_pylist())
        kinds = flat["question_type"]
        self.question_types.update(_counts(kinds))
        boxes = pc.list_value_length(flat["regions"])
        self.boxes_per_row.update(_counts(boxes))
        self.cited_per_row.update(_counts(flat["think_boxes"]))
        self.regions.update(_counts(pc.utf8_lower(pc.list_flatten(flat["regions"]))))
        for kind in ("closed", "single", "multi"):
            given = flat["answer"].filter(pc.equal(kinds, kind))
            self.answers.setdefault(kind, Counter()).update(_counts(given))
        for name in STEPS:
            self.lengths[name].update(_counts(flat[name]))
        # A row without reasoning has no response.
        self.without_reasoning += pc.sum(pc.equal(flat["response_chars"], 0)).as_py()
        self.final_boxes += pc.sum(boxes).as_py() or 0
        self.cited_exactly += pc.sum(flat["cited_boxes"]).as_py() or 0
        tenths = np.minimum(flat["cited_iou"].drop_null().to_numpy() // IOU_STEP, 9).astype(int)
        self.cited_iou.update(Counter(tenths.tolist()))

    def describe(self, images: int) -> dict[str, Any]:
        """All counts, ready for JSON. `images` is the number of the split's images."""
        lengths = {name: describe_lengths(counts) for name, counts in self.lengths.items()}
        return {
            "rows": self.rows,
            "patients": len(self.patients),
            "images": images,
            "question_types": in_order(self.question_types),
            "boxes_per_row": in_order(self.boxes_per_row),
            "reasoning_boxes_per_row": in_order(self.cited_per_row),
            "closed_answers": in_order(self.answers.get("closed", {})),
            "single_answers": in_order(self.answers.get("single", {})),
            "multi_answers": most_common(self.answers.get("multi", Counter()), 15),
            "regions": most_common(self.regions, 40),
            "lengths": {name: found for name, found in lengths.items() if found["n"]},
            "agreement": {
                "final_boxes": self.final_boxes,
                "cited_exactly": self.cited_exactly,
                "rows_by_mean_iou": {
                    f"{tenth / 10:.1f}": self.cited_iou[tenth] for tenth in range(10)
                },
            },
        }


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    found = pc.value_counts(column)
    pairs = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
    return {value: count for value, count in pairs if value is not None}


def in_order(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(counts.items())}


def most_common(counts: Mapping[str, int], number: int) -> dict[str, int]:
    """The most frequent values, equals by name; the rest together as "other"."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    kept = dict(ordered[:number])
    if rest := sum(count for _, count in ordered[number:]):
        kept["other"] = rest
    return kept


def describe_lengths(counts: Mapping[int, int]) -> dict[str, Any]:
    """Count, extremes, mean and percentiles of lengths that are given as counts."""
    if not counts:
        return {"n": 0}
    values = np.array(sorted(counts))
    numbers = np.array([counts[value] for value in values.tolist()])
    ends = numbers.cumsum()
    described: dict[str, Any] = {
        "n": int(ends[-1]),
        "min": int(values[0]),
        "mean": round(float((values * numbers).sum() / ends[-1]), 2),
    }
    for percent in (50, 95, 99):
        place = np.searchsorted(ends, percent / 100 * ends[-1])
        described[f"p{percent}"] = int(values[place])
    return described | {"max": int(values[-1])}


def histogram(counts: Mapping[int, int], step: int) -> dict[str, int]:
    """Lengths by steps, empty ones within the range included; at most forty steps."""
    if not counts:
        return {}
    while (max(counts) - min(counts)) // step > 40:
        step *= 2
    binned: Counter[int] = Counter()
    for value, count in counts.items():
        binned[value // step] += count
    return {str(place * step): binned[place] for place in range(min(binned), max(binned) + 1)}
