"""The models that a user names on the command line: checked first, then loaded.

An `options` is the parsed command line of `recipe.ask`.
"""

import argparse
import asyncio
import math
import multiprocessing
import re
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig
from PIL import Image

from data_prep.program import InputError
from recipe import console
from recipe.ask.page import NamedModel
from recipe.ask.question import Training, read_question, read_training
from recipe.evaluate.checks import follow_training, read_model
from recipe.evaluate.generation import ENGINE, PATCHES, StreamingModel
from recipe.evaluate.serving import check_server, connect
from recipe.program import compose_config, describe, set_environment
from recipe.run import fork_server
from recipe.run.checkpoints import find_model, load_json, run_folder
from recipe.run.folder import FILE, read_run_config
from recipe.run.host import check_output

MOST_MODELS = 2


@dataclass(frozen=True)
class Choice:
    """A model that the user named: its title, its configuration, and how it was trained."""

    title: str
    config: DictConfig
    training: Training

    @property
    def is_served(self) -> bool:
        return bool(self.config.server.base_url)


def read_choices(options: argparse.Namespace) -> list[Choice]:
    """Return the models of the command line, checked and not loaded."""
    named = [(False, *_titled(text)) for text in options.models]
    named += [(True, *_titled(text)) for text in options.server]
    if not 1 <= len(named) <= MOST_MODELS:
        raise InputError(f"give one or {MOST_MODELS} models: MODEL or --server URL")
    titles = [title or _default_title(place) for _, title, place in named]
    if len(set(titles)) < len(titles):
        raise InputError(f"two models are called {titles[0]}: name them, TITLE=MODEL")
    return [
        _choice(options, title, is_served, place, len(options.models))
        for title, (is_served, _, place) in zip(titles, named, strict=True)
    ]


def _titled(text: str) -> tuple[str, str]:
    """Split TITLE=PLACE; a place alone has no title, also if its name has an equals sign."""
    title, equals, place = text.partition("=")
    is_title = equals and "/" not in title and not Path(text).exists()
    return (title.strip(), place) if is_title else ("", text)


def _default_title(place: str) -> str:
    """Return the name of a run, a model's folder or a server's host."""
    inner = re.compile(r"huggingface|actor|checkpoints|global_step_\d+|v1|/|https?:")
    names = [part for part in Path(place).parts if not inner.fullmatch(part)]
    return names[-1] if names else place


def _choice(
    options: argparse.Namespace, title: str, is_served: bool, place: str, engines: int
) -> Choice:
    run = {} if is_served else _run_config(place)
    config = _config(options, is_served, place, engines)
    data = options.data or (None if is_served else data_of([place]))
    if is_served:
        check_server(config.server)
        if not data and not options.family:
            raise InputError("--server: give --data DIR of the model's training, or --family")
    model = read_model(config)
    if options.family:
        model = {"model_type": options.family, **model}
    pixels = options.pixels and tuple(options.pixels)
    training = read_training(data, model, config.data.reasoning, pixels)
    if not data and not options.pixels:
        named = run.get("data", {}).get("dir")
        why = (
            f"the data of its training, {named}, is not there"
            if named
            else "nothing says how its training resized pictures"
        )
        console.say(
            f"note: {place}: {why}; pictures get "
            f"{training.min_pixels} to {training.max_pixels} pixels (--data DIR of its training, "
            "or --pixels MIN MAX)"
        )
    return Choice(title, config, training)


def _config(options: argparse.Namespace, is_served: bool, place: str, engines: int) -> DictConfig:
    """Return the evaluation's configuration of a model, asked as in its training."""
    overrides = [f"cluster={options.cluster or _cluster()}", "data.dir=none"]
    overrides += ["model.path=null"]
    # On a GPU, engines share its memory.
    share = 0.85 / max(1, engines)
    overrides += ["cluster.tensor_parallel=1", f"cluster.gpu_memory_utilization={share:.2f}"]
    overrides += options.set
    config = compose_config("evaluate", overrides)
    # Not as overrides, in which accents and quotes would have to be written otherwise.
    if is_served:
        config.server.base_url = place
    else:
        config.model.path = place
    follow_training(config)
    return config


def _cluster() -> str:
    # torch would tell, but it must load after `set_environment`.
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    return "h100x8" if has_gpu else "cpu"


