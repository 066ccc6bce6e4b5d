"""Answers are kept as they come, and an evaluation goes on where an earlier one ended."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from data_prep.program import InputError, encode_metadata, lock
from recipe.evaluate import __main__ as program
from recipe.evaluate.answers import Journal, ask_all, journal_file, weights_of
from recipe.evaluate.checks import follow_training
from recipe.evaluate.generation import Keep, Prompt, Response, read_prompts
from recipe.evaluate.predictions import Prediction, read_predictions, write_predictions
from recipe.program import compose_config

TRUTH = json.dumps({"question_type": "closed", "answer": "Yes", "image_size": [9, 9]})


class Echo:
    """A model that answers with the question's index, and stops after `most` answers."""

    def __init__(self, most: int = 99) -> None:
        self.most = most
        self.asked: list[int] = []

    def answer(
        self, prompts: Sequence[Prompt], *, temperature: float, samples: int, keep: Keep
    ) -> None:
        for prompt in prompts:
            if len(self.asked) == self.most:
                raise InputError("ended")
            self.asked.append(prompt.index)
            if prompt.index != 4:  # has no answer
                keep(prompt, [Response(f"{prompt.index}.{k}", k == 1) for k in range(samples)])


@pytest.fixture
def prompts() -> list[Prompt]:
    return [Prompt(i, [{"role": "user", "content": f"{i}?"}], [], TRUTH, {}) for i in range(5)]


def ask(model: Any, prompts: list[Prompt], out: Path, **asked: Any) -> list[Prediction]:
    return ask_all(model, prompts, name="greedy", temperature=0.0, samples=2, out=out, asked=asked)


