"""``python -m recipe.sweep``: runs that differ in one thing each, then a table and a plot."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.metadata import read_metadata
from recipe.errors import InputError
from recipe.preflight.checklist import examine
from recipe.program import compose_config, fail, set_environment
from recipe.sweep import local, slurm
from recipe.sweep.compare import compare
from recipe.sweep.runs import BASE, Run, ablations, plan_runs

EPILOG = f"""\
A VARIANT is the name of an ablation, `{BASE}`, or overrides in quotes, behind such a name or alone:
  python -m recipe.sweep --out outputs/sweeps/paper {BASE} dapo "seed=1" "rl_only base_model=…" \\
      "actor_rollout_ref.rollout.n=4 seed=1" -- model.path=outputs/sft/… data.dir=…
What follows `--` are overrides of all runs. Runs that are finished are skipped, interrupted ones go
on from their last checkpoint, those that wait in SLURM's queue are left alone.
Ablations: {", ".join(ablations())}."""


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


def main() -> None:
    """Entry point."""
    options, shared = _options()
    try:
        code = sweep(options, shared)
    except InputError as error:
        fail(str(error))
    sys.exit(code)


def sweep(options: argparse.Namespace, shared: Sequence[str]) -> int:
    """Check all runs, run what is not finished, compare; returns the exit code.

    Raises:
        InputError: the first fault found, before anything is started.
    """
    out = options.out
    runs = plan_runs(out, options.variants, shared)
    waiting = [run for run in runs if not run.is_finished]
    if options.table:
        waiting = []
    for run in runs:
        print(f"{run.name}: {'finished' if run.is_finished else shlex.join(run.own) or BASE}")
    _check(waiting, elsewhere=options.slurm is not None)
    failed: list[Run] = []
    if options.slurm is not None and waiting:
        said = slurm.submit(runs, out, shlex.split(options.slurm), options.dry_run)
        print(f"{said}\nwhen they are done: the same command with --table")
    elif waiting and not options.dry_run:
        failed = local.run_all(runs)
    if options.dry_run:
        return 0
    table = compare(runs, out, _notice(runs[0]))
    if table.empty and options.table:
        raise InputError(f"{out}: no run has metrics yet: start them, without --table")
    if not table.empty:
        print(f"{table.to_string(float_format='{:.3g}'.format)}\n{out}/table.md, {out}/plot.svg")
    for run in failed:
        print(f"error: {run.name} failed: see {run.folder / local.LOG}", file=sys.stderr)
    return 1 if failed else 0


def _check(runs: Sequence[Run], elsewhere: bool) -> None:
    """Preflight of every run that will be started, unless THINKVG_PREFLIGHT says otherwise."""
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
    """What the training file says of itself."""
    config = compose_config("train", list(run.overrides))
    try:
        return str(read_metadata(config.data.train_files).get("notice") or "") or None
    except (FileNotFoundError, ValueError):
        return None


if __name__ == "__main__":
    main()
