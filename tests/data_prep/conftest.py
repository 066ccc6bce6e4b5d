from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.thinkvg import main as thinkvg_main
from phantom.draw.__main__ import main as phantom_main


@pytest.fixture(scope="session")
def dirty_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom set with faulty rows of every kind."""
    out = tmp_path_factory.mktemp("dirty")
    options = ["--out", str(out), "--images", "80", "--workers", "1", "--dirty", "0.2"]
    assert phantom_main(options) == 0
    return out


@pytest.fixture(scope="session")
def prepared(dirty_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training files made from the dirty set, at 112 x 112 pixels."""
    out = tmp_path_factory.mktemp("prepared")
    options = ["--min-pixels", "12544", "--max-pixels", "15680", "--val", "0.1", "--test", "0.2"]
    assert thinkvg_main([*_paths(dirty_phantom, out), *options]) == 0
    return out


def _paths(dataset: Path, out: Path) -> list[str]:
    return ["--source", str(dataset), "--images", str(dataset / "files"), "--out", str(out)]


@pytest.fixture
def paths() -> Callable[[Path, Path], list[str]]:
    """The options that name a dataset and an output folder."""
    return _paths


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows, each with a default for what it leaves out, and one picture that they share."""

    def make(*rows: dict[str, Any], size: tuple[int, int] = (672, 336)) -> Path:
        default = {
            "image_path": "/p10/p10000001/s50000001/a.jpg",
            "question": "Is there an opacity?",
            "question_type": "closed_ended_questions",
            "thinkVG": "The left lung [84, 42, 168, 210] shows an opacity.",
            "response": "<answer>Yes</answer><location><ref>left lung</ref>"
            "<box>[84, 42, 168, 210]</box></location>",
        }
        (tmp_path / "set" / "data").mkdir(parents=True)
        picture = tmp_path / "set" / "files" / "p10" / "p10000001" / "s50000001" / "a.jpg"
        picture.parent.mkdir(parents=True)
        Image.new("L", size, 90).save(picture)
        table = pa.Table.from_pylist([{**default, **row} for row in rows])
        pq.write_table(table, tmp_path / "set" / "data" / "train.parquet")
        return tmp_path / "set"

    return make
