"""``python -m recipe.sweep``: runs that differ in one thing each, then a table and a plot."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from data_prep.program import STOPPED, InputError, read_metadata, whole_file, write_whole
from recipe import console
from recipe.evaluate.tables import markdown_table
from recipe.metrics_log import read_metrics
from recipe.preflight.checklist import examine
from recipe.program import compose_config, one_line_at_the_end, set_environment
from recipe.sweep_runs import BASE, Run, ablations, plan_runs, run_all, submit

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
    mode = os.environ.get("THINKVG_PREFLIGHT", "on")
    for run in runs if mode != "off" else ():
        config = compose_config("train", list(run.overrides))
        set_environment(config)
        problems = examine(config, "train", elsewhere).problems
        if problems and mode == "warn":
            print(f"{run.name}: {'; '.join(problems)}", file=sys.stderr)
        elif problems:
            raise InputError(f"{run.name}: {'; '.join(problems)}")


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
