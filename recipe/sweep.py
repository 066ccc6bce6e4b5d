"""``python -m recipe.sweep``: runs that differ in one thing each, then a table and a plot.

They run here one after another, or as a SLURM array.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from data_prep.program import STOPPED, InputError, read_metadata, whole_file, write_whole
from recipe import console
from recipe.evaluate.tables import markdown_table
from recipe.metrics_log import read_metrics
from recipe.preflight.checklist import examine, read_mode
from recipe.program import CONFIG_FOLDER, compose_config, one_line_at_the_end, set_environment
from recipe.run.checkpoints import start_from
from recipe.run.host import leave_on_sigterm, run_child
from recipe.run.series import continue_series
from recipe.train.__main__ import FINISHED

BASE = "base"
OVERRIDES = "overrides.json"
LAUNCHER = Path("launch/slurm/train.sbatch")
SUBMISSIONS, SCRIPT, TASKS, JOB = "submissions", "array.sbatch", "tasks", "job.json"
SLURM_TIMEOUT = 60.0


@dataclass(frozen=True)
class Run:
    """One training run; `changes` are the overrides in which it differs from other runs."""

    name: str
    folder: Path
    changes: tuple[str, ...]
    overrides: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        """Whether a run with these overrides has finished."""
        return (self.folder / FINISHED).is_file() and self.fits_folder

    @property
    def fits_folder(self) -> bool:
        """Whether the folder has a run with the same overrides, or no run."""
        file = self.folder / OVERRIDES
        if not file.is_file():
            return True
        return _without_folder(json.loads(file.read_text())) == _without_folder(self.overrides)

    def save_overrides(self) -> None:
        """Save the overrides in the run's folder, where a later sweep reads them."""
        text = json.dumps(list(self.overrides), indent=2) + "\n"
        write_whole(self.folder / OVERRIDES, text)

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.jsonl"


def _without_folder(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not override.startswith("run_dir=")]


def ablations() -> list[str]:
    return sorted(path.stem for path in (CONFIG_FOLDER / "ablation").glob("*.yaml"))


def plan_runs(out: Path, variants: Iterable[str], shared: Sequence[str]) -> list[Run]:
    """Plan the runs of a sweep; check that names differ and configurations compose.

    A variant is an ablation's name or ``base`` and overrides after it, or overrides alone, quoted
    as in a shell; `shared` are overrides of all runs.

    Raises:
        InputError: an unknown ablation or key, two runs with the same name, or a folder with a run
            with other overrides.
    """
    runs = [_run(out, variant, shared) for variant in variants]
    names = set()
    for run in runs:
        if run.name in names:
            raise InputError(f"two runs are called {run.name}: name each variant once")
        if not run.fits_folder:
            raise InputError(
                f"{run.folder}: holds a run with other overrides ({OVERRIDES}): choose another "
                "--out, or remove that folder"
            )
        names.add(run.name)
        compose_config("train", list(run.overrides))
    return runs


def _run(out: Path, variant: str, shared: Sequence[str]) -> Run:
    changes = _overrides_of(variant)
    name = run_name(changes)
    folder = out.resolve() / name
    named = (f"run_dir={folder}", f"trainer.experiment_name={out.resolve().name}-{name}")
    return Run(name, folder, changes, (*shared, *changes, *named))


def _overrides_of(variant: str) -> tuple[str, ...]:
    try:
        words = shlex.split(variant)
    except ValueError as error:
        raise InputError(f"{variant}: {error}: quote a variant as in a shell") from error
    if words and "=" not in words[0]:
        name, *overrides = words
        if name != BASE and name not in ablations():
            raise InputError(
                f"{name}: no such ablation; there are {BASE}, {', '.join(ablations())}"
            )
        words = overrides if name == BASE else [f"ablation={name}", *overrides]
    return tuple(words)


