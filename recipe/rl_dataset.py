"""verl's rollout dataset with a prompt-length filter that is fast and loses nothing silently.

verl measures a prompt by loading its image and running the whole processor, and drops a row whose
image fails without a word. The number of image tokens follows from the image size that data_prep
wrote into the ground truth, so no image is opened here, and every dropped row is listed in a file.
"""

import json
from pathlib import Path
from typing import Any

import datasets
from verl.utils.dataset.rl_dataset import RLHFDataset

from recipe.evaluation.files import write_text_atomically
from recipe.messages import prompt_text, without_reasoning


def prompt_length(row: dict[str, Any], processor: Any) -> int:
    """Tokens of a row's prompt with its image.

    Args:
        row: of a rollout parquet, with one ``<image>`` in its prompt.
        processor: the model's processor; its patch and merge size give pixels per image token.
    """
    text = prompt_text(row["prompt"], processor)
    tokens = len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    images = processor.image_processor
    factor = images.patch_size * images.merge_size
    width, height = json.loads(row["reward_model"]["ground_truth"])["image_size"]
    placeholders = len(row["images"])
    return int(tokens + placeholders * (width // factor) * (height // factor) - placeholders)


class GroundedRLHFDataset(RLHFDataset):
    """Drops prompts above ``data.max_prompt_length`` and lists them in ``data.overlong_dir``."""

    def maybe_filter_out_long_prompts(self, dataframe: datasets.Dataset) -> datasets.Dataset:
        """Rows whose prompts fit; the others go to ``overlong_dir/FILE.jsonl``.

        With ``data.reasoning=false`` prompts no longer ask for a reasoning.

        Raises:
            ValueError: no row fits.
        """
        if not self.config.get("reasoning", True):
            dataframe = dataframe.map(
                lambda row: {"prompt": without_reasoning(row["prompt"])}, load_from_cache_file=False
            )
        if not self.filter_overlong_prompts:
            return dataframe
        lengths = [prompt_length(row, self.processor) for row in dataframe]
        limit = self.max_prompt_length
        dropped = [
            {"index": index, "tokens": tokens}
            for index, tokens in zip(
                (info["index"] for info in dataframe["extra_info"]), lengths, strict=True
            )
            if tokens > limit
        ]
        self._list_dropped(dropped, len(lengths))
        return dataframe.select([i for i, tokens in enumerate(lengths) if tokens <= limit])

    def _list_dropped(self, dropped: list[dict[str, int]], total: int) -> None:
        name = Path(str(self.original_data_files[0])).stem
        listed = Path(self.config.overlong_dir) / f"{name}.jsonl"
        listed.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(listed, "".join(json.dumps(row) + "\n" for row in dropped))
        message = (
            f"{name}: {total} rows, {total - len(dropped)} used, {len(dropped)} prompts longer "
            f"than data.max_prompt_length={self.max_prompt_length}, listed in {listed}"
        )
        print(message, flush=True)
        if len(dropped) == total:
            raise ValueError(f"{message}: raise data.max_prompt_length")
