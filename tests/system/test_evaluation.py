"""Evaluation on real vLLM: every question answered, and images in the size that boxes are in.

The split has questions of the phantom set and of every external set.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from external_sets import WRITERS, write
from servers import vllm_server

from data_prep.external.__main__ import main as import_external
from data_prep.program import InputError
from recipe.evaluate.generation import Prompt, Response, read_prompts
from recipe.evaluate.serving import ServedModel, compare, served_processor
from recipe.program import compose_config

DRIVER = Path(__file__).parent / "drivers" / "image_size_driver.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Path:
    """The tiny model with the sampling of Qwen2.5-VL in its `generation_config.json`."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copytree(workspace / "model", folder, dirs_exist_ok=True)
    path = folder / "generation_config.json"
    sampling = {"do_sample": True, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.05}
    path.write_text(json.dumps(json.loads(path.read_text()) | sampling))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, workspace: Path) -> Path:
    """Folder of the phantom's training split, and of its test split with all external sets."""
    root = tmp_path_factory.mktemp("external")
    shutil.copy(workspace / "data" / "train.parquet", root)
    phantom = pq.read_table(workspace / "data" / "test.parquet")
    tables = [phantom]
    for name in WRITERS:
        out = root / "out" / name
        options = [*write(name, root / "sets"), "--train", str(root), "--out", str(out)]
        assert import_external([*options, "--workers", "1"]) == 0
        tables.append(pq.read_table(out / "test.parquet"))
    mixed = pa.concat_tables(tables, promote_options="permissive")
    pq.write_table(mixed.replace_schema_metadata(phantom.schema.metadata), root / "test.parquet")
    return root


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, model: Path, data: Path, run: Any) -> Path:
    """Folder that `recipe.evaluate` wrote."""
    out = tmp_path_factory.mktemp("evaluation")
    finished = run(
        "recipe.evaluate",
        "cluster=cpu",
        "model=tiny",
        f"model.path={model}",
        f"data.dir={data}",
        f"out={out}",
        "data.max_prompt_length=384",
        "data.max_response_length=16",
        "sampling.samples=2",
    )
    assert finished.returncode == 0, finished.stdout[-8000:]
    (out / "console").write_text(finished.stdout)
    return out


def test_the_console_is_progress_and_the_table(evaluated: Path, foreign_lines: Any) -> None:
    output = (evaluated / "console").read_text()
    (warning,) = foreign_lines(output)
    assert "greedy responses were cut off: raise data.max_response_length=16" in warning
    for name in ("greedy", "sampled", "blank", "shuffled"):
        assert output.count(f"answering, {name}: ") == 2  # its first and its last line
    assert "| overall |" in output
    assert "WARNING" in (evaluated / "log.txt").read_text()  # vLLM's


def test_every_question_is_answered_once_and_sampled(evaluated: Path, data: Path) -> None:
    rows = pq.read_table(data / "test.parquet").column("extra_info").to_pylist()
    for name, times in (("greedy", 1), ("sampled", 2)):
        lines = (evaluated / f"{name}.jsonl").read_text().splitlines()
        indices = [json.loads(line)["index"] for line in lines]
        assert sorted(indices) == sorted([row["index"] for row in rows] * times)


def test_controls_are_the_same_questions(evaluated: Path) -> None:
    indices = {
        name: [json.loads(line)["index"] for line in (evaluated / f"{name}.jsonl").open()]
        for name in ("greedy", "blank", "shuffled")
    }
    assert indices["blank"] == indices["shuffled"] == indices["greedy"]
    metrics = json.loads((evaluated / "metrics.json").read_text())
    # An untrained model says nothing: it cannot beat what does not look at the picture.
    assert set(metrics["no_better_than"]["v_score"]) == {
        "region prior, region told",
        "region prior, region named by the model",
        "blank image",
        "shuffled images",
    }


def test_kept_predictions_give_the_same_metrics(
    evaluated: Path, data: Path, tmp_path: Path, run: Any
) -> None:
    finished = run(
        "recipe.evaluate",
        "cluster=cpu",
        f"data.dir={data}",
        f"predictions={evaluated}",
        f"out={tmp_path}",
    )
    assert finished.returncode == 0, finished.stdout[-8000:]
    first, again = (
        json.loads((folder / "metrics.json").read_text()) for folder in (evaluated, tmp_path)
    )
    assert {**again, "model": ""} == {**first, "model": ""}


def test_a_server_gives_the_answers_of_the_engine(
    evaluated: Path, model: Path, data: Path, tmp_path: Path, run: Any
) -> None:
    with vllm_server(model, tmp_path / "log", 1, "--max-model-len", "512") as address:
        finished = run(
            "recipe.evaluate",
            "cluster=cpu",
            f"server.base_url={address}",
            f"data.dir={data}",
            f"out={tmp_path / 'out'}",
            "data.max_response_length=16",
            "sampling.samples=2",
            "controls=[]",
        )
        assert finished.returncode == 0, finished.stdout[-8000:]
        check_with_its_folder(address, model, data, evaluated)
        check_other_pixels(address, data)
    # vLLM's server leaves out a character that an answer ends in the middle of.
    greedy = [text.rstrip("\ufffd") for text in responses(evaluated, "greedy")]
    assert responses(tmp_path / "out", "greedy") == greedy
    served, local = (distinct_samples(folder) for folder in (tmp_path / "out", evaluated))
    assert served == local
    assert set(local.values()) == {2}
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())["server"]
    assert told["sampling"]["repetition_penalty"] == 1
    assert "repetition_penalty 1" in (tmp_path / "out" / "metrics.md").read_text()


