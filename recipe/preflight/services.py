"""Whether the services that a run talks to are there and may be talked to: the judge, loggers."""

import netrc
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import urlparse

from omegaconf import DictConfig, OmegaConf

from reward.judge.health import check_health
from reward.judge.settings import JudgeSettings

OFFLINE = ("offline", "disabled", "dryrun")
WANDB = ("wandb", "tracking", "vemlp_wandb")
"""verl's names of loggers that are W&B."""

LOCAL = ("console", "file", "tensorboard")
TABLE = "trainer.v1.thinkvg.rollout_table.every"
GENERATIONS = "trainer.log_val_generations"


def loggers(config: DictConfig) -> list[str]:
    """Names of the loggers of a run."""
    given = config.trainer.logger or []
    return [given] if isinstance(given, str) else [str(name) for name in given]


def hosted_loggers(config: DictConfig) -> list[str]:
    """Those loggers whose data would leave this machine, as far as the environment tells."""
    return [name for name in loggers(config) if name not in LOCAL and not _stays(config, name)]


def _stays(config: DictConfig, name: str) -> bool:
    if name in ("wandb", "tracking"):
        return wandb_mode(config) in OFFLINE
    if name == "swanlab":
        return os.environ.get("SWANLAB_MODE", "cloud") in ("local", "offline", "disabled")
    if name == "mlflow":
        return os.environ.get("MLFLOW_TRACKING_URI", "sqlite:").startswith(
            ("sqlite:", "file:", "/")
        )
    if name == "clearml":
        return os.environ.get("CLEARML_OFFLINE_MODE", "").lower() in ("1", "true")
    if name == "trackio":
        return not os.environ.get("TRACKIO_SPACE_ID")
    return False


def wandb_mode(config: DictConfig) -> str:
    """W&B's mode of a run; offline where nobody says otherwise."""
    kept = OmegaConf.select(config, "cluster.env") or {}
    return str(os.environ.get("WANDB_MODE", kept.get("WANDB_MODE", "offline")))


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
    """Pictures and texts of rollouts that may be patients' and would leave this machine.

    `notices` are what the data files say of themselves; a synthetic set says so.
    """
    hosted = hosted_loggers(config)
    if not hosted or (notices and all(notices)):
        return
    table = config.trainer.v1.thinkvg.rollout_table
    if table.every and set(hosted) & set(WANDB):
        yield (
            f"{TABLE}: pictures of rollouts would be sent to W&B, and the data does not say that "
            "it is synthetic: set it to 0, or WANDB_MODE=offline"
        )
    if (config.trainer.get("log_val_generations") or 0) > 0:
        yield (
            f"{GENERATIONS}: questions and answers would be sent to {', '.join(hosted)}, and the "
            "data does not say that it is synthetic: set it to 0, or keep the logger offline "
            "(WANDB_MODE=offline)"
        )


def wandb_faults(config: DictConfig) -> Iterator[str]:
    """An online run without a login; runs are offline by default and need none."""
    mode = wandb_mode(config)
    if not {"wandb", "tracking"} & set(loggers(config)) or mode in OFFLINE:
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
