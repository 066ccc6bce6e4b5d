"""Parameter counts and the memory formula."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from recipe.preflight.memory import estimate, host_warnings
from recipe.preflight.model import read_shape
from recipe.preflight.values import GIB, layout_faults, read_workload
from recipe.program import compose_config

ACTOR = "actor_rollout_ref.actor"
# Of the published weights.
PARAMETERS = {"3B": 3_754_622_976, "7B": 8_292_166_656, "32B": 33_452_718_336}


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_are_those_of_the_published_weights(size: str) -> None:
    assert read_shape(f"Qwen/Qwen2.5-VL-{size}-Instruct").parameters == PARAMETERS[size]


def of(*overrides: str, program: str = "train"):
    config = compose_config(program, ["data.dir=DIR", *overrides])
    return estimate(read_shape(config.model.path), read_workload(config, program, 1003520))


def test_state_is_shared_by_all_gpus() -> None:
    one, two = of(), of("cluster.nodes=2")
    assert one.training.parameters == pytest.approx(8_292_166_656 * 4 / 8)
    assert two.training.optimizer == pytest.approx(one.training.optimizer / 2)
    assert two.training.activations == one.training.activations


def test_offloading_the_optimizer_frees_the_rollout_but_not_the_update() -> None:
    """verl's context of a training step loads it before the forward pass."""
    plain, offloaded = of(), of("cluster.optimizer_offload=true")
    for moment in ("rollout", "weight sync"):
        assert offloaded.moments[moment] < plain.moments[moment] - 7 * GIB
    for moment in ("backward", "update"):
        assert offloaded.moments[moment] == plain.moments[moment]
    assert offloaded.host > plain.host + 50 * GIB


def test_the_cache_takes_what_the_weights_leave() -> None:
    serving = of().serving
    assert serving is not None
    assert serving.weights == pytest.approx(8_292_166_656 * 2 / 2)
    # 28 layers, 4 key-value heads over 2 GPUs, 128 channels, keys and values, 2 bytes
    assert serving.cache_tokens == int(serving.cache // (2 * 28 * 2 * 128 * 2))


def test_a_rollout_that_stays_awake_takes_its_share_from_training() -> None:
    asleep, awake = of(), of("cluster.free_cache_engine=false")
    assert awake.moments["backward"] > asleep.moments["backward"] + 40 * GIB


def test_adapters_alone_are_optimized() -> None:
    full, adapters = of(), of("actor_rollout_ref.model.lora_rank=64")
    assert adapters.training.parameters == full.training.parameters
    # rank 64 on all linear layers of the 7B makes about 0.2 B parameters
    share = adapters.training.optimizer / full.training.optimizer
    assert 0.01 < share < 0.04
    assert adapters.training.gradients == pytest.approx(full.training.gradients * share)
    assert adapters.moments["update"] < full.moments["update"] - 12 * GIB


def test_checkpoints_without_a_limit_are_all_counted(tmp_path: Path) -> None:
    from recipe.preflight.machine import disk_warnings

    def faults(*overrides: str) -> list[str]:
        config = compose_config("train", ["data.dir=DIR", f"run_dir={tmp_path}", *overrides])
        work = read_workload(config, "train")
        return list(disk_warnings(config, read_shape(config.model.path), work))

    many = ["trainer.total_training_steps=100000000", "trainer.save_freq=1"]
    (fault,) = faults(*many, "trainer.max_actor_ckpt_to_keep=null")
    assert fault.startswith("trainer.default_local_dir=")
    assert "100000001 checkpoints" in fault


def test_the_base_of_adapters_is_stored_as_it_is_computed() -> None:
    full, adapters = of(), of("lora=r16")
    assert adapters.training.parameters == pytest.approx(full.training.parameters / 2)
    # the adapters themselves are float32: rank 16 on the language model only, 40 M parameters
    assert adapters.training.gradients == pytest.approx(40_370_176 * 4 / 8)
    assert adapters.training.optimizer == pytest.approx(2 * adapters.training.gradients)


def test_adapters_need_no_reference_but_a_place_for_vllms_weights() -> None:
    adapters, alone = of("lora=r16"), of("lora=r16", f"{ACTOR}.use_kl_loss=false")
    assert adapters.host == alone.host
    awake = of("lora=r16", "cluster.free_cache_engine=false")
    assert awake.serving is not None
    # pinned in blocks of a power of two
    assert adapters.host - awake.host == pytest.approx(2 * 8 * awake.serving.weights)


def test_the_host_holds_reference_processes_and_the_loaded_model() -> None:
    memory = of()
    # 8 GPUs with 3 processes each, 8 workers of rollouts, 8 of rewards, 8 of data, and 2 more
    processes = (2 + 3 * 8 + 2 * 8 + 8) * 0.7 * GIB
    assert memory.host == pytest.approx((2 * 4 + 4) * 8_292_166_656 + processes)


def test_a_host_with_less_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose_config("train", ["data.dir=D"])
    work = read_workload(config, "train")
    memory = estimate(read_shape(config.model.path), work)
    total = SimpleNamespace(total=memory.host + GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: total)
    assert list(host_warnings(memory, work)) == []
    total.total = 64 * GIB
    (line,) = host_warnings(memory, work)
    assert "takes about 128 GiB, and this machine has 64:" in line


def test_the_vision_tower_is_split_as_well() -> None:
    """3420 inner channels of the tower cannot be shared by 8 GPUs; the 40 heads of text can."""
    config = compose_config(
        "train", ["data.dir=D", "model=qwen2_5_vl_3b", "cluster.tensor_parallel=8"]
    )
    (line,) = layout_faults(read_shape(config.model.path), read_workload(config, "train"))
    assert "3420 inner channels: set cluster.tensor_parallel=4" in line


def test_a_fused_step_has_no_temporaries() -> None:
    fused, plain = of(), of("cluster.fused_optimizer=null")
    assert fused.training.update == 0
    assert plain.training.update == pytest.approx(8_292_166_656 * 4 / 8)


@pytest.mark.parametrize(
    ("optimizer", "bytes_of_a_moment"),
    [
        ("AdamW", 4),
        ("AdamW8bit", 1 + 4 / 256),
        ("AdamWFp8", 1 + 4 / 256),
        ("AdamW4bit", 0.5 + 4 / 128),
    ],
)
def test_moments_take_the_bits_of_the_optimizer(optimizer: str, bytes_of_a_moment: float) -> None:
    memory = of(
        f"{ACTOR}.optim.optimizer_impl=torchao.optim", f"{ACTOR}.optim.optimizer={optimizer}"
    )
    assert memory.training.optimizer == pytest.approx(2 * bytes_of_a_moment * 8_292_166_656 / 8)


def test_offloaded_parameters_leave_the_rollout() -> None:
    plain, offloaded = of(), of("cluster.param_offload=true")
    freed = plain.moments["rollout"] - offloaded.moments["rollout"]
    assert freed == pytest.approx(plain.training.parameters)
    assert offloaded.moments["backward"] == plain.moments["backward"]


def test_with_fsdps_offload_policy_the_host_has_all_state() -> None:
    memory = of(f"{ACTOR}.fsdp_config.offload_policy=true", "cluster.gpus_per_node=1")
    training = memory.training
    assert training.parameters == training.gradients == training.optimizer == training.update == 0
    # parameters, gradients and two moments in float32, and as much again while they are loaded
    assert memory.host > 20 * 8_292_166_656
    # but the shards are on the GPU while they are loaded
    assert memory.moments["loading"] > 4 * 8_292_166_656
