"""The cache: an equal request is made once, a changed one again, and a fault is not kept."""

import asyncio
import subprocess
import sys

import pytest

from reward.judge.judge import VerdictCache, close_judges
from reward.judge.prompt import Verdict

RIGHT = "small left pleural effusion."


async def test_a_second_pass_makes_no_request(score, judge_server, tmp_path):
    cache = {"cache_dir": str(tmp_path)}
    first = [await score(f"Finding {n}", judge=cache) for n in range(4)]
    await close_judges()
    judge_server.control(always="500")
    assert [await score(f"Finding {n}", judge=cache) for n in range(4)] == first
    assert judge_server.seen()["requests"] == 0


CHANGES = [
    {"info": {"findings": "Effusion on the left."}},  # another caption
    {"info": {"question": "What is on the left?"}},  # another question
    {"judge": {"model": "other"}},  # another judge
    {"judge": {"seed": 1}},  # other sampling
    {"judge": {"max_tokens": 100}},  # another bound
    {"judge": {"reasoning": False}},  # another prompt
    {"judge": {"alignment": True}},  # another question to the judge
    {"judge": {"extra_body": {"top_k": 1}}},  # another field
    {"think": "Another step."},  # other reasoning
    {"truth": {"answer": "Small left effusion"}},  # another reference
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_a_changed_request_is_made_again(change, score, judge_server, tmp_path):
    cache = {"cache_dir": str(tmp_path)}
    await score(RIGHT, judge=cache)
    await score(RIGHT, **(change | {"judge": cache | change.get("judge", {})}))
    assert judge_server.seen()["requests"] == 2


KEPT = [
    {"score_difference": 5},  # what a verdict is worth is not the judge's to say
    {"timeout_s": 3},  # patience
    {"max_concurrency": 1},
]


@pytest.mark.parametrize("change", KEPT, ids=str)
async def test_what_the_judge_does_not_see_changes_nothing(change, score, judge_server, tmp_path):
    cache = {"cache_dir": str(tmp_path)}
    await score(RIGHT, judge=cache)
    await score(RIGHT, judge=cache | change)
    assert judge_server.seen()["requests"] == 1


async def test_a_fault_is_not_kept(score, judge_server, tmp_path):
    cache = {"cache_dir": str(tmp_path), "attempts": 1}
    judge_server.control(script=["out_of_range"])
    assert (await score(RIGHT, judge=cache))["judge_failed"] == 1
    assert (await score(RIGHT, judge=cache))["judge_used"] == 1


async def test_no_text_is_stored(score, tmp_path):
    await score("Secret finding", judge={"cache_dir": str(tmp_path)})
    await close_judges()
    assert not any(b"ecret" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


async def test_a_broken_cache_is_left_out(score, judge_server, tmp_path, caplog):
    cache = {"cache_dir": str(tmp_path)}
    await score("Finding", judge=cache)
    (tmp_path / "cache.db").write_bytes(b"not a database" * 1000)
    assert (await score(RIGHT, judge=cache))["judge_used"] == 1
    assert (await score("Finding 2", judge=cache))["judge_used"] == 1


async def test_a_folder_that_cannot_be_made_is_named(score, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"judge.cache_dir=.*file"):
        await score(RIGHT, judge={"cache_dir": str(tmp_path / "file" / "folder")})


def test_processes_share_a_folder(tmp_path):
    code = (
        "import asyncio, sys\n"
        "from reward.judge.judge import VerdictCache\n"
        "from reward.judge.prompt import Verdict\n"
        "async def main(folder, start):\n"
        "    cache = VerdictCache(folder)\n"
        "    for n in range(start, start + 200):\n"
        "        await cache.put(str(n), Verdict(n % 10 + 1, 1))\n"
        "    cache.close()\n"
        "asyncio.run(main(sys.argv[1], int(sys.argv[2])))"
    )
    # Halves overlap, so processes also write the same keys.
    command = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(start)]) for start in (0, 100, 200)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]

    async def read() -> list[Verdict | None]:
        cache = VerdictCache(str(tmp_path))
        found = [await cache.get(str(n)) for n in range(400)]
        cache.close()
        return found

    assert asyncio.run(read()) == [Verdict(n % 10 + 1, 1) for n in range(400)]
