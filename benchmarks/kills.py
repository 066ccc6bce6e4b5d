"""Kill processes of a run at random moments, start it again each time, and check that it resumes.

`python -m benchmarks.kills MODEL DATA [--kills 24] [--seed 0] [--out DIR] [--docs]` starts a GRPO
run of the tiny model with `recipe.train cluster=cpu` and kills its processes with SIGKILL, in turns
of three: a process some seconds after a step, all processes together as in a power cut, and a
process some seconds after it appeared, while the run starts. `TARGETS` lists these processes. As a
launcher would, it then waits until the program has ended and runs the same command again. At the
end, the run is asked to save and stop.

Each line of the table is one kill: seconds until the program had ended, its last message, whether
all files of the checkpoint to resume from can be loaded, how many processes were left 15 s after
the end (they are then ended), and seconds until the first step after the checkpoint. (After a power
cut, the next kill comes before that step, and the time includes it.)
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

import psutil
from tqdm import tqdm

from benchmarks import write_section
from recipe.run.checkpoints import last_step

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
"""Most seconds from a step, or from a process's appearance, to the kill."""
EVERYTHING = "everything at once"


@dataclass
class Outcome:
    """What happened to the run after one kill; times in seconds since the kill."""

    target: str
    when: str
    ended: float
    code: int
    said: str
    checkpoint: int
    loads: bool
    left: int
    resumed: float | None = None

    def row(self) -> str:
        """Return a line of the table."""
        checkpoint = f"step {self.checkpoint}"
        cells = (
            self.target,
            self.when,
            f"{self.ended:.0f}",
            str(self.code),
            self.said.replace("|", "/"),
            checkpoint if self.loads else f"**{checkpoint} does not load**",
            str(self.left),
            "did not come" if self.resumed is None else f"{self.resumed:.0f}",
        )
        return f"| {' | '.join(cells)} |"


