"""The prompt of a question, from template files: one for each type of question."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import InputError

PROMPT_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "prompts"
QUESTION_TYPES = ("closed", "single", "multi", "open")
UNITS = {"absolute": "in pixels", "norm1000": "from 0 to 1000"}
_FIELDS = ("{question}", "{units}", "<image>")


@dataclass(frozen=True)
class PromptTemplates:
    """Templates by question type, each with the fields question and units, and one `<image>`."""

    name: str
    texts: Mapping[str, str]

    @property
    def version(self) -> str:
        """Changes with every word that the model is told."""
        told = "\n".join([*(self.texts[kind] for kind in QUESTION_TYPES), *UNITS.values()])
        return f"{self.name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    def render(self, question: str, question_type: str, coordinates: str) -> str:
        """The user message. `coordinates` is "absolute" or "norm1000"."""
        text = self.texts[question_type].replace("{units}", UNITS[coordinates])
        # Last, so that a question in braces is not taken for a field.
        return text.replace("{question}", question)


def load_templates(name: str = "thinkvg", folder: Path = PROMPT_FOLDER) -> PromptTemplates:
    """Reads `NAME/TYPE.txt` of each type; InputError where a file or a field of it is missing."""
    if not (folder / name).is_dir():
        known = ", ".join(sorted(path.name for path in folder.glob("*") if path.is_dir())) or "none"
        raise InputError(f"--prompts {name}: no folder {folder / name}; known are {known}")
    return PromptTemplates(name, {kind: _read(folder / name, kind) for kind in QUESTION_TYPES})


def _read(folder: Path, kind: str) -> str:
    path = folder / f"{kind}.txt"
    if not path.is_file():
        raise InputError(f"prompt template {path} is missing: there is one for each question type")
    text = path.read_text(encoding="utf-8").strip()
    for field in _FIELDS:
        if text.count(field) != 1:
            raise InputError(f"prompt template {path} must hold {field} once")
    return text
