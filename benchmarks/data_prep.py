"""How fast the data preparation is, and how much memory it takes, beside plain alternatives.

    python -m benchmarks.data_prep [text] [memory] [images] [--folder DIR] [--workers 2]

`text` prepares a phantom set of the published size and does the same with `datasets.map`, a row at
a time with the same parser; `memory` prepares 20,000 and 2,000,000 rows; `images` makes smaller
copies and, with the same processes, only decodes and encodes. All of it is measured in this run,
one after another, and printed as a table with ratios. Inputs are synthetic, are made in the folder
where they are missing, and stay there.
"""

import argparse
import json
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
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from data_prep.coordinates import MODEL_FAMILIES, Frame
from data_prep.phantom.forms import PARQUET
from data_prep.pictures import Picture, find_pictures
from data_prep.prompts import load_templates
from data_prep.resizing import Recipe, draft_size
from data_prep.rows import Mapper, parse_row

FEW, MANY = 20_000, 2_000_000
PIXELS = (12_544, 1_003_520)
COPIES = Recipe(long_side=1024, ending="jpg", quality=90)
RUNS = 5
RADIOGRAPHS, RADIOGRAPH_SIDE, TIMES = 120, 3000, 10


@dataclass(frozen=True)
class Measured:
    """Wall time in seconds, and the most memory that the process and its children had together."""

    seconds: float
    bytes: int

    def __str__(self) -> str:
        return f"{self.seconds:8.1f} s  {self.bytes / 2**20:8.0f} MiB"