class Run:
    """A training run that is started several times in the same folder."""

    def __init__(self, model: Path, data: Path, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.command = [
            *(sys.executable, "-m", "recipe.train", "cluster=cpu", "model=tiny"),
            *(f"model.path={model}", f"data.dir={data}", f"run_dir={self.run_dir}"),
            *("data.train_batch_size=4", "actor_rollout_ref.rollout.n=4"),
            *("data.max_prompt_length=256", "data.max_response_length=24"),
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
            *("actor_rollout_ref.actor.use_kl_loss=false", "trainer.test_freq=-1"),
            *("trainer.val_before_train=false", "trainer.total_training_steps=100000"),
            *(f"trainer.save_freq={SAVE_EVERY}", "trainer.total_epochs=100000"),
            "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra]",
        ]
        self.attempt = 0

    def start(self) -> None:
        """Start the program, with its output in a new file for this attempt."""
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
        """Yield all processes of this attempt: they inherit its mark."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_zombie = process.status() == psutil.STATUS_ZOMBIE
                if process.environ().get(MARK) == self.mark and not is_zombie:
                    yield process

    def find(self, target: str) -> psutil.Process:
        """Wait for a process of the run and return it.

        Raises:
            SystemExit: it does not appear.
        """
        deadline = time.monotonic() + STARTS_LIMIT
        while self.process.poll() is None and time.monotonic() < deadline:
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    if re.search(TARGETS[target], " ".join(process.cmdline())):
                        return process
            time.sleep(0.2)
        raise SystemExit(f"error: no process for {target}; the log is {self.log}")

    def steps(self) -> list[int]:
        """Return the steps in the metrics file, from complete lines only."""
        path = self.run_dir / "metrics.jsonl"
        text = path.read_text() if path.is_file() else ""
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line)["step"] for line in lines]

    def last_logged(self) -> int:
        """Return the last step logged, 0 if there is none."""
        return max(self.steps(), default=0)

    def wait_for_end(self) -> float:
        """Return the seconds until the program has ended; after END_LIMIT it is killed."""
        begin = time.monotonic()
        try:
            self.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        return time.monotonic() - begin

    def said(self) -> str:
        """Return the last line of the output that names a fault, or its last line."""
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        faults = [line for line in lines if re.search(r"Error\b|died|killed", line)]
        return (errors or faults or lines or [""])[-1][:160]

    def clear(self) -> int:
        """Kill the processes that are left 15 s after the end, and return their number."""
        deadline = time.monotonic() + 15
        while (left := list(self.processes())) and time.monotonic() < deadline:
            time.sleep(0.5)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=20)
        return len(left)


def checkpoints_are_whole(run_dir: Path) -> tuple[int, bool]:
    """Return the step that the run resumes from, and whether all files of that checkpoint load."""
    import torch

    checkpoints = run_dir / "checkpoints"
    step = last_step(checkpoints)
    if not step:
        return 0, True
    files = sorted((checkpoints / f"global_step_{step}").rglob("*.pt"))
    try:
        for file in files:
            torch.load(file, weights_only=False)
    except Exception as error:
        print(f"{file}: {error}", file=sys.stderr)
        return step, False
    kinds = {file.name.partition("_world_size")[0] for file in files}
    return step, {"model", "optim", "extra_state", "data.pt"} <= kinds


def kill(run: Run, target: str, wait: float) -> Outcome:
    """Kill a process of the run, `wait` seconds after it is found, and wait for the run's end."""
    victims = [] if target == EVERYTHING else [run.find(target)]
    limit = time.monotonic() + wait
    while time.monotonic() < limit and run.process.poll() is None:
        time.sleep(0.02)
    age, step = time.time() - run.process_began, run.last_logged()
    moment = f"after step {step}" if step > run.begun else "before its first step"
    for victim in victims or run.processes():
        with contextlib.suppress(psutil.Error):
            victim.kill()
    ended = run.wait_for_end()
    left = run.clear()
    checkpoint, loads = checkpoints_are_whole(run.run_dir)
    return Outcome(
        target=target,
        when=f"{moment}, {age:.0f} s since the start",
        ended=ended,
        code=run.process.returncode,
        said="" if target in ("program", EVERYTHING) else run.said(),
        checkpoint=checkpoint,
        loads=loads,
        left=left,
    )


def await_step(run: Run, step: int, since: float) -> float | None:
    """Return the seconds from `since` until this attempt logs a step after `step`, or None."""
    while time.monotonic() - since < STEP_LIMIT + END_LIMIT:
        if run.log.is_file() and run.last_logged() > step and b"\nstep " in run.log.read_bytes():
            return time.monotonic() - since
        if run.process.poll() is not None:
            return None
        time.sleep(0.2)
    return None


def check_history(run: Run) -> str:
    """Return, in words, whether the metrics file, from which W&B is filled, has each step once."""
    steps = run.steps()
    expected = list(range(1, run.last_logged() + 1))
    missing = sorted(set(expected) - set(steps))
    repeated = sorted({step for step in steps if steps.count(step) > 1})
    if steps == expected:
        return f"{len(steps)} steps; metrics.jsonl: every step once"
    return f"{len(expected)} steps; metrics.jsonl: without steps {missing}, twice {repeated}"


def series(run: Run, count: int, rng: random.Random) -> list[Outcome]:
    """Make `count` kills in turns of three, each in a new attempt, then stop the run."""
    names = list(TARGETS)
    outcomes: list[Outcome] = []
    waiting: list[tuple[Outcome, float]] = []
    run.start()
    await_step(run, 0, time.monotonic())
    for number in tqdm(range(count), desc="kills"):
        turn, cycle = number % 3, number // 3
        late, early = names[cycle % len(names)], names[(cycle + len(names) // 2) % len(names)]
        outcome = kill(run, (late, EVERYTHING, early)[turn], rng.uniform(0, LATEST))
        outcomes.append(outcome)
        waiting.append((outcome, time.monotonic() - outcome.ended))
        run.start()
        if turn == 1:
            continue
        for pending, since in waiting:
            pending.resumed = await_step(run, pending.checkpoint, since)
            tqdm.write(pending.row())
        waiting = []
    (run.run_dir / "stop").touch()
    run.wait_for_end()
    run.clear()
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """Return the table of all kills."""
    head = (
        "| killed | when | s to the end | exit code | last said | checkpoint whole "
        "| processes left | s to a step |"
    )
    return "\n".join([head, "|---" * 8 + "|", *(outcome.row() for outcome in outcomes)])


def verdict(outcomes: list[Outcome]) -> str:
    """Return how many kills met each requirement, in words."""
    total = len(outcomes)
    ends = sum(outcome.ended < END_LIMIT for outcome in outcomes)
    steps = sum(o.resumed is not None and o.resumed < STEP_LIMIT for o in outcomes)
    loadable = sum(outcome.loads for outcome in outcomes)
    alone = sum(not outcome.left for outcome in outcomes)
    return (
        f"{total} kills: {ends} ended within {END_LIMIT} s, {steps} reached a step after their "
        f"checkpoint within {STEP_LIMIT} s, {loadable} left a whole checkpoint or none, "
        f"{alone} left no process."
    )


def main() -> None:
    """Make the kills and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("model", type=Path, help="folder of the tiny model")
    parser.add_argument("data", type=Path, help="folder of data_prep.thinkvg")
    parser.add_argument("--kills", type=int, default=24, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/kills"))
    parser.add_argument("--docs", action="store_true", help="update docs/measurements.md as well")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(options.model.resolve(), options.data.resolve(), options.out.resolve())
    if run.run_dir.exists():
        raise SystemExit(f"error: {run.run_dir} is there already: give another --out, or remove it")
    outcomes = series(run, options.kills, random.Random(options.seed))
    text = f"{table(outcomes)}\n\n{verdict(outcomes)} Kept: {check_history(run)}."
    print(text)
    (options.out / "kills.md").write_text(text + "\n", encoding="utf-8")
    if options.docs:
        write_section("measurements.md", "kills", text)


if __name__ == "__main__":
    main()
