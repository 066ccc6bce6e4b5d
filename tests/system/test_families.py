"""Every family, on its tiny twin: from data preparation to the answers of an exported model."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from data_prep.coordinates import MODEL_FAMILIES
from data_prep.program import read_metadata
from phantom.stages import FEWEST_TOKENS, MOST_TOKENS
from phantom.tiny.model import TWINS

# Qwen2.5-VL is the model of all other tests. `make test` runs Qwen3-VL, `make test-families` all.
FAMILIES = [
    pytest.param(family, marks=[] if family == "qwen3_vl" else [pytest.mark.families])
    for family in TWINS
    if family != "qwen2_5_vl"
]
STEPS = 3
RESPONSE_LENGTH = 24
GAP = 2e-5
"""The most that probabilities of rollout and actor may differ by on average, in float32."""


class Trained(NamedTuple):
    family: str
    data: Path
    model: Path  # as phantom.tiny made it
    sft: Path  # run folders
    grpo: Path


@pytest.fixture(scope="module", params=FAMILIES)
def trained(
    request: Any, tmp_path_factory: Any, workspace: Path, run: Any, training: Any
) -> Trained:
    """The twin of a family after data preparation, a short cold start and a short GRPO run."""
    family = request.param
    root: Path = tmp_path_factory.mktemp(family)
    made = Trained(family, root / "data", root / "model", root / "sft", root / "grpo")
    phantom, cell = workspace / "phantom", MODEL_FAMILIES[family].factor ** 2
    sizes = ("--min-pixels", FEWEST_TOKENS * cell, "--max-pixels", MOST_TOKENS * cell)
    common = ("cluster=cpu", "model=tiny", f"data.dir={made.data}")
    steps = (
        (
            *("data_prep.thinkvg", "--source", phantom, "--images", phantom / "files"),
            *("--out", made.data, "--model-family", family, *sizes, "--val", 0.1, "--test", 0.1),
        ),
        ("phantom.tiny", "--data", made.data, "--out", made.model, "--family", family),
        (
            *("recipe.sft", "experiment=demo_sft", *common, "cluster.gpus_per_node=1"),
            *(f"model.path={made.model}", f"run_dir={made.sft}", "coordinate_smoothing=18"),
            *("trainer.total_training_steps=6", "data.val_max_samples=16"),
            *("trainer.logger=[console,file]", "trainer.save_freq=6", "trainer.test_freq=6"),
        ),
        training(
            made.grpo,
            f"data.dir={made.data}",
            f"model.path={made.sft / 'checkpoints' / 'global_step_6' / 'huggingface'}",
            f"trainer.total_training_steps={STEPS}",
            f"trainer.save_freq={STEPS}",
            "actor_rollout_ref.actor.optim.lr=1e-3",
            # A model of six steps earns no reward and so has no advantage; the entropy moves it.
            "actor_rollout_ref.actor.entropy_coeff=0.1",
            f"trainer.validation_data_dir={made.grpo / 'validation'}",
            f"trainer.test_freq={STEPS}",
            "data.val_max_samples=16",
            f"data.max_response_length={RESPONSE_LENGTH}",
        ),
    )
    for step in steps:
        finished = run(*map(str, step))
        assert finished.returncode == 0, finished.stdout[-8000:]
    return made


def test_boxes_are_in_the_coordinates_of_the_family(trained: Trained) -> None:
    """With boxes up to 1000 on pictures of 128 pixels, pixels would all be below 129."""
    metadata = read_metadata(str(trained.data / "train.parquet"))
    assert metadata["model_family"] == trained.family
    assert metadata["coordinates"] == "norm1000"
    rows = pq.read_table(trained.data / "train.parquet", columns=["reward_model"]).to_pylist()
    truths = [json.loads(row["reward_model"]["ground_truth"]) for row in rows]
    edges = [edge for truth in truths for region in truth["regions"] for edge in region["box"]]
    assert 600 < max(edges) <= 1000
    assert {tuple(truth["image_size"]) for truth in truths} == {(128, 128)}


def test_the_cold_start_learns(trained: Trained, metrics: Any) -> None:
    losses = [m["train/loss"] for m in metrics(trained.sft).values() if "train/loss" in m]
    assert losses[-1] < losses[0] - 0.3


def test_rollout_and_actor_agree_while_weights_change(trained: Trained, metrics: Any) -> None:
    """At the first step the vision tower and its features are compared, later the weight sync."""
    logged = metrics(trained.grpo)
    assert sorted(logged) == list(range(1, STEPS + 1))
    for values in logged.values():
        assert values["actor/grad_norm"] > 0
        assert values["training/rollout_probs_diff_mean"] < GAP
        assert values["training/rollout_actor_log_prob_diff/mean"] < 0.02


def test_the_export_answers_alike_in_the_evaluation_and_in_transformers(
    trained: Trained, tmp_path: Path, run: Any, greedy_answers: Any
) -> None:
    """As the rollout engine did in the last validation; the evaluation answers with vLLM."""
    lines = (trained.grpo / "validation" / f"{STEPS}.jsonl").read_text().splitlines()
    rolled_out = [json.loads(line) for line in lines]
    assert len(rolled_out) == 16
    out, evaluation = tmp_path / "exported", tmp_path / "evaluation"
    for command in (
        ("recipe.export", str(trained.grpo), str(out)),
        (
            *("recipe.evaluate", "cluster=cpu", "model=tiny", f"data.dir={trained.data}"),
            *(f"model.path={out}", f"out={evaluation}", "controls=[]", "data.split=val"),
            *("sampling.samples=0", "data.max_prompt_length=256"),
            f"data.max_response_length={RESPONSE_LENGTH}",
        ),
    ):
        finished = run(*command)
        assert finished.returncode == 0, finished.stdout
    answers = greedy_answers("transformers", out, data=trained.data)
    evaluated = [json.loads(line) for line in (evaluation / "greedy.jsonl").open()]
    for row in rolled_out:
        truth, text = json.loads(row["gts"]), row["output"]
        # a template may have written the beginning into the prompt
        assert any(answer.endswith(text) for answer in answers[row["gts"]])
        assert any(
            one["response"].endswith(text) for one in evaluated if one["ground_truth"] == truth
        )
