"""Checkpoints as verl writes them, to folders that load: found, merged, described."""

import json
import subprocess
from pathlib import Path
from typing import Any

import peft
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.program import SYNTHETIC, InputError
from phantom.tiny.model import build_model, build_processor
from recipe import model_card
from recipe.evaluate.predictions import Prediction, score_predictions, write_predictions
from recipe.evaluate.results import Evaluated, results
from recipe.export import main as export
from recipe.export import merge_adapters
from recipe.run.checkpoints import find_model

TEXTS = ["<think>the left lung [1, 2, 3, 4] is clear</think><answer>Yes</answer>"]
TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    """Processor and an untrained model."""
    processor = build_processor(TEXTS)
    return processor, build_model(processor.tokenizer, seed=1)


def test_a_card_names_the_commit_of_this_checkout() -> None:
    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    assert model_card.commit().startswith(commit)


CARDS = [
    (SYNTHETIC, "synthetic phantom set"),
    (None, "decides whether weights trained on it are such"),
    ("no file", "The training data was not found"),
]


@pytest.mark.parametrize(("metadata", "note"), CARDS)
def test_a_card_says_no_patient_only_where_the_training_file_does(
    sharded: Path, tmp_path: Path, metadata: Any, note: str
):
    file = tmp_path / "train.parquet"
    if metadata != "no file":
        # a number of nine digits, as a hospital may have
        rows = pa.table({"extra_info": [{"index": 0, "patient": "p123456789"}]})
        pq.write_table(rows.replace_schema_metadata(metadata), file)
    hydra = sharded.parents[2] / ".hydra"
    hydra.mkdir()
    (hydra / "config.yaml").write_text(json.dumps({"data": {"train_files": str(file)}}))
    text = model_card.card("model", find_model(sharded, "model.path"), None)
    assert [each for _, each in CARDS if each in text] == [note]


def of_run(sharded: Path, **config: Any) -> None:
    """Save the configuration of the checkpoint's run."""
    hydra = sharded.parents[2] / ".hydra"
    hydra.mkdir()
    (hydra / "config.yaml").write_text(json.dumps(config))


def evaluated(folder: Path, patients: list[str | None]) -> Path:
    """An evaluation on `test.parquet`, with a question about each of the patients."""
    truth = {"answer": "Yes", "question_type": "closed", "regions": [], "think_regions": []}
    truth |= {"image_size": [9, 9], "coordinates": "absolute"}
    scored = score_predictions(
        [
            Prediction(str(row), row, 0, "<answer>Yes</answer>", truth, {"patient": patient})
            for row, patient in enumerate(patients)
        ],
        "dense",
    )
    folder.mkdir()
    write_predictions(folder / "greedy.jsonl", scored)
    about = {"split": "/home/me/thinkvg/test.parquet", "preset": "dense"}
    (folder / "metrics.json").write_text(json.dumps(about | results(Evaluated(scored), [])))
    return folder


@pytest.mark.parametrize(
    ("patients", "is_claimed"),
    [(["p3", "p4"], True), (["p2", "p4"], False), (["p3", None], False)],
    ids=["others", "the same", "unknown"],
)
@pytest.mark.parametrize("has_file", [True, False], ids=["file", "no file"])
def test_a_card_says_that_patients_are_held_out_only_if_they_are(
    sharded: Path, tmp_path: Path, patients: list[str | None], is_claimed: bool, has_file: bool
):
    file = tmp_path / "train.parquet"
    if has_file:
        pq.write_table(pa.table({"extra_info": [{"patient": "p1"}, {"patient": "p2"}]}), file)
    of_run(sharded, data={"train_files": str(file)})
    evaluation = evaluated(tmp_path / "evaluation", patients)
    text = model_card.card("model", find_model(sharded, "model.path"), evaluation)
    assert "patients of `thinkvg/test.parquet`" in text
    assert "did not see" not in text
    assert ("none of whom is in the training file" in text) == (is_claimed and has_file)


def test_a_run_from_another_model_names_it(sharded: Path):
    """As `ablation=rl_only base_model=X`: model.path still names the SFT model."""
    of_run(
        sharded,
        model={"path": "org/sft"},
        base_model="org/base",
        actor_rollout_ref={"model": {"path": "${base_model}"}},
    )
    text = model_card.card("model", find_model(sharded, "model.path"), None)
    assert "starts from | `org/base`" in text
    assert "The weights come from `org/base`" in text
    assert "org/sft" not in text


@pytest.fixture
def sharded(tiny: Any, tmp_path: Path) -> Path:
    """A checkpoint without merged weights, of one rank."""
    processor, model = tiny
    actor = tmp_path / "run" / "checkpoints" / "global_step_7" / "actor"
    huggingface = actor / "huggingface"
    processor.save_pretrained(huggingface)
    model.config.save_pretrained(huggingface)
    model.generation_config.save_pretrained(huggingface)
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    torch.save(dict(model.state_dict()), actor / "model_world_size_1_rank_0.pt")
    return actor


def same_weights(folder: Path, expected: dict[str, torch.Tensor]) -> bool:
    loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").state_dict()
    assert loaded.keys() == expected.keys()
    return all(loaded[name].equal(expected[name]) for name in expected)


