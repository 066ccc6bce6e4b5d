"""``python -m recipe.ask MODEL``: ask a model about a picture, on the console or on a local page.

With ``--image`` and ``--question`` it prints reasoning, answer and places. With ``--page`` it
serves a page on 127.0.0.1. A model is a Hugging Face folder or a checkpoint of this recipe, which
vLLM answers in this program, or an OpenAI-compatible server (``--server``).
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import re
import textwrap
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig
from PIL import Image, ImageDraw, ImageFont

from data_prep.program import InputError, whole_file
from recipe import console
from recipe.ask.page import ANSWER_S, MOST_TEMPERATURE, NamedModel, Page, listen, serve
from recipe.ask.question import (
    Asked,
    Examples,
    Training,
    data_metadata,
    read_picture,
    read_question,
    read_training,
)
from recipe.evaluate.checks import read_model
from recipe.evaluate.generation import PATCHES, StreamingModel
from recipe.evaluate.serving import check_server, connect
from recipe.program import compose_config, describe, one_line_at_the_end, set_environment
from recipe.run import fork_server
from recipe.run.checkpoints import find_model, load_json, run_folder
from recipe.run.folder import read_run_config
from recipe.run.host import check_output, leave_on_sigterm
from reward.ground_truth import QUESTION_TYPES
from reward.response import parse_response

ENGINE = ("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "vllm.v1.engine.core")
"""What the process of the engine imports."""
MOST_MODELS = 2
COLOURS = ("#5cbcf2", "#ff8fc7")
"""Of the models' boxes, as on the page."""


@dataclass(frozen=True)
class Choice:
    """A model that the user named: its title, its configuration, and how it was trained."""

    title: str
    config: DictConfig
    training: Training

    @property
    def is_served(self) -> bool:
        return bool(self.config.server.base_url)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    with one_line_at_the_end("stopped"):
        try:
            _page(options) if options.page else _one_question(options)
        except InputError:
            raise
        except Exception as error:
            if not console.has_log():
                raise
            traceback.print_exc()
            console.error(describe(error))
            raise SystemExit(1) from None


def _one_question(options: argparse.Namespace) -> None:
    """Ask one question and print the answers; all input is checked before a model is loaded."""
    if options.image is None or options.question is None:
        raise InputError("give --image FILE and --question TEXT, or --page for the local page")
    if not 0 <= options.temperature <= MOST_TEMPERATURE:
        raise InputError(f"--temperature {options.temperature}: give 0 to {MOST_TEMPERATURE:g}")
    picture = read_picture(options.image, str(options.image))
    question = read_question(options.question, options.type, options.choice)
    if options.out:
        _check_format(options.out)
    choices = _choices(options)
    asked = [choice.training.asked(question, picture) for choice in choices]
    answers = asyncio.run(_answers(options, choices, asked))
    for choice, each, response in zip(choices, asked, answers, strict=True):
        console.say(_printed(choice.title if len(choices) > 1 else "", each, response))
    if options.out:
        _draw(options.out, picture, choices, asked, answers)
        console.say(str(options.out))


async def _answers(
    options: argparse.Namespace, choices: Sequence[Choice], asked: Sequence[Asked]
) -> list[str]:
    models = _load(options, choices)
    try:
        return [
            await _last(named, each, options.temperature)
            for named, each in zip(models, asked, strict=True)
        ]
    finally:
        _close(models)


async def _last(named: NamedModel, asked: Asked, temperature: float) -> str:
    try:
        async with asyncio.timeout(ANSWER_S):
            responses = [text async for text in named.model.stream(asked.prompt, temperature)]
    except TimeoutError:
        raise InputError(f"{named.title}: no whole answer within {ANSWER_S:g} s") from None
    return responses[-1] if responses else ""


def _printed(title: str, asked: Asked, response: str) -> str:
    """Return an answer for the console, with boxes in pixels of the picture."""
    parsed = parse_response(asked.in_pixels(response))
    width, height = asked.original
    places = [
        f"{ref or 'unnamed'} {[round(side) for side in box] if box else 'unreadable box'}"
        for ref, box in parsed.regions
    ]
    parts = {
        "reasoning": parsed.think or "none",
        "answer": parsed.answer or "none",
        f"places, in pixels of {width} x {height}": "\n".join(places) or "none",
    }
    blocks = [f"{name}\n{textwrap.indent(text, '  ')}" for name, text in parts.items()]
    return "\n".join([*([f"== {title}"] if title else []), *blocks])


