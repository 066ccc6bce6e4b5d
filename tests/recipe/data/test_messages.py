"""Prompts and conversations without a reasoning."""

import pytest

from data_prep.rows.prompts import load_templates
from recipe.data.prompts import without_reasoning
from reward.ground_truth import QUESTION_TYPES

RESPONSE = "<think>clear at [1, 2, 3, 4]</think>\n<answer>Yes</answer>\n<location></location>"


@pytest.mark.parametrize("kind", QUESTION_TYPES)
@pytest.mark.parametrize("coordinates", ["absolute", "norm1000"])
def test_the_shipped_prompts_lose_their_instruction(kind: str, coordinates: str) -> None:
    prompt = load_templates().render("Is it clear? Then why.", kind, coordinates)
    (message,) = without_reasoning([{"role": "user", "content": prompt}])
    assert "think" not in message["content"]
    assert "Is it clear? Then why." in message["content"]
    assert "nswer" in message["content"]
    assert "<location>" in message["content"]
    assert message["content"].count("<image>") == 1


def test_a_response_loses_its_reasoning_only() -> None:
    prompt = load_templates().render("Is it clear?", "closed", "absolute")
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": RESPONSE}]
    assert without_reasoning(messages)[1]["content"] == (
        "<answer>Yes</answer>\n<location></location>"
    )


def test_a_prompt_of_other_templates_is_refused() -> None:
    with pytest.raises(ValueError, match="--prompts thinkvg"):
        without_reasoning([{"role": "user", "content": "<image>\nWhat is this?"}])
