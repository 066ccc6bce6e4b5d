"""What the study found, in sentences, and what of it has not been run."""

from collections.abc import Callable, Iterator

from recipe.evaluation.clusters import Estimate
from recipe.evaluation.markdown import estimate
from recipe.study.arms import ARMS, SEEDS
from recipe.study.numbers import Results, arm_estimate, difference, interval, verdict

SCORES = {"a_score": "A-score", "v_score": "V-score"}


def summary(results: Results) -> Iterator[str]:
    """One item of a list for each question of the study whose arms have been run."""
    if claim := _compared(results, "dense-1of8", "sft-full", verdict):
        alone = _compared(results, "sft-1of8", "sft-full", verdict)
        beside = f" SFT alone on that eighth: {alone}." if alone else ""
        yield f"- SFT + GRPO on 1/8 of the data, less SFT on all: {claim}.{beside}"
    if gain := _compared(results, "dense-full", "sft-full", direction):
        yield f"- What GRPO with `dense` adds to SFT on all data: {gain}."
    if gain := _compared(results, "paper-full", "dense-full", direction):
        yield f"- The published reward, `paper`, less `dense`: {gain}."
    if runs := results.get("sft-shuffled"):
        scores = ", ".join(
            f"{title} {estimate(arm_estimate(results, 'sft-shuffled', metric))}"
            for metric, title in SCORES.items()
        )
        fell = sum(all(run["no_better_than"][metric] for metric in SCORES) for run in runs.values())
        yield (
            f"- Trained on pictures shuffled between patients: {scores}; no better than its "
            f"controls in both, under {fell} of {len(runs)} seeds."
        )


def missing(results: Results) -> str:
    """The arms that lack a seed of the study; "" where none does."""
    said = []
    for seed in SEEDS:
        lacking = [arm.title for arm in ARMS if seed not in results.get(arm.name, {})]
        if lacking:
            which = "all arms" if len(lacking) == len(ARMS) else "; ".join(lacking)
            said.append(f"seed {seed}: {which}")
    return "\n".join(["Not run:\n", *(f"- {line}." for line in said), ""]) if said else ""


def direction(gain: Estimate) -> str:
    """What the interval of a difference says."""
    low, high = interval(gain)
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def _compared(
    results: Results, arm: str, other: str, judged: Callable[[Estimate], str]
) -> str | None:
    """Both scores of an arm less another's, each with its judgement; None where one is missing."""
    gains = {title: difference(results, arm, other, m) for m, title in SCORES.items()}
    said = [
        f"{title} {judged(gain)} ({estimate(gain, signed=True)})"
        for title, gain in gains.items()
        if gain is not None
    ]
    return ", ".join(said) or None
