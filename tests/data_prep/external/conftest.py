"""Imports of external sets, into folders of the tests."""

import functools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from external_sets import (
    Import,
    import_set,
)


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Imports a set into the test's own folder, with more options."""
    return functools.partial(import_set, tmp_path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Import:
    """Imports a set without options, once for all tests."""
    return functools.cache(functools.partial(import_set, tmp_path_factory.mktemp("sets")))


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A folder whose training split has the patients 2 and, in validation, 12."""
    folder = tmp_path / "train"
    folder.mkdir()
    values = {"model_family": "qwen2_5_vl", "min_pixels": 12544, "max_pixels": 15680}
    metadata = {b"thinkvg": json.dumps({**values, "prompt_template": "thinkvg"}).encode()}
    for name, patient in (("train", "p10000002"), ("val", "p10000012")):
        table = pa.table({"extra_info": [{"patient": patient, "index": 0}]})
        pq.write_table(table.replace_schema_metadata(metadata), folder / f"{name}.parquet")
    return folder
