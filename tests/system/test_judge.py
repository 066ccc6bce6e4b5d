"""GRPO with a judge: one that fails now and then, one that is dead, and one that verl serves."""

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from reward.settings import load_preset
from reward.thinkvg import compute_score

KWARGS = "reward.custom_reward_function.reward_kwargs"
ALL_TYPES = ["closed", "single", "multi", "open"]
ROLLOUTS = 16  # of a step


@pytest.fixture(scope="module")
def speaker(workspace: Path, open_rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights under which every response is well-formed.

    Its blocks add nothing, so the last token alone decides the next: a sentence is a chain of
    tokens, which branches into several answers.
    """
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    folder = tmp_path_factory.mktemp("speaker")
    shutil.copytree(workspace / "model", folder, dirs_exist_ok=True)
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    chain = ["\n", "<think>", "a", "</think>", "<answer>"]
    tail = ["</answer>", "<location>", "</location>", tokenizer.eos_token]
    # The rules find some of these right: "Yes" and "A" for questions with such answers.
    words = ["Yes", "A", common_word(open_rows, tokenizer)]
    pairs = [*pairwise(chain), *pairwise(tail)]
    pairs += [pair for word in words for pair in (("<answer>", word), (word, "</answer>"))]
    ids = {text: tokenizer.encode(text)[-1] for pair in pairs for text in pair}
    with torch.no_grad():
        for name, parameter in model.model.language_model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        model.model.language_model.norm.weight.fill_(1)
        embeddings = model.get_input_embeddings().weight
        head = torch.zeros_like(embeddings)
        for last, following in pairs:
            head[ids[following]] += 2 * torch.nn.functional.normalize(embeddings[ids[last]], dim=0)
        model.lm_head.weight = torch.nn.Parameter(head)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.save_pretrained(folder)
    return folder


def common_word(rows: list[dict[str, Any]], tokenizer: Any) -> str:
    """The most common token of reference answers that is a word."""
    counts: Counter[str] = Counter()
    for row in rows:
        answer = json.loads(row["reward_model"]["ground_truth"])["answer"]
        counts.update({tokenizer.decode([token]).strip() for token in tokenizer.encode(answer)})
    whole = [word for word in counts if word.isalpha() and len(tokenizer.encode(word)) == 1]
    return max(whole, key=lambda word: (counts[word], word))


@pytest.fixture
def judged(training: Any, speaker: Path) -> Any:
    """Command line of a GRPO run in which a judge decides the answers of all questions."""

    def command(run_dir: Path, judge: dict[str, Any], *overrides: str) -> list[str]:
        given = {"model": "judge", "question_types": ALL_TYPES, **judge}
        settings = [f"{KWARGS}.judge.{key}={json.dumps(value)}" for key, value in given.items()]
        return list(
            training(
                run_dir,
                f"model.path={speaker}",
                "reward=paper_judge",
                f"trainer.rollout_data_dir={run_dir / 'rollouts'}",
                *settings,
                *overrides,
            )
        )

    return command


def test_training_goes_on_while_a_third_of_the_requests_fail(
    judged: Any, judge_server: Any, tmp_path: Path, run: Any, metrics: Any
) -> None:
    faults = ["429:0", "500", "drop", "drop_midway", "hang", "cut_json", "one_score", "html"]
    # It finds every answer as good as the reference, which no text score does.
    judge_server.control(
        shares=dict.fromkeys(faults, 0.3 / len(faults)), seed=1, delay_s=0.05, verdict="same"
    )
    judge = {"base_url": judge_server.url, "attempts": 1, "timeout_s": 3, "max_failed_share": 0.7}
    finished = run(*judged(tmp_path, judge, "trainer.total_training_steps=4"))
    assert finished.returncode == 0, finished.stdout[-8000:]
    logged = metrics(tmp_path)
    assert sorted(logged) == [1, 2, 3, 4]
    seen = judge_server.seen()
    failed = used = right_by_rule = 0
    for step, values in logged.items():
        assert values["judge/asked"] == ROLLOUTS
        assert values["judge/failed"] == ROLLOUTS * values["reward/judge_failed/mean"]
        dump = (tmp_path / "rollouts" / f"{step}.jsonl").read_text().splitlines()
        by_rule, unsure = fallbacks(map(json.loads, dump))
        assert by_rule <= values["judge/failed"] <= by_rule + unsure
        failed += values["judge/failed"]
        used += ROLLOUTS * values["reward/judge_used/mean"]
        right_by_rule += unsure
    assert failed + used == 4 * ROLLOUTS
    assert 0.1 < failed / (failed + used) < 0.6
    # There were answers to which a fault's zero would have done wrong.
    assert right_by_rule > 0
    assert seen["requests"] > seen["faults"]["ok"] > 0


def fallbacks(rows: Any) -> tuple[int, int]:
    """How many rewards of a step are what the rules alone give, and how many could be either's.

    The judge finds every answer right. A reward that is neither its nor that of the rules, such
    as a fault's zero, fails the test.
    """
    kwargs = load_preset("paper")
    by_rule = unsure = 0
    for row in rows:
        scores = compute_score("thinkvg", row["output"], row["gts"], **kwargs)
        # Answer and boxes count alike.
        judged_score = scores["score"] + (1 - scores["answer"]) / 2
        unsure += scores["answer"] == 1
        if row["score"] != pytest.approx(judged_score):
            assert row["score"] == pytest.approx(scores["score"])
            by_rule += 1
    return by_rule, unsure


def test_training_stops_when_the_judge_is_dead(
    judged: Any, judge_server: Any, tmp_path: Path, run: Any, metrics: Any, foreign_lines: Any
) -> None:
    judge_server.control(always="hang")
    judge = {"base_url": judge_server.url, "attempts": 2, "timeout_s": 2, "failed_window": 2}
    judge |= {"breaker_failures": 8}
    finished = run(*judged(tmp_path, judge, "trainer.total_training_steps=50"))
    assert finished.returncode == 2, finished.stdout[-8000:]
    lines = [line for line in finished.stdout.splitlines() if line.strip()]
    expected = f"error: the judge failed for {2 * ROLLOUTS} of {2 * ROLLOUTS} responses"
    assert lines[-2].startswith(expected), lines[-20:]
    assert lines[-1] == f"log: {tmp_path / 'log.txt'}"
    assert foreign_lines("\n".join(lines[:-2])) == []
    assert f"step 2: the judge failed for {ROLLOUTS} of {ROLLOUTS}" in lines
    assert "Traceback" not in finished.stdout + (tmp_path / "log.txt").read_text()
    logged = metrics(tmp_path)
    assert sorted(logged) == [1, 2]
    assert all(values["judge/failed_share"] == 1 for values in logged.values())
    # Generation and rewards of a step. The engine warms up in the first one, and the judge fails
    # within two attempts of 2 s and a wait of at most 1 s; in the second it is left alone.
    assert logged[1]["timing_s/gen"] < 5 + 60
    assert logged[2]["timing_s/gen"] < 20
    assert judge_server.seen()["requests"] <= 2 * ROLLOUTS


SERVED = {
    "enable": True,
    "enable_resource_pool": True,
    "nnodes": 1,
    "n_gpus_per_node": 1,
    "rollout.name": "vllm",
    "rollout.tensor_model_parallel_size": 1,
    "rollout.free_cache_engine": False,
    "rollout.enable_sleep_mode": False,
    "rollout.dtype": "float32",
    "rollout.max_model_len": 4096,
    "rollout.max_num_seqs": 32,
}


def test_the_engine_serves_the_judge_itself(
    judged: Any, workspace: Path, tmp_path: Path, run: Any, metrics: Any
) -> None:
    form = "{structured_outputs_config:{backend:xgrammar,disable_any_whitespace:true}}"
    served = [f"++reward.reward_model.{key}={json.dumps(value)}" for key, value in SERVED.items()]
    finished = run(
        *judged(
            tmp_path,
            {"model": None},
            "trainer.total_training_steps=2",
            f"reward.reward_model.model_path={workspace / 'model'}",
            f"++reward.reward_model.rollout.engine_kwargs.vllm={form}",
            "cluster.ray.num_gpus=2",
            *served,
        )
    )
    assert finished.returncode == 0, finished.stdout[-8000:]
    logged = metrics(tmp_path)
    assert sorted(logged) == [1, 2]
    for values in logged.values():
        assert values["judge/asked"] == ROLLOUTS
        # Not every reply of an untrained model must be whole.
        assert values["reward/judge_used/mean"] > 0.5
