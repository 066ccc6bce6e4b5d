"""The judge on real engines: verdicts of a vLLM server, and training while a judge fails."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recipe.program import compose_config
from reward.judge.sessions import close_judges
from reward.judge.settings import JudgeSettings
from reward.presets import load_preset
from reward.thinkvg import compute_score, compute_score_judged

KWARGS = "reward.custom_reward_function.reward_kwargs"
ALL_TYPES = ["closed", "single", "multi", "open"]
ROLLOUTS = 16  # of a step


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def vllm_judge(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a real vLLM server with the tiny model, untrained; its form is held by force."""
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    form = {"backend": "xgrammar", "disable_any_whitespace": True}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(workspace / "model"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "4096"]
    command += ["--structured-outputs-config", json.dumps(form)]
    command += ["--limit-mm-per-prompt", json.dumps({"image": 0, "video": 0})]
    env = dict(compose_config("evaluate", ["cluster=cpu", "data.dir=DIR"]).cluster.env)
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env}
        ) as server,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, log.read_text()[-5000:]
            assert time.monotonic() < deadline, log.read_text()[-5000:]
            time.sleep(0.5)


def open_rows(workspace: Path, count: int) -> list[dict[str, Any]]:
    """Ground truth and extra_info of open questions."""
    rows = pq.read_table(workspace / "data" / "train.parquet").to_pylist()
    is_open = [row for row in rows if '"open"' in row["reward_model"]["ground_truth"]]
    return is_open[:count]


def test_a_vllm_server_gives_verdicts(vllm_judge: str, workspace: Path, tmp_path: Path) -> None:
    kwargs = load_preset("paper_judge", {"base_url": vllm_judge, "cache_dir": str(tmp_path)})
    kwargs["judge"]["alignment"] = True
    rows = open_rows(workspace, 8)

    async def judge_all() -> list[dict[str, float]]:
        results = await asyncio.gather(
            *(
                compute_score_judged(
                    "thinkvg",
                    f"<think>Seen: {number}.</think><answer>Opacity</answer><location></location>",
                    row["reward_model"]["ground_truth"],
                    row["extra_info"],
                    **kwargs,
                )
                for number, row in enumerate(rows)
            )
        )
        await close_judges()
        return list(results)

    first = asyncio.run(judge_all())
    assert [scores["judge_used"] for scores in first] == [1] * len(rows)
    assert all(scores["answer"] in (0, 1) for scores in first)
    # With the server's address gone, the cache is what answers.
    assert asyncio.run(judge_all()) == first


def test_the_command_scores_a_file_with_it(
    vllm_judge: str, workspace: Path, tmp_path: Path, run: Any
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        {
            "id": number,
            "response": "<think>Seen.</think><answer>An opacity</answer><location></location>",
            "ground_truth": row["reward_model"]["ground_truth"],
            "extra_info": row["extra_info"],
        }
        for number, row in enumerate(open_rows(workspace, 4))
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = ("--input", str(source), "--output", str(target))
    finished = run("reward", "--preset", "paper_judge", *files, "--judge", f"base_url={vllm_judge}")
    assert finished.returncode == 0, finished.stdout
    scored = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["id"] for line in scored] == [0, 1, 2, 3]
    assert all(line["judge_used"] == 1 for line in scored)


@pytest.fixture(scope="module")
def speaker(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    words = common_words(workspace, tokenizer)
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


def common_words(workspace: Path, tokenizer: Any) -> list[str]:
    """Tokens that are words of the reference answers, the most common first."""
    counts: Counter[str] = Counter()
    for row in open_rows(workspace, 1000):
        answer = json.loads(row["reward_model"]["ground_truth"])["answer"]
        counts.update({tokenizer.decode([token]).strip() for token in tokenizer.encode(answer)})
    whole = [word for word in counts if word.isalpha() and len(tokenizer.encode(word)) == 1]
    return sorted(whole, key=lambda word: (-counts[word], word))[:6]


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
                # graded, so that a score without a judge is not mistaken for one of a fault
                f"{KWARGS}.answer_rule=dense",
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
    failed = used = 0
    for step, values in logged.items():
        assert values["judge/asked"] == ROLLOUTS
        assert values["judge/failed"] == ROLLOUTS * values["reward/judge_failed/mean"]
        dump = (tmp_path / "rollouts" / f"{step}.jsonl").read_text().splitlines()
        assert fallbacks(map(json.loads, dump)) == values["judge/failed"]
        failed += values["judge/failed"]
        used += ROLLOUTS * values["reward/judge_used/mean"]
    assert failed + used == 4 * ROLLOUTS
    assert 0.1 < failed / (failed + used) < 0.6
    assert seen["requests"] > seen["faults"]["ok"] > 0


def fallbacks(rows: Any) -> int:
    """How many rewards of a step are what the rules alone give; the others are the judge's.

    A reward that is neither, such as the zero of a fault, fails the test.
    """
    kwargs = load_preset("paper_judge")
    del kwargs["judge"]
    kwargs["answer_rule"] = "dense"
    count = 0
    for row in rows:
        by_rule = compute_score("thinkvg", row["output"], row["gts"], **kwargs)
        with_judge = by_rule["score"] + (1 - by_rule["answer"]) / 2
        assert by_rule["answer"] < 1
        assert row["score"] == pytest.approx(by_rule["score"]) or row["score"] == pytest.approx(
            with_judge
        )
        count += row["score"] == pytest.approx(by_rule["score"])
    return count


def test_training_stops_when_the_judge_is_dead(
    judged: Any, judge_server: Any, tmp_path: Path, run: Any, metrics: Any
) -> None:
    judge_server.control(always="hang")
    judge = {"base_url": judge_server.url, "attempts": 2, "timeout_s": 2, "failed_window": 2}
    judge |= {"breaker_failures": 8}
    finished = run(*judged(tmp_path, judge, "trainer.total_training_steps=50"))
    assert finished.returncode == 2, finished.stdout[-8000:]
    lines = [line for line in finished.stdout.splitlines() if line.strip()]
    expected = f"error: the judge failed for {2 * ROLLOUTS} of {2 * ROLLOUTS} responses"
    assert lines[-1].startswith(expected), lines[-20:]
    assert not any("Traceback" in line for line in lines), finished.stdout[-8000:]
    logged = metrics(tmp_path)
    assert sorted(logged) == [1, 2]
    bound = JudgeSettings.from_kwargs(load_preset("paper_judge")["judge"] | judge)
    for values in logged.values():
        assert values["judge/failed_share"] == 1
        # Generation and rewards of a step; the tiny model takes about a second for its part.
        assert values["timing_s/gen"] < bound.worst_case_s(ROLLOUTS) + 5


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
            {"model": None, "max_failed_share": 0, "failed_window": 1},
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
        assert values["reward/judge_used/mean"] == 1
        assert values["judge/failed"] == 0
