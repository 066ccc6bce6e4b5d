"""The tables of docs/results.md on arms, on differences between them, and on training."""

import statistics
from collections import Counter
from collections.abc import Callable

from recipe.evaluation.markdown import NONE, estimate, lines
from recipe.study.arms import ARMS, BY_NAME, BY_SHARE, NO_REASONING
from recipe.study.numbers import (
    Results,
    all_seeds,
    arm_estimate,
    difference,
    seed_differences,
    seed_values,
)

METRICS = {
    "a_score": "A-score",
    "v_score": "V-score",
    "iou_75": "IoU > 0.75",
    "reward": "reward, greedy",
    "reward_sampled": "reward, sampled",
}
TYPES = ("closed", "single", "multi", "open")
SAMPLED = {"pass_at_1": "pass@1", "pass_at_4": "pass@4", "majority_vote": "majority vote of 4"}
PAIRS = (
    ("dense-full", "sft-full"),
    ("paper-full", "sft-full"),
    *((f"dense-{fraction}", f"sft-{fraction}") for fraction in BY_SHARE if fraction != "full"),
    ("paper-full", "dense-full"),
    ("no_think_grounding", "dense-full"),
    ("no_alignment", "dense-full"),
    (NO_REASONING, f"sft-{NO_REASONING}"),
    ("sft-full", f"sft-{NO_REASONING}"),
    ("dense-full", NO_REASONING),
    ("rl-full", "base"),
)
"""What is told from what: GRPO from SFT, each reward from `dense`, reasoning from none."""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, or a word that there is nothing to put into it."""
    return lines(header, rows) if rows else "No results.\n"


def arms_table(results: Results) -> str:
    """Every arm's metrics over all questions."""
    rows = [
        [arm.title, *(_cell(results, arm.name, metric) for metric in METRICS)]
        for arm in ARMS
        if arm.name in results
    ]
    return table(["", *METRICS.values()], rows)


def samples_table(results: Results) -> str:
    """Right answers among four samples, for each arm."""
    return _plain_table(results, SAMPLED, lambda key: ("samples", "overall", key, "mean"))


def types_table(results: Results) -> str:
    """A-score of greedy answers for each question type and arm."""
    titles = dict(zip(TYPES, TYPES, strict=True))
    return _plain_table(results, titles, lambda key: ("intervals", key, "a_score", "mean"))


def flags(results: Results) -> str:
    """Which arms do no better than which controls, and under how many seeds."""
    said = [
        f"- {arm.title}: {METRICS[metric]} no better than {controls}."
        for arm in ARMS
        for metric in ("a_score", "v_score")
        if (controls := flagged(results, arm.name, metric))
    ]
    if not said:
        return "In A- and V-score over all questions, each of these arms beats all its controls.\n"
    intro = "Arms that do not clearly beat a baseline or control, over all questions:"
    return f"{intro}\n\n" + "\n".join(said) + "\n"


def flagged(results: Results, arm: str, metric: str) -> str:
    """The controls that an arm does not clearly beat, with the number of seeds; "" for none."""
    runs = results.get(arm, {}).values()
    counts = Counter(title for run in runs for title in run["no_better_than"][metric])
    runs_in_all = f"{len(runs)} {'seed' if len(runs) == 1 else 'seeds'}"
    return "; ".join(f"{title} ({count} of {runs_in_all})" for title, count in counts.items())


def differences_table(results: Results) -> str:
    """What one arm has more than another, for each pair that tells something."""
    rows = [
        [
            f"{BY_NAME[arm].title} *less* {BY_NAME[other].title}",
            *(gain_cell(results, arm, other, metric) for metric in METRICS),
        ]
        for arm, other in PAIRS
        if seed_differences(results, arm, other, "overall", "a_score")
    ]
    return table(["", *METRICS.values()], rows)


def gain_cell(results: Results, arm: str, other: str, metric: str) -> str:
    """What an arm has more than another: mean, interval, and each seed's difference."""
    if not (_is_told(arm, metric) and _is_told(other, metric)):
        return NONE
    if not (values := seed_differences(results, arm, other, "overall", metric)):
        return NONE
    said = estimate(difference(results, arm, other, metric), signed=True)
    return f"{said}; {_seeds(results, values, '+')}"


def curves_table(results: Results) -> str:
    """How the training rollouts' reward went, from the first to the last fifth of the steps."""
    rows = []
    for arm in ("paper-full", "dense-full"):
        for seed, result in sorted(results.get(arm, {}).items()):
            cells = [
                _ends(result["curves"].get(key, [])) for key in ("score", "answer", "mean_iou")
            ]
            rows.append([f"{BY_NAME[arm].title}, seed {seed}", *cells])
    return table(["", "its own reward", "its answer component", "mean IoU"], rows)


def without_format(results: Results) -> str:
    """The arms that hardly ever write the form; those without reasoning never do, by design."""
    shares = {
        arm.title: statistics.fmean(values.values())
        for arm in ARMS
        if arm.variant != NO_REASONING
        and (values := seed_values(results, arm.name, "overall", "format"))
    }
    said = ", ".join(f"{title} ({share:.3f})" for title, share in shares.items() if share < 0.1)
    return (
        f"Share of greedy answers in the strict form: {said}. With hardly an answer in it, A- and "
        "V-score are near 0 and GRPO has little to reinforce.\n"
        if said
        else ""
    )


def _plain_table(
    results: Results, titles: dict[str, str], keys: Callable[[str], tuple[str, ...]]
) -> str:
    """Mean over the seeds and each seed's value."""
    rows = []
    for arm in ARMS:
        if arm.name in results:
            found = (seed_values(results, arm.name, *keys(key)) for key in titles)
            rows.append([arm.title, *(_mean_and_seeds(results, values) for values in found)])
    return table(["", *titles.values()], rows)


def _is_told(arm: str, metric: str) -> bool:
    """Whether a metric means anything: `dense` pays for a reasoning that some arms never write."""
    return not (BY_NAME[arm].variant == NO_REASONING and metric.startswith("reward"))


def _cell(results: Results, arm: str, metric: str) -> str:
    if not _is_told(arm, metric):
        return NONE
    values = seed_values(results, arm, "overall", metric)
    return f"{estimate(arm_estimate(results, arm, metric))}; {_seeds(results, values)}"


def _mean_and_seeds(results: Results, values: dict[int, float]) -> str:
    if not values:
        return NONE
    return f"{statistics.fmean(values.values()):.3f}; {_seeds(results, values)}"


def _seeds(results: Results, values: dict[int, float], sign: str = "") -> str:
    """A value for each seed of the page, so that places tell the seeds."""
    return " ".join(
        f"{values[seed]:{sign}.3f}" if seed in values else NONE for seed in all_seeds(results)
    )


def _ends(curve: list[float | None]) -> str:
    values = [value for value in curve if value is not None]
    if not values:
        return NONE
    part = max(1, len(values) // 5)
    return f"{sum(values[:part]) / part:.3f} to {sum(values[-part:]) / part:.3f}"
