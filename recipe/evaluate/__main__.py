"""``python -m recipe.evaluate``: answer a split, score it, compare with baselines and controls.

The model is a Hugging Face folder, a checkpoint of this recipe or an OpenAI-compatible server. With
``predictions=FOLDER`` nothing is generated: an earlier evaluation is scored again.
"""

import json
import multiprocessing
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from data_prep.coordinates import MODEL_FAMILIES
from data_prep.program import InputError, is_synthetic, lock, read_metadata, write_whole
from recipe import console, program
from recipe.evaluate.answers import ask_all, checkpoint_of, journal_file, weights_of
from recipe.evaluate.checks import follow_training, judge_settings, reward_judge, split_files
from recipe.evaluate.generation import (
    ENGINE,
    LocalModel,
    Prompt,
    read_prompts,
    with_other_pictures,
)
from recipe.evaluate.metrics import metrics_table
from recipe.evaluate.predictions import (
    AR_SCORE,
    Prediction,
    add_ar_scores,
    read_columns,
    read_predictions,
    read_questions,
    score_predictions,
    write_predictions,
)
from recipe.evaluate.results import Evaluated, results
from recipe.evaluate.seen import patients_seen
from recipe.evaluate.serving import ServedModel, connect
from recipe.evaluate.tables import markdown, page, verdict
from recipe.preflight.checklist import refuse_faulty
from recipe.program import plain
from recipe.run import fork_server
from recipe.run.checkpoints import load_json
from recipe.run.folder import LOCK

Runs = dict[str, list[Prediction]]
"""Predictions by the name of their file, one of `FILES`."""

FILES = ("greedy", "sampled", "blank", "shuffled")
RESULTS = ("metrics.json", "metrics.md")
MERGED = "merged"
"""Folder of shards and adapters that are merged for the time of the evaluation."""

OF_ANSWERS = ("base_url", "model", "response_prefix", "extra_body")
"""Settings of a server that change its answers; others, such as a time limit, do not."""


def main() -> None:
    program.run("evaluate", evaluate)


def evaluate(config: DictConfig) -> None:
    """Answer the questions, score the answers, and write metrics and tables."""
    if config.cluster.fork_processes and not (config.predictions or config.server.base_url):
        # vLLM starts its engine by multiprocessing.
        multiprocessing.set_executable(fork_server.start(ENGINE))
    follow_training(config)
    refuse_faulty(config, "evaluate")
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    held = lock(out / LOCK, "out=")
    if config.predictions:
        about, runs = _read(Path(config.predictions))
        check_beside(config, {prediction.id for prediction in runs["greedy"]})
        console.begin(out)
        _clear(out, keep=config.predictions)
        _write(config, _score(config, runs), about)
    else:
        prompts = _chosen_prompts(config)
        _clear(out)
        about, runs = _generate(config, prompts)
        shutil.rmtree(out / MERGED, ignore_errors=True)
        _write(config, _score(config, runs), about)
        for name in FILES:
            journal_file(out, name).unlink(missing_ok=True)
    if held:
        held.release()


def _chosen_prompts(config: DictConfig) -> list[Prompt]:
    prompts = read_prompts(split_files(config)[0], config.data.reasoning)
    total = len(prompts)
    if 0 <= config.data.max_questions < total:
        chosen = random.Random(config.seed).sample(range(total), config.data.max_questions)
        prompts = [prompts[i] for i in sorted(chosen)]
    check_beside(config, {str(prompt.index) for prompt in prompts})
    console.begin(Path(config.out))
    console.say(f"{len(prompts)} of {total} questions of the {config.data.split} split")
    return prompts


def _clear(out: Path, keep: str | None = None) -> None:
    """Remove an earlier evaluation's files, which would stand beside those of another model.

    Predictions stay where `keep` is the same folder: they are scored again.
    """
    names = [f"{name}.jsonl" for name in FILES] if keep is None or not out.samefile(keep) else []
    for name in (*names, *RESULTS):
        (out / name).unlink(missing_ok=True)


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


def _read(folder: Path) -> tuple[dict[str, Any], Runs]:
    """Return the model's entries of an evaluation's `metrics.json`, and its predictions."""
    metrics = load_json(folder / "metrics.json")
    about: dict[str, Any] = {"model": str(folder)}
    about |= {key: metrics[key] for key in ("model", "checkpoint", "server") if key in metrics}
    runs = {
        name: read_predictions(folder / f"{name}.jsonl")
        for name in FILES
        if name == "greedy" or (folder / f"{name}.jsonl").is_file()
    }
    return about, runs