def test_shards_become_a_folder_in_their_own_precision(tiny: Any, sharded: Path, tmp_path: Path):
    assert export([str(sharded), str(tmp_path / "out")]) == 0
    assert same_weights(tmp_path / "out", tiny[1].state_dict())
    assert AutoProcessor.from_pretrained(tmp_path / "out").chat_template
    assert "checkpoint | global_step_7" in (tmp_path / "out" / "README.md").read_text()


def test_another_precision_is_asked_for(sharded: Path, tmp_path: Path):
    assert export([str(sharded.parents[2]), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16


def adapted(model: Any) -> Any:
    """The model with LoRA adapters whose both halves are random."""
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=TARGETS)
    wrapped = peft.get_peft_model(model, config)
    draw = torch.Generator().manual_seed(0)
    for name, weight in wrapped.named_parameters():
        if "lora_" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=draw)
    return wrapped


@pytest.mark.parametrize(
    ("only_adapters", "names_base"), [(False, False), (True, False), (True, True)]
)
def test_adapters_are_merged_as_peft_merges_them(
    sharded: Path, tmp_path: Path, only_adapters: bool, names_base: bool
):
    processor = AutoProcessor.from_pretrained(sharded / "huggingface")
    wrapped = adapted(build_model(processor.tokenizer, seed=1))
    state = {k: v.clone() for k, v in wrapped.state_dict().items()}
    base = tmp_path / "base"
    build_model(processor.tokenizer, seed=1).save_pretrained(base)
    if only_adapters:
        state = {name: weight for name, weight in state.items() if "lora_" in name}
    torch.save(state, sharded / "model_world_size_1_rank_0.pt")
    (sharded / "lora_train_meta.json").write_text(json.dumps({"r": 4, "lora_alpha": 12}))
    out = tmp_path / "out"
    arguments = [str(sharded), str(out)]
    if names_base:
        of_run(sharded, model={"path": "x"}, actor_rollout_ref={"model": {"path": str(base)}})
    elif only_adapters:
        assert export(arguments) == 2  # the base is not known
        arguments += ["--base", str(base)]
    assert export(arguments) == 0
    assert "adapters | LoRA, merged" in (out / "README.md").read_text()
    merged = wrapped.merge_and_unload().state_dict()
    loaded = AutoModelForImageTextToText.from_pretrained(out, dtype="auto").state_dict()
    plain = AutoModelForImageTextToText.from_pretrained(base, dtype="auto").state_dict()
    assert loaded.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(loaded[name], weight, rtol=0, atol=1e-6)
    assert any(not loaded[name].equal(plain[name]) for name in merged)


def test_an_adapter_of_another_kind_is_refused():
    meta = {"r": 4, "lora_alpha": 8}
    weight = {"base_model.model.a.base_layer.weight": torch.zeros(2, 2)}
    half = {"base_model.model.a.lora_A.default.weight": torch.zeros(4, 2)}
    with pytest.raises(InputError, match="its other half is missing"):
        merge_adapters({**weight, **half}, meta, {})
    with pytest.raises(InputError, match="cannot be merged"):
        merge_adapters({"base_model.model.a.lora_magnitude_vector": torch.zeros(2)}, meta, {})
    with pytest.raises(InputError, match="scale is not known"):
        merge_adapters(half, {"r": 4}, {})


def test_the_last_whole_step_is_taken(sharded: Path):
    checkpoints = sharded.parents[1]
    later = checkpoints / "global_step_9" / "actor"
    later.mkdir(parents=True)
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("7")
    assert find_model(checkpoints.parent, "model.path").shards == sharded
    assert find_model(sharded, "model.path").shards == sharded


def test_an_empty_marker_means_the_last_whole_step(sharded: Path, tmp_path: Path):
    checkpoints = sharded.parents[1]
    (sharded.parent / "data.pt").touch()
    (checkpoints / "global_step_9" / "actor").mkdir(parents=True)  # has no data.pt
    marker = checkpoints / "latest_checkpointed_iteration.txt"
    marker.touch()  # as a run that is killed while it writes it leaves it
    assert find_model(checkpoints.parent, "model.path").shards == sharded
    assert marker.read_text() == ""  # a reader changes nothing in a run's folder


@pytest.mark.parametrize("make", ["nothing", "empty", "full"])
def test_what_cannot_be_exported_is_one_line(make: str, sharded: Path, tmp_path: Path, capsys: Any):
    source, out = tmp_path / "source", tmp_path / "out"
    if make != "nothing":
        source.mkdir()
    if make == "full":
        source = sharded
        out.mkdir()
        (out / "file").touch()
    assert export([str(source), str(out)]) == 2
    error = capsys.readouterr().err
    named = {"nothing": "no such folder", "empty": "no model in it", "full": "not empty"}
    assert named[make] in error
    assert error.count("\n") == 1


def test_a_missing_shard_is_named(sharded: Path, tmp_path: Path, capsys: Any):
    (sharded / "fsdp_config.json").write_text(json.dumps({"world_size": 2}))
    (sharded / "model_world_size_1_rank_0.pt").rename(sharded / "model_world_size_2_rank_1.pt")
    assert export([str(sharded), str(tmp_path / "out")]) == 2
    assert "model_world_size_2_rank_0.pt: no such shard" in capsys.readouterr().err
