"""The tables of machines are what preflight calculates, and verl takes each of their runs."""

from collections.abc import Callable

import pytest

from benchmarks import DOCS
from benchmarks.scaling import (
    MACHINES,
    Machine,
    calculated,
    fits,
    machine_memory_table,
    machine_table,
    read_shape_once,
)
from recipe.preflight.choices import choice_faults
from recipe.preflight.memory import memory_warnings
from recipe.preflight.values import batch_faults, layout_faults, value_faults
from recipe.program import CONFIG_FOLDER, compose_config


@pytest.mark.parametrize(
    ("page", "table"),
    [("../README.md", machine_table), ("scaling.md", machine_memory_table)],
    ids=["README", "scaling"],
)
def test_a_page_has_the_calculated_table(page: str, table: Callable[[], str]) -> None:
    assert table() in (DOCS / page).read_text(encoding="utf-8"), (
        "run `python -m benchmarks.scaling`"
    )


def test_every_cluster_is_in_it() -> None:
    entries = {path.stem for path in (CONFIG_FOLDER / "cluster").glob("*.yaml")}
    named = {machine.cluster.split()[0].removeprefix("cluster=") for machine in MACHINES}
    assert named == entries - {"cpu"}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: " ".join(machine.overrides))
def test_verl_and_preflight_take_a_run(machine: Machine) -> None:
    config = compose_config("train", ["data.dir=DATA", *machine.overrides])
    name = machine.run.split()[0].removeprefix("model=")
    work, memory = calculated(name, tuple(machine.overrides[1:]))
    shape = read_shape_once(config.model.path)
    assert [
        *value_faults(config, "train"),
        *batch_faults(config, work),
        *choice_faults(config, "train", work),
        *layout_faults(shape, work),
        *memory_warnings(memory, work),
    ] == []
    assert fits(memory, work)
