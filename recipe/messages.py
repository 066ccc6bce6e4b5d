"""Prompts with ``<image>`` marks, as chat templates take them."""

from typing import Any


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