def _generate(config: DictConfig, prompts: list[Prompt]) -> tuple[dict[str, Any], Runs]:
    """Return the model's entries of `metrics.json`, and its responses, each set written."""
    about, asked = _identity(config)
    model = _model(config, prompts)
    if isinstance(model, ServedModel):
        # Another model may be at the same address since an evaluation that was interrupted.
        asked["server"]["model"] = model.name()
    requests = {"greedy": (prompts, 0.0, 1)}
    if config.sampling.samples:
        requests["sampled"] = (prompts, config.sampling.temperature, config.sampling.samples)
    for control in config.controls:
        requests[control] = (with_other_pictures(prompts, control, config.seed), 0.0, 1)
    runs = {}
    out = Path(config.out)
    for name, (variants, temperature, samples) in requests.items():
        runs[name] = ask_all(
            model,
            variants,
            name=name,
            temperature=temperature,
            samples=samples,
            out=out,
            asked=asked,
        )
        write_predictions(out / f"{name}.jsonl", runs[name])
    if isinstance(model, ServedModel):
        about["server"] = model.description()
    return about, runs


def _identity(config: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model's entries of `metrics.json`, and what its answers depend on."""
    data = config.data
    asked = {
        "max_response_length": data.max_response_length,
        "template": plain(data.apply_chat_template_kwargs),
        "seed": config.seed,
    }
    if config.server.base_url:
        served = {key: value for key, value in plain(config.server).items() if key in OF_ANSWERS}
        return {"model": config.server.base_url}, {**asked, "server": served}
    path = config.model.path
    checkpoint = checkpoint_of(path)
    about = {"model": path, "checkpoint": str(checkpoint or path)}
    return about, {**asked, "weights": weights_of(path)}


def _model(config: DictConfig, prompts: list[Prompt]) -> LocalModel | ServedModel:
    split = split_files(config)[0]
    if config.server.base_url:
        name = read_metadata(split).get("model_family", "qwen2_5_vl")
        return connect(config, prompts, MODEL_FAMILIES[name].patch)
    from recipe.export import loadable

    config.model.path = str(loadable(config.model.path, Path(config.out) / MERGED))
    console.say("starting vLLM, which takes half a minute or more")
    return LocalModel(config, split)


def _score(config: DictConfig, runs: Runs) -> Runs:
    """Score the predictions and write them again with their scores."""
    scored = {}
    for name, predictions in runs.items():
        scored[name] = score_predictions(predictions, config.preset, reward_judge(config))
        if config.ar_score and name == "greedy":
            scored[name] = add_ar_scores(scored[name], judge_settings(config))
        write_predictions(Path(config.out) / f"{name}.jsonl", scored[name])
    return scored


def _write(config: DictConfig, runs: Runs, about: dict[str, Any]) -> None:
    out = Path(config.out)
    split, train_file = split_files(config)
    model = Evaluated(
        greedy=runs["greedy"],
        sampled=runs.get("sampled", ()),
        controls={name: runs[name] for name in ("blank", "shuffled") if name in runs},
        beside={str(title): _beside(config, folder) for title, folder in config.beside.items()},
    )
    metrics: dict[str, Any] = {
        **about,
        "split": str(split),
        "synthetic": shows_no_patient(split, model.greedy),
        "patients_seen": _patients_seen(about, model.greedy),
        "preset": config.preset,
        **results(model, read_questions(train_file), config.seed),
    }
    write_whole(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write_whole(out / "metrics.md", page(metrics))
    console.say(markdown(metrics_table(model.greedy)))
    if count := metrics["cut_off"]["greedy"]:
        console.say(
            f"warning: {count} of {len(model.greedy)} greedy responses were cut off: raise "
            f"data.max_response_length={config.data.max_response_length}"
        )
    if (seen := metrics["patients_seen"]) and config.data.split != "train":
        console.say(
            f"warning: the model was trained on {seen} of the {metrics['patients']} patients of "
            f"{split}: keep the splits of its data (data_prep.thinkvg --splits-of FOLDER)"
        )
    console.say(f"{verdict(metrics)}\n{out / 'metrics.md'}")


def _patients_seen(about: dict[str, Any], predictions: Sequence[Prediction]) -> int | None:
    patients = {str(each.extra_info.get("patient") or "") for each in predictions}
    return patients_seen(about.get("checkpoint", ""), patients - {""})


def shows_no_patient(split: Path, predictions: Sequence[Prediction]) -> bool:
    """Return whether a split says that it is synthetic, and all predictions are on rows of it."""
    if not is_synthetic(split):
        return False
    extras = read_columns(split, ("extra_info",))["extra_info"]
    rows = {(extra["index"], extra.get("patient")) for extra in extras}
    return all((each.index, each.extra_info.get("patient")) in rows for each in predictions)


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
