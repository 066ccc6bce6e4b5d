"""The first table of the page, and its sentences, from the summary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recipe.evaluation.bootstrap import Gain
from recipe.evaluation.tables import MAJORITY_TITLE, PRIOR_TITLE

GAIN_TITLES = {
    "reward": "Reward, greedy",
    "reward_sampled": "Reward, sampled",
    "a_score": "A-score",
    "v_score": "V-score",
}
_ROWS = (
    ("reward", "Reward, greedy", "mean dense reward of the most likely response"),
    ("reward_sampled", "Reward, sampled", "mean dense reward of responses drawn at temperature 1"),
    ("a_score", "A-score", "share of right answers"),
    ("v_score", "V-score", "mean overlap (IoU) of the answer's regions"),
    ("iou_50", "IoU > 0.5", "share of regions that overlap by more than half"),
    ("iou_75", "IoU > 0.75", "share of regions that overlap by more than three quarters"),
    ("format", "Format", "share of responses in the exact form"),
)


@dataclass(frozen=True)
class HeadlineRow:
    """One metric: both models, the gain with its interval and a verdict, the baseline."""

    title: str
    explanation: str
    sft: float
    grpo: float
    gain: str
    verdict: str
    baseline: str


def headline_rows(summary: Mapping[str, Any]) -> list[HeadlineRow]:
    """Rows of the headline table, in a fixed order."""
    sft, grpo = summary["models"]["sft"], summary["models"]["grpo"]
    baselines = _baselines(summary)
    rows = []
    for key, title, explanation in _ROWS:
        gain = summary["gain"].get(key)
        rows.append(
            HeadlineRow(
                title=title,
                explanation=explanation,
                sft=sft[key],
                grpo=grpo[key],
                gain=_gain_text(gain) if gain else f"{_signed(grpo[key] - sft[key])}",
                verdict=verdict(gain) if gain else "",
                baseline=", ".join(f"{value:.3f} ({name})" for name, value in baselines[key]),
            )
        )
    return rows


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """What the numbers say, in plain words and no stronger than they are."""
    grpo, gain = summary["models"]["grpo"], summary["gain"]
    said = [
        f"Over {grpo['n']} held-out questions, GRPO {_change(gain['reward_sampled'])} the mean "
        f"reward of sampled responses and {_change(gain['reward'])} that of greedy ones.",
    ]
    for key, title in (("a_score", "A-score"), ("v_score", "V-score")):
        for name, value in _baselines(summary)[key]:
            relation = "above" if grpo[key] > value else "not above"
            said.append(
                f"Its {title} of {grpo[key]:.3f} is {relation} the {name} baseline's {value:.3f}."
            )
    return said


def verdict(gain: Gain) -> str:
    """`higher` or `lower` where the interval leaves out zero, else `no clear difference`."""
    low, high = gain["ci95"]
    if low > 0:
        return "higher"
    return "lower" if high < 0 else "no clear difference"


def _baselines(summary: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    majority, prior = summary["baselines"]["majority"], summary["baselines"]["region_prior"]
    found: dict[str, list[tuple[str, float]]] = {key: [] for key, *_ in _ROWS}
    for name, values in ((MAJORITY_TITLE, majority), (PRIOR_TITLE, prior)):
        for key, value in values.items():
            found[key].append((name, value))
    return found


def _change(gain: Gain) -> str:
    words = {
        "higher": "raised",
        "lower": "lowered",
        "no clear difference": "did not clearly change",
    }
    return words[verdict(gain)]


def _gain_text(gain: Gain) -> str:
    low, high = gain["ci95"]
    return f"{_signed(gain['mean'])} ({_signed(low)} to {_signed(high)})"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
