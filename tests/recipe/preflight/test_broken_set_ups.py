"""Each broken set-up is found, with a message that says what to change; shipped ones are silent."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.program import InputError, encode_metadata, read_metadata
from recipe.preflight.checklist import Plan, examine, refuse_faulty
from recipe.preflight.choices import picture_faults
from recipe.program import CONFIG_FOLDER, compose_config

CPU = ["cluster=cpu", "model=tiny"]
LARGE = "model.path=Qwen/Qwen2.5-VL-32B-Instruct"


def plan(prepared: Path, *overrides: str, program: str = "train", elsewhere: bool = False) -> Plan:
    """The checked plan; model and data are the prepared ones unless overridden."""
    given = [f"data.dir={prepared / 'data'}", "run_dir=/tmp/preflight-never-made", *overrides]
    if not any(override.startswith("model.path=") for override in given):
        given.append(f"model.path={prepared / 'model'}")
    return examine(compose_config(program, given), program, elsewhere)


def problems(prepared: Path, *overrides: str, **options: Any) -> tuple[str, ...]:
    """Problems of a configuration."""
    return tuple(plan(prepared, *overrides, **options).problems)


def small(prepared: Path, *overrides: str) -> tuple[str, ...]:
    """Problems of a run that fits this machine but for `overrides`."""
    return problems(prepared, *CPU, "experiment=demo_grpo", *overrides)


def test_a_sound_run_has_none(prepared: Path) -> None:
    assert small(prepared) == ()
    assert problems(prepared, *CPU, "experiment=demo_sft", program="sft") == ()


def test_a_cold_start_may_save_after_each_epoch(prepared: Path) -> None:
    overrides = ["experiment=demo_sft", "trainer.save_freq=after_each_epoch"]
    assert problems(prepared, *CPU, *overrides, program="sft") == ()
    found = small(prepared, "trainer.save_freq=after_each_epoch")
    assert found == ("trainer.save_freq=after_each_epoch: give a whole number from -1",)


@pytest.mark.parametrize("program", ["train", "sft"])
@pytest.mark.parametrize("model", ["qwen2_5_vl_3b", "qwen2_5_vl_7b"])
def test_shipped_configurations_have_none(prepared: Path, program: str, model: str) -> None:
    name = {"qwen2_5_vl_3b": "3B", "qwen2_5_vl_7b": "7B"}[model]
    path = f"model.path=Qwen/Qwen2.5-VL-{name}-Instruct"
    overrides = [f"model={model}", path, "cluster=h100x8"]
    assert problems(prepared, *overrides, program=program, elsewhere=True) == ()


# paper_judge needs the address of a judge; it is tested below
UNJUDGED = sorted({path.stem for path in (CONFIG_FOLDER / "reward").glob("*")} - {"paper_judge"})


@pytest.mark.parametrize("reward", UNJUDGED)
def test_shipped_rewards_have_none(prepared: Path, reward: str) -> None:
    assert small(prepared, f"reward={reward}") == ()


ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

# Overrides that break a sound run on this machine, and what the message has to hold.
BROKEN = [
    # 4 prompts x 3 rollouts over 5 workers
    (
        ["cluster.gpus_per_node=5", "data.train_batch_size=4", "actor_rollout_ref.rollout.n=3"],
        "data.train_batch_size=5",
    ),
    # a mini-batch that is no part of a batch
    (["actor_rollout_ref.actor.ppo_mini_batch_size=6"], "ppo_mini_batch_size=6 does not divide"),
    # a micro-batch that does not divide what a worker has
    (
        ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=48"],
        "ppo_micro_batch_size_per_gpu=48 does not divide the 128",
    ),
    # a weight that verl cannot send to the engine
    (["cluster.weight_bucket_megabytes=0"], "weight_bucket_megabytes=0: on a CPU the largest"),
    # a micro-batch below one sequence
    ([f"{ACTOR}.use_dynamic_bsz=true", f"{ACTOR}.ppo_max_token_len_per_gpu=64"], "less than one"),
    # log-probabilities that nobody computes
    (
        ["actor_rollout_ref.rollout.calculate_log_probs=false"],
        "old_log_probs.source=engine: the engine returns none",
    ),
    (["trainer.v1.thinkvg.old_log_probs.source=both"], "source=both: choose one of actor, engine"),
    # no group
    (["actor_rollout_ref.rollout.n=1"], "set actor_rollout_ref.rollout.n=8"),
    # a batch larger than the data
    (["data.train_batch_size=4096"], "do not fill one batch"),
    # a tensor-parallel rollout over more GPUs than a node has
    (["cluster.tensor_parallel=2"], "cluster.tensor_parallel=2 does not divide"),
    # sequences longer than the model's positions
    (["data.max_response_length=9000"], "longer than the 4096"),
    # prompts that would all be left out
    (["data.max_prompt_length=16"], "set data.max_prompt_length="),
    # too few logical GPUs for the workers: the run would wait for ever
    (["cluster.ray.num_gpus=0"], "cluster.ray.num_gpus=1"),
    # flash attention where it is not built
    (["cluster.attention=flash_attention_2"], "the package flash_attn does not import here"),
    # a component that the reward does not have
    (["ablation=gdpo", "algorithm.gdpo_reward_keys=[beauty]"], "name components of the reward"),
    # a judged reward without a judge's address
    (["reward=paper_judge"], "judge.base_url is not set"),
    # a cluster with GPUs on a machine without
    (["cluster=h100x8"], "cluster=cpu runs without"),
    # a model folder that is not there
    (["model.path=./nowhere"], "model.path=./nowhere: no such folder"),
    # data that is not there
    (["data.dir=./nowhere"], "make it with python -m data_prep.thinkvg"),
    # mini-batches that the workers cannot share: verl fails after the first rollout
    (
        [f"{ACTOR}.ppo_mini_batch_size=1", "cluster.gpus_per_node=16", "cluster.ray.num_cpus=99"],
        f"set {ACTOR}.ppo_mini_batch_size=2",
    ),
    # names that verl looks up late
    (["algorithm.adv_estimator=grop"], "algorithm.adv_estimator=grop: choose one of"),
    ([f"{ACTOR}.policy_loss.loss_mode=best"], "policy_loss.loss_mode=best: choose one of"),
    ([f"{ACTOR}.use_kl_loss=true", f"{ACTOR}.kl_loss_type=k9"], "kl_loss_type=k9: choose one of"),
    ([f"{ACTOR}.loss_agg_mode=mean"], "loss_agg_mode=mean: choose one of"),
    (["trainer.logger=[console,wnadb]"], "trainer.logger=wnadb: choose one of"),
    ([f"{ROLLOUT}.name=sglang"], "rollout.name=sglang: choose one of vllm"),
    (["trainer.v1.trainer_mode=sync"], "trainer_mode=sync: choose one of thinkvg"),
    ([f"{ACTOR}.strategy=megatron"], "strategy=megatron: choose one of fsdp2"),
    ([f"{ACTOR}.fsdp_config.fsdp_size=3"], "does not divide the 1 GPUs: set"),
    ([f"{ROLLOUT}.max_model_len=100"], "max_model_len=100 is less than"),
    (["reward.custom_reward_function.path=./mine.py"], "path=./mine.py: no such file or module"),
    (["data.custom_cls.path=pkg://recipe.no_such"], "recipe.no_such: no such file or module"),
    (["actor_rollout_ref.model.external_lib=no_such"], "external_lib=no_such: no such module"),
    (["ablation=rl_only", "base_model=./nowhere"], "model.path=./nowhere: no such folder"),
    ([f"{ACTOR}.checkpoint.save_contents=[model]"], "save_contents lacks optimizer, extra"),
    ([f"{ACTOR}.checkpoint.async_save=true"], "set actor_rollout_ref.actor.checkpoint.async_save"),
    # what only verl's own check knows
    ([f"{ACTOR}.clip_ratio_c=-1", f"{ACTOR}.loss_agg_mode=seq-mean"], "loss_agg_mode"),
    # numbers that are none
    (["data.train_batch_size=0"], "data.train_batch_size=0: give a whole number from 1"),
    (["data.train_batch_size=abc"], "data.train_batch_size=abc: give a whole number"),
    (["data.train_batch_size=null"], "data.train_batch_size=null: give a whole number"),
    ([f"{ACTOR}.ppo_mini_batch_size=0"], "ppo_mini_batch_size=0: give a whole number"),
    (
        [f"{ACTOR}.ppo_micro_batch_size_per_gpu=null"],
        "ppo_micro_batch_size_per_gpu=null: give a whole number",
    ),
    (["cluster.nodes=0"], "cluster.nodes=0: give a whole number"),
    (["cluster.gpus_per_node=0"], "cluster.gpus_per_node=0: give a whole number"),
    (["cluster.tensor_parallel=0"], "cluster.tensor_parallel=0: give a whole number"),
    (["data.max_prompt_length=null"], "data.max_prompt_length=null: give a whole number"),
    (["trainer.save_freq=null"], "trainer.save_freq=null: give a whole number"),
    (["trainer.total_training_steps=0"], "trainer.total_training_steps=0: give a whole number"),
    ([f"{ROLLOUT}.limit_images=0"], "limit_images=0: give a whole number"),
    ([f"{ROLLOUT}.temperature=0"], "temperature=0: give a number above 0"),
    (["trainer.v1.thinkvg.stuck.least=0"], "stuck.least=0: give a number above 0"),
    (["trainer.v1.thinkvg.stuck.factor=x"], "stuck.factor=x: give a number above 0"),
    (["trainer.v1.thinkvg.max_drawn_batches=0"], "max_drawn_batches=0: give a whole number"),
]


@pytest.mark.parametrize(("overrides", "told"), BROKEN, ids=lambda value: str(value)[:60])
def test_a_broken_setting_is_told(prepared: Path, overrides: list[str], told: str) -> None:
    found = small(prepared, *overrides)
    assert any(told in message for message in found), found
    assert all("\n" not in message for message in found)


# A calculated or uncertain fault is shown as a warning; the run is not refused.
UNCERTAIN = [
    # checkpoints that do not fit on the disk
    (["trainer.max_actor_ckpt_to_keep=10000000"], "lower trainer.max_actor_ckpt_to_keep"),
    # a hub model whose shape nobody knows
    (["model.path=somebody/unknown"], "add an entry to configs/shape"),
]


@pytest.mark.parametrize(("overrides", "told"), UNCERTAIN, ids=lambda value: str(value)[:60])
def test_what_is_not_certain_is_a_warning(prepared: Path, overrides: list[str], told: str) -> None:
    checked = plan(prepared, *CPU, "experiment=demo_grpo", *overrides)
    assert any(told in message for message in checked.warnings), checked.warnings
    assert not any(told in message for message in checked.problems)


def test_sft_batches(prepared: Path) -> None:
    sft = (*CPU, "experiment=demo_sft", "cluster.gpus_per_node=1")
    checked = plan(prepared, *sft, "data.train_batch_size=20", program="sft")
    assert any("micro_batch_size_per_gpu=8 does not divide the 20" in m for m in checked.problems)
    checked = plan(prepared, *sft, "data.val_max_samples=4", program="sft")
    assert any("4 rows do not fill one batch" in message for message in checked.warnings)


def test_every_problem_is_told_at_once(prepared: Path) -> None:
    found = small(
        prepared,
        "data.max_prompt_length=16",
        "cluster.ray.num_gpus=0",
        "actor_rollout_ref.actor.ppo_mini_batch_size=6",
        "cluster.attention=flash_attention_2",
    )
    assert len(found) >= 4


# Where 80 GB are not enough, by model and layout.
TIGHT = [
    (["cluster.nodes=1", LARGE], "memory: backward"),
    (
        [
            LARGE,
            "cluster.nodes=1",
            "cluster.fused_optimizer=false",
            "cluster.micro_batch_tokens=4096",
        ],
        "memory: update",
    ),
    (["cluster.nodes=2", LARGE, "cluster.gpu_memory_utilization=0.9"], "memory: rollout"),
    (
        ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=65536"],
        "lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
    ),
    (
        [LARGE, "cluster.nodes=8", "cluster.tensor_parallel=1"],
        "raise cluster.gpu_memory_utilization or cluster.tensor_parallel",
    ),
]


@pytest.mark.parametrize(("overrides", "told"), TIGHT, ids=lambda value: str(value)[:60])
def test_too_little_memory_is_told(prepared: Path, overrides: list[str], told: str) -> None:
    model = [] if LARGE in overrides else ["model.path=Qwen/Qwen2.5-VL-7B-Instruct"]
    checked = plan(prepared, *model, *overrides, elsewhere=True)
    assert any(told in message for message in checked.warnings), checked.warnings
    assert checked.problems == []


def test_a_large_model_fits_on_enough_nodes(prepared: Path) -> None:
    """What docs/scaling.md proposes for 32B."""
    overrides = [LARGE, "cluster.nodes=4", "cluster.tensor_parallel=4"]
    assert problems(prepared, *overrides, elsewhere=True) == ()


def test_data_of_another_family_is_told(prepared: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    for name in ("train", "val"):
        source = prepared / "data" / f"{name}.parquet"
        values = {**read_metadata(source), "model_family": "qwen3_vl"}
        table = pq.read_table(source).replace_schema_metadata(encode_metadata(values))
        pq.write_table(table, tmp_path / source.name)
    found = small(prepared, f"data.dir={tmp_path}")
    assert any("--model-family qwen2_5_vl" in message for message in found), found


def test_another_patch_size_is_told(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "model", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    config["vision_config"]["patch_size"] = 16
    file.write_text(json.dumps(config))
    found = small(prepared, f"model.path={tmp_path / 'model'}")
    assert any("multiples of 28 pixels" in m and "covers 32" in m for m in found), found


def test_pictures_that_the_processor_would_enlarge_are_told(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "model", tmp_path / "model")
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = tmp_path / "model" / name
        file.write_text(file.read_text().replace('"shortest_edge": 3136', '"shortest_edge": 65536'))
    found = small(prepared, f"model.path={tmp_path / 'model'}")
    assert any("is 112 x 112 pixels" in m and "--min-pixels 65536" in m for m in found), found


def test_missing_pictures_are_told(prepared: Path, rewritten: Any) -> None:
    def move(row: Any) -> None:
        row["images"][0]["image"] = row["images"][0]["image"].replace("phantom", "moved")

    found = small(prepared, f"data.dir={rewritten(move)}")
    assert any("pictures are missing" in m and "mount them there" in m for m in found), found


def test_pictures_resized_otherwise_are_told(prepared: Path, rewritten: Any) -> None:
    def enlarge(row: Any) -> None:
        row["images"][0].update(min_pixels=50176, max_pixels=50176)

    found = small(prepared, f"data.dir={rewritten(enlarge)}")
    assert any("changed since the boxes were written" in message for message in found), found


def test_pictures_of_16_bits_are_told(prepared: Path, rewritten: Any, tmp_path: Path) -> None:
    def deepen(row: Any) -> None:
        with Image.open(row["images"][0]["image"]) as picture:
            values = np.asarray(picture.convert("L"), dtype=np.uint16) * 16
        row["images"][0]["image"] = str(tmp_path / f"{row['extra_info']['index']}.png")
        Image.fromarray(values).save(row["images"][0]["image"])

    found = small(prepared, f"data.dir={rewritten(deepen)}")
    assert any("more than 8 bits a channel" in m and "data_prep.images" in m for m in found), found


ROWS = {
    "no picture": lambda row: row.update(images=[]),
    "without path or bytes": lambda row: row["images"][0].update(image=None),
    "has a broken ground_truth": lambda row: row["reward_model"].update(ground_truth="{"),
    "has 2 pictures and 1 <image>": lambda row: row.update(images=row["images"] * 2),
    "has 1 pictures and 0 <image>": lambda row: row["prompt"][-1].update(content="What?"),
}


@pytest.mark.parametrize("told", ROWS)
def test_broken_rows_are_told(prepared: Path, rewritten: Any, told: str) -> None:
    found = small(prepared, f"data.dir={rewritten(ROWS[told])}")
    assert any("checked rows are broken" in m and told in m for m in found), found
    assert not any("could not check" in message for message in found), found


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("config.json", "{", "its config.json is not JSON"),
        ("chat_template.jinja", None, "no chat template"),
        ("tokenizer.json", "{", "its processor does not load"),
        ("processor_config.json", "{", "its processor does not load"),
    ],
)
def test_a_broken_model_folder_is_told(
    prepared: Path, tmp_path: Path, name: str, text: str | None, told: str
) -> None:
    shutil.copytree(prepared / "model", tmp_path / "model")
    file = tmp_path / "model" / name
    file.unlink() if text is None else file.write_text(text)
    found = small(prepared, f"model.path={tmp_path / 'model'}")
    assert any(told in message for message in found), found


def test_a_chat_template_without_thinking_is_told(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared / "model", tmp_path / "model")
    file = tmp_path / "model" / "chat_template.jinja"
    assistant = "<|im_start|>assistant\n"
    written = file.read_text()
    for begun, is_fault in (("<think>\n", False), ("<think>\n\n</think>\n\n", True)):
        file.write_text(written.replace(assistant, assistant + begun))
        found = small(prepared, f"model.path={tmp_path / 'model'}")
        assert any("closes <think> in the prompt" in m for m in found) == is_fault, found


def test_a_check_that_fails_itself_is_told(prepared: Path, monkeypatch: Any) -> None:
    def fail(*arguments: Any) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("recipe.preflight.values._rollout_faults", fail)
    assert "could not check batch sizes: ZeroDivisionError: by nothing" in small(prepared)


def test_what_is_broken_is_one_object_for_machines(prepared: Path) -> None:
    command = [sys.executable, "-m", "recipe.preflight", "--json", *CPU, "data.dir=DIR"]
    command += ["model.path=M", "data.train_batch_size=null"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "train_batch_size=null" in json.loads(done.stdout)["problems"][0]


def judged(url: str, *more: str) -> list[str]:
    key = "reward.custom_reward_function.reward_kwargs.judge"
    return ["reward=paper_judge", f"{key}.base_url={url}", *(f"{key}.{part}" for part in more)]


def test_a_judge_that_does_not_answer_is_told(prepared: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    found = small(prepared, *judged(url))
    assert any("start the judge's server there" in message for message in found), found


def test_a_model_that_the_judge_does_not_offer_is_told(prepared: Path, judge_server: Any) -> None:
    found = small(prepared, *judged(judge_server.url, "model=other"))
    assert any("set judge.model to one of these" in message for message in found), found
    assert small(prepared, *judged(judge_server.url)) == ()


def test_an_online_run_without_a_login_is_told(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert any("wandb login" in message for message in small(prepared))
    (tmp_path / "none").write_text("machine api.wandb.ai login user password secret\n")
    assert small(prepared) == ()


@pytest.fixture
def real(prepared: Path, tmp_path: Path) -> str:
    """Override for data that does not say that it is synthetic, but has some other notice."""
    import pyarrow.parquet as pq

    for name in ("train", "val"):
        source = prepared / "data" / f"{name}.parquet"
        values = {**read_metadata(source), "notice": "Reasoning written by a language model."}
        rows = pq.read_table(source).replace_schema_metadata(encode_metadata(values))
        pq.write_table(rows, tmp_path / source.name)
    return f"data.dir={tmp_path}"


PICTURES = "trainer.v1.thinkvg.rollout_table.every=10"
TEXTS = "trainer.log_val_generations=4"


@pytest.mark.parametrize(
    "overrides",
    [
        [PICTURES],
        [TEXTS],
        [PICTURES, "trainer.logger=wandb"],
        [PICTURES, "trainer.logger=[console,tracking]"],
        [PICTURES, "trainer.logger=[vemlp_wandb]"],
        [TEXTS, "trainer.logger=[swanlab]"],
        [TEXTS, "trainer.logger=[console,clearml]"],
    ],
    ids=str,
)
def test_what_may_be_patients_does_not_leave(
    prepared: Path, real: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    told = "does not say that it is synthetic"
    found = small(prepared, real, *overrides)
    assert any(told in message for message in found), found
    assert not any(told in message for message in small(prepared, *overrides))
    # a launcher of the user's own may start the program without preflight
    given = [*CPU, "experiment=demo_grpo", f"model.path={prepared / 'model'}", real, *overrides]
    for mode in ("on", "warn", "off"):
        monkeypatch.setenv("THINKVG_PREFLIGHT", mode)
        with pytest.raises(InputError, match=told):
            refuse_faulty(compose_config("train", given), "train")


@pytest.mark.parametrize(
    ("logger", "variables"),
    [
        ("wandb", {"WANDB_MODE": "offline"}),
        ("swanlab", {"SWANLAB_MODE": "offline"}),
        ("mlflow", {}),
        ("trackio", {}),
        ("tensorboard", {}),
    ],
)
def test_what_stays_here_may_be_logged(
    logger: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    overrides = ["data.dir=DIR", "model.path=M", TEXTS, f"trainer.logger=[{logger}]"]
    assert list(picture_faults(compose_config("train", overrides), ["train.parquet"])) == []
