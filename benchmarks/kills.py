"""Kill parts of a run at random moments, start it again each time, and see what becomes of it.

`python -m benchmarks.kills MODEL DATA [--kills 24] [--seed 0] [--out DIR] [--docs]` starts a GRPO
run of the tiny model by `recipe.train cluster=cpu` and ends processes of it with SIGKILL, in turns
of three: one some seconds after a step, all of them at once as by a power cut, and one some seconds
after it appeared, while the run starts. The one is, in turn, the program itself, verl's task
runner, the actor, vLLM's server, its engine, the agent loop, the reward worker,
TransferQueue's storage and controller, Ray's head and Ray's daemon. Then it does what a launcher or
a supervisor does: it waits until the program has ended and starts the same command again. At the
end the run is asked to save and end.

A line of the table is one kill: seconds until the program had ended, what it said, whether all
files of the checkpoint that the run goes on from load, how many processes were left 15 s after the
end (they are ended then), and seconds until the first step behind the checkpoint.
(After a power cut, the next kill comes before that step; its time is that of the attempt after it.)
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from benchmarks.sections import replace_section
from recipe.checkpoints import last_step
from recipe.wandb_files import history

ROOT = Path(__file__).resolve().parents[1]
MARK = "THINKVG_KILLS_RUN"
TARGETS = {
    "program": r"-m recipe\.train",
    "task runner": r"^ray::TaskRunner",
    "actor": r"^ray::WorkerDict",
    "vLLM's server": r"^ray::WatchedHttpServer",
    "vLLM's engine": r"^VLLM::EngineCore",
    "agent loop": r"^ray::AgentLoopWorker",
    "reward worker": r"^ray::RewardLoopWorker",
    "TransferQueue's storage": r"^ray::SimpleStorageUnit",
    "TransferQueue's controller": r"^ray::TransferQueueController",
    "Ray's head": r"gcs_server",
    "Ray's daemon": r"raylet/raylet ",
}
SAVE_EVERY = 2
END_LIMIT, STEP_LIMIT, STARTS_LIMIT = 120, 300, 600
LATEST = 20
"""Seconds after a step, or after a process appeared, until which it is killed."""
EVERYTHING = "everything at once"


@dataclass
class Outcome:
    """What became of the run after one kill; times in seconds since the kill."""

    target: str
    age: float
    step: int
    ended: float
    code: int
    said: str
    left: int
    checkpoint: int
    whole: bool
    resumed: float | None = None

    def row(self) -> str:
        """A line of the table."""
        resumed = "did not come" if self.resumed is None else f"{self.resumed:.0f}"
        moment = f"after step {self.step}" if self.step else "before its first step"
        cells = (
            self.target,
            f"{moment}, {self.age:.0f} s since the start",
            f"{self.ended:.0f}",
            str(self.code),
            self.said.replace("|", "/"),
            f"step {self.checkpoint}"
            if self.whole
            else f"**step {self.checkpoint} does not load**",
            str(self.left),
            resumed,
        )
        return f"| {' | '.join(cells)} |"


class Run:
    """A training run that is started again and again in the same folder."""

    def __init__(self, model: Path, data: Path, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.command = [sys.executable, "-m", "recipe.train", "cluster=cpu", "model=tiny"]
        self.command += [f"model.path={model}", f"data.dir={data}", f"run_dir={self.run_dir}"]
        self.command += ["data.train_batch_size=4", "actor_rollout_ref.rollout.n=4"]
        self.command += ["data.max_prompt_length=256", "data.max_response_length=24"]
        self.command += ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8"]
        self.command += ["actor_rollout_ref.actor.use_kl_loss=false", "trainer.test_freq=-1"]
        self.command += ["trainer.val_before_train=false", "trainer.total_training_steps=100000"]
        self.command += [f"trainer.save_freq={SAVE_EVERY}", "trainer.total_epochs=100000"]
        self.command += ["actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra]"]
        self.attempt = 0

    def start(self) -> None:
        """Start the program; its output goes to a file of this attempt."""
        self.attempt += 1
        self.mark = uuid.uuid4().hex
        self.log = self.folder / f"attempt-{self.attempt}.log"
        self.begun = self.last_logged()
        self.process_began = time.time()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, MARK: self.mark, "WANDB_MODE": "offline"},
            )

    def processes(self) -> Iterator[psutil.Process]:
        """All processes of this attempt: they inherit its mark."""
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and (
                    process.status() != psutil.STATUS_ZOMBIE
                ):
                    yield process
            except psutil.Error:
                continue

    def find(self, pattern: str) -> psutil.Process | None:
        """The process whose command line has `pattern`, the oldest of them."""
        for process in self.processes():
            try:
                if re.search(pattern, " ".join(process.cmdline())):
                    return process
            except psutil.Error:
                continue
        return None

    def steps(self) -> list[int]:
        """Steps in the metrics file, whole lines only."""
        path = self.run_dir / "metrics.jsonl"
        text = path.read_text() if path.is_file() else ""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line)["step"] for line in lines]

    def last_logged(self) -> int:
        """The last step logged."""
        return max(self.steps(), default=0)

    def wait_for_end(self, limit: float) -> float | None:
        """Seconds until the program has ended; None where it has not within `limit`."""
        begin = time.monotonic()
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        return time.monotonic() - begin

    def said(self) -> str:
        """The program's last line that names a fault."""
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        faults = [line for line in lines if re.search(r"Error\b|died|killed", line)]
        return (errors or faults or lines or [""])[-1][:160]

    def clear(self) -> int:
        """End what the attempt left behind; how many processes that were, 15 s after its end."""
        deadline = time.monotonic() + 15
        while (left := list(self.processes())) and time.monotonic() < deadline:
            time.sleep(0.5)
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(left, timeout=20)
        return len(left)


