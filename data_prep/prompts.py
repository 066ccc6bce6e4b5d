"""The prompt of a question, from a template file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

PROMPT_FOLDER = Path(__file__).resolve().parents[1] / "configs" / "prompts"
ANSWER_FORMS = {
    "closed": "Yes or No",
    "single": "one letter",
    "multi": "all right letters",
    "open": "one sentence",
}
UNITS = {"absolute": "in pixels", "norm1000": "from 0 to 1000"}
_FIELDS = ("{question}", "{units}", "{answer_form}")


@dataclass(frozen=True)
class PromptTemplate:
    """A template with the fields question, units and answer_form, and one `<image>`."""

    name: str
    text: str

    @property
    def version(self) -> str:
        """Changes with every word that the model is told."""
        told = "\n".join([self.text, *ANSWER_FORMS.values(), *UNITS.values()])
        return f"{self.name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    def render(self, question: str, question_type: str, coordinates: str) -> str:
        """The user message. `coordinates` is "absolute" or "norm1000"."""
        text = self.text.replace("{units}", UNITS[coordinates])
        text = text.replace("{answer_form}", ANSWER_FORMS[question_type])
        # Last, so that a question in braces is not taken for a field.
        return text.replace("{question}", question)


def load_template(name: str = "thinkvg", folder: Path = PROMPT_FOLDER) -> PromptTemplate:
    """Reads `NAME.txt`; ValueError where the file or a field of it is missing."""
    path = folder / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.txt"))) or "none"
        raise ValueError(f"no prompt template {path}: known are {known}")
    text = path.read_text(encoding="utf-8").strip()
    for field in (*_FIELDS, "<image>"):
        if text.count(field) != 1:
            raise ValueError(f"prompt template {path} must hold {field} once")
    return PromptTemplate(name, text)
