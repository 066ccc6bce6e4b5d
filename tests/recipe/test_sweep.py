"""Runs of a sweep: names, what is refused, what is skipped, and their comparison."""

import argparse
import json
import os
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data_prep.program import InputError
from recipe.program import compose_config
from recipe.sweep import Run, ablations, compare, plan_runs, run_name, submit, sweep
from recipe.train.__main__ import FINISHED

SHARED = ["data.dir=DIR", "cluster=cpu"]
NEEDS = {"rl_only": ["base_model=MODEL"]}


@pytest.mark.parametrize("name", ablations())
def test_every_ablation_composes_and_changes_something(name: str) -> None:
    base = OmegaConf.to_container(compose_config("train", ["data.dir=DIR"]), resolve=True)
    overrides = ["data.dir=DIR", f"ablation={name}", *NEEDS.get(name, [])]
    config = compose_config("train", overrides)
    assert OmegaConf.to_container(config, resolve=True) != base


@pytest.mark.parametrize("name", ablations())
def test_verl_accepts_every_ablation(name: str) -> None:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    overrides = ["data.dir=DIR", f"ablation={name}", *NEEDS.get(name, [])]
    config = compose_config("train", overrides)
    OmegaConf.resolve(config)
    validate_config(config, need_reference_policy(config), need_critic(config))


def test_names_say_what_differs() -> None:
    assert run_name(()) == "base"
    assert run_name(["ablation=dapo"]) == "dapo"
    assert run_name(["actor_rollout_ref.rollout.n=4", "seed=1"]) == "n4-seed1"


@pytest.mark.parametrize(
    ("variants", "told"),
    [
        (["base", "beauty"], "beauty: no such ablation"),
        (["ablation=beauty"], "ablation=beauty: no such entry"),
        (["base", "no.such.key=1"], "no.such.key"),
        (["dapo", "ablation=dapo"], "two runs are called dapo"),
    ],
)
def test_what_is_unknown_is_refused(tmp_path: Path, variants: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        plan_runs(tmp_path, variants, SHARED)


def finish(run: Run, level: float) -> None:
    """Leave what a finished run leaves."""
    run.save_overrides()
    lines = [
        {"step": step, "data": {"reward/mean_iou/mean": level, "timing_s/step": 2.0}}
        for step in range(1, 6)
    ]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.folder / FINISHED).write_text("{}\n")


def test_a_finished_run_is_known_by_its_overrides(tmp_path: Path) -> None:
    base, dapo = plan_runs(tmp_path, ["base", "dapo"], SHARED)
    finish(base, 0.5)
    assert base.is_finished
    assert not dapo.is_finished
    with pytest.raises(InputError, match="other overrides"):
        plan_runs(tmp_path, ["base"], [*SHARED, "seed=7"])


