"""Every benchmark starts as its docstring says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"): path
    for path in (ROOT / "benchmarks").rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
}


def test_there_are_some() -> None:
    names = ("reward", "judge", "data_prep", "gradient_agreement")
    assert {f"benchmarks.{name}" for name in names} <= set(FILES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_benchmark_answers_help(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", name, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout  # and has not started to measure
    assert name in FILES[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_benchmark_starts_at_its_end(name: str) -> None:
    """Functions that come after the start are not there yet when it runs."""
    last = ast.parse(FILES[name].read_text(encoding="utf-8")).body[-1]
    assert isinstance(last, ast.If)
    assert "__main__" in ast.dump(last.test)
