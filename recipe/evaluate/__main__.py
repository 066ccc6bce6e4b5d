"""``python -m recipe.evaluate``: answer a split, score it, compare with baselines and controls.

The model is a Hugging Face folder, a checkpoint of this recipe or an OpenAI-compatible server. With
``predictions=FOLDER`` nothing is generated: an earlier evaluation is scored again.
"""

import json
import multiprocessing
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.coordinates import MODEL_FAMILIES
from data_prep.program import InputError, read_metadata, write_whole
from recipe import console, program
from recipe.evaluate.checks import judge_settings, reward_judge, split_files
from recipe.evaluate.generation import LocalModel, Prompt, read_prompts, with_other_pictures
from recipe.evaluate.metrics import metrics_table
from recipe.evaluate.predictions import (
    AR_SCORE,
    Prediction,
    add_ar_scores,
    read_predictions,
    read_questions,
    score_predictions,
    write_predictions,
)
from recipe.evaluate.results import Evaluated, results
from recipe.evaluate.serving import ServedModel, connect
from recipe.evaluate.tables import markdown, page, verdict
from recipe.preflight.checklist import refuse_faulty
from recipe.run import fork_server

Runs = dict[str, list[Prediction]]
"""Predictions by the name of their file, one of `FILES`."""

ENGINE = ("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "vllm.v1.engine.core")
"""What the process of the engine imports."""

FILES = ("greedy", "sampled", "blank", "shuffled")


def main() -> None:
    program.run("evaluate", evaluate)


def evaluate(config: DictConfig) -> None:
    """Answer the questions, score the answers, and write metrics and tables."""
    if config.cluster.fork_processes and not (config.predictions or config.server.base_url):
        # vLLM starts its engine by multiprocessing.
        multiprocessing.set_executable(fork_server.start(ENGINE))
    refuse_faulty(config, "evaluate")
    out = Path(config.out)
    if config.predictions:
        runs = _read(Path(config.predictions))
        check_beside(config, {prediction.id for prediction in runs["greedy"]})
        console.begin(out)
        _write(config, _score(config, runs), {})
        return
    prompts = read_prompts(split_files(config)[0])
    total = len(prompts)
    if 0 <= config.data.max_questions < total:
        chosen = random.Random(config.seed).sample(range(total), config.data.max_questions)
        prompts = [prompts[i] for i in sorted(chosen)]
    check_beside(config, {str(prompt.index) for prompt in prompts})
    console.begin(out)
    console.say(f"{len(prompts)} of {total} questions of the {config.data.split} split")
    runs, server = _generate(config, prompts)
    _write(config, _score(config, runs), server)


def check_beside(config: DictConfig, answered: set[str]) -> None:
    """Refuse models of ``beside`` that answered other questions; name their folder."""
    for title, folder in config.beside.items():
        ids = {p.id for p in read_predictions(Path(folder) / "greedy.jsonl")}
        if ids != answered:
            raise InputError(
                f"beside.{title}={folder}: {len(answered - ids)} of the {len(answered)} "
                f"questions are missing there and {len(ids - answered)} are others; evaluate "
                "both on the same split, with the same data.max_questions and seed"
            )


def _read(folder: Path) -> Runs:
    return {
        name: read_predictions(folder / f"{name}.jsonl")
        for name in FILES
        if name == "greedy" or (folder / f"{name}.jsonl").is_file()
    }


def _generate(config: DictConfig, prompts: list[Prompt]) -> tuple[Runs, dict[str, Any]]:
    """Return responses, each set written when complete, and a server's entry of `metrics.json`."""
    model = _model(config, prompts)
    requests = {"greedy": (prompts, 0.0, 1)}
    if config.sampling.samples:
        requests["sampled"] = (prompts, config.sampling.temperature, config.sampling.samples)
    for control in config.controls:
        requests[control] = (with_other_pictures(prompts, control, config.seed), 0.0, 1)
    runs = {}
    for name, (variants, temperature, samples) in requests.items():
        bar = console.progress(total=len(variants), desc=f"answering, {name}", unit="question")
        with bar as progress:
            responses = model.answer(
                variants, temperature=temperature, samples=samples, progress=progress
            )
        runs[name] = _predictions(prompts, responses)
        write_predictions(Path(config.out) / f"{name}.jsonl", runs[name])
    return runs, {"server": model.description()} if isinstance(model, ServedModel) else {}


def _model(config: DictConfig, prompts: list[Prompt]) -> LocalModel | ServedModel:
    if config.server.base_url:
        return _served(config, prompts)
    from recipe.export import loadable

    config.model.path = str(loadable(config.model.path, Path(config.out)))
    console.say("starting vLLM, which takes half a minute or more")
    return LocalModel(config)


def _served(config: DictConfig, prompts: list[Prompt]) -> ServedModel:
    name = read_metadata(split_files(config)[0]).get("model_family", "qwen2_5_vl")
    return connect(config, prompts, MODEL_FAMILIES[name].patch)


def _predictions(prompts: list[Prompt], responses: list[list[str]]) -> list[Prediction]:
    return [
        Prediction(
            id=str(prompt.index),
            index=prompt.index,
            sample=sample,
            response=text,
            ground_truth=json.loads(prompt.ground_truth),
            extra_info=prompt.extra_info,
        )
        for prompt, texts in zip(prompts, responses, strict=True)
        for sample, text in enumerate(texts)
    ]


def _score(config: DictConfig, runs: Runs) -> Runs:
    """Score the predictions and write them again with their scores."""
    scored = {}
    for name, predictions in runs.items():
        scored[name] = score_predictions(predictions, config.preset, reward_judge(config))
        if config.ar_score and name == "greedy":
            scored[name] = add_ar_scores(scored[name], judge_settings(config))
        write_predictions(Path(config.out) / f"{name}.jsonl", scored[name])
    return scored


def _write(config: DictConfig, runs: Runs, server: dict[str, Any]) -> None:
    out = Path(config.out)
    split, train_file = split_files(config)
    model = Evaluated(
        greedy=runs["greedy"],
        sampled=runs.get("sampled", ()),
        controls={name: runs[name] for name in ("blank", "shuffled") if name in runs},
        beside={str(title): _beside(config, folder) for title, folder in config.beside.items()},
    )
    metrics: dict[str, Any] = {
        "model": str(config.server.base_url or config.predictions or config.model.path),
        "split": str(split),
        "preset": config.preset,
        **server,
        **results(model, read_questions(train_file), config.seed),
    }
    write_whole(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write_whole(out / "metrics.md", page(metrics))
    console.say(markdown(metrics_table(model.greedy)))
    console.say(f"{verdict(metrics)}\n{out / 'metrics.md'}")


def _beside(config: DictConfig, folder: str) -> list[Prediction]:
    """Read another model's predictions and score them with the same preset.

    An AR-score that they already have is kept.
    """
    predictions = read_predictions(Path(folder) / "greedy.jsonl")
    scored = score_predictions(predictions, config.preset, reward_judge(config))
    return [
        replace(new, scores={AR_SCORE: old.scores[AR_SCORE], **new.scores})
        if AR_SCORE in old.scores
        else new
        for old, new in zip(predictions, scored, strict=True)
    ]


if __name__ == "__main__":
    main()