def test_only_what_is_missing_is_asked_again(prompts: list[Prompt], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ended"):
        ask(Echo(most=3), prompts, tmp_path, weights="a")
    with journal_file(tmp_path, "greedy").open("a") as file:
        file.write('{"index": 3, "respon')  # a killed program's last line
    model = Echo()
    predictions = ask(model, prompts, tmp_path, weights="a")
    assert model.asked == [3, 4]
    assert [(p.index, p.sample, p.response, p.is_cut) for p in predictions] == [
        *((i, k, f"{i}.{k}", k == 1) for i in range(4) for k in range(2)),
        *((4, k, "", False) for k in range(2)),
    ]


def test_answers_of_another_model_or_to_other_questions_are_not_taken(
    prompts: list[Prompt], tmp_path: Path
) -> None:
    ask(Echo(), prompts[:4], tmp_path, weights="a")
    for again, weights, count in ((prompts[:4], "a", 0), (prompts, "a", 5), (prompts, "b", 5)):
        model = Echo()
        ask(model, again, tmp_path, weights=weights)
        assert len(model.asked) == count


def test_a_journal_keeps_half_of_a_character(tmp_path: Path) -> None:
    Journal(tmp_path / "j", {}).add(1, [Response("\ud83d")])
    assert Journal(tmp_path / "j", {}).responses == {1: [Response("\ud83d")]}


def test_new_weights_are_another_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_text("a")
    before = weights_of(str(tmp_path))
    assert weights_of(str(tmp_path)) == before
    os.utime(weights, (1, 1))
    assert weights_of(str(tmp_path)) != before
    assert weights_of("Qwen/Qwen2.5-VL-7B-Instruct") == ["Qwen/Qwen2.5-VL-7B-Instruct"]


def test_a_longer_time_limit_keeps_the_answers_of_a_server() -> None:
    def asked(*overrides: str) -> Any:
        base = ["data.dir=D", "server.base_url=http://127.0.0.1:9/v1"]
        return program._identity(compose_config("evaluate", [*base, *overrides]))[1]

    assert asked() == asked("server.timeout_s=900", "server.max_failed_share=0.1")
    assert asked() != asked("server.model=other")
    assert asked() != asked("data.max_response_length=64")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run without reasoning, with a checkpoint."""
    model = tmp_path / "run" / "checkpoints" / "global_step_1" / "huggingface"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text("")
    config = tmp_path / "run" / ".hydra" / "config.yaml"
    config.parent.mkdir()
    config.write_text(
        "data:\n  reasoning: false\n  apply_chat_template_kwargs: {enable_thinking: false, a: 1}\n"
    )
    return tmp_path / "run"


def config_of(path: Path, *overrides: str) -> DictConfig:
    return compose_config("evaluate", ["data.dir=D", f"model.path={path}", *overrides])


def test_a_checkpoint_is_asked_as_it_was_trained(run: Path, tmp_path: Path) -> None:
    config = config_of(run, "+data.apply_chat_template_kwargs.a=2")
    follow_training(config)
    assert config.data.reasoning is False
    assert config.data.apply_chat_template_kwargs == {"enable_thinking": False, "a": 2}
    config = config_of(run, "data.reasoning=true")
    follow_training(config)
    assert config.data.reasoning is True
    (run / ".hydra" / "config.yaml").unlink()
    config = config_of(run)
    follow_training(config)
    assert config.data.reasoning is True


def test_prompts_without_reasoning_do_not_ask_for_one(write_rows: Any) -> None:
    path = write_rows("Is it clear? Reason in <think></think> first. Then answer.")
    (with_reasoning,) = read_prompts(path)
    (without,) = read_prompts(path, reasoning=False)
    assert "<think>" in with_reasoning.messages[0]["content"]
    assert without.messages[0]["content"] == "Is it clear? Answer."
    path = write_rows("Is it clear?")
    with pytest.raises(InputError, match=r"val\.parquet: data\.reasoning=false: a prompt does not"):
        read_prompts(path, reasoning=False)


@pytest.fixture
def write_rows(tmp_path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(question: str) -> Path:
        row = {
            "data_source": "thinkvg",
            "ability": "closed",
            "prompt": [{"role": "user", "content": question}],
            "images": [{"image": "a.png", "min_pixels": 1, "max_pixels": 2}],
            "reward_model": {"ground_truth": TRUTH},
            "extra_info": {"index": 0},
        }
        table = pa.Table.from_pylist([row]).replace_schema_metadata(encode_metadata({}))
        pq.write_table(table, tmp_path / "val.parquet")
        return tmp_path / "val.parquet"

    return write


def test_files_of_an_earlier_evaluation_go_unless_they_are_scored_again(
    make_prediction: Any, tmp_path: Path
) -> None:
    for keep, left in ((str(tmp_path), True), (None, False)):
        write_predictions(tmp_path / "sampled.jsonl", [make_prediction(0)])
        (tmp_path / "metrics.json").write_text("{}")
        program._clear(tmp_path, keep)
        assert (tmp_path / "sampled.jsonl").is_file() == left
        assert not (tmp_path / "metrics.json").exists()


def test_what_was_evaluated_stays_known_when_it_is_scored_again(
    make_prediction: Any, tmp_path: Path
) -> None:
    write_predictions(tmp_path / "greedy.jsonl", [make_prediction(0)])
    about, runs = program._read(tmp_path)
    assert about == {"model": str(tmp_path)}
    assert list(runs) == ["greedy"]
    (tmp_path / "metrics.json").write_text('{"model": "run", "checkpoint": "C", "split": "s"}')
    assert program._read(tmp_path)[0] == {"model": "run", "checkpoint": "C"}
    assert read_predictions(tmp_path / "greedy.jsonl") == runs["greedy"]


def test_two_evaluations_do_not_share_a_folder(
    write_rows: Any, make_prediction: Any, tmp_path: Path
) -> None:
    split = write_rows("Is it clear?")
    split.rename(tmp_path / "train.parquet")
    write_rows("Is it clear?")
    write_predictions(tmp_path / "earlier" / "greedy.jsonl", [make_prediction(0)])
    config = compose_config(
        "evaluate",
        [
            *("cluster=cpu", f"data.dir={tmp_path}", "data.split=val"),
            *(f"predictions={tmp_path / 'earlier'}", f"out={tmp_path / 'out'}"),
        ],
    )
    (tmp_path / "out").mkdir()
    held = lock(tmp_path / "out" / program.LOCK, "out=")
    with pytest.raises(InputError, match=r"writes to this folder: .* give another out="):
        program.evaluate(config)
    assert held
    held.release()
