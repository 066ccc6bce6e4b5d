"""verl's datasets for rollouts and for SFT, which leave out no row silently."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from verl.utils.dataset.multiturn_sft_dataset import (
    MultiTurnSFTDataset,
    convert_nested_value_to_list_recursive,
)
from verl.utils.dataset.rl_dataset import RLHFDataset

from recipe.data.overlong import is_first_process, list_left_out, overlong_rows, token_side
from recipe.data.prompts import final_turn, prompt_text, response_prefix, without_reasoning
from reward.response import RESPONSE_PREFIX

# verl passes options to the processor in a way that transformers warns about for every message of
# every row; the result is the same.
logging.getLogger("transformers.processing_utils").addFilter(
    lambda record: "have to be in `processor_kwargs`" not in record.getMessage()
)

CHECKED_ROWS = 8
"""Rows of each process on which the chat template is checked."""

_PROBE = "<think>a</think>\n<answer>b</answer>"


def sample_of_all_kinds(kinds: Sequence[str], count: int, seed: int) -> list[int]:
    """Draw `count` rows with at least one of every kind, and return their numbers in order.

    With fewer rows than kinds, some kinds have none.
    """
    drawn = np.random.default_rng(seed).permutation(len(kinds)).tolist()
    first_of_kind = {kinds[row]: row for row in reversed(drawn)}
    required = sorted(first_of_kind.values(), key=drawn.index)
    further = [row for row in drawn if first_of_kind[kinds[row]] != row]
    return sorted([*required, *further][:count])


def prompt_length(row: dict[str, Any], processor: Any, **template: Any) -> int:
    """Count the tokens of the prompt of a rollout row, with its image."""
    text = prompt_text(row["prompt"], processor, **template)
    tokens = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    side = token_side(processor)
    width, height = json.loads(row["reward_model"]["ground_truth"])["image_size"]
    placeholders = len(row["images"])
    return int(tokens + placeholders * (width // side) * (height // side) - placeholders)


class GroundedRLHFDataset(RLHFDataset):
    """verl's dataset; too long prompts are left out and listed in ``data.overlong_dir``.

    The ``extra_info`` of a row has ``response_prefix``, the part of the response that its prompt
    already holds.
    """

    def __getitem__(self, item: int) -> dict[str, Any]:
        row: dict[str, Any] = super().__getitem__(item)
        templated = self.processor or self.tokenizer
        prompt = prompt_text(row["raw_prompt"], templated, **self.apply_chat_template_kwargs)
        row["extra_info"][RESPONSE_PREFIX] = response_prefix(prompt)
        return row

    def maybe_filter_out_long_prompts(self, dataframe: datasets.Dataset) -> datasets.Dataset:
        """Keep the rows whose prompts fit; list the others, see `list_left_out`.

        With ``data.reasoning=false`` prompts no longer ask for a reasoning.
        """
        if not self.config.get("reasoning", True):
            dataframe = dataframe.map(
                lambda row: {"prompt": without_reasoning(row["prompt"])}, load_from_cache_file=False
            )
        if not self.filter_overlong_prompts:
            return dataframe
        template = self.apply_chat_template_kwargs
        lengths = [prompt_length(row, self.processor, **template) for row in dataframe]
        limit = self.max_prompt_length
        indices = [info["index"] for info in dataframe["extra_info"]]
        overlong = [row for row in zip(indices, lengths, strict=True) if row[1] > limit]
        file, folder = str(self.original_data_files[0]), self.config.overlong_dir
        list_left_out(file, folder, overlong, len(lengths), f"data.max_prompt_length={limit}")
        return dataframe.select([i for i, tokens in enumerate(lengths) if tokens <= limit])


class GroundedSFTDataset(MultiTurnSFTDataset):
    """verl's dataset, which checks the chat template at the first rows only.

    verl tokenizes each complete row a second time, with its image, to check that the turns add up
    to the conversation. That depends on the template, not on the row, and is half of the time that
    a small model's data takes: the first `CHECKED_ROWS` rows of each process are enough.

    verl also applies the template to each message alone. Templates of thinking models drop the
    reasoning of an assistant's message without a question before it. With such a template a message
    is cut out of the complete conversation, after the prompt of generation, and the part of a
    response that the prompt holds is not trained on.

    With ``data.reasoning=false`` conversations have no reasoning. With
    ``data.filter_overlong_rows=true`` rows above ``data.max_length`` are left out and listed in
    ``data.overlong_dir``. Of more than `max_samples` rows, that many are drawn by ``data.seed``,
    where verl takes the first ones; all question types are among them.
    """

    dataframe: Any
    max_samples: int

    def __init__(
        self, parquet_files: Any, tokenizer: Any, config: Any, *args: Any, **kwargs: Any
    ) -> None:
        self._config = config
        self._reasoning = bool(config.get("reasoning", True))
        super().__init__(parquet_files, tokenizer, config, *args, **kwargs)
        self._unchecked = CHECKED_ROWS
        self._is_plain = _is_plain(
            self.processor or self.tokenizer, self.apply_chat_template_kwargs
        )

    def _read_files_and_process(self) -> None:
        count, self.max_samples = self.max_samples, -1
        super()._read_files_and_process()
        if self._config.get("filter_overlong_rows", False):
            self._keep(self._rows_that_fit())
        if 0 < count < len(self):
            kinds = [self._kind(row) for row in range(len(self))]
            self._keep(sample_of_all_kinds(kinds, count, int(self.seed or 0)))

    def _rows_that_fit(self) -> list[int]:
        """Return the rows that are not too long; the first process lists the others."""
        fitting: list[int] = []
        start = 0
        for file in self.parquet_files:
            overlong = overlong_rows(
                file, self.messages_key, self.max_length, self.processor, self._reasoning
            )
            total = pq.read_metadata(file).num_rows
            if is_first_process():
                limit = f"data.max_length={self.max_length}"
                rows = [(row.index, row.tokens) for row in overlong]
                list_left_out(file, self._config.overlong_dir, rows, total, limit)
            left_out = {row.row for row in overlong}
            fitting += [start + row for row in range(total) if row not in left_out]
            start += total
        return fitting

    def _kind(self, row: int) -> str:
        """Return the prompt without its question; this text identifies the question type."""
        question = self.dataframe["extra_info"].iloc[row]["question"]
        return str(self.messages[row][0]["content"]).replace(question, "", 1)

    def _keep(self, rows: Sequence[int]) -> None:
        self.dataframe = self.dataframe.iloc[list(rows)]
        for name in ("messages", "tools", "enable_thinking"):
            if (values := getattr(self, name)) is not None:
                setattr(self, name, [values[row] for row in rows])

    def _build_messages(self, example: dict[str, Any]) -> Any:
        if not self._reasoning:
            messages = convert_nested_value_to_list_recursive(example[self.messages_key])
            example = {**example, self.messages_key: without_reasoning(messages)}
        return super()._build_messages(example)

    def _process_single_message(
        self,
        index: int,
        message: dict[str, Any],
        full_message: list[dict[str, Any]],
        tools: Any = None,
        enable_thinking: bool | None = None,
    ) -> Any:
        if message["role"] != "assistant" or self._is_plain:
            return super()._process_single_message(
                index, message, full_message, tools, enable_thinking
            )
        template = {**self.apply_chat_template_kwargs}
        if enable_thinking is not None:
            template["enable_thinking"] = enable_thinking
        texts = final_turn(full_message[: index + 1], self.processor or self.tokenizer, **template)
        prompt_ids, response_ids = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts
        )
        ids = torch.tensor([*prompt_ids, *response_ids])
        is_trained = torch.arange(len(ids)) >= len(prompt_ids)
        return ids, is_trained.to(ids.dtype), torch.ones_like(ids), {}

    def sanity_check(self, *args: Any, **kwargs: Any) -> None:
        """Check a row as verl does, for the first `CHECKED_ROWS` rows only."""
        if self._unchecked > 0:
            self._unchecked -= 1
            super().sanity_check(*args, **kwargs)


def _is_plain(processor: Any, template: dict[str, Any]) -> bool:
    """Return whether a template leaves responses unchanged, also in a message alone."""
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _PROBE}]
    prompt = prompt_text(messages[:1], processor, **template)
    options = {**template, "add_generation_prompt": False}
    try:
        alone = prompt_text(messages[1:], processor, **options)
    except Exception:  # an error of Jinja if the template requires a question first
        return False
    return _PROBE in alone and prompt_text(messages, processor, **options).startswith(
        prompt + _PROBE
    )
