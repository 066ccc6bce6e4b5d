"""docs/architecture.md says where everything is: it has to be true."""

import re

import pytest

from tools.file_index import DOCUMENT, ROOT, file_index


def test_every_file_is_listed() -> None:
    assert DOCUMENT.read_text(encoding="utf-8").endswith(file_index()), (
        "run `python tools/file_index.py`"
    )


@pytest.mark.parametrize(
    "path",
    sorted(set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.[a-z0-9]+)*)`", DOCUMENT.read_text()))),
)
def test_every_path_is_there(path: str) -> None:
    folders = [ROOT, *(ROOT / name for name in ("data_prep", "recipe", "reward"))]
    assert any((folder / path).exists() for folder in folders), path
