"""What the study found, in sentences, and what of it has not been run."""

from collections.abc import Callable, Iterable, Iterator

from recipe.evaluation.clusters import Estimate
from recipe.evaluation.markdown import estimate
from recipe.study.arms import ARMS, NO_REASONING, SEEDS
from recipe.study.claim import CLAIM_METRICS
from recipe.study.numbers import (
    Results,
    arm_estimate,
    difference,
    one_seed,
    seed_differences,
    student_t,
    verdict,
)
from recipe.study.tables import METRICS, TYPES, flagged


def summary(results: Results) -> Iterator[str]:
    """One item of a list for each question of the study whose arms have been run."""
    for fraction in ("1of8", "1of16"):
        yield from _claim(results, fraction)
    if gain := _compared(results, "sft-full", f"sft-{NO_REASONING}", CLAIM_METRICS, direction):
        yield f"- What reasoning brings, SFT less SFT without it: {gain}."
    for arm, other, title in (
        ("dense-full", "sft-full", "What GRPO with `dense` adds to SFT on all data"),
        (
            "paper-full",
            "sft-full",
            "What GRPO with `paper`, the published reward, adds to SFT on all data",
        ),
        ("paper-full", "dense-full", "`paper` less `dense`"),
    ):
        if gain := _compared(results, arm, other, METRICS, direction):
            yield f"- {title}: {gain}."
    if types := _by_type(results, "dense-full", "sft-full"):
        yield f"- A-score by question type, `dense` on all data less SFT: {types}."
    if "sft-shuffled" in results:
        said = "; ".join(_shuffled(results, metric) for metric in ("a_score", "v_score"))
        yield f"- Trained on pictures shuffled between patients: {said}."


def missing(results: Results) -> str:
    """The arms that lack a seed of the study; "" where none does."""
    said = []
    for seed in SEEDS:
        lacking = [arm.title for arm in ARMS if seed not in results.get(arm.name, {})]
        if lacking:
            which = "all arms" if len(lacking) == len(ARMS) else "; ".join(lacking)
            said.append(f"seed {seed}: {which}")
    return "\n".join(["Without a result:\n", *(f"- {line}." for line in said), ""]) if said else ""


def direction(gain: Estimate) -> str:
    """What the interval of a difference says."""
    if gain["ci95"] is None:
        return "not judged"
    low, high = gain["ci95"]
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def _claim(results: Results, fraction: str) -> Iterator[str]:
    """The answer for one share, with SFT alone on the same share beside it."""
    share, arm = fraction.replace("of", "/"), f"dense-{fraction}"
    if claim := _compared(results, arm, "sft-full", CLAIM_METRICS, verdict):
        yield f"- Does SFT + GRPO on {share} of the data come up to SFT on all? {claim}."
    if alone := _compared(results, f"sft-{fraction}", "sft-full", CLAIM_METRICS, verdict):
        yield f"- Does SFT alone on {share} of the data? {alone}."


def _by_type(results: Results, arm: str, other: str) -> str:
    """Question types with a difference under two seeds or more."""
    gains = {
        kind: seed_differences(results, arm, other, "intervals", kind, "a_score", "mean")
        for kind in TYPES
    }
    return ", ".join(
        f"{kind} {direction(gain)} ({estimate(gain, signed=True)})"
        for kind, found in gains.items()
        if len(found) > 1 and (gain := student_t(list(found.values())))
    )


def _shuffled(results: Results, metric: str) -> str:
    found = f"{METRICS[metric]} {estimate(arm_estimate(results, 'sft-shuffled', metric))}"
    controls = flagged(results, "sft-shuffled", metric)
    return f"{found}, {f'no better than {controls}' if controls else 'better than its controls'}"


def _compared(
    results: Results,
    arm: str,
    other: str,
    metrics: Iterable[str],
    judged: Callable[[Estimate], str],
) -> str | None:
    """An arm's scores less another's, each with its judgement; None where one is missing."""
    said = []
    for metric in metrics:
        if gain := difference(results, arm, other, metric):
            seeds = len(seed_differences(results, arm, other, "overall", metric))
            found = f"{judged(gain)} ({estimate(gain, signed=True)})"
            said.append(f"{METRICS[metric]} {found}{one_seed(seeds)}")
    return ", ".join(said) or None