def checkpoints_are_whole(run_dir: Path) -> tuple[int, bool]:
    """The step that the run goes on from, and whether every file of that checkpoint loads."""
    import torch

    holder = run_dir / "checkpoints"
    step = last_step(holder)
    if not step:
        return 0, True
    files = sorted((holder / f"global_step_{step}").rglob("*.pt"))
    try:
        for file in files:
            torch.load(file, weights_only=False)
    except Exception as error:
        print(f"{file}: {error}", file=sys.stderr)
        return step, False
    kinds = {file.name.partition("_world_size")[0] for file in files}
    return step, {"model", "optim", "extra_state", "data.pt"} <= kinds


def find(run: Run, target: str) -> psutil.Process:
    """Wait for a process of the run and return it.

    Raises SystemExit where it does not appear.
    """
    deadline = time.monotonic() + STARTS_LIMIT
    while (found := run.find(TARGETS[target])) is None:
        if run.process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"error: no process for {target}; the log is {run.log}")
        time.sleep(0.2)
    return found


def kill(run: Run, target: str, wait: float) -> Outcome:
    """Kill a process of the run, `wait` seconds after it was found, and wait for the end."""
    victims = list(run.processes()) if target == EVERYTHING else [find(run, target)]
    limit = time.monotonic() + wait
    while time.monotonic() < limit and run.process.poll() is None:
        time.sleep(0.02)
    age, step = time.time() - run.process_began, run.last_logged()
    for victim in victims if target != EVERYTHING else run.processes():
        with contextlib.suppress(psutil.Error):
            victim.kill()
    ended = run.wait_for_end(END_LIMIT)
    if ended is None:
        os.killpg(run.process.pid, signal.SIGKILL)
        run.process.wait()
    left = run.clear()
    checkpoint, whole = checkpoints_are_whole(run.run_dir)
    return Outcome(
        target=target,
        age=age,
        step=step if step > run.begun else 0,
        ended=END_LIMIT if ended is None else ended,
        code=run.process.returncode,
        said="" if target in ("program", EVERYTHING) else run.said(),
        left=left,
        checkpoint=checkpoint,
        whole=whole,
    )