def run_name(changes: Sequence[str]) -> str:
    """Make a run's name from its changes: ``dapo``, ``n4-kl_loss_coef0.1``, ``base``."""
    parts = []
    for override in changes:
        key, _, value = override.lstrip("+~").partition("=")
        prefix = "" if key == "ablation" else key.rpartition(".")[2]
        parts.append(re.sub(r"[^A-Za-z0-9_.]+", "_", f"{prefix}{value}").strip("_"))
    return "-".join(parts) or BASE


def run_all(runs: Sequence[Run]) -> dict[Run, str]:
    """Run what is not finished, one after another; return the error messages of failures."""
    leave_on_sigterm()
    failed = {}
    waiting = [run for run in runs if not run.is_finished]
    for run in (bar := console.progress(waiting, desc="runs", unit="run")):
        bar.set_description_str(run.name)
        run.save_overrides()
        code, fault = _train(run)
        if code or not run.is_finished:
            failed[run] = fault or f"ended with code {code}"
    return failed


def _train(run: Run) -> tuple[int, str]:
    """Train in a separate process; return its exit code and its last error message."""
    command = [sys.executable, "-m", "recipe.train", *run.overrides]
    with tempfile.TemporaryFile("w+") as errors:
        code = run_child(command, stdout=subprocess.DEVNULL, stderr=errors)
        errors.seek(0)
        faults = [line for line in errors if line.startswith(console.ERROR)]
    return code, faults[-1].removeprefix(console.ERROR).strip() if faults else ""


def submit(runs: Sequence[Run], out: Path, options: Sequence[str], dry: bool = False) -> str:
    """Submit what is neither finished nor queued; say what, or return sbatch's command with `dry`.

    The array's files are in ``out/submissions/N``; a `dry` run writes and submits nothing. The
    options of sbatch are such as ``--nodes=2``. If all runs are finished, there is nothing to say.

    Raises:
        InputError: there is no launcher or no SLURM, or sbatch refuses.
    """
    waiting = [run for run in runs if not run.is_finished]
    if not waiting:
        return ""
    queued = queued_runs(out)
    notes = "".join(
        f"{run.name}: still queued, as {queued[run.name]}\n"
        for run in waiting
        if run.name in queued
    )
    waiting = [run for run in waiting if run.name not in queued]
    if not waiting:
        return f"{notes}nothing is left to submit"
    launcher = CONFIG_FOLDER.parent / LAUNCHER
    if not launcher.is_file():
        raise InputError(f"{launcher}: no such launcher; run the sweep from a whole checkout")
    folder = _next_folder(out)
    command = ["sbatch", "--parsable", f"--array=0-{len(waiting) - 1}", *options]
    command.append(str(folder / SCRIPT))
    if dry:
        return notes + shlex.join(command)
    for task, run in enumerate(waiting):
        run.save_overrides()
        write_whole(folder / TASKS / str(task), "\n".join(run.overrides) + "\n")
    write_whole(folder / SCRIPT, _script(launcher, folder))
    job = _slurm(command).partition(";")[0]
    names = [run.name for run in waiting]
    write_whole(folder / JOB, json.dumps({"job": job, "runs": names}) + "\n")
    return f"{notes}submitted as job {job}: {', '.join(names)}"


def queued_runs(out: Path) -> dict[str, str]:
    """Return the runs of earlier submissions that are still in SLURM's queue, with their tasks."""
    queued: dict[str, str] = {}
    for file in sorted((out / SUBMISSIONS).glob(f"*/{JOB}")):
        submitted = json.loads(file.read_text(encoding="utf-8"))
        for task in _tasks_in_queue(submitted["job"]):
            queued[submitted["runs"][int(task.rpartition("_")[2])]] = task
    return queued


def _tasks_in_queue(job: str) -> Iterator[str]:
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={job}"]
    try:
        tasks = _slurm(command).split()
    except InputError as error:
        if "Invalid job id" in str(error):
            return  # SLURM forgets jobs some time after their end
        raise
    yield from (task for task in tasks if task.startswith(f"{job}_"))


def _next_folder(out: Path) -> Path:
    submissions = out.resolve() / SUBMISSIONS
    numbers = [int(path.name) for path in submissions.glob("*") if path.name.isdecimal()]
    return submissions / str(max(numbers, default=0) + 1)


