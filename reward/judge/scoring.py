"""What the judge changes in a result: the answer, where asked for the alignment, and the counts."""

from collections.abc import Mapping
from typing import Any

from reward.answers import LONGEST_ANSWER
from reward.ground_truth import GroundTruth
from reward.judge.faults import JudgeFault
from reward.judge.prompt import make_case
from reward.judge.sessions import judge_for
from reward.judge.settings import JudgeSettings
from reward.response import Response


async def judged_components(
    response: Response,
    truth: GroundTruth,
    extra_info: Mapping[str, Any] | None,
    alignment: float,
    settings: JudgeSettings,
) -> dict[str, float]:
    """Return the keys of a result that the judge decides; the others stay as they are.

    `answer` is 1 or 0 for the question types that are judged. With `judge.alignment`, the
    `alignment` found by rule counts only where the judge finds the answer supported. A response
    without an answer, or with one of more than `LONGEST_ANSWER` characters, is 0 by rule and not
    sent. Where the judge gives no verdict, only `judge_failed` changes.
    """
    decides_answer = truth.question_type in settings.question_types
    decides_alignment = settings.alignment and bool(response.think) and alignment > 0
    is_answered = bool((response.answer or "").strip())
    if not is_answered or len(response.answer or "") > LONGEST_ANSWER:
        return {}
    if not decides_answer and not decides_alignment:
        return {}
    case = make_case(response, truth, extra_info, settings.reasoning)
    try:
        verdict = await judge_for(settings).ask(case)
    except JudgeFault:
        return {"judge_failed": 1.0}
    decided = {"judge_used": 1.0}
    if decides_answer:
        decided["answer"] = verdict.reward(settings.score_difference)
    if decides_alignment:
        decided["alignment"] = alignment * float(bool(verdict.supported))
    return decided
