"""Checks of names, switches and services: those of verl, the reward, its judge, the loggers."""

import contextlib
import copy
import importlib.util
import io
import math
import netrc
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data_prep.program import InputError, is_synthetic
from recipe.preflight.model import check_model_folder
from recipe.preflight.values import ACTOR, ROLLOUT, Workload, saves
from recipe.program import GDPO, SEGMENTS, plain
from reward.judge.settings import JudgeSettings, check_health, check_ready
from reward.settings import COMPONENTS, check_kwargs

REWARD = "reward.custom_reward_function"

# verl 0.9.1, core_algos.kl_penalty_forward and agg_loss
KL = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
KL_TYPES = (*KL, *(f"{name}+" for name in KL))
AGGREGATIONS = (
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
    "seq-mean-token-mean",
)
TO_RESUME = ("model", "optimizer", "extra")

OFFLINE = ("offline", "disabled", "dryrun")
WANDB = ("wandb", "tracking", "vemlp_wandb")
"""verl's names of loggers that use W&B."""

LOCAL = ("console", "file", "tensorboard")


def choice_faults(config: DictConfig, program: str, work: Workload) -> Iterator[str]:
    """Yield names that verl does not know and switches that this recipe cannot run with."""
    from verl.utils.tracking import Tracking

    training = program == "train"
    for name in loggers(config):
        yield from _one_of("trainer.logger", name, [*Tracking.supported_backend, "tracking"])
    engine = f"{ACTOR}.fsdp_config" if training else "engine"
    # FSDP1 needs an accelerator
    strategies = ("fsdp2",) if config.cluster.platform == "cpu" else ("fsdp", "fsdp2")
    yield from _select_one_of(
        config, f"{ACTOR}.strategy" if training else "engine.strategy", strategies
    )
    yield from _sharding(config, f"{engine}.fsdp_size", work)
    yield from _checkpoints(config, f"{ACTOR}.checkpoint" if training else "checkpoint")
    yield from _modules(config)
    if training:
        yield from _algorithm(config)
        yield from _engine(config)
        yield from _refused_by_verl(config)


def _one_of(key: str, value: Any, names: Collection[str]) -> Iterator[str]:
    if value not in names:
        yield f"{key}={value}: choose one of {', '.join(sorted(names))}"


def _select_one_of(config: DictConfig, key: str, names: Collection[str]) -> Iterator[str]:
    yield from _one_of(key, OmegaConf.select(config, key), names)


def _sharding(config: DictConfig, key: str, work: Workload) -> Iterator[str]:
    size = OmegaConf.select(config, key)
    if size == 0 or (size > 0 and work.gpus % size):
        yield (
            f"{key}={size} does not divide the {work.gpus} GPUs: set {key}=-1 (all of them) or "
            f"{key}={work.gpus_per_node} (within a node)"
        )


def _checkpoints(config: DictConfig, key: str) -> Iterator[str]:
    if not saves(config):
        return
    for part in ("save_contents", "load_contents"):
        contents = list(OmegaConf.select(config, f"{key}.{part}") or [])
        missing = [name for name in TO_RESUME if name not in contents]
        if missing:
            yield (
                f"{key}.{part} lacks {', '.join(missing)}: a run that is interrupted could not be "
                f"resumed: set {key}.{part}=[{','.join(TO_RESUME)},hf_model]"
            )
    if OmegaConf.select(config, f"{key}.async_save"):
        yield (
            f"{key}.async_save: a checkpoint that is written in the background is marked before it "
            f"is whole: set {key}.async_save=false"
        )


def _algorithm(config: DictConfig) -> Iterator[str]:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    import recipe.algorithms.advantages  # noqa: F401 (registers its estimators)

    yield from _select_one_of(config, "algorithm.adv_estimator", ADV_ESTIMATOR_REGISTRY)
    yield from _select_one_of(config, f"{ACTOR}.policy_loss.loss_mode", POLICY_LOSS_REGISTRY)
    yield from _select_one_of(config, f"{ACTOR}.loss_agg_mode", AGGREGATIONS)
    if OmegaConf.select(config, f"{ACTOR}.use_kl_loss"):
        yield from _select_one_of(config, f"{ACTOR}.kl_loss_type", KL_TYPES)


