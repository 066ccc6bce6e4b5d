"""What several samples of an answer are worth: pass@k and the majority vote."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from math import comb

import pandas as pd

from recipe.errors import InputError
from recipe.evaluation.metrics import answer_correct
from recipe.evaluation.predictions import Prediction
from reward.answers import parse_yes_no
from reward.choices import parse_letters
from reward.ground_truth import GroundTruth
from reward.phrases import canonical
from reward.response import parse_response

MAJORITY = "majority_vote"


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Probability that one of `k` samples is right, drawn from `samples` of which `right` are.

    The unbiased estimate 1 - C(n-c, k) / C(n, k) (Chen et al., Evaluating Large Language Models
    Trained on Code, 2021).
    """
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def sample_values(predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row per question, indexed by its id.

    Returns:
        Columns: `patient`, `question_type`, `pass_at_K` for K = 1, 2, 4 … up to the number of
        samples, and `majority_vote` (1 where the commonest answer is right).

    Raises:
        InputError: questions have different numbers of samples.
    """
    groups: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        groups[prediction.id].append(prediction)
    counts = {len(found) for found in groups.values()}
    if len(counts) != 1:
        raise InputError(
            f"the samples: between {min(counts, default=0)} and {max(counts, default=0)} for a "
            "question; generate the same number for all"
        )
    samples = counts.pop()
    ks = [k for k in (2**power for power in range(20)) if k <= samples]
    return pd.DataFrame({key: _row(found, ks) for key, found in groups.items()}).T.infer_objects()


def _row(samples: list[Prediction], ks: list[int]) -> dict[str, str | float]:
    first = samples[0]
    right = [answer_correct(prediction) for prediction in samples]
    return {
        "patient": first.patient,
        "question_type": first.question_type,
        **{f"pass_at_{k}": pass_at_k(len(samples), sum(right), k) for k in ks},
        MAJORITY: float(right[vote(samples)]),
    }


def vote(samples: Sequence[Prediction]) -> int:
    """Position of the first sample with the commonest answer; of equally common ones the earliest.

    Answers are the same if they are read as the same side, set of letters, or words. A sample
    without a readable answer has no vote, unless all are such.
    """
    truth = samples[0].truth
    answers = [_read(parse_response(sample.response).answer, truth) for sample in samples]
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return 0
    most = max(counts.values())
    return next(i for i, answer in enumerate(answers) if answer and counts[answer] == most)


def _read(answer: str | None, truth: GroundTruth) -> Hashable:
    """An answer in a form in which equal ones are equal, None where it says nothing."""
    if answer is None or not answer.strip():
        return None
    if truth.question_type == "closed":
        return parse_yes_no(answer)
    if truth.question_type == "open":
        return canonical(answer).strip(" .") or None
    return parse_letters(answer, truth.choices) or None
