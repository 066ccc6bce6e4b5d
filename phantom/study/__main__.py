"""``python -m phantom.study``: run the arms that have no result yet, then write docs/results.md.

Run the same command to resume: a run with a result file is not repeated, and finished stages stay
in the work folder. All arms start from the demo's base model, and those of a seed share its
SFT models.
"""

import argparse
import os
import sys
from pathlib import Path

from data_prep.program import STOPPED
from phantom.stages import Ledger, announce, run_stage
from phantom.study.plan import (
    BY_NAME,
    QUICK_ARMS,
    QUICK_SEEDS,
    SEEDS,
    Arm,
    Size,
    StudyPlan,
    settings_of,
)
from phantom.study.report import write_report
from phantom.study.results import (
    make_result,
    note,
    read_result,
    result_file,
    write_budget,
    write_result,
)
from recipe import console
from recipe.model_card import commit
from recipe.program import one_line_at_the_end
from recipe.run.host import leave_on_sigterm

WORK = Path("outputs/study")
RESULTS = Path("results/study")
REPORT = Path("docs/results.md")
QUICK_WORK = Path("outputs/quick")


def run(plan: StudyPlan, results: Path, arm: Arm, seed: int) -> None:
    """Run the stages of one run that are not done, and write its result.

    Raises:
        StageFailed: a stage ended with an error; the manifest records it.
    """
    ledger = Ledger(plan.root / "stages")
    stages = plan.stages(arm, seed)
    code = commit()
    note(results, "started", arm, seed, plan)
    try:
        for number, stage in enumerate(stages, 1):
            done = ledger.is_done(stage)
            announce(stage, number, len(stages), " (done)" if done else "")
            if not done:
                ledger.forget(stages[number:])  # they used an earlier output of this stage
                run_stage(stage, ledger, plan.root / "logs")
        seconds = {stage.name: ledger.seconds(stage) for stage in stages}
        result = make_result(plan, arm, seed, code, seconds)
        write_result(result_file(results, arm, seed), result)
    except BaseException as error:
        note(results, "failed", arm, seed, plan, why=type(error).__name__)
        raise
    note(results, "done", arm, seed, plan)
    write_budget(results, plan)


def run_all(plan: StudyPlan, results: Path, arms: list[Arm], seeds: list[int]) -> None:
    """Run all arms that have no result, seed by seed."""
    runs = [(arm, seed) for seed in seeds for arm in arms]
    for arm, seed in runs:  # results of other settings are refused before anything runs
        read_result(result_file(results, arm, seed), settings_of(plan, arm, seed))
    for number, (arm, seed) in enumerate(runs, 1):
        done = result_file(results, arm, seed).is_file()
        state = "done" if done else "runs"
        print(f"run {number}/{len(runs)}: {arm.name}, seed {seed}: {state}", file=sys.stderr)
        if not done:
            run(plan, results, arm, seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m phantom.study", description=__doc__)
    add = parser.add_argument
    add("--work", type=Path, help=f"checkpoints and logs ({WORK}; {QUICK_WORK} with --quick)")
    add(
        "--results",
        type=Path,
        help=f"a small file for each run ({RESULTS}; with --quick, results in --work)",
    )
    add("--report", type=Path, help=f"page to write ({REPORT}; results.md in other --results)")
    add(
        "--quick",
        action="store_true",
        help="one seed, four arms, an hour on 2 cores; leaves the results of the study alone",
    )
    add("--arms", nargs="+", choices=list(BY_NAME), metavar="ARM", help=", ".join(BY_NAME))
    add("--seeds", nargs="+", type=int, metavar="SEED", help=f"default {SEEDS}")
    add("--only-report", action="store_true", help="write the page from the results there are")
    for name, value in Size().as_dict().items():
        add(f"--{name.replace('_', '-')}", type=int, default=value, help=f"({value})")
    return parser.parse_args()


def _output_paths(options: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Return work folder, results folder and page; with --quick, none of them is the study's."""
    work = options.work or (QUICK_WORK if options.quick else WORK)
    results = options.results or (work / "results" if options.quick else RESULTS)
    report = options.report or (REPORT if results == RESULTS else results / "results.md")
    return work, results, report


def main() -> None:
    """Run the study and write the page."""
    options = _options()
    os.environ.setdefault("WANDB_MODE", "offline")
    console.slow_bars()
    leave_on_sigterm()
    size = Size(**{name: getattr(options, name) for name in Size().as_dict()})
    work, results, report = _output_paths(options)
    plan = StudyPlan(work / size.name, size)
    names = options.arms or (QUICK_ARMS if options.quick else tuple(BY_NAME))
    seeds = options.seeds or list(QUICK_SEEDS if options.quick else SEEDS)
    with one_line_at_the_end(STOPPED):
        if not options.only_report:
            run_all(plan, results, [BY_NAME[name] for name in names], seeds)
        write_report(results, report)
    print(report)


if __name__ == "__main__":
    main()