def _engine(config: DictConfig) -> Iterator[str]:
    yield from _select_one_of(config, f"{ROLLOUT}.name", ("vllm",))
    yield from _select_one_of(config, "trainer.v1.trainer_mode", ("thinkvg",))
    source = "trainer.v1.thinkvg.old_log_probs.source"
    yield from _select_one_of(config, source, ("actor", "engine"))
    calculated = f"{ROLLOUT}.calculate_log_probs"
    if OmegaConf.select(config, source) == "engine" and not OmegaConf.select(config, calculated):
        yield f"{source}=engine: the engine returns none: set {calculated}=true or {source}=actor"
    needed = config.data.max_prompt_length + config.data.max_response_length
    length = config.actor_rollout_ref.rollout.max_model_len
    if length is not None and length < needed:
        yield (
            f"{ROLLOUT}.max_model_len={length} is less than data.max_prompt_length + "
            f"data.max_response_length: set it to {needed}"
        )
    library = OmegaConf.select(config, "actor_rollout_ref.model.external_lib")
    for name in [library] if isinstance(library, str) else library or []:
        if not _is_module(name):
            yield (
                f"actor_rollout_ref.model.external_lib={name}: no such module here: install it, or "
                "correct the name"
            )
    path = config.actor_rollout_ref.model.path
    if path != config.model.path:
        try:
            check_model_folder(path, "actor_rollout_ref.model.path")
        except InputError as error:
            yield str(error)


def _modules(config: DictConfig) -> Iterator[str]:
    """Yield missing code that verl would load late: a dataset, a reward."""
    for key in ("data.custom_cls.path", f"{REWARD}.path"):
        path = str(OmegaConf.select(config, key) or "")
        if path.startswith("pkg://"):
            exists = _is_module(path.removeprefix("pkg://").replace("/", "."))
        else:
            exists = not path or Path(path.removeprefix("file://")).is_file()
        if not exists:
            yield f"{key}={path}: no such file or module: give a file, or pkg://PACKAGE.MODULE"


