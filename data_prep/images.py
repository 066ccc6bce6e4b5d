"""Smaller copies of pictures, with a manifest: `python -m data_prep.images`."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep import dicom
from data_prep.pictures import (
    FORMATS,
    MANIFEST,
    MANIFEST_LOG,
    PICTURE_ERRORS,
    Folder,
    Recipe,
    make_copy,
)
from data_prep.program import (
    InputError,
    alone_in,
    is_utf8,
    map_in_processes,
    run,
    write_list,
    write_whole,
)

FAILED = "failed_images.txt"
CHUNK = 4  # pictures per task: few, so that all processes end at about the same time
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", *dicom.SUFFIXES)

EPILOG = """\
Copies keep their paths below the folder and have 8 bits a channel: greyscale of more is windowed,
its values from the 0.5th to the 99.5th percentile becoming black to white. DICOM files are shown
with their own window, inverted if MONOCHROME1, and turned upright. manifest.jsonl has a line for
each copy: its path, its size, its SHA-256, its original's size, length and time of change, and
whether it was windowed or turned. data_prep.thinkvg reads it, so boxes are still mapped from the
original. Run the same command again to resume. Copies are checked against the manifest's lengths,
with --verify against its checksums, and made again where the original has changed."""

Entry = dict[str, Any]
"""A line of the manifest."""


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
    """Return how copies are to be made; raise InputError for a wrong option, with its name."""
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


def list_pictures(images: Path, source: str | None) -> tuple[list[Path], int]:
    """Return the pictures to copy, sorted and relative to `images`, and the number of missing ones.

    `source` has the rows that name the pictures; None for all pictures in the folder.
    """
    if source is None:
        paths = (path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
        return sorted(path.relative_to(images) for path in paths if path.is_file()), 0
    # Slow to import, and the processes that make copies do not need them.
    import numpy as np

    from data_prep.convert.examples import image_names
    from data_prep.sources.files import open_source

    rows = open_source(source)
    names = image_names(rows, np.arange(rows.rows))
    folder = Folder(images)
    located = [folder.locate(name) for name in names]
    present = sorted({path.relative_to(images) for path in located if path is not None})
    return present, sum(path is None for path in located)


class Manifest:
    """The copies made so far, logged line by line, so that a stopped run can be resumed."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self._out, self._log = out, out / MANIFEST_LOG
        self.recipe = json.dumps(asdict(recipe))
        self.entries: dict[str, Entry] = {}
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

    def begin(self) -> None:
        """Move all entries to the log, and remove the manifest until every copy is made."""
        self._log_entries(list(self.entries.values()))
        (self._out / MANIFEST).unlink(missing_ok=True)

    def add(self, entry: Entry) -> None:
        """Add a copy; one of the same picture in another format, of an earlier run, goes."""
        entry = entry | {"made": self.recipe}
        self._log_entries([entry])
        self.entries[entry["path"]] = entry
        for ending in FORMATS:
            other = Path(entry["path"]).with_suffix(f".{ending}").as_posix()
            if other != entry["path"] and self.entries.pop(other, None):
                (self._out / other).unlink(missing_ok=True)

    def _log_entries(self, entries: list[Entry]) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in entries))

    def finish(self, failed: Collection[str]) -> None:
        """Write the manifest of every copy that exists, and remove the log.

        It keeps the copies of earlier runs, also of other rows: the sizes of their originals are
        recorded nowhere else.
        """
        lines = [
            json.dumps(self.entries[path]) + "\n"
            for path in sorted(self.entries, key=Path)
            if path not in failed and (self._out / path).is_file()
        ]
        write_whole(self._out / MANIFEST, "".join(lines))
        self._log.unlink(missing_ok=True)


def is_intact(out: Path, entry: Entry, verify: bool) -> bool:
    """Return whether a copy has the length of its entry and, to verify, its checksum."""
    path = out / entry["path"]
    try:
        if path.stat().st_size != entry["bytes"]:
            return False
    except OSError:
        return False
    return not verify or hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]


def _copy_picture(path: Path, images: Path, out: Path, recipe: Recipe) -> tuple[Path, Entry | str]:
    """Copy a picture; return its path, with its manifest entry or the reason of its failure."""
    copy = _path_of_copy(path, recipe)
    try:
        original = _state(images / path)  # before it is read
        return path, {"path": copy, **make_copy(images / path, out / copy, recipe), **original}
    except PICTURE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise  # such as a full disk: not a fault of the picture
        return path, str(error) or type(error).__name__