def _script(launcher: Path, folder: Path) -> str:
    """Return a script that starts the launcher with a task's overrides and its directives."""
    text = launcher.read_text(encoding="utf-8")
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    root = shlex.quote(str(CONFIG_FOLDER.parent))
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *[line for line in directives if "--output" not in line],
            f'#SBATCH --output="{folder / "slurm-%A_%a.log"}"',
            "set -euo pipefail",
            # By default the launcher looks for the repository where sbatch was called.
            f"export THINKVG_ROOT=${{THINKVG_ROOT:-{root}}}",
            f'mapfile -t overrides <{shlex.quote(str(folder / TASKS))}/"$SLURM_ARRAY_TASK_ID"',
            f'exec bash {shlex.quote(str(launcher.resolve()))} "${{overrides[@]}}" "$@"',
            "",
        ]
    )


def _slurm(command: Sequence[str]) -> str:
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=SLURM_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{command[0]}: no SLURM here; leave --slurm out to run one after another"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{command[0]}: no answer within {SLURM_TIMEOUT:g} s") from error
    if result.returncode:
        raise InputError(f"{command[0]}: {result.stderr.strip()}")
    return result.stdout.strip()


# Metrics that compare between rewards, since no weights are in them; then the cost.
COLUMNS = {
    "score": "reward/score/mean",
    "answer": "reward/answer/mean",
    "mean IoU": "reward/mean_iou/mean",
    "IoU > 0.75": "reward/iou_75/mean",
    "format": "reward/format/mean",
    "boxes": "reward/n_boxes/mean",
    "no signal": "reward/group_std/zero",
    "tokens": "response_length/mean",
    "s/step": "timing_s/step",
}
CURVES = ("answer", "mean IoU", "IoU > 0.75", "score")
LAST = 0.2
NOTE = (
    "Means over the last fifth of the steps, of rollouts sampled in training. `score` and `answer` "
    "are those of a run's own reward and do not compare between rewards; the boxes' IoU does."
)
EPILOG = f"""\
A VARIANT is the name of an ablation or `{BASE}`, with or without overrides after it, or overrides
alone; in quotes where it has several words:
  python -m recipe.sweep --out outputs/sweeps/paper {BASE} dapo "seed=1" "rl_only base_model=…" \\
      "actor_rollout_ref.rollout.n=4 seed=1" -- model.path=outputs/sft/… data.dir=…
What follows `--` are overrides of all runs. Finished runs are skipped, interrupted ones resume from
their last checkpoint, and those that wait in SLURM's queue are left alone.
Ablations: {", ".join(ablations())}."""


def main() -> None:
    options, shared = _options()
    with one_line_at_the_end(STOPPED):
        sys.exit(sweep(options, shared))


def _options() -> tuple[argparse.Namespace, list[str]]:
    arguments, shared = sys.argv[1:], []
    if "--" in arguments:
        position = arguments.index("--")
        arguments, shared = arguments[:position], arguments[position + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m recipe.sweep",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("variants", nargs="+", metavar="VARIANT", help="what a run differs by")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweep")
    parser.add_argument(
        "--slurm",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help='submit one SLURM array; OPTIONS go to sbatch: --slurm="--nodes=2 --time=12:00:00"',
    )
    parser.add_argument("--dry-run", action="store_true", help="check, show, and start nothing")
    parser.add_argument("--table", action="store_true", help="only make the table and the plot")
    return parser.parse_args(arguments), shared