def _is_module(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _refused_by_verl(config: DictConfig) -> Iterator[str]:
    """Yield the fault that verl's own check of the configuration finds."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    resolved = copy.deepcopy(config)
    try:
        OmegaConf.resolve(resolved)
        # verl prints remarks, which would break the JSON of a plan.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            validate_config(resolved, need_reference_policy(resolved), need_critic(resolved))
    except OmegaConfBaseException as error:
        yield f"configuration: {error}"
    except Exception as error:  # assertions among others
        yield f"verl refuses this configuration: {error or type(error).__name__}"


def check_smoothing(config: DictConfig) -> None:
    """Refuse soft coordinate targets without a token for each coordinate, or with a wrong width."""
    width = config.coordinate_smoothing
    if not isinstance(width, int | float) or not 0 <= width < math.inf:
        raise InputError(
            f"coordinate_smoothing={width}: give a width in units of coordinates, 0 for none"
        )
    if width == 0:
        return
    from transformers import AutoTokenizer

    from recipe.algorithms.soft_targets import coordinate_ids

    try:
        tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    except (OSError, ValueError) as error:
        raise InputError(f"model.path={config.model.path}: no tokenizer ({error})") from error
    try:
        coordinate_ids(tokenizer)
    except ValueError as error:
        raise InputError(
            f"coordinate_smoothing={width}: {error} ({config.model.path}): set "
            "coordinate_smoothing=0"
        ) from error


def check_gdpo(config: DictConfig) -> None:
    """Refuse wrong settings of the estimators that see components, if one of them is chosen.

    Components have to be those of the reward, and have one weight each or none. Settings that the
    estimators would ignore are refused: they take the rewards of components, not the total.
    """
    estimator = config.algorithm.adv_estimator
    if estimator not in (GDPO, SEGMENTS):
        return
    if config.algorithm.use_kl_in_reward:
        raise InputError(
            f"algorithm.use_kl_in_reward=true: {estimator} does not use the total reward, so the "
            f"KL penalty would have no effect: set it to false and {ACTOR}.use_kl_loss=true"
        )
    if not config.algorithm.get("norm_adv_by_std_in_grpo", True):
        raise InputError(
            f"algorithm.norm_adv_by_std_in_grpo=false: {estimator} always divides by the standard "
            "deviation: set it to true, or algorithm.adv_estimator=grpo"
        )
    keys = list(config.algorithm.get("gdpo_reward_keys") or [])
    unknown = [key for key in keys if key not in COMPONENTS]
    if not keys or unknown:
        raise InputError(
            f"algorithm.gdpo_reward_keys: {', '.join(map(str, unknown)) or 'empty'}; name "
            f"components of the reward: {', '.join(COMPONENTS)}"
        )
    if len(set(keys)) < len(keys):
        raise InputError(f"algorithm.gdpo_reward_keys={keys}: a component is named twice")
    weights = config.algorithm.get("gdpo_reward_weights")
    if weights is None:
        return
    if not all(isinstance(weight, int | float) and weight >= 0 for weight in weights):
        raise InputError(
            f"algorithm.gdpo_reward_weights={list(weights)}: give each component a number from 0"
        )
    if len(weights) != len(keys):
        raise InputError(
            f"algorithm.gdpo_reward_weights: {len(weights)} weights for {len(keys)} components of "
            "algorithm.gdpo_reward_keys"
        )


def check_reward(config: DictConfig) -> None:
    """Refuse wrong settings of this project's reward, and a judge that may not be asked.

    Another reward function is not checked.
    """
    function = config.reward.custom_reward_function
    if function.path != "pkg://reward.thinkvg":
        return
    kwargs = plain(function.reward_kwargs)
    if (function.name == "compute_score_judged") != ("judge" in kwargs):
        raise InputError(
            f"{REWARD}: compute_score_judged, and only it, needs reward_kwargs.judge: choose a "
            "preset that has one, such as reward=paper_judge"
        )
    try:
        check_kwargs(kwargs)
        if "judge" in kwargs:
            router = _router(config) if kwargs["judge"].get("base_url") is None else None
            check_ready(kwargs["judge"], router)
    except ValueError as error:
        raise InputError(f"{REWARD}.reward_kwargs: {error}") from error


def _router(config: DictConfig) -> str | None:
    """Return a placeholder for the address of the judge that verl will serve; None without one."""
    judge = config.reward.reward_model
    if not judge.enable:
        return None
    if OmegaConf.select(judge, "enable_resource_pool") is not True:
        raise InputError(
            "reward.reward_model.enable_resource_pool: a judge on the actor's GPUs gets no ground "
            "truth from verl: set it to true"
        )
    if OmegaConf.select(judge, "rollout.free_cache_engine") is not False:
        raise InputError(
            "reward.reward_model.rollout.free_cache_engine: verl would put the judge to sleep and "
            "not wake it: set it to false"
        )
    return "verl:1"


def judge_faults(config: DictConfig) -> Iterator[str]:
    """Yield a fault if the judge does not answer; one that verl serves does not run yet."""
    function = config.reward.custom_reward_function
    judge = plain(function.reward_kwargs).get("judge") if function.get("reward_kwargs") else None
    if not judge or judge.get("base_url") is None:
        return
    try:
        check_health(JudgeSettings.from_kwargs(judge))
    except ValueError as error:
        yield f"{REWARD}.reward_kwargs.{error}"


def loggers(config: DictConfig) -> list[str]:
    names = config.trainer.logger or []
    return [names] if isinstance(names, str) else [str(name) for name in names]


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
    """Return the W&B mode of a run; offline if it is not set."""
    variables = OmegaConf.select(config, "cluster.env") or {}
    return str(os.environ.get("WANDB_MODE", variables.get("WANDB_MODE", "offline")))


def picture_faults(config: DictConfig, files: Sequence[str]) -> Iterator[str]:
    """Yield faults where pictures or texts that may be patients' would leave this machine.

    `files` are the run's data files.
    """
    # Their data would leave this machine, by their names and variables.
    hosted = [name for name in loggers(config) if name not in LOCAL and not _stays(config, name)]
    if not hosted or (files and all(map(is_synthetic, files))):
        return
    table = config.trainer.v1.thinkvg.rollout_table
    if table.every and set(hosted) & set(WANDB):
        yield (
            "trainer.v1.thinkvg.rollout_table.every: pictures of rollouts would be sent to W&B, "
            "and the data does not say that it is synthetic: set it to 0, or WANDB_MODE=offline"
        )
    if (config.trainer.get("log_val_generations") or 0) > 0:
        yield (
            "trainer.log_val_generations: questions and answers would be sent to "
            f"{', '.join(hosted)}, and the data does not say that it is synthetic: set it to 0, or "
            "keep the logger offline (WANDB_MODE=offline)"
        )


def wandb_faults(config: DictConfig) -> Iterator[str]:
    """Yield a fault if an online run has no login; runs are offline by default."""
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
        login = netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(address).netloc)
    except (OSError, netrc.NetrcParseError):
        return False
    return bool(login and login[2])