def await_step(run: Run, step: int, since: float) -> float | None:
    """Seconds from `since` until a step behind `step` is logged by this attempt."""
    while time.monotonic() - since < STEP_LIMIT + END_LIMIT:
        if run.log.is_file() and run.last_logged() > step and b"step:" in run.log.read_bytes():
            return time.monotonic() - since
        if run.process.poll() is not None:
            return None
        time.sleep(0.2)
    return None


def check_history(run: Run) -> str:
    """Whether metrics file and W&B have every step once, in words."""
    last = run.last_logged()
    wanted = list(range(1, last + 1))
    name = (run.run_dir / "wandb_run_id").read_text().strip()
    points = [point["_step"] for point in history(run.run_dir, name)]
    kept = {"metrics.jsonl": run.steps(), "W&B": points}
    found = {key: "every step once" if steps == wanted else "NOT" for key, steps in kept.items()}
    for key, steps in kept.items():
        if steps != wanted:
            missing = sorted(set(wanted) - set(steps))
            twice = sorted({step for step in steps if steps.count(step) > 1})
            found[key] = f"without steps {missing}, twice {twice}"
    return f"{last} steps; " + "; ".join(f"{key}: {value}" for key, value in found.items())


def series(run: Run, count: int, names: list[str], rng: random.Random) -> list[Outcome]:
    """`count` kills in turns of three, each of an attempt of its own; then an end on request.

    Args:
        names: of `TARGETS`, what is killed in turn.
    """
    outcomes: list[Outcome] = []
    waiting: list[tuple[Outcome, float]] = []
    run.start()
    await_step(run, 0, time.monotonic())
    for number in tqdm(range(count), desc="kills"):
        turn, place = number % 3, number // 3
        late, early = names[place % len(names)], names[(place + len(names) // 2) % len(names)]
        outcome = kill(run, (late, EVERYTHING, early)[turn], rng.uniform(0, LATEST))
        outcomes.append(outcome)
        waiting.append((outcome, time.monotonic() - outcome.ended))
        run.start()
        if turn == 1:
            continue
        for one, since in waiting:
            one.resumed = await_step(run, one.checkpoint, since)
            tqdm.write(one.row())
        waiting = []
    (run.run_dir / "stop").touch()
    run.wait_for_end(END_LIMIT)
    run.clear()
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """All kills."""
    head = (
        "| killed | when | s to the end | exit code | last said | checkpoint whole | s to a step |"
    )
    return "\n".join([head, "|---" * 7 + "|", *(outcome.row() for outcome in outcomes)])


def verdict(outcomes: list[Outcome]) -> str:
    """The bars, and how many kills met each."""
    total = len(outcomes)
    ends = sum(outcome.ended < END_LIMIT for outcome in outcomes)
    steps = sum(o.resumed is not None and o.resumed < STEP_LIMIT for o in outcomes)
    whole = sum(outcome.whole for outcome in outcomes)
    alone = sum(not outcome.left for outcome in outcomes)
    return (
        f"{total} kills: {ends} ended within {END_LIMIT} s, {steps} were at a step behind their "
        f"checkpoint within {STEP_LIMIT} s, {whole} left a whole checkpoint or none, "
        f"{alone} left no process."
    )


def main() -> None:
    """Entry point."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(options.model.resolve(), options.data.resolve(), options.out.resolve())
    if run.run_dir.exists():
        raise SystemExit(f"error: {run.run_dir} is there already: give another --out, or remove it")
    names = options.only or list(TARGETS)
    outcomes = series(run, options.kills, names, random.Random(options.seed))
    text = f"{table(outcomes)}\n\n{verdict(outcomes)} Kept: {check_history(run)}."
    print(text)
    (options.out / "kills.md").write_text(text + "\n", encoding="utf-8")
    if options.docs:
        page = ROOT / "docs" / "cluster.md"
        page.write_text(replace_section(page.read_text(encoding="utf-8"), "kills", text), "utf-8")


def _options() -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the tiny model")
    parser.add_argument("data", type=Path, help="folder of data_prep.thinkvg")
    parser.add_argument("--kills", type=int, default=24, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    told = ", ".join(TARGETS)
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), metavar="PART", help=told)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/kills"))
    parser.add_argument("--docs", action="store_true", help="update docs/cluster.md as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
