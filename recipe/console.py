"""What a person sees of a program, and the log that holds everything else.

Ray, vLLM, torch and the C libraries below them write to file descriptors 1 and 2 of the program
that started them, and their processes inherit these. `begin` redirects both to ``FOLDER/log.txt``.
The program's own lines (`say`, `error`) still go to its standard output and error, and also into
the log and ``FOLDER/console.txt``. A later start of the run appends to both files.

Any process of the run may print: `FILE` in its environment names ``console.txt``, and the program
that called `begin` copies new lines of that file to its own output. ``THINKVG_CONSOLE=all`` shows
the whole log on the console.

A training step is a line of a table (`StepLines`), where verl prints some 200 numbers; all of them
are in ``metrics.jsonl``.

verl prints the whole configuration into the log, and Hydra stores it: a secret among the variables
of a run is refused (`refuse_secrets`). Loggers get none that may be one (`hide_secrets`).
"""

import atexit
import contextlib
import datetime
import functools
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from data_prep.program import InputError
from reward.settings import COMPONENTS

LOG, LINES = "log.txt", "console.txt"
MODE, FILE = "THINKVG_CONSOLE", "THINKVG_CONSOLE_FILE"
POLL_S = 0.2
"""Seconds between two looks for lines of other processes."""
BAR_EVERY_S = 30.0
"""Seconds between two lines of a progress bar where the console is no terminal."""
ERROR = "error: "

HEADER_EVERY = 20
SFT_EVERY_S = 10.0
"""Seconds between two lines of SFT, whose steps may take less than a second."""

Columns = tuple[tuple[str, str, str], ...]
"""Title, metric and format of each column; a metric without a value leaves its cell empty."""

_TIMES = (("seconds", "step"), ("generate", "gen"), ("update", "update_actor"))
GRPO: Columns = (
    ("reward", "critic/score/mean", ".3f"),
    *((name.removesuffix("_grounding"), f"reward/{name}/mean", ".2f") for name in COMPONENTS),
    ("tokens", "response_length/mean", ".0f"),
    *((title, f"timing_s/{name}", ".1f") for title, name in _TIMES),
)
SFT: Columns = (
    ("loss", "train/loss", ".4f"),
    ("learning rate", "train/lr", ".2e"),
    ("gradient norm", "train/grad_norm", ".3g"),
    ("tokens", "train/global_tokens", ".0f"),
    ("steps/s", "steps/s", ".3g"),
)
_VALIDATED = re.compile(r"val-aux/[^/]+/(\w+)/mean@\d+")