def _run_of(place: str) -> Path | None:
    """Return the folder of the run that wrote a checkpoint; None if there is none."""
    return run_folder(find_model(place, "MODEL")) if Path(place).is_dir() else None


def _run_config(place: str) -> dict[str, Any]:
    """Return the configuration of the run that wrote a checkpoint; empty if there is none."""
    run = _run_of(place)
    return read_run_config(run) if run else {}


def data_of(places: Sequence[str]) -> Path | None:
    """Return the data that the first of these models was trained on, if it is on this machine.

    `run.json` has its whole path. The configuration has it as it was given, which may be relative
    to the folder where the training was started.
    """
    for place in places:
        run = _run_of(_titled(place)[1])
        if run is None:
            continue
        file = load_json(run / FILE).get("data.train_files")
        configured = read_run_config(run).get("data", {}).get("dir")
        folders = [Path(file).parent] if isinstance(file, str) else []
        folders += [Path(configured)] if configured else []
        for folder in folders:
            if (folder / "test.parquet").is_file():
                return folder
    return None


async def load(options: argparse.Namespace, choices: Sequence[Choice]) -> list[NamedModel]:
    """Load the models, one after the other; the log gets what vLLM prints."""
    local = [choice for choice in choices if not choice.is_served]
    check_memory(local)
    check_output("--log", options.log)
    console.begin(options.log)
    for choice in choices:
        set_environment(choice.config)
    if any(choice.config.cluster.fork_processes for choice in local):
        # vLLM starts its engines by multiprocessing.
        multiprocessing.set_executable(fork_server.start(ENGINE))
    models: list[NamedModel] = []
    for choice in choices:
        try:
            models.append(await _loaded(options, choice))
        except (InputError, asyncio.CancelledError):
            close(models)
            raise
        except Exception as error:
            traceback.print_exc()
            close(models)
            config = choice.config
            fault = (
                f"--server {config.server.base_url}: it cannot be asked"
                if choice.is_served
                else f"{config.model.path}: vLLM cannot load it"
            )
            raise InputError(f"{fault}: {describe(error)}") from None
    return models


def check_memory(choices: Sequence[Choice]) -> None:
    """Refuse models whose weights alone do not fit into the memory of a machine without a GPU."""
    sizes = []
    for choice in choices:
        path = Path(choice.config.model.path)
        if choice.config.cluster.platform != "cpu" or not path.is_dir():
            continue
        source = find_model(path, "MODEL")
        stored = load_json(source.folder / "config.json")
        is_half = str(stored.get("dtype") or stored.get("torch_dtype")) in ("bfloat16", "float16")
        files = source.shards.glob("model_*.pt") if source.shards else source.folder.glob("*.saf*")
        # They are computed in float32, of 4 bytes.
        sizes.append(sum(file.stat().st_size for file in files) * (1 + is_half))
    free = psutil.virtual_memory().available
    if sum(sizes) > free:
        listed = " and ".join(f"{size / 1e9:.1f}" for size in sizes)
        raise InputError(
            f"MODEL: the weights take {listed} GB in float32, and {free / 1e9:.1f} GB of this "
            "machine's memory are free: ask a smaller or a single model, or a --server"
        )


async def _loaded(options: argparse.Namespace, choice: Choice) -> NamedModel:
    config, training = choice.config, choice.training
    if choice.is_served:
        # The smallest and the largest picture that the model may see.
        sides = (math.isqrt(training.min_pixels), math.isqrt(training.max_pixels))
        blanks = [Image.new("RGB", (side, side), "gray") for side in sides]
        question = read_question("Is it clear?")
        prompts = [training.asked(question, blank).prompt for blank in blanks]
        # It runs an event loop of its own.
        patch = training.family.factor // PATCHES
        served = await asyncio.to_thread(connect, config, prompts, patch)
        return NamedModel(choice.title, served, training)
    from recipe.export import loadable

    console.say(f"loading {config.model.path}")
    config.model.path = loadable(config.model.path, options.log / choice.title)
    return NamedModel(choice.title, StreamingModel(config), training)


def close(models: Sequence[NamedModel]) -> None:
    """End the engines, all at once, since vLLM waits seconds for each."""
    engines = [named.model for named in models if isinstance(named.model, StreamingModel)]
    with ThreadPoolExecutor() as pool:
        for end in [pool.submit(engine.close) for engine in engines]:
            end.result()
