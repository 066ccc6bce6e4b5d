"""When a training run stops for its judge, and what is refused before one starts."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from data_prep.program import InputError
from recipe.cluster import needed
from recipe.preflight.choices import check_reward
from recipe.program import compose_config
from recipe.train.failures import JudgeWatch
from reward.judge.settings import JudgeFailing

JUDGE = "reward.custom_reward_function.reward_kwargs.judge"
HERE = f"{JUDGE}.base_url=http://127.0.0.1:8000/v1"


def watch(**judge: Any) -> JudgeWatch:
    kwargs = {"judge": {"max_failed_share": 0.25, "failed_window": 2, **judge}}
    return JudgeWatch(
        OmegaConf.create({"reward": {"custom_reward_function": {"reward_kwargs": kwargs}}})
    )


def rows(used: int, failed: int, exact: int = 0) -> list[dict[str, float]]:
    """Rewards that were judged, that should have been, and that need no judge."""
    kinds = [(1.0, 0.0)] * used + [(0.0, 1.0)] * failed + [(0.0, 0.0)] * exact
    return [{"judge_used": used, "judge_failed": failed} for used, failed in kinds]


def test_the_share_is_of_what_was_to_be_judged() -> None:
    assert watch().count(rows(6, 2, exact=92)) == {
        "judge/asked": 8,
        "judge/failed": 2,
        "judge/failed_share": 0.25,
    }


@pytest.mark.parametrize(
    ("steps", "stops"),
    [
        ([(0, 8)], False),  # one step of two
        ([(0, 8), (0, 8)], True),
        ([(0, 8), (8, 0)], True),  # half
        ([(6, 2), (6, 2)], False),  # a quarter is allowed
        ([(6, 2), (5, 3)], True),  # and not more
        ([(0, 8), (0, 0), (8, 0)], True),  # a step without open questions does not count
        ([(0, 8), (0, 0)], False),
        ([(0, 8), (24, 0), (24, 0)], False),  # steps count alike per rollout, and old ones not
    ],
)
def test_too_many_failures_over_the_window_stop_the_run(steps, stops) -> None:
    one = watch()
    *before, last = steps
    for used, failed in before:
        one.count(rows(used, failed, exact=3))
        one.check()
    one.count(rows(*last, exact=3))
    if not stops:
        one.check()
        return
    with pytest.raises(JudgeFailing, match=r"judge\.max_failed_share=0\.25") as caught:
        one.check()
    assert "\n" not in str(caught.value)


def test_a_preset_without_a_judge_stops_nothing() -> None:
    one = JudgeWatch(compose_config("train", ["reward=dense", "data.dir=DIR"]))
    assert one.count(rows(0, 5)) == {}
    one.check()


SERVED = ["reward.reward_model.enable=true", "reward.reward_model.model_path=MODEL"]
SERVED += ["reward.reward_model.rollout.name=vllm", "reward.reward_model.nnodes=1"]
SERVED += ["reward.reward_model.n_gpus_per_node=2"]
POOL = "reward.reward_model.enable_resource_pool=true"
AWAKE = "reward.reward_model.rollout.free_cache_engine=false"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["reward=paper_judge"], "judge.base_url is not set"),
        (["reward=paper_judge", f"{JUDGE}.base_url=https://api.example.com/v1"], "data use"),
        (["reward=paper_judge", HERE, f"{JUDGE}.timeout_s=0"], "judge.timeout_s"),
        (["reward=paper_judge", HERE, f"{JUDGE}.api_key_env=NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["reward=dense", f"+{HERE}"], "choose a preset"),
        (["reward=dense", "reward.custom_reward_function.name=compute_score_judged"], "preset"),
        (["reward=dense", "reward.custom_reward_function.reward_kwargs.iou=1"], "iou"),
        (["reward=paper_judge", *SERVED, AWAKE], "enable_resource_pool"),
        (["reward=paper_judge", *SERVED, POOL], "free_cache_engine"),
    ],
)
def test_a_fault_of_the_reward_is_found_before_the_start(overrides, named) -> None:
    try:
        config = compose_config("train", ["data.dir=DIR", *overrides])
    except InputError as error:
        fault = str(error)
    else:
        with pytest.raises(InputError) as caught:
            check_reward(config)
        fault = str(caught.value)
    assert named in fault
    assert "\n" not in fault


@pytest.mark.parametrize(
    "overrides",
    [
        ["reward=dense"],
        ["reward=paper_judge", HERE],
        ["reward=paper_judge", *SERVED, POOL, AWAKE],
        ["reward.custom_reward_function.path=mine.py"],  # the user's own
    ],
)
def test_what_is_in_order_passes(overrides) -> None:
    check_reward(compose_config("train", ["data.dir=DIR", *overrides]))


def test_a_judge_that_is_served_along_needs_gpus_of_its_own() -> None:
    base = ["data.dir=DIR", "cluster=h100x8"]
    with_judge = compose_config("train", [*base, "reward=paper_judge", *SERVED, POOL])
    assert needed(with_judge)["GPU"] == needed(compose_config("train", base))["GPU"] + 2
