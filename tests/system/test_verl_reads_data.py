"""verl's own datasets read what data_prep writes, and their length filter brings no surprise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from reward.ground_truth import GroundTruth

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def processor(workspace: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(workspace / "model")


@pytest.fixture(scope="module", params=["paths", "bytes"])
def prepared(
    request: pytest.FixtureRequest, workspace: Path, run: Run, tmp_path_factory: Any
) -> Path:
    """The phantom set with token lengths, images of several sizes as paths or as bytes."""
    out: Path = tmp_path_factory.mktemp(request.param)
    phantom = workspace / "phantom"
    options = ["--tokenizer", str(workspace / "model"), "--min-pixels", "3136", "--max-pixels"]
    finished = run(
        "data_prep.thinkvg",
        *("--source", str(phantom), "--images", str(phantom), "--out", str(out)),
        *(*options, "40000", *(["--embed-images"] if request.param == "bytes" else [])),
    )
    assert finished.returncode == 0, finished.stdout
    return out


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def rollouts(file: Path, processor: Any, limit: int, cache: Path) -> Any:
    from verl.utils.dataset.rl_dataset import RLHFDataset

    settings = {
        "cache_dir": str(cache),
        "max_prompt_length": limit,
        "filter_overlong_prompts": True,
        "filter_overlong_prompts_workers": 1,
        "return_raw_chat": True,
        "truncation": "error",
    }
    config = OmegaConf.create(settings)
    return RLHFDataset(str(file), processor.tokenizer, config, processor=processor)


def test_verls_length_filter_drops_what_was_announced_and_nothing_else(
    prepared: Path, processor: Any, tmp_path: Path
) -> None:
    file = prepared / "train.parquet"
    lengths = {
        row["extra_info"]["index"]: row["extra_info"]["prompt_tokens"] for row in rows_of(file)
    }
    # Exactly at a length that occurs, so that a count that is off by one shows.
    limit = sorted(lengths.values())[len(lengths) // 2]
    dataset = rollouts(file, processor, limit, tmp_path)
    kept = {info["index"] for info in dataset.dataframe["extra_info"]}
    assert kept == {index for index, tokens in lengths.items() if tokens <= limit}
    assert 0 < len(kept) < len(lengths)
    everything = rollouts(file, processor, max(lengths.values()), tmp_path)
    assert len(everything) == len(lengths)


def test_verl_gets_each_image_at_the_size_that_boxes_were_written_for(
    prepared: Path, processor: Any, tmp_path: Path
) -> None:
    from verl.utils.dataset.vision_utils import process_image

    file = prepared / "val.parquet"
    dataset = rollouts(file, processor, 4096, tmp_path)
    rows = rows_of(file)
    assert len(dataset) == len(rows) > 0
    sizes = set()
    for row, item in zip(rows, dataset, strict=True):
        assert item["reward_model"]["ground_truth"] == row["reward_model"]["ground_truth"]
        assert item["data_source"] == "thinkvg"
        size = GroundTruth.parse(row["reward_model"]["ground_truth"]).image_size
        assert process_image(dict(row["images"][0]), image_patch_size=14).size == size
        sizes.add(size)
    assert len(sizes) > 1


def test_verls_sft_dataset_reads_every_row(prepared: Path, processor: Any) -> None:
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    file = prepared / "sft_val.parquet"
    settings = {"max_length": 4096, "truncation": "error", "pad_mode": "no_padding"}
    dataset = MultiTurnSFTDataset(
        str(file), processor.tokenizer, OmegaConf.create(settings), processor=processor
    )
    rows = rows_of(file)
    assert len(dataset) == len(rows) > 0
    for row, item in zip(rows, dataset, strict=True):
        info = row["extra_info"]
        # The prompt, the response, and what the template puts after it.
        length = len(item["input_ids"])
        told = info["prompt_tokens"] + info["response_tokens"]
        assert told < length <= told + 4
        text = processor.tokenizer.decode(item["input_ids"], skip_special_tokens=True)
        assert info["question"].split()[-1] in text


def test_without_reasoning_nothing_asks_for_one_or_has_one(workspace: Path, processor: Any) -> None:
    from recipe.data.datasets import GroundedRLHFDataset, GroundedSFTDataset
    from recipe.program import compose_config

    given = [f"data.dir={workspace / 'data'}", "model.path=MODEL", "cluster=cpu"]
    given += [f"run_dir={workspace / 'no_reasoning'}"]
    train = compose_config("train", [*given, "ablation=no_reasoning"]).data
    rollout = GroundedRLHFDataset(train.train_files, processor.tokenizer, train, processor)
    asked = rollout[0]["raw_prompt"][0]["content"]
    assert not any("think" in part.get("text", "") for part in asked)
    assert any(part["type"] == "image" for part in asked)
    sft = compose_config("sft", [*given, "data.reasoning=false"]).data
    data = GroundedSFTDataset(sft.train_files, processor.tokenizer, sft, processor)
    text = processor.tokenizer.decode(data[0]["input_ids"])
    assert "<think>" not in text, text
    assert "<answer>" in text
