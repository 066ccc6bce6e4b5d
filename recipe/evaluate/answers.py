"""Answers to all questions of an evaluation, one set after another, each kept when it comes.

A set has a journal in the evaluation's folder until the evaluation is complete, so that the same
command goes on where an earlier one was killed or failed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_prep.program import write_whole
from recipe import console
from recipe.evaluate.generation import Keep, Prompt, Response
from recipe.evaluate.predictions import Prediction
from recipe.run.checkpoints import find_model


class Model(Protocol):
    """A `LocalModel` or a `ServedModel`."""

    def answer(
        self, prompts: Sequence[Prompt], *, temperature: float, samples: int, keep: Keep
    ) -> None: ...


class Journal:
    """Responses to the questions of one set, by index, in a file that begins with what was asked.

    A file that begins otherwise, of another model or with other settings, is replaced. An
    incomplete last line, of a killed program, is left out.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self._path = path
        first = json.dumps({"asked": asked}, sort_keys=True) + "\n"
        self.responses = _read(path, first)
        lines = (_line(index, responses) for index, responses in self.responses.items())
        write_whole(path, first + "".join(lines))
        self._file = path.open("a", encoding="utf-8")

    def add(self, index: int, responses: list[Response]) -> None:
        self.responses[index] = responses
        self._file.write(_line(index, responses))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _line(index: int, responses: list[Response]) -> str:
    # In ASCII, since a server may send half of a character.
    return json.dumps({"index": index, "responses": responses}) + "\n"


def _read(path: Path, first: str) -> dict[int, list[Response]]:
    if not path.is_file():
        return {}
    begin, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    if begin != first:
        return {}
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return {entry["index"]: [Response(*each) for each in entry["responses"]] for entry in entries}


def journal_file(out: Path, name: str) -> Path:
    return out / f".{name}.journal.jsonl"


def ask_all(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    name: str,
    temperature: float,
    samples: int,
    out: Path,
    asked: Mapping[str, Any],
) -> list[Prediction]:
    """Return the responses to the questions of the set `name`; those in its journal are not asked.

    A question that the model gives no response to has empty ones, and is asked again by the next
    start. `asked` identifies the model and the settings that all sets share.
    """
    settings = {"temperature": temperature, "samples": samples, "questions": _digest(prompts)}
    journal = Journal(journal_file(out, name), {**asked, **settings})
    left = [prompt for prompt in prompts if prompt.index not in journal.responses]
    done = len(prompts) - len(left)
    bar = console.progress(
        total=len(prompts), initial=done, desc=f"answering, {name}", unit="question"
    )
    with bar as progress:

        def keep(prompt: Prompt, responses: list[Response]) -> None:
            journal.add(prompt.index, responses)
            progress.update()

        try:
            if left:
                model.answer(left, temperature=temperature, samples=samples, keep=keep)
        finally:
            journal.close()
    unanswered = [Response("")] * samples
    return _predictions(
        prompts, {p.index: journal.responses.get(p.index, unanswered) for p in prompts}
    )


def _digest(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        parts = [prompt.index, prompt.messages, prompt.ground_truth, str(prompt.instead)]
        digest.update(json.dumps(parts).encode())
    return digest.hexdigest()


def _predictions(
    prompts: Sequence[Prompt], responses: Mapping[int, Sequence[Response]]
) -> list[Prediction]:
    return [
        Prediction(
            id=str(prompt.index),
            index=prompt.index,
            sample=sample,
            response=response.text,
            ground_truth=json.loads(prompt.ground_truth),
            extra_info=prompt.extra_info,
            is_cut=response.is_cut,
        )
        for prompt in prompts
        for sample, response in enumerate(responses[prompt.index])
    ]


def checkpoint_of(path: str) -> Path | None:
    """Return the folder with the weights of a local model; None for a name of the hub."""
    if not Path(path).is_dir():
        return None
    source = find_model(path, "model.path")
    return (source.shards or source.folder).resolve()


def weights_of(path: str) -> list[Any]:
    """Return what changes when a model's weights are written anew: files with sizes and times."""
    folder = checkpoint_of(path)
    if folder is None:
        return [path]
    files = sorted((*folder.glob("*.safetensors"), *folder.glob("*.pt")))
    stats = [(file.name, file.stat()) for file in files]
    return [str(folder), *([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)]
