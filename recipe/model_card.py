"""The model card of an exported model, filled in from its run and its evaluation."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf

from data_prep.program import InputError, is_synthetic, read_metadata
from recipe.evaluate.metrics import METHOD
from recipe.evaluate.predictions import read_columns, read_predictions
from recipe.evaluate.results import read_results
from recipe.evaluate.tables import beside_table, markdown_table, verdict
from recipe.report.run_folder import Origin
from recipe.run.checkpoints import Source, run_folder
from recipe.run.folder import read_run_config

PACKAGES = ("verl", "ray", "vllm", "torch", "transformers", "TransferQueue", "datasets")
ROOT = Path(__file__).resolve().parents[1]
UNKNOWN = "not recorded"
CODE = (".", ":(exclude)results", ":(exclude)docs")
HEADER = {
    "library_name": "transformers",
    "pipeline_tag": "image-text-to-text",
    "license": "other",
    "license_name": "see-below",
    "tags": ["medical-vqa", "visual-grounding", "chest-x-ray"],
}
_DATA_NOTES = {
    "phantom": "The training data is the synthetic phantom set of this project: drawn chests, no "
    "patient. The numbers say that the training works, not how well the model reads X-rays.",
    "patients": "Images are MIMIC-CXR-JPG's: its data use agreement forbids sharing the data or "
    "derivatives with third parties, and PhysioNet decides whether weights trained on it are such. "
    "Make sure that this folder may be shared before you share it. The annotations of "
    "GEMeX-ThinkVG are CC BY-NC (third-party note): no commercial use.",
    "unknown": "The training data was not found at export, so nothing is known of its terms: make "
    "sure of them before you share this folder.",
}


def card(name: str, source: Source, evaluation: Path | None) -> str:
    """Return the text of README.md, with the numbers of a folder of `recipe.evaluate`.

    Raises:
        InputError: `evaluation` has no metrics.json of this version.
    """
    run = run_folder(source)
    config = OmegaConf.create(read_run_config(run) if run else {})
    origin = _origin(config)
    base = _shown(base_model(config) or UNKNOWN)
    parts = [
        f"---\n{yaml.safe_dump(HEADER, sort_keys=False)}---\n",
        f"# {name}\n",
        "Answers a question about a chest X-ray with a reasoning that cites boxes, an answer and "
        "the boxes of its evidence. For research; not a medical device.\n",
        "## Training\n",
        markdown_table(["", ""], _training(source, config, base).items(), align_right=False),
        "## Evaluation\n",
        *_evaluation(evaluation, config),
        "## Use\n",
        "Loads with `AutoModelForImageTextToText` and `AutoProcessor` of transformers, and in "
        "vLLM. The prompt is built by the processor's chat template; pictures go in under the "
        "pixel limits below, since boxes are written in the coordinates of the resized picture.\n",
        markdown_table(["", ""], _limits(config).items(), align_right=False),
        "## Licence and data\n",
        f"{_DATA_NOTES[origin]}\n",
        f"The weights come from `{base}` and stay under its licence. The code that trained them is "
        "Apache-2.0.\n",
    ]
    return "\n".join(parts)


def base_model(config: DictConfig) -> str | None:
    """Return the model that a run starts from; GRPO may start from another one than model.path."""
    paths = (_value(config, key) for key in ("actor_rollout_ref.model.path", "model.path"))
    return next(filter(None, paths), None)


def _training(source: Source, config: DictConfig, base: str) -> dict[str, str]:
    is_rl = "actor_rollout_ref" in config
    step = next((part for part in source.folder.parts if part.startswith("global_step_")), UNKNOWN)
    rows = {
        "starts from": f"`{base}`",
        "stage": "GRPO" if is_rl else "supervised fine-tuning" if config else UNKNOWN,
        "checkpoint": step,
        "data": f"`{_shown(_get(config, 'data.train_files'))}`",
        "share of the data": _get(config, "data.fraction"),
        "seed": _get(config, "seed"),
        "adapters": "LoRA, merged" if source.lora else "none",
        "code at export": commit(),
    }
    if is_rl:
        function = "reward.custom_reward_function"
        rows["reward"] = f"`{_get(config, f'{function}.path')}`, {_get(config, f'{function}.name')}"
        rows["reward settings"] = f"`{_get(config, f'{function}.reward_kwargs')}`"
        rows["learning rate"] = _get(config, "actor_rollout_ref.actor.optim.lr")
        group = _get(config, "actor_rollout_ref.rollout.n")
        rows["prompts a step × rollouts"] = f"{_get(config, 'data.train_batch_size')} × {group}"
    elif config:
        rows["learning rate"] = _get(config, "optim.lr")
    return rows


def commit() -> str:
    """Return the commit of this code, marked if files differ from it.

    Results and pages, which runs write themselves, do not count.
    """
    try:
        head, changes = (
            subprocess.run(
                ["git", "-C", str(ROOT), *command],
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno", "--", *CODE])
        )
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return f"{head} with local changes" if changes else head


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _evaluation(evaluation: Path | None, config: DictConfig) -> list[str]:
    if evaluation is None:
        return ["Not evaluated at export.\n"]
    metrics = read_results(evaluation)
    if not metrics:
        raise InputError(
            f"--evaluation {evaluation}: no metrics.json of recipe.evaluate in it; evaluate first"
        )
    unseen = ", none of whom is in the training file" if _is_held_out(evaluation, config) else ""
    return [
        f"{metrics['overall']['n']} questions about {metrics['patients']} patients of "
        f"`{_shown(metrics.get('split', UNKNOWN))}`{unseen}, reward preset `{metrics['preset']}`. "
        f"In brackets: {METHOD}.\n",
        verdict(metrics),
        beside_table(metrics),
    ]


def _is_held_out(evaluation: Path, config: DictConfig) -> bool:
    """Return whether no evaluated patient is in the run's training file; False if not known."""
    try:
        rows = read_columns(Path(_get(config, "data.train_files")), ("extra_info",))["extra_info"]
        predictions = read_predictions(evaluation / "greedy.jsonl")
    except InputError:
        return False
    trained = {(row or {}).get("patient") for row in rows}
    evaluated = {prediction.extra_info.get("patient") for prediction in predictions}
    return None not in trained | evaluated and trained.isdisjoint(evaluated)


def _limits(config: DictConfig) -> dict[str, str]:
    file = Path(_get(config, "data.train_files"))
    try:
        metadata = read_metadata(file)
    except (OSError, ValueError):
        return {"pixel limits": UNKNOWN}
    return {
        "pixels, least and most": f"{metadata.get('min_pixels')} and {metadata.get('max_pixels')}",
        "boxes": str(metadata.get("coordinates", UNKNOWN)),
    }


def _origin(config: DictConfig) -> Origin:
    file = Path(_get(config, "data.train_files"))
    if not file.is_file():
        return "unknown"
    return "phantom" if is_synthetic(file) else "patients"


def _get(config: DictConfig, key: str) -> str:
    return _value(config, key) or UNKNOWN


def _value(config: DictConfig, key: str) -> str | None:
    value = OmegaConf.select(config, key, throw_on_resolution_failure=False)
    return None if value is None else str(value)


def _shown(path: str) -> str:
    """Return a hub name unchanged, but only the end of a path, which is not of this machine."""
    return "/".join(Path(path).parts[-2:]) if path.startswith(("/", ".", "~")) else path
