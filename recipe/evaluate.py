"""``python -m recipe.evaluate``: answer a split, score it, compare with baselines and controls.

The model is a Hugging Face folder, a checkpoint of this recipe or an OpenAI-compatible server; or
there is none, and predictions of an earlier evaluation are scored again.
"""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from data_prep.metadata import read_metadata
from recipe import program
from recipe.errors import InputError
from recipe.evaluation.files import write_text_atomically
from recipe.evaluation.input import check, judge_settings, reward_judge, split_files
from recipe.evaluation.judged import add_ar_scores
from recipe.evaluation.markdown import page, verdict
from recipe.evaluation.metrics import AR_SCORE, metrics_table
from recipe.evaluation.predictions import (
    Prediction,
    read_predictions,
    score_predictions,
    write_predictions,
)
from recipe.evaluation.questions import read_questions
from recipe.evaluation.results import Evaluated, results
from recipe.evaluation.tables import markdown
from recipe.generation import LocalModel, Prompt, read_prompts, with_other_pictures
from recipe.serving import ServedModel

Runs = dict[str, list[Prediction]]
"""Predictions by file name: `greedy`, `sampled`, and the controls `blank` and `shuffled`."""

FILES = ("greedy", "sampled", "blank", "shuffled")


def _predictions(prompts: list[Prompt], responses: list[list[str]]) -> list[Prediction]:
    return [
        Prediction(
            id=str(prompt.index),
            index=prompt.index,
            sample=number,
            response=text,
            ground_truth=json.loads(prompt.ground_truth),
            extra_info=prompt.extra_info,
        )
        for prompt, texts in zip(prompts, responses, strict=True)
        for number, text in enumerate(texts)
    ]


def _model(config: DictConfig) -> LocalModel | ServedModel:
    if config.server.base_url:
        family = read_metadata(split_files(config)[0]).get("model_family")
        return ServedModel(config, patch_size=16 if family == "qwen3_vl" else 14)
    from recipe.export import loadable

    config.model.path = str(loadable(config.model.path, Path(config.out)))
    return LocalModel(config)


def _generate(config: DictConfig, prompts: list[Prompt]) -> Runs:
    """Greedy and sampled predictions, and those of the controls; written as they come."""
    model = _model(config)
    asked = {"greedy": (prompts, 0.0, 1)}
    if config.sampling.samples:
        asked["sampled"] = (prompts, config.sampling.temperature, config.sampling.samples)
    for control in config.controls:
        asked[control] = (with_other_pictures(prompts, control, config.seed), 0.0, 1)
    runs = {}
    for name, (given, temperature, samples) in asked.items():
        with tqdm(total=len(given), desc=f"answering, {name}", unit="question") as progress:
            responses = model.answer(
                given, temperature=temperature, samples=samples, progress=progress
            )
        runs[name] = _predictions(prompts, responses)
        write_predictions(Path(config.out) / f"{name}.jsonl", runs[name])
    return runs


def _read(folder: Path) -> Runs:
    """The predictions of an earlier evaluation."""
    return {
        name: read_predictions(folder / f"{name}.jsonl")
        for name in FILES
        if name == "greedy" or (folder / f"{name}.jsonl").is_file()
    }


def _score(config: DictConfig, runs: Runs) -> Runs:
    """Score and write them again, now with their scores."""
    scored = {}
    for name, predictions in runs.items():
        scored[name] = score_predictions(predictions, config.preset, reward_judge(config))
        if config.ar_score and name == "greedy":
            scored[name] = add_ar_scores(scored[name], judge_settings(config))
        write_predictions(Path(config.out) / f"{name}.jsonl", scored[name])
    return scored


def check_beside(config: DictConfig, answered: set[str]) -> None:
    """Check ahead that the other models answered the same questions.

    Raises:
        InputError: names the folder that did not.
    """
    for title, folder in config.beside.items():
        others = {p.id for p in read_predictions(Path(folder) / "greedy.jsonl")}
        if others != answered:
            raise InputError(
                f"beside.{title}={folder}: {len(answered - others)} of the {len(answered)} "
                f"questions are missing there and {len(others - answered)} are others; evaluate "
                "both on the same split, with the same data.max_questions and seed"
            )


def _scored_beside(config: DictConfig, predictions: list[Prediction]) -> list[Prediction]:
    """Scored like the model's own; a judge's AR-score is kept."""
    scored = score_predictions(predictions, config.preset, reward_judge(config))
    return [
        replace(
            new, scores={**{k: v for k, v in old.scores.items() if k == AR_SCORE}, **new.scores}
        )
        for old, new in zip(predictions, scored, strict=True)
    ]


def _write(config: DictConfig, runs: Runs) -> None:
    """Metrics and tables beside the baselines."""
    out = Path(config.out)
    split, train_file = split_files(config)
    beside = {
        str(title): read_predictions(Path(folder) / "greedy.jsonl")
        for title, folder in config.beside.items()
    }
    model = Evaluated(
        greedy=runs["greedy"],
        sampled=runs.get("sampled", ()),
        controls={name: runs[name] for name in ("blank", "shuffled") if name in runs},
        beside={title: _scored_beside(config, found) for title, found in beside.items()},
    )
    metrics: dict[str, Any] = {
        "model": str(config.server.base_url or config.predictions or config.model.path),
        "split": str(split),
        "preset": config.preset,
        **results(model, read_questions(train_file), config.seed),
    }
    write_text_atomically(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write_text_atomically(out / "metrics.md", page(metrics))
    print(markdown(metrics_table(model.greedy)))
    print(f"{verdict(metrics)}\n{out / 'metrics.md'}")


def evaluate(config: DictConfig) -> None:
    """Check, answer, score, compare, write."""
    check(config)
    program.set_environment(config)
    Path(config.out).mkdir(parents=True, exist_ok=True)
    if config.predictions:
        runs = _read(Path(config.predictions))
        check_beside(config, {prediction.id for prediction in runs["greedy"]})
        _write(config, _score(config, runs))
        return
    prompts = read_prompts(split_files(config)[0])
    total = len(prompts)
    if 0 <= config.data.max_questions < total:
        chosen = random.Random(config.seed).sample(range(total), config.data.max_questions)
        prompts = [prompts[i] for i in sorted(chosen)]
    check_beside(config, {str(prompt.index) for prompt in prompts})
    print(f"{len(prompts)} of {total} questions of the {config.data.split} split")
    _write(config, _score(config, _generate(config, prompts)))


def main() -> None:
    """Entry point."""
    program.run("evaluate", evaluate)


if __name__ == "__main__":
    main()
