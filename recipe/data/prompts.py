"""Prompts with ``<image>`` marks for chat templates, and what a template does to responses.

Templates of thinking models change a response: they open ``<think>`` in the prompt, close it there
at once if thinking is off, or rewrite it in the response. Training reads the form of a response
from prompt and response together, so that a template may make it impossible.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.program import InputError
from recipe.program import plain
from reward.response import Region, parse_response, render_response

_INSTRUCTION = re.compile(r"Reason in <think></think>.*?\. Then (\w)", re.DOTALL)
_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
_BEGUN = re.compile(r"<think>\s*(?:</think>\s*)?\Z")

_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_END = "</location>"
_QUESTION = {"role": "user", "content": "Is there an opacity?"}


def content_parts(content: str) -> list[dict[str, str]]:
    """Split a text at its ``<image>`` marks into parts of type image and text."""
    parts: list[dict[str, str]] = []
    for position, text in enumerate(content.split("<image>")):
        if position:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def prompt_text(messages: list[dict[str, Any]], processor: Any, **template: Any) -> str:
    """Return the text of a prompt under a chat template, one placeholder for each image.

    Contents of messages are texts with ``<image>`` marks, or lists of parts. `template` has further
    arguments of ``apply_chat_template``.
    """
    structured = [
        message | {"content": content_parts(message["content"])}
        if isinstance(message["content"], str)
        else message
        for message in messages
    ]
    options = {"add_generation_prompt": True, **template}
    return processor.apply_chat_template(structured, tokenize=False, **options)


def response_prefix(prompt: str) -> str:
    """Return the end of a prompt that already belongs to the response; empty without one.

    Templates of thinking models open ``<think>`` there; without thinking, some close it at once.
    """
    match = _BEGUN.search(prompt)
    return match[0] if match else ""


def without_reasoning(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove reasoning from messages, and from their prompt the instruction to reason.

    Raises:
        ValueError: a prompt has no such instruction, since other templates made it.
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


def final_turn(messages: list[dict[str, Any]], processor: Any, **template: Any) -> tuple[str, str]:
    """Split the last message, the assistant's, into what ends the prompt and what the model writes.

    Raises:
        ValueError: the text of the conversation does not begin with its prompt.
    """
    context = prompt_text(messages[:-1], processor, add_generation_prompt=False, **template)
    prompt = prompt_text(messages[:-1], processor, **template)
    conversation = prompt_text(messages, processor, add_generation_prompt=False, **template)
    if not prompt.startswith(context) or not conversation.startswith(prompt):
        raise ValueError(
            f"the chat template ends prompts with {prompt[-40:]!r}, and does not begin responses "
            "with that"
        )
    return prompt[len(context) :], conversation[len(prompt) :]


def template_faults(
    processor: Any, template: Mapping[str, Any], program: str, reasoning: bool = True
) -> list[str]:
    """Return why a chat template does not fit this recipe's responses, as one line or none.

    In the program ``sft`` the template also has to keep responses as they are.
    """
    prefix = response_prefix(prompt_text([_QUESTION], processor, **template))
    if reasoning and "</think>" in prefix:
        return [
            "the chat template closes <think> in the prompt, so no response can have a reasoning: "
            "set +data.apply_chat_template_kwargs.enable_thinking=true, or data.reasoning=false"
        ]
    fault = _fault_of_writing(processor, template, prefix, reasoning) if program == "sft" else ""
    if not fault:
        return []
    return [f"{fault}: set model.custom_chat_template to one that keeps <think> in responses"]


def _fault_of_writing(
    processor: Any, template: Mapping[str, Any], prefix: str, reasoning: bool
) -> str:
    """Return how a template changes the responses of SFT; empty if it keeps them."""
    response = render_response("It is clear.", "No", [Region("left lung", (1, 2, 3, 4))])
    response = response if reasoning else response.partition("</think>\n")[2]
    conversation = [_QUESTION, {"role": "assistant", "content": response}]
    try:
        _, written = final_turn(conversation, processor, **template)
    except ValueError as error:
        return str(error)
    after_template, original = (
        parse_response(text) for text in (f"{prefix}{written.partition(_END)[0]}{_END}", response)
    )
    parts = [(text.think or "", *text[1:3]) for text in (after_template, original)]
    if parts[0] == parts[1] and after_template.well_formed == reasoning:
        return ""
    return "the chat template changes responses"


def check_chat_template(config: DictConfig, program: str) -> None:
    """Refuse a chat template with ``<think>`` in it, of a local model folder, that does not fit."""
    model = config.actor_rollout_ref.model if program == "train" else config.model
    folder, custom = Path(config.model.path), model.get("custom_chat_template")
    if not folder.is_dir():
        return
    files = (folder / name for name in _FILES)
    template_text = custom or "".join(file.read_text("utf-8") for file in files if file.is_file())
    if "think>" not in template_text:
        return
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"model.path={folder}: its processor does not load ({error})") from error
    if custom:
        processor.chat_template = custom
    template = plain(config.data.apply_chat_template_kwargs)
    reasoning = bool(config.data.get("reasoning", True))
    for fault in template_faults(processor, template, program, reasoning):
        raise InputError(f"model.path={folder}: {fault}")
