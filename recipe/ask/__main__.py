"""``python -m recipe.ask MODEL``: ask a model about a picture, on the console or on a local page.

With ``--image`` and ``--question`` it prints reasoning, answer and places. With ``--page`` it
serves a page on 127.0.0.1. A model is a Hugging Face folder or a checkpoint of this recipe, which
vLLM answers in this program, or an OpenAI-compatible server (``--server``).
"""

import argparse
import asyncio
import contextlib
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from data_prep.program import InputError, is_synthetic, whole_file
from recipe import console
from recipe.ask.models import Choice, close, data_of, load, read_choices
from recipe.ask.page import ANSWER_S, MOST_TEMPERATURE, NamedModel, Page, listen, serve
from recipe.ask.question import Asked, Examples, read_picture, read_question
from recipe.program import one_line_at_the_end
from recipe.run.host import leave_on_sigterm
from reward.ground_truth import QUESTION_TYPES
from reward.response import parse_response

COLOURS = ("#5cbcf2", "#ff8fc7")
"""Of the models' boxes, as on the page."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    with one_line_at_the_end("stopped"):
        if options.page and (options.image or options.question or options.out):
            raise InputError("--page: picture and question are given on the page")
        _page(options) if options.page else _one_question(options)


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
    choices = read_choices(options)
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
    models = await load(options, choices)
    try:
        return [
            await _last(named, each, options.temperature)
            for named, each in zip(models, asked, strict=True)
        ]
    finally:
        close(models)


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
    if path.is_dir():
        raise InputError(f"--out {path} is a folder: name a file in it")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"--out {path}: nothing can be written there: choose another folder")


def _draw(
    path: Path,
    picture: Image.Image,
    choices: Sequence[Choice],
    asked: Sequence[Asked],
    answers: Sequence[str],
) -> None:
    """Write the picture with the boxes: thick and named in the answer, thin if only cited.

    With two models, a name begins with the model's title.
    """
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    unit = max(1, max(drawn.size) // 400)
    font = ImageFont.load_default(size=max(10, 9 * unit))
    titles = [f"{choice.title}: " if len(choices) > 1 else "" for choice in choices]
    for title, each, response, colour in zip(titles, asked, answers, COLOURS, strict=False):
        parsed = parse_response(each.in_pixels(response))
        for regions, width in ((parsed.think_regions, unit), (parsed.regions, 2 * unit)):
            for _, box in regions:
                if box:
                    pen.rectangle(box, outline=colour, width=width)
        for ref, box in parsed.regions:
            if box:
                corner = box[0] + 3 * unit, box[1] + 2 * unit
                pen.text(
                    corner, f"{title}{ref}", colour, font, stroke_width=unit, stroke_fill="black"
                )
    with whole_file(path) as temporary:
        drawn.save(temporary, Image.EXTENSION[path.suffix.lower()])


def _page(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C; a port in use or missing data is known before models load."""
    leave_on_sigterm()
    with listen(options.port) as listener:
        choices = read_choices(options)
        data = options.data or data_of(options.models)
        examples = Examples(data / "test.parquet") if data else None
        if data:
            for choice in choices:
                choice.training.check_examples(data, choice.title)
        asyncio.run(_serve(options, choices, examples, data, listener))


async def _serve(
    options: argparse.Namespace,
    choices: Sequence[Choice],
    examples: Examples | None,
    data: Path | None,
    listener: Any,
) -> None:
    models = await load(options, choices)
    try:
        await asyncio.gather(*map(_warm_up, models))
        named = {f"model-{n}": each for n, each in enumerate(models, 1)}
        page = Page(named, examples, _notice(data))
        port = listener.getsockname()[1]
        console.say(f"open http://127.0.0.1:{port}/#key={page.key} (Ctrl-C ends it)")
        await serve(page, listener)
    finally:
        close(models)


def _notice(data: Path | None) -> str:
    """Return the line above the form: whether the prepared questions are synthetic."""
    is_drawn = data is not None and is_synthetic(data / "test.parquet")
    return "The prepared questions are synthetic." if is_drawn else ""


async def _warm_up(named: NamedModel) -> None:
    """Ask for one word, since the first question imports and prepares what the others use."""
    blank = Image.new("RGB", (512, 512), "gray")
    asked = named.training.asked(read_question("Is it clear?"), blank)
    async with contextlib.aclosing(named.model.stream(asked.prompt, 0.0)) as responses:
        await anext(responses, None)


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