def test_the_table_and_the_plot_have_every_run(tmp_path: Path) -> None:
    runs = plan_runs(tmp_path, ["base", "dapo", "gspo"], SHARED)
    finish(runs[0], 0.25)
    finish(runs[1], 0.5)
    table = compare(runs, tmp_path, "synthetic")
    assert list(table.index) == ["base", "dapo"]  # gspo has not begun
    assert table.loc["dapo", "mean IoU"] == 0.5
    assert table.loc["base", "steps"] == 5
    text = (tmp_path / "table.md").read_text()
    assert "| dapo | finished | 5 |" in text
    assert "synthetic" in text
    assert "<svg" in (tmp_path / "plot.svg").read_text()


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A launcher that prints its arguments, in place of the one that starts engines."""
    script = tmp_path / "train.sbatch"
    script.write_text('#!/bin/bash\n#SBATCH --signal=B:USR1@600\nprintf "%s\\n" "$@"\n')
    monkeypatch.setattr("recipe.sweep.LAUNCHER", script)
    return script


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs in SLURM's place: sbatch numbers its jobs, squeue prints the file ``queue``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {
        "sbatch": f'echo "$*" >>{tmp_path}/calls; echo $((11 + $(wc -l <{tmp_path}/calls)))',
        "squeue": f"cat {tmp_path}/queue",
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    (tmp_path / "queue").touch()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return tmp_path


def tasks(folder: Path) -> list[list[str]]:
    """What the tasks of a submission hand to the launcher."""
    found = []
    for task in range(len(list((folder / "tasks").iterdir()))):
        done = subprocess.run(
            ["bash", str(folder / "array.sbatch")],
            env={"SLURM_ARRAY_TASK_ID": str(task), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        found.append(done.stdout.splitlines())
    return found


def test_each_task_of_an_array_gets_the_overrides_of_its_run(
    tmp_path: Path, launcher: Path, cluster: Path
) -> None:
    out = tmp_path / "sw eep"
    runs = plan_runs(out, ["base", "dapo", "seed=1"], SHARED)
    finish(runs[0], 0.5)
    said = submit(runs, out, ["--nodes=2"])
    assert said == "submitted as job 12: dapo, seed1"
    folder = out / "submissions" / "1"
    call = f"--parsable --array=0-1 --nodes=2 {folder}/array.sbatch\n"
    assert (tmp_path / "calls").read_text() == call
    script = (folder / "array.sbatch").read_text()
    assert "#SBATCH --signal=B:USR1@600" in script
    assert f'#SBATCH --output="{folder}/slurm-%A_%a.log"' in script
    assert tasks(folder) == [list(run.overrides) for run in runs[1:]]


def test_what_is_queued_is_not_submitted_again(
    tmp_path: Path, launcher: Path, cluster: Path
) -> None:
    out = tmp_path / "sweep"
    runs = plan_runs(out, ["base", "dapo", "seed=1"], SHARED)
    submit(runs[:2], out, [])
    (tmp_path / "queue").write_text("12_1\n")
    said = submit(runs, out, [])
    assert said == "dapo: still queued, as 12_1\nsubmitted as job 13: base, seed1"
    assert len(tasks(out / "submissions" / "1")) == 2
    (tmp_path / "queue").write_text("12_1\n13_0\n13_1\n")
    # both queries get the same answer, which names tasks of both jobs
    assert submit(runs, out, []).endswith("nothing is left to submit")


def test_a_job_that_slurm_has_forgotten_is_submitted_again(
    tmp_path: Path, launcher: Path, cluster: Path
) -> None:
    runs = plan_runs(tmp_path / "sweep", ["base"], SHARED)
    submit(runs, tmp_path / "sweep", [])
    squeue = cluster / "bin" / "squeue"
    squeue.write_text("#!/bin/bash\necho 'slurm_load_jobs error: Invalid job id' >&2; exit 1\n")
    assert "job 13" in submit(runs, tmp_path / "sweep", [])
    squeue.write_text("#!/bin/bash\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.raises(InputError, match="squeue: Unable to contact"):
        submit(runs, tmp_path / "sweep", [])


def test_a_dry_run_writes_nothing(tmp_path: Path, launcher: Path, cluster: Path) -> None:
    out = tmp_path / "sweep"
    runs = plan_runs(out, ["base", "dapo"], SHARED)
    said = submit(runs, out, [], dry=True)
    assert said == f"sbatch --parsable --array=0-1 {out}/submissions/1/array.sbatch"
    assert not out.exists()


def test_a_variant_may_add_to_an_ablation_and_quote(tmp_path: Path) -> None:
    variants = ["rl_only base_model=MODEL", "base seed=3", "+trainer.note='a b'"]
    first, second, third = plan_runs(tmp_path, variants, SHARED)
    assert first.changes == ("ablation=rl_only", "base_model=MODEL")
    assert (first.name, second.name) == ("rl_only-base_modelMODEL", "seed3")
    assert third.changes == ("+trainer.note=a b",)


def test_runs_have_absolute_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (run,) = plan_runs(Path("sweep"), ["base"], SHARED)
    assert f"run_dir={tmp_path}/sweep/base" in run.overrides


def test_nothing_is_submitted_when_all_is_done(tmp_path: Path, launcher: Path) -> None:
    runs = plan_runs(tmp_path / "sweep", ["base"], SHARED)
    finish(runs[0], 0.5)
    assert submit(runs, tmp_path / "sweep", [], dry=True) == ""


def test_a_table_of_nothing_says_so(tmp_path: Path) -> None:
    from argparse import Namespace

    options = Namespace(out=tmp_path, variants=["base"], slurm=None, dry_run=False, table=True)
    with pytest.raises(InputError, match="no run has metrics yet"):
        sweep(options, SHARED)


def test_each_run_has_the_variables_of_its_own_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "THINKVG_TEST_OF_A_SWEEP"
    checked, inherited = [], []

    def examine(*_: object) -> argparse.Namespace:
        checked.append(os.environ.get(name))
        return argparse.Namespace(problems=())

    def run_child(command: list[str], **_: object) -> int:
        inherited.append(os.environ.get(name))
        return 1

    monkeypatch.setattr("recipe.sweep.examine", examine)
    monkeypatch.setattr("recipe.sweep.run_child", run_child)
    monkeypatch.setenv("THINKVG_PREFLIGHT", "on")
    variants = [f"+cluster.env.{name}={value}" for value in "ab"]
    options = argparse.Namespace(
        out=tmp_path, variants=variants, slurm=None, dry_run=False, table=False
    )
    assert sweep(options, SHARED) == 1
    assert checked == ["a", "b"]
    # A run sets what is not set yet, so a variable of another run would stay.
    assert inherited == [None, None]


def test_a_run_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The run finds what the sweep did not.
    monkeypatch.setattr("recipe.sweep.examine", lambda *_, **__: argparse.Namespace(problems=()))
    monkeypatch.setenv("THINKVG_PREFLIGHT", "on")
    missing = ["data.dir=/nowhere", "model.path=x", "cluster=cpu"]
    options = argparse.Namespace(
        out=tmp_path, variants=["base"], slurm=None, dry_run=False, table=False
    )
    assert sweep(options, missing) == 1
    errors = capfd.readouterr().err
    assert "error: base: " in errors.splitlines()[-1]
    assert "model.path=x: no such folder" in errors.splitlines()[-1]
