"""verl's multi-turn SFT dataset, which checks the chat template once instead of at every row.

verl tokenizes each row a second time as a whole, image included, to see that the turns add up to
the conversation. That depends on the chat template, not on the row: the first rows are enough, and
the second pass is half of the time that a small model's data takes.
"""

from typing import Any

from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

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
        if not config.get("reasoning", True):
            self.messages = [without_reasoning(messages) for messages in self.messages]
        self._unchecked = CHECKED_ROWS

    def sanity_check(self, *args: Any, **kwargs: Any) -> None:
        if self._unchecked > 0:
            self._unchecked -= 1
            super().sanity_check(*args, **kwargs)
