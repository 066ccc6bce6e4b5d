"""The base model that comes with the project is what `make base` makes."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from transformers import AutoProcessor

from phantom import base
from phantom.base import BASE, RECORD, settings, weights_hash

LARGEST_MB = 12


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base made by the same code from a few pictures."""
    root = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "IMAGES", 60)
        patch.setattr(base, "LETTERS", 2)
        patch.setattr(base, "EPOCHS", 1)
        base.make(root / "work", root / "model")
    return root / "model"


def config(folder: Path) -> dict[str, Any]:
    """The model's configuration without the writer's version and the number of learned pieces."""
    text = json.loads((folder / "config.json").read_text())
    ids = ("_token_id", "vocab_size", "token_index", "transformers_version")

    def plain(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: plain(item) for key, item in value.items() if not key.endswith(ids)}

    return dict(plain(text))


def shapes(folder: Path) -> dict[str, list[int]]:
    """The shapes of the weights; of the embeddings without the vocabulary's size."""
    with safe_open(folder / "model.safetensors", "pt") as weights:
        stored = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118 (no mapping)
    return {name: shape[1:] if "embed_tokens" in name else shape for name, shape in stored.items()}


def test_the_record_is_that_of_the_shipped_weights() -> None:
    record = json.loads((BASE / RECORD).read_text())
    assert record["sha256"] == weights_hash(BASE)
    assert {name: record[name] for name in settings()} == settings()


def test_the_shipped_model_is_what_the_code_makes(small: Path) -> None:
    assert config(small) == config(BASE)
    assert shapes(small) == shapes(BASE)
    assert {path.name for path in small.iterdir()} == {path.name for path in BASE.iterdir()}
    assert (small / "chat_template.jinja").read_text() == (BASE / "chat_template.jinja").read_text()


def test_the_shipped_model_is_small() -> None:
    assert sum(path.stat().st_size for path in BASE.iterdir()) < LARGEST_MB * 2**20


def test_the_tokenizer_has_a_token_for_each_line_of_todays_prompts(small: Path) -> None:
    """Otherwise prompts are long, and of other tokens than those that the model has read."""
    todays, shipped = (
        {
            token
            for token in AutoProcessor.from_pretrained(folder).tokenizer.added_tokens_encoder
            if len(token) > 80
        }
        for folder in (small, BASE)
    )
    assert todays
    assert todays <= shipped
