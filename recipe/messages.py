"""Prompts with ``<image>`` marks, as chat templates take them."""

import re
from typing import Any

_INSTRUCTION = re.compile(r"Reason in <think></think>.*?\. Then (\w)", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


def content_parts(content: str) -> list[dict[str, str]]:
    """Split a text at its ``<image>`` marks into parts of type image and text."""
    parts: list[dict[str, str]] = []
    for position, text in enumerate(content.split("<image>")):
        if position:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def prompt_text(messages: list[dict[str, Any]], processor: Any) -> str:
    """The text of a prompt under the processor's chat template, one placeholder for each image."""
    structured = [{"role": m["role"], "content": content_parts(m["content"])} for m in messages]
    text: str = processor.apply_chat_template(
        structured, add_generation_prompt=True, tokenize=False
    )
    return text


def without_reasoning(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages that ask for no reasoning and have none: the prompt's instruction and thoughts go.

    Raises:
        ValueError: a prompt has no such instruction; it was made with other templates.
    """
    changed = []
    for message in messages:
        text = str(message["content"])
        if message["role"] == "user":
            text, count = _INSTRUCTION.subn(lambda match: match[1].upper(), text, count=1)
            if not count:
                raise ValueError(
                    "data.reasoning=false: a prompt does not ask for a reasoning in the words of "
                    "configs/prompts/thinkvg: prepare the data with --prompts thinkvg"
                )
        else:
            text = _THOUGHT.sub("", text)
        changed.append({**message, "content": text})
    return changed