def measure(*arguments: str, every: float = 0.5) -> Measured:
    """Runs Python with these arguments and watches it and its children.

    Memory is the sum of the proportional set sizes, in which a shared page counts once. It is
    looked at every so many seconds, not more often: the kernel holds a process up meanwhile.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log)
        watched, most = psutil.Process(process.pid), 0
        while not _ends_within(process, every):
            most = max(most, _memory(watched))
        seconds = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            sys.exit(log.read().decode()[-2000:])
    return Measured(seconds, most)


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _memory(process: psutil.Process) -> int:
    total = 0
    try:
        for one in [process, *process.children(recursive=True)]:
            total += one.memory_full_info().pss
    except psutil.Error:
        pass  # it has just ended
    return total


def run(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], check=True)


def full_set(folder: Path) -> Path:
    """A phantom set of the published size, its pictures small: only their headers are read."""
    made = folder / "full"
    if not (made / PARQUET).is_file():
        small = ("--shapes", "mixed", "--long-side", 128)
        run("-m", "data_prep.phantom", "--full-size", *small, "--out", made)
    return made


def repeated(source: Path, folder: Path, rows: int) -> Path:
    """A parquet file of `rows` rows: those of the full set, over and over.

    Fewer rows than it has are spread evenly over it, so that they name as many pictures.
    """
    file = folder / f"rows-{rows}.parquet"
    if not file.is_file():
        table = pq.read_table(source / PARQUET)
        if rows < len(table):
            table = table.take(np.linspace(0, len(table) - 1, rows).round().astype(int))
        with pq.ParquetWriter(folder / "making.parquet", table.schema) as writer:
            for start in range(0, rows, len(table)):
                writer.write_table(table.slice(0, rows - start), row_group_size=50_000)
        (folder / "making.parquet").rename(file)
    return file


def prepare(source: Path, images: Path, out: Path, workers: int, every: float = 0.5) -> Measured:
    options = ("--min-pixels", str(PIXELS[0]), "--max-pixels", str(PIXELS[1]))
    places = ("--source", str(source), "--images", str(images), "--out", str(out))
    command = ("-m", "data_prep.thinkvg", *places, *options, "--workers", str(workers))
    found = measure(*command, every=every)
    rows = json.loads((out / "audit.json").read_text())["rows"]
    assert rows["conserved"], rows
    return found


class RowByRow:
    """The same parser as a function for `datasets.map`: the two training rows of a source row."""

    def __init__(self, pictures: dict[str, Picture | str]) -> None:
        family = MODEL_FAMILIES["qwen2_5_vl"]
        self._mapper = Mapper(Frame((336, 336)), family, *PIXELS)
        self._templates = load_templates()
        self._pictures = pictures

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        parsed = parse_row(row, index)
        picture = self._pictures[parsed.image_path]
        assert isinstance(picture, Picture)
        example = self._mapper.example(parsed, picture)
        prompt = self._templates.render(example.question, parsed.question_type, "absolute")
        user = {"role": "user", "content": prompt}
        return {
            "data_source": "thinkvg",
            "prompt": [user],
            "messages": [user, {"role": "assistant", "content": example.response}],
            "images": [{"image": picture.path, "min_pixels": PIXELS[0], "max_pixels": PIXELS[1]}],
            "ability": "grounded_vqa",
            "reward_model": {"style": "rule", "ground_truth": example.ground_truth.to_json()},
            "extra_info": {
                "index": index,
                "split": "train",
                "question": example.question,
                "patient": parsed.patient,
                "study": parsed.study,
                "image_path": parsed.image_path,
            },
        }


def map_rows(source: Path, images: Path, out: Path, workers: int) -> None:
    """What a plain script would do: `datasets.map` a row at a time, then two parquet files."""
    from datasets import Dataset

    dataset = Dataset.from_parquet(str(source), cache_dir=str(out / "cache"))
    pictures = find_pictures(set(dataset.unique("image_path")), images, workers)
    start = time.perf_counter()
    mapped = dataset.map(
        RowByRow(pictures),
        with_indices=True,
        batched=False,
        num_proc=workers,
        remove_columns=dataset.column_names,
        load_from_cache_file=False,
    )
    (out / "map-seconds.txt").write_text(str(time.perf_counter() - start))
    mapped.remove_columns("messages").to_parquet(str(out / "train.parquet"))
    names = ["messages", "images", "extra_info"]
    mapped.select_columns(names).to_parquet(str(out / "sft_train.parquet"))


def compare_text(folder: Path, workers: int) -> None:
    source = full_set(folder)
    ours, theirs, alone = [], [], []
    for _ in tqdm(range(RUNS), "text", unit="pair"):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            ours.append(prepare(source, source, Path(scratch) / "ours", workers))
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            places = (str(source / PARQUET), str(source), scratch, str(workers))
            theirs.append(measure("-m", "benchmarks.data_prep", "--map-rows", *places))
            alone.append(float((Path(scratch) / "map-seconds.txt").read_text()))
    rows = pq.read_metadata(source / PARQUET).num_rows
    print(f"text to parquet, {rows:,} rows, {workers} workers, medians of {RUNS} in turn")
    for name, found in (
        ("data_prep.thinkvg (14 files, audit)", middle(ours)),
        ("datasets.map + to_parquet (2 files)", middle(theirs)),
    ):
        print(f"  {name:40s} {found}  {rows / found.seconds:8.0f} rows/s")
    print(f"  of that, datasets.map alone              {median(alone):8.1f} s")
    rates = [their.seconds / our.seconds for our, their in zip(ours, theirs, strict=True)]
    print(f"  rate of data_prep.thinkvg to theirs: {median(rates):.2f}", end="")
    print(f" ({min(rates):.2f} to {max(rates):.2f})")


def middle(runs: list[Measured]) -> Measured:
    """The median time and the most memory."""
    return Measured(median(run.seconds for run in runs), max(run.bytes for run in runs))


def compare_memory(folder: Path, workers: int) -> None:
    source = full_set(folder)
    found = {}
    for rows in (FEW, MANY):
        file = repeated(source, folder, rows)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            found[rows] = prepare(file, source, Path(scratch) / "out", workers, every=0.1)
    print(f"memory, {workers} workers and the parent together")
    for rows, measured in found.items():
        print(f"  {rows:9,} rows {measured}")
    print(f"  most memory, many rows to few: {found[MANY].bytes / found[FEW].bytes:.2f}")


def decode_and_encode(jobs: list[tuple[Path, bool]]) -> None:
    """A picture's file to pixels, and as many pixels as its copy has to a file's bytes."""
    for path, is_whole in jobs:
        with Image.open(path) as picture:
            size = COPIES.target(picture.size)
            if not is_whole:
                picture.draft(picture.mode, draft_size(size))
            picture.load()
            picture.crop((0, 0, *size)).save(BytesIO(), "JPEG", quality=COPIES.quality)


def time_codec(paths: list[Path], is_whole: bool, workers: int) -> float:
    start = time.perf_counter()
    chunks = [
        [(path, is_whole) for path in paths[first : first + 16]]
        for first in range(0, len(paths), 16)
    ]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(decode_and_encode, chunks))
    return time.perf_counter() - start


def compare_images(folder: Path, workers: int) -> None:
    made = folder / "radiographs"
    if not (made / PARQUET).is_file():
        shapes = ("--shapes", "mixed", "--long-side", RADIOGRAPH_SIDE, "--images", RADIOGRAPHS)
        run("-m", "data_prep.phantom", *shapes, "--out", made)
    drawn = sorted((made / "files").rglob("*.jpg"))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # Each several times, so that starting up does not count.
        many = Path(scratch) / "many"
        many.mkdir()
        for number, path in enumerate(drawn * TIMES):
            (many / f"{number}.jpg").hardlink_to(path)
        paths = sorted(many.iterdir())
        options = ("--long-side", str(COPIES.long_side), "--quality", str(COPIES.quality))
        places = ("--images", str(many), "--out", f"{scratch}/out", "--workers", str(workers))
        ours = measure("-m", "data_prep.images", *places, *options)
        reduced, whole = (time_codec(paths, is_whole, workers) for is_whole in (False, True))
    print(f"copies of {len(paths)} pictures, {RADIOGRAPH_SIDE} to {COPIES.long_side} pixels")
    print(f"  data_prep.images                         {ours}")
    print(f"  decoding (reduced, as it does), encoding {reduced:8.1f} s")
    print(f"  decoding (whole), encoding               {whole:8.1f} s")
    print(f"  its time to theirs: {ours.seconds / reduced:.2f} (whole: {ours.seconds / whole:.2f})")


PARTS = {"text": compare_text, "memory": compare_memory, "images": compare_images}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure (all)")
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark-data"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--map-rows", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.map_rows:
        source, images, out, workers = options.map_rows
        map_rows(Path(source), Path(images), Path(out), int(workers))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        PARTS[part](options.folder, options.workers)


if __name__ == "__main__":
    main()
