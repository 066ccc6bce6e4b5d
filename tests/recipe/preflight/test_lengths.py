"""Rows that are too long for a run: found with their true lengths, refused or left out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from transformers import AutoProcessor

from recipe.data import overlong
from recipe.data.overlong import list_left_out, overlong_rows
from recipe.preflight.checklist import examine
from recipe.preflight.data import DataFile, length_warnings, overlong_prompt_faults
from recipe.program import compose_config


@pytest.fixture(scope="module")
def processor(prepared: Path) -> Any:
    return AutoProcessor.from_pretrained(prepared / "model")


@pytest.fixture(scope="module")
def lengths(prepared: Path, processor: Any) -> list[int]:
    """What verl's own dataset makes of each row."""
    return read(prepared / "data" / "sft_train.parquet", processor)


def read(file: Path, processor: Any, **settings: Any) -> list[int]:
    from recipe.data.datasets import GroundedSFTDataset

    config = OmegaConf.create({"max_length": 4096, "pad_mode": "no_padding", **settings})
    dataset = GroundedSFTDataset(str(file), processor.tokenizer, config, processor)
    return [len(row["input_ids"]) for row in dataset]


@pytest.fixture
def longer(prepared: Path, tmp_path: Path) -> Callable[[str, int, str], Path]:
    """Copy the data with a row made longer than all others."""

    def copy(name: str, place: int, column: str = "messages") -> Path:
        for file in (prepared / "data").glob("*.parquet"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        table = pq.read_table(tmp_path / f"{name}.parquet")
        rows = table.to_pylist()
        rows[place][column][-1]["content"] += " opacity" * 500
        pq.write_table(
            pa.Table.from_pylist(rows, schema=table.schema), tmp_path / f"{name}.parquet"
        )
        return tmp_path

    return copy


def test_lengths_are_those_that_training_sees(
    prepared: Path, processor: Any, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlong, "ROWS_AT_ONCE", 7)
    file = prepared / "data" / "sft_train.parquet"
    for limit in (0, sorted(lengths)[len(lengths) // 2], max(lengths) - 1):
        found = overlong_rows(file, "messages", limit, processor)
        assert [(row.row, row.tokens) for row in found] == [
            (place, tokens) for place, tokens in enumerate(lengths) if tokens > limit
        ]
    indices = [info["index"] for info in pq.read_table(file)["extra_info"].to_pylist()]
    assert [row.index for row in overlong_rows(file, "messages", 0, processor)] == indices


def test_without_reasoning_rows_are_shorter(prepared: Path, processor: Any) -> None:
    file = prepared / "data" / "sft_val.parquet"
    found = overlong_rows(file, "messages", 0, processor, reasoning=False)
    assert [row.tokens for row in found] == read(file, processor, reasoning=False)


def test_embedded_pictures_are_measured(prepared: Path, processor: Any, tmp_path: Path) -> None:
    table = pq.read_table(prepared / "data" / "sft_val.parquet")
    rows = table.to_pylist()
    for row in rows:
        for image in row["images"]:
            image["bytes"] = Path(image.pop("image")).read_bytes()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "embedded.parquet")
    files = (tmp_path / "embedded.parquet", prepared / "data" / "sft_val.parquet")
    one, other = (overlong_rows(file, "messages", 0, processor) for file in files)
    assert one == other


@pytest.mark.parametrize(
    ("prompts", "responses", "faults", "warnings"),
    [
        ([40] * 100, [10] * 100, [], []),
        # verl leaves a few prompts out
        ([40] * 98 + [60] * 2, [10] * 98 + [30] * 2, [], []),
        ([40] * 97 + [60] * 3, [10], [], ["set data.max_prompt_length=60"]),
        ([40], [10] * 97 + [30] * 3, [], ["set data.max_response_length=30"]),
        # no prompt is left
        ([60, 70], [10], ["set data.max_prompt_length=70"], []),
        # lengths that are not known
        ([], [], [], []),
    ],
)
def test_many_long_texts_are_told(
    prompts: list[int], responses: list[int], faults: list[str], warnings: list[str]
) -> None:
    file = DataFile("train_files", "t.parquet", {}, 100, prompt_limit=50, response_limit=20)
    lines = list(overlong_prompt_faults(file, prompts))
    assert [text in line for text, line in zip(faults, lines, strict=True)] == [True] * len(faults)
    lines = list(length_warnings(file, prompts, responses))
    assert [text in line for text, line in zip(warnings, lines, strict=True)] == (
        [True] * len(warnings)
    )


def test_rows_that_cannot_be_too_long_are_not_looked_at(
    prepared: Path, processor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlong.Image, "open", None)
    file = prepared / "data" / "sft_train.parquet"
    assert overlong_rows(file, "messages", 4096, processor) == []


def of(prepared: Path, program: str, data: Path, *overrides: str) -> Any:
    given = [
        "cluster=cpu",
        "model=tiny",
        f"experiment=demo_{'sft' if program == 'sft' else 'grpo'}",
    ]
    given += [f"model.path={prepared / 'model'}", f"data.dir={data}"]
    config = compose_config(program, [*given, "run_dir=/tmp/preflight-never-made", *overrides])
    return examine(config, program)


@pytest.mark.parametrize("name", ["sft_train", "sft_val"])
def test_a_row_that_is_too_long_is_named(prepared: Path, longer: Any, name: str) -> None:
    data = longer(name, 3)
    index = pq.read_table(data / f"{name}.parquet")["extra_info"][3].as_py()["index"]
    (found,) = of(prepared, "sft", data).problems
    assert f"1 rows are longer than data.max_length=512: source rows {index} (" in found
    assert "data.filter_overlong_rows=true" in found
    assert of(prepared, "sft", data, "data.truncation=right").problems == []
    longest = found.split("set data.max_length=")[1].split(",")[0]
    assert of(prepared, "sft", data, f"data.max_length={longest}").problems == []
    assert len(of(prepared, "sft", data, f"data.max_length={int(longest) - 1}").problems) == 1


def test_a_row_that_is_too_long_is_left_out(
    prepared: Path, processor: Any, longer: Any, lengths: list[int]
) -> None:
    data = longer("sft_train", 3)
    plan = of(prepared, "sft", data, "data.filter_overlong_rows=true")
    assert plan.problems == []
    assert [file.left_out for file in plan.files] == [1, 0]
    out = data / "overlong"
    settings = {"max_length": 512, "filter_overlong_rows": True, "overlong_dir": str(out)}
    kept = read(data / "sft_train.parquet", processor, **settings)
    assert kept == lengths[:3] + lengths[4:]
    (line,) = (out / "sft_train.jsonl").read_text().splitlines()
    index = pq.read_table(data / "sft_train.parquet")["extra_info"][3].as_py()["index"]
    assert json.loads(line)["index"] == index
    assert json.loads(line)["tokens"] > 512


def test_leaving_out_all_rows_is_a_problem(prepared: Path) -> None:
    overrides = ["data.filter_overlong_rows=true", "data.max_length=20"]
    found = of(prepared, "sft", prepared / "data", *overrides).problems
    assert any("0 rows do not fill one batch" in problem for problem in found), found


def test_prompts_are_refused_where_they_are_not_left_out(prepared: Path, longer: Any) -> None:
    data = longer("train", 3, "prompt")
    assert of(prepared, "train", data).problems == []
    found = of(prepared, "train", data, "data.filter_overlong_prompts=false").problems
    assert len(found) == 1
    assert "1 rows are longer than data.max_prompt_length=" in found[0]
    assert "data.filter_overlong_prompts=true" in found[0]


@pytest.mark.parametrize("program", ["train", "sft"])
def test_more_steps_than_there_are_rows_for(prepared: Path, program: str) -> None:
    overrides = ["trainer.total_training_steps=1000", "trainer.total_epochs=2"]
    found = of(prepared, program, prepared / "data", *overrides).problems
    assert len(found) == 1
    assert "steps in trainer.total_epochs=2: raise trainer.total_epochs" in found[0]


def test_validation_takes_a_sample_with_all_question_types(
    prepared: Path, processor: Any, tmp_path: Path
) -> None:
    """Of a file that is sorted by question type, of which verl's first rows are all of one."""
    from recipe.data.datasets import GroundedSFTDataset

    table = pq.read_table(prepared / "data" / "sft_train.parquet")
    rows = sorted(table.to_pylist(), key=kind)
    file = tmp_path / "sorted.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)

    def drawn(seed: int) -> list[int]:
        config = OmegaConf.create({"max_length": 4096, "pad_mode": "no_padding", "seed": seed})
        dataset = GroundedSFTDataset(
            str(file), processor.tokenizer, config, processor=processor, max_samples=12
        )
        assert len(dataset) == len(list(dataset)) == 12
        return [info["index"] for info in dataset.dataframe["extra_info"]]

    kinds = {row["extra_info"]["index"]: kind(row) for row in rows}
    assert len(set(kinds.values())) == 4
    assert {kinds[index] for index in drawn(0)} == set(kinds.values())
    assert drawn(0) == drawn(0) != drawn(1)


def kind(row: dict[str, Any]) -> str:
    """What a row asks for: the words before ``in <answer>``."""
    return str(row["messages"][0]["content"]).split("answer with ")[1].split(" in ")[0]


@pytest.mark.parametrize("rows", [[], [(7, 600)]])
def test_a_list_is_named_only_where_rows_are_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[tuple[int, int]]
) -> None:
    list_left_out("train.parquet", tmp_path, rows, 10, "data.max_length=512")
    message = capsys.readouterr().out.strip()
    count = len(rows)
    expected = f"train: 10 rows, {10 - count} used, {count} longer than data.max_length=512"
    if rows:
        expected += f", listed in {tmp_path / 'train.jsonl'}"
    assert message == expected