def responses(folder: Path, name: str) -> list[str]:
    """Responses of a predictions file, in order."""
    return [json.loads(line)["response"] for line in (folder / f"{name}.jsonl").open()]


def distinct_samples(folder: Path) -> dict[str, int]:
    """How many different texts there are for each question."""
    texts = defaultdict(set)
    for line in (folder / "sampled.jsonl").open():
        prediction = json.loads(line)
        texts[prediction["id"]].add(prediction["response"])
    return {question: len(found) for question, found in texts.items()}


def check_with_its_folder(address: str, model: Path, data: Path, evaluated: Path) -> None:
    """Check that with the model's folder the texts are the engine's to the last byte."""
    overrides = [f"server.base_url={address}", f"data.dir={data}", "data.max_response_length=16"]
    prompts, processor = read_prompts(data / "test.parquet"), served_processor(str(model))
    served = ServedModel(compose_config("evaluate", overrides), 14, processor.tokenizer)
    compare(served, prompts, processor)
    texts: dict[int, str] = {}

    def keep(prompt: Prompt, answered: list[Response]) -> None:
        texts[prompt.index] = answered[0].text

    served.answer(prompts, temperature=0.0, samples=1, keep=keep)
    assert [texts[prompt.index] for prompt in prompts] == responses(evaluated, "greedy")
    assert served.description()["unlike_the_engine"] == []


def check_other_pixels(address: str, data: Path) -> None:
    """Check that smaller pictures are noticed; 6,272 pixels are 8 tokens."""
    limits = "+server.extra_body.mm_processor_kwargs={max_pixels:6272}"
    config = compose_config("evaluate", [f"server.base_url={address}", f"data.dir={data}", limits])
    with pytest.raises(InputError, match=r"as \d+ tokens, but the boxes are written for"):
        compare(ServedModel(config, 14), read_prompts(data / "test.parquet"), None)


def test_metrics_stand_beside_the_baselines(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert 0 <= metrics["overall"]["reward"] <= 1
    assert set(metrics["by_type"]) == {"closed", "single", "multi", "open", "overall"}
    assert metrics["baselines"]["majority"]["a_score"] > 0
    assert metrics["baselines"]["region_prior"]["v_score"] > 0
    table = (evaluated / "metrics.md").read_text()
    assert "majority answer" in table
    assert "region prior" in table


def test_every_external_set_has_its_metrics_in_evaluation_and_report(
    evaluated: Path, data: Path, run: Any
) -> None:
    sets = json.loads((evaluated / "metrics.json").read_text())["sets"]
    assert {name.split(":")[0] for name in sets} == set(WRITERS)
    for name in ("ms_cxr", "vindr_cxr", "padchest_gr", "imagenome", "gemex"):
        rows = sets[name]["rows"]
        assert rows["model"]["ap_50"]["mean"] == 0  # untrained, and 16 tokens long
        assert rows["region prior, region told"]["union_iou"]["mean"] >= 0
        assert {"blank image", "shuffled images"} <= rows.keys()
    # Of these sets' regions, training has some.
    assert sets["imagenome"]["rows"]["region prior, region told"]["union_iou"]["mean"] > 0
    assert sets["padchest_gr"]["rows"]["second reader"]["ap_50"]["mean"] == 1
    for name in ("vindr_cxr", "padchest_gr", "rexvqa", "vqa_rad", "slake"):
        assert sets[name]["rows"].keys() >= {"model", "majority answer", "blank image"}
    assert "## Set vqa_rad" in (evaluated / "metrics.md").read_text()
    page = evaluated / "report.html"
    report = ("recipe.report", str(evaluated), "--evaluation", f"untrained={evaluated}")
    finished = run(*report, "--data", str(data), "--output", str(page))
    assert finished.returncode == 0, finished.stdout
    assert "Set slake, 3 questions" in page.read_text()


def test_the_engine_sees_images_in_the_size_of_the_ground_truth(
    tmp_path: Path, workspace: Path, run: Any
) -> None:
    data = tmp_path / "data"
    phantom = workspace / "phantom"
    # Limits under which portrait and landscape pictures come out with unequal sides.
    prepared = run(
        "data_prep.thinkvg",
        *("--source", str(phantom), "--images", str(phantom / "files"), "--out", str(data)),
        *("--min-pixels", "3136", "--max-pixels", "12544", "--limit", "60"),
    )
    assert prepared.returncode == 0, prepared.stdout
    finished = subprocess.run(
        [sys.executable, str(DRIVER), str(workspace / "model"), str(data), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ,
    )
    assert finished.returncode == 0, (finished.stdout + finished.stderr)[-8000:]
    sizes = json.loads((tmp_path / "sizes.json").read_text())
    assert sizes["seen"] == sizes["ground_truth"]
    assert len({tuple(size) for size in sizes["seen"]}) > 1
