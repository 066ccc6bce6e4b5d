"""Whether the services that a run talks to are there: the judge, W&B."""

import netrc
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import urlparse

from omegaconf import DictConfig, OmegaConf

from reward.judge.health import check_health
from reward.judge.settings import JudgeSettings

OFFLINE = ("offline", "disabled", "dryrun")


def judge_faults(config: DictConfig) -> Iterator[str]:
    """A judge that does not answer; one that verl will serve is not there yet."""
    function = config.reward.custom_reward_function
    resolved = OmegaConf.to_container(function.get("reward_kwargs") or {}, resolve=True)
    judge = cast("dict[str, Any]", resolved).get("judge")
    if not judge or judge.get("base_url") is None:
        return
    try:
        check_health(JudgeSettings.from_kwargs(judge))
    except ValueError as error:
        yield f"reward.custom_reward_function.reward_kwargs.{error}"


def picture_faults(config: DictConfig, notices: Sequence[str | None]) -> Iterator[str]:
    """Pictures of an online run's rollouts that may be patients'.

    `notices` are what the data files say of themselves; a synthetic set says so.
    """
    table = config.trainer.v1.thinkvg.rollout_table
    online = os.environ.get("WANDB_MODE", "offline") not in OFFLINE
    if table.every and online and "wandb" in config.trainer.logger and not all(notices):
        yield (
            "trainer.v1.thinkvg.rollout_table.every: pictures of rollouts would be sent to W&B, "
            "and the data does not say that it is synthetic: set it to 0, or WANDB_MODE=offline"
        )


def wandb_faults(config: DictConfig) -> Iterator[str]:
    """An online run without a login; runs are offline by default and need none."""
    mode = os.environ.get("WANDB_MODE", "offline")
    if "wandb" not in config.trainer.logger or mode in OFFLINE:
        return
    if os.environ.get("WANDB_API_KEY") or _in_netrc():
        return
    yield (
        f"WANDB_MODE={mode}, and there is no login to W&B: run `wandb login` (or set "
        "WANDB_API_KEY), or WANDB_MODE=offline and sync later"
    )


def _in_netrc() -> bool:
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(address).netloc)
    except (OSError, netrc.NetrcParseError):
        return False
    return bool(found and found[2])
