"""Names and switches that verl looks up late: each is looked for ahead of the run."""

import contextlib
import copy
import importlib.util
import io
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe import checks
from recipe.errors import InputError
from recipe.preflight.services import loggers
from recipe.preflight.values import saves
from recipe.preflight.workload import Workload

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
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


def choice_faults(config: DictConfig, program: str, work: Workload) -> Iterator[str]:
    """Names that are unknown and switches that this recipe cannot run with, one line each."""
    from verl.utils.tracking import Tracking

    training = program == "train"
    for name in loggers(config):
        known = [*Tracking.supported_backend, "tracking"]
        yield from _one_of("trainer.logger", name, known)
    engine = f"{ACTOR}.fsdp_config" if training else "engine"
    yield from _strategy(config, f"{ACTOR}.strategy" if training else "engine.strategy")
    yield from _sharding(config, f"{engine}.fsdp_size", work)
    yield from _checkpoints(config, f"{ACTOR}.checkpoint" if training else "checkpoint")
    if training:
        yield from _algorithm(config)
        yield from _engine(config)
        yield from _reward_function(config)
        yield from _refused_by_verl(config)


def _one_of(key: str, value: Any, known: Collection[str]) -> Iterator[str]:
    if value not in known:
        yield f"{key}={value}: choose one of {', '.join(sorted(known))}"


def _select_one_of(config: DictConfig, key: str, known: Collection[str]) -> Iterator[str]:
    yield from _one_of(key, OmegaConf.select(config, key), known)


def _strategy(config: DictConfig, key: str) -> Iterator[str]:
    # FSDP1 wants an accelerator
    known = ("fsdp2",) if config.cluster.platform == "cpu" else ("fsdp", "fsdp2")
    yield from _select_one_of(config, key, known)


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
        missing = [name for name in TO_RESUME if name not in config_list(config, f"{key}.{part}")]
        if missing:
            yield (
                f"{key}.{part} lacks {', '.join(missing)}: a run that is interrupted could not go "
                f"on: set {key}.{part}=[{','.join(TO_RESUME)},hf_model]"
            )
    if OmegaConf.select(config, f"{key}.async_save"):
        yield (
            f"{key}.async_save: a checkpoint that is written behind the run's back is not marked "
            f"when it is whole: set {key}.async_save=false"
        )


def config_list(config: DictConfig, key: str) -> list[str]:
    """A list of names; empty for null."""
    return [str(name) for name in OmegaConf.select(config, key) or []]


def _algorithm(config: DictConfig) -> Iterator[str]:
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    import recipe.gdpo  # noqa: F401 (registers its estimator)

    yield from _select_one_of(config, "algorithm.adv_estimator", ADV_ESTIMATOR_REGISTRY)
    yield from _select_one_of(config, f"{ACTOR}.policy_loss.loss_mode", POLICY_LOSS_REGISTRY)
    yield from _select_one_of(config, f"{ACTOR}.loss_agg_mode", AGGREGATIONS)
    if OmegaConf.select(config, f"{ACTOR}.use_kl_loss"):
        yield from _select_one_of(config, f"{ACTOR}.kl_loss_type", KL_TYPES)


def _engine(config: DictConfig) -> Iterator[str]:
    yield from _select_one_of(config, f"{ROLLOUT}.name", ("vllm",))
    yield from _select_one_of(config, "trainer.v1.trainer_mode", ("thinkvg",))
    needed = config.data.max_prompt_length + config.data.max_response_length
    length = config.actor_rollout_ref.rollout.max_model_len
    if length is not None and length < needed:
        yield (
            f"{ROLLOUT}.max_model_len={length} is less than data.max_prompt_length + "
            f"data.max_response_length: set it to {needed}"
        )
    library = OmegaConf.select(config, "actor_rollout_ref.model.external_lib")
    for name in [library] if isinstance(library, str) else library or []:
        if not _can_be_found(name):
            yield (
                f"actor_rollout_ref.model.external_lib={name}: no such module here: install it, or "
                "correct the name"
            )
    path = config.actor_rollout_ref.model.path
    if path != config.model.path:
        try:
            checks.check_model_folder(path, "actor_rollout_ref.model.path")
        except InputError as error:
            yield str(error)


def _reward_function(config: DictConfig) -> Iterator[str]:
    key = "reward.custom_reward_function.path"
    path = OmegaConf.select(config, key)
    if path is None:
        return
    if str(path).startswith("pkg://"):
        found = _can_be_found(str(path).removeprefix("pkg://").replace("/", "."))
    else:
        found = Path(str(path).removeprefix("file://")).is_file()
    if not found:
        yield f"{key}={path}: no such file or module: give a file, or pkg://PACKAGE.MODULE"


def _can_be_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _refused_by_verl(config: DictConfig) -> Iterator[str]:
    """What verl's own check of a configuration says."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    whole = copy.deepcopy(config)
    try:
        OmegaConf.resolve(whole)
        # Its remarks are no part of a plan, which may be JSON.
        with contextlib.redirect_stdout(io.StringIO()):
            validate_config(whole, need_reference_policy(whole), need_critic(whole))
    except OmegaConfBaseException as error:
        yield f"configuration: {error}"
    except Exception as error:  # assertions among others
        yield f"verl refuses this configuration: {error or type(error).__name__}"
