"""The marker of the last whole checkpoint, as kills leave it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data_prep.program import InputError
from recipe.run.checkpoints import LAST, last_step, mark_step, start_from


def holder(tmp_path: Path, marker: str | None, whole: list[int], begun: list[int]) -> Path:
    """A folder of checkpoints: `whole` ones, others that were `begun`, and the marker."""
    for step in (*whole, *begun):
        (tmp_path / f"global_step_{step}" / "actor").mkdir(parents=True)
    for step in whole:
        (tmp_path / f"global_step_{step}" / "data.pt").touch()
    if marker is not None:
        (tmp_path / LAST).write_text(marker)
    return tmp_path


@pytest.mark.parametrize(
    ("marker", "whole", "begun", "step"),
    [
        # no run so far
        (None, [], [], 0),
        # killed while it saved the first
        (None, [], [5], 0),
        # as usual
        ("10", [5, 10], [], 10),
        # killed while it saved the third: the marker counts
        ("10", [5, 10], [15], 10),
        # killed between emptying the marker and writing it: the last file is there
        ("", [5, 10], [], 10),
        # the same with the first checkpoint
        ("\n", [5], [], 5),
        # nothing that an empty marker could mean
        ("", [], [5], 0),
    ],
)
def test_the_last_whole_checkpoint(tmp_path, marker, whole, begun, step):
    folder = holder(tmp_path, marker, whole, begun)
    assert last_step(folder) == step
    kept = folder / LAST
    assert (kept.read_text().strip() if kept.exists() else "0") == str(step)


def test_a_marker_that_holds_something_else_is_named(tmp_path):
    with pytest.raises(InputError, match=LAST):
        last_step(holder(tmp_path, "ten", [10], []))


def test_a_step_is_marked_and_taken_back(tmp_path):
    mark_step(tmp_path, 15)
    assert last_step(tmp_path) == 15
    mark_step(tmp_path, 0)
    assert last_step(tmp_path) == 0


def test_what_verl_leaves_of_an_old_checkpoint_is_no_checkpoint(tmp_path):
    folder = holder(tmp_path, "", [5, 10], [])
    (folder / "global_step_10" / "actor").rmdir()
    assert last_step(folder) == 5


def test_training_starts_from_the_last_checkpoint_of_a_run(tmp_path: Path) -> None:
    def path_of(folder: Path) -> str:
        config = OmegaConf.create({"model": {"path": str(folder)}})
        start_from(config)
        return str(config.model.path)

    for step in (1, 2):
        folder = tmp_path / "run" / "checkpoints" / f"global_step_{step}" / "huggingface"
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text("{}")
    (tmp_path / "run" / "checkpoints" / LAST).write_text("2")
    assert path_of(tmp_path / "run") == str(folder)
    assert path_of(folder.parent) == str(folder)
    assert path_of(folder) == str(folder)
    assert path_of(tmp_path) == str(tmp_path)  # no model: the checks of the run say so
    assert path_of(Path("Qwen/Qwen2.5-VL-3B-Instruct")) == "Qwen/Qwen2.5-VL-3B-Instruct"
    (folder / "model.safetensors").unlink()
    (folder.parent / "model_world_size_1_rank_0.pt").touch()
    with pytest.raises(InputError, match=r"weights are in shards: python -m recipe\.export"):
        path_of(tmp_path / "run")