def sweep(options: argparse.Namespace, shared: Sequence[str]) -> int:
    """Check all runs before one starts, run what is not finished, compare; return the exit code."""
    out = options.out
    runs = plan_runs(out, options.variants, shared)
    waiting = [] if options.table else [run for run in runs if not run.is_finished]
    for run in runs:
        print(f"{run.name}: {'finished' if run.is_finished else shlex.join(run.changes) or BASE}")
    _check(waiting, elsewhere=options.slurm is not None)
    failed: dict[Run, str] = {}
    if options.slurm is not None and waiting:
        submitted = submit(runs, out, shlex.split(options.slurm), options.dry_run)
        print(f"{submitted}\nwhen they have ended, run the same command with --table")
    elif waiting and not options.dry_run:
        failed = run_all(runs)
    if options.dry_run:
        return 0
    table = compare(runs, out, _notice(runs[0]))
    if table.empty and options.table:
        raise InputError(f"{out}: no run has metrics yet: start them, without --table")
    if not table.empty:
        print(f"{table.to_string(float_format='{:.3g}'.format)}\n{out}/table.md, {out}/plot.svg")
    for run, fault in failed.items():
        log = run.folder / console.LOG
        print(f"error: {run.name}: {fault}", file=sys.stderr)
        if log.is_file():
            print(f"log: {log}", file=sys.stderr)
    return 1 if failed else 0


def _check(runs: Sequence[Run], elsewhere: bool) -> None:
    """Run preflight for every run to start, as THINKVG_PREFLIGHT says."""
    mode = read_mode()
    for run in runs if mode != "off" else ():
        config = compose_config("train", list(run.overrides))
        with _same_environment_after():
            set_environment(config)
            start_from(config)
            continue_series(config, "train")
            problems = examine(config, "train", elsewhere).problems
        if problems and mode == "warn":
            print(f"{run.name}: {'; '.join(problems)}", file=sys.stderr)
        elif problems:
            raise InputError(f"{run.name}: {'; '.join(problems)}")


@contextlib.contextmanager
def _same_environment_after() -> Iterator[None]:
    """Take back what the block changes in the environment, which later runs would inherit."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _notice(run: Run) -> str | None:
    """Return the notice of the training file, such as that its data is synthetic."""
    config = compose_config("train", list(run.overrides))
    try:
        return str(read_metadata(config.data.train_files).get("notice") or "") or None
    except (FileNotFoundError, ValueError):
        return None


def compare(runs: Sequence[Run], out: Path, notice: str | None) -> pd.DataFrame:
    """Write ``table.csv``, ``table.md`` and ``plot.svg`` of the runs that have metrics."""
    logs = {run.name: read_metrics(run.metrics).table for run in runs if run.metrics.is_file()}
    rows = {run.name: _row(logs[run.name], run) for run in runs if run.name in logs}
    table = pd.DataFrame.from_dict(rows, orient="index")
    if table.empty:
        return table
    write_whole(out / "table.csv", table.to_csv(index_label="run"))
    caption = "\n\n".join(filter(None, [NOTE, notice]))
    cells = ([str(name), *map(_cell, row)] for name, row in table.iterrows())
    markdown = markdown_table(["run", *map(str, table.columns)], cells)
    write_whole(out / "table.md", f"{markdown}\n{caption}\n")
    _plot(logs, out / "plot.svg")
    return table


def _row(log: pd.DataFrame, run: Run) -> dict[str, object]:
    trained = log[log.index > 0]
    last = trained.tail(max(1, int(LAST * len(trained))))
    row: dict[str, object] = {
        "state": "finished" if run.is_finished else "unfinished",
        "steps": int(trained.index.max()) if len(trained) else 0,
    }
    means = last.mean()
    row |= {title: means.get(metric) for title, metric in COLUMNS.items()}
    validated = [name for name in log if str(name).startswith("val-core/")]
    if validated:
        values = log[validated[0]].dropna()
        row["validation"] = float(values.iloc[-1]) if len(values) else None
    return row


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plot(logs: dict[str, pd.DataFrame], path: Path) -> None:
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    for axes, title in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        for name, log in logs.items():
            if COLUMNS[title] in log:
                values = log[COLUMNS[title]].dropna()
                smooth = values.rolling(max(1, len(values) // 10), min_periods=1).mean()
                axes.plot(smooth.index, smooth.to_numpy(), label=name, marker=".", markersize=3)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, format="svg")


if __name__ == "__main__":
    main()
