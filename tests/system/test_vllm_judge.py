"""A real vLLM server as the judge; structured output makes an untrained model answer in form."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import vllm_server

from reward.judge.judge import close_judges
from reward.settings import load_preset
from reward.thinkvg import compute_score_judged


@pytest.fixture(scope="module")
def vllm_judge(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a real vLLM server with the tiny model, untrained; its form is held by force."""
    form = {"backend": "xgrammar", "disable_any_whitespace": True}
    options = ("--max-model-len", "4096", "--structured-outputs-config", json.dumps(form))
    log = tmp_path_factory.mktemp("vllm") / "log"
    with vllm_server(workspace / "model", log, 0, *options) as address:
        yield address


def test_a_vllm_server_gives_verdicts(vllm_judge: str, open_rows: Any, tmp_path: Path) -> None:
    kwargs = load_preset("paper_judge", {"base_url": vllm_judge, "cache_dir": str(tmp_path)})
    kwargs["judge"]["alignment"] = True
    rows = open_rows[:8]

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
    vllm_judge: str, open_rows: Any, tmp_path: Path, run: Any
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        {
            "id": number,
            "response": "<think>Seen.</think><answer>An opacity</answer><location></location>",
            "ground_truth": row["reward_model"]["ground_truth"],
            "extra_info": row["extra_info"],
        }
        for number, row in enumerate(open_rows[:4])
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = ("--input", str(source), "--output", str(target))
    finished = run("reward", "--preset", "paper_judge", *files, "--judge", f"base_url={vllm_judge}")
    assert finished.returncode == 0, finished.stdout
    scored = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["id"] for line in scored] == [0, 1, 2, 3]
    assert all(line["judge_used"] == 1 for line in scored)
