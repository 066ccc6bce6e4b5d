"""Every shipped configuration composes, and verl's own checks accept it."""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from data_prep.program import InputError
from recipe.program import CONFIG_FOLDER, FRACTIONS, compose_config

RUN = ["data.dir=DIR"]
NEEDED = {"tiny": ["model.path=MODEL"], "any": ["model.path=MODEL"]}


def entries(group: str) -> list[str]:
    """Names of a group's entries."""
    return sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml"))


def pairs(first: str, second: str) -> list[tuple[str, str]]:
    """Each entry of two groups at least once: all combinations would take minutes."""
    one, other = entries(first), entries(second)
    count = max(len(one), len(other))
    return [(one[i % len(one)], other[i % len(other)]) for i in range(count)]


def validate(config: DictConfig) -> None:
    """verl's own validation of a training configuration."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    with open_dict(config):
        OmegaConf.resolve(config)
    validate_config(
        config=config,
        use_reference_policy=need_reference_policy(config),
        use_critic=need_critic(config),
    )


def run_of(model: str, *overrides: str) -> list[str]:
    return [f"model={model}", *overrides, *NEEDED.get(model, []), *RUN]


@pytest.mark.parametrize(("model", "lora"), pairs("model", "lora"))
def test_training_of_every_model_validates(model: str, lora: str) -> None:
    config = compose_config("train", run_of(model, f"lora={lora}"))
    validate(config)
    trained = config.actor_rollout_ref.model
    assert trained.path == config.model.path
    assert trained.lora_rank == {"none": 0, "r16": 16, "r64": 64}[lora]


@pytest.mark.parametrize(("cluster", "reward"), pairs("cluster", "reward"))
def test_training_on_every_cluster_validates(cluster: str, reward: str) -> None:
    config = compose_config("train", run_of("tiny", f"cluster={cluster}", f"reward={reward}"))
    validate(config)
    assert config.reward.custom_reward_function.path == "pkg://reward.thinkvg"


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_fraction_picks_its_file(fraction: str) -> None:
    config = compose_config("train", [*RUN, f"data.fraction={fraction}"])
    suffix = "" if fraction == "full" else f"-{fraction}"
    assert config.data.train_files == f"DIR/train{suffix}.parquet"


def test_paper_scale_run_is_what_it_says() -> None:
    config = compose_config("train", ["model=qwen2_5_vl_7b", "cluster=h100x8", *RUN])
    validate(config)
    policy = config.actor_rollout_ref
    assert policy.model.override_config.attn_implementation == "flash_attention_2"
    assert policy.rollout.dtype == "bfloat16"
    assert policy.actor.fsdp_config.mixed_precision.param_dtype == "bf16"
    assert policy.model.use_remove_padding is True
    assert policy.rollout.tensor_model_parallel_size > 1
    assert policy.actor.use_kl_loss is True
    assert config.algorithm.adv_estimator == "grpo"


# Overrides that README and docs name.
DOCUMENTED = [
    ["model=qwen2_5_vl_7b", "cluster=h100x8", "reward=dense", "data.fraction=1of8"],
    ["model=qwen2_5_vl_3b", "cluster=h100x8", "reward=paper"],
    ["cluster.nodes=2"],
    ["actor_rollout_ref.rollout.n=16"],
    ["actor_rollout_ref.actor.kl_loss_coef=0.001"],
    ["reward.custom_reward_function.reward_kwargs.weights.alignment=0"],
    ["trainer.logger=[console]"],
    ["experiment=demo_grpo", "model=tiny", "model.path=MODEL", "cluster=cpu"],
    ["model=qwen3_vl_8b", "lora=r64"],
]


@pytest.mark.parametrize("overrides", DOCUMENTED, ids=" ".join)
def test_documented_overrides_validate(overrides: list[str]) -> None:
    validate(compose_config("train", [*RUN, *overrides]))


@pytest.mark.parametrize(("model", "cluster"), pairs("model", "cluster"))
@pytest.mark.parametrize("program", ["sft", "evaluate"])
def test_other_programs_compose(program: str, model: str, cluster: str) -> None:
    config = compose_config(program, run_of(model, f"cluster={cluster}"))
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def test_sft_sections_are_verls() -> None:
    from verl.utils.config import omega_conf_to_dataclass

    config = compose_config("sft", RUN)
    with open_dict(config):
        OmegaConf.resolve(config)
    for section in ("engine", "optim", "checkpoint"):
        omega_conf_to_dataclass(config[section])


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["reward=nonsense"], "reward/nonsense"),  # an unknown preset
        (["cluster=nonsense"], "cluster/nonsense"),  # an unknown cluster
        (["trainer.nonsense=1"], "trainer.nonsense"),  # an unknown key
        (["data.fraction"], "data.fraction"),  # not an override at all
    ],
)
def test_a_wrong_override_is_one_line_that_names_it(overrides: list[str], named: str) -> None:
    with pytest.raises(InputError) as caught:
        compose_config("train", overrides)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_of_verl_is_copied() -> None:
    names = {path.name for path in Path(CONFIG_FOLDER).rglob("*.yaml")}
    assert not names & {"ppo_trainer.yaml", "hf_model.yaml", "rollout.yaml", "actor.yaml"}


def test_a_validation_of_the_whole_split_is_sent_in_parts() -> None:
    config = compose_config("train", ["data.dir=DIR", "ablation=sft_only"])
    assert config.data.val_max_samples == -1
    assert 0 < config.data.val_batch_size <= 1024
