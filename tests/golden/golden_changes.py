"""Changes that a model or a cheat makes to a response of the phantom set."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

Truth = dict[str, Any]

OPENED, CLOSED = "<think>\n", "<think>\n\n</think>\n\n"
BOX = re.compile(r"\[(\d+), (\d+), (\d+), (\d+)\]")


@dataclass(frozen=True)
class Example:
    """A row of the phantom set: its ground truth, its three blocks, and the published texts."""

    truth: Truth
    think: str
    answer: str
    location: str
    published: tuple[str, str]


def respond(think: str, answer: str, location: str) -> str:
    """Write a response in the strict form."""
    return f"<think>{think}</think>\n<answer>{answer}</answer>\n<location>{location}</location>"


def prefilled(example: Example, rng: Random) -> tuple[str, str | None]:
    """Return a response and what the prompt holds of it, as it should be and as it should not."""
    rest = f"<answer>{example.answer}</answer>\n<location>{example.location}</location>"
    whole = respond(example.think, example.answer, example.location)
    continued = f"{example.think}\n</think>\n\n{rest}"
    cut = rng.randint(0, len(whole))
    return rng.choice(
        (
            (continued, None),
            (continued, ""),
            (continued, OPENED),
            (continued, OPENED),
            (continued, "<think>"),
            (continued, CLOSED),
            (whole, OPENED),
            (whole, CLOSED),
            (f"<think>\n{continued}", OPENED),
            (rest, CLOSED),
            (rest, OPENED),
            (whole[cut:], whole[:cut]),
        )
    )


def _moved(text: str, example: Example, rng: Random, share: float) -> str:
    """The text with each box moved by up to a share of the image, alike boxes alike."""
    is_thousand = example.truth["coordinates"] == "norm1000"
    reach = share * (1000 if is_thousand else max(example.truth["image_size"]))
    moved: dict[str, str] = {}

    def move(box: re.Match[str]) -> str:
        numbers = [int(side) + round(rng.uniform(-reach, reach)) for side in box.groups()]
        return moved.setdefault(box[0], str(numbers))

    return BOX.sub(move, text)


def _all_moved(example: Example, donor: Example, rng: Random, share: float) -> str:
    text = respond(example.think, example.answer, example.location)
    return _moved(text, example, rng, share)


def _location_moved(example: Example, donor: Example, rng: Random, share: float) -> str:
    location = _moved(example.location, example, rng, share)
    return respond(example.think, example.answer, location)


def _location_changed(example: Example, donor: Example, rng: Random) -> str:
    """The ways to cheat with boxes: more, fewer, the same again, the whole image, no box."""
    pairs = re.findall(r"<ref>.*?</ref><box>.*?</box>", example.location)
    names = ("left lung", "right lung", "spine", "heart")
    width, height = example.truth["image_size"]
    if example.truth["coordinates"] == "norm1000":
        width = height = 1000
    full = f"<ref>{rng.choice(names)}</ref><box>[0, 0, {width}, {height}]</box>"
    location = rng.choice(
        (
            "",
            full,
            "".join(pairs[:-1]),
            "".join(pairs[::-1]),
            example.location * rng.choice((2, 3, 30)),
            example.location + full,
            example.location + donor.location,
            re.sub(r"<ref>.*?</ref>", f"<ref>{rng.choice(names)}</ref>", example.location),
            re.sub(r"<ref>.*?</ref>", "", example.location),
            BOX.sub(r"[\3, \4, \1, \2]", example.location),
            BOX.sub(r"[\1, \2, \3]", example.location),
            BOX.sub(r"(\1, \2), (\3, \4)", example.location),
            BOX.sub(r"[0.\1, 0.\2, 0.\3, 0.\4]", example.location),
            re.sub(r"</?(ref|box)>", " ", example.location),
            example.location.replace("</box><ref>", "</box>\n<ref>"),
        )
    )
    return respond(example.think, example.answer, location)


def _answer_changed(example: Example, donor: Example, rng: Random) -> str:
    """The answer in other words, in part, or hedged."""
    answer, truth = example.answer, example.truth
    words = answer.split()
    forms = [
        answer.lower(),
        answer.upper(),
        f"**{answer}**",
        f"\\boxed{{{answer}}}",
        f"The answer is {answer}.",
        f"{answer} or {donor.answer}",
        f"{answer}, {donor.answer}",
        f"Not {answer}",
        " ".join(words[::-1]),
        " ".join(words[:-1]),
        _other_side(answer),
    ]
    if truth["choices"]:
        letters = [truth["answer"]] if isinstance(truth["answer"], str) else truth["answer"]
        texts = [truth["choices"][letter] for letter in letters]
        forms += [
            ", ".join(f"{letter}: {text}" for letter, text in zip(letters, texts, strict=True)),
            " and ".join(letters),
            ", ".join(texts),
            "; ".join(letters),
            json.dumps(letters),
            "".join(letters),
            f"Option {letters[0]}",
            ", ".join(truth["choices"]),
            ", ".join(letters[:-1]),
            f"{letters[0]}: {rng.choice(list(truth['choices'].values()))}",
        ]
    elif truth["question_type"] == "closed":
        forms += [f"{answer}, there is.", f"{answer}. {donor.answer}.", f"{answer}, maybe"]
    else:
        forms += [f"No {answer}", answer.replace("is", "is not"), f"possible {answer}", answer * 2]
    return respond(example.think, rng.choice(forms), example.location)


def _other_side(text: str) -> str:
    sides = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    return re.sub("left|right", lambda side: sides[side[0]], text, flags=re.IGNORECASE)


def _thought_changed(example: Example, donor: Example, rng: Random) -> str:
    """Another reasoning, a conclusion that the answer contradicts, boxes everywhere, none."""
    spam = " ".join(f"[{x}, {x}, {x + 9}, {x + 9}]" for x in range(0, 90, rng.choice((2, 10))))
    think = rng.choice(
        (
            donor.think,
            "",
            " ",
            "The image was reviewed.",
            f"{example.think} Therefore, the answer is {donor.answer}.",
            f"{example.think} The best choice is {rng.choice('ABCD')}.",
            f"{example.think} (choice {rng.choice('ABCD')})",
            f"{example.think} {spam}",
            f"{example.think}<answer>{donor.answer}</answer>",
            f"{example.think}{example.think}",
            re.sub(r"\[[\d, ]+\]", "", example.think),
            _other_side(example.think),
        )
    )
    return respond(think, example.answer, example.location)


def _form_changed(example: Example, donor: Example, rng: Random) -> str:
    """Blocks that are missing, doubled, unclosed, wrapped, in another order or case."""
    think, answer = f"<think>{example.think}</think>", f"<answer>{example.answer}</answer>"
    location = f"<location>{example.location}</location>"
    return rng.choice(
        (
            answer + location,
            think + location,
            think + answer,
            example.think,
            example.answer,
            answer + think + location,
            think + location + answer,
            think + answer + answer + location,
            f"{think}<answer>{donor.answer}</answer>{answer}{location}",
            think + answer + location + location,
            f"{think}\n{think}\n{answer}\n{location}",
            f"<response>{think}{answer}{location}</response>",
            f"Sure. {think}{answer}{location}",
            f"{think}{answer}{location} That is all.",
            f"{think}\n\n{answer} \n{location}\n",
            (think + answer + location).upper(),
            f"<think>{example.think}{answer}{location}",
            f"{think}<answer>{example.answer}{location}",
            f"{think}{answer}<location>{example.location}",
            f"{example.think}</think>{answer}{location}",
            f"<think>{think}</think>{answer}{location}",
            f"```\n{think}{answer}{location}\n```",
        )
    )


CHANGES: list[Callable[[Example, Example, Random], str]] = [
    lambda example, donor, rng: f"<think>{example.published[0]}</think>{example.published[1]}",
    lambda example, donor, rng: example.published[1],
    lambda example, donor, rng: respond(example.think, donor.answer, example.location),
    lambda example, donor, rng: respond(example.think, example.answer, donor.location),
    lambda example, donor, rng: respond(donor.think, donor.answer, donor.location),
    partial(_all_moved, share=0.02),
    partial(_all_moved, share=0.1),
    partial(_location_moved, share=0.01),
    partial(_location_moved, share=0.05),
    _location_changed,
    _location_changed,
    _answer_changed,
    _answer_changed,
    _thought_changed,
    _form_changed,
]
