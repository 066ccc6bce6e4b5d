"""Smaller copies of pictures, with a manifest: `python -m data_prep.images`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from data_prep.errors import InputError
from data_prep.files import ignore_interrupts, is_utf8, whole_file
from data_prep.lock import alone_in
from data_prep.pictures import MANIFEST, MANIFEST_LOG, Folder
from data_prep.program import run
from data_prep.resizing import FORMATS, Recipe, make_copy

FAILED = "failed_images.txt"
CHUNK = 4  # few, so that the last process to end is not long alone
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")

EPILOG = """\
Copies keep their places below the folder. manifest.jsonl has a line for each: its path, its size,
its original's size, and its SHA-256. data_prep.thinkvg reads it, so boxes are still mapped by the
original's size. A run that was stopped goes on where it was; copies are checked against the
manifest's sizes, with --verify against its checksums."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.images",
        description="Writes smaller copies of a folder's pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of pictures, as for data_prep.thinkvg")
    add("--out", type=Path, required=True, help="folder to write")
    add("--source", help="copy only the pictures that these rows name, as for data_prep.thinkvg")
    add("--long-side", type=int, default=1024, help="of a copy, in pixels; never enlarged (1024)")
    add("--format", choices=tuple(FORMATS), default="jpg", help="of the copies (jpg)")
    add("--quality", type=int, default=90, help="of JPEG and WebP, 1 to 100 (90)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    add("--verify", action="store_true", help="check copies that are there by their checksums")
    return parser


def check(options: argparse.Namespace) -> Recipe:
    """Raises InputError with a line that names the option at fault."""
    for name, low, high in (("long_side", 16, 65_500), ("quality", 1, 100), ("workers", 1, 4096)):
        value = getattr(options, name)
        if not low <= value <= high:
            raise InputError(f"--{name.replace('_', '-')} is {value}: give {low} to {high}")
    if not options.images.is_dir():
        raise InputError(f"--images {options.images} is not a folder")
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: name a folder")
    if options.out.resolve() == options.images.resolve():
        raise InputError(f"--out {options.out} is --images: name another folder")
    if options.out.resolve().is_relative_to(options.images.resolve()):
        # The next run would copy its copies.
        raise InputError(f"--out {options.out} lies in --images: name a folder outside of it")
    if (options.images / MANIFEST).is_file():
        raise InputError(f"--images {options.images} holds copies: name the originals' folder")
    return Recipe(options.long_side, options.format, options.quality)


def wanted_pictures(images: Path, source: str | None) -> tuple[list[Path], int]:
    """Paths of pictures relative to `images`, in order, and how many of a source's are missing."""
    if source is None:
        found = (path for path in images.rglob("*") if path.suffix.lower() in ENDINGS)
        return sorted(path.relative_to(images) for path in found if path.is_file()), 0
    # Slow to import, and of no use to the processes that make copies.
    from data_prep.scan import scan
    from data_prep.sources import open_source

    names = scan(open_source(source), None, is_spread=False).names
    folder = Folder(images)
    located = [folder.locate(name) for name in names]
    present = sorted({path.relative_to(images) for path in located if path is not None})
    return present, sum(path is None for path in located)


class Manifest:
    """The copies made, kept line by line in a log, so that a stopped run can go on."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self._log = out / MANIFEST_LOG
        self._head = json.dumps(asdict(recipe))
        self.entries: dict[str, dict[str, Any]] = {}
        for file in (out / MANIFEST, self._log):
            self._read(file)

    def _read(self, file: Path) -> None:
        if not file.is_file():
            return
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed
            if isinstance(entry, dict) and "path" in entry:
                self.entries[entry["path"]] = entry

    def made_alike(self, path: str) -> dict[str, Any] | None:
        """The entry of a copy, where it was made as copies are to be made now."""
        entry = self.entries.get(path)
        return entry if entry and entry.get("made") == self._head else None

    def begin(self, out: Path) -> None:
        """Takes the manifest away until every copy is made; the log keeps what is known."""
        self._log_entries(list(self.entries.values()))
        (out / MANIFEST).unlink(missing_ok=True)

    def add(self, entries: list[dict[str, Any]]) -> None:
        entries = [entry | {"made": self._head} for entry in entries]
        self._log_entries(entries)
        self.entries |= {entry["path"]: entry for entry in entries}

    def _log_entries(self, entries: list[dict[str, Any]]) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))

    def finish(self, out: Path, failed: Collection[str]) -> None:
        """Writes the manifest of every copy that is there, and drops the log.

        Copies of earlier runs stay in it, whatever rows named them: their originals' sizes are
        known from nowhere else.
        """
        kept = (path for path in self.entries if path not in failed and (out / path).is_file())
        with whole_file(out / MANIFEST) as temporary, temporary.open("w", encoding="utf-8") as file:
            for path in sorted(kept, key=Path):
                file.write(json.dumps(self.entries[path]) + "\n")
        self._log.unlink(missing_ok=True)


def is_there(out: Path, entry: dict[str, Any], verify: bool) -> bool:
    """Whether a copy is as its entry says: by its length, or by its checksum."""
    path = out / entry["path"]
    try:
        if path.stat().st_size != entry["bytes"]:
            return False
    except OSError:
        return False
    return not verify or hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]


Made = list[tuple[str, dict[str, Any] | str]]


def _make(jobs: list[Path], images: Path, out: Path, recipe: Recipe) -> Made:
    """Copies some pictures: the name of each with its entry, or with what was wrong with it."""
    made: Made = []
    for path in jobs:
        target = path.with_suffix(f".{recipe.ending}")
        try:
            entry = make_copy(images / path, out / target, recipe)
            made.append((path.as_posix(), {"path": target.as_posix(), **entry}))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if isinstance(error, OSError) and error.errno is not None and error.filename is None:
                raise  # a full disk is no fault of the picture
            made.append((path.as_posix(), str(error) or type(error).__name__))
    return made


def _in_parallel(
    jobs: list[Path], images: Path, out: Path, recipe: Recipe, workers: int
) -> Iterator[Made]:
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    if workers == 1 or len(chunks) <= 1:
        yield from (_make(chunk, images, out, recipe) for chunk in chunks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), ignore_interrupts) as pool:
        running: set[Future[Made]] = set()
        for chunk in chunks:
            running.add(pool.submit(_make, chunk, images, out, recipe))
            if len(running) >= 4 * workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in running)


def copy_all(options: argparse.Namespace) -> dict[str, int]:
    """Makes every copy that is not there yet and returns the counts."""
    recipe = check(options)
    images, out = options.images.resolve(), options.out.resolve()
    paths, missing = wanted_pictures(images, options.source)
    if not paths:
        raise InputError(f"--images {options.images} holds no picture ({', '.join(ENDINGS)})")
    _refuse_names(paths)
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        counts = _copy(paths, images, out, recipe, options)
    return {**counts, "missing": missing}


def _copy(
    paths: list[Path], images: Path, out: Path, recipe: Recipe, options: argparse.Namespace
) -> dict[str, int]:
    for leftover in out.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
    manifest = Manifest(out, recipe)
    ready = [
        path
        for path in paths
        if (entry := manifest.made_alike(path.with_suffix(f".{recipe.ending}").as_posix()))
        and is_there(out, entry, options.verify)
    ]
    jobs = sorted(set(paths) - set(ready))
    if jobs:
        manifest.begin(out)
    failed: dict[str, str] = {}
    with tqdm(total=len(paths), initial=len(ready), desc="copying", unit="image") as bar:
        for made in _in_parallel(jobs, images, out, recipe, options.workers):
            manifest.add([entry for _, entry in made if isinstance(entry, dict)])
            failed |= {name: entry for name, entry in made if isinstance(entry, str)}
            bar.update(len(made))
    manifest.finish(
        out, {Path(name).with_suffix(f".{recipe.ending}").as_posix() for name in failed}
    )
    _list_failed(out, failed)
    return {
        "pictures": len(paths),
        "copied": len(jobs) - len(failed),
        "there": len(ready),
        "failed": len(failed),
    }


def _refuse_names(paths: list[Path]) -> None:
    """Raises InputError for two pictures of one name, and for a name that is no text."""
    seen: dict[Path, Path] = {}
    for path in paths:
        if not is_utf8(path):
            raise InputError(f"{str(path)!a} is a name that is no UTF-8: rename the file")
        other = seen.setdefault(path.with_suffix(""), path)
        if other != path:
            raise InputError(f"{other} and {path} would both become one copy: remove one of them")


def _list_failed(out: Path, failed: dict[str, str]) -> None:
    if not failed:
        (out / FAILED).unlink(missing_ok=True)
        return
    with whole_file(out / FAILED) as temporary:
        lines = (f"{name}\t{' '.join(reason.split())}\n" for name, reason in sorted(failed.items()))
        temporary.write_text("".join(lines), encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    return run(lambda: _say(copy_all(options), options), options.out)


def _say(counts: dict[str, int], options: argparse.Namespace) -> None:
    print(
        f"{counts['pictures']} pictures: {counts['copied']} copied, {counts['there']} were there, "
        f"{counts['failed']} failed; {options.out / MANIFEST}"
    )
    if counts["failed"]:
        print(f"{counts['failed']} do not open: see {options.out / FAILED}", file=sys.stderr)
    if counts["missing"]:
        print(
            f"{counts['missing']} pictures that rows name are missing; "
            "data_prep.thinkvg lists them",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
