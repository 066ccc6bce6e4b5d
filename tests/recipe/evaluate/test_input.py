"""Faults of an evaluation's settings are found before anything is started."""

from pathlib import Path

import pytest

from data_prep.program import InputError
from recipe.evaluate.checks import judge_settings, reward_judge
from recipe.preflight.checklist import refuse_faulty
from recipe.program import compose_config

FAULTS = [
    (["controls=[upside_down]"], "controls: upside_down"),
    (["preset=nonsense"], "preset=nonsense"),
    (["data.split=nonsense"], "data.split=nonsense"),
    (["sampling.samples=-1"], "sampling.samples=-1"),
    (["sampling.temperature=0"], "sampling.temperature=0"),
    (["predictions=NO_SUCH"], "predictions=NO_SUCH: no greedy.jsonl"),
    (["+beside.SFT=NO_SUCH"], "beside.SFT=NO_SUCH: no greedy.jsonl"),
    (["+beside.SFT=OUT", "out=./OUT"], "beside.SFT=OUT: is out= as well"),
    (["server.base_url=https://api.example.com/v1"], "server.base_url: api.example.com"),
    (["ar_score=true"], "ar_score: "),
    (["ar_score=true", "judge.base_url=http://api.example.com"], "ar_score: "),
    (["model.path=./NO_SUCH", "model=tiny"], "model.path=./NO_SUCH: no such folder"),
]


@pytest.mark.parametrize(("overrides", "message"), FAULTS, ids=lambda value: str(value)[:40])
def test_a_fault_is_named(overrides: list[str], message: str) -> None:
    config = compose_config("evaluate", ["cluster=cpu", "data.dir=DIR", *overrides])
    with pytest.raises(InputError) as caught:
        refuse_faulty(config, "evaluate")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_judge_of_the_ar_score_is_not_forced_on_an_unjudged_preset() -> None:
    overrides = ["data.dir=DIR", "ar_score=true", "judge.base_url=http://127.0.0.1:1/v1"]
    config = compose_config("evaluate", overrides)
    assert judge_settings(config) == {"base_url": "http://127.0.0.1:1/v1"}
    assert reward_judge(config) == {}
    judged = compose_config("evaluate", [*overrides, "preset=paper_judge"])
    assert reward_judge(judged) == judge_settings(judged)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    config = compose_config(
        "evaluate", ["cluster=cpu", "data.dir=DIR", "model=tiny", f"model.path={tmp_path}"]
    )
    with pytest.raises(InputError, match="no model in it"):
        refuse_faulty(config, "evaluate")
