"""``python -m recipe.evaluate``: answer a split with vLLM, score it, compare with the baselines."""

import json
import random
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from recipe import checks, program
from recipe.errors import InputError
from recipe.evaluation.baselines import (
    baseline_summary,
    majority_baseline,
    region_prior_baseline,
)
from recipe.evaluation.files import write_text_atomically
from recipe.evaluation.metrics import metrics_table, summary_metrics
from recipe.evaluation.predictions import Prediction, score_predictions, write_predictions
from recipe.evaluation.questions import read_questions
from recipe.evaluation.tables import comparison, markdown
from recipe.generation import Prompt, answer, read_prompts, start_engine
from reward.judge.ready import check_ready
from reward.presets import is_judged, load_preset, preset_names

SPLITS = ("val", "test", "train")


def _files(config: DictConfig) -> tuple[Path, Path]:
    """The split to answer, and the training split for the baselines."""
    folder = Path(config.data.dir)
    return folder / f"{config.data.split}.parquet", folder / "train.parquet"


def check(config: DictConfig) -> None:
    """Check everything that can be checked before the engine starts.

    Raises:
        InputError: the first fault found.
    """
    program.require(config, "model.path", "data.dir")
    if config.data.split not in SPLITS:
        raise InputError(f"data.split={config.data.split}: choose one of {', '.join(SPLITS)}")
    if config.preset not in preset_names():
        raise InputError(f"preset={config.preset}: choose one of {', '.join(preset_names())}")
    _check_judge(config)
    samples, temperature = config.sampling.samples, config.sampling.temperature
    if not isinstance(samples, int) or samples < 0:
        raise InputError(f"sampling.samples={samples}: give a whole number, 0 or more")
    if not isinstance(temperature, int | float) or temperature <= 0:
        raise InputError(f"sampling.temperature={temperature}: give a number above 0")
    if not isinstance(config.data.max_questions, int):
        raise InputError(f"data.max_questions={config.data.max_questions}: give a whole number")
    checks.check_accelerator(config)
    model = checks.check_model_folder(config.model.path, "model.path")
    for file in _files(config):
        metadata = checks.check_parquet(str(file), "data.dir", checks.ROLLOUT_COLUMNS)
        checks.check_family(metadata, model, f"data.dir={config.data.dir}")


def _judge_settings(config: DictConfig) -> dict[str, Any]:
    """The judge's settings that the configuration gives; null leaves the preset's."""
    return {key: value for key, value in config.judge.items() if value is not None}


def _check_judge(config: DictConfig) -> None:
    """Check that the judge of a judged preset could be asked."""
    try:
        kwargs = load_preset(config.preset, _judge_settings(config))
        if is_judged(kwargs):
            check_ready(kwargs["judge"])
    except ValueError as error:
        raise InputError(str(error)) from error


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


def _generate(config: DictConfig, prompts: list[Prompt]) -> dict[str, list[Prediction]]:
    """Greedy and sampled predictions, scored."""
    from transformers import AutoProcessor
    from vllm import SamplingParams

    engine = start_engine(config)
    processor = AutoProcessor.from_pretrained(config.model.path)
    limit = config.data.max_response_length
    runs = {"greedy": SamplingParams(temperature=0.0, max_tokens=limit)}
    if config.sampling.samples:
        runs["sampled"] = SamplingParams(
            temperature=config.sampling.temperature,
            n=config.sampling.samples,
            max_tokens=limit,
            # Seeded by the engine: a generator for each request fails on vLLM 0.28's CPU sampler.
        )
    results = {}
    for name, params in runs.items():
        with tqdm(total=len(prompts), desc=f"answering, {name}", unit="question") as progress:
            responses = answer(engine, processor, prompts, params, progress)
        predictions = _predictions(prompts, responses)
        results[name] = score_predictions(predictions, config.preset, _judge_settings(config))
    return results


def _write(config: DictConfig, results: dict[str, list[Prediction]]) -> None:
    """Predictions, metrics and the table beside the baselines."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, predictions in results.items():
        write_predictions(out / f"{name}.jsonl", predictions)
    split, train_file = _files(config)
    answered = {prediction.index for prediction in results["greedy"]}
    train = read_questions(train_file)
    questions = [question for question in read_questions(split) if question.index in answered]
    tables = {name: metrics_table(predictions) for name, predictions in results.items()}
    metrics: dict[str, Any] = {
        "model": str(config.model.path),
        "split": str(split),
        "preset": config.preset,
        "overall": summary_metrics(results["greedy"], results.get("sampled", results["greedy"])),
        "by_type": json.loads(tables["greedy"].to_json(orient="index")),
        "baselines": baseline_summary(train, questions),
    }
    write_text_atomically(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    table = comparison(
        {"model": tables["greedy"]},
        sampled={"model": tables["sampled"]} if "sampled" in tables else None,
        majority=majority_baseline(train, questions),
        region_prior=region_prior_baseline(train, questions),
    )
    write_text_atomically(out / "metrics.md", markdown(table))
    print(markdown(table))


def evaluate(config: DictConfig) -> None:
    """Check, answer, score, compare, write."""
    check(config)
    program.set_environment(config)
    prompts = read_prompts(_files(config)[0])
    total = len(prompts)
    if 0 <= config.data.max_questions < total:
        chosen = random.Random(config.seed).sample(range(total), config.data.max_questions)
        prompts = [prompts[i] for i in sorted(chosen)]
    print(f"{len(prompts)} of {total} questions of the {config.data.split} split")
    _write(config, _generate(config, prompts))


def main() -> None:
    """Entry point."""
    program.run("evaluate", evaluate)


if __name__ == "__main__":
    main()
