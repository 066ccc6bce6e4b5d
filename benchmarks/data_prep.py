"""How fast the data preparation is, and how much memory it takes.

    python -m benchmarks.data_prep [rows] [images] [--folder DIR] [--workers 2]

`rows` prepares a phantom set of the published size; `images` makes smaller copies and, with as many
processes, only decodes and encodes. Missing inputs are made, are synthetic, and stay in the folder.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import psutil
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from data_prep.pictures import Recipe, draft_size
from phantom.draw.rows import PARQUET

MIN_PIXELS, MAX_PIXELS = 12_544, 1_003_520
COPIES = Recipe(long_side=1024, ending="jpg", quality=90)
RUNS = 3
RADIOGRAPHS, RADIOGRAPH_SIDE, TIMES = 120, 3000, 10


def measure(*arguments: object) -> float:
    """Run Python with these arguments; print its wall time, core time and peak memory.

    All three are of the process and its children together. Memory is the sum of the proportional
    set sizes, in which a shared page counts once. It is read only twice a second, since the kernel
    stops the process meanwhile.

    Returns:
        The seconds of wall time.

    Raises:
        SystemExit: the program failed; the message is the end of its output.
    """
    start, cpu = time.perf_counter(), _core_seconds()
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, *map(str, arguments)]
        process, peak = psutil.Popen(command, stdout=log, stderr=log), 0
        while True:
            try:
                process.wait(0.5)
                break
            except psutil.TimeoutExpired:
                peak = max(peak, _memory(process))
        seconds = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            sys.exit(log.read().decode()[-2000:])
    cores = _core_seconds() - cpu
    name = f"{arguments[1]}:"
    print(f"  {name:40} {seconds:8.1f} s  {cores:8.1f} s of cores  {peak / 2**20:8.0f} MiB")
    return seconds


def _core_seconds() -> float:
    """Return the core time of all child processes that have ended."""
    times = psutil.Process().cpu_times()
    return times.children_user + times.children_system


def _memory(process: psutil.Process) -> int:
    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            total += member.memory_full_info().pss
    except psutil.Error:
        pass  # it has just ended
    return total


def phantom_set(folder: Path, *options: object) -> Path:
    """Return a phantom set in a folder, drawn if it is missing."""
    if not (folder / PARQUET).is_file():
        command = ("-m", "phantom.draw", "--shapes", "mixed", *options, "--out", folder)
        subprocess.run([sys.executable, *map(str, command)], check=True)
    return folder


def measure_rows(folder: Path, workers: int) -> None:
    """Print how long the preparation of rows takes, and check that it loses none.

    Pictures are small, since it reads only their headers.
    """
    source = phantom_set(folder / "full", "--full-size", "--long-side", 128)
    rows, seconds = pq.read_metadata(source / PARQUET).num_rows, []
    print(f"text to 14 files and the audit, {rows:,} rows, {workers} workers, {RUNS} runs")
    options = ("--min-pixels", MIN_PIXELS, "--max-pixels", MAX_PIXELS, "--workers", workers)
    for _ in tqdm(range(RUNS), "rows", unit="run"):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            out = Path(scratch) / "out"
            folders = ("--source", source, "--images", source, "--out", out)
            seconds.append(measure("-m", "data_prep.thinkvg", *folders, *options))
            counts = json.loads((out / "audit.json").read_text())["rows"]
            assert counts["conserved"], counts
    print(f"  rows a second (median)                   {rows / median(seconds):8.0f}")


def decode_and_encode(paths: list[Path]) -> None:
    """Decode each picture in reduced size, and encode as many pixels as its copy has."""
    for path in paths:
        with Image.open(path) as picture:
            size = COPIES.target(picture.size)
            picture.draft(picture.mode, draft_size(size))
            picture.load()
            picture.crop((0, 0, *size)).save(BytesIO(), "JPEG", quality=COPIES.quality)


def measure_images(folder: Path, workers: int) -> None:
    """Print how long copies of pictures take, and how long only decoding and encoding."""
    shapes = ("--long-side", RADIOGRAPH_SIDE, "--images", RADIOGRAPHS)
    radiographs = phantom_set(folder / "radiographs", *shapes)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        links = Path(scratch) / "links"
        links.mkdir()
        # Several links to each picture make the time of start-up negligible.
        for number, path in enumerate(sorted((radiographs / "files").rglob("*.jpg")) * TIMES):
            (links / f"{number}.jpg").hardlink_to(path)
        paths = sorted(links.iterdir())
        print(f"copies of {len(paths)} pictures, {RADIOGRAPH_SIDE} to {COPIES.long_side} pixels")
        options = ("--long-side", COPIES.long_side, "--quality", COPIES.quality)
        folders = ("--images", links, "--out", f"{scratch}/out", "--workers", workers)
        copies = measure("-m", "data_prep.images", *folders, *options)
        start = time.perf_counter()
        chunks = [paths[first : first + 16] for first in range(0, len(paths), 16)]
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            list(pool.map(decode_and_encode, chunks))
        alone = time.perf_counter() - start
    print(f"  decoding and encoding alone:             {alone:8.1f} s")
    print(f"  its time to theirs: {copies / alone:.2f}")


PARTS = {"rows": measure_rows, "images": measure_images}


def main() -> None:
    """Run the chosen measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure (all)")
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark-data"))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        PARTS[part](options.folder, options.workers)


if __name__ == "__main__":
    main()
