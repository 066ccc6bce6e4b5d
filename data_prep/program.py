"""What all programs share: how they end on a fault, and files that appear only when complete.

A fault of the input is one line on stderr and exit code 2. Files have metadata, and a folder is
locked while it is written.
"""

import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout


class InputError(Exception):
    """A fault of the user's input, which ends a program with exit code 2.

    Its message is one line: the file, column, option or key at fault, and what to do.
    """


T = TypeVar("T")
R = TypeVar("R")

STOPPED = "stopped; run the same command to resume"


def run(work: Callable[[], None], out: Path, stopped: str = STOPPED) -> int:
    """Do the work of a command and return its exit code.

    It is 0 after success, 2 for a fault of the input or the disk, 130 after Ctrl-C. A system error
    that names no file is about `out`, and `stopped` is the message after Ctrl-C.
    """
    try:
        work()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or out}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0


NAME = ".lock"
KEY = b"thinkvg"  # of the metadata in a parquet file's schema
SYNTHETIC = {b"synthetic": b"true"}
"""Schema metadata of files whose data a program drew, so that no patient is in them."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it when the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` that replaces it if the block succeeds, or is removed."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    os.replace(unfinished, path)


def refuse_other_folder(path: Path, content: str) -> None:
    """Raise InputError if `path` holds files, but not `content`, which this program writes."""
    if path.is_dir() and any(path.iterdir()) and not (path / content).is_file():
        raise InputError(f"{path}: has files, but no {content}: name another folder")


def write_whole(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` and create its folder; a reader never sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_list(path: Path, lines: Iterable[str]) -> None:
    """Write lines to `path`; remove an earlier file if there are none."""
    text = "".join(f"{line}\n" for line in lines)
    if text:
        write_whole(path, text)
    else:
        path.unlink(missing_ok=True)


def is_utf8(path: Path) -> bool:
    """Return whether a path is valid UTF-8, so that a file can hold it; on Linux it may not be."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed `whole_file` left in a folder."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent process, which lets its workers finish their task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def map_in_processes(
    function: Callable[[T], R], items: Sequence[T], workers: int, chunk: int
) -> Iterator[R]:
    """Yield the results in order, from `workers` processes if there is more than one chunk."""
    if workers <= 1 or len(items) <= chunk:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), ignore_interrupts) as pool:
        yield from pool.map(function, items, chunksize=chunk)


def lock(path: Path, option: str, patience: float = 0.0) -> FileLock | None:
    """Lock a file for this process; the kernel releases it when the process is killed.

    Args:
        path: The lock file, in the folder that only one program at a time may write to.
        option: The option that names the folder, for the message: `--out`, `run_dir=`.
        patience: Seconds to wait until another process releases it.

    Returns:
        The lock, held as long as the object lives; None on a file system without locks.

    Raises:
        InputError: Another process holds it; the message names the process.
    """
    file_lock = FileLock(path, timeout=patience, poll_interval=0.5, fallback_to_soft=False)
    try:
        file_lock.acquire()
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip() or "another program"
        raise InputError(
            f"{path.parent}: {holder} writes to this folder: wait until it ends, or give another "
            f"{option}"
        ) from None
    except OSError as error:
        print(
            f"note: {path} cannot be locked ({error.strerror}): start no other program in this "
            "folder",
            file=sys.stderr,
        )
        return None
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
    return file_lock


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder of output while the block runs; raise InputError if another process has it."""
    file_lock = lock(folder / NAME, "--out")
    try:
        yield
    finally:
        # Removed while locked: a process that waits for the lock then opens a new file.
        (folder / NAME).unlink(missing_ok=True)
        if file_lock:
            file_lock.release()


def encode_metadata(values: dict[str, Any], synthetic: bool = False) -> dict[bytes, bytes]:
    """Return schema metadata that holds `values` as JSON under the key `thinkvg`.

    If the data is `synthetic`, it says so under a key of its own.
    """
    encoded = {KEY: json.dumps(values, sort_keys=True).encode()}
    return encoded | SYNTHETIC if synthetic else encoded


def is_synthetic(path: str | Path) -> bool:
    """Return whether a parquet file says that no patient is in it; False if it does not say so."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return False
    return SYNTHETIC.items() <= metadata.items()


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata that `data_prep.thinkvg` wrote into a parquet file.

    Its keys are `model_family`, `coordinates`, `min_pixels`, `max_pixels`, `prompt_version`,
    `split` and others. A ValueError, or FileNotFoundError, says why there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from None
    if KEY not in metadata:
        raise ValueError(f"{path} was not written by data_prep.thinkvg: prepare the data with it")
    values: dict[str, Any] = json.loads(metadata[KEY])
    return values