def _state(original: Path) -> Entry:
    """Return what tells that an original was replaced: its length, its time of change."""
    status = original.stat()
    return {"original_bytes": status.st_size, "original_time_ns": status.st_mtime_ns}


def _is_of(entry: Entry, original: Path) -> bool:
    try:
        return entry.items() >= _state(original).items()
    except OSError:
        return False


def _path_of_copy(path: Path, recipe: Recipe) -> str:
    return path.with_suffix(f".{recipe.ending}").as_posix()


def copy_all(options: argparse.Namespace) -> dict[str, int]:
    """Make every copy that does not exist yet and return the counts."""
    recipe = check(options)
    images, out = options.images.resolve(), options.out.resolve()
    paths, missing = list_pictures(images, options.source)
    if not paths:
        raise InputError(f"--images {options.images} holds no picture ({', '.join(SUFFIXES)})")
    counts = make_copies(paths, images, out, recipe, options.workers, options.verify)
    return {**counts, "missing": missing}


def make_copies(
    paths: list[Path], images: Path, out: Path, recipe: Recipe, workers: int, verify: bool = False
) -> dict[str, int]:
    """Make the copies of `paths`, relative to `images`, that do not exist yet; return counts.

    Raises:
        InputError: Two pictures would become one copy, or another program writes to `out`.
    """
    _check_names(paths)
    out.mkdir(parents=True, exist_ok=True)
    with alone_in(out):
        return _copy(paths, images, out, recipe, workers, verify)


def _copy(
    paths: list[Path], images: Path, out: Path, recipe: Recipe, workers: int, verify: bool
) -> dict[str, int]:
    for leftover in out.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
    manifest = Manifest(out, recipe)
    ready = {
        path
        for path in paths
        if (entry := manifest.entries.get(_path_of_copy(path, recipe)))
        and entry.get("made") == manifest.recipe
        and _is_of(entry, images / path)
        and is_intact(out, entry, verify)
    }
    to_copy = sorted(set(paths) - ready)
    if to_copy:
        manifest.begin()
    failed: dict[Path, str] = {}
    copy = partial(_copy_picture, images=images, out=out, recipe=recipe)
    with tqdm(total=len(paths), initial=len(ready), desc="copying", unit="image") as bar:
        for path, result in map_in_processes(copy, to_copy, workers, CHUNK):
            if isinstance(result, str):
                failed[path] = result
            else:
                manifest.add(result)
            bar.update()
    manifest.finish({_path_of_copy(path, recipe) for path in failed})
    reasons = {path: " ".join(failed[path].split()) for path in sorted(failed)}
    write_list(out / FAILED, (f"{path.as_posix()}\t{text}" for path, text in reasons.items()))
    copies = [_path_of_copy(path, recipe) for path in paths]
    return {
        "pictures": len(paths),
        "copied": len(to_copy) - len(failed),
        "there": len(ready),
        "failed": len(failed),
        **{
            change: sum(change in manifest.entries.get(copy, ()) for copy in copies)
            for change in ("windowed", "turned")
        },
    }


def _check_names(paths: list[Path]) -> None:
    """Raise InputError for two pictures with the same stem, or a name that is not UTF-8."""
    by_stem: dict[Path, Path] = {}
    for path in paths:
        if not is_utf8(path):
            raise InputError(f"{str(path)!a} is a name that is no UTF-8: rename the file")
        first = by_stem.setdefault(path.with_suffix(""), path)
        if first != path:
            raise InputError(f"{first} and {path} would both become one copy: remove one of them")


def main(argv: list[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    return run(lambda: _print_counts(copy_all(options), options), options.out)


def _print_counts(counts: dict[str, int], options: argparse.Namespace) -> None:
    print(
        f"{counts['pictures']} pictures: {counts['copied']} copied, {counts['there']} were there, "
        f"{counts['failed']} failed; {options.out / MANIFEST}"
    )
    if counts["windowed"]:
        print(f"{counts['windowed']} pictures were windowed to 8 bits a channel")
    if counts["turned"]:
        print(f"{counts['turned']} pictures were turned upright, as their DICOM headers say")
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