def _check_format(path: Path) -> None:
    Image.init()
    if Image.EXTENSION.get(path.suffix.lower()) not in Image.SAVE:
        raise InputError(f"--out {path}: not a name of a picture: end it in .png, .jpg or .webp")
    if not path.parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}")


def _draw(
    path: Path,
    picture: Image.Image,
    choices: Sequence[Choice],
    asked: Sequence[Asked],
    answers: Sequence[str],
) -> None:
    """Write the picture with the boxes: thick and named in the answer, thin if only cited."""
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    unit = max(1, max(drawn.size) // 400)
    font = ImageFont.load_default(size=max(10, 9 * unit))
    for each, response, colour in zip(asked, answers, COLOURS, strict=False):
        parsed = parse_response(each.in_pixels(response))
        for regions, width in ((parsed.think_regions, unit), (parsed.regions, 2 * unit)):
            for _, box in regions:
                if box:
                    pen.rectangle(box, outline=colour, width=width)
        for ref, box in parsed.regions:
            if box:
                corner = box[0] + 3 * unit, box[1] + 2 * unit
                pen.text(corner, ref, colour, font, stroke_width=unit, stroke_fill="black")
    with whole_file(path) as temporary:
        drawn.save(temporary, Image.EXTENSION[path.suffix.lower()])


def _page(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C; a port in use or missing data is known before models load."""
    leave_on_sigterm()
    with listen(options.port) as listener:
        choices = _choices(options)
        data = options.data or _data_of(options.models)
        examples = Examples(data / "test.parquet") if data else None
        families = {choice.training.family.name for choice in choices}
        if examples and len(families) > 1:
            raise InputError(
                f"models of {' and '.join(sorted(families))}: the prepared questions of {data} are "
                "for one family: start a page for each"
            )
        asyncio.run(_serve(options, choices, examples, data, listener))


async def _serve(
    options: argparse.Namespace,
    choices: Sequence[Choice],
    examples: Examples | None,
    data: Path | None,
    listener: Any,
) -> None:
    models = _load(options, choices)
    try:
        await asyncio.gather(*map(_warm_up, models))
        is_phantom = data is not None and bool(data_metadata(data).get("notice"))
        notice = "The prepared questions are synthetic." if is_phantom else ""
        page = Page({f"model-{n}": each for n, each in enumerate(models, 1)}, examples, notice)
        port = listener.getsockname()[1]
        console.say(f"open http://127.0.0.1:{port}/#key={page.key} (Ctrl-C ends it)")
        await serve(page, listener)
    finally:
        _close(models)


async def _warm_up(named: NamedModel) -> None:
    """Ask for one word, since the first question imports and prepares what the others use."""
    blank = Image.new("RGB", (512, 512), "gray")
    asked = named.training.asked(read_question("Is it clear?"), blank)
    async with contextlib.aclosing(named.model.stream(asked.prompt, 0.0)) as responses:
        await anext(responses, None)


def _choices(options: argparse.Namespace) -> list[Choice]:
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
    """Split TITLE=PLACE; a place alone has no title."""
    title, equals, place = text.partition("=")
    is_title = equals and "/" not in title
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
    config = _config(options, run, is_served, place, engines)
    data = options.data or (None if is_served else _data_of([place]))
    if is_served:
        check_server(config.server)
        if not data and not options.family:
            raise InputError("--server: give --data DIR of the model's training, or --family")
    model = read_model(config)
    if options.family:
        model = {"model_type": options.family, **model}
    reasoning = bool(run.get("data", {}).get("reasoning", True))
    training = read_training(data, model, reasoning, options.pixels and tuple(options.pixels))
    if not data and not options.pixels:
        console.say(
            f"note: {place}: nothing says how its training resized pictures; they get "
            f"{training.min_pixels} to {training.max_pixels} pixels (--data DIR of its training, "
            "or --pixels MIN MAX)"
        )
    return Choice(title, config, training)


def _config(
    options: argparse.Namespace, run: dict[str, Any], is_served: bool, place: str, engines: int
) -> DictConfig:
    """Return the evaluation's configuration of a model, with the chat template's of its run."""
    overrides = [f"cluster={options.cluster or _cluster()}", "data.dir=none"]
    named = ("model.path=null", f"server.base_url={json.dumps(place)}")
    overrides += named if is_served else (f"model.path={json.dumps(place)}",)
    # On a GPU, engines share its memory.
    share = 0.85 / max(1, engines)
    overrides += ["cluster.tensor_parallel=1", f"cluster.gpu_memory_utilization={share:.2f}"]
    overrides += options.set
    config = compose_config("evaluate", overrides)
    template = run.get("data", {}).get("apply_chat_template_kwargs") or {}
    config.data.apply_chat_template_kwargs = {**template, **config.data.apply_chat_template_kwargs}
    return config


def _cluster() -> str:
    # torch would tell, but it must load after `set_environment`.
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    return "h100x8" if has_gpu else "cpu"


def _run_config(place: str) -> dict[str, Any]:
    """Return the configuration of the run that wrote a checkpoint; empty if there is none."""
    if not Path(place).is_dir():
        return {}
    run = run_folder(find_model(place, "MODEL"))
    return read_run_config(run) if run else {}


def _data_of(places: Sequence[str]) -> Path | None:
    """Return the data that the first of these models was trained on, if it is on this machine."""
    for place in places:
        folder = _run_config(_titled(place)[1]).get("data", {}).get("dir")
        if folder and (Path(folder) / "test.parquet").is_file():
            return Path(folder)
    return None


def _load(options: argparse.Namespace, choices: Sequence[Choice]) -> list[NamedModel]:
    """Load the models, one after the other; the log gets what vLLM prints."""
    local = [choice for choice in choices if not choice.is_served]
    _check_memory(local)
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
            models.append(_loaded(options, choice))
        except InputError:
            _close(models)
            raise
        except Exception as error:
            traceback.print_exc()
            _close(models)
            raise InputError(
                f"{choice.config.model.path}: vLLM cannot load it: {describe(error)}"
            ) from None
    return models


def _check_memory(choices: Sequence[Choice]) -> None:
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


def _loaded(options: argparse.Namespace, choice: Choice) -> NamedModel:
    config, training = choice.config, choice.training
    if choice.is_served:
        blank = Image.new("RGB", (training.family.factor * 8,) * 2, "gray")
        prompt = training.asked(read_question("Is it clear?"), blank).prompt
        served = connect(config, [prompt], training.family.factor // PATCHES)
        return NamedModel(choice.title, served, training)
    from recipe.export import loadable

    console.say(f"loading {config.model.path}")
    config.model.path = loadable(config.model.path, options.log / choice.title)
    return NamedModel(choice.title, StreamingModel(config), training)


def _close(models: Sequence[NamedModel]) -> None:
    """End the engines, all at once, since vLLM waits seconds for each."""
    engines = [named.model for named in models if isinstance(named.model, StreamingModel)]
    with ThreadPoolExecutor() as pool:
        for end in [pool.submit(engine.close) for engine in engines]:
            end.result()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.ask",
        description="Ask a model about a picture: one question on the console, or a page on this "
        "machine. Nothing is sent anywhere else.",
    )
    add = parser.add_argument
    add(
        "models",
        nargs="*",
        metavar="[TITLE=]MODEL",
        help="Hugging Face folder or checkpoint of recipe.sft or recipe.train; two: side by side",
    )
    add(
        "--server",
        action="append",
        default=[],
        metavar="[TITLE=]URL",
        help="OpenAI-compatible server in place of a MODEL, such as http://127.0.0.1:8000/v1",
    )
    add("--page", action="store_true", help="serve a page on 127.0.0.1")
    add("--port", type=int, default=8600, help="of the page (default 8600; 0: any free one)")
    add("--image", type=Path, metavar="FILE", help="picture to ask about")
    add("--question", metavar="TEXT", help="the question")
    add("--type", choices=QUESTION_TYPES, default="open", help="of the question (default open)")
    add(
        "--choice",
        action="append",
        default=[],
        metavar="TEXT",
        help="a choice of a single or multi question; once for each, in order",
    )
    add("--temperature", type=float, default=0.0, help="0 (default): the most likely answer")
    add("--out", type=Path, metavar="PICTURE", help="write the picture with the answer's boxes")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="prepared data of the model's training: prompts, sizes of pictures, and the page's "
        "examples from its test.parquet (default: the data of the run that wrote the checkpoint)",
    )
    add("--family", help="of the model, such as qwen2_5_vl, where neither model nor data says it")
    add(
        "--pixels",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="area to which pictures are resized, where no data says it",
    )
    add("--cluster", metavar="NAME", help="entry of configs/cluster (default: cpu without a GPU)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another setting of configs/evaluate.yaml, such as server.model=NAME",
    )
    add(
        "--log",
        type=Path,
        default=Path("outputs/ask"),
        metavar="DIR",
        help="folder for log.txt and merged shards (default outputs/ask)",
    )
    return parser


if __name__ == "__main__":
    main()
