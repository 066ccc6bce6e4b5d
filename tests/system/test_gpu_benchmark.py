"""`benchmarks.gpu` without a GPU: all five parts, with the tiny model in float32."""

import json
from pathlib import Path
from typing import Any


def test_all_parts_run_without_a_gpu(tmp_path: Path, run: Any) -> None:
    finished = run("benchmarks.gpu", "--cluster", "cpu", "--steps", "2", "--out", str(tmp_path))
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["failure"] for name, part in parts.items()} == dict.fromkeys(
        ("environment", "attention", "grpo", "evaluate", "step")
    )
    lines = {line["what"]: line for part in parts.values() for line in part["lines"]}
    for name in (
        "SDPA, padded, to eager",
        "SDPA, packed, to eager",
        "gap of engine and actor",
        "questions answered",
        "MFU",
    ):
        assert lines[name]["ok"], lines[name]
    assert lines["tokens a second"]["value"] > 0
    assert finished.returncode == 0, finished.stdout
