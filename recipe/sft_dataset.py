"""verl's multi-turn SFT dataset, which checks the chat template once instead of at every row.

verl tokenizes each row a second time as a whole, image included, to see that the turns add up to
the conversation. That depends on the chat template, not on the row: the first rows are enough, and
the second pass is half of the time that a small model's data takes.
"""

from typing import Any

from verl.utils.dataset.multiturn_sft_dataset import (
    MultiTurnSFTDataset,
    convert_nested_value_to_list_recursive,
)

from recipe.messages import without_reasoning

CHECKED_ROWS = 8


class GroundedSFTDataset(MultiTurnSFTDataset):
    """Checks the template at the first `CHECKED_ROWS` rows of each process.

    With ``data.reasoning=false`` conversations lose their reasoning.
    """

    def __init__(
        self, parquet_files: Any, tokenizer: Any, config: Any, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(parquet_files, tokenizer, config, *args, **kwargs)
        self._reasoning = bool(config.get("reasoning", True))
        self._unchecked = CHECKED_ROWS

    def _build_messages(self, example: dict[str, Any]) -> Any:
        if not self._reasoning:
            messages = convert_nested_value_to_list_recursive(example[self.messages_key])
            example = {**example, self.messages_key: without_reasoning(messages)}
        return super()._build_messages(example)

    def sanity_check(self, *args: Any, **kwargs: Any) -> None:
        if self._unchecked > 0:
            self._unchecked -= 1
            super().sanity_check(*args, **kwargs)