HIDDEN = "***"
ENVIRONMENTS = ("cluster.env", "ray_kwargs.ray_init.runtime_env.env_vars")
_SECRET = re.compile(r"key|token|secret|passw|credential|auth|cookie", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")
# Names that are refused, and not only hidden: TOKENIZERS_PARALLELISM and RAY_AUTH_MODE are not.
_SURELY_SECRET = re.compile(r"(key|token|secret|passw(or)?d|credentials?|cookie)$", re.IGNORECASE)


class _Console:
    """The console of this process; `begin` makes the only one."""

    def __init__(self, folder: Path, show_all: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log, lines = (folder.resolve() / name for name in (LOG, LINES))
        self.failed = False  # whether an error has been shown
        self.process = os.getpid()
        self._source = self.log if show_all else lines
        self._show_all = show_all
        self._lock = threading.RLock()
        self._closed = threading.Event()
        lines.touch()
        self._redirect()
        self._position = self._source.stat().st_size
        os.environ[FILE] = str(lines)
        # Colours of Ray's prefixes are for terminals.
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
        threading.Thread(target=self._follow, name="console", daemon=True).start()

    def _redirect(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # Children do not inherit these two: only this process writes to the terminal from now on.
        self.output, self.errors = os.dup(1), os.dup(2)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.close(log)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(line_buffering=True)

    def _follow(self) -> None:
        while not self._closed.wait(POLL_S):
            self.copy()

    def copy(self) -> None:
        """Copy the complete new lines of the file to the console."""
        with self._lock, contextlib.suppress(OSError):
            # NFS shows another node's lines only when the file is opened again.
            with self._source.open("rb") as stream:
                stream.seek(self._position)
                added = stream.read()
            lines = added[: added.rfind(b"\n") + 1]
            self._position += len(lines)
            for line in lines.splitlines(keepends=True):
                self._show(line)

    def _show(self, line: bytes) -> None:
        is_error = line.startswith(ERROR.encode())
        if is_error and self.failed and not self._show_all:
            return  # the same fault, reported by another process of the run; it is in the log
        self.failed = self.failed or is_error
        # The run continues even if the reader of a pipe has ended.
        with contextlib.suppress(OSError):
            os.write(self.errors if is_error else self.output, line)

    def close(self) -> None:
        """Copy the remaining lines; after an error, print the log's path as the last line."""
        self._closed.set()
        self.copy()
        with self._lock, contextlib.suppress(OSError):
            if self.failed:
                os.write(self.errors, f"log: {self.log}\n".encode())
            self.failed = False


_console: _Console | None = None


def _of_this_process() -> _Console | None:
    """Return this process's console; a forked process has none."""
    return _console if _console is not None and _console.process == os.getpid() else None


def begin(folder: Path) -> None:
    """Redirect all output but the program's own lines to ``folder/log.txt`` until it ends.

    Raises:
        InputError: ``THINKVG_CONSOLE`` is neither ``own`` nor ``all``.
    """
    global _console
    if _of_this_process() or is_part_of_a_run():
        return
    mode = os.environ.get(MODE, "own")
    if mode not in ("own", "all"):
        raise InputError(f"{MODE}={mode}: choose own or all")
    # Registered before Ray's handler: atexit runs the latest first, and ours prints the last line.
    atexit.register(close)
    _console = _Console(folder, show_all=mode == "all")
    command = shlex.join([_program_name(), *map(without_secret, sys.argv[1:])])
    print(f"==== {datetime.datetime.now().astimezone():%F %T %z} {command}", flush=True)
    say(f"log: {_console.log}")


def _program_name() -> str:
    path = Path(sys.argv[0]).with_suffix("")
    module = path.parent if path.name == "__main__" else path
    return f"{module.parent.name}.{module.name}"


def has_log() -> bool:
    """Return whether the output of this process goes to a log."""
    return _of_this_process() is not None or is_part_of_a_run()


def is_part_of_a_run() -> bool:
    """Return whether the console belongs to another process, which started this one."""
    return _of_this_process() is None and FILE in os.environ


def variables() -> dict[str, str]:
    """Return the variables with which processes of the run find the console; empty without one."""
    return {FILE: os.environ[FILE]} if FILE in os.environ else {}


def say(text: str) -> None:
    """Print lines on the console, from any process of a run."""
    print(text, flush=True)
    _add(text)


def error(text: str) -> None:
    """Print why the program fails, as one line on standard error.

    The console shows only the first error of a run, and the log's path when the program ends.
    """
    line = f"{ERROR}{' '.join(text.split())}"
    print(line, file=sys.stderr, flush=True)
    _add(line)


def _add(text: str) -> None:
    if path := os.environ.get(FILE):
        with contextlib.suppress(OSError), open(path, "ab", buffering=0) as stream:
            stream.write(f"{text}\n".encode())
    if console := _of_this_process():
        console.copy()


def close() -> None:
    """Show the remaining lines, and the log's path after an error; call it before `os._exit`."""
    if console := _of_this_process():
        console.close()


class _Lines:
    """A file for tqdm whose updates are lines."""

    def write(self, text: str) -> None:
        if line := text.strip():
            say(line)

    def flush(self) -> None:
        pass


def progress(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """Show a tqdm bar on a terminal; elsewhere print a line every `BAR_EVERY_S` seconds."""
    console = _of_this_process()
    errors = console.errors if console else 2
    if os.isatty(errors):
        stream = open(errors, "w", closefd=False)  # noqa: SIM115 (open while the bar is)
        options |= {"file": stream, "dynamic_ncols": True}
    else:
        options |= {"file": _Lines(), "mininterval": BAR_EVERY_S, "maxinterval": BAR_EVERY_S}
        options["bar_format"] = "{desc}: {unit} {n_fmt} of {total_fmt}, {elapsed}{postfix}"
    return tqdm(items, **options)


def slow_bars() -> None:
    """Make child programs update their bars rarely where the console is no terminal."""
    if not os.isatty(2):
        os.environ.setdefault("TQDM_MININTERVAL", str(BAR_EVERY_S))


def duration(seconds: float) -> str:
    """Format seconds for a person: ``45 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"


def validation(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the validation metrics of a step, under the names of `GRPO` and `SFT`."""
    means = {match[1]: value for key, value in data.items() if (match := _VALIDATED.match(key))}
    names = {f"reward/{name}/mean": name for name in COMPONENTS}
    names |= {"critic/score/mean": "score", "train/loss": "val/loss"}
    if means:
        names["timing_s/step"] = "timing_s/testing"
    values = {**data, **means}
    return {name: values[source] for name, source in names.items() if source in values}


def notes(data: Mapping[str, Any], step: int) -> list[str]:
    """Return lines on what failed in a step that was trained nevertheless, and its checkpoint."""
    lines = []
    if failed := int(data.get("training/failed_rollouts", 0)):
        lines.append(f"step {step}: {failed} rollouts failed")
    if failed := int(data.get("validation/failed_rollouts", 0)):
        lines.append(f"step {step}: {failed} rollouts of the validation failed")
    if failed := int(data.get("judge/failed", 0)):
        lines.append(f"step {step}: the judge failed for {failed} of {int(data['judge/asked'])}")
    if "timing_s/save_checkpoint" in data:
        lines.append(f"step {step}: checkpoint saved in {data['timing_s/save_checkpoint']:.1f} s")
    return lines


def header(columns: Columns, total: int) -> str:
    """Return the titles above the columns."""
    indent = " " * len(_position("step", total, total))
    return f"{indent}{''.join(f'  {title:>{_width(title)}}' for title, _, _ in columns)}  left"


def row(
    kind: str, step: int, total: int, columns: Columns, data: Mapping[str, Any], left: str = ""
) -> str:
    """Return a line: `kind` (step or val), step of total, a value for each column, time left."""
    cells = (format(float(data[name]), spec) if name in data else "" for _, name, spec in columns)
    widths = (_width(title) for title, _, _ in columns)
    line = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{_position(kind, step, total)}{line}  {left}".rstrip()


def _position(kind: str, step: int, total: int) -> str:
    return f"{kind:<4} {step:>{len(str(total))}}/{total}"


def _width(title: str) -> int:
    return max(5, len(title))


class StepLines:
    """verl's ``console`` logger for a training of `total` steps."""

    def __init__(
        self,
        total: int,
        print_to_console: bool = True,
        say: Callable[[str], None] = say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        del print_to_console  # an argument of verl's logger
        self._total, self._say, self._clock = total, say, clock
        self._lines = 0
        self._is_new = True
        self._first_step: tuple[int, float] | None = None
        self._last_row: tuple[int, float] | None = None

    def flush(self) -> None:
        """Do nothing: every line is written at once."""

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Print one step's metrics; before the first ones, the address of an online W&B run."""
        if self._is_new and (address := _wandb_address()):
            self._say(f"W&B: {address}")
        self._is_new = False
        if "critic/score/mean" in data:
            self._row("step", step, GRPO, data, self._left(step))
        elif "train/loss" in data:
            self._sft(data, step)
        if validated := validation(data):
            self._row("val", step, SFT if "val/loss" in data else GRPO, validated)
        for note in notes(data, step):
            self._say(note)

    def _sft(self, data: Mapping[str, Any], step: int) -> None:
        left, now = self._left(step), self._clock()
        rate: dict[str, float] = {}
        if self._last_row:
            last_step, last_time = self._last_row
            if step < self._total and now - last_time < SFT_EVERY_S:
                return
            rate = {"steps/s": (step - last_step) / max(now - last_time, 1e-3)}
        self._row("step", step, SFT, {**data, **rate}, left)
        self._last_row = (step, now)

    def _row(
        self, kind: str, step: int, columns: Columns, data: Mapping[str, Any], left: str = ""
    ) -> None:
        if self._lines % HEADER_EVERY == 0:
            self._say(header(columns, self._total))
        self._lines += 1
        self._say(row(kind, step, self._total, columns, data, left))

    def _left(self, step: int) -> str:
        """Return the time to the last step, at the pace since the first step of this start."""
        if self._first_step is None:
            self._first_step = (step, self._clock())
            return ""
        first_step, first_time = self._first_step
        if step <= first_step or step >= self._total:
            return ""
        pace = (self._clock() - first_time) / (step - first_step)
        return duration(pace * (self._total - step))


def _wandb_address() -> str | None:
    """Return the address of this process's W&B run; None without an online one."""
    run = getattr(sys.modules.get("wandb"), "run", None)
    return run.url if run and not run.offline else None


def log_to_console(total: int, done: int, validates_only: bool = False) -> None:
    """Make `StepLines` verl's ``console`` logger, before verl creates its loggers.

    An earlier start has done `done` of the `total` steps; with `validates_only`, no more follow.
    """
    from verl.utils import logger

    training = f"training from step {done + 1} to step {total}"
    say(f"validating step {done}" if validates_only else training)
    logger.LocalLogger = functools.partial(StepLines, total)


def without_secret(override: str) -> str:
    """Hide a secret in a ``KEY=VALUE`` of the command line."""
    key, equals, _ = override.partition("=")
    hidden = f"{key}={HIDDEN}" if equals and _SECRET.search(key) else override
    return _without_password(hidden)


def refuse_secrets(config: DictConfig) -> None:
    """Refuse secrets among the environment variables of a configuration.

    Call it before Hydra stores the configuration in the run's folder.

    Raises:
        InputError: a variable is a secret by its name, or its value has a password.
    """
    for key in ENVIRONMENTS:
        for name, value in (OmegaConf.select(config, key) or {}).items():
            if value is not None and (
                _SURELY_SECRET.search(str(name)) or _PASSWORD.search(str(value))
            ):
                raise InputError(
                    f"{key}.{name}: log.txt and .hydra would have this secret in plain text: "
                    f"export {name} before the start, and for a running Ray cluster set it on its "
                    "nodes or under env_vars in the file that THINKVG_RUNTIME_ENV names"
                )


def hide_secrets(config: DictConfig) -> None:
    """Hide, in place, the environment variables of a configuration that look like secrets.

    Loggers such as W&B store the whole configuration. Call it when the variables are set.
    """
    for key in ENVIRONMENTS:
        variables = OmegaConf.select(config, key)
        for name in variables or {}:
            if _SECRET.search(str(name)) and variables[name] is not None:
                with open_dict(config):
                    variables[name] = HIDDEN
            elif isinstance(variables[name], str):
                variables[name] = _without_password(variables[name])


def _without_password(text: str) -> str:
    return _PASSWORD.sub(f"{HIDDEN}@", text)
