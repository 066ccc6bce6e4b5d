"""How fast the data preparation is, and how much memory it takes.

    python -m benchmarks.data_prep [rows] [images] [--folder DIR] [--workers 2]

`rows` prepares a phantom set of the published size; `images` makes smaller copies and, with as many
processes, only decodes and encodes. Missing inputs are made, are synthetic, and stay in the folder.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
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

PIXELS = (12_544, 1_003_520)
COPIES = Recipe(long_side=1024, ending="jpg", quality=90)
RUNS = 3
RADIOGRAPHS, RADIOGRAPH_SIDE, TIMES = 120, 3000, 10


@dataclass(frozen=True)
class Measured:
    """Wall time, core time and peak memory of a process and its children together."""

    seconds: float
    cpu_seconds: float
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:8.1f} s  {self.cpu_seconds:8.1f} s of cores  "
            f"{self.bytes / 2**20:8.0f} MiB"
        )


def measure(*arguments: str) -> Measured:
    """Run Python with these arguments and measure it with its children.

    Memory is the sum of the proportional set sizes, in which a shared page counts once. It is read
    only twice a second, since the kernel stops the process meanwhile.

    Raises:
        SystemExit: the program failed; the message is the end of its output.
    """
    start, cpu = time.perf_counter(), _cpu_seconds()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log)
        root, peak = psutil.Process(process.pid), 0
        while not _ends_within(process, 0.5):
            peak = max(peak, _memory(root))
        seconds = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            sys.exit(log.read().decode()[-2000:])
    return Measured(seconds, _cpu_seconds() - cpu, peak)


def _cpu_seconds() -> float:
    """Return the core time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _memory(process: psutil.Process) -> int:
    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            total += member.memory_full_info().pss
    except psutil.Error:
        pass  # it has just ended
    return total


def run(*arguments: object) -> None:
    """Run Python with these arguments."""
    subprocess.run([sys.executable, *map(str, arguments)], check=True)


def full_set(folder: Path) -> Path:
    """Return a phantom set of the published size, made if it is missing.

    Its pictures are small, since the preparation of rows reads only their headers.
    """
    source = folder / "full"
    if not (source / PARQUET).is_file():
        small = ("--shapes", "mixed", "--long-side", 128)
        run("-m", "phantom.draw", "--full-size", *small, "--out", source)
    return source


def prepare(source: Path, out: Path, workers: int) -> Measured:
    """Measure the preparation of rows, and check that it lost none."""
    options = ("--min-pixels", str(PIXELS[0]), "--max-pixels", str(PIXELS[1]))
    folders = ("--source", str(source), "--images", str(source), "--out", str(out))
    command = ("-m", "data_prep.thinkvg", *folders, *options, "--workers", str(workers))
    measured = measure(*command)
    rows = json.loads((out / "audit.json").read_text())["rows"]
    assert rows["conserved"], rows
    return measured


def measure_rows(folder: Path, workers: int) -> None:
    """Print how long the preparation of rows takes."""
    source, runs = full_set(folder), []
    for _ in tqdm(range(RUNS), "rows", unit="run"):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            runs.append(prepare(source, Path(scratch) / "out", workers))
    rows = pq.read_metadata(source / PARQUET).num_rows
    print(f"text to 14 files and the audit, {rows:,} rows, {workers} workers, {RUNS} runs")
    for measured in runs:
        print(f"  data_prep.thinkvg                        {measured}")
    seconds = median(measured.seconds for measured in runs)
    print(f"  rows a second (median)                   {rows / seconds:8.0f}")


def decode_and_encode(jobs: list[tuple[Path, bool]]) -> None:
    """Decode each picture, in full or reduced size, and encode as many pixels as its copy has."""
    for path, is_whole in jobs:
        with Image.open(path) as picture:
            size = COPIES.target(picture.size)
            if not is_whole:
                picture.draft(picture.mode, draft_size(size))
            picture.load()
            picture.crop((0, 0, *size)).save(BytesIO(), "JPEG", quality=COPIES.quality)


def time_codec(paths: list[Path], is_whole: bool, workers: int) -> float:
    """Return the seconds of `decode_and_encode` over all pictures."""
    start = time.perf_counter()
    chunks = [
        [(path, is_whole) for path in paths[first : first + 16]]
        for first in range(0, len(paths), 16)
    ]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(decode_and_encode, chunks))
    return time.perf_counter() - start


def measure_images(folder: Path, workers: int) -> None:
    """Print how long copies of pictures take, and how long only decoding and encoding."""
    radiographs = folder / "radiographs"
    if not (radiographs / PARQUET).is_file():
        shapes = ("--shapes", "mixed", "--long-side", RADIOGRAPH_SIDE, "--images", RADIOGRAPHS)
        run("-m", "phantom.draw", *shapes, "--out", radiographs)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        links = Path(scratch) / "links"
        links.mkdir()
        # Several links to each picture make the time of start-up negligible.
        for number, path in enumerate(sorted((radiographs / "files").rglob("*.jpg")) * TIMES):
            (links / f"{number}.jpg").hardlink_to(path)
        paths = sorted(links.iterdir())
        options = ("--long-side", str(COPIES.long_side), "--quality", str(COPIES.quality))
        folders = ("--images", str(links), "--out", f"{scratch}/out", "--workers", str(workers))
        ours = measure("-m", "data_prep.images", *folders, *options)
        reduced, full = (time_codec(paths, is_whole, workers) for is_whole in (False, True))
    print(f"copies of {len(paths)} pictures, {RADIOGRAPH_SIDE} to {COPIES.long_side} pixels")
    print(f"  data_prep.images                         {ours}")
    print(f"  decoding (reduced, as it does), encoding {reduced:8.1f} s")
    print(f"  decoding (whole), encoding               {full:8.1f} s")
    print(f"  its time to theirs: {ours.seconds / reduced:.2f} (whole: {ours.seconds / full:.2f})")


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
